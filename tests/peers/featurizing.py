"""Questions per second into windows: ours against `transformers`' fast tokenizer with `datasets.map`; peak memory.

    make bench-peers PEER=featurizing MODEL=DIR ARGS="--data policyqa/dev.json policyqa/test.json --rounds 5"

Both sides start from the same questions in memory and make the same windows (the script checks that the token ids are
equal), with labels: the other side in the way that the question-answering examples of `transformers` do. They take
turns, and the ratio is that of the medians. Then a file of --questions generated questions is read and cut into windows
in a process of its own, whose peak memory is shown.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from kd_scratch.common.files import write_json
from kd_scratch.config import DataConfig
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.tasks.question_answering import TASK, featurize, read_squad

CONFIG, DATA = TASK.train_config(), DataConfig()


def usual_way(tokenizer):
    """The function that such projects give to `datasets.map`: a batch of questions to windows with labels."""

    def prepare(batch):
        inputs = tokenizer(
            batch["question"], batch["context"], truncation="only_second", max_length=CONFIG.max_length,
            stride=DATA.overlap, return_overflowing_tokens=True, return_offsets_mapping=True,
        )  # fmt: skip
        starts, ends = [], []
        for i, offsets in enumerate(inputs["offset_mapping"]):
            k = inputs["overflow_to_sample_mapping"][i]
            first = batch["start"][k]
            last = first + len(batch["answer"][k])
            sequence = inputs.sequence_ids(i)
            low, high = sequence.index(1), len(sequence) - 1 - sequence[::-1].index(1)
            if first < offsets[low][0] or last > offsets[high][1]:
                starts.append(0)
                ends.append(0)
                continue
            while low <= high and offsets[low][0] <= first:
                low += 1
            while offsets[high][1] >= last:
                high -= 1
            starts.append(low - 1)
            ends.append(high + 1)
        return {"input_ids": inputs["input_ids"], "token_type_ids": inputs["token_type_ids"],
                "attention_mask": inputs["attention_mask"], "start": starts, "end": ends}  # fmt: skip

    return prepare


def generated(questions: int, path: Path) -> None:
    """A file of the size of SQuAD 1.1: about 4.6 questions to a paragraph of some 120 words."""
    rng, paragraphs, made = random.Random(0), [], 0
    words = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "r", "ld", "tion", "sk")]
    while made < questions:
        text = " ".join(rng.choices(words, k=rng.randint(60, 180)))
        qas = []
        for _ in range(min(rng.choice((4, 5, 5)), questions - made)):
            start = text.index(" ", rng.randrange(len(text) // 2)) + 1
            answer = " ".join(text[start:].split()[: rng.randint(1, 4)])
            answers = [{"text": answer, "answer_start": start}]
            qas.append({"id": str(made + len(qas)), "question": " ".join(rng.choices(words, k=10)), "answers": answers})
        made += len(qas)
        paragraphs.append({"context": text, "qas": qas})
    write_json(path, {"version": "1.1", "data": [{"title": "generated", "paragraphs": paragraphs}]})


def peak_gigabytes() -> float:
    """The most memory that this program has held so far (getrusage would tell the parent's, if that was more)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e6


def measure(file: Path, model: Path) -> None:
    """Read and cut one file; print counts and this process's peak memory."""
    idle = peak_gigabytes()
    started = time.perf_counter()
    examples = read_squad(file, "", DATA)
    read = time.perf_counter() - started
    windows = featurize(examples, load_tokenizer(model), (), CONFIG.max_length, DATA)
    seconds = time.perf_counter() - started - read
    print(
        f"{len(examples):,} questions, {len(windows):,} windows, {len(windows.tokens):,} tokens: read in {read:.1f} s, "
        f"cut in {seconds:.1f} s ({len(examples) / seconds:,.0f} questions/s); "
        f"peak memory {peak_gigabytes():.2f} GB, of which {idle:.2f} GB before reading"
    )


def main(argv: list[str] | None = None) -> None:
    """Time both sides in turns, then measure the large file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", nargs="+", default=["policyqa/dev.json", "policyqa/test.json"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=88_000)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure:
        return measure(arguments.measure, arguments.model)
    from datasets import Dataset, disable_caching
    from datasets.utils.logging import disable_progress_bar
    from transformers import AutoTokenizer

    disable_caching()
    disable_progress_bar()
    folder = Path(os.environ.get("KD_DATA", "data"))
    examples = [example for file in arguments.data for example in read_squad(folder / file, "", DATA)]
    columns = {
        "question": [e.question for e in examples],
        "context": [e.context for e in examples],
        "answer": [e.answers[0] for e in examples],
        "start": [e.start for e in examples],
    }
    dataset = Dataset.from_dict(columns)
    fast_tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    tokenizer = load_tokenizer(arguments.model)
    times: dict[str, list[float]] = {"ours": [], "usual, 1 process": [], f"usual, {os.cpu_count()} processes": []}
    for _ in range(arguments.rounds):
        started = time.perf_counter()
        windows = featurize(examples, tokenizer, (), CONFIG.max_length, DATA)
        times["ours"].append(time.perf_counter() - started)
        for name, processes in (("usual, 1 process", None), (f"usual, {os.cpu_count()} processes", os.cpu_count())):
            started = time.perf_counter()
            prepared = dataset.map(
                usual_way(fast_tokenizer), batched=True, remove_columns=dataset.column_names, num_proc=processes
            )
            times[name].append(time.perf_counter() - started)
    ids = [token for row in prepared["input_ids"] for token in row]
    assert ids == windows.tokens.tolist(), "the two sides make different windows"
    assert list(zip(prepared["start"], prepared["end"], strict=True)) == [tuple(row) for row in windows.labels.tolist()]
    for name, seconds in times.items():
        speed = len(examples) / median(seconds)
        print(f"{name}: {speed:,.0f} questions/s, {median(seconds) / median(times['ours']):.1f} times the time of ours")
    with tempfile.TemporaryDirectory() as scratch:
        generated(arguments.questions, Path(scratch) / "large.json")
        argv = [sys.executable, "-m", "tests.peers.featurizing", "--model", str(arguments.model)]
        subprocess.run([*argv, "--measure", str(Path(scratch) / "large.json")], check=True)


if __name__ == "__main__":
    main()
