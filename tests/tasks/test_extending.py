"""A task from outside: one file and one entry in TASKS, and every command has it. The first is the README's example."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from kd_scratch.__main__ import COMMANDS
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import EncodedInputs
from kd_scratch.data.rows import FileRows
from kd_scratch.tasks import TASKS, Task
from tests.commands.test_commands import FAST, WORDS, run
from tests.conftest import ROOT

EXAMPLE = re.search(
    r"How to add a task.*?```python\n(.*?)```", (ROOT / "kd_scratch" / "tasks" / "README.md").read_text(), re.S
)[1]


@pytest.fixture
def tasks():
    """The table of tasks, which is as it was afterwards."""
    with patch.dict(TASKS):
        yield TASKS


def write_lines(path: Path, count: int, seed: int) -> Path:
    """`label<TAB>text` lines; texts of four words, most of them typical of the label."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(count):
        label = list(WORDS)[i % 3]
        lines.append(f"{label}\t{' '.join(rng.choice(WORDS[label].split() + ['the', 'of'], size=4))}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """Three files of such lines, and the flags of a tiny training."""
    sizes = {"train": 36, "dev": 12, "test": 15}
    return {name: write_lines(tmp_path / f"{name}.txt", size, i) for i, (name, size) in enumerate(sizes.items())}


def train(capsys, task: str, files: dict, output: Path, *more) -> tuple[int, str, str]:
    argv = ["train", "--task", task, "--train", files["train"], "--dev", files["dev"], *FAST, "--output", output]
    return run(capsys, *argv, "--cache", output.parent / "cache", *(more or ("--model", "tiny-student")))


# --- another file format: a reader ---


@pytest.fixture
def lines(tasks, tmp_path, monkeypatch) -> Task:
    """The task that the README's example adds, without the training behind it."""
    monkeypatch.chdir(tmp_path)
    definition = EXAMPLE.split("\nlines = ")[0]
    assert len(definition.strip().split("\n")) < 25
    exec(compile(definition, "README.md", "exec"), {})
    return tasks["lines"]


def test_the_readers_rows_stay_in_their_file_and_a_bad_one_is_found_on_opening(lines, files):
    examples = lines.read(files["train"], "", DataConfig(), print)
    assert isinstance(examples, FileRows) and len(examples) == 36 and examples[1].id == "train.txt:2"
    files["train"].write_text("sport\tgoal\nno tab at all\n")
    with pytest.raises(UserError, match=r"train\.txt: line 2: "):
        lines.read(files["train"], "", DataConfig(), print)


def test_the_readers_task_trains_and_evaluates_on_the_command_line(lines, files, tmp_path, capsys):
    status, out, _ = train(capsys, "lines", files, tmp_path / "model")
    assert status == 0 and "lines: 36 training examples" in out
    argv = ["evaluate", "--task", "lines", "--data", files["test"], "--model", tmp_path / "model"]
    status, out, _ = run(capsys, *argv, "--output", tmp_path / "m.json")
    assert status == 0 and "macro_f1" in out
    assert json.loads((tmp_path / "m.json").read_text())["metrics"]["examples"] == 15
    files["train"].write_text(files["train"].read_text() + "no tab at all\n")
    status, _, error = train(capsys, "lines", files, tmp_path / "other")
    assert status == 2 and "train.txt: line 37: " in error and not (tmp_path / "other").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_it_among_its_tasks_with_its_defaults_in_the_help(lines, capsys, command):
    TASKS["lines"] = replace(lines, train_defaults={"alpha": 0.125})
    with pytest.raises(SystemExit):
        run(capsys, command, "--help")
    text = " ".join(capsys.readouterr().out.split())
    if "--task" in text:
        assert re.search(r"--task \{[^}]*\blines\b[^}]*\}", text)
    if "--alpha" in text:
        assert "clinc: 0.25" in text and "lines: 0.125" in text


def test_training_starts_from_the_tasks_defaults():
    task = replace(TASKS["csv"], train_defaults={"alpha": 0.125, "epochs": 7})
    config = task.train_config(epochs=2)
    assert (config.alpha, config.epochs, config.temperature) == (0.125, 2, 2.0)
    assert TASKS["csv"].train_config().alpha == 0.5
    with pytest.raises(UserError, match="--alpha must lie between 0 and 1"):
        replace(task, train_defaults={"alpha": 7}).train_config()


# --- a task of its own: no more than must be given ---


@dataclass(frozen=True)
class Line:
    """A text and its label."""

    id: str
    text: str
    label: str


def read(path: Path, split: str, data: DataConfig, say) -> list[Line]:
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    return [Line(f"{path.name}:{i}", text, label) for i, (label, text) in enumerate(rows, 1)]


def featurize(examples, tokenizer, labels, max_length, data) -> EncodedInputs:
    rows = [encoding.ids for encoding in tokenizer.encode([e.text for e in examples], max_length=max_length)]
    return EncodedInputs(
        head="sequence",
        ids=[example.id for example in examples],
        tokens=np.concatenate(rows).astype(np.int32),
        starts=np.cumsum([0, *map(len, rows)], dtype=np.int64),
        labels=np.array([labels.index(example.label) for example in examples]),
    )


MINIMAL = Task(
    name="minimal",
    head="sequence",
    read=read,
    texts=lambda examples: [example.text for example in examples],
    label_list=lambda examples: tuple(sorted({example.label for example in examples})),
    featurize=featurize,
    decide=lambda predictions: [predictions.labels[i] for i in predictions.logits.argmax(axis=1)],
)


@pytest.mark.usefixtures("no_memory_processes")
def test_a_task_with_nothing_but_what_must_be_given_is_trained_evaluated_and_compared(tasks, files, tmp_path, capsys):
    tasks["minimal"] = MINIMAL
    assert train(capsys, "minimal", files, tmp_path / "model")[0] == 0
    common = ["--task", "minimal", "--data", files["test"]]
    argv = ["evaluate", *common, "--model", tmp_path / "model", "--output", tmp_path / "m.json"]
    status, out, _ = run(capsys, *argv, "--predictions", tmp_path / "p.json")
    assert status == 0
    metrics = json.loads((tmp_path / "m.json").read_text())["metrics"]
    records = json.loads((tmp_path / "p.json").read_text())
    wrong = {name: row for name, row in records.items() if row["label"] != row["gold"]}
    assert metrics == {"examples": 15, "accuracy": pytest.approx(1 - len(wrong) / 15), "per_class": {}}
    assert f"mistakes, of {len(wrong)}" in out and "this task has no classes" in out
    assert all(name in out for name in list(wrong)[:5])
    status, out, _ = run(capsys, "compare", *common, "--models", f"a={tmp_path / 'model'}", "--output", tmp_path / "c")
    assert status == 0 and f"{metrics['accuracy']:.4f}" in out
    assert json.loads((tmp_path / "c" / "comparison.json").read_text())["rows"][0]["accuracy"] == metrics["accuracy"]


def test_what_such_a_task_cannot_do_is_refused(tasks, files, tmp_path, capsys):
    tasks["minimal"] = MINIMAL
    assert train(capsys, "minimal", files, tmp_path / "teacher")[0] == 0
    distil = ("--model", tmp_path / "teacher", "--teacher", tmp_path / "teacher")
    for more, message in (
        (("--labelled", "50%"), "--labelled: the examples of this task need their labels; leave it out"),
        (("--augment", "1"), "--augment: altered texts are no input for minimal; leave it out"),
        (("--unlabelled", files["test"]), "--unlabelled: plain text is no input for minimal; leave it out"),
    ):
        status, _, error = train(capsys, "minimal", files, tmp_path / "student", *distil, *more)
        assert status == 2 and message in error, error
    status, _, error = run(capsys, "trace", "--task", "minimal", "--text", "goal", *distil, "--output", tmp_path / "t")
    assert status == 2 and "--text: plain text is no input for minimal; give --data" in error, error


def test_a_task_whose_score_is_in_no_table_is_refused():
    with pytest.raises(ValueError, match="task minimal: its score_name 'f1' must be among its columns"):
        replace(MINIMAL, score_name="f1")
