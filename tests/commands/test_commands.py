"""The command line as its user meets it: train, distil, evaluate, compare, predict, and every kind of bad input."""

import json
import os
import random
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import kd_scratch.evaluation.evaluate
import kd_scratch.training.run
from kd_scratch.__main__ import COMMANDS, main
from kd_scratch.checkpoints.checkpoint import check_fit, fingerprint, load_config, load_model, save_model
from kd_scratch.checkpoints.safetensors import load_file
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import sha256_of_file
from kd_scratch.config import DataConfig
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.distillation.hidden_losses import HIDDEN_LOSSES
from kd_scratch.evaluation.evaluate import notes_of_training, read_evaluation_set, trained_on
from kd_scratch.evaluation.inference import compute_logits
from kd_scratch.evaluation.measure import peak_memory
from kd_scratch.pages.card import CARD
from kd_scratch.pages.records import CALIBRATION, PRUNING, QUANTIZATION
from kd_scratch.tasks import TASKS
from tests.conftest import ROOT, tiny_model

WORDS = {"sport": "goal match team coach", "trade": "shares profit market bank", "space": "moon probe orbit rocket"}
FAST = [
    "--epochs",
    "2",
    "--batch-size",
    "8",
    "--learning-rate",
    "1e-3",
    "--max-length",
    "24",
    "--device",
    "cpu",
    "--threads",
    "1",
]


def write_csv(path, rows, seed=0):
    """Texts of four words, most of them typical of the label."""
    rng = random.Random(seed)
    lines = ["label,text"]
    for i in range(rows):
        label = list(WORDS)[i % 3]
        words = rng.choices(WORDS[label].split() + "the a of and".split(), k=4)
        lines.append(f'{label},"{" ".join(words)}"')
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with data, a teacher, a baseline and a distilled student, made through the command line."""
    folder = tmp_path_factory.mktemp("runs")
    data = [
        "--task",
        "csv",
        "--train",
        write_csv(folder / "train.csv", 48),
        "--dev",
        write_csv(folder / "dev.csv", 12, seed=1),
    ]
    write_csv(folder / "test.csv", 30, seed=2)
    teacher = ["--model", "tiny-student", "--vocab-size", "80", "--output", str(folder / "teacher")]
    baseline = ["--model", str(folder / "teacher"), "--init-layers", "0", "--output", str(folder / "baseline")]
    distilled = baseline[:-1] + [str(folder / "distilled"), "--teacher", str(folder / "teacher")]
    for extra in (teacher, baseline, distilled):
        assert main(["train", *data, *FAST, *extra, "--cache", str(folder / "cache")]) == 0
    return folder


def data_of(runs) -> list:
    """The flags that name the task and its training files."""
    return ["--task", "csv", "--train", runs / "train.csv", "--dev", runs / "dev.csv"]


def run(capsys, *argv) -> tuple[int, str, str]:
    """Exit status, stdout, and stderr without progress bars."""
    status = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return status, out, err.replace("\r", "\n").split("\n")[-2] if err.strip() else ""


def test_training_leaves_a_model_directory_and_a_record(runs):
    names = {path.name for path in (runs / "distilled").iterdir()}
    assert names == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
        "training.json",
        "report.html",
        "README.md",
    }
    record = json.loads((runs / "distilled" / "training.json").read_text())
    assert record["teacher"] == fingerprint(load_model(runs / "teacher"))
    assert record["settings"]["epochs"] == 2 and len(record["history"]) == 2
    assert load_tokenizer(runs / "distilled").max_length == 24


def test_baseline_and_distilled_student_have_the_same_start_and_budget(runs):
    records = [json.loads((runs / name / "training.json").read_text()) for name in ("baseline", "distilled")]
    for key in ("initial weights", "settings", "seed", "train", "dev", "step"):
        assert records[0][key] == records[1][key], key
    assert fingerprint(load_model(runs / "baseline")) != fingerprint(load_model(runs / "distilled"))


def test_the_teachers_logits_are_computed_once_for_all_seeds(runs, tmp_path, capsys):
    argv = [
        "train",
        *data_of(runs),
        *FAST,
        "--model",
        runs / "teacher",
    ]
    status, out, _ = run(
        capsys, *argv, "--teacher", runs / "teacher", "--cache", runs / "cache", "--output", tmp_path / "s", "--seed", 7
    )
    assert status == 0 and "48 inputs: read from" in out


def test_evaluate_prints_tables_and_writes_json(runs, tmp_path, capsys):
    argv = ["evaluate", "--task", "csv", "--data", runs / "test.csv", "--model", runs / "teacher"]
    status, out, _ = run(capsys, *argv, "--output", tmp_path / "m.json", "--predictions", tmp_path / "p.json")
    assert status == 0
    metrics = json.loads((tmp_path / "m.json").read_text())["metrics"]
    said = json.loads((tmp_path / "p.json").read_text())
    assert len(said) == metrics["examples"] == 30
    assert metrics["accuracy"] == sum(row["label"] == row["gold"] for row in said.values()) / 30
    assert f"{metrics['macro_f1']:.4f}" in out and "per class" in out and "surest mistakes" in out


@pytest.mark.usefixtures("one_memory_process")
def test_compare_shows_every_model_against_the_first(runs, tmp_path, capsys):
    models = [f"{name}={runs / name}" for name in ("teacher", "baseline", "distilled")]
    argv = ["compare", "--task", "csv", "--data", runs / "test.csv", "--models", *models, "--output", tmp_path / "c"]
    status, out, _ = run(capsys, *argv)
    assert status == 0
    result = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert result["advice"] and result["advice"] in out
    assert [row["name"] for row in result["rows"]] == ["teacher", "baseline", "distilled"]
    assert result["rows"][0]["agreement"] == 1.0
    for row in result["rows"]:
        weights = load_file(runs / row["name"] / "model.safetensors")
        assert row["parameters"] == sum(t.numel() for t in weights.values())
        assert row["megabytes"] == (runs / row["name"] / "model.safetensors").stat().st_size / 1e6
        assert 0 < row["latency_p50_ms"] <= row["latency_p95_ms"] and row["examples_per_second"] > 0
        assert row["peak_megabytes"] is None or 100 < row["peak_megabytes"] < 4000
        assert row["interval"][0] <= row["accuracy"] <= row["interval"][1]
        assert f"{row['accuracy']:.4f}" in out
    assert all(result["rows"][0][name] is None for name in ("difference", "difference_interval", "p", "smallest"))
    for row in result["rows"][1:]:
        assert row["difference"] == pytest.approx(row["accuracy"] - result["rows"][0]["accuracy"])
        assert row["difference_interval"][0] <= row["difference"] <= row["difference_interval"][1] and 0 < row["p"] <= 1
        width = np.subtract(*row["difference_interval"][::-1])
        assert (row["smallest"] or 0) == pytest.approx(0.71 * width, rel=0.1, abs=1e-9)
    markdown = (tmp_path / "c" / "comparison.md").read_text()
    assert [line.count("|") for line in markdown.split("\n")[:11]] == [8] * 5 + [0] + [11] * 5
    assert (tmp_path / "c" / "comparison.txt").read_text().strip() in out


@pytest.mark.usefixtures("no_memory_processes")
def test_compare_shows_the_cascade_that_the_command_finds(runs, tmp_path, capsys):
    data = ["--task", "csv", "--data", runs / "test.csv", "--dev", runs / "dev.csv"]
    models = [f"{name}={runs / name}" for name in ("teacher", "baseline", "distilled")]
    status, out, _ = run(capsys, "compare", *data, "--models", *models, "--output", tmp_path / "c")
    assert status == 0 and "teacher is asked where distilled is less sure" in out and "distilled alone" in out
    lines = (tmp_path / "c" / "comparison.md").read_text().split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith("|") and "times as fast" in line)
    assert lines[start + 1].startswith("| --") and lines[start + 2].startswith("| distilled alone")
    found = json.loads((tmp_path / "c" / "comparison.json").read_text())["cascade"]
    pair = ["--student", runs / "distilled", "--teacher", runs / "teacher"]
    _, out, _ = run(capsys, "cascade", *data, *pair, "--json")
    alone = json.loads(out)
    assert (found.pop("student"), found.pop("teacher")) == ("distilled", "teacher")
    for key in ("threshold", "dev", "interval to teacher", "dev file", "few groups"):
        assert found[key] == alone[key]
    page = (tmp_path / "c" / "comparison.html").read_text()
    ratio = re.search(r"distilled against teacher: .* ([\d.]+) times as fast", page)[1]
    assert f"<td>{ratio}</td>" in page.split("distilled alone")[1].split("</tr>")[0], "one speed, said once more"
    about = page.split("Settings and environment")[-1]
    assert "this comparison" in about and "np.float" not in about and "cascade: " not in about
    assert "distilled where it is sure, else teacher" in page and "Score and cost of a cascade" in page
    one = ["--models", models[0], "--output", tmp_path / "one"]
    status, _, err = run(capsys, "compare", *data, *one)
    assert status == 2 and "--dev: a cascade needs two models" in err


@pytest.mark.usefixtures("no_memory_processes")
def test_compare_without_a_possible_cascade_says_so_and_shows_the_rest(runs, tmp_path, capsys):
    data = ["--task", "csv", "--data", runs / "test.csv", "--dev", runs / "test.csv"]
    models = [f"{name}={runs / name}" for name in ("teacher", "distilled")]
    status, out, err = run(capsys, "compare", *data, "--models", *models, "--output", tmp_path / "c")
    why = f"--dev {runs / 'test.csv'}: holds the very texts of --data"
    assert status == 0 and f"no cascade of distilled and teacher: {why}" in out + err
    record = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert "cascade" not in record and why in record["notes"][-1]


@pytest.mark.usefixtures("no_memory_processes")
def test_compare_agrees_with_evaluate(runs, tmp_path, capsys):
    run(
        capsys,
        "evaluate",
        "--task",
        "csv",
        "--data",
        runs / "test.csv",
        "--model",
        runs / "baseline",
        "--output",
        tmp_path / "m",
    )
    run(
        capsys,
        "compare",
        "--task",
        "csv",
        "--data",
        runs / "test.csv",
        "--models",
        f"b={runs / 'baseline'}",
        "--output",
        tmp_path,
    )
    row = json.loads((tmp_path / "comparison.json").read_text())["rows"][0]
    metrics = json.loads((tmp_path / "m").read_text())["metrics"]
    assert {k: row[k] for k in ("accuracy", "macro_f1", "loss")} == {
        k: metrics[k] for k in ("accuracy", "macro_f1", "loss")
    }


def test_predict_prints_the_label_and_its_probability(runs, tmp_path, capsys):
    argv = [
        "predict",
        "--model",
        runs / "teacher",
        "--text",
        "the moon probe",
        "bank shares",
        "--output",
        tmp_path / "a.json",
    ]
    status, out, _ = run(capsys, *argv)
    answers = json.loads((tmp_path / "a.json").read_text())
    assert status == 0 and list(answers) == ["the moon probe", "bank shares"]
    for answer in answers.values():
        assert sum(answer.values()) == pytest.approx(1)
        best = max(answer, key=answer.get)
        assert list(answer)[0] == best and f"{answer[best]:.4f}" in out


def test_predict_refuses_text_that_is_not_utf_8(runs, capsys):
    status, _, error = run(capsys, "predict", "--model", runs / "teacher", "--text", "goal", "match \udcff")
    assert status == 2 and error.startswith("error: --text: 'match ") and "UTF-8" in error


def test_an_interrupted_run_resumes_from_the_command_line(runs, tmp_path, capsys, monkeypatch):
    import kd_scratch.training.bookkeeping

    argv = ["train", *data_of(runs), *FAST, "--model", "tiny-student", "--vocab-size", 80, "--output", tmp_path / "run"]
    real = kd_scratch.training.bookkeeping.save_state

    def interrupted(*args):
        real(*args)
        if args[4].epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(kd_scratch.training.bookkeeping, "save_state", interrupted)
    status, _, error = run(capsys, *argv)
    assert status == 130 and "--resume" in error
    monkeypatch.setattr(kd_scratch.training.bookkeeping, "save_state", real)
    status, _, error = run(capsys, *argv)
    assert status == 2 and "already holds a run" in error
    status, out, _ = run(capsys, *argv, "--resume")
    assert status == 0 and "epoch 2/2" in out and "epoch 1/2:" not in out
    assert fingerprint(load_model(tmp_path / "run")) == fingerprint(load_model(runs / "teacher"))
    status, _, error = run(capsys, *argv, "--resume")
    assert status == 2 and "holds no unfinished run" in error
    status, _, error = run(capsys, *argv, "--output", tmp_path / "new", "--cache", tmp_path / "new" / "cache")
    assert status == 2 and f"holds --cache {tmp_path}/new/cache; choose another folder" in error


# --- bad input: one clear line, exit 2, nothing half-written ---

TRAIN_FILES = {
    "missing file": (None, "train.csv: no such file"),
    "empty file": (b"", "train.csv: the file is empty"),
    "header only": (b"label,text\n", "leaves 0 training"),
    "Cyrillic": (b"label,text\nsport,\xec\xe8\xf0\n", "train.csv: line 2: byte 0xec is not UTF-8"),
    "NUL": (b"label,text\nsport,a\0b\n", "train.csv: line 2: NUL"),
    "ragged row": (b"label,text\nsport,a,b\n", "train.csv: line 2: 3 columns instead of the header's 2"),
    "no text column": (b"label,words\nsport,a\n", "train.csv: line 1: 0 columns are called 'text'"),
    "open quote": (b'label,text\nsport,"a\n', "train.csv: line 2: malformed CSV"),
    "other labels in train": (b"label,text\ncooking,a b c\n", "label 'sport' is not one of the 1"),
}  # fmt: skip


@pytest.mark.parametrize("content, message", TRAIN_FILES.values(), ids=TRAIN_FILES)
def test_a_bad_training_file(runs, tmp_path, capsys, content, message):
    if content is not None:
        (tmp_path / "train.csv").write_bytes(content)
    argv = [
        "train",
        "--task",
        "csv",
        "--train",
        tmp_path / "train.csv",
        "--dev",
        runs / "dev.csv",
        "--model",
        "tiny-student",
    ]
    status, _, error = run(capsys, *argv, "--output", tmp_path / "out")
    assert status == 2
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "out").exists()


def damage(directory, how):
    """Spoil a copy of a model directory."""
    weights = directory / "model.safetensors"
    match how:
        case "no tokenizer":
            for name in ("tokenizer.json", "vocab.txt"):
                (directory / name).unlink()
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:-1000])
        case "lying header":
            weights.write_bytes((2**40).to_bytes(8, "little") + weights.read_bytes()[8:])
        case "pickle":
            weights.rename(directory / "pytorch_model.bin")
        case "no config":
            (directory / "config.json").unlink()
        case "other width":
            config = json.loads((directory / "config.json").read_text())
            (directory / "config.json").write_text(json.dumps(config | {"hidden_size": 96}))
        case "config is a list":
            (directory / "config.json").write_text("[]")


DAMAGES = {
    "no tokenizer": "has no tokenizer.json and no vocab.txt",
    "truncated": "model.safetensors:",
    "lying header": "model.safetensors:",
    "pickle": "fetch it again: is neither a ZIP archive nor a pickle",
    "no config": "it has no config.json",
    "other width": "mis-shaped: ",
    "config is a list": "holds no JSON object",
}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("command", ["evaluate", "predict", "teacher"])
def test_a_damaged_model_directory(runs, tmp_path, capsys, how, command):
    shutil.copytree(runs / "teacher", tmp_path / "model")
    damage(tmp_path / "model", how)
    argv = {
        "evaluate": ["evaluate", "--task", "csv", "--data", runs / "test.csv", "--model", tmp_path / "model"],
        "predict": ["predict", "--model", tmp_path / "model", "--text", "a"],
        "teacher": ["train", *data_of(runs), *FAST, "--model", "tiny-student", "--tokenizer", runs / "teacher"]
        + ["--output", tmp_path / "out", "--teacher", tmp_path / "model"],
    }[command]
    status, _, error = run(capsys, *argv)
    assert status == 2 and error.startswith("error: ") and DAMAGES[how] in error
    assert not (tmp_path / "out").exists()


def test_a_teacher_with_other_labels_or_another_head_is_refused(runs, tmp_path, capsys):
    tokenizer = load_tokenizer(runs / "teacher")
    labels = tuple(sorted(WORDS))
    cases = [
        (
            tokenizer,
            ("space", "sport", "cooking"),
            "sequence",
            "only the teacher knows cooking; it does not know trade",
        ),
        (tokenizer, labels, "token", "has a token head, csv needs a sequence head"),
    ]
    for i, (its_tokenizer, its_labels, head, message) in enumerate(cases):
        folder = tmp_path / f"teacher{i}"
        save_model(tiny_model(head, its_labels, vocab_size=its_tokenizer.vocab_size), folder)
        its_tokenizer.save(folder, 24)
        argv = [
            "train",
            *data_of(runs),
            *FAST,
            "--model",
            runs / "teacher",
        ]
        status, _, error = run(capsys, *argv, "--teacher", folder, "--output", tmp_path / "out")
        assert status == 2 and message in error
        assert not (tmp_path / "out").exists()


def test_a_teacher_that_knows_more_labels_gives_them_to_the_student(runs, tmp_path, capsys):
    """As where few texts have labels, and those without are of the other ones, too. Not where labels are numbers."""
    tokenizer, few = load_tokenizer(runs / "teacher"), tmp_path / "few.csv"
    for i, (own, data) in enumerate(((("space", "sport", "trade"), ("space", "sport")), (("0", "1", "2"), ("0", "1")))):
        folder, output = tmp_path / f"teacher{i}", tmp_path / f"out{i}"
        save_model(tiny_model("sequence", own, vocab_size=tokenizer.vocab_size), folder)
        tokenizer.save(folder, 24)
        few.write_text("text,label\n" + "".join(f"a goal {n},{data[n % 2]}\n" for n in range(12)))
        argv = ["train", "--task", "csv", "--train", few, "--dev", "25%", *FAST, "--model", runs / "teacher"]
        argv += ["--teacher", folder, "--output", output, "--cache", tmp_path / "cache"]
        status, out, error = run(capsys, *argv)
        if own[0].isdecimal():
            assert status == 2 and "only the teacher knows 2" in error
        else:
            assert (
                status == 0 and "the student gets its teacher's 3 labels, not those of the data: some are not in" in out
            )
            assert load_config(output).labels == own


BAD_FLAGS = {
    "learning rate 0": (["--learning-rate", "0"], "--learning-rate must be more than 0"),
    "alpha 2": (["--alpha", "2"], "--alpha must lie between 0 and 1"),
    "nan temperature": (["--temperature", "nan"], "--temperature must be more than 0"),
    "odd accumulation": (["--accumulation", "3"], "cannot be cut into 3 equal parts"),
    "limit": (["--limit", "many"], "--limit many: must be a number"),
    "too long": (["--max-length", "4000"], "has 128 positions, 4000 are needed; give --max-length 128 or less"),
    "no such layer": (["--model", "TEACHER", "--init-layers", "0,5"], "there is no layer 5"),
    "layers of a size": (["--init-layers", "0"], "--model is a size here"),
    "no such device": (["--device", "mps"], "--device mps: PyTorch finds no such device"),
    "dev of 0%": (["--dev", "0%"], "--dev 0%: leaves none"),
    "no such model": (["--model", "bert-huge"], "`make weights MODEL=bert-huge`), and no size (random"),
    "warm-up below 0": (["--warmup-steps", "-1"], "--warmup-steps must be 0 or more"),
    "dropout 1": (["--dropout", "1"], "--dropout must be at least 0 and below 1"),
    "no such dropout": (["--attention-dropout", "-0.5"], "--attention-dropout must be at least 0 and below 1 (or -1)"),
    "out of scope 1": (["--oos-threshold", "1"], "--oos-threshold must be at least 0 and below 1"),
    "label threshold 2": (["--label-threshold", "2"], "--label-threshold must lie between 0 and 1, not 2"),
    "a blank separator": (["--label-separator", " "], "--label-separator must not be blank"),
    "null threshold 2": (["--null-threshold", "2"], "--null-threshold must lie between 0 and 1"),
    "two tokenizers": (["--model", "TEACHER", "--tokenizer", "TEACHER"], "--tokenizer is for a size"),
    "vocabulary of a directory": (["--model", "TEACHER", "--vocab-size", "80"], "--vocab-size is for a size"),
    "two vocabularies": (["--tokenizer", "TEACHER", "--vocab-size", "80"], "leave one of them out"),
    "vocabulary of 3": (["--vocab-size", "3"], "--vocab-size 3: must lie between 10 and 1,000,000"),
    "no end to a norm": (["--max-grad-norm", "inf"], "--max-grad-norm: must be at most 1,073,741,824, not inf"),
    "temperature 1e200": (["--temperature", "1e200"], "--temperature: must be at most"),
    "epochs of 400 digits": (["--epochs", "1" + "0" * 400], "--epochs: must be at most"),
    "question length": (["--question-length", "9" * 20], "--question-length: must be at most"),
    "a teacher without name": (["--teacher", ""], "--teacher is empty; give a name, or leave it out"),
    "no model for copies": (["--augment", "1", "--augment-model", ""], "--augment-model is empty; give a name"),
    "force alone": (["--force"], "--force is about --resume"),
    "a name of 5000 letters": (["--dev", "n" * 5000], "File name too long"),
}  # fmt: skip


@pytest.mark.parametrize("flags, message", BAD_FLAGS.values(), ids=BAD_FLAGS)
def test_bad_flags(runs, tmp_path, capsys, flags, message):
    flags = [str(runs / "teacher") if flag == "TEACHER" else flag for flag in flags]
    argv = [
        "train",
        *data_of(runs),
        "--model",
        "tiny-student",
        "--threads",
        1,
    ]
    status, _, error = run(capsys, *argv, "--output", tmp_path / "out", *flags)
    assert status == 2 and error.startswith("error: ") and message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["train", "--nosuch\nx\x1b[31m"], "the following arguments are required: --task, "),
        (["predict", "--model", "x", "--nosuch\nx\x1b[31m"], r"unrecognized arguments: --nosuch\nx\x1b[31m; "),
        (["predict", "--model", "x", "--task", "nosuch"], "argument --task: invalid choice: 'nosuch' (choose from "),
        (["compare", "--models", "x"], "argument --models: 'x' is not NAME=DIR, for example "),
    ],
)
def test_a_wrong_flag_is_answered_in_one_line_that_names_its_commands_help(capsys, flags, message):
    with pytest.raises(SystemExit) as stopped:
        main(flags)
    out, error = capsys.readouterr()
    assert stopped.value.code == 2 and out == "" and error.startswith(f"error: {message}"), error
    assert error.endswith(f"; python -m kd_scratch {flags[0]} --help shows what there is\n") and error.count("\n") == 1


def test_the_output_may_not_be_a_file_or_hold_a_run(runs, tmp_path, capsys):
    argv = [
        "train",
        *data_of(runs),
        *FAST,
        "--model",
        "tiny-student",
    ]
    before = {path: path.read_bytes() for path in (runs / "teacher").iterdir()}
    assert "already holds a run" in run(capsys, *argv, "--output", runs / "teacher")[2]
    assert {path: path.read_bytes() for path in (runs / "teacher").iterdir()} == before
    assert "is a file" in run(capsys, *argv, "--output", runs / "train.csv")[2]


def test_from_the_shell_a_mistake_is_one_line_and_exit_2(tmp_path):
    argv = [
        sys.executable,
        "-m",
        "kd_scratch",
        "evaluate",
        "--task",
        "csv",
        "--data",
        "x.csv",
        "--model",
        str(tmp_path / "no"),
    ]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"error: {tmp_path / 'no'}: no such model directory\n"


@pytest.mark.parametrize(
    "command, flags, message",
    [
        ("evaluate", ["--data", "dev.csv", "--model", "TEACHER", "--split", "val"], "the files of csv have no splits"),
        ("evaluate", ["--data", "header.csv", "--model", "TEACHER"], "header.csv: holds no examples to evaluate on"),
        ("compare", ["--data", "dev.csv", "--models", "a=TEACHER", "a=TEACHER"], "--models: a name is used twice"),
        ("compare", ["--data", "dev.csv", "--models", "TEACHER"], "is not NAME=DIR, for example teacher="),
        (
            "train",
            ["--train", "x", "--dev", "x", "--model", "TEACHER", "--init-layers", "0;2"],
            "is not a list of layer",
        ),
    ],
)
def test_bad_flags_of_other_commands(runs, tmp_path, capsys, command, flags, message):
    (tmp_path / "header.csv").write_text("text,label\n")
    shutil.copy(runs / "dev.csv", tmp_path)
    words = [str(tmp_path / flag) if flag.endswith(".csv") else flag for flag in flags]
    words = [word.replace("TEACHER", str(runs / "teacher")) for word in words]
    output = ["--output", tmp_path / "out"] if command != "evaluate" else []
    try:
        status = main([command, "--task", "csv", *words, *map(str, output)])
    except SystemExit as usage:  # argparse's own: usage and one line
        status = usage.code
    error = capsys.readouterr().err
    assert status == 2 and message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_predict_needs_a_model_with_a_task(runs, tmp_path, capsys, tokenizer):
    save_model(tiny_model(head=None, vocab_size=tokenizer.vocab_size), tmp_path / "bare")
    tokenizer.save(tmp_path / "bare", max_length=24)
    status, _, error = run(capsys, "predict", "--model", tmp_path / "bare", "--text", "fox")
    assert status == 2 and "has no head for a task; predict needs a model trained for a task" in error


def test_a_vocabulary_from_more_examples_than_enough(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("kd_scratch.training.examples.VOCABULARY_SAMPLE", 10)
    argv = ["train", "--task", "csv", "--train", runs / "train.csv", "--dev", "10%", *FAST, "--model", "tiny-student"]
    status, out, _ = run(capsys, *argv, "--vocab-size", 60, "--output", tmp_path / "out", "--check")
    assert status == 0 and "pieces, the model has room for" in out and not (tmp_path / "out").exists()


def test_a_name_that_is_not_utf_8_is_refused_whatever_flag_has_it(runs, tmp_path, capsys):
    for flag in ("--train", "--output", "--text-column"):
        argv = ["train", *data_of(runs), *FAST, "--model", "tiny-student", "--output", tmp_path / "out"]
        status, _, error = run(capsys, *argv, flag, "x\udce9")
        assert status == 2 and error == f"error: {flag}: 'x\\udce9' is not UTF-8"


def test_check_finds_what_training_would_refuse(runs, tmp_path, capsys):
    (tmp_path / "dev.csv").write_text("text,label\n" + "goal match,sport\n" * 3000 + "x,unheard of\n")
    argv = ["train", *data_of(runs), *FAST, "--model", "tiny-student", "--vocab-size", 80, "--output", tmp_path / "out"]
    status, _, error = run(capsys, *argv, "--check", "--dev", tmp_path / "dev.csv")
    assert status == 2 and "dev.csv:3002: label 'unheard of'" in error
    status, _, error = run(capsys, *argv, "--check", "--amp", "fp16")
    assert status == 2 and "--amp fp16 needs a CUDA device" in error
    assert run(capsys, *argv, "--check")[0] == 0 and not (tmp_path / "out").exists()


def test_labels_beyond_what_the_terminal_knows_are_printed_all_the_same(runs, tmp_path):
    (tmp_path / "x.csv").write_text(
        "text,label\n" + "".join(f"goal {i},木\nmatch {i},é\n" for i in range(10)), encoding="utf-8"
    )
    argv = [
        "train",
        "--task",
        "csv",
        "--train",
        tmp_path / "x.csv",
        "--dev",
        "20%",
        "--model",
        "tiny-student",
        "--check",
    ]
    argv = [sys.executable, "-m", "kd_scratch", *map(str, [*argv, "--vocab-size", 50, "--output", tmp_path / "out"])]
    done = subprocess.run(argv, capture_output=True, cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and rb"\xe9, \u6728" in done.stdout, done.stderr


def test_a_process_whose_memory_cannot_be_measured_is_one_line(runs, tmp_path):
    with pytest.raises(UserError, match="the process that measures its memory failed: .*no such model directory"):
        peak_memory(tmp_path / "none", 8, torch.device("cpu"))
    assert peak_memory(runs / "teacher", 8, torch.device("mps")) is None


def test_an_output_that_nobody_reads_or_that_is_full_is_one_line(runs, tmp_path):
    argv = [sys.executable, "-m", "kd_scratch", "evaluate", *map(str, data_of(runs)[:2]), "--data", runs / "dev.csv"]
    argv = [*argv, "--model", runs / "teacher", "--device", "cpu", "--predictions", tmp_path / "found.json"]
    argv = [str(word) for word in argv]
    receive, send = os.pipe()
    os.close(receive)
    for stdout, reason in ((send, "Broken pipe"), (os.open("/dev/full", os.O_WRONLY), "No space left on device")):
        done = subprocess.run(argv, stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        os.close(stdout)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == f"error: the output: {reason}" and "Traceback" not in done.stderr
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT) as process:
        process.stdout.readline()
        process.stdout.close()  # as `head` does
    assert json.loads((tmp_path / "found.json").read_text()), "nothing is lost: files are written first"


def test_every_command_has_help(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        out = capsys.readouterr().out
        assert stop.value.code == 0
        flags = {"train": ("--seed", "--device", "--threads"), "report": (), "convert": (), "export": ()}
        flags |= dict.fromkeys(("quantize", "benchmark", "prune", "calibrate"), ("--threads",))
        flags["trace"] = ("--seed", "--threads")  # one example, on the CPU
        has = flags.get(command, ("--device", "--threads"))  # without random numbers there is no --seed
        assert {flag for flag in ("--seed", "--device", "--threads") if f"  {flag} " in out} == set(has)


def test_the_list_of_commands_has_the_first_line_of_each(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    for name, module in COMMANDS.items():
        line = module.__doc__.split("\n")[0]
        assert f"{name} {line.removesuffix(f' `python -m kd_scratch {name}`')}" in out


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("trace", "not given: what the student was distilled with"),
        ("evidence", "not given: all that are possible here"),
    ],
)
def test_the_help_says_what_is_taken_where_losses_are_not_given(capsys, command, text):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert text in out and all(f" {name} (" in out for name in HIDDEN_LOSSES)


def test_text_without_labels_teaches_through_the_teacher(runs, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("goal shares\n\n  a moon of the bank \r\nthe team\n")
    argv = ["train", *data_of(runs), *FAST, "--model", runs / "teacher", "--cache", tmp_path, "--alpha", "0.9"]
    distil = [*argv, "--teacher", runs / "teacher"]
    status, out, _ = run(capsys, *distil, "--output", tmp_path / "with", "--unlabelled", text)
    assert status == 0 and "51 inputs" in out and f"3 texts of {text} have no label" in out
    assert run(capsys, *distil, "--output", tmp_path / "without")[0] == 0
    assert fingerprint(load_model(tmp_path / "with")) != fingerprint(load_model(tmp_path / "without"))
    by_states = [*distil, "--alpha", "0", "--losses", "hidden", "--labelled", "8", "--output", tmp_path / "by-states"]
    status, out, err = run(capsys, *by_states, "--unlabelled", text)
    assert status == 0 and "51 inputs" in out and "the teacher is not used" not in out, err
    for extra, said in (
        (["--alpha", "0"], "only a teacher can teach"),
        (["--unlabelled", tmp_path / "none.txt"], "none.txt: no such file"),
    ):
        status, _, err = run(capsys, *distil, "--output", tmp_path / "no", "--unlabelled", text, *extra)
        assert status == 2 and said in err, err
    status, _, err = run(capsys, *argv, "--output", tmp_path / "no", "--unlabelled", text)
    assert status == 2 and "give --teacher" in err
    text.write_text(" \n\t\n")
    status, _, err = run(capsys, *distil, "--output", tmp_path / "no", "--unlabelled", text)
    assert status == 2 and "nothing but blank lines" in err and not (tmp_path / "no").exists()


def runs_of(monkeypatch) -> list:
    """The runs of all `train` commands from here on, as they are when training begins."""
    started = []
    real = kd_scratch.training.run.train_model

    def train_model(run, force):
        started.append(run)
        return real(run, force)

    monkeypatch.setattr(kd_scratch.training.run, "train_model", train_model)
    return started


def test_several_teachers_speak_with_the_mean_of_their_logits(runs, tmp_path, capsys, monkeypatch):
    """The second one knows the labels in another order; what happens inside is compared with the first."""
    first, started = load_model(runs / "teacher"), runs_of(monkeypatch)
    order = [2, 0, 1]
    labels = tuple(first.config.labels[i] for i in order)
    second = tiny_model(labels=labels, seed=3, vocab_size=first.config.vocab_size)
    save_model(second, tmp_path / "second")
    load_tokenizer(runs / "teacher").save(tmp_path / "second", 24)
    argv = ["train", *data_of(runs), *FAST, "--model", runs / "teacher", "--cache", tmp_path, "--losses", "hidden"]
    argv += ["--teacher", runs / "teacher", tmp_path / "second", "--output", tmp_path / "run"]
    assert run(capsys, *argv)[0] == 0
    [started_run] = started
    one, other = (
        compute_logits(model, started_run.train_inputs, torch.device("cpu"), title="") for model in (first, second)
    )
    back = [labels.index(label) for label in started_run.model.config.labels]
    assert started_run.model.config.labels == first.config.labels != labels
    np.testing.assert_allclose(started_run.teacher_logits, (one + other[:, back]) / 2, atol=1e-5)
    assert fingerprint(started_run.live_teacher) == fingerprint(first)
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["teacher"] == f"{fingerprint(first)} {fingerprint(second)}"


def test_a_teacher_is_asked_only_for_what_the_loss_needs(runs, tmp_path, capsys, monkeypatch):
    started = runs_of(monkeypatch)
    argv = ["train", *data_of(runs), *FAST, "--model", runs / "teacher", "--cache", tmp_path / "cache"]
    distil = [*argv, "--teacher", runs / "teacher", "--alpha", "0"]
    inside = ["--losses", "hidden"]
    for i, more in enumerate(([], inside, [*inside, "--alpha", "0.5"])):
        status, out, _ = run(capsys, *distil, *more, "--output", tmp_path / str(i))
        assert status == 0 and ("--alpha 0: the teacher is not used; only the labels teach" in out) == (not more)
    asked = [(each.teacher_logits is not None, each.live_teacher is not None) for each in started]
    assert asked == [(False, False), (False, True), (True, True)]
    mean = ("--teacher-mean", "probabilities")
    status, out, _ = run(capsys, *argv, "--alpha", "0", *mean, "--output", tmp_path / "plain")
    assert status == 0 and "note: --alpha: there is no --teacher, so nothing is distilled" in out
    assert "note: --teacher-mean probabilities: there are not several teachers, so there is no mean" in out
    same = fingerprint(load_model(tmp_path / "plain"))
    assert fingerprint(load_model(tmp_path / "0")) == same != fingerprint(load_model(tmp_path / "1"))


def test_evaluate_takes_the_test_split_where_a_file_has_splits(runs, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"test": [["a", "b"]], "val": [["c", "d"]]}))
    test = read_evaluation_set(TASKS["clinc"], path, "", DataConfig())
    assert [example.text for example in test.examples] == ["a"] and test.split == "test"


@pytest.mark.parametrize(
    ("name", "content", "split", "known"),
    [
        ("all.json", {"train": [["a", "b"]], "val": [["c", "d"]], "test": [["e", "f"]]}, "train", True),
        ("all.json", {"train": [["a", "b"]], "val": [["c", "d"]], "test": [["e", "f"]]}, "test", False),
        ("train.jsonl", {"text": "a", "label": "b"}, "test", True),  # as a file of one split is read
    ],
)
def test_a_split_that_was_not_trained_on_is_new_in_a_known_file(tmp_path, monkeypatch, name, content, split, known):
    path = tmp_path / name
    path.write_text(json.dumps(content) + "\n")
    examples = read_evaluation_set(TASKS["clinc"], path, split, DataConfig())
    records = {"it": {"train": sha256_of_file(path)}, "other": {"train": "x", "unlabelled": None}, "none": None}
    monkeypatch.setattr(kd_scratch.evaluation.evaluate, "origin_record", lambda path, say: records[path])
    note = f"it was trained on {path}: its scores here say nothing about new texts"
    assert notes_of_training(records, examples, examples) == [note] * known
    records["it"] = {"unlabelled": sha256_of_file(path)}
    assert trained_on("it", examples) == (name == "train.jsonl")


def test_a_file_that_was_trained_on_is_noted_by_whatever_scores_on_it(runs, tmp_path, capsys, no_memory_processes):
    task, data = ["--task", "csv"], ["--data", runs / "train.csv"]
    notes = [f"{runs / name} was trained on {runs / 'train.csv'}: its scores here say nothing about new texts"
             for name in ("teacher", "distilled")]  # fmt: skip
    pair = ["--student", runs / "distilled", "--teacher", runs / "teacher", "--dev", runs / "dev.csv"]
    models = ["--models", *(f"{name}={runs / name}" for name in ("teacher", "distilled")), "--output", tmp_path / "c"]
    for argv, found in (
        (["evaluate", "--model", runs / "teacher"], notes[:1]),
        (["compare", *models], notes),
        (["cascade", *pair, "--keep", "0.1", "--output", tmp_path / "page.html"], notes[::-1]),
    ):
        status, out, _ = run(capsys, *argv, *task, *data)
        assert status == 0 and [line for line in out.split("\n") if "was trained on" in line][:2][: len(found)] == [
            f"note: {note}" for note in found
        ]
        status, out, _ = run(capsys, *argv, *task, *data, "--json")
        assert json.loads(out)["notes"] == found
    assert notes[0] in (tmp_path / "page.html").read_text()
    assert f"{notes[0]}. {notes[1]}. 48 examples" in (tmp_path / "c" / "comparison.txt").read_text()
    assert main([*map(str, [*argv, *task, "--data", runs / "test.csv"])]) == 0
    assert "was trained on" not in capsys.readouterr().out


def test_oos_without_such_texts_and_a_tokenizer_that_is_not_there_are_refused(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"train": [["a", "b"]]}))
    with pytest.raises(UserError, match="--oos needs out-of-scope texts, there is no key 'oos_train'"):
        TASKS["clinc"].read(tmp_path / "x.json", "train", DataConfig(oos=True))
    with pytest.raises(UserError, match="none: no such model directory"):
        load_tokenizer(tmp_path / "none")


def test_a_model_that_does_not_fit_its_tokenizer_or_its_task_is_refused(tokenizer):
    with pytest.raises(UserError, match=f"x: the model has 50 pieces, the tokenizer {tokenizer.vocab_size}"):
        check_fit(tiny_model(vocab_size=50), tokenizer, 24, "x")
    with pytest.raises(UserError, match="x: has one token type only; two texts need two"):
        check_fit(tiny_model(head="span", vocab_size=tokenizer.vocab_size, token_types=1), tokenizer, 24, "x")


def test_notes_tell_of_a_long_warm_up(runs, tmp_path, capsys):
    argv = ["train", *data_of(runs), *FAST, "--model", "tiny-student", "--vocab-size", 80, "--warmup-steps", 1000]
    status, out, _ = run(capsys, *argv, "--epochs", 1, "--limit", 16, "--output", tmp_path / "out")
    assert status == 0 and "note: most of the 2 steps are warm-up; consider fewer --warmup-steps" in out


def test_what_is_read_is_never_overwritten_nor_is_a_device(runs, tmp_path, capsys):
    shutil.copy(runs / "dev.csv", tmp_path)
    shutil.copytree(runs / "teacher", tmp_path / "model")
    shutil.copytree(runs / "teacher", tmp_path / "other")
    os.mkfifo(tmp_path / "pipe")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    evaluate = ["evaluate", "--task", "csv", "--data", tmp_path / "dev.csv", "--model", tmp_path / "model"]
    predict = ["predict", "--model", tmp_path / "model", "--text", "goal"]
    for argv, message in (
        ([*evaluate, "--output", tmp_path / "dev.csv"], "dev.csv: would overwrite"),
        ([*evaluate, "--predictions", tmp_path / "model" / "model.safetensors"], "model.safetensors: would overwrite"),
        *(
            ([*evaluate, "--output", tmp_path / model / name], f"{model}/{name}: would overwrite")
            for model, name in [
                ("model", "training.json"),
                ("other", "training.json"),
                ("other", "model.safetensors"),
                *(("other", name) for name in (QUANTIZATION, CALIBRATION, PRUNING, CARD)),
            ]
        ),
        ([*evaluate, "--output", tmp_path / "a", "--predictions", tmp_path / "a"], "give each its own file"),
        ([*evaluate, "--output", tmp_path / "pipe"], "pipe: cannot be written: is a folder, pipe or device"),
        ([*predict, "--output", tmp_path / "model" / "config.json"], "config.json: would overwrite"),
        ([*predict, "--output", ""], "is a folder, pipe or device; give the name of a file"),
    ):
        status, _, error = run(capsys, *argv)
        assert status == 2 and message in error, error
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_weights_that_are_no_numbers_give_no_probabilities(tmp_path, capsys, tokenizer):
    model = tiny_model(vocab_size=tokenizer.vocab_size)
    with torch.no_grad():
        model.head.classifier.bias[0] = float("nan")
    save_model(model, tmp_path / "model")
    tokenizer.save(tmp_path / "model", max_length=24)
    status, out, error = run(capsys, "predict", "--model", tmp_path / "model", "--text", "fox")
    assert status == 2 and "logits that are not finite numbers" in error and "nan" not in out


def test_too_little_memory_is_one_line_and_other_faults_keep_their_traceback(runs, capsys, monkeypatch):
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory"), ValueError("ours")):

        def fail(arguments, error=error):
            raise error

        monkeypatch.setattr("kd_scratch.commands.predict.command", fail)
        if isinstance(error, ValueError):
            with pytest.raises(ValueError):
                main(["predict", "--model", "x"])
        else:
            assert main(["predict", "--model", "x"]) == 2
            assert capsys.readouterr().err.startswith("error: not enough memory: ")


def test_a_closed_output_is_no_traceback(runs, tmp_path):
    kd = f"{sys.executable} -m kd_scratch"
    for command, status in (
        (f"{kd} predict --model {runs / 'teacher'} --text goal --device cpu >&-", 0),
        (f"{kd} predict --model {runs / 'teacher'} --text goal --device cpu 2>&-", 0),
        (f"{kd} train --task csv --train x --dev x --model tiny-student --resume --output {tmp_path}/o >/dev/full", 2),
    ):
        buffered = os.environ | {"PYTHONUNBUFFERED": ""}  # so that what is printed fails at the very end
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, env=buffered)
        assert done.returncode == status, (command, done.stderr)
        assert "Traceback" not in done.stderr and done.stderr.count("\n") <= 1


def test_names_that_cannot_be_looked_at_are_one_line(capsys):
    data = ["--task", "csv", "--train", "x", "--dev", "x"]
    for argv in (
        ["predict", "--model", f"a\nb\033[2J{'a' * 300}", "--text", "goal"],
        ["train", *data, "--model", "tiny-student", "--output", "a" * 300],
    ):
        assert main(argv) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ") and "\x1b" not in err and err.count("\n") == 1


@pytest.mark.usefixtures("no_memory_processes")
def test_json_is_all_that_json_prints(runs, tmp_path, capsys):
    data = ["--task", "csv", "--data", runs / "test.csv"]
    models = [f"{name}={runs / name}" for name in ("teacher", "distilled")]
    commands = {
        "evaluate": [*data, "--model", runs / "teacher", "--output", tmp_path / "m.json"],
        "predict": ["--model", runs / "teacher", "--text", "moon probe", "--output", tmp_path / "p.json"],
        "compare": [*data, "--models", *models, "--output", tmp_path / "c"],
        "quantize": ["--model", runs / "teacher", "--output", tmp_path / "int8"],
        "prune": [*data, "--model", runs / "teacher", "--output", tmp_path / "few", "--words"],
        "benchmark": ["--models", *models, "--shapes", "1x8", "--output", tmp_path / "b.json"],
    }
    written = {"evaluate": "m.json", "predict": "p.json", "compare": "c/comparison.json",
               "quantize": "int8/quantization.json", "prune": "few/pruning.json", "benchmark": "b.json"}  # fmt: skip
    for name, argv in commands.items():
        status = main([name, *map(str, argv), "--json"])
        out, err = capsys.readouterr()
        assert status == 0 and err == "" and json.loads(out) == json.loads((tmp_path / written[name]).read_text()), name
    status = main(["train", *map(str, data_of(runs)), *FAST, "--model", str(runs / "baseline"), "--output",
                   str(tmp_path / "t"), "--cache", str(tmp_path / "cache"), "--json"])  # fmt: skip
    out, _ = capsys.readouterr()
    assert status == 0 and json.loads(out) == json.loads((tmp_path / "t" / "training.json").read_text())


def test_json_of_a_check_is_what_was_found_and_errors_stay_errors(runs, tmp_path, capsys):
    argv = [
        "train",
        *map(str, data_of(runs)),
        *FAST,
        "--model",
        str(runs / "baseline"),
        "--output",
        str(tmp_path / "t"),
    ]
    assert main([*argv, "--check", "--json"]) == 0
    assert "labels" in " ".join(json.loads(capsys.readouterr().out))
    status, out, err = run(capsys, "evaluate", "--task", "csv", "--data", tmp_path / "no.csv", "--model",
                           runs / "teacher", "--json")  # fmt: skip
    assert status == 2 and out == "" and err.startswith("error: ")


def test_quiet_prints_the_result_alone(runs, capsys):
    argv = ["evaluate", "--task", "csv", "--data", runs / "test.csv", "--model", runs / "teacher"]
    loud, quiet = run(capsys, *argv)[1], run(capsys, *argv, "--quiet")[1]
    assert loud.startswith("evaluating ") and quiet == loud.split("\n", 1)[1]


@pytest.mark.usefixtures("no_memory_processes")
def test_what_commands_print_fits_80_columns(runs, tmp_path, capsys):
    models = [f"{name}={runs / name}" for name in ("teacher", "baseline", "distilled")]
    data = ["--task", "csv", "--data", runs / "test.csv"]
    for argv in (["compare", *data, "--models", *models, "--output", tmp_path / "c"],
                 ["evaluate", *data, "--model", runs / "teacher"],
                 ["predict", "--model", runs / "teacher", "--text", "a very long text " * 9]):  # fmt: skip
        out = run(capsys, *argv, "--quiet")[1]
        tables = [block for block in out.split("\n\n") if "\n--" in block]
        assert tables and all(len(line) <= 80 for block in tables for line in block.split("\n")), argv[0]


def test_json_is_ascii_and_a_check_is_not_hushed(runs, tmp_path, capsys):
    assert main(["predict", "--model", str(runs / "teacher"), "--text", "möon", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.isascii() and "möon" in json.loads(out)
    argv = [
        "train",
        *data_of(runs),
        *FAST,
        "--model",
        runs / "baseline",
        "--output",
        tmp_path / "t",
        "--check",
        "--quiet",
    ]
    assert main([str(a) for a in argv]) == 0 and "labels" in capsys.readouterr().out
