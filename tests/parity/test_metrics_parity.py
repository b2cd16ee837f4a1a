"""Our metrics against scikit-learn's, and the distillation loss against torch's own KLDivLoss."""

import numpy as np
import pytest
import torch

from kd_scratch.config import DataConfig
from kd_scratch.distillation.losses import soft_target_loss
from kd_scratch.tasks import TASKS, Predictions
from kd_scratch.tasks.classification import OOS, Example, score

sklearn = pytest.importorskip("sklearn.metrics")

PLAIN = DataConfig()


def generated(seed, texts, classes, in_gold=1.0, in_predicted=1.0):
    """Examples and logits, N,C. Only a part of the classes occurs in gold, only a part is ever predicted."""
    rng = np.random.default_rng(seed)
    labels = tuple(f"class {i}" for i in rng.permutation(classes))  # not in sorted order
    frequency = rng.dirichlet(np.ones(max(1, round(classes * in_gold))))  # some classes are rare
    gold = rng.choice(len(frequency), size=texts, p=frequency)
    logits = rng.normal(scale=2, size=(texts, classes)).astype(np.float32)
    logits[np.arange(texts), gold] += 2  # right more often than not
    logits[:, : classes - max(1, round(classes * in_predicted))] -= 20
    return [Example(str(i), "", labels[label]) for i, label in enumerate(gold)], logits, labels


def assert_same_metrics(metrics, gold, predicted, logits, labels):
    """Everything that `score` says of these texts is what scikit-learn says."""
    assert metrics["examples"] == len(gold)
    assert metrics["accuracy"] == pytest.approx(sklearn.accuracy_score(gold, predicted), abs=1e-12)
    assert metrics["macro_f1"] == pytest.approx(
        sklearn.f1_score(gold, predicted, average="macro", zero_division=0), abs=1e-12
    )
    probability = torch.from_numpy(logits).double().softmax(dim=1).numpy()
    numbers = [labels.index(label) for label in gold]  # its log-loss wants labels in sorted order
    assert metrics["loss"] == pytest.approx(
        sklearn.log_loss(numbers, probability, labels=np.arange(len(labels))), rel=1e-12
    )
    names = sorted(set(gold) | set(predicted))
    assert list(metrics["per_class"]) == names
    ours = [[row[key] for key in ("precision", "recall", "f1", "support")] for row in metrics["per_class"].values()]
    theirs = sklearn.precision_recall_fscore_support(gold, predicted, labels=names, zero_division=0)
    np.testing.assert_allclose(np.array(ours).T, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "shape",
    [
        dict(texts=1, classes=2),
        dict(texts=3, classes=2),
        dict(texts=50, classes=2),
        dict(texts=1000, classes=4),
        dict(texts=500, classes=150),
        dict(texts=300, classes=8, in_gold=0.5),
        dict(texts=300, classes=8, in_predicted=0.5),
        dict(texts=300, classes=8, in_predicted=0.1),
        dict(texts=40, classes=8, in_gold=0.1),
    ],
    ids=lambda shape: "-".join(f"{key}={value}" for key, value in shape.items()),
)
def test_metrics_of_generated_cases_are_those_of_scikit_learn(seed, shape):
    examples, logits, labels = generated(seed, **shape)
    predicted = [labels[i] for i in logits.argmax(axis=1)]
    assert_same_metrics(
        score(Predictions(TASKS["clinc"], examples, None, logits, labels, PLAIN)),
        [e.label for e in examples],
        predicted,
        logits,
        labels,
    )


@pytest.mark.parametrize("data", [DataConfig(oos=True), DataConfig(oos_threshold=0.3)])
def test_metrics_of_clinc_are_those_of_scikit_learn_over_the_texts_in_scope(real_data, data):
    path, rng = real_data("clinc150/data_full.json"), np.random.default_rng(0)
    labels = TASKS["clinc"].label_list(TASKS["clinc"].read(path, "train", data))
    assert (OOS in labels) == data.oos
    examples = TASKS["clinc"].read(path, "test", data)
    logits = rng.normal(size=(len(examples), len(labels))).astype(np.float32)
    for row, example in zip(logits, examples, strict=True):
        if example.label in labels:
            row[labels.index(example.label)] += rng.normal(loc=4, scale=2)
    metrics = TASKS["clinc"].score(Predictions(TASKS["clinc"], examples, None, logits, labels, data))

    best = torch.from_numpy(logits).double().softmax(dim=1).max(dim=1)
    said = np.array([labels[i] for i in best.indices], dtype=object)
    said[best.values.numpy() < data.oos_threshold] = OOS
    inside = np.array([example.label != OOS for example in examples])
    gold = np.array([example.label for example in examples], dtype=object)
    assert_same_metrics(metrics, list(gold[inside]), list(said[inside]), logits[inside], labels)
    assert OOS in said[inside]  # so that a text lost to "out of scope" counts as the error it is
    assert (metrics["examples"], metrics["oos_examples"]) == (4500, 1000)
    recall = sklearn.recall_score(gold, said, labels=[OOS], average="macro")
    assert metrics["oos_recall"] == pytest.approx(recall, abs=1e-12)


@pytest.mark.parametrize("units, outcomes", [(1, 2), (7, 4), (64, 150), (12, 384)])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 5.0, 20.0])
def test_soft_targets_are_temperature_squared_times_units_times_the_batch_mean_of_torch(units, outcomes, temperature):
    generator = torch.Generator().manual_seed(units)
    student, teacher = 3 * torch.randn(2, units, outcomes, dtype=torch.float64, generator=generator)
    student.requires_grad_()
    divergence = torch.nn.KLDivLoss(reduction="batchmean")  # of log-probabilities (student) and probabilities (teacher)
    expected = divergence((student / temperature).log_softmax(-1), (teacher / temperature).softmax(-1))
    expected = temperature**2 * units * expected
    ours = soft_target_loss(student, teacher, temperature)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-12)
    gradients = [torch.autograd.grad(loss, student)[0] for loss in (ours, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
