"""How time and memory of distilling grow with the number of examples: they should grow in proportion, and not at all.

    make bench-peers PEER=growth ARGS="--rows 1000,10000,100000,1000000"

For each number a CSV of generated texts, and one `train` command from that file to the trained student: tokenizing, the
teacher's logits (a tiny teacher with random weights), one epoch of a tiny student. Memory is looked at from outside,
ten times a second: "anonymous" is what the process has allocated for itself, "resident" has the pages of mapped files
with it, which the system takes back when somebody else needs them. Both less what they were after 1,000 rows would be
zero if nothing grew; what does grow, grows by row: the places of the rows in their file, and the order of an epoch.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from kd_scratch.checkpoints.checkpoint import save_model
from kd_scratch.common.console import progress, table
from kd_scratch.config import SIZES
from kd_scratch.data.tokenizer import train_tokenizer
from kd_scratch.nn.model import Model
from kd_scratch.tasks.classification import AGNEWS_LABELS

WORDS, SHORTEST, LONGEST = 4000, 6, 20
BLOCK = 10_000  # rows that are generated together


def generated_rows(rows: int, words: np.ndarray, seed: int):
    """CSV lines of AG News' form. A text's class follows from which quarter of the words most of it comes from."""
    generator = np.random.default_rng(seed)
    for start in range(0, rows, BLOCK):
        count = min(BLOCK, rows - start)
        classes, lengths = generator.integers(0, 4, count), generator.integers(SHORTEST, LONGEST + 1, count)
        numbers = (WORDS * generator.random((count, LONGEST)) ** 2).astype(int)  # some words are frequent
        own = generator.random((count, LONGEST)) < 0.4
        numbers = np.where(own, numbers // 4 * 4 + classes[:, None], numbers)
        for label, length, row in zip(classes, lengths, words[numbers], strict=True):
            yield f'"{label + 1}","{row[0]}","{" ".join(row[1:length])}"\n'


def memory(process: int) -> tuple[float, float]:
    """(anonymous, resident) megabytes of a process; zeros when it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        return tuple(int(status.split(name)[1].split()[0]) * 1024 / 1e6 for name in ("RssAnon:", "VmRSS:"))
    except (OSError, IndexError):
        return 0.0, 0.0


def run(argv: list) -> tuple[float, float, float, str]:
    """Seconds, and the largest memory() while a command ran; and what it printed."""
    started, most = time.perf_counter(), np.zeros(2)
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while process.poll() is None:
        most = np.maximum(most, memory(process.pid))
        time.sleep(0.1)
    output = process.stdout.read()
    if process.returncode:
        sys.exit(output)
    return time.perf_counter() - started, *most, output


def main(argv: list[str] | None = None) -> None:
    """One row of the table for each number of examples."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", default="1000,10000,100000", help="numbers of examples")
    parser.add_argument("--threads", default="0")
    arguments = parser.parse_args(argv)
    generator, rows = np.random.default_rng(0), []
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    words = np.array(["".join(generator.choice(syllables, generator.integers(1, 5))) for _ in range(WORDS)], object)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tokenizer = train_tokenizer([" ".join(words)], 3000)
        small = dict(width=64, depth=2, feed_forward=128)  # it is there for its logits, not for what it costs
        shape = replace(SIZES["tiny-teacher"], **small, head="sequence", labels=AGNEWS_LABELS)
        shape = replace(shape, vocab_size=tokenizer.vocab_size)
        save_model(Model(shape), folder / "teacher")
        tokenizer.save(folder / "teacher", 64)
        (folder / "dev.csv").write_text("".join(generated_rows(1000, words, seed=1)))
        for count in map(int, arguments.rows.split(",")):
            with open(folder / "train.csv", "w") as file:
                file.writelines(progress(generated_rows(count, words, seed=2), total=count, desc="generating"))
            command = [sys.executable, "-m", "kd_scratch", "train", "--task", "agnews", "--train", folder / "train.csv"]
            command += ["--dev", folder / "dev.csv", "--model", "tiny-student", "--teacher", folder / "teacher"]
            command += ["--epochs", "1", "--learning-rate", "1e-3", "--warmup-steps", "10", "--max-length", "64"]
            command += ["--cache", folder / f"cache-{count}", "--output", folder / f"run-{count}"]
            seconds, anonymous, resident, _ = run([*command, "--threads", arguments.threads])
            record = json.loads((folder / f"run-{count}" / "training.json").read_text())
            spent, history = record["seconds by phase"], record["history"][0]
            learning = sum(spent[phase] for phase in ("data", "forward", "backward", "optimizer"))
            megabytes = (folder / "train.csv").stat().st_size / 1e6
            rows.append(
                (count, round(megabytes), round(seconds, 1), round(spent["teacher"], 1), round(learning, 1))
                + (round(1e6 * learning / count), round(anonymous), round(resident), history["dev"]["accuracy"])
            )
            print(rows[-1], flush=True)
    header = ("rows", "MB of text", "s in all", "s teacher", "s training", "µs a row", "MB anonymous", "MB resident")
    print(table((*header, "accuracy"), [(f"{row[0]:,}", *row[1:]) for row in rows]))


if __name__ == "__main__":
    main()
