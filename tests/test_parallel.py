"""parallel.py: two processes train what one trains. They meet on the loopback address."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from kd_scratch import parallel
from kd_scratch.safetensors import load_file
from tests.conftest import ROOT, TEXTS

LABELS = ("business", "space", "sport", "animals")


def free_port() -> int:
    """A port on the loopback address on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_processes(size: int, arguments: list[str]) -> list[subprocess.Popen]:
    """`size` processes of a command, as torchrun starts them."""
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-m", "kd_scratch", *arguments]
    return [
        subprocess.Popen(
            argv,
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if size > 1 else os.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for rank in range(size)
    ]


def finish(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """(exit status, stdout, stderr) of each."""
    said = [process.communicate(timeout=120) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, said, strict=True)]


@pytest.fixture
def train_arguments(tmp_path):
    """A function: output folder, more flags -> the arguments of a short training run without dropout."""
    rows = [f'"{i % 4 + 1}","{TEXTS[i % 4][: 10 + i]}","{"again " * (i % 5)}"' for i in range(37)]
    (tmp_path / "train.csv").write_text("\n".join(rows) + "\n")

    def make(output: str, *more: str) -> list[str]:
        data = str(tmp_path / "train.csv")
        flags = "--batch-size 6 --learning-rate 3e-3 --dropout 0 --warmup-steps 2 --vocab-size 200 --threads 1"
        common = f"train --task agnews --model tiny-student --epochs 3 --device cpu {flags}".split()
        cache = str(tmp_path / f"cache-{output}")
        return [*common, "--train", data, "--dev", data, "--output", str(tmp_path / output), "--cache", cache, *more]

    return make


def record(tmp_path, output: str) -> dict:
    """What a run wrote of itself."""
    return json.loads((tmp_path / output / "training.json").read_text())


def test_two_processes_have_the_losses_of_one_in_fine_tuning_and_in_distillation(tmp_path, train_arguments):
    ((status, _, said),) = finish(start_processes(1, train_arguments("teacher", "--model", "tiny-teacher")))
    assert status == 0, said
    for teacher in ([], ["--teacher", str(tmp_path / "teacher")]):
        names = [f"{size}-{len(teacher)}" for size in (1, 2)]
        for size, name in zip((1, 2), names, strict=True):
            # 37 texts in batches of 6: the last batch has one text for two processes
            results = finish(start_processes(size, train_arguments(name, *teacher)))
            assert [status for status, _, _ in results] == [0] * size, results
            assert all(not out for _, out, _ in results[1:]), "the first process alone prints"
        one, two = (record(tmp_path, name) for name in names)
        np.testing.assert_allclose(*([h["loss"] for h in run["history"]] for run in (one, two)), rtol=1e-4)
        assert [h["dev"]["accuracy"] for h in one["history"]] == [h["dev"]["accuracy"] for h in two["history"]]
        weights = [load_file(tmp_path / name / "model.safetensors") for name in names]
        for key, tensor in weights[0].items():
            np.testing.assert_allclose(weights[1][key], tensor, atol=2e-4, err_msg=key)
    caches = [sorted((tmp_path / f"cache-{size}-2").glob("teacher-logits-*")) for size in (1, 2)]
    logits = [load_file(path)["logits"] for (path,) in caches]
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-5)


def test_a_dead_process_ends_the_run_with_one_line_and_it_can_be_resumed(tmp_path, train_arguments):
    whole = train_arguments("whole", "--epochs", "300")
    processes = start_processes(2, whole)
    while "epoch 2/" not in (line := processes[0].stdout.readline()):
        assert line, processes[0].stderr.read()
    processes[1].send_signal(signal.SIGKILL)
    (status, _, said), _ = finish(processes)
    assert status == 1
    *_, last = said.strip().split("\n")
    assert last.startswith("error: process 0 has lost the others") and "--resume" in last and "Traceback" not in said
    results = finish(start_processes(2, [*train_arguments("whole", "--epochs", "300", "--patience", "0"), "--resume"]))
    assert [status for status, _, _ in results] == [0, 0], results
    assert record(tmp_path, "whole")["epoch"] == 300


def test_a_users_mistake_in_all_processes_is_one_line_each(tmp_path, train_arguments):
    started = time.perf_counter()
    results = finish(start_processes(2, train_arguments("x", "--alpha", "7")))
    for status, out, said in results:
        assert status == 2 and not out and said.count("\n") == 1 and "--alpha" in said
    assert time.perf_counter() - started < 60


def test_alone_nothing_is_shared():
    array = np.arange(5)
    parallel.add_up(array)
    assert array.tolist() == [0, 1, 2, 3, 4] == list(parallel.share(range(5)))
    assert (parallel.rank(), parallel.size()) == (0, 1)
    assert parallel.all_agree(True) and not parallel.all_agree(False)
    assert parallel.value_of_first({"a": 1}) == {"a": 1}
    assert not parallel.is_lost_connection(RuntimeError("gloo"))
