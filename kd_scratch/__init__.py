"""kd_scratch: knowledge distillation of BERT-family models, from scratch and in plain sight.

The functions below are the command line's, for Python. Each imports what it needs when it is called, so that importing
the package is quick. Whatever the user can mend raises kd_scratch.common.errors.UserError, with one line that says how.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kd_scratch.config import DataConfig
    from kd_scratch.data.tokenizer import Tokenizer
    from kd_scratch.evaluation.evaluate import Evaluation
    from kd_scratch.nn.model import Model

# Read at the first such product: oneDNN compiles a bfloat16 product anew for each shape, and it and PyTorch keep the
# last 1,024 of them, 0.7 MB apiece: gigabytes where batches differ in length. A step needs few, and 64 are as fast.
for _name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_name, "64")


def load_model(directory: str | Path) -> Model:
    """The model in a model directory, in eval mode, on the CPU, in float32 or int8.

    model(input_ids, attention_mask=None, token_type_ids=None), ids B,S, returns an object with .logits (sequence head
    B,C; token head B,S,C; span head B,S,2), and on request .hidden_states and .attentions.

    >>> import torch
    >>> from kd_scratch import load_model, load_tokenizer
    >>> model = load_model("student")
    >>> [encoding] = load_tokenizer("student").encode(["the quick brown fox"])
    >>> model(torch.tensor([encoding.ids])).logits.shape
    torch.Size([1, 3])
    """
    from kd_scratch.checkpoints import checkpoint

    return checkpoint.load_model(directory)


def save_model(model: Model, directory: str | Path, tokenizer: Tokenizer | None = None) -> None:
    """Write a model as a model directory, which `transformers` opens too: config.json and model.safetensors.

    tokenizer: written beside it; without one the directory cannot be evaluated. What stands there is replaced.

    >>> from kd_scratch import load_model, load_tokenizer, save_model
    >>> save_model(load_model("student"), "copy", load_tokenizer("student"))
    >>> load_model("copy").config == load_model("student").config
    True
    """
    from kd_scratch.checkpoints import checkpoint

    if tokenizer is None:
        checkpoint.save_model(model, directory)
    else:
        max_length = min(tokenizer.max_length or model.config.max_positions, model.config.max_positions)
        checkpoint.save_folder(model, tokenizer, max_length, directory)


def load_tokenizer(directory: str | Path) -> Tokenizer:
    """The tokenizer of a model directory.

    encode(texts) returns an object with .ids for each text, and with offsets=True .offsets into it (code points).

    >>> from kd_scratch import load_tokenizer
    >>> [encoding] = load_tokenizer("student").encode(["The fox!"], offsets=True)
    >>> len(encoding.ids) == len(encoding.offsets)
    True
    """
    from kd_scratch.data import tokenizer

    return tokenizer.load_tokenizer(directory)


def train(
    task: str,
    train: str | Path,
    dev: str | Path,
    model: str | Path,
    output: str | Path,
    teacher: str | Path | Sequence[str | Path] = (),
    answers: str | Path | Sequence[str | Path] = (),
    resume: bool = False,
    **settings,
) -> dict:
    """The record of a training run, once its model directory is written: fine-tuning, or with a teacher distillation.

    dev: a file, or a part of the training file to hold out, such as "10%". model: a model directory, or a size with
    random weights ("tiny-student"). teacher: a model directory, or several. answers: a file of answers, or several,
    instead. settings: fields of TrainConfig (epochs, temperature, losses, …), DataConfig, RunConfig and RunSpec
    (init_layers, …), as `train --help` lists them.

    >>> from kd_scratch import train
    >>> settings = dict(epochs=1, max_length=32)
    >>> record = train("csv", "train.csv", "50%", model="student", output="taught", teacher="student", **settings)
    >>> record["best_epoch"], record["settings"]["temperature"]
    (1, 2.0)
    """
    from kd_scratch.common.errors import UserError
    from kd_scratch.tasks import TASKS
    from kd_scratch.training.run import train as run_to_the_end
    from kd_scratch.training.setup import set_up
    from kd_scratch.training.spec import RunSpec

    if task not in TASKS:
        raise UserError(f"{task}: no such task; there are {', '.join(TASKS)}")
    sources = {"teachers": teacher, "answers": answers}
    for name, given in sources.items():
        sources[name] = tuple(map(str, [given] if isinstance(given, str | Path) else given))
    paths = {"train": Path(train), "dev": str(dev), "model": str(model), "output": Path(output)}
    for name in ("unlabelled", "cache"):
        if (given := settings.pop(name, None)) is not None:
            paths[name] = Path(given)
    spec = RunSpec.of(task, **sources, **paths, **settings)
    return run_to_the_end(set_up(spec, resume))


def evaluate(
    model: str | Path,
    task: str,
    data: str | Path,
    split: str = "",
    max_length: int = 0,
    device: str = "auto",
    settings: DataConfig | None = None,
) -> Evaluation:
    """The predictions and metrics of a model directory's model on a data file: .predictions, .metrics, .record.

    split: of a file that has several (default test). max_length: of inputs in word pieces (0: the model's own).
    settings: how the file is read.

    >>> from kd_scratch import evaluate
    >>> found = evaluate("student", task="csv", data="test.csv")
    >>> found.metrics["examples"], len(found.predictions.decisions)
    (4, 4)
    >>> 0 <= found.metrics["accuracy"] <= 1
    True
    """
    from kd_scratch.common.device import pick_device
    from kd_scratch.common.errors import UserError
    from kd_scratch.config import DataConfig
    from kd_scratch.evaluation.evaluate import device_for, evaluate_set, load_for_inference, read_evaluation_set
    from kd_scratch.tasks import TASKS

    if task not in TASKS:
        raise UserError(f"{task}: no such task; there are {', '.join(TASKS)}")
    chosen = pick_device(device_for(device, [model]))
    loaded = load_for_inference(model, TASKS[task], max_length, chosen)
    test_set = read_evaluation_set(TASKS[task], Path(data), split, settings or DataConfig())
    return evaluate_set(loaded, test_set, chosen, max_length)


def predict(
    model: str | Path,
    texts: Sequence[str] | str | None = None,
    questions: Sequence[str] | str | None = None,
    context: str | None = None,
    device: str = "auto",
    settings: DataConfig | None = None,
    pairs: Sequence[str] | str | None = None,
) -> dict[str, dict | list]:
    """Predictions of a model directory's model for texts, or for questions about a context, by text or question.

    A classifier gives each label with its probability, the most probable first (of pairs of texts, for which `pairs`
    has the second ones, by "text | second text"); where a text may have several labels, it gets those of the model's
    config.threshold or more. A tagger gives a list of entities, a model for question answering a list of answers, the
    most probable first. To open a model once and ask it often, see
    kd_scratch/evaluation/README.md.

    >>> from kd_scratch import predict
    >>> sorted(predict("student", ["the quick fox"])["the quick fox"])
    ['maybe', 'no', 'yes']
    >>> answers = predict("reader", questions=["who jumps?"], context="the quick brown fox jumps")["who jumps?"]
    >>> list(answers[0])
    ['answer', 'start', 'end', 'probability', 'no_answer']
    """
    from kd_scratch.common.device import pick_device
    from kd_scratch.evaluation import predict as library
    from kd_scratch.evaluation.evaluate import device_for, load_for_inference

    chosen = pick_device(device_for(device, [model]))
    loaded = load_for_inference(model, device=chosen)
    return library.predict(loaded, texts, questions, context, settings, chosen, pairs)


def quantize(model: str | Path, output: str | Path) -> dict:
    """Write the int8 form of a float model directory; returns its megabytes and milliseconds beside the float model's.

    >>> from kd_scratch import quantize
    >>> rows = quantize("student", "student-int8")["rows"]
    >>> rows["int8"]["megabytes"] < rows["float"]["megabytes"]
    True
    """
    from kd_scratch.evaluation import quantize as library
    from kd_scratch.evaluation.evaluate import load_for_inference

    return library.quantize(load_for_inference(model, fast=False), Path(output))


def export_onnx(model: str | Path, output: str | Path, precisions: Sequence[str] = ()) -> dict:
    """Write a model directory's model as a folder of ONNX files; returns what was written, by precision.

    precisions: of float32, float16 and int8, one file for each; (): the model's own.

    >>> from kd_scratch import export_onnx
    >>> export_onnx("student", "for-browsers", ["float32", "int8"])["files"]["int8"]["files"]
    ['onnx/model_quantized.onnx']
    """
    from kd_scratch.evaluation import export
    from kd_scratch.evaluation.evaluate import load_for_inference

    precisions = (precisions,) if isinstance(precisions, str) else tuple(precisions)
    return export.export_onnx(load_for_inference(model, fast=False), Path(output), precisions)


def prune(
    model: str | Path, output: str | Path, texts: Sequence[str | Path], feed_forward: int = 0, words: bool = True
) -> dict:
    """Write a float model directory again with the words and feed-forward units that files of texts need most.

    feed_forward: how many units each block keeps (0: all). words: whether pieces that the texts do not use go.

    >>> from kd_scratch import prune
    >>> rows = prune("student", "student-narrow", ["train.csv"], feed_forward=20)["rows"]
    >>> rows["after"]["parameters"] < rows["before"]["parameters"]
    True
    """
    from kd_scratch.evaluation import prune as library
    from kd_scratch.evaluation.evaluate import load_for_inference

    loaded = load_for_inference(model, fast=False)
    texts = [texts] if isinstance(texts, str | Path) else texts
    return library.prune(loaded, Path(output), feed_forward, words, texts=[Path(path) for path in texts])
