"""A model of fewer units and words: which units go, that nothing else changes, and the folder that comes of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import load_model, save_folder, save_model
from kd_scratch.common.files import sha256_of_file
from kd_scratch.data.batches import EncodedInputs
from kd_scratch.data.tokenizer import load_tokenizer, train_tokenizer
from kd_scratch.evaluation.prune import moments_of_units, take
from kd_scratch.nn import int8
from tests.conftest import EVERY_KIND, KINDS, TEXTS, tiny_model


def inputs_of(*rows):
    """Encoded inputs of some lengths, of pieces 5 and up."""
    tokens = [np.arange(5, 5 + length, dtype=np.int32) + 7 * i for i, length in enumerate(rows)]
    starts = np.cumsum([0, *rows])
    return EncodedInputs("sequence", range(len(rows)), np.concatenate(tokens), starts, np.zeros(len(rows)))


@torch.no_grad()
def moments_by_hand(model, inputs):
    """Each input by itself, without padding: mean and covariance of what enters the second matrix of each block."""
    model.double()
    seen = [[], [], []]
    for start, end in zip(inputs.starts, inputs.starts[1:], strict=False):
        ids = torch.from_numpy(inputs.tokens[start:end]).long()[None]
        x = model.embedding_norm(model.positions(model.embeddings(ids)))
        for layer, block in enumerate(model.encoder.blocks):
            before = block.attention_residual.before(x)
            y = block.attention_residual(x, block.attention(before, before)[0])
            inner = block.feed_forward.activation(block.feed_forward.inner(block.feed_forward_residual.before(y)))
            seen[layer] += inner[0, :1] if layer == 2 and model.config.head == "sequence" else inner[0]
            x = block(x)[0]
    model.float()
    return [(torch.stack(rows).mean(dim=0), torch.stack(rows).T.cov(correction=0)) for rows in seen]


@EVERY_KIND
@pytest.mark.parametrize("head", ["sequence", "token", "mlm"])
def test_moments_are_those_of_real_tokens(kind, head):
    model, inputs = tiny_model(head, **KINDS[kind]), inputs_of(3, 11, 4, 6)
    expected = moments_by_hand(model, inputs)
    torch.testing.assert_close(moments_of_units(model, [inputs]), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moments_of_units(model, [inputs_of(3, 11), inputs_of(3, 11)]),
                               moments_by_hand(model, inputs_of(3, 11)), rtol=1e-4, atol=1e-4)  # fmt: skip
    assert not any(block.feed_forward.outer._forward_pre_hooks for block in model.encoder.blocks)


@EVERY_KIND
@pytest.mark.parametrize("head", ["sequence", "token", "span", "mlm", None])
def test_units_that_add_nothing_or_always_the_same_go_and_nothing_changes(kind, head):
    model, dead = tiny_model(head, **KINDS[kind]), torch.tensor([[1, 5, 9, 31], [0, 2, 4, 30], [7, 8, 10, 11]])
    with torch.no_grad():
        for layer, block in enumerate(model.encoder.blocks):
            block.feed_forward.outer.weight[:, dead[layer][:2]] = 0  # of no consequence
            block.feed_forward.inner.weight[dead[layer][2:]] = 0  # always the same
    tokens = np.random.default_rng(0).integers(0, 120, 600).astype(np.int32)
    many = EncodedInputs("sequence", range(60), tokens, np.arange(61) * 10, np.zeros(60))
    small = take(model, moments_of_units(model, [many]), 28, None, 0)
    assert small.config == replace(model.config, feed_forward=28)
    ids = torch.tensor([[2, 17, 45, 99, 3]])
    for a, b in zip(model(ids, output_hidden_states=True).hidden_states,
                    small(ids, output_hidden_states=True).hidden_states, strict=True):  # fmt: skip
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


@EVERY_KIND
@pytest.mark.parametrize("head", ["sequence", "token", "span", "mlm", None])
def test_fewer_words_give_bit_for_bit_the_same_on_those_that_are_left(kind, head):
    model, kept = tiny_model(head, **KINDS[kind]), np.array([0, 2, 3, 17, 45, 99])
    small = take(model, (), 0, kept, 0)
    before = model(torch.from_numpy(kept)[None], output_hidden_states=True)
    after = small(torch.arange(6)[None], output_hidden_states=True)
    assert all(map(torch.equal, before.hidden_states, after.hidden_states))
    if head == "mlm":  # another shape of product, hence not to the last bit
        torch.testing.assert_close(after.logits, before.logits[:, kept])
    elif head:
        assert torch.equal(before.logits, after.logits)


@pytest.fixture
def files(tmp_path):
    """A table, and texts alone."""
    rows = zip(TEXTS, ("no", "yes", "maybe", "no"), strict=True)
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows))
    (tmp_path / "more.txt").write_text("a brown moon\n\nthe frozen goalkeeper\n")
    return ["--task", "csv", "--data", str(tmp_path / "train.csv")]


def run(capsys, *argv):
    """Exit status, stdout, stderr."""
    status = main([*map(str, argv)])
    return status, *capsys.readouterr()


@torch.inference_mode()
def logits_of(directory, text):
    [encoding] = load_tokenizer(directory).encode([text], max_length=32)  # as long as its inputs are
    return load_model(directory)(torch.tensor([encoding.ids])).logits


def test_the_command_writes_an_ordinary_folder_that_others_go_on_with(model_directory, files, tmp_path, capsys):
    out = tmp_path / "few"
    status, table, notes = run(capsys, "prune", "--model", model_directory, "--output", out, "--words", *files)
    assert status == 0, notes
    assert "pieces" in table and "distil into it" in table + notes
    rows = json.loads((out / "pruning.json").read_text())["rows"]
    assert rows["after"]["pieces"] == load_tokenizer(out).vocab_size < rows["before"]["pieces"]
    assert rows["after"]["megabytes"] < rows["before"]["megabytes"]
    for text in TEXTS:
        assert torch.equal(logits_of(out, text), logits_of(model_directory, text)), text
    argv = ["prune", "--model", out, "--output", tmp_path / "narrow", "--feed-forward", 9, *files, "--json"]
    assert run(capsys, *argv)[0] == 0
    config = json.loads((tmp_path / "narrow" / "config.json").read_text())
    assert config["intermediate_size"] == 9 and config["vocab_size"] == rows["after"]["pieces"]
    fast = ["--epochs", "1", "--max-length", "16", "--device", "cpu", "--threads", "1"]
    train = ["train", "--task", "csv", "--train", files[-1], "--dev", files[-1], "--output", tmp_path / "taught", *fast]
    status, _, err = run(capsys, *train, "--model", tmp_path / "narrow", "--teacher", out)
    assert status == 0, err
    status, _, err = run(capsys, "quantize", "--model", tmp_path / "taught", "--output", tmp_path / "int8")
    assert status == 0, err
    assert run(capsys, "evaluate", "--model", tmp_path / "int8", *files)[0] == 0


def test_the_command_keeps_the_units_that_add_most(model_directory, files, tmp_path, capsys):
    model = load_model(model_directory)
    with torch.no_grad():
        for block in model.encoder.blocks:
            block.feed_forward.outer.weight[:, ::2] = 0
    save_model(model, model_directory)
    argv = ["prune", "--model", model_directory, "--output", tmp_path / "half", "--feed-forward", 16, *files]
    assert run(capsys, *argv)[0] == 0
    for text in TEXTS:
        torch.testing.assert_close(logits_of(tmp_path / "half", text), logits_of(model_directory, text))


def test_files_of_texts_alone_serve_for_words_and_units(model_directory, files, tmp_path, capsys):
    words = ["--words", tmp_path / "more.txt"]
    sizes = []
    for name, argv in {"alone": words, "both": [*words, *files]}.items():
        argv = ["prune", "--model", model_directory, "--output", tmp_path / name, "--feed-forward", 20, *argv]
        status, _, err = run(capsys, *argv)
        assert status == 0, err
        sizes.append(load_model(tmp_path / name).config.vocab_size)
    assert sizes[0] < sizes[1] < load_model(model_directory).config.vocab_size
    long = tmp_path / "long.txt"  # far longer than the model's inputs: its end counts too
    long.write_text("fox " * 60 + "goalkeeper\n")
    assert run(capsys, "prune", "--model", model_directory, "--output", tmp_path / "l", "--words", long)[0] == 0
    ends = [load_tokenizer(place).encode(["goalkeeper"])[0].tokens for place in (tmp_path / "l", model_directory)]
    assert ends[0] == ends[1]
    argv = ["prune", "--model", model_directory, "--output", tmp_path / "first", *words, "--limit", 1]
    assert run(capsys, *argv)[0] == 0
    assert load_model(tmp_path / "first").config.vocab_size < sizes[0], "of the two texts one"


@pytest.mark.parametrize("head,task", [("token", "conll"), ("span", "squad"), ("mlm", "mlm")])
def test_every_task_reads_its_files(head, task, tokenizer, tmp_path, capsys):
    labels = ("O", "B-X", "I-X")
    save_model(tiny_model(head, labels, vocab_size=tokenizer.vocab_size), tmp_path / "model")
    tokenizer.save(tmp_path / "model", 32)
    data = tmp_path / "data.txt"
    answer = {"text": "fox", "answer_start": TEXTS[0].index("fox")}
    question = {"id": "1", "question": "the shares of the moon?", "answers": [answer]}
    squad = {"data": [{"title": "t", "paragraphs": [{"context": TEXTS[0], "qas": [question]}]}]}
    data.write_text({"conll": "the O\nfox B-X\njumps O\n\n", "squad": json.dumps(squad), "mlm": TEXTS[0] + "\n"}[task])
    argv = ["prune", "--model", tmp_path / "model", "--output", tmp_path / "small", "--words", "--feed-forward", 20]
    status, _, err = run(capsys, *argv, "--task", task, "--data", data)
    assert status == 0, err
    small = load_model(tmp_path / "small")
    assert small.config.head == head and small.config.feed_forward == 20
    assert small.config.labels == (labels if head == "token" else ())
    assert small.config.vocab_size == load_tokenizer(tmp_path / "small").vocab_size < tokenizer.vocab_size


def test_dev_tells_scores_and_how_many_pieces_are_others(model_directory, files, tmp_path, capsys):
    (tmp_path / "one.txt").write_text("the fox\n")
    argv = ["prune", "--model", model_directory, "--output", tmp_path / "few", "--words", tmp_path / "one.txt"]
    status, out, err = run(capsys, *argv, *files[:2], "--dev", files[-1])
    assert status == 0, err
    assert "dev accuracy" in out and "dev pieces cut otherwise" in out
    rows = json.loads((tmp_path / "few" / "pruning.json").read_text())["rows"]
    before, after = load_tokenizer(model_directory), load_tokenizer(tmp_path / "few")
    changed = count = 0
    for text in TEXTS:
        old, new = (tokenizer.encode([text], offsets=True)[0].tokens for tokenizer in (before, after))
        changed += sum(min(old.count(piece), 1) * max(0, old.count(piece) - new.count(piece)) for piece in set(old))
        count += len(old)
    assert rows["after"]["changed_pieces"] == pytest.approx(changed / count) and 0 < changed < count
    for name, directory in (("before", model_directory), ("after", tmp_path / "few")):
        labels = load_model(directory).config.labels
        right = [labels[logits_of(directory, text).argmax()] == label
                 for text, label in zip(TEXTS, ("no", "yes", "maybe", "no"), strict=True)]  # fmt: skip
        assert rows[name]["accuracy"] == pytest.approx(np.mean(right))


def test_a_model_that_is_there_has_its_record(model_directory, files, tmp_path, capsys, monkeypatch):
    """Stopped on the way, the command leaves no model of which nobody knows what it has learned."""
    there = []
    path = tmp_path / "small" / "pruning.json"

    def save(*arguments):
        there.append(json.loads(path.read_text()))
        save_folder(*arguments)

    monkeypatch.setattr("kd_scratch.evaluation.prune.save_folder", save)
    argv = ["prune", "--model", model_directory, "--output", path.parent, "--feed-forward", 16, *files]
    assert run(capsys, *argv, "--dev", files[-1])[0] == 0
    assert "accuracy" in there[0]["rows"]["after"] and "training" in there[0] and there[0]["notes"] == []


def test_scores_on_the_training_file_have_a_note(model_directory, files, tmp_path, capsys, monkeypatch):
    record = {"train": sha256_of_file(files[-1])}
    monkeypatch.setattr("kd_scratch.evaluation.evaluate.origin_record", lambda path, say: record)
    argv = ["prune", "--model", model_directory, "--output", tmp_path / "few", "--feed-forward", 16, *files]
    status, out, _ = run(capsys, *argv, "--dev", files[-1])
    note = f"{model_directory} was trained on {files[-1]}: its scores here say nothing about new texts"
    assert status == 0 and f"note: {note}" in out
    assert json.loads((tmp_path / "few" / "pruning.json").read_text())["notes"] == [note]


def test_a_dev_file_that_does_not_fit_is_refused_before_anything_is_written(model_directory, files, tmp_path, capsys):
    (tmp_path / "bad.csv").write_text("text,label\nthe fox,other\n")
    argv = ["prune", "--model", model_directory, "--output", tmp_path / "few", "--feed-forward", "8", *files[:2]]
    status, _, err = run(capsys, *argv, "--data", files[-1], "--dev", tmp_path / "bad.csv")
    assert status == 2 and "label 'other' is not one of" in err and not (tmp_path / "few").exists()


@pytest.mark.parametrize("head", ["sequence", "mlm"])
def test_the_megabytes_in_int8_are_those_of_the_quantized_weights(head, tokenizer, tmp_path, capsys):
    model = tiny_model(head, vocab_size=tokenizer.vocab_size)
    save_model(model, tmp_path / "model")
    tokenizer.save(tmp_path / "model", 32)
    (tmp_path / "texts.txt").write_text(TEXTS[0])
    argv = ["prune", "--model", tmp_path / "model", "--output", tmp_path / "few", "--words", tmp_path / "texts.txt"]
    assert run(capsys, *argv, "--feed-forward", 8)[0] == 0
    after = json.loads((tmp_path / "few" / "pruning.json").read_text())["rows"]["after"]
    if head == "mlm":
        assert after["int8_megabytes"] is None
    else:
        tensors = int8.to_tensors(int8.quantize(load_model(tmp_path / "few"))).values()
        assert after["int8_megabytes"] * 1e6 == sum(t.numel() * t.element_size() for t in tensors)


def test_a_model_that_gives_no_numbers_is_refused(model_directory, files, tmp_path, capsys):
    model = load_model(model_directory)
    with torch.no_grad():
        model.encoder.blocks[0].feed_forward.inner.bias[3] = float("inf")
    save_model(model, model_directory)
    argv = ["prune", "--model", model_directory, "--output", tmp_path / "few", "--feed-forward", 8, *files]
    status, _, err = run(capsys, *argv)
    assert status == 2 and "not finite numbers" in err and not (tmp_path / "few").exists()


@pytest.mark.parametrize(
    ("name", "content", "shape", "kept", "gone"),
    [
        ("a.txt", "Ada NNP B-NP B-PER\nruns VBZ B-VP O\n\n" * 3, dict(head="token", labels=("O", "B-X")), "ada", "nnp"),
        ("a.json", [{"context": "the fox jumps", "question": "who", "id": 1}], dict(head="span"), "fox", "context"),
        ("a.tsv", "id\tsentence1\tsentence2\n1\tthe fox\tjumps far\n2\ta fox\tdigs\n", dict(pairs=True), "digs", "id"),
        ("a.txt", "the fox\njumps far\n", dict(pairs=True), "far", "id"),
        ("a.csv", "id,text\n1,the fox\n2,jumps far\n", dict(pairs=True), "far", "id"),
    ],
)  # fmt: skip
def test_words_are_those_of_the_kind_of_file_that_the_model_reads(tmp_path, capsys, name, content, shape, kept, gone):
    """As `train --unlabelled` reads it: columns without their tags, questions with contexts, both texts of pairs."""
    path, text = tmp_path / name, content if isinstance(content, str) else json.dumps(content)
    path.write_text(text)
    words = "ada nnp np vp per runs vbz fox the jumps who context question id sentence far digs a one two three"
    tokenizer = train_tokenizer([words] * 3, vocab_size=1000)
    save_folder(tiny_model(**{"vocab_size": tokenizer.vocab_size} | shape), tokenizer, 32, tmp_path / "model")
    argv = ["prune", "--model", tmp_path / "model", "--output", tmp_path / "few", "--words", path]
    assert run(capsys, *argv)[0] == 0
    left = (tmp_path / "few" / "vocab.txt").read_text().split()
    assert kept in left and gone not in left


@pytest.mark.parametrize(
    "pairs, content, message",
    [
        (None, " \n \n", "a.csv: holds nothing but blank lines"),
        (True, " \n \n", "a.csv: holds nothing but blank lines"),
        (True, "a,b,c\nthe fox,jumps far,and digs\n", "which two of these are the pairs' texts"),
    ],
)
def test_words_of_a_file_that_cannot_be_read_are_refused(tmp_path, capsys, pairs, content, message):
    tokenizer = train_tokenizer(["the fox"] * 3, vocab_size=100)
    save_model(tiny_model("sequence", vocab_size=tokenizer.vocab_size, pairs=pairs), tmp_path / "model")
    tokenizer.save(tmp_path / "model", 32)
    (tmp_path / "a.csv").write_text(content)
    argv = ["prune", "--model", tmp_path / "model", "--output", tmp_path / "few", "--words", tmp_path / "a.csv"]
    status, _, error = run(capsys, *argv)
    assert status == 2 and message in error and "as of single ones" not in error
