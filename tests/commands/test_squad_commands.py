"""Question answering through the command line: train, distil, evaluate, compare, predict, and bad input."""

import json

import pytest

from data_scripts import make_sample
from kd_scratch.__main__ import main
from kd_scratch.checkpoints.safetensors import load_file
from kd_scratch.tasks.squad_metric import official_scores
from tests.pages.test_report import check_page

FAST = ["--epochs", "2", "--batch-size", "8", "--learning-rate", "1e-3", "--max-length", "96", "--overlap", "24",
        "--device", "cpu", "--threads", "1"]  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a sample, a teacher, a baseline and a distilled student, made through the command line."""
    folder = tmp_path_factory.mktemp("squad")
    make_sample.make_squad(folder, rows=60)
    data = ["--task", "squad", "--train", str(folder / "squad" / "train.json"), "--dev", "20%", *FAST]
    teacher = ["--model", "tiny-student", "--vocab-size", "300", "--output", str(folder / "teacher")]
    baseline = ["--model", str(folder / "teacher"), "--init-layers", "0", "--output", str(folder / "baseline")]
    distilled = baseline[:-1] + [str(folder / "distilled"), "--teacher", str(folder / "teacher")]
    for extra in (teacher, baseline, distilled):
        assert main(["train", *data, *extra, "--cache", str(folder / "cache")]) == 0
    return folder


def run(capsys, *argv) -> tuple[int, str, str]:
    """Exit status, stdout, and the last line of stderr."""
    status = main([str(a) for a in argv])
    out, err = capsys.readouterr()
    return status, out, err.replace("\r", "\n").split("\n")[-2] if err.strip() else ""


def questions_of(file) -> list[dict]:
    return [qa for p in json.loads(file.read_text())["data"][0]["paragraphs"] for qa in p["qas"]]


def test_distilled_and_baseline_start_alike_and_end_apart(runs):
    records = [json.loads((runs / name / "training.json").read_text()) for name in ("baseline", "distilled")]
    assert records[0]["initial weights"] == records[1]["initial weights"]
    assert set(records[0]["history"][0]["dev"]) == {"exact_match", "f1"}
    weights = [load_file(runs / name / "model.safetensors") for name in ("baseline", "distilled")]
    assert any((weights[0][key] != weights[1][key]).any() for key in weights[0])


def test_predictions_are_written_in_the_official_form_and_score_as_evaluate_says(runs, tmp_path, capsys):
    data = runs / "squad" / "test.json"
    status, out, _ = run(capsys, "evaluate", "--task", "squad", "--data", data, "--model", runs / "distilled",
                         "--overlap", 24, "--output", tmp_path / "m.json",
                         "--predictions", tmp_path / "p.json")  # fmt: skip
    assert status == 0
    assert "by gold answer" in out and "surest mistakes" in out
    said, questions = json.loads((tmp_path / "p.json").read_text()), questions_of(data)
    assert {qa["id"] for qa in questions} == set(said)
    contexts = [p["context"] for p in json.loads(data.read_text())["data"][0]["paragraphs"]]
    assert all(answer and any(answer in context for context in contexts) for answer in said.values())
    rows = official_scores([(qa["id"], [a["text"] for a in qa["answers"]]) for qa in questions], said, False)
    metrics = json.loads((tmp_path / "m.json").read_text())["metrics"]
    assert metrics["f1"] == pytest.approx(sum(row[2] for row in rows) / len(rows))
    assert metrics["exact_match"] == pytest.approx(sum(row[1] for row in rows) / len(rows))


def test_a_file_of_version_2_adds_the_figures_by_answerability_and_a_threshold(runs, tmp_path, capsys):
    content = json.loads((runs / "squad" / "test.json").read_text())
    for i, qa in enumerate(qa for p in content["data"][0]["paragraphs"] for qa in p["qas"]):
        qa["is_impossible"] = i % 3 == 0
        qa["answers"] = [] if qa["is_impossible"] else qa["answers"]
    (tmp_path / "v2.json").write_text(json.dumps(content))
    for threshold in (0.0, 1.0):
        status, out, _ = run(capsys, "evaluate", "--task", "squad", "--data", tmp_path / "v2.json", "--overlap", 24,
                             "--model", runs / "teacher", "--null-threshold", threshold,
                             "--output", tmp_path / "m.json", "--predictions", tmp_path / "p.json")  # fmt: skip
        assert status == 0 and "best_f1_threshold" in out
        metrics = json.loads((tmp_path / "m.json").read_text())["metrics"]
        said = json.loads((tmp_path / "p.json").read_text())
        assert metrics["unanswerable_f1"] == 1 - threshold, "0: answers nothing; 1: always answers"
        assert all((text == "") == (threshold == 0) for text in said.values())
        assert metrics["best_f1"] >= metrics["f1"]


@pytest.mark.usefixtures("no_memory_processes")
def test_compare_shows_exact_match_f1_and_agreement_of_answers(runs, tmp_path, capsys):
    models = [f"{name}={runs / name}" for name in ("teacher", "baseline", "distilled")]
    status, out, _ = run(capsys, "compare", "--task", "squad", "--data", runs / "squad" / "test.json", "--overlap", 24,
                         "--limit", 10, "--models", *models, "--output", tmp_path / "c")  # fmt: skip
    assert status == 0
    assert "exact_match" in out.split("\n\n")[1]
    rows = json.loads((tmp_path / "c" / "comparison.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["teacher", "baseline", "distilled"]
    assert all(row["interval"][0] <= row["f1"] <= row["interval"][1] for row in rows)
    assert rows[2]["difference"] == pytest.approx(rows[2]["f1"] - rows[0]["f1"])
    assert rows[0]["agreement"] == 1.0 and all(row["latency_p50_ms"] > 0 and 0 <= row["f1"] <= 1 for row in rows)
    said = check_page((tmp_path / "c" / "comparison.html").read_text())
    assert "Confusions" not in said and "Where teacher does better than distilled" in said


def test_predict_prints_answers_with_probabilities_and_no_answer_among_them(runs, tmp_path, capsys):
    context = "The Pelmora palace opened in 1883. The Pelmora palace stands in Galwick."
    status, out, _ = run(capsys, "predict", "--model", runs / "distilled", "--context", context, "--output",
                         tmp_path / "p.json",
                         "--question", "When did the Pelmora palace open?", "Where is it?")  # fmt: skip
    assert status == 0
    assert out.startswith("When did the Pelmora palace open?") and "Where is it?" in out
    said = json.loads((tmp_path / "p.json").read_text())
    for answers in said.values():
        assert [a["probability"] for a in answers] == sorted((a["probability"] for a in answers), reverse=True)
        assert all(a["answer"] == context[a["start"] : a["end"]] for a in answers)
        assert sum(a["answer"] == "" for a in answers) == 1


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--text", "x"], "--question and --context"),
        (["--question", "x"], "--question and --context"),
        (["--context", "x"], "--question and --context"),
        (["--question", "x", "--context", "y", "--text", "z"], "and no more"),
        (["--question", "x " * 200, "--context", "y", "--question-length", "95"], "a question of 95;"),
        (["--question", "x", "--context", "y", "--answer-length", "0"], "--answer-length"),
    ],
)
def test_predict_says_which_flags_the_model_needs(runs, capsys, flags, message):
    status, _, error = run(capsys, "predict", "--model", runs / "teacher", *flags)
    assert status == 2 and message in error


def test_bad_input_is_one_line_and_exit_2_and_leaves_nothing(runs, tmp_path, capsys):
    (tmp_path / "bad.json").write_text('{"data": [{"paragraphs": [{"context": "c"}]}]}')
    train = ["train", "--task", "squad", "--dev", runs / "squad" / "dev.json", "--model", "tiny-student", *FAST]
    for file, message in ((tmp_path / "bad.json", "data[0].paragraphs[0].question must be a string"),
                          (tmp_path / "none.json", "no such file"),
                          (runs / "teacher" / "config.json", "data must be a list")):  # fmt: skip
        status, _, error = run(capsys, *train, "--train", file, "--output", tmp_path / "new")
        assert status == 2 and message in error and str(file) in error
    status, _, error = run(capsys, "evaluate", "--task", "agnews", "--data", runs / "squad" / "dev.json", "--model",
                           runs / "teacher")  # fmt: skip
    assert status == 2 and "agnews needs a sequence head" in error
    assert not (tmp_path / "new").exists()


def test_questions_that_cannot_be_trained_on_are_counted_and_said(runs, tmp_path, capsys):
    content = json.loads((runs / "squad" / "train.json").read_text())
    paragraphs = content["data"][0]["paragraphs"]
    qas = [qa for p in paragraphs for qa in p["qas"]]
    qas[0]["answers"][0]["text"] = "nowhere to be found"
    paragraphs[-1]["context"] += " word" * 200
    qas[-1]["answers"] = [{"text": paragraphs[-1]["context"], "answer_start": 0}]  # longer than any window
    (tmp_path / "train.json").write_text(json.dumps(content))
    status, out, _ = run(capsys, "train", "--task", "squad", "--train", tmp_path / "train.json", "--dev",
                         runs / "squad" / "dev.json", "--model", "tiny-student", "--vocab-size", 300, *FAST,
                         "--epochs", 1, "--output", tmp_path / "run")  # fmt: skip
    assert status == 0
    out = " ".join(out.split())
    assert "note: questions left out of training: 1 of 60, their answer is not at answer_start" in out
    assert f"place: {qas[0]['id']}" in out  # fmt: skip
    assert "note: windows left out of training: " in out and "no window of their context holds the whole answer" in out
    assert "windows for each question; " in out and "of the answers are whole in no window" in out
