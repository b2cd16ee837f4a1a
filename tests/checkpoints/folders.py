"""Model folders in the shapes that they really have, as a table: a small model, and what differs in its files."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from kd_scratch.checkpoints.checkpoint import save_model
from kd_scratch.checkpoints.safetensors import load_file, save_file
from tests.conftest import KINDS, tiny_model

LABELS = ("no", "yes", "maybe")
NAMELESS = ("LABEL_0", "LABEL_1", "LABEL_2")
BIO = ("O", "B-PER", "I-PER")
GONE = None  # the value of a key that is left out
NO_KEYS = dict(model_type=GONE, architectures=GONE)
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Folder:
    """One kind of folder. Where it is usable its outputs are those of the untouched model (but for rounding)."""

    name: str
    kind: str = "bert"
    head: str | None = "sequence"  # of the model, and as it is found
    config: dict = field(default_factory=dict)  # keys of config.json that are other
    renamed: tuple[tuple[str, str], ...] = ()  # patterns in the names of parameters, and what they become
    change: Callable[[Tensors], Tensors] = lambda tensors: tensors
    labels: tuple[str, ...] = LABELS  # as they are found
    saved_labels: tuple[str, ...] = LABELS
    refused: str = ""  # where its head is used: what the line must hold
    cure: dict = field(default_factory=dict)  # what the line says to write into config.json; then it is usable
    body: bool = True  # usable as a body
    reference: bool = True  # transformers opens the folder itself, with the same numbers
    shape: dict = field(default_factory=dict)
    tolerance: float = 1e-6

    def model(self):
        """The untouched model."""
        return tiny_model(self.head, labels=self.saved_labels, **(KINDS[self.kind] | self.shape))

    def write(self, directory: Path) -> Path:
        """The folder, written."""
        save_model(self.model(), directory)
        path = directory / "config.json"
        raw = json.loads(path.read_text()) | self.config
        path.write_text(json.dumps({key: value for key, value in raw.items() if value is not GONE}))
        tensors = {name: tensor.clone() for name, tensor in load_file(directory / "model.safetensors").items()}
        for pattern, new in self.renamed:
            tensors = {re.sub(pattern, new, name): tensor for name, tensor in tensors.items()}
        save_file(self.change(tensors), directory / "model.safetensors", metadata={"format": "pt"})
        return directory


def cast(dtype: torch.dtype) -> Callable[[Tensors], Tensors]:
    """All parameters in another precision."""
    return lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()}


def add(**shapes: tuple[int, ...]) -> Callable[[Tensors], Tensors]:
    """More parameters, random ones; _ stands for a dot, __ for _."""
    names = {name.replace("__", "\0").replace("_", ".").replace("\0", "_"): shape for name, shape in shapes.items()}
    return lambda tensors: tensors | {name: torch.randn(shape) for name, shape in names.items()}


def names(ids: str, values: list) -> dict:
    """id2label without label2id."""
    return dict(id2label=dict(zip(ids.split(), values, strict=True)), label2id=GONE)


NAMED = dict(id2label={"0": "no", "1": "yes", "2": "maybe"})
WRAPPED = (
    "module",
    "model",
    "_orig_mod",
    "_orig_mod.module",
    "module._orig_mod",
    "0.auto_model",
    "model.encoder",
    "bert",
)
OLD_NAMES = ((r"LayerNorm\.weight", "LayerNorm.gamma"), (r"LayerNorm\.bias", "LayerNorm.beta"))
OLD_KEYS = dict(
    finetuning_task=GONE, torchscript=False, output_past=True, use_bfloat16=False, pruned_heads={}, is_decoder=False,
    output_attentions=False, output_hidden_states=False, num_choices=2,
    gradient_checkpointing=False, directionality="bidi", pooler_fc_size=768, classifier_dropout=None, tie_weights_=True,
    layer_norm_eps=GONE,
)  # fmt: skip
DISTILBERT_2019 = dict(
    NO_KEYS, dtype=GONE, finetuning_task=None, num_labels=3, output_attentions=False, pruned_heads={},
    tie_weights_=True, sinusoidal_pos_embds=True, torchscript=False, use_bfloat16=False, is_decoder=False,
    pad_token_id=GONE,
)  # fmt: skip

FOLDERS = [
    # what labels mean
    Folder("num_labels alone", config=dict(id2label=GONE, label2id=GONE, num_labels=3), labels=NAMELESS),
    Folder("id2label of numbers", config=names("0 1 2", [10, 20, 30]), labels=("10", "20", "30")),
    Folder("id2label with gaps", config=names("0 2 5", ["no", "yes", "maybe"]), cure=NAMED,
           refused="id2label must name.*0 to N-1"),
    Folder("id2label from 1", config=names("1 2 3", ["no", "yes", "maybe"]), cure=NAMED,
           refused="id2label must name.*0 to N-1"),
    Folder("a label twice", config=names("0 1 2", ["no", "yes", "no"]), cure=NAMED,
           refused="id2label.*'no' twice; give each"),
    Folder("id2label of nulls", config=names("0 1 2", ["no", None, "yes"]), cure=NAMED,
           refused="id2label must hold names"),
    Folder("label2id alone", config=dict(id2label=GONE), reference=False),
    Folder("label2id with gaps", config=dict(id2label=GONE, label2id={"no": 0, "yes": 2}),
           refused="label2id must name", cure=dict(label2id={"no": 0, "yes": 1, "maybe": 2})),
    Folder("label2id contradicts", config=dict(label2id={"yes": 0, "no": 1, "maybe": 2})),
    Folder("num_labels contradicts", config=dict(num_labels=5), cure=dict(num_labels=3),
           refused="names 3 labels and num_labels is 5; correct"),
    Folder("num_labels agrees", config=dict(num_labels=3)),
    Folder("num_labels is text", config=dict(num_labels="3"), cure=dict(num_labels=3),
           refused="num_labels is '3', it must be a number of labels"),
    Folder("fewer names than classes", config=names("0 1", ["no", "yes"]), cure=NAMED,
           refused=r"classifier.*\[3, 16\].*id2label"),
    Folder("more names than classes", config=names("0 1 2 3", list("abcd")), cure=NAMED,
           refused=r"classifier.*\[3, 16\].*id2label"),
    Folder("no names at all", config=dict(id2label=GONE, label2id=GONE), cure=NAMED,
           refused=r"classifier.*\[3, 16\].*num_labels"),
    Folder("empty id2label", config=dict(id2label={}, label2id={}), cure=NAMED,
           refused="id2label must name"),
    # what a head is for
    Folder("several labels at once", config=dict(problem_type="multi_label_classification")),
    Folder("one of several labels", saved_labels=("LABEL_0",), labels=("LABEL_0",),
           config=dict(problem_type="multi_label_classification")),
    Folder("several labels' threshold", config=dict(problem_type="multi_label_classification", label_threshold=0.2)),
    Folder("a threshold that is none", config=dict(problem_type="multi_label_classification", label_threshold=2.0),
           refused="label_threshold is 2.0, it must be between 0 and 1"),
    Folder("regression", config=dict(problem_type="regression"), refused="problem_type.*regression.*train --model"),
    Folder("a classifier of one label", saved_labels=("only",), labels=("only",)),
    Folder("a classifier of one label, by its problem_type", saved_labels=("only",), labels=("only",), reference=False,
           config=dict(problem_type="single_label_classification", regression=GONE)),
    Folder("one label", saved_labels=("LABEL_0",), config=dict(regression=GONE),
           refused="one label only.*regression.*train --model"),
    Folder("num_labels 1", saved_labels=("LABEL_0",),
           config=dict(id2label=GONE, label2id=GONE, num_labels=1, regression=GONE),
           refused="num_labels: one label only"),
    Folder("a problem_type of its own", config=dict(problem_type="ranking"), cure=dict(problem_type=GONE),
           refused="problem_type is 'ranking'"),
    Folder("a problem_type that is no text", config=dict(problem_type=["regression"]), cure=dict(problem_type=GONE),
           refused="problem_type is .*which is none"),
    Folder("single_label_classification", config=dict(problem_type="single_label_classification")),
    Folder("token head, several labels", head="token", config=dict(problem_type="multi_label_classification")),
    # which architecture
    Folder("no model_type", config=dict(model_type=GONE), reference=False),
    Folder("no model_type, distilbert", "distilbert", config=dict(model_type=GONE), reference=False),
    Folder("no model_type, base names", config=NO_KEYS, renamed=(("^bert[.]", ""),), reference=False,
           refused='no model_type.*write "model_type": "bert"', body=False,
           cure=dict(model_type="bert", architectures=["BertForSequenceClassification"])),
    Folder("no architectures, span", head="span", config=dict(architectures=GONE), labels=()),
    Folder("no architectures, token", head="token", config=dict(architectures=GONE)),
    Folder("no architectures, token with a pooler", head="token", saved_labels=BIO, labels=BIO,
           config=dict(architectures=[]), change=add(bert_pooler_dense_weight=(16, 16), bert_pooler_dense_bias=(16,))),
    Folder("no architectures, sequence", config=dict(architectures=[])),
    Folder("no architectures, sequence, distilbert", "distilbert", config=dict(architectures=GONE)),
    Folder("no architectures, token, distilbert", "distilbert", "token", config=dict(architectures=GONE)),
    Folder("no architectures, nameless labels",
           config=dict(architectures=GONE, id2label=GONE, num_labels=3, label2id=GONE),
           refused='no architectures.*"BertForSequenceClassification"', labels=NAMELESS,
           cure=dict(architectures=["BertForSequenceClassification"])),
    Folder("no architectures, masked words", head="mlm", config=NO_KEYS, labels=(), reference=False),
    Folder("no architectures, no head", head=None, config=dict(architectures=GONE), labels=()),
    Folder("BertForPreTraining", head="mlm", config=dict(architectures=["BertForPreTraining"]), labels=(),
           change=add(cls_seq__relationship_weight=(2, 16), cls_seq__relationship_bias=(2,),
                      bert_pooler_dense_weight=(16, 16), bert_pooler_dense_bias=(16,))),
    Folder("BertLMHeadModel", head="mlm", config=dict(architectures=["BertLMHeadModel"]), labels=()),
    Folder("BertForNextSentencePrediction", head=None, config=dict(architectures=["BertForNextSentencePrediction"]),
           labels=(), change=add(cls_seq__relationship_weight=(2, 16), cls_seq__relationship_bias=(2,))),
    Folder("BertForMultipleChoice", head=None, config=dict(architectures=["BertForMultipleChoice"]), labels=(),
           change=add(classifier_weight=(1, 16), classifier_bias=(1,))),
    Folder("an architecture of one's own", head=None, config=dict(architectures=["MyBertCRF"]), labels=(),
           change=add(classifier_weight=(1, 16), classifier_bias=(1,))),
    # keys of all ages
    Folder("old keys of BERT", config=OLD_KEYS),
    Folder("BERT of 2018", config=OLD_KEYS | dict(model_type=GONE, architectures=GONE, dtype=GONE, pad_token_id=GONE),
           renamed=OLD_NAMES, reference=False),
    Folder("DistilBERT of 2019", "distilbert", config=DISTILBERT_2019, reference=False),
    Folder("DistilBERT with BERT's keys", "distilbert",
           config=dict(dim=GONE, n_layers=GONE, n_heads=GONE, hidden_size=16, num_hidden_layers=3,
                       num_attention_heads=2)),
    Folder("DistilBERT with both keys", "distilbert", config=dict(n_heads=4, num_attention_heads=2)),
    Folder("gelu_python", config=dict(hidden_act="gelu_python")),
    Folder("gelu_fast", shape=dict(activation="gelu_new"), config=dict(hidden_act="gelu_fast")),
    Folder("gelu_pytorch_tanh", shape=dict(activation="gelu_new"), config=dict(hidden_act="gelu_pytorch_tanh")),
    Folder("swish", config=dict(hidden_act="swish"), refused="hidden_act is swish, it must be one of", body=False),
    Folder("a decoder", config=dict(is_decoder=True), refused="is_decoder is True", body=False),
    # names and types of parameters
    *(Folder(f"prefix {prefix}.", renamed=(("^", f"{prefix}."),), reference=False) for prefix in WRAPPED),
    Folder("prefix module., span", "distilbert", "span", renamed=(("^", "module."),), labels=(), reference=False),
    Folder("prefix model., body", head=None, renamed=(("^bert[.]", "model."),), labels=(), reference=False),
    Folder("prefix module., no keys", "distilbert", config=NO_KEYS, renamed=(("^", "module."),), reference=False),
    Folder("a prefix on some", renamed=(("^bert", "module.bert"),), refused="unexpected: module.bert", body=False,
           reference=False),
    Folder("prefix roberta.", renamed=(("^bert", "roberta"),), refused="unexpected: roberta", body=False,
           reference=False),
    Folder("gamma and beta", renamed=OLD_NAMES),
    Folder("position_ids", change=lambda tensors: tensors | {"bert.embeddings.position_ids": torch.arange(40)[None]}),
    Folder("token_type_ids", change=lambda tensors: tensors
           | {"bert.embeddings.token_type_ids": torch.zeros(1, 40, dtype=torch.int64)}),
    *(Folder(f"loss weights {name}", change=lambda tensors, name=name: tensors | {name: torch.ones(3)})
      for name in ("loss_fct.weight", "loss_fn.pos_weight", "class_weights")),
    Folder("a layer of one's own", change=lambda tensors: tensors | {"linear.weight": torch.randn(16, 16)},
           refused="unexpected: linear.weight$"),
    Folder("a CRF", head="token", change=lambda tensors: tensors | {"crf.transitions": torch.randn(3, 3)},
           refused="unexpected: crf.transitions$"),
    Folder("a body and what stood on it", head=None, labels=(), change=lambda tensors: tensors
           | {"crf.transitions": torch.randn(3, 3), "logit_scale": torch.ones(()), "fc.weight": torch.randn(3, 16)}),
    Folder("one layer too many", config=dict(num_hidden_layers=2), body=False, reference=False,
           refused="unexpected: bert.encoder.layer.2", cure=dict(num_hidden_layers=3)),
    Folder("decoder.bias too", head="mlm", labels=(), change=lambda tensors: tensors
           | {"cls.predictions.decoder.bias": tensors["cls.predictions.bias"].clone()}),
    Folder("a table of its own behind masked words", head="mlm", labels=(),
           change=add(cls_predictions_decoder_weight=(120, 16)),
           refused='decoder.weight .*write "tie_word_embeddings": false'),
    Folder("a bias of its own behind masked words", head="mlm", labels=(),
           change=add(cls_predictions_decoder_bias=(120,)),
           refused='decoder.bias .*write "tie_word_embeddings": false'),
    Folder("a table of its own, distilbert", "distilbert", head="mlm", labels=(),
           change=add(vocab__projector_weight=(120, 16)),
           refused='vocab_projector.weight .*write "tie_word_embeddings": false'),
    Folder("float16", change=cast(torch.float16), tolerance=0.05),
    Folder("bfloat16", change=cast(torch.bfloat16), tolerance=0.5),
    Folder("float64", change=cast(torch.float64)),
]  # fmt: skip
