"""The code in a model's card, run as its reader would: with transformers, and with ONNX Runtime."""

import re

import pytest
import torch

from kd_scratch import export_onnx
from kd_scratch.checkpoints.checkpoint import load_model, save_model
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.pages.card import CARD, write_card
from tests.conftest import tiny_model
from tests.pages.test_card import python_in, run_in

KINDS = [
    ("sequence", ("no", "yes"), None, "bert"),
    ("sequence", ("no", "yes"), None, "distilbert"),
    ("sequence", ("no", "yes"), True, "bert"),
    ("several", ("no", "yes", "perhaps"), None, "bert"),
    ("token", ("O", "B-X", "I-X"), None, "bert"),
    ("span", (), None, "distilbert"),
    ("span", (), None, "bert without token types"),
    ("mlm", (), None, "bert"),
    (None, (), None, "bert"),
]


def make_folder(folder, tokenizer, head, labels, pairs, model_type):
    """A tiny model's folder with its card; what is printed of the logits of "a text", by our own model."""
    types = 0 if model_type == "distilbert" else 2  # that the model knows; its tokenizer may give none
    shape = dict(vocab_size=tokenizer.vocab_size, model_type=model_type.split()[0], token_types=types, pairs=pairs)
    if head == "several":
        head, shape = "sequence", shape | dict(multi_label=True, threshold=0.48)
    save_model(tiny_model(head, labels, **shape), folder)
    tokenizer.save(folder, max_length=32, token_types=model_type == "bert")
    write_card(folder, [])


def expected_of(folder, head, pairs) -> str:
    """What our own model finds in the texts that the card's code asks about."""
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    second = ["a text"] if head == "span" else ["another"] if pairs else None
    [encoding] = tokenizer.encode(["a question" if head == "span" else "a text"], pairs=second)
    ids, types = torch.tensor([encoding.ids]), torch.tensor([encoding.type_ids]) * tokenizer.has_token_types
    with torch.inference_mode():
        logits = model(ids, token_type_ids=types if model.config.token_types else None).logits
    if head == "span":
        start, end = logits[0].argmax(dim=0).tolist()
        return tokenizer.backend.decode(encoding.ids[start : end + 1])
    if head == "several":
        found = zip(model.config.labels, logits[0].sigmoid().tolist(), strict=True)
        return "\n".join(f"{label} {p:.4f} {p >= 0.48}" for label, p in found)
    pieces = tokenizer.pieces(encoding.ids)
    best = [model.config.labels[i] for i in logits.reshape(-1, len(model.config.labels)).argmax(dim=1)]
    return "\n".join(f"{piece} {tag}" for piece, tag in zip(pieces, best, strict=True)) if head == "token" else best[0]


def shortened(printed: str) -> str:
    """Probabilities with four digits."""
    return re.sub(r"(0\.\d{4})\d+", lambda match: f"{float(match[0]):.4f}", printed)


@pytest.mark.parametrize(("head", "labels", "pairs", "model_type"), KINDS)
def test_the_code_for_transformers_gives_what_is_given_here(tmp_path, tokenizer, head, labels, pairs, model_type):
    pytest.importorskip("transformers")
    make_folder(tmp_path / "model", tokenizer, head, labels, pairs, model_type)
    program = python_in((tmp_path / "model" / CARD).read_text())[-1]
    assert "from transformers import" in program
    printed = run_in(tmp_path / "model", program).strip()
    if head in ("sequence", "several", "token", "span"):
        expected = expected_of(tmp_path / "model", head, pairs)
        assert (printed.split()[0] if head == "sequence" else shortened(printed)) == expected
    else:
        assert "torch.Size([1, " in printed


@pytest.mark.parametrize(("head", "labels", "pairs", "model_type"), KINDS[:7])
def test_the_code_for_onnx_runtime_gives_what_is_given_here(tmp_path, tokenizer, head, labels, pairs, model_type):
    pytest.importorskip("onnxruntime")
    folder, exported = tmp_path / "model", tmp_path / "exported"
    make_folder(folder, tokenizer, head, labels, pairs, model_type)
    assert "onnx" not in (folder / CARD).read_text(), "where there are no such files nothing is shown"
    export_onnx(folder, exported)
    card = (exported / CARD).read_text()
    program = python_in(card)[-1]
    assert 'InferenceSession("onnx/model.onnx", options)' in program and re.search(r'tags: .*"onnx"', card)
    assert shortened(run_in(exported, program).strip()) == expected_of(folder, head, pairs)
