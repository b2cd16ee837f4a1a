"""Model directories: the published names both ways, what fits and what does not, and files that mean harm."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from kd_scratch.checkpoints import checkpoint
from kd_scratch.checkpoints.checkpoint import (
    fingerprint,
    load_config,
    load_model,
    save_model,
    take_layers,
)
from kd_scratch.checkpoints.hf_layout import config_from_json, config_to_json
from kd_scratch.checkpoints.safetensors import load_file, save_file
from kd_scratch.checkpoints.weight_files import weight_files
from kd_scratch.common import files
from kd_scratch.common.errors import UserError
from kd_scratch.config import ModelConfig
from kd_scratch.nn.model import Model
from tests.conftest import KINDS, ROOT, TINY, tiny_model

HEADS = ("sequence", "token", "span", "mlm", None)
IDS = torch.tensor([[2, 17, 45, 99, 3]])
LABELS = ("no", "yes", "maybe")


def saved(folder, model=None):
    save_model(model or tiny_model(), folder)
    return folder


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def edit_weights(folder, change):
    """Replace the tensors in a folder by what `change` makes of them; None for a tensor that goes."""
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors |= change(tensors)
    save_file({name: t for name, t in tensors.items() if t is not None}, folder / "model.safetensors")
    return folder


def renamed(folder, pattern, replacement):
    """Write the tensors in a folder under other names."""
    tensors = {re.sub(pattern, replacement, k): v for k, v in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def refusal(folder, **options):
    """The one line with which a folder is refused."""
    with pytest.raises(UserError) as error:
        load_model(folder, **options)
    assert str(error.value).startswith(str(folder))
    assert "\n" not in str(error.value)
    return str(error.value).removeprefix(str(folder))


def same_weights(one, other):
    states = one.state_dict(), other.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


# --- both ways ---


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_opens_with_the_same_shape_weights_and_outputs_bit_for_bit(tmp_path, kind, head):
    model = tiny_model(head, **KINDS[kind])
    notes = []
    loaded = load_model(saved(tmp_path, model), say=notes.append)
    assert loaded.config == model.config
    assert same_weights(loaded, model)
    outputs = [m(IDS, output_hidden_states=True) for m in (model, loaded)]
    assert torch.equal(outputs[0].hidden_states[-1], outputs[1].hidden_states[-1])
    assert head is None or torch.equal(outputs[0].logits, outputs[1].logits)
    assert not loaded.training
    assert not notes


@pytest.mark.parametrize("stopped_at", ["model.safetensors", "config.json"])
def test_a_saving_over_another_model_that_is_cut_off_leaves_no_mixture_of_both(tmp_path, monkeypatch, stopped_at):
    """Stopped while the weights are written, the old model is still there; before the new config.json, no model is."""
    old, new = tiny_model(), tiny_model(labels=LABELS[::-1], activation="relu", seed=1)
    write = open

    def cut_off(path, *mode):
        if f".{stopped_at}." in str(path) and mode == ("wb",):
            raise KeyboardInterrupt
        return write(path, *mode)

    saved(tmp_path, old)
    monkeypatch.setattr(files, "open", cut_off, raising=False)
    with pytest.raises(KeyboardInterrupt):
        save_model(new, tmp_path)
    if stopped_at == "config.json":
        assert "has no config.json" in refusal(tmp_path)
    else:
        assert load_model(tmp_path).config == old.config and same_weights(load_model(tmp_path), old)


def test_what_config_json_cannot_hold_is_refused_before_anything_is_written(tmp_path):
    wrong = tiny_model()
    wrong.config = replace(wrong.config, norm_first=True)
    with pytest.raises(UserError, match="learned positions and post-norm"):
        save_model(wrong, tmp_path / "new")
    assert not (tmp_path / "new").exists()


BERT = """
bert.embeddings.LayerNorm
bert.encoder.layer.0.attention.self.query
bert.encoder.layer.0.attention.self.key
bert.encoder.layer.0.attention.self.value
bert.encoder.layer.0.attention.output.dense
bert.encoder.layer.0.attention.output.LayerNorm
bert.encoder.layer.0.intermediate.dense
bert.encoder.layer.0.output.dense
bert.encoder.layer.0.output.LayerNorm
"""
DISTILBERT = """
distilbert.embeddings.LayerNorm
distilbert.transformer.layer.0.attention.q_lin
distilbert.transformer.layer.0.attention.k_lin
distilbert.transformer.layer.0.attention.v_lin
distilbert.transformer.layer.0.attention.out_lin
distilbert.transformer.layer.0.sa_layer_norm
distilbert.transformer.layer.0.ffn.lin1
distilbert.transformer.layer.0.ffn.lin2
distilbert.transformer.layer.0.output_layer_norm
"""
TABLES = {"bert": ("word", "position", "token_type"), "distilbert": ("word", "position")}


@pytest.mark.parametrize(
    "kind, body, head, its_names",
    [
        ("bert", BERT, "sequence", "bert.pooler.dense classifier"),
        ("bert", BERT, "token", "classifier"),
        ("bert", BERT, "span", "qa_outputs"),
        ("bert", BERT, None, ""),
        ("distilbert", DISTILBERT, "sequence", "pre_classifier classifier"),
        ("distilbert", DISTILBERT, "token", "classifier"),
        ("distilbert", DISTILBERT, "span", "qa_outputs"),
    ],
)
def test_the_names_in_the_file_are_exactly_the_published_ones(tmp_path, kind, body, head, its_names):
    saved(tmp_path, tiny_model(head, depth=1, **KINDS[kind]))
    expected = {f"{module}.{part}" for module in (body + its_names).split() for part in ("weight", "bias")}
    expected |= {f"{kind}.embeddings.{table}_embeddings.weight" for table in TABLES[kind]}
    assert set(load_file(tmp_path / "model.safetensors")) == expected
    assert weight_files(tmp_path) == [tmp_path / "model.safetensors"]


def test_config_json_has_the_published_keys(tmp_path):
    raw = json.loads((saved(tmp_path, tiny_model(head_dropout=0.2, **KINDS["distilbert"])) / "config.json").read_text())
    assert raw["architectures"] == ["DistilBertForSequenceClassification"]
    assert (raw["dim"], raw["n_layers"], raw["n_heads"], raw["hidden_dim"]) == (16, 3, 2, 32)
    assert (raw["seq_classif_dropout"], raw["dropout"], raw["vocab_size"]) == (0.2, 0.1, 120)
    assert raw["id2label"] == {"0": "no", "1": "yes", "2": "maybe"}
    assert raw["label2id"] == {"no": 0, "yes": 1, "maybe": 2}
    raw = config_to_json(tiny_model("span").config)
    assert raw["architectures"] == ["BertForQuestionAnswering"]
    assert (raw["hidden_size"], raw["num_hidden_layers"], raw["num_attention_heads"]) == (16, 3, 2)
    assert (raw["intermediate_size"], raw["type_vocab_size"], raw["classifier_dropout"]) == (32, 2, 0.1)
    assert "id2label" not in raw


def test_what_config_json_leaves_out_has_the_published_default():
    assert config_from_json({"model_type": "bert"}, "") == ModelConfig()
    raw = {"model_type": "bert", "hidden_dropout_prob": 0.3, "classifier_dropout": None}
    assert config_from_json(raw, "").head_dropout == 0.3, "null means the dropout of the hidden states"
    raw = {"model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"]}
    shape = dict(depth=6, token_types=0, head_dropout=0.2, head="sequence", labels=("LABEL_0", "LABEL_1"))
    assert config_from_json(raw, "") == ModelConfig("distilbert", **shape)


def test_labels_are_in_the_order_of_their_numbers_not_of_their_text(tmp_path):
    labels = tuple(f"label {i}" for i in range(12))  # as text "10" comes before "2"
    id2label = dict(sorted((str(i), label) for i, label in enumerate(labels)))
    saved(tmp_path, tiny_model(labels=labels))
    assert load_config(edit_config(tmp_path, id2label=id2label)).labels == labels


# --- other people's files ---


def test_a_base_model_without_prefix_keeps_its_pooler_and_gets_a_new_classifier(tmp_path):
    model = tiny_model()
    notes = []
    renamed(saved(tmp_path, model), r"^bert\.", "")
    edit_weights(tmp_path, lambda tensors: {"classifier.weight": None, "classifier.bias": None})
    edit_config(tmp_path, architectures=["BertModel"], id2label=None)
    loaded = load_model(tmp_path, "sequence", ("a", "b"), notes.append)
    assert torch.equal(loaded.head.pooler.weight, model.head.pooler.weight)
    assert torch.equal(
        loaded.encoder.blocks[2].feed_forward.outer.bias, model.encoder.blocks[2].feed_forward.outer.bias
    )
    assert loaded.head.classifier.weight.shape == (2, 16)
    assert loaded.head.classifier.weight.std() > 0
    assert notes == [f"{tmp_path}: new random weights for head.classifier.bias, head.classifier.weight"]


def test_old_spellings_of_norms_and_a_saved_position_buffer_are_understood(tmp_path):
    model = tiny_model()
    notes = []
    renamed(saved(tmp_path, model), r"LayerNorm\.weight$", "LayerNorm.gamma")
    renamed(tmp_path, r"LayerNorm\.bias$", "LayerNorm.beta")
    edit_weights(tmp_path, lambda tensors: {"bert.embeddings.position_ids": torch.arange(40)})
    assert same_weights(load_model(tmp_path, say=notes.append), model)
    assert notes == [f"{tmp_path}: ignored, no part of this model: bert.embeddings.position_ids"]


def test_what_pre_training_left_behind_is_ignored_and_said(tmp_path):
    model = tiny_model(None)
    notes = []
    extra = {
        name: torch.zeros(3)
        for name in ("cls.predictions.bias", "cls.seq_relationship.weight", "bert.pooler.dense.bias")
    }
    edit_weights(saved(tmp_path, model), lambda tensors: extra)
    assert same_weights(load_model(tmp_path, say=notes.append), model)
    assert notes == [f"{tmp_path}: ignored, no part of this model: {', '.join(sorted(extra))}"]


def test_a_parameter_under_two_spellings_is_refused(tmp_path):
    twice = {"embeddings.LayerNorm.gamma": torch.ones(16)}
    edit_weights(saved(tmp_path), lambda tensors: twice)
    assert "parameter bert.embeddings.LayerNorm.weight is there twice" in refusal(tmp_path)


def test_every_missing_unexpected_and_misshaped_parameter_is_named(tmp_path):
    query, key = (f"bert.encoder.layer.1.attention.self.{name}.weight" for name in ("query", "key"))
    change = {query: None, key: torch.zeros(16, 8), "classifier.bias": None, "bert.extra": torch.zeros(1)}
    edit_weights(saved(tmp_path), lambda tensors: change)
    assert refusal(tmp_path) == (
        f": the parameters do not fit config.json; missing: {query}, classifier.bias; unexpected: bert.extra; "
        f"mis-shaped: {key} [16, 8] instead of [16, 16]"
    )


def test_a_deeper_and_a_shallower_config_than_the_weights_do_not_fit(tmp_path):
    edit_config(saved(tmp_path), num_hidden_layers=4)
    assert "missing: bert.encoder.layer.3.attention.output.LayerNorm.bias" in refusal(tmp_path)
    assert "and 4 more" in refusal(tmp_path), "a line, not a page"
    edit_config(tmp_path, num_hidden_layers=2)
    assert "unexpected: bert.encoder.layer.2.attention.output.LayerNorm.bias" in refusal(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precision_become_float32(tmp_path, dtype):
    model = tiny_model()
    edit_weights(saved(tmp_path, model), lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()})
    loaded = load_model(tmp_path)
    assert same_weights(loaded, model.to(dtype).float())
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
def test_weights_that_are_whole_numbers_are_refused(tmp_path, dtype):
    name = "bert.encoder.layer.0.output.dense.weight"
    edit_weights(saved(tmp_path), lambda tensors: {name: tensors[name].to(dtype)})
    assert f"mis-shaped: {name} of {dtype} instead of torch.float32" in refusal(tmp_path)


def test_loaded_weights_are_aligned_copies_and_not_views_of_the_file(tmp_path):
    saved(tmp_path)
    assert any(tensor.data_ptr() % 64 for tensor in load_file(tmp_path / "model.safetensors").values())
    assert not any(tensor.data_ptr() % 64 for tensor in load_model(tmp_path).state_dict().values())


def test_a_folder_that_is_no_model_directory_is_refused(tmp_path):
    assert "no such model directory" in refusal(tmp_path / "missing")
    assert "has no config.json" in refusal(tmp_path)
    (saved(tmp_path) / "model.safetensors").unlink()
    assert refusal(tmp_path) == ": has no model.safetensors and no pytorch_model.bin"


# --- shards ---


def shards(folder, names=("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")):
    """A saved model in two files with an index, the second file under a name to choose; returns the model."""
    model = tiny_model()
    tensors = load_file(saved(folder, model) / "model.safetensors")
    weight_map = {name: names[i % 2] for i, name in enumerate(sorted(tensors))}
    for shard in names:
        (folder / shard).parent.mkdir(exist_ok=True)
        save_file({name: tensors[name] for name in tensors if weight_map[name] == shard}, folder / shard)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return model


def test_shards_open_as_one_model(tmp_path):
    model = shards(tmp_path)
    assert same_weights(load_model(tmp_path), model)
    assert [path.name[:11] for path in weight_files(tmp_path)] == ["model-00001", "model-00002"]


@pytest.mark.parametrize("name", ["../b.safetensors", "sub/b.safetensors", "/ABSOLUTE/b.safetensors", ".b.safetensors"])
def test_a_shard_outside_the_directory_or_hidden_is_refused(tmp_path, name):
    name = name.replace("/ABSOLUTE", str(tmp_path))
    folder = tmp_path / "model"
    folder.mkdir()
    shards(folder, ("a.safetensors", name))
    assert "is not a plain file name in this directory" in refusal(folder)


def test_a_shard_may_be_a_link_to_a_file_as_in_the_hubs_cache_but_not_missing(tmp_path):
    model = shards(tmp_path)
    second = tmp_path / "model-00002-of-00002.safetensors"
    second.rename(tmp_path / "elsewhere")
    assert "model-00002-of-00002.safetensors: cannot be read" in refusal(tmp_path)
    second.symlink_to(tmp_path / "elsewhere")
    assert same_weights(load_model(tmp_path), model)


@pytest.mark.parametrize("change", [{"bert.extra": torch.zeros(1)}, {"classifier.bias": None}])
def test_a_shard_that_holds_other_parameters_than_the_index_says_is_refused(tmp_path, change):
    shards(tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    path = tmp_path / index["classifier.bias"]
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()} | change
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    assert f"holds other parameters than the index lists: {next(iter(change))}" in refusal(tmp_path)


@pytest.mark.parametrize("index", [[], {}, {"weight_map": []}, {"weight_map": {"a": 1}}, {"weight_map": {"a": None}}])
def test_an_index_without_a_weight_map_is_refused(tmp_path, index):
    shards(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "has no weight_map" in refusal(tmp_path)


# --- other heads and labels ---


def test_labels_in_another_order_move_the_classes_of_the_classifier(tmp_path):
    model = tiny_model()
    notes = []
    loaded = load_model(saved(tmp_path, model), "sequence", ("maybe", "no", "yes"), notes.append)
    assert loaded.config.labels == ("maybe", "no", "yes")
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits[:, [2, 0, 1]], atol=1e-6, rtol=0)
    assert not notes


def test_other_labels_keep_the_pooler_and_get_a_new_classifier_that_is_announced(tmp_path):
    model = tiny_model()
    notes = []
    loaded = load_model(saved(tmp_path, model), "sequence", ("no", "yes", "never"), notes.append)
    assert torch.equal(loaded.head.pooler.weight, model.head.pooler.weight)
    assert not torch.equal(loaded.head.classifier.weight, model.head.classifier.weight)
    assert loaded.head.classifier.weight.std() > 0
    assert [line.removeprefix(f"{tmp_path}: ") for line in notes] == [
        "new random weights for head.classifier.bias, head.classifier.weight",
        "ignored, no part of this model: classifier.bias, classifier.weight",
    ]


@pytest.mark.parametrize("head, labels", [("token", LABELS), ("span", ())])
def test_another_kind_of_head_is_new_and_announced_and_the_body_stays(tmp_path, head, labels):
    model = tiny_model()
    notes = []
    loaded = load_model(saved(tmp_path, model), head, labels, notes.append)
    assert torch.equal(loaded.encoder.blocks[0].attention.key.weight, model.encoder.blocks[0].attention.key.weight)
    assert loaded(IDS).logits.shape == (1, 5, len(labels) or 2)
    assert "new random weights for head.classifier.bias" in notes[0]
    assert "ignored, no part of this model: bert.pooler.dense.bias" in notes[1]


def test_dropout_can_be_changed_on_loading(tmp_path):
    changed = dict(dropout=0.4, attention_dropout=0.4)  # the head keeps that of the file
    assert load_model(saved(tmp_path), dropout=0.4).config == replace(tiny_model().config, **changed)
    off = dict(dropout=0.0, attention_dropout=0.0, head_dropout=0.0)
    assert load_model(tmp_path, dropout=0.0).config == replace(tiny_model().config, **off)


# --- chosen layers ---


@pytest.mark.parametrize("layers", [[0, 2], [1], [2, 0, 0], [0, 1, 2]])
def test_a_student_of_chosen_layers_has_exactly_those(layers):
    model = tiny_model(norm_first=True)
    student = take_layers(model, layers)
    assert student.config == replace(model.config, depth=len(layers))
    for block, i in zip(student.encoder.blocks, layers, strict=True):
        assert same_weights(block, model.encoder.blocks[i])
    for part in ("embeddings", "positions", "embedding_norm", "head"):
        assert same_weights(getattr(student, part), getattr(model, part))
    assert same_weights(student.encoder.final_norm, model.encoder.final_norm)


def test_a_student_shares_no_memory_with_the_model_it_came_from():
    model = tiny_model()
    before = fingerprint(model)
    for parameter in take_layers(model, [0, 1, 2]).parameters():
        parameter.data.zero_()
    assert fingerprint(model) == before


@pytest.mark.parametrize("layers", [[3], [0, -1], [0, 10**9], []])
def test_layers_that_are_not_there_are_a_user_error(layers):
    with pytest.raises(UserError, match=r"there is no layer (3|-1|1000000000), .* layers 0 to 2|depth is 0"):
        take_layers(tiny_model(), layers)


@pytest.mark.slow
def test_opening_a_checkpoint_draws_no_random_numbers_and_imports_no_algebra_system(tmp_path):
    saved(tmp_path)
    program = f"""
import sys, torch
from kd_scratch.checkpoints.checkpoint import load_model
before = torch.get_rng_state()
load_model({str(tmp_path)!r})
assert torch.equal(before, torch.get_rng_state())
assert "sympy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_a_new_head_fits_a_checkpoint_whose_padding_has_another_id(tmp_path):
    saved(tmp_path, tiny_model(None, pad_id=3))
    assert load_model(tmp_path, "sequence", ("a", "b"), say=lambda _: None).config.pad_id == 3


def test_labels_follow_their_ids_whatever_the_order_in_the_file(tmp_path):
    saved(tmp_path)
    edit_config(tmp_path, id2label={"2": "c", "0": "a", "1": "b"})
    assert load_model(tmp_path).config.labels == ("a", "b", "c")


# --- fingerprint ---


def test_the_fingerprint_is_of_the_model_and_not_of_its_files_or_mode(tmp_path):
    model = tiny_model()
    assert fingerprint(load_model(saved(tmp_path, model))) == fingerprint(model) == fingerprint(model.train())


def test_the_fingerprint_changes_with_any_weight_label_or_shape():
    changed = tiny_model()
    changed.head.classifier.bias.data[1] = torch.nextafter(changed.head.classifier.bias[1], torch.tensor(9.0)).item()
    models = [tiny_model(), changed, tiny_model(labels=("no", "yes", "never")), tiny_model(labels=LABELS[::-1])]
    models += [tiny_model(heads=4), tiny_model(activation="relu"), tiny_model(norm_epsilon=1e-5), tiny_model("token")]
    models += [tiny_model(model_type="kd_scratch")]
    assert len({fingerprint(model) for model in models}) == len(models)


# --- a config.json that is wrong ---


@pytest.fixture
def bounded(monkeypatch):
    """One gigabyte more than now, and no model of a million layers, so that a failing test does no harm either."""
    resource = pytest.importorskip("resource")

    def modest(config):
        assert config.depth < 1000, "the model of a lying config.json is built"
        return Model(config)

    monkeypatch.setattr(checkpoint, "Model", modest)
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def wrong(key, value, named=None):
    """A wrong value of a key, and what the message must name (the key)."""
    return pytest.param(key, value, named or key, id=f"{key}={str(value)[:20]}")


WRONG = [
    *[wrong("hidden_size", value) for value in ("16", True, 16.0, [16], {})],
    *[wrong("layer_norm_eps", value) for value in ("1e-12", False, [])],
    *[wrong("hidden_act", value) for value in (1, ["gelu"])],
    *[wrong("model_type", value) for value in ("roberta", 7)],
    *[wrong("id2label", value) for value in ({"0": "a", "2": "b"}, {"00": "a"}, {"1": "a"}, 5, "ab", ["a", "b"])],
    wrong("position_embedding_type", "relative_key"),
    wrong("is_decoder", True),
    wrong("pruned_heads", {"0": [1]}),
    # Well-formed, but no such tensors are in the file: what does not fit is named instead of the key.
    wrong("vocab_size", 10**9, "mis-shaped: bert.embeddings.word_embeddings.weight"),
    wrong("hidden_size", 10**6, "mis-shaped: bert.embeddings.LayerNorm.bias"),
    wrong("max_position_embeddings", 10**9, "mis-shaped: bert.embeddings.position_embeddings.weight"),
    wrong("num_hidden_layers", 10**9),
    *[wrong(key, 10**18) for key in ("hidden_size", "vocab_size", "max_position_embeddings")],
    *[wrong(key, 10**400) for key in ("vocab_size", "layer_norm_eps")],
    wrong("model_type", ["bert"]),
    wrong("type_vocab_size", -1),
    wrong("initializer_range", -1.0),
    wrong("hidden_act", "swish"),
    *[wrong("pad_token_id", value) for value in (-5, 120)],
    *[wrong("hidden_dropout_prob", value) for value in (7.0, -0.1, float("nan"))],
    *[wrong("layer_norm_eps", value) for value in (-1.0, float("nan"))],
    *[wrong("id2label", value) for value in ([], {"0": ["a"], "1": "b", "2": "c"})],
    wrong("architectures", "BertForSequenceClassification"),
    *[wrong("hidden_size", value) for value in (0, -16)],
    *[wrong("num_attention_heads", value) for value in (0, 3)],
    wrong("id2label", {"0": "a", "1": "a", "2": "b"}),
]
WRONG_OF_OURS = [
    wrong("positions", True),
    wrong("norm_first", 1),
    wrong("positions", "spiral"),
    wrong("max_position_embeddings", 10**10),
]


@pytest.mark.parametrize("key, value, named", WRONG)
def test_a_wrong_value_in_config_json_is_refused_by_its_key(tmp_path, bounded, key, value, named):
    assert named in refusal(edit_config(saved(tmp_path), **{key: value}))


@pytest.mark.parametrize("key, value, named", WRONG_OF_OURS)
def test_a_wrong_value_in_the_config_json_of_a_shape_of_our_own_is_refused_by_its_key(
    tmp_path, bounded, key, value, named
):
    assert named in refusal(edit_config(saved(tmp_path, tiny_model(**KINDS["scratch"])), **{key: value}))


def test_a_table_that_is_computed_before_any_weight_is_looked_at_is_small(tmp_path):
    folder = edit_config(saved(tmp_path, tiny_model(**KINDS["scratch"])), hidden_size=2**12)
    assert "mis-shaped" in refusal(edit_config(folder, max_position_embeddings=2**12))
    assert "max_position_embeddings is 4097, it must be" in refusal(edit_config(folder, max_position_embeddings=4097))


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"model_type": "bert"} x'])
def test_a_config_json_that_is_no_object_is_refused(tmp_path, text):
    (saved(tmp_path) / "config.json").write_text(text)
    assert refusal(tmp_path).startswith("/config.json: ")


def test_a_bert_of_a_shape_that_bert_cannot_have_is_not_written(tmp_path):
    for shape in ({"norm_first": True}, {"positions": "sinusoidal"}):
        with pytest.raises(UserError, match="a bert has learned positions and post-norm"):
            config_to_json(replace(TINY, **shape))


@pytest.mark.parametrize("shape", [dict(token_types=2), dict(norm_epsilon=1e-5)])
def test_a_distilbert_of_a_shape_that_its_config_json_has_no_key_for_is_not_written(tmp_path, shape):
    with pytest.raises(UserError, match="a distilbert has no token types and a norm_epsilon of 1e-12"):
        save_model(tiny_model(**KINDS["distilbert"] | shape), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_whole_number_passes_where_a_float_is_wanted(tmp_path):
    raw = config_to_json(TINY) | {"hidden_dropout_prob": 0}
    assert config_from_json(raw, "config.json").dropout == 0.0
