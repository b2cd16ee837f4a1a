"""Peak memory of distilling BERT-base into a DistilBERT-sized student, beside the Trainer of `transformers`.

    make bench-peers PEER=memory MODEL=DIR

Random weights of BERT-base's shape (MODEL gives the tokenizer), its layers 0, 2, 4, 6, 8, 10 as the student, batches of
32 inputs of 128 tokens (news texts, joined and cut), three steps. Each way runs in a process of its own. Shown is the
most memory that it ever had resident: Python, PyTorch, the teacher while it was there, optimizer and activations. The
Trainer runs the teacher in every step, so it stays in memory; ours is gone when its logits are on disk.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from kd_scratch.checkpoints.checkpoint import save_model
from kd_scratch.commands.flags import layer_list
from kd_scratch.common.console import table
from kd_scratch.config import SIZES, DataConfig
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.nn.model import Model
from kd_scratch.tasks import TASKS
from tests.peers.distillation import BATCH, EPOCHS, FILES, LENGTH, ours, with_trainer

#: name -> settings
OURS = {
    "ours": {},
    "ours, --freeze-embeddings": {"freeze_embeddings": True},
    "ours, --gradient-checkpointing": {"gradient_checkpointing": True},
    "ours, --accumulation 4": {"accumulation": 4},
}
TRAINER = {
    "Trainer, fused AdamW": {},
    "Trainer, gradient checkpointing": {"gradient_checkpointing": True},
}


def long_texts(path: Path) -> list:
    """As many examples as three steps take in all, each of several news items: more than LENGTH pieces."""
    task = TASKS["agnews"]
    examples = task.read(path, "", DataConfig())
    joined = []
    for i in range(BATCH):
        texts = [example.text for example in examples[8 * i : 8 * i + 8]]
        joined.append(replace(examples[8 * i], text=" ".join(texts)))
    return joined


def run(name: str, directory: Path, data: Path, layers: list[int]) -> tuple[float, float]:
    """One way, in this process: its seconds, and the most megabytes that the process ever had."""
    task = TASKS["agnews"]
    with tempfile.TemporaryDirectory() as folder:
        common = task, long_texts(data), task.label_list([]), directory, Path(folder), 0, layers
        if name in OURS:
            seconds = ours(*common, **OURS[name])[0]
        else:
            seconds = with_trainer(*common, tuned=True, **TRAINER[name])[0]
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # kB of 1024 bytes (Linux)


def main(argv: list[str] | None = None) -> None:
    """Each way in turn, then the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("KD_DATA") or "data"), help="the data folder")
    parser.add_argument("--model", type=Path, required=True, help="a model directory, for its tokenizer")
    parser.add_argument("--size", choices=list(SIZES), default="bert-base", help="the teacher's shape")
    parser.add_argument("--layers", type=layer_list, default=[0, 2, 4, 6, 8, 10], metavar="0,2,4")
    parser.add_argument("--way", choices=list(OURS | TRAINER), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.way:
        print("result", *run(arguments.way, arguments.model, arguments.data / FILES["agnews"], arguments.layers))
        return
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        tokenizer = load_tokenizer(arguments.model)
        labels = TASKS["agnews"].label_list([])
        shape = replace(SIZES[arguments.size], vocab_size=tokenizer.vocab_size, head="sequence", labels=labels)
        save_model(Model(shape), directory)
        tokenizer.save(directory, LENGTH)
        for name in OURS | TRAINER:
            argv = [sys.executable, "-m", "tests.peers.memory", "--model", directory, "--data", arguments.data]
            argv += ["--layers", ",".join(map(str, arguments.layers))]
            done = subprocess.run([*argv, "--way", name], capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{name}: {done.stderr}")
            _, seconds, megabytes = next(line for line in done.stdout.split("\n") if line.startswith("result")).split()
            rows.append((name, round(float(megabytes)), round(float(seconds), 1)))
            print(*rows[-1], flush=True)
    print(table((f"{EPOCHS} steps of {BATCH} x {LENGTH} tokens", "MB at most", "seconds in all"), rows))


if __name__ == "__main__":
    main()
