"""common/distributed.py: two processes train what one trains. They meet on the loopback address.

Most of them are forks (tests/forking.py); those of one test are started as anybody starts them.
"""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed import TCPStore

from data_scripts import make_sample
from kd_scratch.checkpoints.checkpoint import save_model
from kd_scratch.checkpoints.safetensors import load_file
from kd_scratch.common import distributed
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.tasks.classification import AGNEWS_LABELS
from kd_scratch.training import loop
from tests.conftest import ROOT, TEXTS, tiny_model
from tests.forking import Finished, Fork

pytestmark = pytest.mark.slow
stores: list[TCPStore] = []  # where processes meet; kept until the tests end


def ranks_environment(size: int) -> list[dict[str, str]]:
    """For each of so many processes what torchrun puts into its environment; nothing for one alone.

    As torchrun does, we hold the store in which they meet: a port that is free now may be taken when they come to it.
    """
    if size == 1:
        return [{}]
    stores.append(TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(stores[-1].port), "WORLD_SIZE": str(size)}
    together |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    return [together | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


def start_forks(*arguments: list[str], prepare=lambda rank: None) -> list[Fork]:
    """One fork for each list of arguments; prepare is called in each of them with its rank."""
    environments = ranks_environment(len(arguments))
    return [
        Fork(argv, partial(prepare, rank), environment)
        for rank, (argv, environment) in enumerate(zip(arguments, environments, strict=True))
    ]


def run(*arguments: list[str]) -> list[Finished]:
    """Forks with these arguments, once they have ended."""
    return [fork.finish() for fork in start_forks(*arguments)]


def train(*arguments: list[str]) -> list[Finished]:
    """The same, where all must come to their end."""
    ended = run(*arguments)
    assert [finished.status for finished in ended] == [0] * len(arguments), ended
    return ended


def run_programs(*arguments: list[str]) -> list[Finished]:
    """Processes as torchrun starts them: Python, from its beginning to its end."""
    processes = []
    for argv, ranks in zip(arguments, ranks_environment(len(arguments)), strict=True):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | ranks
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(
            subprocess.Popen([sys.executable, "-m", "kd_scratch", *argv], env=environment, cwd=ROOT, **pipes)
        )
    texts = [process.communicate(timeout=120) for process in processes]
    return [Finished(process.returncode, *pair) for process, pair in zip(processes, texts, strict=True)]


def flags(task: str, data: Path, output: Path, *more) -> list[str]:
    """The arguments of a short training run without dropout, with a cache of its own."""
    common = f"train --task {task} --model tiny-student --epochs 3 --batch-size 6 --learning-rate 3e-3 --dropout 0"
    common += " --amp off"
    common += " --warmup-steps 2 --vocab-size 300 --max-length 96 --overlap 24 --device cpu --threads 1"
    cache = output.with_name(f"cache-{output.name}")
    paths = {"--train": data, "--dev": data, "--output": output, "--cache": cache}
    return [*common.split(), *(str(word) for pair in paths.items() for word in pair), *map(str, more)]


@pytest.fixture
def news(tmp_path):
    """37 short texts: in batches of 6 the last batch has one, for two processes."""
    rows = [f'"{i % 4 + 1}","{TEXTS[i % 4][: 10 + i]}","{"again " * (i % 5)}"' for i in range(37)]
    (tmp_path / "train.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "train.csv"


def record(output: Path) -> dict:
    """What a run wrote of itself."""
    return json.loads((output / "training.json").read_text())


def assert_alike(one: Path, two: Path) -> None:
    """The same losses, scores and weights, to rounding."""
    for a, b in zip(record(one)["history"], record(two)["history"], strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["dev"] == pytest.approx(a["dev"], rel=1e-3)
    weights = [load_file(folder / "model.safetensors") for folder in (one, two)]
    weights[0].pop("qa_outputs.bias", None)  # moves all positions alike: its gradient is rounding and nothing else
    for key, tensor in weights[0].items():
        if key.endswith("key.bias"):  # so does this one all scores of a query
            continue
        np.testing.assert_allclose(weights[1][key], tensor, atol=5e-4, err_msg=key)


@pytest.fixture
def teacher(tmp_path, news):
    """A teacher of the news, trained by one process."""
    train(flags("agnews", news, tmp_path / "teacher"))
    return tmp_path / "teacher"


def test_two_processes_have_the_losses_of_one_in_fine_tuning_and_in_distillation(tmp_path, news, teacher):
    """Those that distil are programs from their beginning to their end, as torchrun starts them."""
    for name, more in (("plain", []), ("distilled", ["--teacher", teacher])):
        outputs = [tmp_path / f"{name}-{size}" for size in (1, 2)]
        train(flags("agnews", news, outputs[0], *more))
        two = [flags("agnews", news, outputs[1], *more)] * 2
        ended = run_programs(*two) if more else run(*two)
        assert [finished.status for finished in ended] == [0, 0], ended
        assert not ended[1].out, "the first process alone prints"
        assert_alike(*outputs)
    logits = []
    for size in (1, 2):
        (path,) = (tmp_path / f"cache-distilled-{size}").glob("teacher-logits-*")
        logits.append(load_file(path)["logits"])
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-5)


@pytest.mark.parametrize("task, more", [
    ("conll", ["--accumulation", "3", "--batch-size", "9", "--freeze-embeddings"]),
    ("squad", ["--gradient-checkpointing", "--epochs", "2"]),
])  # fmt: skip
def test_two_processes_have_the_losses_of_one_with_other_heads_and_parts(tmp_path, task, more):
    {"conll": make_sample.make_conll, "squad": make_sample.make_squad}[task](tmp_path, rows=40)
    data = next(tmp_path.glob("*/train.*"))
    outputs = [tmp_path / f"run-{size}" for size in (1, 2)]
    for size, output in zip((1, 2), outputs, strict=True):
        train(*[flags(task, data, output, *more)] * size)
    assert_alike(*outputs)


def test_two_processes_have_the_losses_of_one_with_hidden_state_losses(tmp_path, news, teacher):
    """The learned projections are averaged as all else is."""
    tokenizer = load_tokenizer(teacher)
    other = tiny_model(labels=AGNEWS_LABELS, vocab_size=tokenizer.vocab_size, width=24, max_positions=96, init_std=0.02)
    save_model(other, tmp_path / "other")  # another width and depth
    tokenizer.save(tmp_path / "other", max_length=96)
    more = ["--teacher", teacher, "--losses", "hidden,relations,patient,cosine", "--accumulation", 2]
    outputs = [tmp_path / f"run-{size}" for size in (1, 2)]
    for size, output in zip((1, 2), outputs, strict=True):
        argv = flags("agnews", news, output, *more)
        argv[argv.index("--model") + 1] = str(tmp_path / "other")
        cut = argv.index("--vocab-size")
        del argv[cut : cut + 2]
        train(*[argv] * size)
    assert_alike(*outputs)


EPOCHS, INTERRUPTED_AT = 4, 17  # seven steps make an epoch


def interrupt_and_resume(tmp_path: Path, news: Path, interrupt) -> list[Finished]:
    """Two processes are interrupted in their third epoch and resumed, and must end as two that were not.

    interrupt: called with the forks while both wait before the same step. Returns how the interrupted ones ended.
    """
    whole, broken = (flags("agnews", news, tmp_path / x, "--epochs", EPOCHS, "--dropout", 0.1) for x in ("a", "b"))
    train(whole, whole)

    def prepare(rank: int) -> None:
        real = loop.add_gradients

        def add_gradients(trainer, *arguments):
            if trainer.progress.step == INTERRUPTED_AT:
                (tmp_path / f"waiting-{rank}").touch()
                wait_for(tmp_path / "interrupted")
            return real(trainer, *arguments)

        loop.add_gradients = add_gradients

    forks = start_forks(broken, broken, prepare=prepare)
    for rank in range(2):
        wait_for(tmp_path / f"waiting-{rank}")
    interrupt(forks)
    (tmp_path / "interrupted").touch()
    ended = [fork.finish() for fork in forks]
    train([*broken, "--resume"], [*broken, "--resume"])
    losses = [[h["loss"] for h in record(tmp_path / x)["history"]] for x in ("a", "b")]
    assert losses[0] == losses[1] and len(losses[0]) == EPOCHS
    weights = [(tmp_path / x / "model.safetensors").read_bytes() for x in ("a", "b")]
    assert weights[0] == weights[1]
    return ended


def wait_for(path: Path, seconds: float = 60) -> None:
    """Come back as soon as there is such a file."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"waited in vain for {path}"
        time.sleep(0.01)


def test_a_dead_process_ends_the_run_with_one_line_and_it_is_resumed_exactly(tmp_path, news):
    first, _ = interrupt_and_resume(tmp_path, news, lambda forks: forks[1].send_signal(signal.SIGKILL))
    assert first.status == 1
    *_, last = first.err.strip().split("\n")
    assert last.startswith("error: process 0 has lost the others") and "--resume" in last
    assert "Traceback" not in first.err


def test_both_processes_stop_together_when_asked_and_go_on_exactly(tmp_path, news):
    def as_torchrun_does(forks):
        for fork in forks:
            fork.terminate()

    for finished in interrupt_and_resume(tmp_path, news, as_torchrun_does):
        assert finished.status == 128 + signal.SIGTERM and "stopped" in finished.err
        assert "Traceback" not in finished.err


def test_a_mistake_in_one_process_ends_both_without_a_traceback(tmp_path, news):
    good = flags("agnews", news, tmp_path / "taken")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "something").write_text("here already")
    started = time.perf_counter()
    first, second = run(good, good)  # only the first one looks there
    assert first.status == 2 and first.err.count("\n") == 1 and "already holds something" in first.err
    assert second.status == 1 and "Traceback" not in second.err and "lost the others" in second.err
    elsewhere = flags("agnews", tmp_path / "nowhere.csv", tmp_path / "free")
    first, second = run(flags("agnews", news, tmp_path / "free"), elsewhere)
    assert first.status == 1 and "Traceback" not in first.err and "lost the others" in first.err
    assert second.status == 2 and "nowhere.csv: no such file" in second.err
    assert time.perf_counter() - started < 60


def test_processes_that_work_on_different_data_are_refused(tmp_path, news):
    other = tmp_path / "other.csv"
    other.write_text(news.read_text().replace("again", "never"))
    a, b = flags("agnews", news, tmp_path / "x"), flags("agnews", other, tmp_path / "x")
    first, second = run(a, [*b, "--cache", str(tmp_path / "other-cache")])
    assert second.status == 2 and "Traceback" not in first.err
    assert "process 1 and process 0 differ in: train, dev, tokenizer" in second.err


def test_alone_nothing_is_shared():
    array = np.arange(5)
    distributed.all_reduce_array(array)
    assert array.tolist() == [0, 1, 2, 3, 4] == list(distributed.rank_slice(range(5)))
    assert (distributed.rank(), distributed.world_size()) == (0, 1) and distributed.writes_cache()
    assert distributed.all_ranks_agree(True) and not distributed.all_ranks_agree(False)
    assert distributed.broadcast_object({"a": 1}) == {"a": 1}
    assert distributed.all_reduce_max([3.0, 1.0]) == [3.0, 1.0]
    assert not distributed.is_lost_connection(RuntimeError("gloo"))


def test_gradients_and_losses_wait_half_an_hour_for_a_lost_process_and_the_rest_a_day(monkeypatch):
    """NCCL does not notice that one is gone; what it sends goes through a group with a shorter time-out."""
    seen, dist = {}, distributed.dist
    for name in ("_joined", "_step_group"):
        monkeypatch.setattr(distributed, name, getattr(distributed, name))  # put back afterwards
    monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout: seen.update(everything=timeout))
    monkeypatch.setattr(dist, "new_group", lambda timeout: seen.update(steps=timeout) or "group of steps")
    for key, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(key, value)
    distributed.init_process_group(torch.device("cpu"))
    assert seen["everything"] == timedelta(hours=24) and seen["steps"] == timedelta(minutes=30)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "DistributedDataParallel", lambda model, **more: seen.update(more))
    monkeypatch.setattr(dist, "all_reduce", lambda values, group=None: seen.update(losses=group))
    distributed.data_parallel(torch.nn.Linear(1, 1))
    distributed.all_reduce_sum(torch.zeros(2))
    assert seen["process_group"] == seen["losses"] == "group of steps"


def test_processes_that_cannot_meet_are_one_line(tmp_path, news):
    fork = Fork(
        flags("agnews", news, tmp_path / "x"),
        lambda: os.environ.pop("MASTER_ADDR", None),
        {"RANK": "0", "WORLD_SIZE": "2"},
    )
    finished = fork.finish()
    assert finished.status == 2 and "start them with torchrun" in finished.err and "Traceback" not in finished.err
