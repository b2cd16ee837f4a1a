"""Pages about runs and comparisons: they show what the records hold, load nothing, and take no text for markup."""

import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
import torch

import kd_scratch.pages.report
from kd_scratch.common.errors import UserError
from kd_scratch.evaluation.compare import attention_maps, lost_examples
from kd_scratch.pages.html import html_table, page, paragraph
from kd_scratch.pages.records import known_record, read_record
from kd_scratch.pages.report import Comparison, Cost, Quality, comparison_page, runs_page
from kd_scratch.tasks import TASKS
from kd_scratch.tasks.base import Summary
from tests.commands.test_commands import run, runs  # noqa: F401 (a fixture)

VOID = {"meta", "br", "link", "input"}


class Reader(HTMLParser):
    """Checks that tags are closed in order; collects text, tags, and whatever a page would load or run."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.shown, self.loads = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "srcset", "action", "data", "style") or name.startswith("on"):
                self.loads.append((tag, name, value))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.shown.append(data)


def check_page(text: str) -> str:
    """The text of a page, once it was found to be whole, to load nothing and to run nothing."""
    reader = Reader(text)
    assert text.startswith("<!doctype html>") and "script" not in reader.tags
    assert all(name == "style" or (name == "href" and value[0] == "#") for _, name, value in reader.loads)
    assert not re.search(r"@import|url\(", text)
    return " ".join(" ".join(reader.shown).split())


def test_hostile_text_stays_text():
    hostile = '<script>alert(1)</script> & "quotes"'
    text = page(hostile, hostile, [(hostile, paragraph(hostile) + html_table((hostile,), [(hostile,), (0.5,)]))])
    shown = check_page(text)
    assert shown.count('<script>alert(1)</script> & "quotes"') == 8 and "0.5000" in shown


def test_a_training_run_has_a_page_with_its_curves_and_its_teachers(runs):  # noqa: F811
    text = (runs / "distilled" / "report.html").read_text()
    shown = check_page(text)
    record = json.loads((runs / "distilled" / "training.json").read_text())
    assert "this run" in shown and "teacher 1" in shown and "settings: temperature" in shown
    assert f"{record['best_score']:.4f}" in shown and record["machine"]["processor"] in shown
    assert text.count("<svg") == 2 and "Loss on the training data" in shown and "accuracy on the dev data" in shown
    assert len(record["history"][0]["losses"]) == 6, "one for each step where there are few"
    assert record["history"][0]["loss"] == pytest.approx(sum(record["history"][0]["losses"]) / 6)


def test_report_puts_several_runs_on_one_page(runs, tmp_path, capsys):  # noqa: F811
    argv = [f"{name}={runs / name}" for name in ("teacher", "baseline", "distilled")]
    status, out, _ = run(capsys, "report", "--runs", *argv, "--output", tmp_path / "r.html")
    assert status == 0 and "3 runs of csv" in out
    shown = check_page((tmp_path / "r.html").read_text())
    differs, same = shown.split("What differs")[1].split("The same in all")
    assert "initial weights" in differs and "settings: epochs" in same and "seed" in same


@pytest.mark.parametrize(
    ("names", "output", "message"),
    [
        (["a=baseline", "a=teacher"], "r.html", "--runs: a name is used twice"),
        (["a=nowhere"], "r.html", "nowhere: holds no training.json; give the --output of a `train`"),
        (["a=baseline"], "baseline/training.json", "would overwrite"),
        (["a=baseline"], "baseline/config.json", "would overwrite"),
        (["a=baseline", "b=other"], "r.html", "are of different tasks (agnews, csv); one page is about one task"),
        (["a=broken"], "r.html", "is not what `train` writes of a run; delete the folder and train again"),
    ],
)
def test_what_report_refuses(runs, tmp_path, capsys, names, output, message):  # noqa: F811
    shutil.copytree(runs, tmp_path / "runs")
    record = json.loads((runs / "baseline" / "training.json").read_text())
    for name, changed in (("other", {"task": "agnews"}), ("broken", {"history": [{"epoch": 1}]})):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "training.json").write_text(json.dumps(record | changed))
    argv = [f"{name.split('=')[0]}={tmp_path / 'runs' / name.split('=')[1]}" for name in names]
    status, _, err = run(capsys, "report", "--runs", *argv, "--output", tmp_path / "runs" / output)
    assert status == 2 and message in err


GOOD = {"epoch": 1, "steps": 1, "loss": 1.0, "losses": [1.0], "tokens_per_second": 1, "dev": {"accuracy": 1}}


@pytest.mark.parametrize(
    "change",
    [
        {"task": "cooking"},
        {"task": ["csv"]},
        {"history": []},
        {"history": 3},
        {"history": [GOOD | {"loss": "<b>"}]},
        {"history": [GOOD | {"losses": [1e999]}]},
        {"history": [GOOD | {"losses": []}]},
        {"history": [{key: value for key, value in GOOD.items() if key != "steps"}]},
        {"settings": []},
        {"seconds by phase": {"data": "long"}},
        {"history": [GOOD | {"loss": 1e299}]},
        {"history": [GOOD | {"epoch": 10**400}]},
        {"history": [GOOD | {"steps": 0}]},
        {"history": [GOOD | {"steps": "7"}]},
        {"step": None},
        {"parameters": None},
        {"seconds": True},
    ],
)
def test_a_record_is_checked_before_it_is_drawn(runs, tmp_path, capsys, change):  # noqa: F811
    record = json.loads((runs / "baseline" / "training.json").read_text())
    (tmp_path / "training.json").write_text(json.dumps(record))
    assert read_record(tmp_path) == record and read_record(tmp_path / "nowhere") is None
    (tmp_path / "training.json").write_text(json.dumps(record | change))
    with pytest.raises(UserError, match="training.json: "):
        read_record(tmp_path)
    capsys.readouterr()
    assert known_record(tmp_path) is None and "it is left out" in capsys.readouterr().out


def test_curves_are_drawn_over_steps_wherever_dev_was_looked_at(runs, monkeypatch):  # noqa: F811
    """After ten steps and after four more: an epoch and a shorter one, or looks of --looks, which are no epochs."""
    record, drawn = json.loads((runs / "baseline" / "training.json").read_text()), []
    history = [GOOD | {"steps": 10}, GOOD | {"epoch": 2, "steps": 4, "losses": [3.0, 2.0]}]
    monkeypatch.setattr(
        kd_scratch.pages.report, "curves", lambda *texts_and_lines: drawn.append(texts_and_lines[-1]["run"]) or ""
    )
    page = runs_page("cut", {"run": record | {"history": history, "best_epoch": 2, "parameters": 7}})
    assert "run parameters steps kept at step dev accuracy tokens/s time run 7 14 14 1.0" in check_page(page)
    losses, scores = drawn
    assert losses == [(10, 1.0), (12, 3.0), (14, 2.0)]
    assert scores == [(10, 100), (14, 100)]


@pytest.mark.usefixtures("no_memory_processes")
def test_a_comparison_has_a_page_with_everything(runs, tmp_path, capsys):  # noqa: F811
    models = [f"{name}={runs / name}" for name in ("teacher", "baseline", "distilled")]
    argv = ["compare", "--task", "csv", "--data", runs / "test.csv", "--models", *models, "--output", tmp_path / "c"]
    assert run(capsys, *argv)[0] == 0
    text = (tmp_path / "c" / "comparison.html").read_text()
    shown = check_page(text)
    found = json.loads((tmp_path / "c" / "comparison.json").read_text())
    teacher, baseline, distilled = found["rows"]
    points = 100 * distilled["difference"]
    assert f"distilled against teacher: {points:+.2f} points of accuracy" in shown
    gain = f"teacher {100 * teacher['accuracy']:.2f}, baseline {100 * baseline['accuracy']:.2f}: "
    assert gain in shown and gain in (tmp_path / "c" / "comparison.txt").read_text()
    assert f"{teacher['megabytes'] / distilled['megabytes']:.1f} times as small" in shown
    for heading in ("Result", "Quality against speed and size", "Training", "Calibration", "Class by class",
                    "Confusions", "Where teacher does better than distilled", "Attention"):  # fmt: skip
        assert f"<h2>{heading}</h2>" in text
    assert text.count("<svg") == 2 + 2 + 1 + 2 + 2 * 3, "trade-offs, training, calibration, confusions, attention"
    assert (tmp_path / "c" / "speed.svg").read_text() in text and (tmp_path / "c" / "size.svg").read_text() in text


HOSTILE = '<script>alert("x")</script>'


def hand_made(student: str = HOSTILE, **changed) -> Comparison:
    """A comparison of two models in which every text that may come from a file is hostile."""
    cost = Cost(1000, 4.0, None, 2.0, 3.0, 100.0)
    difference = Quality({"accuracy": 0.5}, (0.4, 0.6), 0.9, -0.1, (-0.2, 0.0), 0.04, 0.1234)
    metrics = {"accuracy": 0.5, "per_class": {HOSTILE: {"f1": 0.5}, "b": {"f1": 1.0}}}
    both = ("teacher", HOSTILE)
    found = {
        "task": TASKS["csv"],
        "note": HOSTILE,
        "costs": dict.fromkeys(both, cost),
        "quality": dict.fromkeys(both, difference),
        "metrics": {"teacher": metrics, HOSTILE: metrics | {"per_class": {HOSTILE: {"f1": 0.25}}}},
        "calibration_errors": dict.fromkeys(both, (0.125, "0.1000 to 0.1500", 0.02)),
        "calibration_bins": dict.fromkeys(both, [(0.9, 0.8, 20)]),
        "confusions": {name: Counter({(HOSTILE, "b"): 3, ("b", "b"): 4}) for name in both},
        "student": student,
        "mistakes": [(Summary(HOSTILE, HOSTILE, HOSTILE, 1.0), Summary(HOSTILE, HOSTILE, HOSTILE, 0.0))],
        "maps": [([HOSTILE, "x"], {name: [[0.5, 0.5], [0.0, 1.0]] for name in both})],
        "records": {},
        "advice": f"train {HOSTILE} longer",
        "cascade": None,
        "about": {"data": HOSTILE, "machine": {"processor": HOSTILE}},
    }
    return Comparison(**(found | changed))


def test_no_text_of_a_file_is_taken_for_markup():
    text = comparison_page(hand_made(), [(("model", HOSTILE), [(HOSTILE, 1.0)])])
    shown = check_page(text)
    assert f"train {HOSTILE} longer" in shown
    assert shown.count(HOSTILE) > 20 and f"{HOSTILE} against teacher: -10.00 points of accuracy" in shown


def test_a_page_shows_where_the_first_model_does_better_and_which_classes_the_student_loses():
    shown = check_page(comparison_page(hand_made(), []))
    assert "which this test file cannot tell from none; detectable from 12.34 on" in shown
    assert "teacher 0.1250 0.1000 to 0.1500 0.0200" in shown, "the calibration error, its interval and the floor"
    assert f"Where teacher does better than {HOSTILE}" in shown and "The 1 examples" in shown
    table = shown.split("Class by class")[-1].split("Confusions")[0]
    assert table.split("teacher ")[-1].split() == [
        HOSTILE.split()[0],
        *"0.5000 0.2500 -0.2500 b 1.0000 - -1.0000".split(),
    ]
    none = check_page(comparison_page(hand_made(mistakes=[]), []))
    assert "There are none." in none


def test_a_model_alone_is_compared_with_nobody():
    alone = hand_made("teacher")
    for name in ("costs", "quality", "metrics", "calibration_errors", "calibration_bins", "confusions"):
        setattr(alone, name, {"teacher": getattr(alone, name)["teacher"]})
    shown = check_page(comparison_page(alone, []))
    assert "does better" not in shown and "−" not in shown


def test_two_that_score_alike_have_no_detectable_difference():
    alike = Quality({"accuracy": 0.5}, (0.4, 0.6), 1.0, 0.0, (0.0, 0.0), 1.0, None)
    shown = check_page(comparison_page(hand_made(quality=dict.fromkeys(("teacher", HOSTILE), alike)), []))
    assert "(95%: +0.00 to +0.00; both score alike throughout this test file)" in shown and "detectable" not in shown


def test_of_many_classes_those_are_shown_in_which_the_student_loses_most():
    classes = {f"c{i}": {"f1": 0.5} for i in range(30)}
    worse = classes | {"c7": {"f1": 0.25}, "c8": {"f1": 0.9}}
    metrics = {"teacher": {"accuracy": 0.5, "per_class": classes}, HOSTILE: {"accuracy": 0.5, "per_class": worse}}
    counts = Counter({(f"c{i}", f"c{i + 1}"): i for i in range(1, 29)}) + Counter({("c1", "c1"): 99})
    shown = check_page(comparison_page(hand_made(metrics=metrics, confusions={"teacher": counts, HOSTILE: counts}), []))
    table = shown.split("Class by class")[-1].split("Confusions")[0]
    assert f"The 20 of 30 in which {HOSTILE} loses most." in table and "c7 0.5000 0.2500 -0.2500" in table
    assert "c8" not in table, "there it gains"
    pairs = shown.split("Confusions")[-1].split("Where teacher")[0]
    assert "c28 c29 28 28" in pairs and "c1 c1" not in pairs and "c8 c9" not in pairs, "the 20 commonest mistakes"


def test_the_mistakes_of_a_comparison_are_those_that_the_first_does_not_make():
    first = [("c", "x", "y", 0.5), ("b", "x", "y", 0.0), ("a", "x", "x", 1.0), ("d", "x", "y", 0.0)]
    students = [("c", "x", "z", 0.25), ("b", "x", "y", 0.0), ("a", "x", "y", 0.0), ("d", "x", "x", 1.0)]
    lost = lost_examples([Summary(*row) for row in students], [Summary(*row) for row in first])
    assert lost == [(first[2], students[2]), (first[0], students[0])]


def test_models_that_cut_texts_into_other_pieces_have_no_attention_side_by_side():
    tokenizer = SimpleNamespace(difference=lambda other: "another vocabulary")
    models = {name: SimpleNamespace(tokenizer=tokenizer) for name in "ab"}
    all_predictions = {name: SimpleNamespace(features=None) for name in "ab"}
    assert attention_maps(models, all_predictions, torch.device("cpu")) == []
