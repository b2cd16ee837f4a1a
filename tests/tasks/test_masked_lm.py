"""Masked words: the head, what is masked, how guesses are scored, general distillation from start to end."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import fingerprint, load_model, save_model
from kd_scratch.checkpoints.hf_layout import config_from_json
from kd_scratch.checkpoints.safetensors import load_file
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig, ModelConfig
from kd_scratch.data.batches import IGNORE, EncodedInputs, collate
from kd_scratch.data.masking import MaskedLMSampler, num_masked
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.distillation.losses import cross_entropy, soft_target_loss
from kd_scratch.distillation.student import Student
from kd_scratch.distillation.units import count_units
from kd_scratch.evaluation.inference import compute_logits, guesses
from kd_scratch.nn.int8 import quantize
from kd_scratch.nn.model import Model
from kd_scratch.tasks import TASKS, Predictions
from kd_scratch.tasks.masked_lm import Example, featurize, read_lines
from kd_scratch.training import loop
from tests.commands.test_commands import run
from tests.conftest import TEXTS, tiny_model, units
from tests.data.test_batches import CPU

DATA, TASK = DataConfig(), TASKS["mlm"]


@pytest.fixture
def passages(tokenizer):
    """Six passages of three texts, of which one is long."""
    texts = [TEXTS[0], " ".join(TEXTS * 2), TEXTS[2]]
    return featurize([Example(f"x:{i}", text) for i, text in enumerate(texts)], tokenizer, (), 40, DATA)


# --- the head ---


def test_the_head_is_linear_activation_norm_and_the_table_of_tokens():
    """Long-hand in float64."""
    model = tiny_model("mlm", activation="gelu").double()
    ids = torch.arange(10).view(2, 5)
    output = model(ids, output_hidden_states=True)
    x, head = output.hidden_states[-1].view(10, 16), model.head
    y = x @ head.transform.weight.T + head.transform.bias
    y = y * 0.5 * (1 + torch.erf(y / math.sqrt(2)))
    y = (y - y.mean(1, keepdim=True)) / (y.var(1, keepdim=True, correction=0) + 1e-12).sqrt()
    y = y * head.norm.weight + head.norm.bias
    torch.testing.assert_close(output.logits, y @ model.embeddings.word.weight.T + head.bias)
    at = torch.tensor([7, 2])
    torch.testing.assert_close(model(ids, masked_positions=at).logits, output.logits[at])


def test_the_table_learns_from_both_its_ends():
    model = tiny_model("mlm")
    model(torch.tensor([[5, 6, 7]]), masked_positions=torch.tensor([1])).logits[0, 99].backward()
    gradient = model.embeddings.word.weight.grad.abs().sum(1)
    assert gradient[99] > 0 and gradient[5] > 0 and gradient[50] == 0


@pytest.mark.parametrize("kind", ["bert", "distilbert", "kd_scratch"])
def test_a_saved_head_opens_again_under_its_published_names(tmp_path, kind):
    shape = {"model_type": kind} | ({"token_types": 0} if kind == "distilbert" else {})
    model = tiny_model("mlm", **shape)
    save_model(model, tmp_path)
    names = {name for name in load_file(tmp_path / "model.safetensors") if "ln" not in name and "layer" not in name}
    head = {
        "bert": {
            "cls.predictions.bias",
            "cls.predictions.transform.dense.weight",
            "cls.predictions.transform.dense.bias",
        },
        "distilbert": {"vocab_projector.bias", "vocab_transform.weight", "vocab_transform.bias"},
        "kd_scratch": {
            "head.bias",
            "head.transform.weight",
            "head.transform.bias",
            "head.norm.weight",
            "head.norm.bias",
        },
    }[kind]
    assert head <= names and not any("decoder" in name or name == "vocab_projector.weight" for name in names)
    again = load_model(tmp_path)
    assert again.config.head == "mlm" and fingerprint(again) == fingerprint(model)
    assert load_model(tmp_path, "token", ("O",), say=lambda line: None).config.head == "token", (
        "for a task it is left out"
    )


def test_an_encoder_without_this_head_gets_a_new_one(tmp_path):
    save_model(tiny_model("sequence"), tmp_path)
    messages = []
    model = load_model(tmp_path, "mlm", say=messages.append)
    assert model.head.bias.shape == (120,) and not model.head.bias.any()
    assert "new random weights for head.bias, head.norm.bias" in messages[0]


def test_a_model_whose_head_has_a_table_of_its_own_is_an_encoder_without_head(tmp_path):
    raw = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "tie_word_embeddings": False}
    assert config_from_json(raw, "x").head is None and config_from_json(raw, "x", "token", ("O",)).head == "token"
    assert config_from_json(raw | {"tie_word_embeddings": True}, "x").head == "mlm"


def test_it_is_not_quantized_and_the_message_has_the_reason():
    with pytest.raises(UserError, match="needs the table of tokens in float; train the model for a task first"):
        quantize(tiny_model("mlm"))
    with pytest.raises(UserError, match="int8 is True, it must be false with a head for masked words"):
        ModelConfig(head="mlm", int8=True)


# --- text -> inputs ---


def test_lines_are_texts_and_blank_ones_are_none(tmp_path):
    (tmp_path / "x.txt").write_bytes("one\r\n\n \t\ntwo is é\n".encode())
    assert list(read_lines(tmp_path / "x.txt", "", DATA)) == [Example("x.txt:1", "one"), Example("x.txt:4", "two is é")]
    (tmp_path / "x.txt").write_text("a" * 1_000_001)
    with pytest.raises(UserError, match=r"x\.txt: line 1: .*1,000,000"):
        read_lines(tmp_path / "x.txt", "", DATA)


def test_a_text_is_read_to_its_end_in_passages(tokenizer, passages):
    assert passages.example[0] == 0 and passages.example[-1] == 2 and (np.diff(passages.example) >= 0).all()
    whole = tokenizer.encode([" ".join(TEXTS * 2)])[0].ids
    parts = [
        passages.tokens[passages.starts[i] + 1 : passages.starts[i + 1] - 1]
        for i in np.flatnonzero(passages.example == 1)
    ]
    assert np.concatenate(parts).tolist() == whole[1:-1] and max(map(len, parts)) == 38
    cls, sep = whole[0], whole[-1]
    assert set(passages.tokens[passages.starts[:-1]]) == {cls} and set(passages.tokens[passages.starts[1:] - 1]) == {
        sep
    }
    assert (passages.labels[passages.starts[:-1]] == IGNORE).all() and (passages.labels == IGNORE).sum() == 2 * len(
        passages
    )


def test_without_a_mask_token_no_word_can_be_masked(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "mask_id", None)
    with pytest.raises(UserError, match=r"the tokenizer has no \[MASK\]"):
        featurize([Example("a", "fox")], tokenizer, (), 40, DATA)


def test_special_tokens_are_never_masked(tokenizer):
    features = featurize([Example("a", "the [SEP] fox Ω [MASK] jumps [PAD] again")], tokenizer, (), 40, DATA)
    special = np.isin(features.tokens, tokenizer.special_ids)
    assert special.sum() == 6 and np.array_equal(features.labels == IGNORE, special)


def test_a_text_of_which_the_tokenizer_leaves_nothing_is_no_input(tokenizer):
    features = featurize([Example("a", "\x07"), Example("b", "fox")], tokenizer, (), 40, DATA)
    assert features.ids == ["b"] and features.example.tolist() == [1]


# --- what is masked ---


def test_so_many_words_are_masked():
    assert [num_masked(n) for n in (0, 1, 3, 10, 100)] == [0, 1, 1, 2, 15]


def test_masked_words_become_mask_or_another_or_stay_and_no_others_change():
    tokens = np.arange(10, 100_010, dtype=np.int32)
    labels = tokens.astype(np.int64)
    labels[[0, -1]] = IGNORE
    labels[50_000:70_000] = IGNORE  # many special tokens
    features = EncodedInputs("mlm", ["x"], tokens, np.array([0, 100_000]), labels, mask_id=4)
    changed, kept = MaskedLMSampler(3, 1).mask_input(features, 0)
    chosen = kept != IGNORE
    assert chosen.sum() == num_masked(79_998) and not chosen[0] and not chosen[-1]
    assert np.array_equal(kept[chosen], tokens[chosen]) and np.array_equal(changed[~chosen], tokens[~chosen])
    became = changed[chosen]
    assert np.mean(became == 4) == pytest.approx(0.8, abs=0.01)
    assert np.mean(became == tokens[chosen]) == pytest.approx(0.1 + 0.02, abs=0.01), "a fifth of the others is special"
    assert not np.isin(became, tokens[50_000:70_000]).any()
    assert np.array_equal(features.tokens, np.arange(10, 100_010)), "the features stay as they are"


def test_what_is_masked_depends_on_seed_epoch_and_input_and_on_nothing_else(passages):
    def masks(sampler, i=1):
        return sampler.mask_input(passages, i)[1].tolist()

    assert masks(MaskedLMSampler(0, 0)) == masks(MaskedLMSampler(0, 0))
    assert len({str(masks(MaskedLMSampler(seed, epoch))) for seed in (0, 1) for epoch in (0, 1)}) == 4
    whole = collate(passages, np.arange(len(passages)), CPU, sampler=MaskedLMSampler(0, 3))
    for i in range(len(passages)):
        alone = collate(passages, np.array([i]), CPU, sampler=MaskedLMSampler(0, 3))
        length = passages.lengths[i]
        assert torch.equal(alone.input_ids[0], whole.input_ids[i, :length])
        assert torch.equal(alone.labels[0], whole.labels[i, :length])


def test_a_unit_is_a_masked_word_and_they_are_counted_without_masking_them(passages):
    model = tiny_model("mlm")
    indices = np.arange(len(passages))
    batch = collate(passages, indices, CPU, sampler=MaskedLMSampler(0, 0))
    logits, labels = units("mlm", model(**batch.inputs).logits, batch)
    assert len(logits) == len(labels) == count_units(passages, indices) and (labels != IGNORE).all()
    assert torch.equal(labels, batch.labels[batch.labels != IGNORE])
    everywhere = model(batch.input_ids, batch.attention_mask).logits.view(*batch.labels.shape, -1)
    torch.testing.assert_close(logits, everywhere[batch.labels != IGNORE])
    assert cross_entropy(logits, labels) > 0 and soft_target_loss(logits, logits, 2.0).abs() < 1e-3


# --- guesses -> scores ---


def test_guesses_by_hand(passages):
    batch = collate(passages, np.array([0, 2]), CPU, sampler=MaskedLMSampler(0, 0))
    labels = batch.labels[batch.labels != IGNORE]
    logits = torch.randn(len(labels), 120, generator=torch.Generator().manual_seed(0))
    logits[0, labels[0]] = 50.0
    found = guesses(logits, batch)
    first = int((batch.labels[0] != IGNORE).sum())
    losses = -F.log_softmax(logits.double(), dim=-1)[torch.arange(len(labels)), labels]
    torch.testing.assert_close(found[:, 0].double(), torch.stack([losses[:first].sum(), losses[first:].sum()]))
    assert found[:, 2].tolist() == [first, len(labels) - first] and found[0, 1] >= 1


def test_the_scores_are_those_of_all_masked_words(passages):
    model = tiny_model("mlm")
    logits = compute_logits(model, passages, CPU, batch_size=3)
    assert logits.shape == (len(passages), 3)
    np.testing.assert_allclose(logits, compute_logits(model, passages, CPU, batch_size=1), rtol=1e-4)
    examples = [Example(f"x:{i}", "") for i in range(3)]
    predictions = Predictions(TASK, examples, passages, logits, (), DATA)
    scores = TASK.score(predictions)
    assert scores["masked_words"] == count_units(passages, np.arange(len(passages))) == logits[:, 2].sum()
    assert scores["loss"] == pytest.approx(logits[:, 0].sum() / logits[:, 2].sum())
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]))
    tally = TASK.tally(predictions)
    assert tally.shape == (3, 2) and TASK.tally_score(tally.sum(axis=0)) == pytest.approx(scores["accuracy"])
    assert [row["masked"] for row in TASK.prediction_records(predictions).values()] == tally[:, 1].tolist()
    assert "the hardest texts" in TASK.mistakes(predictions, 2) and len(predictions.decisions) == 3


def test_the_teachers_logits_are_of_the_words_that_are_masked_for_the_student(passages):
    student, teacher = tiny_model("mlm", seed=1), tiny_model("mlm", seed=2, width=24, heads=3)
    batch = collate(passages, np.arange(3), CPU, sampler=MaskedLMSampler(0, 0))
    logits, taught, _ = Student(student, None, teacher)(batch.inputs)
    torch.testing.assert_close(taught, teacher(**batch.inputs).logits)
    assert taught.shape == logits.shape and not taught.requires_grad


# --- the command ---


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, small_scratch):
    """Text, a teacher with a head for masked words, and the flags that distil it."""
    folder = tmp_path_factory.mktemp("mlm")
    rng = np.random.default_rng(0)
    words = [text.split() for text in TEXTS]
    lines = [" ".join(words[i % 4][: rng.integers(4, 12)]) for i in range(60)]
    (folder / "text.txt").write_text("\n".join(lines) + "\n")
    common = ["train", "--task", "mlm", "--train", folder / "text.txt", "--dev", "20%", "--cache", folder / "cache"]
    common += ["--batch-size", "8", "--max-length", "24", "--threads", "1", "--device", "cpu", "--epochs", "2"]
    argv = [*common, "--model", "tiny-student", "--vocab-size", "120", "--output", folder / "teacher"]
    assert main([str(a) for a in argv]) == 0
    return folder, [*common, "--model", "scratch-small", "--teacher", folder / "teacher", "--losses", "cosine"]


@pytest.mark.slow
def test_general_distillation_makes_a_student_that_a_task_starts_from(pretrained, capsys, tmp_path):
    folder, argv = pretrained
    status, out, _ = run(capsys, *argv, "--output", tmp_path / "student")
    assert status == 0
    assert "0.3 · labels + 0.7 · soft targets (T = 2) + 1 · cosine (4→1)" in " ".join(out.split())
    assert "masked words, 15% of them all" in out
    record = json.loads((tmp_path / "student" / "training.json").read_text())
    assert record["history"][1]["loss"] < record["history"][0]["loss"]
    assert not list((folder / "cache").glob("teacher-logits-*")), "30,000 logits a word are not kept"
    model = load_model(tmp_path / "student")
    assert (
        model.config.head == "mlm"
        and model.embeddings.word.weight.shape[0] == load_tokenizer(tmp_path / "student").vocab_size
    )
    (tmp_path / "t.csv").write_text(
        "label,text\n" + "".join(f"{'ab'[i % 2]},{TEXTS[i % 4]}\n" for i in range(16)).replace(", ", " ")
    )
    task = ["train", "--task", "csv", "--train", tmp_path / "t.csv", "--dev", "25%", "--cache", folder / "cache"]
    task += ["--model", tmp_path / "student", "--epochs", "1", "--threads", "1", "--max-length", "24"]
    status, out, _ = run(capsys, *task, "--output", tmp_path / "task")
    assert status == 0 and "ignored, no part of this model: head.bias, head.norm.bias" in out
    status, out, _ = run(
        capsys, "evaluate", "--task", "mlm", "--data", folder / "text.txt", "--model", tmp_path / "student"
    )
    assert status == 0 and "perplexity" in out


@pytest.mark.slow
def test_a_killed_run_masks_the_same_words_when_it_goes_on(pretrained, capsys, tmp_path, monkeypatch):
    _, argv = pretrained
    assert run(capsys, *argv, "--output", tmp_path / "whole")[0] == 0
    real, calls = loop.add_gradients, []

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 9:  # in the second epoch of six steps each
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(loop, "add_gradients", dies)
    assert run(capsys, *argv, "--output", tmp_path / "killed")[0] == 130
    monkeypatch.setattr(loop, "add_gradients", real)
    assert run(capsys, *argv, "--output", tmp_path / "killed", "--resume")[0] == 0
    one, two = (json.loads((tmp_path / name / "training.json").read_text()) for name in ("whole", "killed"))
    assert [h["loss"] for h in one["history"]] == [h["loss"] for h in two["history"]]
    assert one["best_sha256"] == two["best_sha256"]


@pytest.mark.slow
def test_cutting_a_batch_changes_nothing(pretrained, capsys, tmp_path):
    _, argv = pretrained
    losses = []
    for parts in ("1", "4"):
        assert run(capsys, *argv, "--accumulation", parts, "--dropout", "0", "--output", tmp_path / parts)[0] == 0
        losses.append([h["loss"] for h in json.loads((tmp_path / parts / "training.json").read_text())["history"]])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_what_makes_no_sense_is_refused(pretrained, capsys, tmp_path, model_directory):
    folder, argv = pretrained
    nothing = tmp_path / "nothing.txt"
    nothing.write_text("\u00ad\n" * 10)
    tokenizer = load_tokenizer(folder / "teacher")
    save_model(tiny_model("mlm", vocab_size=136), tmp_path / "padded")
    tokenizer.save(tmp_path / "padded", 24)
    for more, message in (
        (["--teacher", folder / "teacher", folder / "teacher"], "there can be one only"),  # the last one counts
        (["--labelled", "10%"], "masked words need no labels"),
        (["--augment", "1"], "no input for mlm"),
        (["--unlabelled", folder / "text.txt"], "such text already"),
        (["--max-length", "2"], "--max-length 2: leaves no room"),
        (["--train", nothing, "--dev", folder / "text.txt"], "--train: holds no text of which the tokenizer leaves"),
        (["--dev", nothing], "--dev: holds no text of which the tokenizer leaves anything"),
        (["--teacher", tmp_path / "padded"], "has a vocabulary of 136 words, the student 120"),
        (["--teacher", model_directory], "has a sequence head, mlm needs a mlm head"),
    ):
        status, _, error = run(capsys, *argv, *more, "--output", tmp_path / "x")
        assert status == 2 and message in error, error
    evaluate = ["evaluate", "--task", "mlm", "--model", folder / "teacher", "--data", nothing]
    status, _, error = run(capsys, *evaluate)
    assert status == 2 and "--data: holds no text of which" in error
    with pytest.raises(SystemExit):
        main(["compare", "--task", "mlm", "--data", "x", "--models", "a=b", "--output", "y"])
    status, _, error = run(capsys, "predict", "--model", folder / "teacher", "--text", "x")
    assert status == 2 and "has no head for a task; predict needs a model trained for a task" in error


def test_the_classes_of_this_head_are_the_vocabulary():
    config = ModelConfig(head="mlm", vocab_size=50, width=8, heads=2, depth=1, feed_forward=8)
    assert config.classes == 50 and Model(config)(torch.zeros(2, 3, dtype=torch.long)).logits.shape == (6, 50)
