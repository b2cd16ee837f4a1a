"""How much there is to gain, and what gains it: a table of cases, and who is taken for whom."""

from dataclasses import asdict

import pytest

from kd_scratch.config import DataConfig
from kd_scratch.evaluation import advice as advice_module
from kd_scratch.evaluation import compare
from kd_scratch.evaluation.advice import advice, chance_of, differently_read, ingredients, is_baseline, same_dev
from kd_scratch.pages.report import Quality
from kd_scratch.tasks import TASKS

TEACHERS = "several teachers, or cross-fitted ones (--fold 1/5 to 5/5); neither is shown to beat one on AG News"
LONGER = "a longer schedule (--epochs; nothing on CLINC150, AG News and PolicyQA, in one run each; with text and "
LONGER += "copies 40% on CoNLL-2003)"
ALL = (
    "text without labels (--unlabelled FILE; with altered copies 58% of the gap on CLINC150; 66% on AG News, 32% "
    "without it; 40% on CoNLL-2003, with copies), "
    "altered copies (--augment 1; alone within chance on CLINC150 and AG News), "
    f"a table of tokens that stays (--freeze-embeddings; not measured alone), {TEACHERS}, {LONGER}"
)
NOTHING = "not ahead by more than chance ({} points), so no gap is shown; score both on more examples, train the "
NOTHING += "teacher longer or better, or make the student smaller"


@pytest.mark.parametrize("teacher, baseline, chance, known, expected", [
    (0.9598, 0.9382, 0.011, [], "2.16 points to gain; what is left to try: " + ALL),
    (0.9598, 0.9490, 0.0109, [], NOTHING.format("1.09")),
    (0.94, 0.95, 0.011, ["unlabelled"], NOTHING.format("1.10")),
    (0.96, 0.93, 0.011, ["unlabelled", "teachers", "augment", "still"],
     f"3.00 points to gain; what is left to try: {LONGER}"),
    (0.96, 0.84, 0.011, ["labelled", "unlabelled", "teachers", "augment", "still"],
     "12.00 points to gain; with few labels, soft targets of a teacher of all labels closed 65% of it on CLINC150; "
     f"what is left to try: {LONGER}"),
    (0.86, 0.84, 0.011, ["labelled", "same labels"],
     "2.00 points to gain; its teacher had no more labels than it, but text without labels closed all of it on "
     f"CLINC150; what is left to try: {ALL}"),
    (0.86, 0.84, 0.011, ["labelled", "same labels", "unlabelled", "teachers", "augment", "still"],
     f"2.00 points to gain; what is left to try: {LONGER}"),
    (0.84, 0.84, 0.0, ["labelled", "same labels"], NOTHING.format("0.00")),
])  # fmt: skip
def test_the_advice_by_case(teacher, baseline, chance, known, expected):
    assert (
        advice(teacher, baseline, chance, known)
        == f"teacher {100 * teacher:.2f}, baseline {100 * baseline:.2f}: {expected}"
    )


def test_where_most_is_closed_nothing_is_advised():
    assert advice(0.97, 0.74, 0.02, [], closed=0.91) == "teacher 97.00, baseline 74.00: 23.00 points to gain"
    assert advice(0.97, 0.74, 0.02, [], closed=0.79).endswith(ALL)


def test_chance_is_that_of_two_independent_scores():
    assert chance_of([0.5, 0.5], 100) == pytest.approx(1.96 * 0.0707, rel=1e-3)
    assert chance_of([-0.05, 0.0], 200) == pytest.approx(0.196, rel=1e-3), "correlations"
    assert chance_of([0.96, 0.938], 3000) == pytest.approx(0.0111, rel=0.01)


DISTILLED = {
    "task": "clinc", "train": "a", "dev": "b", "unlabelled": None, "teacher": "t", "seed": 0, "fold": None, "step": 1,
    "initial weights": "w", "settings": {"labelled": "", "augment": 0}, "data settings": {"oos": False, "limit": ""},
}  # fmt: skip


def changed(record, **changes):
    """A record in which entries of a table are changed one by one, others as a whole."""
    return record | {key: record[key] | value if isinstance(value, dict) else value for key, value in changes.items()}


def test_what_is_known_of_a_distillation(monkeypatch):
    monkeypatch.setattr(advice_module, "origin_record", lambda path: path)
    task, tenth = TASKS["clinc"], {"labelled": "10%"}
    teacher = DISTILLED | {"teacher": None}
    for record, teachers, found in (
        (DISTILLED, [teacher], set()),
        (changed(DISTILLED, teacher="s t", unlabelled="x"), [], {"teachers", "unlabelled"}),
        (changed(DISTILLED, settings={"augment": 2}), [], {"augment"}),
        (changed(DISTILLED, settings={"freeze_embeddings": True}), [], {"still"}),
        (DISTILLED | {"sources": {"model": "random weights (mini-student)"}}, [], {"still"}),
        (DISTILLED | {"sources": {"model": "teacher"}}, [], set()),
        (changed(DISTILLED, settings=tenth), [teacher], {"labelled"}),
        (changed(DISTILLED, settings=tenth), [], {"labelled"}),
        (changed(DISTILLED, settings=tenth), [changed(teacher, settings=tenth)], {"labelled", "same labels"}),
        (changed(DISTILLED, settings=tenth), [changed(teacher, settings=tenth), teacher], {"labelled"}),
        (changed(DISTILLED, settings=tenth), [changed(teacher, settings=tenth, seed=1)], {"labelled"}),
        (
            changed(DISTILLED, settings=tenth),
            [changed(teacher, settings=tenth, **{"drawn by text": True})],
            {"labelled"},
        ),
    ):
        assert ingredients(record, teachers, task) == found
    assert ingredients(DISTILLED, [], TASKS["squad"]) == set(), "contexts without labels can be had"
    assert ingredients(DISTILLED, [], TASKS["mlm"]) == {"unlabelled", "teachers", "augment"}, "what it cannot have"


def test_only_the_same_student_is_a_baseline_and_only_the_same_dev_compared():
    baseline = DISTILLED | {"teacher": None}
    assert is_baseline(baseline, DISTILLED) and not is_baseline(DISTILLED, DISTILLED)
    for change in (dict(train="x"), dict(dev="x"), dict(task="csv"), dict(seed=1), {"initial weights": "x"},
                   {"data settings": {"limit": "5"}},
                   dict(fold="1/5"), dict(settings={"labelled": "10%"}), {"data settings": {"oos": True}}):  # fmt: skip
        assert not is_baseline(changed(baseline, **change), DISTILLED), change
    for change in ({"data settings": {"older": 1}}, dict(settings={"epochs": 9})):
        assert is_baseline(changed(baseline, **change), DISTILLED), change
    other = changed(baseline, train="x", seed=7, **{"data settings": {"limit": "5"}})
    assert same_dev(other, DISTILLED), "a teacher may have been trained on another file"
    part = {"dev": "10%"}
    assert not same_dev(changed(baseline, **part, **{"drawn by text": True}), changed(DISTILLED, **part)), "older"
    assert same_dev(changed(baseline, **{"drawn by text": True}), DISTILLED), "dev is a file"
    assert not same_dev(other | part, DISTILLED | part) and same_dev(baseline | part, DISTILLED | part)
    nothing = {"dev": None}
    assert not same_dev(DISTILLED | nothing, DISTILLED | nothing)


def test_only_what_a_task_reads_with_can_make_other_examples_of_a_file():
    """Every setting changed: those that come back are those of the task."""
    usual = asdict(DataConfig())
    changes = {name: 1 if name == "oos" else "x" for name in usual} | {"encoding": "auto", "header": "auto"}
    for name, fields in (
        ("csv", ["label_column", "text_column"]),
        ("labels", ["label_column", "label_separator", "text_column"]),
        ("clinc", ["label_column", "oos", "text_column"]),
        ("squad", ["answers_column", "context_column", "question_column"]),
        ("conll", ["label_column", "tag_names", "text_column"]),
    ):
        this, other = ({"task": name, "data settings": settings} for settings in (usual, changes))
        assert list(differently_read(this, other)) == fields and not differently_read(this, this)
        assert set(TASKS[name].reading.split()) <= usual.keys()
    assert differently_read(this, this | {"task": "csv"}) == {"task": "csv"}


def row(difference=None, width=0.01):
    """Of a model whose accuracy lies so far from the teacher's 0.96."""
    bounds = None if difference is None else (difference - width, difference + width)
    return Quality({"accuracy": 0.96 + (difference or 0)}, (0, 1), 0.9, difference, bounds)


def test_a_comparison_says_what_there_is_to_gain_where_its_records_tell_who_is_who(monkeypatch):
    monkeypatch.setattr(compare, "load_model", lambda directory, say: directory)
    monkeypatch.setattr(compare, "fingerprint", lambda model: "t")
    baseline = DISTILLED | {"teacher": None}
    records = {
        "big": changed(baseline, **{"initial weights": "x"}),
        "plain": baseline,
        "kd": DISTILLED,
        "both": DISTILLED,
    }
    rows = {"big": row(), "plain": row(-0.04), "kd": row(-0.03), "both": row(-0.05), "int8": row(-0.05)}

    def told(records, rows=rows):
        return compare.gap_advice(TASKS["csv"], "folder", records, rows)

    start = (
        "kd closes 25% of the gap, both closes -25% of the gap; teacher 96.00, baseline 92.00: 4.00 points to gain; "
    )
    assert told(records) == start + "what is left to try: " + ALL
    longer = records | {"kd": DISTILLED | {"step": 1200}, "both": DISTILLED | {"step": 600}}
    assert (
        told(longer | {"plain": baseline | {"step": 600}})
        == start.replace("of the gap,", "of the gap (1,200 steps against 600),") + "what is left to try: " + ALL
    )
    assert told(records, rows | {"kd": row(-0.005)}).endswith("baseline 92.00: 4.00 points to gain"), "88% are closed"
    close = rows | {"plain": row(-0.009)}
    assert told(records, close) == "teacher 96.00, baseline 95.10: " + NOTHING.format("1.00")
    assert told(records, rows | {"plain": row(0.0)}) == "teacher 96.00, baseline 96.00: " + NOTHING.format("1.00")
    others = {"kd": DISTILLED | {"teacher": "u"}, "both": DISTILLED | {"teacher": "s"}}
    for change in (others, {"plain": changed(baseline, seed=3)}, {"plain": DISTILLED}):
        assert told(records | change) == "", "of another teacher, or no baseline"
    of_two = {name: DISTILLED | {"teacher": "s t"} for name in ("kd", "both")}
    assert told(records | of_two) == (start + "what is left to try: " + ALL).replace(f"{TEACHERS}, ", "")
    assert told({"big": baseline, "kd": DISTILLED}) == told({}) == "", "the teacher itself is no baseline"
