"""The code in a model's card, run as its reader would: with transformers, and with ONNX Runtime."""

import re

import pytest

from kd_scratch import export_onnx, predict
from kd_scratch.checkpoints.checkpoint import load_config, save_model
from kd_scratch.pages.card import CARD, write_card
from kd_scratch.tasks.conll_metric import entities
from tests.conftest import tiny_model
from tests.pages.test_card import python_in, run_in

KINDS = [
    ("sequence", ("no", "yes"), None, "bert"),
    ("sequence", ("no", "yes"), None, "distilbert"),
    ("sequence", ("no", "yes"), True, "bert"),
    ("several", ("no", "yes", "perhaps"), None, "bert"),
    ("several", ("no", "yes", "perhaps"), True, "bert"),
    ("token", ("O", "B-X", "I-X"), None, "bert"),
    ("span", (), None, "distilbert"),
    ("span", (), None, "bert without token types"),
    ("mlm", (), None, "bert"),
    (None, (), None, "bert"),
]


def make_folder(folder, tokenizer, head, labels, pairs, model_type):
    """A tiny model's folder with its card."""
    types = 0 if model_type == "distilbert" else 2  # that the model knows; its tokenizer may give none
    shape = dict(vocab_size=tokenizer.vocab_size, model_type=model_type.split()[0], token_types=types, pairs=pairs)
    if head == "several":
        head, shape = "sequence", shape | dict(multi_label=True, threshold=0.48)
    save_model(tiny_model(head, labels, **shape), folder)
    tokenizer.save(folder, max_length=32, token_types=model_type == "bert")
    write_card(folder, [])


def require_what_predict_gives(folder, printed: str, head) -> None:
    """What a card's code has printed is what our own `predict` finds in the same texts.

    By the logits alone the answer would begin in the question, and a word would have a tag for each of its pieces.
    """
    config = load_config(folder)
    if head == "span":
        [answers] = predict(folder, questions=["a question"], context="a text").values()
        assert printed == answers[0]["answer"]
        return
    [found] = predict(folder, ["a text"], pairs=["another"] if config.pairs else None).values()
    rows = [line.split() for line in printed.splitlines()]
    if head == "several":
        labels, p, reached = zip(*rows, strict=True)
        assert labels == config.labels
        assert list(map(float, p)) == pytest.approx([found["probabilities"][label] for label in labels], abs=1e-5)
        assert {label for label, yes in zip(labels, reached, strict=True) if yes == "True"} == set(found["labels"])
    elif head == "token":
        words, tags = zip(*rows, strict=True)
        spans = [(" ".join(words[first:end]), kind) for kind, first, end in entities(tags)]
        assert words == ("a", "text") and spans == [(each["entity"], each["type"]) for each in found]
    else:
        assert rows[0][0] == next(iter(found))


@pytest.mark.parametrize(("head", "labels", "pairs", "model_type"), KINDS)
def test_the_code_for_transformers_gives_what_is_given_here(tmp_path, tokenizer, head, labels, pairs, model_type):
    pytest.importorskip("transformers")
    make_folder(tmp_path / "model", tokenizer, head, labels, pairs, model_type)
    program = python_in((tmp_path / "model" / CARD).read_text())[-1]
    assert "from transformers import" in program
    printed = run_in(tmp_path / "model", program).strip()
    if head in (None, "mlm"):
        assert "torch.Size([1, " in printed
    else:
        require_what_predict_gives(tmp_path / "model", printed, head)


@pytest.mark.parametrize(("head", "labels", "pairs", "model_type"), KINDS[:8])
def test_the_code_for_onnx_runtime_gives_what_is_given_here(tmp_path, tokenizer, head, labels, pairs, model_type):
    pytest.importorskip("onnxruntime")
    folder, exported = tmp_path / "model", tmp_path / "exported"
    make_folder(folder, tokenizer, head, labels, pairs, model_type)
    assert "onnx" not in (folder / CARD).read_text(), "where there are no such files nothing is shown"
    export_onnx(folder, exported)
    card = (exported / CARD).read_text()
    program = python_in(card)[-1]
    assert 'InferenceSession("onnx/model.onnx", options)' in program and re.search(r'tags: .*"onnx"', card)
    require_what_predict_gives(folder, run_in(exported, program).strip(), head)
