"""Our models against transformers': one checkpoint, the same numbers, whichever of the two wrote it."""

import csv
import inspect
import re
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import WEIGHTS, load_model, save_model
from kd_scratch.checkpoints.hf_layout import published_names
from kd_scratch.config import SIZES, DataConfig
from kd_scratch.data.tokenizer import load_tokenizer, train_tokenizer
from kd_scratch.nn.model import Model, ModelOutput
from kd_scratch.tasks import TASKS
from tests.conftest import TEXTS, tiny_model
from tests.parity.reference import AUTO

transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.torch")

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10}  # largest difference of any number
CONFIG = {"bert": transformers.BertConfig, "distilbert": transformers.DistilBertConfig}
SMALL = {
    "bert": dict(vocab_size=120, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48),
    "distilbert": dict(vocab_size=120, dim=32, n_layers=3, n_heads=4, hidden_dim=48),
}
every_type = pytest.mark.parametrize("model_type", ["bert", "distilbert"])
every_head = pytest.mark.parametrize("head", ["sequence", "token", "span"])


@pytest.fixture
def directory():
    """A folder that is gone after the test: pytest would keep the last gigabytes."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def randomize(model):
    """In eval mode, with biases and norms that are not 0 and 1, so that each of them moves the output."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def theirs_at_random(model_type, head, seed=0, **settings):
    """A random model of transformers. Its weights are larger than BERT's first ones, so that outputs really differ."""
    torch.manual_seed(seed)
    labels = {} if head == "span" else {"num_labels": 4}
    config = CONFIG[model_type](**{**labels, "initializer_range": 0.05, **settings})
    return randomize(AUTO[head].from_config(config, attn_implementation="eager"))  # eager: the one that gives maps


def small(model_type, head="sequence", **settings):
    """The same with three layers of width 32."""
    return theirs_at_random(model_type, head, **{"initializer_range": 0.3, **SMALL[model_type], **settings})


def random_batch(vocab_size, lengths=(24, 17, 5)):
    """Rows of different lengths, padded with 0; the second half of each row is of type 1."""
    generator = torch.Generator().manual_seed(0)
    places, ends = torch.arange(max(lengths)), torch.tensor(lengths)[:, None]
    mask = places < ends
    ids = torch.randint(5, vocab_size, mask.shape, generator=generator)
    types = mask & (places >= ends // 2)
    return {"input_ids": ids * mask, "attention_mask": mask.long(), "token_type_ids": types.long()}


@torch.no_grad()
def theirs_on(model, batch) -> ModelOutput:
    """What a model of transformers says, in our form."""
    if model.config.model_type == "distilbert":  # it has no token types
        batch = {name: tensor for name, tensor in batch.items() if name != "token_type_ids"}
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    logits = getattr(output, "logits", None)
    if "start_logits" in output:
        logits = torch.stack([output.start_logits, output.end_logits], dim=-1)  # two of B,S -> B,S,2
    return ModelOutput(logits, list(output.hidden_states), list(output.attentions))


def largest_difference(left, right, real) -> float:
    """Over corresponding tensors (B,C; B,S,D; B,H,S,S), at real tokens (B,S): padding's own numbers mean nothing, and a
    real checkpoint magnifies their rounding tenfold from block to block."""
    assert [tensor.shape for tensor in left] == [tensor.shape for tensor in right]
    masks = {2: real[:, :1], 3: real[:, :, None], 4: real[:, None, :, None]}
    differences = [((a - b) * masks[a.dim()]).abs().max() for a, b in zip(left, right, strict=True)]
    return torch.stack(differences).max().item()  # unlike Python's max, NaN where there is one


@torch.no_grad()
def assert_same_output(ours, theirs, batch, dtype=torch.float32):
    """The same N+1 hidden states, N maps and logits; logits also by the faster way, which makes no maps."""
    expected, fast = theirs_on(theirs, batch), ours(**batch)
    slow = ours(**batch, output_hidden_states=True, output_attentions=True)
    assert len(slow.hidden_states) == len(slow.attentions) + 1 == ours.config.depth + 1
    pairs = [(slow.hidden_states, expected.hidden_states), (slow.attentions, expected.attentions)]
    if expected.logits is None:
        pairs.append((fast.hidden_states, expected.hidden_states))
    else:
        pairs += [([slow.logits], [expected.logits]), ([fast.logits], [expected.logits])]
        assert expected.logits.std() > 0.1  # models that say the same of every input would agree too easily
    for left, right in pairs:
        assert largest_difference(left, right, batch["attention_mask"]) <= TOLERANCE[dtype]


def assert_same_in_both_precisions(ours, theirs, batches):
    """float32, then float64; both models stay in float64."""
    for dtype in TOLERANCE:
        ours, theirs = ours.to(dtype), theirs.to(dtype)
        for batch in batches:
            assert_same_output(ours, theirs, batch, dtype)


# --- written by transformers, opened here -----------------------------------------------------------------------------


@every_type
@every_head
def test_a_base_sized_checkpoint_of_transformers_gives_the_same_numbers_here(model_type, head, directory):
    theirs = theirs_at_random(model_type, head)
    theirs.save_pretrained(directory)
    ours = load_model(directory)
    assert (ours.config.head, len(ours.config.labels)) == (head, 0 if head == "span" else 4)
    assert_same_in_both_precisions(ours, theirs, [random_batch(30522)])


@every_type
def test_the_head_for_masked_words_is_theirs_in_both_directions(model_type, directory):
    """Ours gives U,V, one row per position; theirs B,S,V. A table of its own in the file, as old versions saved it, is
    the same one once more."""

    def assert_near(found, wanted):
        torch.testing.assert_close(found, wanted, rtol=0, atol=TOLERANCE[torch.float32])

    theirs = small(model_type, "mlm")
    theirs.save_pretrained(directory)
    batch = random_batch(120)
    expected = theirs(**batch).logits.flatten(0, 1)
    ours = load_model(directory)
    assert_near(ours(**batch).logits, expected)
    at = torch.tensor([5, 0, 30])
    assert_near(ours(**batch, masked_positions=at).logits, expected[at])
    save_model(ours, directory / "ours")
    back, loading = AUTO["mlm"].from_pretrained(directory / "ours", output_loading_info=True)
    assert not any(loading.values()), loading
    assert_near(back.eval()(**batch).logits.flatten(0, 1), expected)
    tensors = {name: tensor.clone() for name, tensor in safetensors.load_file(directory / WEIGHTS).items()}
    table = next(tensor for name, tensor in tensors.items() if "word_embeddings" in name)
    (directory / WEIGHTS).unlink()
    old = "cls.predictions.decoder.weight" if model_type == "bert" else "vocab_projector.weight"
    safetensors.save_file(tensors | {old: table.clone()}, directory / WEIGHTS)
    assert_near(load_model(directory)(**batch).logits, expected)
    fresh = load_model(directory, head="token", labels=("a", "b"))(**batch, output_hidden_states=True)
    body = getattr(theirs, theirs.base_model_prefix)(**batch)
    assert_near(fresh.hidden_states[-1], body.last_hidden_state)


def test_minilm_gives_the_same_hidden_states_on_200_real_sentences(minilm, real_data):
    examples = TASKS["clinc"].read(real_data("clinc150/data_full.json"), "test", DataConfig())
    texts = [example.text for example in examples if example.in_scope][:: 4500 // 200][:200]
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    batches = [tokenizer(texts[i : i + 40], padding=True, return_tensors="pt") for i in range(0, 200, 40)]
    assert len(texts) == 200 and all((batch.attention_mask == 0).any() for batch in batches)
    ours, theirs = load_model(minilm), AUTO[None].from_pretrained(minilm, attn_implementation="eager")
    assert ours.config.head is None
    assert_same_in_both_precisions(ours, theirs.eval(), batches)


@every_type
@every_head
def test_settings_other_than_the_published_ones_are_read(model_type, head, directory):
    other = {
        "bert": dict(hidden_act="gelu_new", layer_norm_eps=0.1, type_vocab_size=3, max_position_embeddings=30,
                     hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.4, classifier_dropout=0.5),
        "distilbert": dict(activation="relu", max_position_embeddings=30, dropout=0.3, attention_dropout=0.4,
                           seq_classif_dropout=0.5, qa_dropout=0.6),
    }  # fmt: skip
    labels = () if head == "span" else tuple(f"label {i}" for i in range(12))
    names = {"num_labels": len(labels), "id2label": dict(enumerate(labels))} if labels else {}
    theirs = small(model_type, head, **names, **other[model_type])
    theirs.save_pretrained(directory)
    ours = load_model(directory)
    assert_same_output(ours, theirs, random_batch(120))
    assert (ours.config.labels, ours.config.dropout, ours.config.attention_dropout) == (labels, 0.3, 0.4)
    if model_type == "distilbert" or head != "span":  # BERT's span head has no dropout
        assert ours.head.dropout == theirs.get_submodule("dropout").p


@every_type
def test_shards_open_like_one_file(model_type, directory):
    theirs = small(model_type)
    theirs.save_pretrained(directory, max_shard_size="20KB")
    assert (directory / f"{WEIGHTS}.index.json").is_file() and len(list(directory.glob("*.safetensors"))) > 2
    assert_same_output(load_model(directory), theirs, random_batch(120))


def old_norms(name):
    """The names of TensorFlow's days."""
    return re.sub(r"LayerNorm\.(weight|bias)$", lambda m: f"LayerNorm.{dict(weight='gamma', bias='beta')[m[1]]}", name)


def without_prefix(name):
    """As a model without head is saved."""
    return re.sub(r"^(bert|distilbert)\.", "", name)


@every_type
@every_head
@pytest.mark.parametrize("renames", [[old_norms], [without_prefix], [old_norms, without_prefix]])
def test_other_spellings_of_the_names_open(model_type, head, renames, directory):
    theirs = small(model_type, head)
    theirs.save_pretrained(directory)
    tensors = {}
    for name, tensor in safetensors.load_file(directory / WEIGHTS).items():
        for rename in renames:
            name = rename(name)
        tensors[name] = tensor.clone()
    assert tensors.keys() != theirs.state_dict().keys()
    (directory / WEIGHTS).unlink()  # it may still be mapped
    safetensors.save_file(tensors, directory / WEIGHTS)
    assert_same_output(load_model(directory), theirs, random_batch(120))


@pytest.mark.parametrize("kind", ["BertForNextSentencePrediction", "BertModel", "DistilBertModel"])
def test_a_pretrained_checkpoint_opens_bare_and_with_a_new_head(kind, directory):
    model_type = "distilbert" if "Distil" in kind else "bert"
    torch.manual_seed(0)
    config = CONFIG[model_type](initializer_range=0.3, **SMALL[model_type], attn_implementation="eager")
    theirs = randomize(getattr(transformers, kind)(config))
    theirs.save_pretrained(directory)
    said = []
    ours = load_model(directory, say=said.append)
    batch = random_batch(120)
    assert_same_output(ours, getattr(theirs, theirs.base_model_prefix, theirs), batch)
    heads = [
        name for name in safetensors.load_file(directory / WEIGHTS) if re.match(r"cls\.|vocab_|(bert\.)?pooler\.", name)
    ]
    assert said == ([f"{directory}: ignored, no part of this model: {', '.join(sorted(heads))}"] if heads else [])
    fresh = load_model(directory, head="token", labels=("a", "b"), say=said.append)
    assert torch.equal(fresh(**batch, output_hidden_states=True).hidden_states[-1], ours(**batch).hidden_states[-1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_checkpoints_are_computed_in_float32(dtype, directory):
    small("bert").to(dtype).save_pretrained(directory)
    theirs = AUTO["sequence"].from_pretrained(directory, dtype=torch.float32, attn_implementation="eager")
    assert_same_output(load_model(directory), theirs, random_batch(120))


# --- written here, opened by transformers -----------------------------------------------------------------------------


def opened_by_transformers(directory, head):
    """Model and tokenizer. Nothing may be missing, unexpected or mis-shaped."""
    model, report = AUTO[head].from_pretrained(directory, output_loading_info=True, attn_implementation="eager")
    assert {"missing_keys", "unexpected_keys", "mismatched_keys"} <= report.keys() and not any(report.values()), report
    return model.eval(), transformers.AutoTokenizer.from_pretrained(directory)


def assert_opens_in_transformers(directory, ours, max_length):
    """The same parameters, labels, token ids and numbers."""
    theirs, tokenizer = opened_by_transformers(directory, ours.config.head)
    assert theirs.num_parameters() == ours.num_parameters()
    if ours.config.labels:
        assert theirs.config.id2label == dict(enumerate(ours.config.labels))
        assert theirs.config.label2id == {label: i for i, label in enumerate(ours.config.labels)}
    texts, pairs = [*TEXTS, "An UNKNOWN café?"], ["the fox", "", "a goalkeeper's report", "nine", "moon"]
    assert tokenizer.model_max_length == load_tokenizer(directory).max_length == max_length
    for second in (None, pairs):
        batch = tokenizer(texts, second, padding=True, return_tensors="pt", return_token_type_ids=True)
        encodings = load_tokenizer(directory).encode(texts, second)
        assert [e.ids for e in encodings] == tokenizer(texts, second).input_ids
        assert_same_output(ours, theirs, batch)


@every_type
@every_head
@pytest.mark.parametrize("lowercase", [True, False])
def test_what_is_saved_here_opens_in_transformers(model_type, head, lowercase, directory):
    tokenizer = train_tokenizer(TEXTS, 120, lowercase)
    column = {} if model_type == "bert" else {"model_type": "distilbert", "token_types": 0}
    ours = tiny_model(head, vocab_size=tokenizer.vocab_size, max_positions=64, **column)
    save_model(ours, directory)
    tokenizer.save(directory, max_length=50)
    assert_opens_in_transformers(directory, ours, max_length=50)


def test_what_is_trained_here_opens_in_transformers(directory):
    rng, output = torch.Generator().manual_seed(0), directory / "trained"
    with open(directory / "data.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for i in torch.randint(len(TEXTS), (60,), generator=rng).tolist():
            rows.writerow([TEXTS[i], ("fox", "money, not love", "sport", "Ünïcode")[i]])
    arguments = f"train --task csv --train {directory / 'data.csv'} --dev 20% --model tiny-student --output {output}"
    settings = "--epochs 2 --batch-size 8 --learning-rate 3e-3 --vocab-size 120 --max-length 48 --device cpu"
    assert main([*arguments.split(), *settings.split()]) == 0
    ours = load_model(output)
    assert ours.config.labels == ("fox", "money, not love", "sport", "Ünïcode")
    assert_opens_in_transformers(output, ours, max_length=48)


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_the_saved_tokenizer_gives_transformers_model_only_what_it_takes(model_type, tokenizer, directory):
    """transformers 4 raises TypeError for token_type_ids that DistilBERT does not know."""
    column = {} if model_type == "bert" else {"model_type": "distilbert", "token_types": 0}
    save_model(tiny_model(vocab_size=tokenizer.vocab_size, **column), directory)
    tokenizer.save(directory, max_length=32, token_types=model_type == "bert")
    model, loaded = opened_by_transformers(directory, "sequence")
    assert loaded("the fox").keys() <= inspect.signature(model.forward).parameters.keys()


# --- the same parameters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, head, classes, count", [
    ("bert-base", "sequence", 4, 109_485_316),
    ("distilbert-base", "sequence", 4, 66_956_548),
    ("bert-large", "span", 2, 334_094_338),
    ("distilbert-base", "span", 2, 66_364_418),
    ("bert-base", "token", 9, 108_898_569),
    ("distilbert-base", "token", 9, 66_369_801),
])  # fmt: skip
def test_published_shapes_have_transformers_parameters_names_and_shapes(size, head, classes, count):
    labels = () if head == "span" else tuple(f"label {i}" for i in range(classes))
    large = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    with torch.device("meta"):
        ours = Model(replace(SIZES[size], head=head, labels=labels))
        settings = large if size == "bert-large" else {}
        theirs = AUTO[head].from_config(CONFIG[ours.config.model_type](num_labels=classes, **settings))
    assert ours.num_parameters() == theirs.num_parameters() == count
    names = published_names(ours.config)
    shapes = {names[name]: tensor.shape for name, tensor in ours.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in theirs.state_dict().items()}
