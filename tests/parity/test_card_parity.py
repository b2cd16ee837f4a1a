"""The code in a model's card, run as its reader would: with transformers, and with ONNX Runtime."""

import re

import numpy as np
import pytest
import torch

from kd_scratch.checkpoints.checkpoint import load_model, save_model
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.pages.card import CARD, write_card
from tests.conftest import tiny_model
from tests.pages.test_card import python_in, run_in

KINDS = [
    ("sequence", ("no", "yes"), None, "bert"),
    ("sequence", ("no", "yes"), None, "distilbert"),
    ("sequence", ("no", "yes"), True, "bert"),
    ("token", ("O", "B-X", "I-X"), None, "bert"),
    ("span", (), None, "distilbert"),
    ("mlm", (), None, "bert"),
    (None, (), None, "bert"),
]


def make_folder(folder, tokenizer, head, labels, pairs, model_type):
    """A tiny model's folder with its card; what is printed of the logits of "a text", by our own model."""
    types = 0 if model_type == "distilbert" else 2
    shape = dict(vocab_size=tokenizer.vocab_size, model_type=model_type, token_types=types, pairs=pairs)
    save_model(tiny_model(head, labels, **shape), folder)
    tokenizer.save(folder, max_length=32, token_types=types > 0)
    write_card(folder, [])


def expected_of(folder, head, pairs) -> str:
    """What our own model finds in the texts that the card's code asks about."""
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    second = {"span": ["a text"], "sequence": ["another"]}[head] if pairs or head == "span" else None
    [encoding] = tokenizer.encode(["a question" if head == "span" else "a text"], pairs=second)
    ids, types = torch.tensor([encoding.ids]), torch.tensor([encoding.type_ids])
    with torch.inference_mode():
        logits = model(ids, token_type_ids=types if model.config.token_types else None).logits
    if head == "span":
        start, end = logits[0].argmax(dim=0).tolist()
        return tokenizer.backend.decode(encoding.ids[start : end + 1])
    pieces = tokenizer.pieces(encoding.ids)
    best = [model.config.labels[i] for i in logits.reshape(-1, len(model.config.labels)).argmax(dim=1)]
    return "\n".join(f"{piece} {tag}" for piece, tag in zip(pieces, best, strict=True)) if head == "token" else best[0]


@pytest.mark.parametrize(("head", "labels", "pairs", "model_type"), KINDS)
def test_the_code_for_transformers_gives_what_is_given_here(tmp_path, tokenizer, head, labels, pairs, model_type):
    pytest.importorskip("transformers")
    make_folder(tmp_path / "model", tokenizer, head, labels, pairs, model_type)
    program = python_in((tmp_path / "model" / CARD).read_text())[-1]
    assert "from transformers import" in program
    printed = run_in(tmp_path / "model", program).strip()
    if head in ("sequence", "token", "span"):
        expected = expected_of(tmp_path / "model", head, pairs)
        assert (printed.split()[0] if head == "sequence" else printed) == expected
    else:
        assert "torch.Size([1, " in printed


def write_onnx(folder, head, has_types: bool):
    """A graph with the inputs and outputs of an exported model; the logits at a place depend on the token there."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    table = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    names = ["input_ids", "attention_mask", *["token_type_ids"] * has_types]
    shape = ["B", "S"]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in names]
    constants = [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.int64(0), "zero")]
    constants += [numpy_helper.from_array(np.int64(1), "one")]
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["each"])]  # B,S -> B,S,2
    outputs = {"token": ["each"], "sequence": ["logits"], "span": ["start_logits", "end_logits"]}[head]
    if head == "sequence":
        nodes += [helper.make_node("Gather", ["each", "one"], ["logits"], axis=1)]  # that of the first word
    if head == "span":
        nodes += [
            helper.make_node("Gather", ["each", at], [name], axis=2)
            for at, name in zip(("zero", "one"), outputs, strict=True)
        ]
    declared = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "g", inputs, declared, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "onnx").mkdir()
    onnx.save(model, str(folder / "onnx" / "model_quantized.onnx"))
    return table


@pytest.mark.parametrize(("head", "labels", "pairs", "model_type"), KINDS[:5])
def test_the_code_for_onnx_runtime_runs_where_there_are_such_files(
    tmp_path, tokenizer, head, labels, pairs, model_type
):
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "model"
    make_folder(folder, tokenizer, head, labels, pairs, model_type)
    assert "onnx" not in (folder / CARD).read_text(), "where there are no such files nothing is shown"
    table = write_onnx(folder, head, model_type == "bert")
    write_card(folder, [])
    card = (folder / CARD).read_text()
    program = python_in(card)[-1]
    assert 'InferenceSession("onnx/model_quantized.onnx")' in program and re.search(r'tags: .*"onnx"', card)
    printed = run_in(folder, program).strip()
    [encoding] = load_tokenizer(folder).encode(
        ["a question" if head == "span" else "a text"], pairs=["a text"] if head == "span" else None
    )
    best, pieces = table[encoding.ids].argmax(axis=1), load_tokenizer(folder).pieces(encoding.ids)
    if head == "sequence":
        assert printed == labels[best[1]]
    if head == "token":
        assert printed.splitlines() == [f"{piece} {labels[i]}" for piece, i in zip(pieces, best, strict=True)]
    if head == "span":
        start, end = table[encoding.ids].argmax(axis=0)
        assert printed == load_tokenizer(folder).backend.decode(encoding.ids[start : end + 1])
