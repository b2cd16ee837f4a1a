"""What a study has found: its statistics by hand, its tables, sentences and figures."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest

from kd_scratch.config import DataConfig
from kd_scratch.evaluation.significance import (
    BINS,
    calibration_bins,
    calibration_error,
    calibration_floor,
    calibration_tally,
    interval,
    interval_around,
    margin,
    resampled_sums,
    smallest_effect,
)
from kd_scratch.study.figures import difference, gap_closed, references, summarize
from kd_scratch.study.summary import conclusions, verdict, write_report
from kd_scratch.study.variants import BASELINE, SOFT
from kd_scratch.tasks import TASKS, Predictions
from kd_scratch.tasks.base import label_confidence, mean_score
from kd_scratch.tasks.classification import Example
from kd_scratch.tasks.question_answering import Answer
from kd_scratch.tasks.question_answering import Example as Question
from kd_scratch.tasks.token_classification import Example as Sentence

# --- statistics ---


def test_the_margin_of_a_mean_is_students():
    """The quantiles are those of the usual tables."""
    for n, t in ((2, 12.706), (3, 4.303), (11, 2.228), (12, 2.201), (31, 2.042), (121, 1.980)):
        values = [0.0] * (n - 1) + [1.0]
        deviation = np.sqrt((1 / n) * (1 - 1 / n) * n / (n - 1))
        assert margin(values) == pytest.approx(t * deviation / np.sqrt(n), rel=4e-4), n
    assert margin([0.5]) is None and margin([0.3, 0.3, 0.3]) == 0.0


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize(("of_file", "of_seed"), [(0.0, 1.0), (1.0, 0.0), (1.0, 0.6), (1.0, 2.2)])
def test_the_smallest_effect_is_found_in_four_of_five_studies(of_file, of_seed, count):
    """Each of some studies gives its own, and all others look for that: beyond the chance of the test file, which all
    runs of a study share, and that of seeds. Where both are large, a little more than four in five find it."""
    rng = np.random.default_rng(0)
    drawn = of_file * np.random.default_rng(1).normal(size=4000)
    by_seed = of_seed * rng.normal(size=(2000, count)) + of_file * rng.normal(size=(2000, 1))
    smallest = np.array([smallest_effect(drawn, x) for x in by_seed[:500]])
    limits = np.hypot([margin(x) for x in by_seed], 1.96 * of_file)
    found = np.mean(by_seed.mean(axis=1) + smallest[:, None] > limits)
    assert 0.77 < found < (0.83 if 0 in (of_file, of_seed) else 0.9)
    assert smallest_effect(drawn) == pytest.approx(2.80 * of_file, rel=0.03), "of one run"


def test_the_interval_of_a_figure_that_drawing_raises_is_around_it():
    """A calibrated model's error of 0.01 is 0.02 in files drawn from this one, whose noise has doubled."""
    drawn = 0.02 + 0.004 * np.random.default_rng(0).normal(size=20_000)
    assert interval_around(0.01, drawn) == pytest.approx((0.01 - 0.0078, 0.01 + 0.0078), abs=2e-4)
    assert interval_around(0.005, drawn)[0] == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_of_a_calibration_error_holds_it(seed):
    rng = np.random.default_rng(seed)
    sure = rng.uniform(0.3, 1, 1000)
    tally = calibration_tally(sure, rng.random(1000) < sure, np.arange(1000), 1000)
    error = float(calibration_error(tally.sum(axis=0)))
    low, high = interval_around(error, calibration_error(resampled_sums(tally)))
    assert low < error < high < error + 0.03


def test_the_margin_covers_the_mean_in_95_of_100_cases():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(4000, 3))
    hits = np.mean([abs(x.mean()) <= margin(x) for x in samples])
    assert 0.94 < hits < 0.96


def test_calibration_by_hand():
    """Bins of 1/15: three decisions around 0.7, of which one is right, one that is sure and right, one at 0."""
    confidence = np.array([0.70, 0.71, 0.72, 1.0, 0.0])
    right = np.array([True, False, False, True, False])
    tally = calibration_tally(confidence, right, np.array([0, 1, 1, 0, 2]), 4)
    assert tally.shape == (4, 3 * BINS) and not tally[3].any()
    error, bins = calibration_error(tally.sum(axis=0)), calibration_bins(tally.sum(axis=0))
    assert error == pytest.approx((3 * (0.71 - 1 / 3) + 0 + 0) / 5)
    assert len(bins) == BINS and [n for *_, n in bins] == [1, *[0] * 9, 3, *[0] * 3, 1]
    assert bins[10][:2] == pytest.approx((0.71, 1 / 3))
    assert calibration_error(tally) == pytest.approx([0.3 / 2, (1.43 - 0) / 2, 0, 0]), "of each group"


def test_a_model_that_is_right_as_often_as_it_is_sure_has_no_calibration_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(size=200_000)
    right, groups = rng.uniform(size=200_000) < confidence, np.zeros(200_000, int)
    assert calibration_error(calibration_tally(confidence, right, groups, 1)) < 0.006
    of_root = calibration_error(calibration_tally(np.sqrt(confidence), right, groups, 1))
    assert of_root == pytest.approx([1 / 6], abs=0.01)


def test_the_floor_of_the_calibration_error_is_what_perfect_models_have():
    """One bin, 100 decisions at 0.5: the mean distance of a binomial share from its mean is sqrt(1 / (2 pi n))."""
    floor = calibration_floor(np.full(100, 0.5))
    assert floor == pytest.approx(np.sqrt(1 / (2 * np.pi * 100)), rel=0.2)
    assert calibration_floor(np.ones(50)) == 0 and calibration_floor(np.full(10_000, 0.5)) < floor / 5


def test_the_confidence_of_a_model_by_task():
    examples = [Example("0", "", "a"), Example("1", "", "b"), Example("2", "", "oos", in_scope=False)]
    logits = np.array([[np.log(3), 0], [np.log(4), 0], [0, 9]], np.float32)
    examples, logits = [examples[2], *examples[:2]], logits[[2, 0, 1]]
    sure = TASKS["clinc"].confidence(Predictions(TASKS["clinc"], examples, None, logits, ("a", "b"), DataConfig()))
    assert sure.probability == pytest.approx([0.75, 0.8]), "out of scope counts not"
    assert sure.right.tolist() == [True, False] and sure.example.tolist() == [1, 2]
    assert sure.loss == pytest.approx(-np.log([0.75, 0.2]))
    questions = [Question("q", "?", "x y", ("x",), 0), Question("r", "?", "x y", ("x y",), 0)]
    predictions = Predictions(TASKS["squad"], questions, None, None, (), DataConfig())
    predictions.decisions = [Answer("x", 0, 0, 0.0, 0.9, 0.0, "x"), Answer("y", 0, 0, 0.0, 0.4, 0.0, "y")]
    p, right, example, loss = TASKS["squad"].confidence(predictions)
    assert p.tolist() == [0.9, 0.4] and right.tolist() == [True, False]
    assert example.tolist() == [0, 1] and np.isnan(loss).all(), "of an answer only the probability is known"
    assert predictions.groups.tolist() == [0, 1], "both are about one context, which drawn alone would never vary"


def test_a_task_of_another_head_has_no_confidence_unless_it_says_what_that_is():
    task = replace(TASKS["conll"], confidence=label_confidence)
    sure = task.confidence(Predictions(task, [], None, np.zeros((0, 2)), ("B-X", "O"), DataConfig()))
    assert [len(part) for part in sure] == [0, 0, 0, 0]


def test_of_each_word_the_probability_of_its_tag_and_whether_it_is_right(tokenizer):
    task, labels = TASKS["conll"], ("B-X", "O")
    sentences = [Sentence("a", ("fox", "moon"), ("B-X", "O"), "a"), Sentence("b", ("dog",), ("O",), "b")]
    features = task.featurize(sentences, tokenizer, labels, 40, DataConfig())
    logits = np.zeros((len(features.tokens), 2), np.float32)
    logits[features.word_at] = [[np.log(3), 0], [np.log(4), 0], [0, np.log(9)]]
    sure = task.confidence(Predictions(task, sentences, features, logits, labels, DataConfig()))
    assert sure.probability == pytest.approx([0.75, 0.8, 0.9]) and sure.right.tolist() == [True, False, True]
    assert sure.example.tolist() == [0, 0, 1] and sure.loss == pytest.approx(-np.log([0.75, 0.2, 0.9]))


# --- the findings ---

TASK = TASKS["csv"]


def record(rights, dev=0.5, agreement=0.9, loss=0.3, ece=0.02):
    """What results.measure gives of a model that is right on these examples."""
    rights = np.array(rights, float)
    tally = np.stack([rights, np.ones_like(rights)], axis=1)
    calibration = calibration_tally(np.full(len(rights), 0.7), rights > 0, np.arange(len(rights)), len(rights))
    drawn = {"score": mean_score(resampled_sums(tally)), "ece": calibration_error(resampled_sums(calibration))}
    return {
        "score": float(rights.mean()),
        "dev": dev,
        "learning rate": 1e-4,
        "loss": loss,
        "ece": ece,
        "ece_floor": 0.01,
        "calibration": calibration_bins(calibration.sum(axis=0)),
        "agreement": agreement,
        "per_class": {"a": float(rights[::2].mean()), "b": float(rights[1::2].mean())},
        "groups": len(rights),
        "drawn": drawn | ({} if loss is None else {"loss": 1 - drawn["score"]}),
    }


def right(share, seed, n=400):
    return (np.random.default_rng(seed).random(n) < share).astype(int)


def test_a_difference_is_the_mean_over_seeds_with_the_interval_of_its_own_draws():
    better = [record(right(0.8, s)) for s in (1, 2)]
    worse = [record(right(0.6, s)) for s in (3, 4)]
    found = difference(better, worse)
    scores = [[run["score"] for run in runs] for runs in (better, worse)]
    assert found["mean"] == pytest.approx(np.mean(scores[0]) - np.mean(scores[1]))
    mean_rights = [np.mean([right(share, s) for s in seeds], axis=0) for share, seeds in ((0.8, (1, 2)), (0.6, (3, 4)))]
    drawn = resampled_sums((mean_rights[0] - mean_rights[1])[:, None])[:, 0] / 400  # accuracy is linear
    assert found["interval"] == pytest.approx(interval(drawn))
    by_seed = np.subtract(*scores)
    assert found["smallest"] == pytest.approx(smallest_effect(drawn, by_seed))
    assert found["p"] < 0.01 and found["gained"] == 2
    same = difference(better, better)
    assert same["mean"] == 0 and same["interval"] == (0, 0) and same["p"] == 1 and same["gained"] == 0
    assert same["smallest"] is None, "nothing varies, so no effect is detectable"
    assert difference(better[:1], worse[:1])["smallest"] is None, "one seed does not show what training varies"
    assert verdict(same, 2).startswith("no difference that these runs can show: +0.00 points")


def test_a_summary_has_the_means_over_seeds_and_both_references():
    teacher = record(right(0.9, 9))
    records = {BASELINE: [record(right(0.6, s), dev=0.6 + s / 10) for s in (1, 2)],
               SOFT: [record(right(0.7, s)) for s in (3, 4)],
               "hidden": [record(right(0.8, s), loss=None) for s in (5, 6)]}  # fmt: skip
    rows = {name: summarize(runs, references(name, records), teacher) for name, runs in records.items()}
    assert rows[BASELINE]["dev"] == pytest.approx(0.75)
    scores = [run["score"] for run in records[SOFT]]
    assert rows[SOFT]["test"] == pytest.approx(np.mean(scores)) and rows[SOFT]["margin"] == margin(scores)
    assert rows[SOFT]["of teacher"] == pytest.approx(np.mean(scores) / teacher["score"])
    assert rows["hidden"]["loss"] is rows["hidden"]["loss interval"] is None
    low, high = rows[SOFT]["loss interval"]
    assert low < 1 - rows[SOFT]["test"] < high and "gap" not in rows[BASELINE]
    keys = {name: sorted(key for key in row if key.startswith("against")) for name, row in rows.items()}
    both = [f"against {BASELINE}", f"against {SOFT}"]
    assert keys == {BASELINE: [], SOFT: both[:1], "hidden": both}


def test_the_share_of_the_gap_goes_from_baseline_to_teacher():
    """Each model is right on the first so many of 400 texts: 320 baseline, 360 teacher."""

    def first(count):
        return record(np.arange(400) < count)

    teacher, baseline = first(360), [first(320), first(320)]
    for counts, share in (((340, 340), 0.5), ((320, 320), 0.0), ((360, 380), 1.25), ((310, 310), -0.25)):
        found = gap_closed([first(count) for count in counts], baseline, teacher)
        low, high = found["interval"]
        assert found["share"] == pytest.approx(share) and low <= share <= high
    assert low < high < 0
    assert gap_closed(baseline, baseline, first(321)) is None, "a teacher of one text more has nothing to teach"
    few = {"score": 0.9, "drawn": {"score": [0.9] * 199 + [0.5]}}, {"score": 0.5, "drawn": {"score": [0.5] * 200}}
    found = gap_closed([few[1]], [few[1]], few[0])
    assert found["interval"] == (0.0, 0.0), "a draw in which both are alike says nothing"


def test_the_sentences_say_helped_hurt_or_nothing_that_can_be_shown():
    def row(low, high, seeds=0.001):
        change = {"mean": (low + high) / 2, "interval": (low, high), "p": 0.5, "seeds": seeds, "gained": 2}
        change |= {"smallest": 0.0042, "margin": np.hypot((high - low) / 2, seeds or 0)}
        return {"test": 0.9, "of teacher": 0.99, "by seed": [1, 2, 3], f"against {SOFT}": change}

    rows = {BASELINE: {"test": 0.8, "of teacher": 0.9}, "hidden": row(0.001, 0.004), "cosine": row(-0.02, -0.01)}
    rows |= {"patient": row(-0.001, 0.001), "relations": row(0.001, 0.004, 0.0022), "one seed": row(0.001, 0.004, None)}
    found = conclusions(rows, "hidden", TASK, {"score": 0.91})
    assert found == [
        "Best on dev: hidden. On test it has 99.0% of its teacher's accuracy (90.00 against 91.00).",
        f"hidden against {SOFT}: helped: +0.25 points (+0.10 to +0.40 over test examples, ± 0.10 over seeds), "
        "better with 2 of 3 seeds",
        f"cosine against {SOFT}: hurt: -1.50 points (-2.00 to -1.00 over test examples, ± 0.10 over seeds), "
        "better with 2 of 3 seeds",
        f"patient against {SOFT}: no difference that these runs can show (detectable from 0.42 points on): "
        "+0.00 points (-0.10 to +0.10 over test examples, ± 0.10 over seeds), better with 2 of 3 seeds",
        f"relations against {SOFT}: no difference that these runs can show (detectable from 0.42 points on): "
        "+0.25 points (+0.10 to +0.40 over test examples, ± 0.22 over seeds), better with 2 of 3 seeds",
        f"one seed against {SOFT}: of one seed, which does not show what chance in training does: +0.25 points (+0.10 "
        "to +0.40 over test examples), better with 2 of 3 seeds",
    ]


ABOUT = {
    "task": "csv",
    "score": "accuracy",
    "data": "t.csv",
    "test examples": 400,
    "drawn": "400 examples",
    "few groups": "",
    "notes": [],
    "seeds": [0, 1],
    "which teacher": "teacher",
    "ingredients": ["teachers"],
    "steps": [8],
    "layers chosen": False,
    "versions of the code": 1,
    "command": [],
    "beside": {},
}


def test_the_report_is_markdown_json_and_figures(tmp_path):
    teacher = record(right(0.9, 9))
    records = {BASELINE: [record(right(0.6, s)) for s in (1, 2)], SOFT: [record(right(0.8, s), 0.9) for s in (3, 4)]}
    about = ABOUT | {"command": ["evidence", "--task", "csv"]}
    cells = {(1.0, 0.5): {"dev": 0.51, "test": 0.61}, (2.0, 0.5): {"dev": 0.52, "test": 0.62}}
    text, result = write_report(TASK, about, teacher, records, cells, tmp_path, {}, {})
    assert json.loads(json.dumps(result)) == json.loads((tmp_path / "evidence.json").read_text())
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"evidence.md", "evidence.json", "scores.svg", "calibration.svg", "grid.svg"}
    markdown = (tmp_path / "evidence.md").read_text()
    baseline = result["rows"][BASELINE]["test"]
    assert "| soft targets |" in markdown and "python -m kd_scratch evidence --task csv" in markdown
    assert all(f"]({name})" in markdown for name in names if name.endswith("svg"))
    for sentence in (
        "51.00 / 61.00",
        "Best on dev: soft targets",
        f"What there is to gain: teacher {100 * teacher['score']:.2f}, baseline {100 * baseline:.2f}: ",
        "of 2 seeds",
        "Each run made 8 optimizer steps.\n",
        "from baseline to teacher, with an interval of both chances; empty",
        "- all variants had one learning rate: --learning-rates gives each its own\n",
    ):
        assert sentence in markdown and sentence in text
    result = json.loads((tmp_path / "evidence.json").read_text())
    assert result["best on dev"] == SOFT and result["rows"][SOFT]["test"] > result["rows"][BASELINE]["test"]
    assert result["sureness of the teacher"]["ece"] == teacher["ece"] and f"{teacher['ece']:.4f}" in text
    assert result["grid"][0] == {"temperature": 1.0, "alpha": 0.5, "dev": 0.51, "test": 0.61}
    assert [gap[0] for gap in result["gaps"]] == sorted(
        "ab", key=lambda name: [g[3] for g in result["gaps"] if g[0] == name]
    )
    for name in ("scores.svg", "calibration.svg", "grid.svg"):
        ET.fromstring((tmp_path / name).read_text())
    (tmp_path / "x").mkdir()
    again, _ = write_report(TASK, about, teacher, records, {}, tmp_path / "x", {}, {})
    assert "alpha" not in again and not (tmp_path / "x" / "grid.svg").exists()


def test_what_closes_a_gap_is_not_advised_where_it_is_closed(tmp_path):
    teacher, baseline = record(right(0.9, 9)), [record(right(0.6, 1))]
    for share, advised in ((0.7, True), (0.93, False)):
        records = {BASELINE: baseline, SOFT: [record(right(0.62, 3), 0.9)], "hidden": [record(right(share, 4))]}
        text, _ = write_report(TASK, ABOUT | {"seeds": [0]}, teacher, records, {}, tmp_path, {}, {})
        assert "points to gain" in text and ("what is left to try" in text) == advised


def test_the_best_is_chosen_on_dev_and_never_on_test(tmp_path):
    teacher = record(right(0.9, 9))
    records = {BASELINE: [record(right(0.6, 1), dev=0.4)], SOFT: [record(right(0.9, 3), dev=0.5)],
               "hidden": [record(right(0.6, 5), dev=0.6)]}  # fmt: skip
    about = ABOUT | {"seeds": [0], "beside": {"deeper": []}, "versions of the code": 2, "steps": [1000, 1200, 1300]}
    about |= {
        "which teacher": "teacher 2 of 3",
        "layers chosen": True,
        "few groups": "The test file has only 4 groups.",
        "notes": ["teacher was trained on t.csv: its scores here say nothing about new texts"],
    }
    others = {"deeper": {BASELINE: [record(right(0.6, 6), dev=0.7)]}}
    text, _ = write_report(TASK, about, teacher, records, {}, tmp_path, others, {})
    assert "Best on dev: hidden." in text, "other studies are shown, not chosen"
    layers = "The students' layers were chosen on dev with soft targets, which favours these."
    made = f"Each run made 1,000 to 1,300 optimizer steps. {layers} They were made by 2 versions of the code."
    made += f" {about['few groups']} {about['notes'][0]}. deeper: "
    assert made in text and "with an interval of the chance of the test file; empty" in text
    assert "of the teacher, the best of several on this file. " in text and text.count("\nteacher 2 of 3  ") > 1
    assert (tmp_path / "evidence.md").read_text().count(" one seed |") == 2, "detectable from"


def test_other_studies_stand_beside_this_one_and_are_compared_with_what_has_their_name(tmp_path):
    teacher = record(right(0.9, 9))
    records = {BASELINE: [record(right(0.6, s)) for s in (1, 2)], SOFT: [record(right(0.7, s)) for s in (3, 4)]}
    warm = {BASELINE: [record(right(0.8, s)) for s in (5, 6)], SOFT: [record(right(0.85, s)) for s in (7, 8)],
            "cosine": [record(right(0.5, s)) for s in (9, 10)]}  # fmt: skip
    about = ABOUT | {"beside": {"warm": ["evidence", "--epochs", "9"]}}
    text, result = write_report(TASK, about, teacher, records, {}, tmp_path, {"warm": warm}, {})
    rows = result["rows"]
    assert list(rows) == [BASELINE, SOFT, f"warm: {BASELINE}", f"warm: {SOFT}", "warm: cosine"]
    assert f"against {BASELINE}" not in rows[f"warm: {BASELINE}"]
    for name in (SOFT, "cosine"):
        assert rows[f"warm: {name}"][f"against {BASELINE}"] == difference(warm[name], warm[BASELINE]), "its own"
    for name in (BASELINE, SOFT):
        change = rows[f"warm: {name}"]["against its namesake here"]
        assert change == difference(warm[name], records[name]) and change["mean"] > 0.05
        assert f"- warm: {name} against {name} here: " in text and f"{100 * change['mean']:+.2f} points" in text
    assert "warm: cosine against" not in text, "it has no namesake here"
    assert "warm: another study, with a baseline of its own" in text
    assert "# warm\npython -m kd_scratch evidence --epochs 9\n" in (tmp_path / "evidence.md").read_text()
    picture = (tmp_path / "scores.svg").read_text()
    assert "warm: cosine" in picture
    assert picture.count('r="5.5" fill="#777777"') == 2, "both baselines are grey"
