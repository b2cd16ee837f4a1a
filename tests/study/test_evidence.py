"""The study: its statistics by hand, its tables, sentences and figures, and the command from start to end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch

import kd_scratch.study.results
from kd_scratch.__main__ import main
from kd_scratch.common.errors import UserError
from kd_scratch.common.signals import Interruption, Stopped
from kd_scratch.config import DataConfig, TrainConfig
from kd_scratch.evaluation.significance import BINS, calibration, interval, margin, resampled_sums
from kd_scratch.study import runner
from kd_scratch.study.runner import parse_grid, same_study, seed_list
from kd_scratch.study.summary import difference, references, report, said, summary
from kd_scratch.study.variants import BASELINE, SOFT, Variant, combination, variants
from kd_scratch.tasks import TASKS, Predictions
from kd_scratch.tasks.classification import Example
from kd_scratch.tasks.question_answering import Answer
from kd_scratch.tasks.question_answering import Example as Question
from kd_scratch.tasks.token_classification import Example as Sentence
from tests.commands.test_commands import write_csv
from tests.conftest import ROOT

# --- statistics ---


def test_the_margin_of_a_mean_is_students():
    """The quantiles are those of the usual tables."""
    for n, t in ((2, 12.706), (3, 4.303), (11, 2.228), (12, 2.201), (31, 2.042), (121, 1.980)):
        values = [0.0] * (n - 1) + [1.0]
        deviation = np.sqrt((1 / n) * (1 - 1 / n) * n / (n - 1))
        assert margin(values) == pytest.approx(t * deviation / np.sqrt(n), rel=4e-4), n
    assert margin([0.5]) is None and margin([0.3, 0.3, 0.3]) == 0.0


def test_the_margin_covers_the_mean_in_95_of_100_cases():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(4000, 3))
    hits = np.mean([abs(x.mean()) <= margin(x) for x in samples])
    assert 0.94 < hits < 0.96


def test_calibration_by_hand():
    """Bins of 1/15: three decisions around 0.7, of which one is right, one that is sure and right, one at 0."""
    confidence = np.array([0.70, 0.71, 0.72, 1.0, 0.0])
    right = np.array([True, False, False, True, False])
    error, bins = calibration(confidence, right)
    assert error == pytest.approx((3 * (0.71 - 1 / 3) + 0 + 0) / 5)
    assert len(bins) == BINS and [n for *_, n in bins] == [1, *[0] * 9, 3, *[0] * 3, 1]
    assert bins[10][:2] == pytest.approx((0.71, 1 / 3))


def test_a_model_that_is_right_as_often_as_it_is_sure_has_no_calibration_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(size=200_000)
    assert calibration(confidence, rng.uniform(size=200_000) < confidence)[0] < 0.006
    assert calibration(np.sqrt(confidence), rng.uniform(size=200_000) < confidence)[0] == pytest.approx(1 / 6, abs=0.01)


def test_what_a_model_is_sure_of_by_task():
    examples = [Example("0", "", "a"), Example("1", "", "b"), Example("2", "", "oos", in_scope=False)]
    logits = np.array([[np.log(3), 0], [np.log(4), 0], [0, 9]], np.float32)
    p, right = TASKS["clinc"].confidence(Predictions(TASKS["clinc"], examples, None, logits, ("a", "b"), DataConfig()))
    assert p == pytest.approx([0.75, 0.8]) and right.tolist() == [True, False], "out of scope counts not"
    questions = [Question("q", "?", "x y", ("x",), 0), Question("r", "?", "x y", ("x y",), 0)]
    predictions = Predictions(TASKS["squad"], questions, None, None, (), DataConfig())
    predictions.decisions = [Answer("x", 0, 0, 0.0, 0.9, 0.0, "x"), Answer("y", 0, 0, 0.0, 0.4, 0.0, "y")]
    p, right = TASKS["squad"].confidence(predictions)
    assert p.tolist() == [0.9, 0.4] and right.tolist() == [True, False]


def test_of_each_word_the_probability_of_its_tag_and_whether_it_is_right(tokenizer):
    task, labels = TASKS["conll"], ("B-X", "O")
    sentences = [Sentence("a", ("fox", "moon"), ("B-X", "O"), "a"), Sentence("b", ("dog",), ("O",), "b")]
    features = task.featurize(sentences, tokenizer, labels, 40, DataConfig())
    logits = np.zeros((len(features.tokens), 2), np.float32)
    logits[features.word_at] = [[np.log(3), 0], [np.log(4), 0], [0, np.log(9)]]
    p, right = task.confidence(Predictions(task, sentences, features, logits, labels, DataConfig()))
    assert p == pytest.approx([0.75, 0.8, 0.9]) and right.tolist() == [True, False, True]


# --- the findings ---

TASK = TASKS["csv"]


def record(rights, dev=0.5, agreement=0.9, loss=0.3, ece=0.02):
    """What laboratory.measured says of a model that is right on these examples."""
    rights = np.array(rights, float)
    return {
        "score": float(rights.mean()),
        "dev": dev,
        "loss": loss,
        "ece": ece,
        "calibration": calibration(np.full(len(rights), 0.7), rights > 0)[1],
        "agreement": agreement,
        "per_class": {"a": float(rights[::2].mean()), "b": float(rights[1::2].mean())},
        "tally": np.stack([rights, np.ones_like(rights)], axis=1).tolist(),
    }


def right(share, seed, n=400):
    return (np.random.default_rng(seed).random(n) < share).astype(int)


def test_a_difference_is_the_mean_over_seeds_with_the_interval_of_its_own_draws():
    ours, theirs = [record(right(0.8, s)) for s in (1, 2)], [record(right(0.6, s)) for s in (3, 4)]
    found = difference(TASK, ours, theirs)
    scores = [[np.mean(np.array(run["tally"])[:, 0]) for run in runs] for runs in (ours, theirs)]
    assert found["mean"] == pytest.approx(np.mean(scores[0]) - np.mean(scores[1]))
    mean_tallies = [np.mean([run["tally"] for run in runs], axis=0) for runs in (ours, theirs)]  # accuracy is linear
    drawn = [TASK.tally_score(resampled_sums(tally)) for tally in mean_tallies]
    assert found["interval"] == pytest.approx(interval(drawn[0] - drawn[1]))
    assert found["p"] < 0.01 and found["gained"] == 2
    same = difference(TASK, ours, ours)
    assert same["mean"] == 0 and same["interval"] == (0, 0) and same["p"] == 1 and same["gained"] == 0


def test_a_summary_has_the_means_over_seeds_and_both_references():
    teacher = record(right(0.9, 9))
    records = {BASELINE: [record(right(0.6, s), dev=0.6 + s / 10) for s in (1, 2)],
               SOFT: [record(right(0.7, s)) for s in (3, 4)],
               "hidden": [record(right(0.8, s), loss=None) for s in (5, 6)]}  # fmt: skip
    rows = {name: summary(TASK, runs, references(name, records), teacher) for name, runs in records.items()}
    assert rows[BASELINE]["dev"] == pytest.approx(0.75)
    scores = [run["score"] for run in records[SOFT]]
    assert rows[SOFT]["test"] == pytest.approx(np.mean(scores)) and rows[SOFT]["margin"] == margin(scores)
    assert rows[SOFT]["of teacher"] == pytest.approx(np.mean(scores) / teacher["score"])
    assert rows["hidden"]["loss"] is None
    keys = {name: sorted(key for key in row if key.startswith("against")) for name, row in rows.items()}
    both = [f"against {BASELINE}", f"against {SOFT}"]
    assert keys == {BASELINE: [], SOFT: both[:1], "hidden": both}


def test_the_sentences_say_helped_hurt_or_nothing_that_can_be_shown():
    def row(low, high, seeds=0.001):
        change = {"mean": (low + high) / 2, "interval": (low, high), "p": 0.5, "seeds": seeds, "gained": 2}
        return {"test": 0.9, "of teacher": 0.99, "by seed": [1, 2, 3], f"against {SOFT}": change}

    rows = {BASELINE: {"test": 0.8, "of teacher": 0.9}, "hidden": row(0.001, 0.004), "cosine": row(-0.02, -0.01)}
    rows |= {"patient": row(-0.001, 0.001), "relations": row(0.001, 0.004, 0.003), "one seed": row(0.001, 0.004, None)}
    found = said(rows, "hidden", TASK, {"score": 0.91})
    assert found == [
        "Best on dev: hidden. On test it has 99.0% of its teacher's accuracy (90.00 against 91.00).",
        f"hidden against {SOFT}: helped: +0.25 points (+0.10 to +0.40 over test examples, ± 0.10 over seeds), "
        "better with 2 of 3 seeds",
        f"cosine against {SOFT}: hurt: -1.50 points (-2.00 to -1.00 over test examples, ± 0.10 over seeds), "
        "better with 2 of 3 seeds",
        f"patient against {SOFT}: no difference that these runs can show: +0.00 points (-0.10 to +0.10 over test "
        "examples, ± 0.10 over seeds), better with 2 of 3 seeds",
        f"relations against {SOFT}: no difference that these runs can show: +0.25 points (+0.10 to +0.40 over test "
        "examples, ± 0.30 over seeds), better with 2 of 3 seeds",
        f"one seed against {SOFT}: of one seed, so nobody knows what chance in training does: +0.25 points (+0.10 to "
        "+0.40 over test examples), better with 2 of 3 seeds",
    ]


ABOUT = {
    "task": "csv",
    "score": "accuracy",
    "data": "t.csv",
    "test examples": 400,
    "seeds": [0, 1],
    "which teacher": "",
    "steps": [8],
    "versions of the code": 1,
    "command": [],
    "beside": {},
}


def test_the_report_is_markdown_json_and_figures(tmp_path):
    teacher = record(right(0.9, 9))
    records = {BASELINE: [record(right(0.6, s)) for s in (1, 2)], SOFT: [record(right(0.8, s), 0.9) for s in (3, 4)]}
    about = ABOUT | {"command": ["evidence", "--task", "csv"]}
    cells = {(1.0, 0.5): {"dev": 0.51, "test": 0.61}, (2.0, 0.5): {"dev": 0.52, "test": 0.62}}
    text, result = report(TASK, about, teacher, records, cells, tmp_path, {})
    assert json.loads(json.dumps(result)) == json.loads((tmp_path / "evidence.json").read_text())
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"evidence.md", "evidence.json", "scores.svg", "calibration.svg", "grid.svg"}
    markdown = (tmp_path / "evidence.md").read_text()
    assert "| soft targets |" in markdown and "python -m kd_scratch evidence --task csv" in markdown
    assert all(f"]({name})" in markdown for name in names if name.endswith("svg"))
    for said_there in (
        "51.00 / 61.00",
        "Best on dev: soft targets",
        "of 2 seeds",
        "Each run made 8 optimizer steps.\n",
    ):
        assert said_there in markdown and said_there in text
    result = json.loads((tmp_path / "evidence.json").read_text())
    assert result["best on dev"] == SOFT and result["rows"][SOFT]["test"] > result["rows"][BASELINE]["test"]
    assert result["grid"][0] == {"temperature": 1.0, "alpha": 0.5, "dev": 0.51, "test": 0.61}
    assert [gap[0] for gap in result["gaps"]] == sorted(
        "ab", key=lambda name: [g[3] for g in result["gaps"] if g[0] == name]
    )
    for name in ("scores.svg", "calibration.svg", "grid.svg"):
        ET.fromstring((tmp_path / name).read_text())
    (tmp_path / "x").mkdir()
    again, _ = report(TASK, about, teacher, records, {}, tmp_path / "x", {})
    assert "alpha" not in again and not (tmp_path / "x" / "grid.svg").exists()


def test_the_best_is_chosen_on_dev_and_never_on_test(tmp_path):
    teacher = record(right(0.9, 9))
    records = {BASELINE: [record(right(0.6, 1), dev=0.4)], SOFT: [record(right(0.9, 3), dev=0.5)],
               "hidden": [record(right(0.6, 5), dev=0.6)]}  # fmt: skip
    about = ABOUT | {"seeds": [0], "beside": {"deeper": []}, "versions of the code": 2, "steps": [1000, 1200, 1300]}
    others = {"deeper": {BASELINE: [record(right(0.6, 6), dev=0.7)]}}
    told, _ = report(TASK, about, teacher, records, {}, tmp_path, others)
    assert "Best on dev: hidden." in told, "other studies are shown, not chosen"
    assert "Each run made 1,000 to 1,300 optimizer steps. They were made by 2 versions of the code. deeper: " in told


def test_other_studies_stand_beside_this_one_and_are_compared_with_what_has_their_name(tmp_path):
    teacher = record(right(0.9, 9))
    records = {BASELINE: [record(right(0.6, s)) for s in (1, 2)], SOFT: [record(right(0.7, s)) for s in (3, 4)]}
    warm = {BASELINE: [record(right(0.8, s)) for s in (5, 6)], SOFT: [record(right(0.85, s)) for s in (7, 8)],
            "cosine": [record(right(0.5, s)) for s in (9, 10)]}  # fmt: skip
    about = ABOUT | {"beside": {"warm": ["evidence", "--epochs", "9"]}}
    told, result = report(TASK, about, teacher, records, {}, tmp_path, {"warm": warm})
    rows = result["rows"]
    assert list(rows) == [BASELINE, SOFT, f"warm: {BASELINE}", f"warm: {SOFT}", "warm: cosine"]
    assert f"against {BASELINE}" not in rows[f"warm: {BASELINE}"]
    for name in (SOFT, "cosine"):
        assert rows[f"warm: {name}"][f"against {BASELINE}"] == difference(TASK, warm[name], warm[BASELINE]), "its own"
    for name in (BASELINE, SOFT):
        change = rows[f"warm: {name}"]["against its namesake here"]
        assert change == difference(TASK, warm[name], records[name]) and change["mean"] > 0.05
        assert f"- warm: {name} against {name} here: " in told and f"{100 * change['mean']:+.2f} points" in told
    assert "warm: cosine against" not in told, "it has no namesake here"
    assert "warm: another study, with a baseline of its own" in told
    assert "# warm\npython -m kd_scratch evidence --epochs 9\n" in (tmp_path / "evidence.md").read_text()
    picture = (tmp_path / "scores.svg").read_text()
    assert "warm: cosine" in picture
    assert picture.count('r="5.5" fill="#777777"') == 2, "both baselines are grey"


# --- which runs ---


def test_losses_that_beat_soft_targets_on_dev_are_combined(tmp_path):
    flags = ("--teacher", "t", "--layer-map", "1:2", "--keep-states")
    tried = [Variant(BASELINE, ()), Variant(SOFT, flags[:2])]
    tried += [Variant(name, flags, f"{name}=1") for name in ("hidden", "cosine", "patient")]
    dev = {BASELINE: 0.99, SOFT: 0.5, "hidden": 0.51, "cosine": 0.5, "patient": 0.52}
    found = combination(tried, dev)
    assert found.argv() == [*flags, "--losses", "hidden=1,patient=1"]
    assert combination(tried, dev | {"patient": 0.4}) is None, "one alone is there already"
    other = combination(tried, dev | {"cosine": 0.6})
    assert found.folder(tmp_path, 0).name == "combined-hidden-patient-0" != other.folder(tmp_path, 0).name


def test_flags_of_the_study():
    assert seed_list("3,1") == [3, 1] and parse_grid("1,2x0.5") == ([1.0, 2.0], [0.5])
    for function, wrong in ((seed_list, ("", "a", "1,1", "1,")), (parse_grid, ("", "1", "1x2x3", "ax1", "1x"))):
        for text in wrong:
            with pytest.raises(Exception, match="is not"):
                function(text)


def test_a_name_that_is_no_text_is_one_line(capsys, tmp_path):
    assert main(["report", "--runs", "\udcff=x", "--output", str(tmp_path / "x.html")]) == 2
    assert "--runs" in (error := capsys.readouterr().err) and "no such" not in error and error.count("\n") == 1


# --- the command ---

FAST = [
    "--epochs",
    "1",
    "--batch-size",
    "16",
    "--learning-rate",
    "1e-3",
    "--max-length",
    "24",
    "--threads",
    "1",
    "--device",
    "cpu",
]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Data, a teacher, and the flags of a study of them."""
    folder = tmp_path_factory.mktemp("study")
    files = {
        name: write_csv(folder / f"{name}.csv", n, seed=n) for name, n in (("train", 48), ("dev", 24), ("test", 30))
    }
    data = ["--task", "csv", "--train", files["train"], "--dev", files["dev"]]
    teacher, cache = str(folder / "teacher"), ["--cache", str(folder / "cache")]
    argv = ["train", *data, *FAST, *cache, "--vocab-size", "80", "--model", "tiny-student", "--output", teacher]
    assert main(argv) == 0
    common = [*data, *FAST, *cache, "--data", files["test"], "--teacher", teacher, "--model", teacher]
    return folder, ["evidence", *common]


def test_a_study_from_start_to_end_and_once_more(study, capsys, monkeypatch):
    folder, argv = study
    output = folder / "whole"
    argv = [*argv, "--output", str(output), "--seeds", "0,5", "--jobs", "2", "--losses", "hidden,relations=0.5",
            "--keep-states", "--grid", "2,4x0.5"]  # fmt: skip
    assert main(argv) == 0
    assert torch.get_num_threads() == min(2, os.cpu_count()), "tests have what both jobs had"
    told = capsys.readouterr().out
    assert "4 variants with 2 seeds and a grid of 2: 10 runs of 1 epochs" in told and "Best on dev" in told
    runs = {path.name for path in (output / "runs").iterdir()}
    wanted = {f"{name}-{seed}" for name in ("baseline", "soft-targets", "hidden", "relations") for seed in (0, 5)}
    assert (
        wanted | {"T=4-alpha=0.5-0"}
        <= runs
        <= wanted | {"T=4-alpha=0.5-0"} | {f"combined-hidden-relations-{seed}" for seed in (0, 5)}
    )
    records = {name: json.loads((output / "runs" / name / "training.json").read_text()) for name in runs}
    for key in ("initial weights", "train", "dev", "step", "tokenizer"):
        assert len({str(r[key]) for r in records.values()}) == 1, f"all have the same {key}"
    assert {name: r["seed"] for name, r in records.items()} == {name: int(name.rsplit("-", 1)[1]) for name in runs}
    assert records["baseline-0"]["teacher"] is None and records["relations-5"]["settings"]["losses"] == "relations=0.5"
    assert records["T=4-alpha=0.5-0"]["settings"]["temperature"] == 4
    found = json.loads((output / "evidence.json").read_text())
    written = (output / "evidence.json").read_bytes()
    assert main(found["command"]) == 0 and (output / "evidence.json").read_bytes() == written, "it is what it says"
    monkeypatch.setattr(runner, "_start", None)
    monkeypatch.setattr(runner.Laboratory, "run", lambda self, path, real=runner.Laboratory.run: real(self, path)
                        if path.name == "teacher" else pytest.fail("tested again"))  # fmt: skip
    assert main(argv) == 0
    assert json.loads((output / "evidence.json").read_text()) == found, "nothing is trained or tested again"
    assert main([*argv, "--epochs", "2"]) == 2
    assert "this folder holds another study: --epochs was 1, is 2; choose another --output" in capsys.readouterr().err
    record = json.loads((output / "runs" / "hidden-5" / "training.json").read_text())
    (output / "runs" / "hidden-5" / "training.json").write_text(json.dumps(record | {"teacher": "another"}))
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert "hidden-5 and this command do not belong together: they had another teacher; delete one" in error


@pytest.fixture(scope="module")
def other(study):
    """A finished study with one seed, and its command but for --output."""
    folder, argv = study
    argv = [*argv, "--seeds", "0", "--losses", "hidden"]
    assert main([*argv, "--output", str(folder / "other")]) == 0
    return folder / "other", argv


def test_a_study_beside_another_one(other, study, capsys):
    folder, small = other
    output = folder.parent / "here"
    argv = [*small, "--epochs", "2", "--output", str(output), "--beside", f"less={folder}"]
    assert main(argv) == 0
    assert "less: soft targets against soft targets here: " in capsys.readouterr().out
    found = json.loads((output / "evidence.json").read_text())
    assert {f"less: {name}" for name in (BASELINE, SOFT, "hidden")} < set(found["rows"])
    alone = json.loads((folder / "evidence.json").read_text())
    assert found["rows"]["less: hidden"]["by seed"] == alone["rows"]["hidden"]["by seed"]
    assert found["beside"] == {"less": alone["command"]}
    written = (output / "evidence.json").read_bytes()
    assert main(found["command"]) == 0 and (output / "evidence.json").read_bytes() == written, "it is what it says"


def test_a_study_beside_may_have_a_baseline_of_more_epochs(other, tmp_path):
    """As studies of text without labels had them before there was --steps."""
    folder, small = other
    shutil.copytree(folder, tmp_path / "older")
    path, result = tmp_path / "older" / "runs" / "baseline-0" / "training.json", tmp_path / "older" / "evidence.json"
    record, told = json.loads(path.read_text()), json.loads(result.read_text())
    path.write_text(json.dumps(record | {"settings": record["settings"] | {"epochs": 20}}))
    told["variants"]["baseline"] = ["--epochs", "20"]
    result.write_text(json.dumps(told))
    assert main([*small, "--output", str(folder), "--beside", f"older={tmp_path / 'older'}"]) == 0
    assert "older: baseline" in (folder / "evidence.md").read_text()


def test_what_cannot_be_compared_is_refused_before_anything_is_trained(other, capsys, monkeypatch):
    folder, small = other
    monkeypatch.setattr(runner, "_start", None)
    argv = [*small, "--output", str(folder.parent / "never")]

    def refused(*more):
        capsys.readouterr()
        assert main([*argv, *more]) == 2
        return capsys.readouterr().err

    beside = ("--beside", f"less={folder}")
    assert "there is no nowhere/evidence.json; give the --output of a study" in refused("--beside", "a=nowhere")
    assert "--beside: a name is used twice" in refused("--beside", f"a={folder}", "--beside", f"a={folder}")
    assert "needs the same --seeds as this study" in refused(*beside, "--seeds", "0,1")
    assert "had another data settings" in refused(*beside, "--limit", "40")
    result = json.loads((folder / "evidence.json").read_text())
    variants = result["variants"]
    for odd in ([], {"variants": []}, result | {"command": "x"}, result | {"variants": variants | {"../x": []}},
                result | {"variants": variants | {SOFT: 3}}, result | {"variants": {SOFT: []}}):  # fmt: skip
        (folder / "evidence.json").write_text(json.dumps(odd))
        assert "evidence.json is not what a study writes" in refused(*beside), odd
    (folder / "evidence.json").write_text(json.dumps(result))
    path = folder / "runs" / "hidden-0" / "training.json"
    record = json.loads(path.read_text())
    for key in ("task", "train", "dev", "data settings", "teacher", "torch"):
        path.write_text(json.dumps(record | {key: {"task": "agnews", "data settings": {}}.get(key, "another")}))
        assert f"do not belong together: they had another {key}" in refused(*beside), key
    path.write_text("{}")
    assert "is not what `train` writes of a run" in refused(*beside)
    path.write_text(json.dumps(record))


def test_a_study_whose_files_have_changed_is_not_reported_as_one_of_the_new_ones(other, capsys, monkeypatch):
    folder, small = other
    monkeypatch.setattr(runner, "_start", None)
    argv = [*small, "--output", str(folder)]
    for flag, file in (("train", "train.csv"), ("dev", "dev.csv")):
        path = folder.parent / file
        before = path.read_bytes()
        path.write_bytes(before + before.splitlines(keepends=True)[-1])
        assert main(argv) == 2
        assert f"and this command do not belong together: they had another {flag}" in capsys.readouterr().err
        path.write_bytes(before)
    assert main([*argv, "--data", str(folder.parent / "dev.csv")]) == 2
    assert "is what is trained or chosen on; give a test file" in capsys.readouterr().err


def test_runs_that_were_made_otherwise_are_not_put_into_one_table(other, capsys, monkeypatch):
    folder, small = other
    argv = [*small, "--output", str(folder)]
    path = folder / "runs" / "hidden-0" / "training.json"
    record = json.loads(path.read_text())
    settings = record["settings"]
    monkeypatch.setattr(runner, "_start", None)
    for change, what in (
        ({"device": "cuda"}, "another device;"),
        ({"processes": 2}, "another processes;"),
        ({"numpy": "0.1"}, "another numpy;"),
        ({"tokenizers": "0.1"}, "another tokenizers;"),
        ({"settings": settings | {"epochs": 99}}, "another --epochs;"),
        ({"settings": settings | {"temperature": 9.0}}, "another --temperature;"),
        ({"unlabelled": "abc"}, "another unlabelled;"),
        ({"seed": 7}, "hidden-0: its run is of --seed 7, not 0; delete the folder"),
    ):
        path.write_text(json.dumps(record | change))
        assert main(argv) == 2
        assert what in capsys.readouterr().err, what
    path.write_text(json.dumps(record | {"settings": settings | {"layer_map": "1:1"}}))
    assert main(argv) == 0, "such settings are a variant's own"
    path.write_text(json.dumps(record))


def test_a_study_of_older_libraries_is_shown_but_not_gone_on_with(other, capsys, monkeypatch):
    folder, small = other
    argv = [*small, "--output", str(folder)]
    paths = list((folder / "runs").glob("*/training.json"))
    for path in paths:
        path.write_text(path.read_text().replace('"numpy": "', '"numpy": "older '))
    assert main(argv) == 0
    monkeypatch.setattr(runner, "_start", None)
    for more in (["--losses", "hidden,cosine"], ["--grid", "4x0.5"]):
        assert main([*argv, *more]) == 2
        assert "and this command do not belong together: they had another numpy" in capsys.readouterr().err
    for path in paths:
        path.write_text(path.read_text().replace('"numpy": "older ', '"numpy": "'))


def test_flags_that_no_run_could_take_are_refused_before_any(study, capsys, monkeypatch):
    folder, argv = study
    monkeypatch.setattr(runner, "_start", None)
    for flags, why in (
        (["--teacher", ""], "--teacher is empty; give a name"),
        (["--labelled", "50%", "--alpha", "0"], "nothing is learned from the other texts"),
        (["--augment", "1", "--alpha", "0"], "--augment: only a teacher's soft targets can teach"),
        (["--amp", "fp16"], "--amp fp16 needs a CUDA device"),
        (["--unlabelled", "text.txt", "--alpha", "0"], "--unlabelled: only a teacher's soft targets can teach"),
        (["--unlabelled", "text.txt", "--steps", "9"], "text.txt: no such file"),
    ):
        assert main([*argv, "--output", str(folder / "no"), *flags]) == 2
        assert why in capsys.readouterr().err
        assert not (folder / "no").exists()


def test_results_that_are_damaged_are_found_anew(other, capsys):
    folder, small = other
    path = folder / "runs" / "hidden-0" / "test.json"
    written = json.loads(path.read_text())
    for damage in ([], written | {"found": [1]}, {"about": written["about"]}, written | {"found": {"score": 1.0}}):
        path.write_text(json.dumps(damage))
        assert main([*small, "--output", str(folder)]) == 0 and json.loads(path.read_text()) == written


def test_results_of_other_code_are_found_anew(other, monkeypatch):
    folder, small = other
    path = folder / "runs" / "hidden-0" / "test.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps(written | {"found": written["found"] | {"score": 0.125}}))
    again = [*small, "--output", str(folder)]
    assert main(again) == 0 and json.loads(path.read_text())["found"]["score"] == 0.125, "of the same code"
    monkeypatch.setattr(
        kd_scratch.study.results, "source_hash", lambda *modules, versions: "somebody has changed a metric"
    )
    assert main(again) == 0 and json.loads(path.read_text())["found"] == written["found"]
    monkeypatch.undo()
    assert main(again) == 0 and json.loads(path.read_text()) == written


def test_a_teacher_that_is_never_right_is_refused(other, capsys, monkeypatch):
    """Of one text with each of three labels in turn; where it is right, the study would begin."""
    folder, small = other

    def begin(*arguments):
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(runner, "run_all", begin)
    path = folder.parent / "one.csv"
    argv, ends = [*small, "--output", str(folder.parent / "begun"), "--data", str(path)], []
    for label in ("space", "sport", "trade"):
        path.write_text(f"text,label\nmoon goal,{label}\n")
        ends.append(main(argv))
        assert ends[-1] != 2 or "has no accuracy at all on" in capsys.readouterr().err
    assert sorted(ends) == [2, 2, 128 + signal.SIGTERM]


def test_two_losses_that_help_on_dev_are_combined_in_runs_of_their_own(study, capsys, monkeypatch):
    """Dev scores are as we say; the runs are real."""
    folder, argv = study
    output = folder / "both"
    argv = [
        *argv,
        "--init-layers",
        "0",
        "--output",
        str(output),
        "--seeds",
        "0",
        "--jobs",
        "2",
        "--losses",
        "hidden,cosine=2",
    ]
    real = runner.read_records

    def rewritten(runs, output, known):
        records = real(runs, output, known)
        scores = {"baseline": 0.3, "soft": 0.4, "hidden": 0.5, "cosine": 0.6, "combined": 0.7}
        return {path: record | {"best_score": scores[path.name.split("-")[0]]} for path, record in records.items()}

    monkeypatch.setattr(runner, "read_records", rewritten)
    assert main(argv) == 0
    told = capsys.readouterr().out
    assert "above soft targets on dev, so combined: hidden=1,cosine=2" in told and "Best on dev: combined" in told
    record = json.loads((output / "runs" / "combined-hidden-cosine-0" / "training.json").read_text())
    assert record["settings"]["losses"] == "hidden=1,cosine=2" and record["parameters"] > 0


def test_other_losses_may_be_added_to_a_study_but_none_may_change(tmp_path):
    path, flags = tmp_path / "study.json", ["--epochs", "2", "--keep-states", "--losses", ""]
    first = {"flags": flags, "variants": {"baseline": [], "hidden": ["--losses", "hidden=1"]}, "start": "abc"}
    path.write_text(json.dumps(first))
    nothing = first | {"flags": ["--epochs", "3"]}
    assert same_study(tmp_path, nothing) == nothing, "before anything is trained, anything may change"
    (tmp_path / "runs" / "baseline-0").mkdir(parents=True)
    more = same_study(tmp_path, first | {"variants": {"baseline": [], "cosine": ["--losses", "cosine=1"]}})
    assert more["flags"] == flags and set(more["variants"]) == {"baseline", "hidden", "cosine"}
    for change, why in (
        ({"variants": {"hidden": ["--losses", "hidden=2"]}}, r"--losses was hidden=1, is hidden=2 \(hidden\);"),
        ({"variants": {"baseline": ["--steps", "9"]}}, r"--steps was not given, is 9 \(baseline\);"),
        ({"flags": ["--epochs", "3", "--losses", ""]}, "--epochs was 2, is 3, --keep-states was given, is not given;"),
        ({"start": None}, "the weights in --model were others;"),
    ):
        with pytest.raises(UserError, match=f"holds another study: {why} choose another --output"):
            same_study(tmp_path, first | change)
    path.write_text(json.dumps({"flags": flags, "variants": {}}))
    assert same_study(tmp_path, first) == first, "of an older version, that did not tell the weights"
    no_table = json.dumps(first | {"variants": []})
    for damage in ("[]", '{"flags": ["--epochs", "2"], "variants": 3}', '{"variants": {}}', '{"flags": 1}', no_table):
        path.write_text(damage)
        with pytest.raises(UserError, match="study.json: is not what a study writes; choose another --output"):
            same_study(tmp_path, first)


def test_a_loss_that_is_not_possible_is_left_out_or_refused(study, capsys):
    folder, argv = study
    args = [*argv, "--output", str(folder / "x"), "--layer-map", "1:1"]
    flags = runner.argparse.ArgumentParser()
    runner.add_arguments(flags)
    arguments = flags.parse_args(args[1:])
    config = TrainConfig(losses="hidden,attention,cosine,patient,relations", layer_map="1:1")
    names = [variant.name for variant in variants(arguments, config)]
    assert names == [BASELINE, SOFT, "hidden", "attention", "cosine", "relations"], "one layer: no inner one"
    assert "note: left out: --losses patient: no pair of layers" in capsys.readouterr().out
    assert main([*argv, "--output", str(folder / "x"), "--layer-map", "9:9"]) == 2
    assert "--layer-map: 9:9 is not possible" in capsys.readouterr().err, "no reason to leave all losses out"
    assert main([*args, "--losses", "patient"]) == 2
    assert "--losses patient: no pair of layers" in capsys.readouterr().err
    assert main([*argv, "--output", str(folder / "x"), "--jobs", "0"]) == 2
    assert main([*argv, "--output", str(folder / "x"), "--grid", "0x0.5"]) == 2
    assert "--temperature must be more than 0" in capsys.readouterr().err


def test_the_baseline_makes_as_many_steps_as_those_who_have_more_text(study, capsys):
    """Its labels are the same ones; the size of the model has the teacher's tokenizer in all variants."""
    folder, argv = study
    (folder / "more.txt").write_text("goal market moon\n" * 24)
    argv = [
        *argv,
        "--output",
        str(folder / "few"),
        "--seeds",
        "0",
        "--jobs",
        "2",
        "--losses",
        "hidden",
        "--limit",
        "40",
    ]
    argv[argv.index("--model") + 1] = "tiny-student"
    argv += ["--labelled", "50%", "--augment", "1", "--unlabelled", str(folder / "more.txt")]
    assert main(argv) == 0
    assert "tested on 30 examples" in capsys.readouterr().out, "--limit is for training"
    records = [
        json.loads((folder / "few" / "runs" / f"{n}-0" / "training.json").read_text())
        for n in ("baseline", "soft-targets", "hidden")
    ]
    assert [record["step"] for record in records] == [8, 8, 8]  # 128 texts in 8 batches, though 20 of them are 2
    assert (
        len({record["tokenizer"] for record in records}) == len({record["initial weights"] for record in records}) == 1
    )
    found = json.loads((folder / "few" / "evidence.json").read_text())
    assert found["variants"]["baseline"] == ["--labelled", "50%", "--steps", "8"] and found["steps"] == [8]
    flags = runner.argparse.ArgumentParser()
    runner.add_arguments(flags)
    arguments = flags.parse_args([*argv[1:], "--steps", "5"])
    config = TrainConfig(steps=5, labelled="50%", augment=1)
    assert variants(arguments, config)[0].argv() == ["--labelled", "50%"], "all have these steps"
    assert main([*argv, "--output", str(folder / "fewer"), "--patience", "1"]) == 2
    assert "--patience 1: the baseline's epochs are shorter" in capsys.readouterr().err
    assert main([*argv, "--output", str(folder / "fewer"), "--grid", "2x0,0.5"]) == 2
    assert "with an alpha of 0 nobody says what texts without labels mean" in capsys.readouterr().err


def fake(monkeypatch, code: str) -> None:
    """Let every run be this Python code; FOLDER is where it should leave training.json."""

    def start(argv, log):
        folder = argv[argv.index("--output") + 1]
        with open(log, "w") as file:
            return subprocess.Popen(
                [sys.executable, "-c", f"FOLDER = {folder!r}\n{code}"], stdout=file, stderr=file, cwd=ROOT
            )

    monkeypatch.setattr(runner, "_start", start)


DONE = "import os, json, time; os.makedirs(FOLDER); open(FOLDER + '/training.json', 'w').write('{}')"
VARIANTS = [(Variant(BASELINE, ()), seed) for seed in range(4)]


def test_as_many_runs_as_jobs_go_side_by_side(tmp_path, monkeypatch):
    fake(monkeypatch, f"import time; print(time.time()); time.sleep(0.5); {DONE}; print(time.time())")
    runner.run_all(VARIANTS, [], tmp_path, 2)
    spans = [tuple(map(float, path.read_text().split())) for path in sorted((tmp_path / "logs").iterdir())]
    most = max(sum(a <= moment <= b for a, b in spans) for moment, _ in spans)
    assert len(spans) == 4 and most == 2


def test_a_run_that_fails_stops_the_study_and_is_named_with_its_last_words(tmp_path, monkeypatch):
    fake(monkeypatch, "import sys; print('some line'); sys.exit('error: the disk is full')")
    with pytest.raises(runner.UserError, match=r"exit status 1\): .*baseline-0.txt: error: the disk is full"):
        runner.run_all(VARIANTS, [], tmp_path, 1)
    assert len(list((tmp_path / "logs").iterdir())) == 1
    fake(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(runner.UserError, match=r"exit status -9\): .*baseline-0.txt: it said nothing"):
        runner.run_all(VARIANTS, [], tmp_path, 1)


def test_a_run_of_other_code_is_to_be_deleted_since_a_study_has_no_force(tmp_path, monkeypatch):
    fake(monkeypatch, "import sys; sys.exit('error: cannot resume: code was a, is b; --force goes on anyway')")
    cure = f"code was a, is b; delete {tmp_path / 'runs' / 'baseline-0'} to train it anew$"
    with pytest.raises(UserError, match=cure):
        runner.run_all(VARIANTS, [], tmp_path, 1)


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
        runner.run_all(VARIANTS, [], tmp_path, 2)
    assert stopped.value.signal == number and time.monotonic() - before < 30
    assert [path.read_text() for path in sorted((tmp_path / "logs").iterdir())] == ["began\nsaved\n"] * 2
    fake(monkeypatch, DONE)
    runner.run_all(VARIANTS, [], tmp_path, 2)
    assert all((variant.folder(tmp_path, seed) / "training.json").is_file() for variant, seed in VARIANTS)


def test_no_run_is_started_after_a_signal(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "Interruption", Heeding)
    fake(monkeypatch, SAVES)
    start, started = runner._start, []

    def signalled(argv, log):
        if not started:  # a second one would end pytest
            signal.raise_signal(signal.SIGTERM)
        started.append(log)
        return start(argv, log)

    monkeypatch.setattr(runner, "_start", signalled)
    with pytest.raises(Stopped):
        runner.run_all(VARIANTS, [], tmp_path, 3)
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
runner._start = lambda argv, log: subprocess.Popen([sys.executable, "-c", {SAVES!r}], stdout=open(log, "w"))
runner.run_all([(Variant("one", ()), 0)], [], Path(sys.argv[1]), 1)
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


def test_who_is_stopped_is_told_how_to_go_on(study, capsys, monkeypatch):
    folder, argv = study

    def stopped(*arguments):
        raise Stopped(signal.SIGTERM)

    monkeypatch.setattr(runner, "run_all", stopped)
    assert main([*argv, "--output", str(folder / "stopped")]) == 128 + signal.SIGTERM
    assert "stopped, nothing is lost; the same command goes on where it stopped" in capsys.readouterr().err
