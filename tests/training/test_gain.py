"""What preflight says of the gain that is to be expected, by the records of a teacher and a baseline."""

import json
from types import SimpleNamespace

import pytest

from kd_scratch.tasks import TASKS
from kd_scratch.training.gain import about_gain
from kd_scratch.training.spec import RunSpec
from tests.evaluation.test_advice import DISTILLED, changed

EPOCH = {"epoch": 1, "loss": 1.0, "losses": [1.0], "tokens_per_second": 1.0, "dev": {"accuracy": 0.5}, "steps": 1}


@pytest.fixture
def folder(tmp_path):
    """A teacher of 96.00, and beside the output a baseline of 93.00, one of 94.00, and others that are none."""

    def write(name, score, record):
        (tmp_path / name).mkdir(parents=True)
        more = {"history": [EPOCH], "machine": {}, "seconds by phase": {}, "parameters": 1, "best_epoch": 1, "step": 1}
        text = json.dumps(record | more | {"seconds": 1.0, "best_score": score})
        (tmp_path / name / "training.json").write_text(text)

    alone = DISTILLED | {"teacher": None}
    write("teacher", 0.96, changed(alone, train="x", **{"initial weights": "other"}))
    write("runs/baseline", 0.93, alone)
    write("runs/baseline-longer", 0.94, changed(alone, settings={"epochs": 9}))
    write("runs/another-seed", 0.99, changed(alone, seed=1))
    write("runs/distilled", 0.99, DISTILLED)
    write("runs/other-start", 0.99, changed(alone, **{"initial weights": "x"}))
    (tmp_path / "runs" / "odd").mkdir()
    (tmp_path / "runs" / "odd" / "training.json").write_text("[]")
    return tmp_path


def told(folder, identity=DISTILLED, teachers=("teacher",), examples=3000):
    spec = RunSpec("clinc", "x", "y", "m", folder / "runs" / "new", tuple(str(folder / name) for name in teachers))
    data = SimpleNamespace(dev_examples=range(examples))
    return about_gain(SimpleNamespace(spec=spec, identity=identity, data=data, task=TASKS["clinc"]))


def test_the_gain_is_that_of_the_teacher_above_the_best_baseline(folder):
    assert told(folder).startswith(
        "teacher 96.00, baseline 94.00: 2.00 points to gain; what usually closes such a gap: "
    )
    assert "so there is nothing to close; train the teacher" in told(folder, examples=300)
    assert told(folder, teachers=("nowhere", "teacher")) == told(folder)
    assert "--unlabelled" in told(folder) and "--unlabelled" not in told(folder, changed(DISTILLED, unlabelled="u"))


def test_what_is_not_known_is_not_guessed(folder):
    alone = "the teacher has 96.00 on this dev; no baseline beside the output to compare it with"
    assert told(folder, changed(DISTILLED, seed=5)) == alone
    assert told(folder, changed(DISTILLED, dev="x")) == told(folder, teachers=("nowhere",)) == ""
    (folder / "teacher" / "training.json").write_text("{}")
    assert told(folder) == ""
