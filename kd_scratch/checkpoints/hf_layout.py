"""The published layout of BERT and DistilBERT checkpoints, as tables: parameter names and config.json keys.

Everything the hub's files call by another name than we do stands here, once, for both directions.
"""

import re
from dataclasses import fields, replace

from kd_scratch.checkpoints.own_head import ARCHITECTURES, CLASSES, MULTI_LABEL, NUMBERS, own_head
from kd_scratch.common.errors import UserError
from kd_scratch.config import ModelConfig

#: ours, BERT's, DistilBERT's. {i} is the number of a block. A shape of our own (kd_scratch) is saved under our names.
BODY = [
    (
        "embeddings.word.weight",
        "bert.embeddings.word_embeddings.weight",
        "distilbert.embeddings.word_embeddings.weight",
    ),
    ("embeddings.token_type.weight", "bert.embeddings.token_type_embeddings.weight", None),
    (
        "positions.weight",
        "bert.embeddings.position_embeddings.weight",
        "distilbert.embeddings.position_embeddings.weight",
    ),
    ("embedding_norm", "bert.embeddings.LayerNorm", "distilbert.embeddings.LayerNorm"),
]
BLOCK = [
    ("attention.query", "attention.self.query", "attention.q_lin"),
    ("attention.key", "attention.self.key", "attention.k_lin"),
    ("attention.value", "attention.self.value", "attention.v_lin"),
    ("attention.output", "attention.output.dense", "attention.out_lin"),
    ("attention_residual.norm", "attention.output.LayerNorm", "sa_layer_norm"),
    ("feed_forward.inner", "intermediate.dense", "ffn.lin1"),
    ("feed_forward.outer", "output.dense", "ffn.lin2"),
    ("feed_forward_residual.norm", "output.LayerNorm", "output_layer_norm"),
]
BLOCK_PREFIX = ("encoder.blocks.{i}.", "bert.encoder.layer.{i}.", "distilbert.transformer.layer.{i}.")
HEAD = {
    "sequence": [
        ("head.pooler", "bert.pooler.dense", "pre_classifier"),
        ("head.classifier", "classifier", "classifier"),
    ],
    "token": [("head.classifier", "classifier", "classifier")],
    "span": [("head.classifier", "qa_outputs", "qa_outputs")],
    "mlm": [
        ("head.transform", "cls.predictions.transform.dense", "vocab_transform"),
        ("head.norm", "cls.predictions.transform.LayerNorm", "vocab_layer_norm"),
        ("head.bias", "cls.predictions.bias", "vocab_projector.bias"),
    ],
    None: [],
}

#: The value of quantization_config in the config.json of an int8 model. Without the key quant_method transformers stops
#: there; with one that it does not know, it would go on and take the whole numbers for weights.
INT8 = {"method": "kd_scratch_int8", "tables": "4 bits"}

#: Parameters that a checkpoint may hold beside those that a model needs: other heads, buffers that old versions saved,
#: the projections by which a TinyBERT was compared with its teacher, and the weights of classes in a loss.
IGNORED = re.compile(
    r"(head\.|cls\.|vocab_(transform|layer_norm|projector)\.|classifier\.|pre_classifier\.|qa_outputs\.|(bert\.)?pooler\.)"
    r"|(.*\.)?embeddings\.(position|token_type)_ids$|fit_denses?\.(\d+\.)?(weight|bias)$"
    r"|loss_\w+\.(pos_)?weight$|class_weights$"
)
#: How the names of a body's parameters begin. Where a folder's own head is not used, all others are ignored.
OF_BODY = ("bert.", "distilbert.", "embeddings.", "encoder.", "transformer.", "positions.", "embedding_norm.")

#: Parameters that a head for masked words has from elsewhere, here always -> our names of those.
SHARED = {
    "cls.predictions.decoder.weight": "embeddings.word.weight",
    "cls.predictions.decoder.bias": "head.bias",
    "vocab_projector.weight": "embeddings.word.weight",
}


def published_names(config: ModelConfig) -> dict[str, str]:
    """Our name of every parameter of a model of this shape -> its published name."""
    column = {"kd_scratch": 0, "bert": 1, "distilbert": 2}[config.model_type]
    rows = BODY + HEAD[config.head]
    for i in range(config.depth):
        prefix = [p.format(i=i) for p in BLOCK_PREFIX]
        rows = rows + [tuple(p + name for p, name in zip(prefix, row, strict=True)) for row in BLOCK]
    if config.norm_first:
        rows = rows + [("encoder.final_norm",) * 3]
    names = {}
    for row in rows:
        if row[0] == "positions.weight" and config.positions != "learned":
            continue
        if row[0] == "embeddings.token_type.weight" and not config.token_types:
            continue
        if row[0].endswith((".weight", ".bias")):
            names[row[0]] = row[column]
        else:
            names |= {f"{row[0]}.{part}": f"{row[column]}.{part}" for part in ("weight", "bias")}
    return names


def canonical_name(name: str, expected: set[str]) -> str:
    """A parameter's name as the tables spell it: gamma and beta are old spellings, base models lack the prefix."""
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    for prefix in ("bert.", "distilbert."):
        if name not in expected and prefix + name in expected:
            return prefix + name
    return name


_BERT_KEYS = dict(
    vocab_size="vocab_size",
    width="hidden_size",
    depth="num_hidden_layers",
    heads="num_attention_heads",
    feed_forward="intermediate_size",
    max_positions="max_position_embeddings",
    token_types="type_vocab_size",
    activation="hidden_act",
    norm_epsilon="layer_norm_eps",
    dropout="hidden_dropout_prob",
    attention_dropout="attention_probs_dropout_prob",
    head_dropout="classifier_dropout",
    pad_id="pad_token_id",
    init_std="initializer_range",
)
#: Our field -> the key in config.json. A key that a file lacks has the published default, which ModelConfig's is.
CONFIG_KEYS = {
    "bert": _BERT_KEYS,
    "distilbert": dict(
        vocab_size="vocab_size",
        width="dim",
        depth="n_layers",
        heads="n_heads",
        feed_forward="hidden_dim",
        max_positions="max_position_embeddings",
        activation="activation",
        dropout="dropout",
        attention_dropout="attention_dropout",
        pad_id="pad_token_id",
        init_std="initializer_range",
    ),
    "kd_scratch": _BERT_KEYS | dict(positions="positions", norm_first="norm_first"),
}
#: Other spellings of a key, which win where both are there, and of an activation.
OTHER_KEYS = {"distilbert": dict(dim="hidden_size", n_layers="num_hidden_layers", n_heads="num_attention_heads")}
OTHER_ACTIVATIONS = {"gelu_python": "gelu", "gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new"}
PAIRS = "text_pairs"  # a key of our own: whether a sequence head was trained on pairs of texts
THRESHOLD = "label_threshold"  # another one: which of several labels a text gets
DISTILBERT_DEFAULTS = ModelConfig(model_type="distilbert", depth=6, token_types=0)
#: DistilBERT has a dropout of its own for each head: key and default.
DISTILBERT_HEAD_DROPOUT = {
    "sequence": ("seq_classif_dropout", 0.2),
    "span": ("qa_dropout", 0.1),
    "token": ("dropout", 0.1),
    "mlm": ("dropout", 0.1),  # which it does not use
}


def config_from_json(
    raw: dict, place: str, head: str | None = None, labels: tuple[str, ...] = (), multi_label: bool = False
) -> ModelConfig:
    """A parsed config.json (see own_head.completed) as ModelConfig, with another head and its labels where asked for.

    UserError, naming `place` and the key, for what we cannot represent.
    """
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_KEYS:
        raise UserError(f"{place}: model_type is {model_type!r}; supported are {', '.join(CONFIG_KEYS)}")
    for key, allowed in (("position_embedding_type", "absolute"), ("is_decoder", False), ("pruned_heads", {})):
        if raw.get(key, allowed) not in (allowed, None):
            raise UserError(f"{place}: {key} is {raw[key]!r}; only {allowed!r} is supported")
    if head is None:
        own = own_head(raw, place)
        if own.problem:
            raise UserError(own.problem)
        head, labels, multi_label = own.kind, own.labels, own.multi_label
    default = DISTILBERT_DEFAULTS if model_type == "distilbert" else ModelConfig(model_type=model_type)
    types = {f.name: f.type for f in fields(ModelConfig)}
    values = {}
    for name, key in CONFIG_KEYS[model_type].items():
        spellings = (OTHER_KEYS.get(model_type, {}).get(key), key)
        key, value = next(((k, raw[k]) for k in spellings if raw.get(k) is not None), (key, None))
        if value is not None:
            values[name] = _checked(value, types[name], place, key)
    activation = values.get("activation", default.activation)
    values["activation"] = OTHER_ACTIVATIONS.get(activation, activation)
    if model_type == "distilbert" and head:
        key, default_dropout = DISTILBERT_HEAD_DROPOUT[head]
        values["head_dropout"] = _checked(raw.get(key, default_dropout), float, place, key)
    else:
        values.setdefault("head_dropout", values.get("dropout", default.dropout))
    values["int8"] = _int8(raw, place)
    values["pairs"] = raw[PAIRS] if head == "sequence" and type(raw.get(PAIRS)) is bool else None
    values["threshold"] = _checked(raw.get(THRESHOLD, 0.5), float, place, THRESHOLD) if multi_label else 0.5
    try:
        return replace(default, **values, head=head, labels=labels, multi_label=multi_label)
    except UserError as error:  # the message names our fields; its reader looks for the file's keys
        keys = CONFIG_KEYS[model_type] | {"labels": "id2label", "threshold": THRESHOLD}
        words = [keys.get(word, word) for word in str(error).split(" ")]
        raise UserError(f"{place}: {' '.join(words)}") from None


def config_to_json(config: ModelConfig) -> dict:
    """The content of config.json for a model of this shape, as `transformers` reads it."""
    if config.model_type != "kd_scratch" and (config.norm_first or config.positions != "learned"):
        raise UserError(
            f"a {config.model_type} has learned positions and post-norm; other shapes are kd_scratch models"
        )
    if config.model_type == "distilbert" and (config.token_types or config.norm_epsilon != 1e-12):
        raise UserError("a distilbert has no token types and a norm_epsilon of 1e-12; other shapes are bert models")
    suffix = ARCHITECTURES.get(config.head, ("Model",))[0]
    raw = {"architectures": [CLASSES[config.model_type] + suffix], "model_type": config.model_type, "dtype": "float32"}
    raw |= {key: getattr(config, field) for field, key in CONFIG_KEYS[config.model_type].items()}
    if config.model_type == "distilbert" and config.head in ("sequence", "span"):
        raw[DISTILBERT_HEAD_DROPOUT[config.head][0]] = config.head_dropout
    if config.int8:
        raw["quantization_config"] = INT8
    if config.multi_label:
        raw |= {"problem_type": MULTI_LABEL, THRESHOLD: config.threshold}
    elif config.head == "sequence" and len(config.labels) == 1:
        raw[NUMBERS] = False
    if config.pairs is not None:
        raw[PAIRS] = config.pairs
    if config.labels:
        raw["id2label"] = {str(i): label for i, label in enumerate(config.labels)}
        raw["label2id"] = {label: i for i, label in enumerate(config.labels)}
    return raw


def _int8(raw: dict, place: str) -> bool:
    """Whether the model is quantized as int8.py does it."""
    found = raw.get("quantization_config")
    if isinstance(found, dict) and found.get("method") == INT8["method"] and found != INT8:
        raise UserError(f"{place}: was quantized by another version of this program; quantize the float model again")
    if found not in (None, INT8):
        raise UserError(f"{place}: quantization_config is of another program; only what was quantized here opens here")
    return found == INT8


def _checked(value, wanted: type, place: str, key: str):
    """`value` if it has the type of the field it is for; whole numbers pass as floats, booleans never as numbers."""
    if wanted is float and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if type(value) is not wanted:
        raise UserError(f"{place}: {key} is {str(value)[:40]!r}, it must be of type {wanted.__name__}")
    return value
