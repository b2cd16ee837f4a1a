"""Pairs of texts against transformers: the same ids, token types and logits; their metrics against scikit-learn's."""

import json
import random

import numpy as np
import pytest
import torch

from kd_scratch.config import DataConfig
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.evaluation.evaluate import evaluate, load_for_inference
from kd_scratch.evaluation.predict import predict
from kd_scratch.tasks import TASKS, Predictions
from kd_scratch.tasks.classification import Example, featurize

transformers = pytest.importorskip("transformers")
sklearn = pytest.importorskip("sklearn.metrics")

CSV, COLA, CPU = TASKS["csv"], TASKS["cola"], torch.device("cpu")
ODD = [
    ("", ""), ("a", ""), ("", "b"), ("[SEP] a [CLS]", "[SEP]"), ("x" * 300, "y"), ("y", "東京は日本の首都。" * 20),
    ("a\nb\tc", " \u200b"), ("one two three four", "one two three four"), ("word " * 500, "Wörter " * 500),
]  # fmt: skip
KINDS = {
    "bert": ("Bert", dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)),
    "distilbert": ("DistilBert", dict(dim=32, n_layers=2, n_heads=4, hidden_dim=64)),
}


def pairs_of(real_data):
    """Every fifth pair of the real dev files, and odd ones."""
    found = list(ODD)
    for name in ("MRPC", "RTE"):
        examples = CSV.read(real_data(f"glue/{name}/dev.tsv"), "", DataConfig(), lambda note: None)
        found += [(e.text, e.pair) for e in list(examples)[::5]]
    return found


@pytest.mark.parametrize("max_length", [4, 5, 16, 33, 64, 128, 512])
def test_ids_and_types_of_pairs_are_the_same_also_where_the_longer_one_is_cut(minilm, real_data, max_length):
    pairs = pairs_of(real_data)
    examples = [Example(str(i), a, "1", pair=b) for i, (a, b) in enumerate(pairs)]
    ours = featurize(examples, load_tokenizer(minilm), ("1",), max_length, DataConfig())
    reference = transformers.AutoTokenizer.from_pretrained(minilm)
    theirs = reference(*map(list, zip(*pairs, strict=True)), truncation=True, max_length=max_length)
    parts = [slice(a, b) for a, b in zip(ours.starts, ours.starts[1:], strict=False)]
    assert [ours.tokens[part].tolist() for part in parts] == theirs["input_ids"]
    assert [ours.token_types[part].tolist() for part in parts] == theirs["token_type_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_pairs_are_those_of_transformers(minilm, real_data, tmp_path, kind):
    """DistilBERT's tokenizer gives no token types."""
    name, shape = KINDS[kind]
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(initializer_range=0.3, **shape)
    model = getattr(transformers, f"{name}ForSequenceClassification")(config).eval()
    model.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(minilm).save_pretrained(tmp_path)
    if kind == "distilbert":
        settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
        settings |= {"tokenizer_class": "DistilBertTokenizer", "model_input_names": ["input_ids", "attention_mask"]}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    reference, loaded = transformers.AutoTokenizer.from_pretrained(tmp_path), load_for_inference(tmp_path, CSV, 64)
    pairs = pairs_of(real_data)[::3]
    examples = [Example(str(i), a, "0", pair=b) for i, (a, b) in enumerate(pairs)]
    found = evaluate(loaded, CSV, examples, DataConfig(), CPU).logits
    for row, (a, b) in zip(found, pairs, strict=True):
        # as lists: of a single empty text_pair transformers makes a single text
        inputs = reference([a], [b], truncation=True, max_length=64, return_tensors="pt")
        assert ("token_type_ids" in inputs) == (kind == "bert")
        with torch.no_grad():
            np.testing.assert_allclose(row, model(**inputs).logits[0].numpy(), atol=2e-5)
    (key, labels), *_ = predict(loaded, [pairs[-1][0]], pairs=[pairs[-1][1]]).items()
    expected = torch.from_numpy(found[-1]).softmax(0).max().item()
    assert key == " | ".join(pairs[-1]) and next(iter(labels.values())) == pytest.approx(expected, abs=1e-6)


def cases(seed, labels):
    """1,000 random cases: gold labels and predictions, also of one class only, also of one text."""
    rng = random.Random(seed)
    for _ in range(1000):
        count, part = rng.choice((1, 2, 3, 10, 100)), rng.randint(1, len(labels))
        gold = rng.choices(labels, [rng.random() ** 3 + 1e-9 for _ in labels], k=count)
        guesses = rng.choices(labels[:part], k=count)
        yield gold, [a if rng.random() < 0.5 else b for a, b in zip(gold, guesses, strict=True)]


@pytest.mark.filterwarnings("ignore")  # of classes that do not occur
@pytest.mark.parametrize("labels, task", [("01", CSV), ("01", COLA), ("0123", COLA)])
def test_metrics_of_1000_random_cases_are_those_of_scikit_learn(labels, task):
    for gold, decided in cases(len(labels), labels):
        logits = np.array([[9.0 * (one == label) for label in labels] for one in decided], np.float32)
        examples = [Example(str(i), "t", label) for i, label in enumerate(gold)]
        found = task.score(Predictions(task, examples, None, logits, tuple(labels), DataConfig()))
        assert found["matthews"] == pytest.approx(sklearn.matthews_corrcoef(gold, decided), abs=1e-12)
        assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(gold, decided), abs=1e-12)
        if labels == "01":
            f1 = sklearn.f1_score(gold, decided, pos_label="1", labels=["0", "1"], zero_division=0)
            assert found["f1"] == pytest.approx(f1, abs=1e-12)
