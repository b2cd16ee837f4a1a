"""The runs of a study: side by side, stopped and gone on with; and what may be added to a study."""

import json
import signal
import subprocess
import sys
import threading
import time

import pytest

from kd_scratch.common.errors import UserError
from kd_scratch.common.signals import Interruption, Stopped
from kd_scratch.study import runner
from kd_scratch.study.runner import same_study
from kd_scratch.study.variants import BASELINE, Variant
from tests.conftest import ROOT


def fake(monkeypatch, code: str) -> None:
    """Let every run be this Python code; FOLDER is where it should leave training.json."""

    def start(argv, log):
        folder = argv[argv.index("--output") + 1]
        with open(log, "w") as file:
            return subprocess.Popen(
                [sys.executable, "-c", f"FOLDER = {folder!r}\n{code}"], stdout=file, stderr=file, cwd=ROOT
            )

    monkeypatch.setattr(runner, "start_train", start)


DONE = "import os, json, time; os.makedirs(FOLDER); open(FOLDER + '/training.json', 'w').write('{}')"
RUNS = [(Variant(BASELINE), seed) for seed in range(4)]


def test_as_many_runs_as_jobs_go_side_by_side(tmp_path, monkeypatch):
    fake(monkeypatch, f"import time; print(time.time()); time.sleep(0.5); {DONE}; print(time.time())")
    runner.run_all(RUNS, {}, tmp_path, 2)
    spans = [tuple(map(float, path.read_text().split())) for path in sorted((tmp_path / "logs").iterdir())]
    most = max(sum(a <= moment <= b for a, b in spans) for moment, _ in spans)
    assert len(spans) == 4 and most == 2


def test_a_run_that_fails_stops_the_study_and_is_named_with_its_last_line(tmp_path, monkeypatch):
    fake(monkeypatch, "import sys; print('some line'); sys.exit('error: the disk is full')")
    with pytest.raises(UserError, match=r"exit status 1\): .*baseline-0.txt: error: the disk is full"):
        runner.run_all(RUNS, {}, tmp_path, 1)
    assert len(list((tmp_path / "logs").iterdir())) == 1
    fake(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(UserError, match=r"exit status -9\): .*baseline-0.txt: it printed nothing"):
        runner.run_all(RUNS, {}, tmp_path, 1)


def test_a_run_of_other_code_is_to_be_deleted_since_a_study_has_no_force(tmp_path, monkeypatch):
    fake(monkeypatch, "import sys; sys.exit('error: cannot resume: code was a, is b; --force goes on anyway')")
    cure = f"code was a, is b; delete {tmp_path / 'runs' / 'baseline-0'} to train it anew$"
    with pytest.raises(UserError, match=cure):
        runner.run_all(RUNS, {}, tmp_path, 1)


class Heeding(Interruption):
    """It also heeds signals that this process ignores, as it does what runs behind nohup."""

    def __enter__(self):
        numbers = (signal.SIGTERM, signal.SIGHUP)
        self.ignored = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
        return super().__enter__()

    def __exit__(self, *exception):
        super().__exit__(*exception)
        for number, handler in self.ignored.items():
            signal.signal(number, handler)


SAVES = """import signal, sys, time
signal.signal(signal.SIGTERM, lambda *a: (print("saved"), sys.exit(143)))
print("began", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_runs_and_the_same_command_goes_on(tmp_path, monkeypatch, number):
    """Each run gets a SIGTERM, upon which `train` saves its state and ends."""
    monkeypatch.setattr(runner, "Interruption", Heeding)
    fake(monkeypatch, SAVES)
    threading.Timer(1.5, signal.raise_signal, [number]).start()
    before = time.monotonic()
    with pytest.raises(Stopped) as stopped:
        runner.run_all(RUNS, {}, tmp_path, 2)
    assert stopped.value.signal == number and time.monotonic() - before < 30
    assert [path.read_text() for path in sorted((tmp_path / "logs").iterdir())] == ["began\nsaved\n"] * 2
    fake(monkeypatch, DONE)
    runner.run_all(RUNS, {}, tmp_path, 2)
    assert all((variant.folder(tmp_path, seed) / "training.json").is_file() for variant, seed in RUNS)


def test_no_run_is_started_after_a_signal(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "Interruption", Heeding)
    fake(monkeypatch, SAVES)
    start, started = runner.start_train, []

    def signalled(argv, log):
        if not started:  # a second one would end pytest
            signal.raise_signal(signal.SIGTERM)
        started.append(log)
        return start(argv, log)

    monkeypatch.setattr(runner, "start_train", signalled)
    with pytest.raises(Stopped):
        runner.run_all(RUNS, {}, tmp_path, 3)
    assert len(started) == 1, "which was under way already"


IMPATIENT = f"""import signal, subprocess, sys
from pathlib import Path
from kd_scratch.study import runner
from kd_scratch.common.signals import Interruption
from kd_scratch.study.variants import Variant

class Telling(Interruption):
    def _note(self, number, frame):
        super()._note(number, frame)
        print("noted", flush=True)

signal.signal(signal.SIGTERM, signal.SIG_DFL)
runner.WAIT, runner.Interruption = 60, Telling
runner.start_train = lambda argv, log: subprocess.Popen([sys.executable, "-c", {SAVES!r}], stdout=open(log, "w"))
runner.run_all([(Variant("one"), 0)], {{}}, Path(sys.argv[1]), 1)
"""


def test_runs_end_properly_also_where_a_second_signal_ends_the_study_at_once(tmp_path):
    log = tmp_path / "logs" / "one-0.txt"
    argv = [sys.executable, "-c", IMPATIENT, str(tmp_path)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as study:
        wait_for(lambda: log.is_file() and "began" in log.read_text())
        study.terminate()
        assert study.stdout.readline() == "noted\n"
        study.terminate()
    assert study.returncode == -signal.SIGTERM
    wait_for(lambda: "saved" in log.read_text())


def wait_for(condition, seconds: float = 30) -> None:
    """Come back as soon as it is true; fail where it does not become so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_other_losses_may_be_added_to_a_study_but_none_may_change(tmp_path):
    path, flags = tmp_path / "study.json", ["--epochs", "2", "--documents", "--losses", ""]
    first = {"flags": flags, "variants": {"baseline": [], "hidden": ["--losses", "hidden=1"]}, "start": "abc"}
    path.write_text(json.dumps(first))
    nothing = first | {"flags": ["--epochs", "3"]}
    assert same_study(tmp_path, nothing) == nothing, "before anything is trained, anything may change"
    (tmp_path / "runs" / "baseline-0").mkdir(parents=True)
    more = same_study(tmp_path, first | {"variants": {"baseline": [], "cosine": ["--losses", "cosine=1"]}})
    later = ["--max-length", "64", "--amp", "off"]
    assert same_study(tmp_path, first | {"flags": [*later, *flags]}), "older plans do not tell them"
    assert more["flags"] == flags and set(more["variants"]) == {"baseline", "hidden", "cosine"}
    for change, why in (
        ({"variants": {"hidden": ["--losses", "hidden=2"]}}, r"--losses was hidden=1, is hidden=2 \(hidden\);"),
        ({"variants": {"baseline": ["--steps", "9"]}}, r"--steps was not given, is 9 \(baseline\);"),
        ({"flags": ["--epochs", "3", "--losses", ""]}, "--epochs was 2, is 3, --documents was given, is not given;"),
        ({"start": None}, "the weights in --model were others;"),
    ):
        with pytest.raises(UserError, match=f"holds another study: {why} choose another --output"):
            same_study(tmp_path, first | change)
    path.write_text(json.dumps(first | {"variants": {"hidden": ["--losses", "hidden=1", "--keep-states"]}}))
    assert same_study(tmp_path, first) == first, "of an older version: a flag that saved time alone"
    path.write_text(json.dumps({"flags": flags, "variants": {}}))
    assert same_study(tmp_path, first) == first, "of an older version, that did not tell the weights"
    no_table = json.dumps(first | {"variants": []})
    for damage in ("[]", '{"flags": ["--epochs", "2"], "variants": 3}', '{"variants": {}}', '{"flags": 1}', no_table):
        path.write_text(damage)
        with pytest.raises(UserError, match="study.json: is not what a study writes; choose another --output"):
            same_study(tmp_path, first)


def test_a_study_goes_on_wherever_its_files_lie_and_with_flags_that_change_no_result(tmp_path):
    """The runs' records hold hashes of the files and the device that was computed on, and are compared with these."""
    (tmp_path / "runs" / "baseline-0").mkdir(parents=True)
    flags = ["--train", "a.csv", "--dev", "10%", "--model", "m", "--device", "auto", "--cache", "c"]
    soft = ["--teacher", "t", "--unlabelled", "b.txt"]
    first = {"flags": flags, "variants": {"soft targets": soft}, "start": "abc"}
    (tmp_path / "study.json").write_text(json.dumps(first))
    moved = ["--train", "/x/a.csv", "--dev", "20%", "--model", "/x/m", "--gradient-checkpointing"]
    variants = {"soft targets": ["--teacher", "/x/t", "--unlabelled", "/x/b.txt"]}
    now = {"flags": moved, "variants": variants, "start": "abc"}
    assert same_study(tmp_path, now) == now
    for change, why in (
        ({"variants": {"soft targets": soft[:2]}}, r"--unlabelled was b.txt, is not given \(soft targets\);"),
        ({"flags": [*moved, "--tokenizer", "m"]}, "--tokenizer was not given, is m;"),
        ({"start": None}, "the weights in --model were others;"),
    ):
        with pytest.raises(UserError, match=f"holds another study: {why} choose another --output"):
            same_study(tmp_path, now | change)
    (tmp_path / "study.json").write_text(json.dumps(first | {"start": None}))
    with pytest.raises(UserError, match="--model was m, is mini-student;"):
        same_study(tmp_path, first | {"start": None, "flags": ["--model", "mini-student", *flags[:4]]})
