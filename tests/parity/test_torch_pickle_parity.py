"""Our reader of PyTorch's files against torch.load, and directories with a pytorch_model.bin against transformers'."""

import json
import os
import shutil

import pytest
import torch

from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import load_model
from kd_scratch.checkpoints.torch_pickle import TorchPickleError, load_file
from kd_scratch.data.tokenizer import load_tokenizer
from tests.conftest import TEXTS
from tests.parity.test_model_parity import (
    AUTO,
    TOLERANCE,
    assert_same_output,
    every_head,
    every_type,
    old_norms,
    random_batch,
    small,
    theirs_on,
    transformers,
)

every_format = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def saved_as_bin(theirs, directory, zipped=True, rename=lambda name: name, shards=1):
    """A directory as transformers wrote it before safetensors: config.json and pytorch_model.bin, or shards of it."""
    theirs.config.architectures = [type(theirs).__name__]
    theirs.config.save_pretrained(directory)
    state = {rename(name): tensor for name, tensor in theirs.state_dict().items()}
    names = [f"pytorch_model-{i + 1:05}-of-{shards:05}.bin" for i in range(shards)]
    if shards == 1:
        torch.save(state, directory / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
        return
    weight_map = {name: names[i * shards // len(state)] for i, name in enumerate(state)}
    for shard in names:
        torch.save({name: state[name] for name in state if weight_map[name] == shard}, directory / shard)
    (directory / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def described(tensors):
    """Names, dtypes, shapes, strides and values, comparable with ==."""
    return {name: (t.dtype, t.shape, t.stride(), t.detach().flatten().tolist()) for name, t in tensors.items()}


@every_type
@every_head
@every_format
def test_a_pickled_checkpoint_gives_the_same_numbers_here_and_there(model_type, head, zipped, tmp_path):
    theirs = small(model_type, head)
    saved_as_bin(theirs, tmp_path, zipped)
    assert described(load_file(tmp_path / "pytorch_model.bin")) == described(theirs.state_dict())
    back, loading = AUTO[head].from_pretrained(tmp_path, output_loading_info=True, attn_implementation="eager")
    assert not any(loading.values()), loading
    assert_same_output(load_model(tmp_path), back.eval(), random_batch(120))


@every_type
def test_pickled_shards_and_names_of_old_days_give_the_same_numbers(model_type, tmp_path):
    for folder, options in {"shards": {"shards": 3}, "old": {"rename": old_norms, "zipped": False}}.items():
        theirs = small(model_type)
        (tmp_path / folder).mkdir()
        saved_as_bin(theirs, tmp_path / folder, **options)
        assert_same_output(load_model(tmp_path / folder), theirs, random_batch(120))


@every_type
@pytest.mark.parametrize("head", ["sequence", "token", "span", "mlm", None], ids=str)
@pytest.mark.parametrize("options", [{}, {"shards": 2}, {"rename": old_norms}], ids=["one file", "shards", "old names"])
def test_a_converted_checkpoint_opens_there_with_the_same_numbers(model_type, head, options, tmp_path):
    """With its head, its labels and, under both names, the table that words and their scores share."""
    labels = {"id2label": {0: "a", 1: "b", 2: "c", 3: "d"}, "label2id": {"a": 0, "b": 1, "c": 2, "d": 3}}
    theirs = small(model_type, head, **labels if head in ("sequence", "token") else {})
    (tmp_path / "old").mkdir()
    saved_as_bin(theirs, tmp_path / "old", **options)
    assert main(["convert", "--model", str(tmp_path / "old"), "--output", str(tmp_path / "new")]) == 0
    back, loading = AUTO[head].from_pretrained(tmp_path / "new", output_loading_info=True, attn_implementation="eager")
    assert not loading["missing_keys"] and not loading["mismatched_keys"], loading
    batch = random_batch(120)
    mine, other = theirs_on(back.eval(), batch), theirs_on(theirs, batch)
    assert back.config.id2label == theirs.config.id2label
    for a, b in zip([mine.logits, *mine.hidden_states], [other.logits, *other.hidden_states], strict=True):
        assert (a is None and b is None) or torch.equal(a, b)


def test_a_real_checkpoint_goes_to_a_pickle_and_back(minilm, tmp_path, capsys):
    """all-MiniLM-L6-v2 saved as a .bin, converted: byte for byte the tensors it had, and the same tokenizer."""
    theirs = AUTO[None].from_pretrained(minilm)
    shutil.copytree(minilm, tmp_path / "old", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(theirs.state_dict(), tmp_path / "old" / "pytorch_model.bin")
    assert main(["convert", "--model", str(tmp_path / "old"), "--output", str(tmp_path / "new")]) == 0
    assert described(load_file(tmp_path / "old" / "pytorch_model.bin")) == described(theirs.state_dict())
    back = AUTO[None].from_pretrained(tmp_path / "new")
    assert all(torch.equal(a, b) for a, b in zip(back.state_dict().values(), theirs.state_dict().values(), strict=True))
    tokenize = transformers.AutoTokenizer.from_pretrained
    assert tokenize(tmp_path / "new")(TEXTS).input_ids == tokenize(minilm)(TEXTS).input_ids
    assert [e.ids for e in load_tokenizer(tmp_path / "new").encode(TEXTS)] == tokenize(minilm)(TEXTS).input_ids


def test_predict_and_a_teacher_of_transformers_with_a_pickle_work_to_the_end(tmp_path, tokenizer, capsys):
    """`predict` and `train --teacher` on a directory with a .bin alone; the student opens in transformers."""
    theirs = small("bert", id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1}, num_labels=2,
                   vocab_size=tokenizer.vocab_size)  # fmt: skip
    (tmp_path / "teacher").mkdir()
    saved_as_bin(theirs, tmp_path / "teacher")
    tokenizer.save(tmp_path / "teacher", max_length=32)
    assert main(["predict", "--model", str(tmp_path / "teacher"), "--text", TEXTS[0], "--json"]) == 0
    found = dict(json.loads(capsys.readouterr().out)[TEXTS[0]])
    [encoding] = tokenizer.encode([TEXTS[0]])
    expected = theirs(torch.tensor([encoding.ids])).logits.softmax(-1)[0].tolist()
    assert [found["no"], found["yes"]] == pytest.approx(expected, abs=1e-4)
    rows = "".join(f"{text.replace(',', '')},{label}\n" for text in TEXTS for label in ("no", "yes"))
    (tmp_path / "train.csv").write_text("text,label\n" + rows)
    data, teacher = str(tmp_path / "train.csv"), str(tmp_path / "teacher")
    argv = ["train", "--task", "csv", "--train", data, "--dev", data, "--model", teacher, "--teacher", teacher]
    argv += ["--init-layers", "0,2", "--epochs", "1", "--max-length", "16", "--device", "cpu"]
    assert main([*argv, "--output", str(tmp_path / "student")]) == 0
    student = AUTO["sequence"].from_pretrained(tmp_path / "student").eval()
    batch = random_batch(tokenizer.vocab_size)
    ours = load_model(tmp_path / "student")(**batch).logits
    torch.testing.assert_close(ours, theirs_on(student, batch).logits, rtol=0, atol=TOLERANCE[torch.float32])
    assert os.listdir(tmp_path / "teacher").count("model.safetensors") == 0


REFUSED_THERE = {  # by torch.load with weights_only, and here
    "a function": lambda path: torch.save({"a": print}, path),
    "a whole model": lambda path: torch.save(torch.nn.Linear(2, 2), path),
    "a number of numpy": lambda path: torch.save({"a": torch.ones(2), "b": torch.ones(1).numpy().dtype}, path),
}


@pytest.mark.parametrize("case", REFUSED_THERE)
def test_what_the_safe_mode_of_the_reference_refuses_is_refused_here(case, tmp_path):
    REFUSED_THERE[case](tmp_path / "x.bin")
    with pytest.raises(TorchPickleError, match="wants to call"):
        load_file(tmp_path / "x.bin")
    if case != "a number of numpy":  # whose types it knows
        with pytest.raises(Exception, match="Weights only load failed"):
            torch.load(tmp_path / "x.bin", weights_only=True)
