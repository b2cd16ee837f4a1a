"""Pages about runs and comparisons: they say what the records say, load nothing, and take no text for markup."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from kd_scratch.page import html_table, page, paragraph
from kd_scratch.report import read_record, runs_page
from tests.test_commands import run, runs  # noqa: F401 (a fixture)

VOID = {"meta", "br", "link", "input"}


class Reader(HTMLParser):
    """Checks that tags are closed in order; collects text, tags, and whatever a page would load or run."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.said, self.loads = [], [], [], []
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
            self.said.append(data)


def check_page(text: str) -> str:
    """What a page says, once it was found to be whole, to load nothing and to run nothing."""
    reader = Reader(text)
    assert text.startswith("<!doctype html>") and "script" not in reader.tags
    assert all(name == "style" or (name == "href" and value[0] == "#") for _, name, value in reader.loads)
    assert not re.search(r"@import|url\(", text)
    return " ".join(" ".join(reader.said).split())


def test_whatever_is_said_stays_text():
    hostile = '<script>alert(1)</script> & "quotes"'
    text = page(hostile, hostile, [(hostile, paragraph(hostile) + html_table((hostile,), [(hostile,), (0.5,)]))])
    said = check_page(text)
    assert said.count('<script>alert(1)</script> & "quotes"') == 8 and "0.5000" in said


def test_a_training_run_has_a_page_with_its_curves_and_its_teachers(runs):  # noqa: F811
    text = (runs / "distilled" / "report.html").read_text()
    said = check_page(text)
    record = json.loads((runs / "distilled" / "training.json").read_text())
    assert "this run" in said and "teacher 1" in said and "settings: temperature" in said
    assert f"{record['best_score']:.4f}" in said and record["machine"]["processor"] in said
    assert text.count("<svg") == 2 and "Loss on the training data" in said and "accuracy on the dev data" in said
    assert len(record["history"][0]["losses"]) == 6, "one for each step where there are few"
    assert record["history"][0]["loss"] == pytest.approx(sum(record["history"][0]["losses"]) / 6)


def test_report_puts_several_runs_on_one_page(runs, tmp_path, capsys):  # noqa: F811
    argv = [f"{name}={runs / name}" for name in ("teacher", "baseline", "distilled")]
    status, out, _ = run(capsys, "report", "--runs", *argv, "--output", tmp_path / "r.html")
    assert status == 0 and "3 runs of csv" in out
    said = check_page((tmp_path / "r.html").read_text())
    differs, same = said.split("What differs")[1].split("The same in all")
    assert "initial weights" in differs and "settings: epochs" in same and "seed" in same


@pytest.mark.parametrize(
    ("names", "output", "message"),
    [
        (["a=baseline", "a=teacher"], "r.html", "--runs: a name is used twice"),
        (["a=nowhere"], "r.html", "nowhere: holds no training.json; give the --output of a `train`"),
        (["a=baseline"], "baseline/training.json", "would overwrite"),
        (["a=baseline", "b=other"], "r.html", "are of different tasks (agnews, csv); one page is about one task"),
        (["a=broken"], "r.html", "is not what `train` writes of a run; delete it, or train again"),
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


@pytest.mark.parametrize(
    "change",
    [
        {"task": "cooking"},
        {"task": ["csv"]},
        {"history": []},
        {"history": 3},
        {"history": [{"epoch": 1, "loss": "<b>", "losses": [1.0], "tokens_per_second": 1, "dev": {"accuracy": 1}}]},
        {"history": [{"epoch": 1, "loss": 1, "losses": [], "tokens_per_second": 1, "dev": {"accuracy": 1}}]},
        {"history": [{"epoch": 1, "loss": 1, "losses": [1e999], "tokens_per_second": 1, "dev": {"accuracy": 1}}]},
        {"settings": []},
        {"spent": {"data": "long"}},
        {"parameters": None},
        {"seconds": True},
    ],
)
def test_a_record_is_checked_before_it_is_drawn(runs, tmp_path, change):  # noqa: F811
    record = json.loads((runs / "baseline" / "training.json").read_text())
    (tmp_path / "training.json").write_text(json.dumps(record))
    assert read_record(tmp_path) == record
    (tmp_path / "training.json").write_text(json.dumps(record | change))
    with pytest.raises(Exception, match="training.json: "):
        read_record(tmp_path)


def test_records_of_before_that_tell_less_are_drawn_all_the_same(runs, tmp_path):  # noqa: F811
    record = json.loads((runs / "baseline" / "training.json").read_text())
    del record["spent"]
    for epoch in record["history"]:
        del epoch["losses"]
    (tmp_path / "training.json").write_text(json.dumps(record))
    said = check_page(runs_page("before", {"old <run>": read_record(tmp_path)}))
    assert "old <run>" in said and "Where the time went" not in said
    assert read_record(tmp_path / "nowhere") is None


def test_a_comparison_has_a_page_with_everything(runs, tmp_path, capsys):  # noqa: F811
    models = [f"{name}={runs / name}" for name in ("teacher", "baseline", "distilled")]
    argv = ["compare", "--task", "csv", "--data", runs / "test.csv", "--models", *models, "--output", tmp_path / "c"]
    assert run(capsys, *argv)[0] == 0
    text = (tmp_path / "c" / "report.html").read_text()
    said = check_page(text)
    found = json.loads((tmp_path / "c" / "comparison.json").read_text())
    teacher, _, distilled = found["rows"]
    points = 100 * distilled["difference"]
    assert f"distilled against teacher: {points:+.2f} points of accuracy" in said
    assert f"{teacher['megabytes'] / distilled['megabytes']:.1f} times as small" in said
    for heading in ("Result", "Quality against speed and size", "Training", "Calibration", "Class by class",
                    "What is taken for what", "Mistakes of distilled alone", "What they look at"):  # fmt: skip
        assert f"<h2>{heading}</h2>" in text
    assert text.count("<svg") == 2 + 2 + 1 + 2 + 2 * 3, "trade-offs, training, calibration, confusions, attention"
    assert (tmp_path / "c" / "speed.svg").read_text() in text and (tmp_path / "c" / "size.svg").read_text() in text


def test_text_of_the_data_is_not_taken_for_markup(runs, tmp_path, capsys):  # noqa: F811
    rows = ["label,text", *(f'{label},"<img src=x onerror=alert({i})> moon"' for i, label in
                            enumerate(["space", "sport", "trade"] * 4))]  # fmt: skip
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    models = [f"a<b>={runs / 'teacher'}", f"c={runs / 'baseline'}", f"d={runs / 'baseline'}"]
    argv = ["compare", "--task", "csv", "--data", tmp_path / "t.csv", "--models", *models, "--output", tmp_path / "c"]
    assert run(capsys, *argv)[0] == 0
    said = check_page((tmp_path / "c" / "report.html").read_text())
    assert "a<b>" in said


def test_the_mistakes_shown_are_the_students_alone(runs, tmp_path, capsys):  # noqa: F811
    models = [f"{name}={runs / name}" for name in ("teacher", "distilled")]
    argv = ["compare", "--task", "csv", "--data", runs / "test.csv", "--models", *models, "--output", tmp_path / "c"]
    said = {}
    for name in ("teacher", "distilled"):
        path = tmp_path / f"{name}.json"
        assert run(capsys, "evaluate", "--task", "csv", "--data", runs / "test.csv", "--model", runs / name,
                   "--predictions", path)[0] == 0  # fmt: skip
        said[name] = json.loads(path.read_text())
    assert run(capsys, *argv)[0] == 0
    text = (
        (tmp_path / "c" / "report.html").read_text().split("Mistakes of distilled alone</h2>")[1].split("</section>")[0]
    )
    alone = [key for key, row in said["teacher"].items()
             if row["label"] == row["gold"] != said["distilled"][key]["label"]]  # fmt: skip
    assert text.count("<tr>") == (len(alone) + 1 if alone else 0)
