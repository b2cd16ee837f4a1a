"""A cascade against what is counted by hand: who is asked, what that scores and costs, and what is chosen."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import save_model
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import sha256_of_file
from kd_scratch.config import DataConfig
from kd_scratch.evaluation.cascade import ALL, Cascade, Point, check_choice, choose, conclusion, curve, section_of
from kd_scratch.evaluation.evaluate import evaluate, load_for_inference, read_evaluation_set
from kd_scratch.evaluation.significance import ROUNDS, widened
from kd_scratch.pages import svg
from kd_scratch.tasks import TASKS
from tests.conftest import TEXTS, tiny_model
from tests.evaluation.test_calibrate import LABELS, predictions_of

TAGS = ("O", "B-PER", "I-PER", "B-LOC")


def sureness_of(predictions):
    """By the task's own rule."""
    return predictions.task.sureness(predictions)


def random_predictions(seed: int, count: int = 60):
    """Of a student or a teacher; some are equally sure."""
    rng = np.random.default_rng(seed)
    logits = np.round(rng.normal(size=(count, 3)) * 3)
    return predictions_of(logits, np.random.default_rng(99).integers(3, size=count))


def test_every_threshold_scores_what_is_counted_by_hand():
    student, teacher = random_predictions(0), random_predictions(1)
    points = curve(student, teacher)
    sure = sureness_of(student)
    assert len(points) == len(set(sure.round(9))) + 1 < len(sure), "those equally sure are asked together"
    for point in points:
        asked = [p < point.threshold for p in sure]
        right = [(t if ask else s) for ask, s, t in zip(asked, student.right, teacher.right, strict=True)]
        assert point.asked == pytest.approx(np.mean(asked)) and point.score == pytest.approx(np.mean(right))
    assert points[0].asked == 0 and points[0].score == student.right.mean()
    assert points[-1] == Point(ALL, 1.0, teacher.right.mean())


def test_the_first_point_that_keeps_enough_is_chosen():
    points = [Point(0.1 * i, i / 4, score) for i, score in enumerate((0.80, 0.90, 0.93, 0.92, 0.91))]
    assert choose(points, 0.98) == points[1] and choose(points, 1.0) == points[2] and choose(points, 0.5) == points[0]
    with pytest.raises(UserError, match=r"--keep 1.2: no threshold reaches 1.0920 on dev; the best of them 0.9300"):
        choose(points, 1.2)


@pytest.mark.parametrize("keep", [-5, 0, 2.1, 99.9, float("nan")])
def test_what_is_no_share_is_not_kept(tmp_path, keep):
    sets = [read_evaluation_set(TASKS["csv"], make_file(tmp_path / name, "csv", first), "", DataConfig())
            for name, first in (("dev.csv", 0), ("test.csv", 40))]  # fmt: skip
    with pytest.raises(UserError, match="is a share of the teacher's score; give 0.999 for 99.9%"):
        check_choice(*sets, keep)
    check_choice(*sets, 1.2)


@pytest.mark.parametrize(
    ("content", "dev", "test", "is_same"),
    [
        ({"val": [["a", "b"]], "test": [["c", "b"]]}, "val", "test", False),
        ({"val": [["a", "b"]], "test": [["c", "b"]]}, "val", "val", True),
        ({"text": "a", "label": "b"}, "val", "test", True),  # a file of one split
    ],
)
def test_a_threshold_is_not_chosen_on_the_texts_that_it_is_tested_on(tmp_path, content, dev, test, is_same):
    """Nor on a copy of their file."""
    sets = []
    for name, split in (("one", dev), ("two", test)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(content) + "\n")
        sets.append(read_evaluation_set(TASKS["clinc"], tmp_path / f"{name}.jsonl", split, DataConfig()))
    if is_same:
        with pytest.raises(UserError, match="one.jsonl: holds the very texts of --data"):
            check_choice(*sets, 0.999)
    else:
        check_choice(*sets, 0.999)


def test_a_negative_score_is_kept_too():
    """Matthews' correlation may be one: the teacher alone always keeps what it has."""
    points = [Point(0.0, 0.0, -0.3), Point(0.5, 0.5, -0.1001), Point(ALL, 1.0, -0.1)]
    assert choose(points, 0.999) == points[1] and choose(points, 1.0) == points[2]


def save(folder, tokenizer, name, head, labels, seed, **shape):
    model = tiny_model(head, labels=labels, vocab_size=tokenizer.vocab_size, seed=seed, max_positions=64, **shape)
    save_model(model, folder / name)
    tokenizer.save(folder / name, max_length=48)
    return str(folder / name)


def make_file(path, task: str, first: int):
    if task == "csv":
        lines = [f'{LABELS[(i * i) % 3]},"{TEXTS[i % 4]} {TEXTS[(i * 3) % 4][:i]}"' for i in range(first, first + 40)]
        path.write_text("label,text\n" + "\n".join(lines) + "\n")
    else:
        words = TEXTS[0].split()
        rows = ["\n".join(f"{word} NN I-NP {TAGS[(i * j) % 2]}" for j, word in enumerate(words[i % 3 :]))
                for i in range(first, first + 20)]  # fmt: skip
        path.write_text("\n\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("task", ["csv", "conll"])
def test_the_command_chooses_on_dev_and_counts_on_test(tmp_path, tokenizer, capsys, task):
    head, labels = ("sequence", LABELS) if task == "csv" else ("token", TAGS)
    student = save(tmp_path, tokenizer, "student", head, labels, 0, depth=1)
    teacher = save(tmp_path, tokenizer, "teacher", head, labels, 5)
    dev, test = (make_file(tmp_path / name, task, first) for name, first in (("dev.x", 0), ("test.x", 40)))
    argv = [
        "cascade",
        "--task",
        task,
        "--student",
        student,
        "--teacher",
        teacher,
        "--dev",
        str(dev),
        "--data",
        str(test),
    ]
    page = tmp_path / "page.html"
    assert main([*argv, "--keep", "0.9", "--json", "--output", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)

    one = TASKS[task]
    on = {}
    for name, path in (("dev", dev), ("test", test)):
        examples = read_evaluation_set(one, path, "", DataConfig(), say=lambda note: None).examples
        on[name] = [evaluate(load_for_inference(folder, one), one, examples, DataConfig(), torch.device("cpu"))
                    for folder in (student, teacher)]  # fmt: skip

    for predictions in on["dev"]:
        of = one.confidence(predictions)
        least = [min(of.probability[of.example == i]) for i in range(len(predictions.examples))]
        assert sureness_of(predictions).tolist() == least, "of the least sure word"

    def score(pair, threshold):
        asked = sureness_of(pair[0]) < threshold
        mixed = np.where(asked[:, None], one.tally(pair[1]), one.tally(pair[0]))
        return float(one.tally_score(mixed.sum(axis=0))), float(asked.mean())

    threshold, wanted = found["threshold"], 0.9 * score(on["dev"], ALL)[0]
    scores = dict(score(on["dev"], t)[::-1] for t in (*sureness_of(on["dev"][0]), ALL))  # by the share that is asked
    asked = score(on["dev"], threshold)[1]
    assert asked == min(share for share, value in scores.items() if value >= wanted) == found["dev"]["asked"]
    alone, cascade, all_asked = found["rows"]
    name = one.score_name
    assert (cascade[name], cascade["asked"]) == pytest.approx(score(on["test"], threshold))
    assert alone[name] == pytest.approx(score(on["test"], 0)[0]) and all_asked[name] == pytest.approx(
        score(on["test"], ALL)[0]
    )
    cost = alone["ms"] + cascade["asked"] * all_asked["ms"]
    assert cascade["ms"] == pytest.approx(cost) and found["curve"][-1][1] == 1
    rng, drawn, by_student = np.random.default_rng(0), [], on["test"][0]
    own, others = map(one.tally, on["test"])
    mixed = np.where(sureness_of(by_student)[:, None] < threshold, others, own)
    for _ in range(ROUNDS):
        groups = rng.integers(by_student.num_groups, size=by_student.num_groups)
        times = np.bincount(groups, minlength=by_student.num_groups)[by_student.groups]  # that an example was drawn
        drawn.append(one.tally_score(times @ mixed) - one.tally_score(times @ others))
    assert found["interval to teacher"] == pytest.approx(
        np.percentile(widened(np.array(drawn), by_student.num_groups), [2.5, 97.5])
    )
    text = page.read_text()
    assert "<svg" in text and "teacher is asked where student is less sure" in text
    assert all(name in text.split("<h2")[0] for name in (student, teacher, str(dev), str(test)))
    assert (found["student"], found["teacher"], found["keep"]) == (student, teacher, 0.9)
    assert found["dev file"] == {"data": str(dev), "data sha256": sha256_of_file(dev), "split": None}
    assert found["machine"]["threads"] == torch.get_num_threads() and "data sha256" in found
    assert found["few groups"] == "" and cascade["times as fast"] == all_asked["ms"] / cascade["ms"]
    assert main([*argv, "--keep", "0.9"]) == 0
    told = capsys.readouterr().out
    assert "teacher alone" in told and f"less sure than {threshold!r}" in told


def test_the_curve_of_many_points_still_ends_with_the_teacher_alone(monkeypatch):
    points, drawn = [Point(0.001 * i, i / 998, 0.5 + i / 2000) for i in range(999)], []
    found = Cascade("accuracy", points[9], points[9], points, {"student": 1.0, "teacher": 4.0}, (0.0, 0.0), ("a", "b"))
    monkeypatch.setattr(svg, "curves", lambda *texts_and_lines: drawn.append(texts_and_lines[-1]) or "")
    section_of(found)
    assert conclusion(replace(found, note="Few.")).endswith("). Few.") and conclusion(found).endswith(").")
    line = drawn[0]["cascade, by threshold"]
    assert (line[0], line[-1]) == ((1.0, 0.5), (5.0, points[-1].score)) and len(line) < 250


def test_a_page_replaces_neither_data_nor_a_model(tmp_path, tokenizer, capsys):
    student = save(tmp_path, tokenizer, "student", "sequence", LABELS, 0)
    data = make_file(tmp_path / "test.csv", "csv", 0)
    argv = [
        "cascade",
        "--task",
        "csv",
        "--student",
        student,
        "--teacher",
        student,
        "--dev",
        str(data),
        "--data",
        str(data),
    ]
    before = data.read_bytes()
    assert main([*argv, "--output", str(data)]) == 2 and "would overwrite" in capsys.readouterr().err
    assert data.read_bytes() == before


def test_what_does_not_count_has_no_part_in_score_and_share():
    """CLINC150's texts out of scope: asked about like others, and counted neither here nor there."""
    both = [random_predictions(seed) for seed in (0, 1)]
    out = np.arange(60) % 4 == 0
    task = TASKS["clinc"]
    for predictions in both:
        predictions.task = task
        for example, is_out in zip(predictions.examples, out, strict=True):
            if is_out:
                object.__setattr__(example, "label", None)
                object.__setattr__(example, "in_scope", False)
    sure = sureness_of(both[0])
    assert (sure[out] < 1).all()
    for point in curve(*both):
        asked = (sure < point.threshold)[~out]
        right = np.where(asked, both[1].right[~out], both[0].right[~out])
        assert point.asked == pytest.approx(asked.mean()) and point.score == pytest.approx(right.mean())


def test_models_of_other_labels_are_refused(tmp_path, tokenizer, capsys):
    student = save(tmp_path, tokenizer, "student", "sequence", LABELS, 0)
    teacher = save(tmp_path, tokenizer, "teacher", "sequence", (*LABELS[:2], "perhaps"), 0)
    dev, data = (str(make_file(tmp_path / name, "csv", first)) for name, first in (("dev.csv", 0), ("test.csv", 40)))
    argv = ["cascade", "--task", "csv", "--student", student, "--dev", dev, "--data", data, "--teacher"]
    assert main([*argv, teacher]) == 2
    assert "has other labels than" in capsys.readouterr().err
    assert main([*argv, student]) == 0


def test_a_correlation_is_counted_by_the_same_columns_for_both():
    """Also where one of the models names a label that no text has."""
    examples = predictions_of(np.eye(3)[[0, 1, 0, 1]], [0, 1, 1, 1])
    other = predictions_of(np.eye(3)[[0, 2, 1, 1]], [0, 1, 1, 1])
    for predictions in (examples, other):
        predictions.task = TASKS["cola"]
    points = curve(examples, other)
    assert points[-1].score == pytest.approx(float(TASKS["cola"].score(other)["matthews"]))


def test_a_model_is_as_sure_of_a_question_as_of_its_answer(tmp_path, tokenizer):
    folder = save(tmp_path, tokenizer, "model", "span", (), 0)
    asked = [
        {"id": f"q{i}", "question": "what?", "answers": [{"text": TEXTS[i][:5], "answer_start": 0}]} for i in (0, 1)
    ]
    paragraphs = [{"context": TEXTS[i], "qas": [one]} for i, one in enumerate(asked)]
    (tmp_path / "test.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    task = TASKS["squad"]
    examples = read_evaluation_set(task, tmp_path / "test.json", "", DataConfig(), say=lambda note: None).examples
    predictions = evaluate(load_for_inference(folder, task), task, examples, DataConfig(), torch.device("cpu"))
    assert sureness_of(predictions).tolist() == [answer.probability for answer in predictions.decisions]
    assert curve(predictions, predictions)[-1].asked == 1
