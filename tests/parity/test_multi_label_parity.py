"""Several labels at once against transformers: a model made there, scored, distilled from, and opened there again; the
metrics against scikit-learn's."""

import json
import random

import numpy as np
import pytest
import torch

from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import load_config, load_model, save_model
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import collate
from kd_scratch.distillation.losses import distillation_loss
from kd_scratch.distillation.units import count_units, unit_labels, unit_logits
from kd_scratch.evaluation.evaluate import evaluate, load_for_inference
from kd_scratch.tasks import TASKS, Predictions
from kd_scratch.tasks.text_files import Example

transformers = pytest.importorskip("transformers")
sklearn = pytest.importorskip("sklearn.metrics")

TASK, CPU = TASKS["labels"], torch.device("cpu")
NAMES = ("toxic", "obscene", "threat", "insult")
WORDS = "the quick brown fox jumps over a lazy dog again and not at all".split()
SHAPES = {
    "Bert": dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64),
    "DistilBert": dict(dim=32, n_layers=3, n_heads=4, hidden_dim=64),
}


def write_data(path, count, seed):
    """Texts with random labels, as lists."""
    rng = random.Random(seed)
    rows = [{"text": " ".join(rng.choices(WORDS, k=rng.randint(1, 9))), "labels": rng.sample(NAMES, rng.randint(0, 3))}
            for _ in range(count)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(params=SHAPES)
def world(request, tmp_path, minilm):
    """A folder with data and a random model that transformers has saved; and that model."""
    torch.manual_seed(0)
    more = dict(num_labels=len(NAMES), id2label=dict(enumerate(NAMES)), label2id={n: i for i, n in enumerate(NAMES)})
    config = getattr(transformers, f"{request.param}Config")(
        initializer_range=0.3, problem_type="multi_label_classification", **more, **SHAPES[request.param]
    )
    model = getattr(transformers, f"{request.param}ForSequenceClassification")(config).eval()
    model.save_pretrained(tmp_path / "theirs")
    transformers.AutoTokenizer.from_pretrained(minilm).save_pretrained(tmp_path / "theirs")
    write_data(tmp_path / "train.jsonl", 24, 0)
    write_data(tmp_path / "test.jsonl", 40, 1)
    return tmp_path, model


def reference_on(model, tokenizer, examples):
    """Logits and loss of transformers on examples."""
    inputs = tokenizer([e.text for e in examples], padding=True, truncation=True, max_length=32, return_tensors="pt")
    marks = torch.tensor([[float(name in e.label) for name in NAMES] for e in examples])
    with torch.no_grad():
        found = model(**inputs, labels=marks)
    return found.logits, found.loss, marks


def test_logits_loss_and_gradient_are_those_of_transformers(world):
    folder, model = world
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "theirs")
    loaded = load_for_inference(folder / "theirs", TASK, 32)
    examples = TASK.read(folder / "test.jsonl", "", DataConfig(), lambda note: None)
    found = evaluate(loaded, TASK, examples, DataConfig(), CPU)
    logits, loss, marks = reference_on(model, tokenizer, examples)
    np.testing.assert_allclose(found.logits, logits.numpy(), atol=2e-5)
    scores = TASK.score(found)
    assert scores["loss"] == pytest.approx(float(loss), abs=1e-5)
    decided = (logits.sigmoid() >= 0.5).numpy()
    for name in ("micro", "macro"):
        expected = sklearn.f1_score(marks.numpy(), decided, average=name, zero_division=0)
        assert scores[f"{name}_f1"] == pytest.approx(expected, abs=1e-9)
    # training's own loss, summed over units and divided by them
    batch = collate(found.features, np.arange(len(examples)), CPU)
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    total = distillation_loss(unit_logits("sequence", ours, batch), None, unit_labels("sequence", batch), 1.0, 0.0)
    (total / count_units(found.features, np.arange(len(examples)))).backward()
    torch.nn.BCEWithLogitsLoss()(theirs, marks).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-9)


def test_saved_again_it_is_the_same_there(world):
    folder, model = world
    save_model(load_model(folder / "theirs"), folder / "ours")
    again = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "ours").eval()
    assert again.config.problem_type == "multi_label_classification" and again.config.id2label == dict(enumerate(NAMES))
    ids = torch.tensor([[101, 2000, 2001, 102]])
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model(ids).logits)
        marks = torch.ones(1, len(NAMES))
        torch.testing.assert_close(again(ids, labels=marks).loss, model(ids, labels=marks).loss)


def test_distilled_from_and_its_student_opened_there(world):
    folder, _ = world
    files = ["--train", folder / "train.jsonl", "--dev", folder / "test.jsonl", "--cache", folder / "cache"]
    models = ["--model", folder / "theirs", "--init-layers", "0,2", "--teacher", folder / "theirs"]
    fast = "--epochs 2 --batch-size 8 --max-length 32 --device cpu --threads 1 --quiet".split()
    argv = ["train", "--task", "labels", *files, *models, "--output", folder / "student", *fast]
    assert main([str(word) for word in argv]) == 0
    loaded = load_for_inference(folder / "student", TASK)
    examples = TASK.read(folder / "test.jsonl", "", DataConfig(), lambda note: None)
    found = evaluate(loaded, TASK, examples, DataConfig(), CPU)
    student = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "student").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "student")
    logits, loss, _ = reference_on(student, tokenizer, examples)
    order = [[*student.config.id2label.values()].index(name) for name in NAMES]
    ours = [found.labels.index(name) for name in NAMES]
    np.testing.assert_allclose(found.logits[:, ours], logits.numpy()[:, order], atol=2e-5)
    assert student.config.problem_type == "multi_label_classification" and student.config.num_labels == len(NAMES)
    assert student.config.label_threshold == load_config(folder / "student").threshold, "a key that it keeps"
    record = json.loads((folder / "student/training.json").read_text())
    best = max(epoch["dev"]["micro_f1"] for epoch in record["history"])
    assert TASK.score(found)["micro_f1"] == pytest.approx(best)


def cases(seed):
    """1,000 random cases of gold labels and decisions, also empty ones, of one label, of one text."""
    rng = np.random.default_rng(seed)
    for _ in range(1000):
        count, classes = rng.choice((1, 2, 3, 20)), rng.integers(1, 5)
        rate = rng.random(2) * rng.choice((0, 0.3, 1), 2)
        gold = rng.random((count, classes)) < rate[0]
        decided = np.where(rng.random((count, classes)) < 0.5, gold, rng.random((count, classes)) < rate[1])
        yield gold, decided


@pytest.mark.filterwarnings("ignore")
def test_metrics_of_1000_random_cases_are_those_of_scikit_learn():
    empty = 0
    for gold, decided in cases(0):
        names = NAMES[: gold.shape[1]]
        examples = [
            Example(str(i), "t", tuple(sorted(n for n, there in zip(names, row, strict=True) if there)))
            for i, row in enumerate(gold)
        ]
        logits = np.where(decided, 3.0, -3.0).astype(np.float32)
        one = Predictions(TASK, examples, None, logits, names, DataConfig())
        found = TASK.score(one)
        for name in ("micro", "macro"):
            if gold.shape[1] > 1:  # scikit-learn takes a single column for two classes
                expected = sklearn.f1_score(gold, decided, average=name, zero_division=0)
            else:
                expected = sklearn.f1_score(gold.ravel(), decided.ravel(), pos_label=True, zero_division=0)
            assert found[f"{name}_f1"] == pytest.approx(expected, abs=1e-12)
        assert found["subset_accuracy"] == pytest.approx(sklearn.accuracy_score(gold, decided), abs=1e-12)
        assert float(TASK.tally_score(TASK.tally(one).sum(axis=0))) == pytest.approx(found["micro_f1"], abs=1e-12)
        empty += not gold.any()
    assert empty > 50
