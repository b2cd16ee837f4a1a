"""parallel.py: two processes train what one trains. They meet on the loopback address."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from torch.distributed import TCPStore

from data_scripts import make_sample
from kd_scratch.checkpoints.safetensors import load_file
from kd_scratch.common import distributed
from tests.conftest import ROOT, TEXTS

stores: list[TCPStore] = []  # where processes meet; kept until the tests end


def start_processes(*arguments: list[str]) -> list[subprocess.Popen]:
    """One process for each list of arguments, as torchrun starts them; one alone as anybody does.

    As torchrun does, we hold the store in which they meet: a port that is free now may be taken when they come to it.
    """
    stores.append(TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(stores[-1].port), "WORLD_SIZE": str(len(arguments))}
    together |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    processes = []
    for rank, flags in enumerate(arguments):
        ranks = together | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if len(arguments) > 1 else {}
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | ranks
        argv = [sys.executable, "-m", "kd_scratch", *flags]
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(subprocess.Popen(argv, env=environment, cwd=ROOT, **pipes))
    return processes


def finish(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """(exit status, stdout, stderr) of each."""
    said = [process.communicate(timeout=120) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


def flags(task: str, data: Path, output: Path, *more) -> list[str]:
    """The arguments of a short training run without dropout, with a cache of its own."""
    common = f"train --task {task} --model tiny-student --epochs 3 --batch-size 6 --learning-rate 3e-3 --dropout 0"
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


def test_two_processes_have_the_losses_of_one_in_fine_tuning_and_in_distillation(tmp_path, news):
    ((status, _, said),) = finish(start_processes(flags("agnews", news, tmp_path / "teacher")))
    assert status == 0, said
    distil = flags("agnews", news, tmp_path / "x", "--teacher", tmp_path / "teacher")
    for name, more in (("plain", []), ("distilled", distil[-2:])):
        outputs = [tmp_path / f"{name}-{size}" for size in (1, 2)]
        for size, output in zip((1, 2), outputs, strict=True):
            results = finish(start_processes(*[flags("agnews", news, output, *more)] * size))
            assert [status for status, _, _ in results] == [0] * size, results
            assert all(not out for _, out, _ in results[1:]), "the first process alone prints"
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
        results = finish(start_processes(*[flags(task, data, output, *more)] * size))
        assert [status for status, _, _ in results] == [0] * size, results
    assert_alike(*outputs)


def test_two_processes_have_the_losses_of_one_with_losses_on_what_happens_inside(tmp_path, news):
    """The learned projections are averaged as all else is; the teacher's states are shared out too."""
    ((status, _, said),) = finish(start_processes(flags("agnews", news, tmp_path / "teacher")))
    assert status == 0, said
    more = ["--teacher", tmp_path / "teacher", "--losses", "hidden,relations,patient,cosine", "--accumulation", 2]
    for name, kept in (("live", []), ("kept", ["--keep-states"])):
        outputs = [tmp_path / f"{name}-{size}" for size in (1, 2)]
        for size, output in zip((1, 2), outputs, strict=True):
            argv = flags("agnews", news, output, *more, *kept)
            argv[argv.index("--model") + 1] = "scratch-small"  # another width and depth
            results = finish(start_processes(*[argv] * size))
            assert [status for status, _, _ in results] == [0] * size, results
        assert_alike(*outputs)


def interrupt_and_resume(tmp_path: Path, news: Path, epochs: int, interrupt) -> list[tuple[int, str, str]]:
    """Two processes are interrupted in their third epoch and resumed, and must end as two that were not.

    interrupt: what is done to the processes. Returns what the interrupted ones said.
    """
    whole, broken = (flags("agnews", news, tmp_path / x, "--epochs", epochs, "--dropout", 0.1) for x in ("a", "b"))
    assert [status for status, _, _ in finish(start_processes(whole, whole))] == [0, 0]
    processes = start_processes(broken, broken)
    while "epoch 2/" not in (line := processes[0].stdout.readline()):
        assert line, processes[0].stderr.read()
    interrupt(processes)
    said = finish(processes)
    results = finish(start_processes([*broken, "--resume"], [*broken, "--resume"]))
    assert [status for status, _, _ in results] == [0, 0], results
    losses = [[h["loss"] for h in record(tmp_path / x)["history"]] for x in ("a", "b")]
    assert losses[0] == losses[1]
    weights = [(tmp_path / x / "model.safetensors").read_bytes() for x in ("a", "b")]
    assert weights[0] == weights[1]
    return said


def test_a_dead_process_ends_the_run_with_one_line_and_it_is_resumed_exactly(tmp_path, news):
    (status, _, said), _ = interrupt_and_resume(
        tmp_path, news, 60, lambda processes: processes[1].send_signal(signal.SIGKILL)
    )
    assert status == 1
    *_, last = said.strip().split("\n")
    assert last.startswith("error: process 0 has lost the others") and "--resume" in last and "Traceback" not in said


def test_both_processes_stop_together_when_asked_and_go_on_exactly(tmp_path, news):
    def as_torchrun_does(processes):
        for process in processes:
            process.send_signal(signal.SIGTERM)

    for status, _, said in interrupt_and_resume(tmp_path, news, 40, as_torchrun_does):
        assert status == 128 + signal.SIGTERM and "stopped" in said and "Traceback" not in said


def test_a_mistake_in_one_process_ends_both_without_a_traceback(tmp_path, news):
    good = flags("agnews", news, tmp_path / "taken")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "something").write_text("here already")
    started = time.perf_counter()
    (status, _, said), (other, _, also_said) = finish(start_processes(good, good))  # only the first one looks there
    assert status == 2 and said.count("\n") == 1 and "already holds a run" in said
    assert other == 1 and "Traceback" not in also_said and "lost the others" in also_said
    elsewhere = flags("agnews", tmp_path / "nowhere.csv", tmp_path / "free")
    (status, _, said), (other, _, also_said) = finish(
        start_processes(flags("agnews", news, tmp_path / "free"), elsewhere)
    )
    assert status == 1 and "Traceback" not in said and "lost the others" in said
    assert other == 2 and "nowhere.csv: no such file" in also_said
    assert time.perf_counter() - started < 60


def test_processes_that_work_on_different_data_are_refused(tmp_path, news):
    other = tmp_path / "other.csv"
    other.write_text(news.read_text().replace("again", "never"))
    a, b = flags("agnews", news, tmp_path / "x"), flags("agnews", other, tmp_path / "x")
    (_, _, said), (status, _, also_said) = finish(start_processes(a, [*b, "--cache", str(tmp_path / "other-cache")]))
    assert (
        status == 2
        and "process 1 and process 0 differ in: train, dev, tokenizer" in also_said
        and "Traceback" not in said
    )


def test_alone_nothing_is_shared():
    array = np.arange(5)
    distributed.all_reduce_array(array)
    assert array.tolist() == [0, 1, 2, 3, 4] == list(distributed.rank_slice(range(5)))
    assert (distributed.rank(), distributed.world_size()) == (0, 1) and distributed.writes_cache()
    assert distributed.all_ranks_agree(True) and not distributed.all_ranks_agree(False)
    assert distributed.broadcast_object({"a": 1}) == {"a": 1}
    assert distributed.all_reduce_max([3.0, 1.0]) == [3.0, 1.0]
    assert not distributed.is_lost_connection(RuntimeError("gloo"))


def test_processes_that_cannot_meet_are_one_line(tmp_path, news):
    environment = {k: v for k, v in os.environ.items() if k != "MASTER_ADDR"} | {"RANK": "0", "WORLD_SIZE": "2"}
    argv = [sys.executable, "-m", "kd_scratch", *flags("agnews", news, tmp_path / "x")]
    done = subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "start them with torchrun" in done.stderr and "Traceback" not in done.stderr
