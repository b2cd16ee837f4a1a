"""A float model in, one of narrower feed-forward or fewer words out: texts decide, without labels."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_scratch.checkpoints.checkpoint import save_folder
from kd_scratch.common.console import progress, say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_new_folder, make_folder, write_json
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import EncodedInputs, collate, length_sorted_batches, require_inputs
from kd_scratch.data.fewer_pieces import fewer_pieces
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.evaluation.evaluate import (
    EvaluationSet,
    LoadedModel,
    evaluate,
    notes_of_training,
    read_evaluation_set,
)
from kd_scratch.evaluation.inference import NOT_FINITE
from kd_scratch.nn import int8
from kd_scratch.nn.model import Model
from kd_scratch.nn.narrow import narrow
from kd_scratch.pages.card import write_card
from kd_scratch.pages.records import PRUNING, origin_record
from kd_scratch.tasks import Task, limited, usual_task
from kd_scratch.tasks.text_files import read_unlabelled

MANY = 4096  # inputs of each file by which units are weighed; texts that are cut into pieces together


def prune(
    loaded: LoadedModel,
    output: Path,
    feed_forward: int = 0,
    words: bool = False,
    task: Task | None = None,
    data: Sequence[Path] = (),
    texts: Sequence[Path] = (),
    settings: DataConfig | None = None,
    dev: Path | None = None,
) -> dict:
    """Write a pruned model with tokenizer and card; the record that pruning.json holds: rows before and after.

    loaded: a float model on the CPU, not in its fast form. feed_forward: units per block (0: all).
    words: whether pieces that the texts do not use go (see fewer_pieces). data: files of the task (of one that has
    splits, what is to train on). texts: files as --unlabelled takes them. dev: a file to score both models on.
    Raises UserError where nothing is to be pruned, or no text says how.
    """
    check_new_folder(output, loaded.directory)
    model, tokenizer, settings = loaded.model, loaded.tokenizer, settings or DataConfig()
    units = model.config.feed_forward
    half = max(1, units // 2)
    wrong = f"--feed-forward {feed_forward}: the model has {units} units; give 1 to {units - 1}"
    for is_wrong, what in (
        (model.config.int8, f"{loaded.directory}: is an int8 model; give the float model that it was made of"),
        (not feed_forward and not words, f"nothing is to be pruned; give --feed-forward {half} (say), or --words FILE"),
        (feed_forward and not 0 < feed_forward < units, wrong),
        (not (data or texts), "texts tell what can be pruned; give --task and --data, or --words FILE"),
        (data and task is None, "--data: of which task? Add --task, or give it to --words if it holds texts alone"),
        (dev and task is None, "--dev: of which task? Add --task"),
    ):
        if is_wrong:
            raise UserError(what)
    dev_set = read_evaluation_set(task, dev, task.dev_split, settings) if dev else None
    rows = {"before": about(loaded, dev_set)}
    inputs, used = read_inputs(loaded, words, task, data, texts, settings)
    kept = None
    if words:
        tokenizer, kept = fewer_pieces(tokenizer, np.unique(np.concatenate(used)))
    moments = moments_of_units(model, inputs) if feed_forward else ()
    small = take(model, moments, feed_forward, kept, tokenizer.pad_id)
    pruned = LoadedModel(small, tokenizer, loaded.max_length, str(output))
    rows["after"] = about(pruned, dev_set)
    if dev_set:
        found = changed_pieces(loaded.tokenizer, tokenizer, task.texts(dev_set.examples))
        rows["after"]["changed_pieces"] = found
    record = {"model": loaded.directory, "texts": [str(path) for path in (*data, *texts)], "rows": rows}
    record["notes"] = notes_of_training([loaded.directory], *filter(None, [dev_set]))
    record["training"] = origin_record(loaded.directory)
    write_json(make_folder(output) / PRUNING, record)  # first: it tells what the model has learned
    save_folder(small, tokenizer, loaded.max_length, output)
    write_card(output, [loaded.directory])
    return record


def read_inputs(
    loaded: LoadedModel,
    words: bool,
    task: Task | None,
    data: Sequence[Path],
    texts: Sequence[Path],
    settings: DataConfig,
) -> tuple[list[EncodedInputs], list[np.ndarray]]:
    """The inputs that files become, and numbers of the pieces in them (words: also in what is cut off)."""
    tokenizer, sources = loaded.tokenizer, []
    for path in data:
        examples = task.read(path, "train" if task.splits else "", settings, say=say)
        sources.append((path, task, examples, task.label_list(examples) if examples else ()))
    config = loaded.model.config
    kind = task if task and task.unlabelled else usual_task(config)
    for path in texts:
        sources.append((path, kind, read_words(kind, path, settings, bool(config.pairs)), ()))
    inputs, used = [], []
    for path, kind, examples, labels in sources:
        if not examples:
            raise UserError(f"{path}: holds nothing to prune by; give one text a line")
        examples = limited(examples, settings.limit)
        features = kind.featurize(examples, tokenizer, labels, loaded.max_length, settings)
        inputs.append(require_inputs(features, str(path)))
        used.append(np.unique(features.tokens))
        whole = kind.texts(examples) if words else ()  # the inputs may be cut off
        for start in range(0, len(whole), MANY):
            encodings = tokenizer.encode(whole[start : start + MANY])
            used.append(np.unique([number for encoding in encodings for number in encoding.ids]))
    return inputs, used


def read_words(task: Task, path: Path, settings: DataConfig, pairs: bool) -> Sequence:
    """The texts of a file of --words; for a model of pairs its pairs, or single texts where it has none."""
    read = partial(read_unlabelled, task, path, settings, f"--words {path}", questions="")
    notes: list[str] = []
    try:
        examples = read(say=notes.append, pairs=pairs)
    except UserError as error:
        if not pairs:
            raise
        notes = [f"{path}: holds no pairs of texts; its words are read as of single ones"]
        try:
            examples = read(say=notes.append)
        except UserError:
            raise error from None
    for note in notes:
        say(note)
    return examples


def about(loaded: LoadedModel, dev_set: EvaluationSet | None) -> dict:
    """What a float model takes in float32 and in int8 (None: has no such form), and its score on a dev set."""
    model, config = loaded.model, loaded.model.config
    count, tensors = model.num_parameters(), int8.tensors_of_int8_form(model).values()
    in_int8 = sum(t.numel() * t.element_size() for t in tensors) / 1e6 if config.head != "mlm" else None
    row = {"parameters": count, "megabytes": count * 4 / 1e6, "int8_megabytes": in_int8}
    row |= {"pieces": config.vocab_size, "feed_forward": config.feed_forward}
    if dev_set:
        task, examples, settings = dev_set.task, dev_set.examples, dev_set.data
        score = task.score(evaluate(loaded, task, examples, settings, torch.device("cpu")))[task.score_name]
        row |= {task.score_name: score, "changed_pieces": 0.0}
    return row


def changed_pieces(before: Tokenizer, after: Tokenizer, texts: Sequence[str]) -> float:
    """The share of the pieces of some texts that another tokenizer does not cut them to."""
    changed = count = 0
    for old, new in zip(before.encode(texts), after.encode(texts), strict=True):
        changed += (Counter(before.pieces(old.ids)) - Counter(after.pieces(new.ids))).total()
        count += len(old.ids)
    return changed / count


@torch.inference_mode()
def moments_of_units(model: Model, inputs: Sequence[EncodedInputs]) -> list[tuple[Tensor, Tensor]]:
    """Of each of L blocks the mean F and the covariance F,F of what its F units give on the tokens of inputs."""
    blocks, real = model.encoder.blocks, torch.ones(1, 1)
    size = 1 + model.config.feed_forward
    middles: dict[int, Tensor] = {}  # of each block: about the mean, so that float32 is exact enough for what varies
    sums = torch.zeros(len(blocks), size, size, dtype=torch.float64)  # L,1+F,1+F: of products of 1 and the units

    def watch(layer: int, module: nn.Module, arguments: tuple[Tensor]) -> None:
        (x,) = arguments  # B,Q,F: in the last block of a sequence head the first position alone
        x = x[real[:, : x.size(1)]]  # B,Q,F -> N,F: padding does not count
        x = F.pad(x - middles.setdefault(layer, x.mean(dim=0)), (1, 0), value=1.0)  # N,F -> N,1+F
        sums[layer] += x.T @ x

    hooks = [b.feed_forward.outer.register_forward_pre_hook(partial(watch, i)) for i, b in enumerate(blocks)]
    for features in inputs:
        features = replace(features, head="sequence", labels=np.zeros(len(features), int), allowed=None)
        some = np.random.default_rng(0).permutation(len(features))[:MANY]
        for batch in progress(length_sorted_batches(features.lengths[some], 32), desc="weighing units"):
            batch = collate(features, some[batch], torch.device("cpu"), model.config.pad_id)
            real = torch.ones_like(batch.input_ids).bool() if batch.attention_mask is None else batch.attention_mask
            model(**batch.inputs, masked_positions=torch.zeros(1, dtype=torch.int64))  # one masked word, not all
    for hook in hooks:
        hook.remove()
    if not sums.isfinite().all():
        raise UserError(NOT_FINITE)
    found = []
    for layer, products in enumerate(sums):
        mean, second = products[0, 1:] / products[0, 0], products[1:, 1:] / products[0, 0]
        found.append((middles[layer] + mean, second - torch.outer(mean, mean)))
    return found


def take(
    model: Model, moments: Sequence[tuple[Tensor, Tensor]], width: int, kept: np.ndarray | None, pad_id: int
) -> Model:
    """Another model with some rows of its word table (None: all) and feed-forwards of a width, see `narrow`.

    moments: those of moments_of_units; none: the feed-forwards stay as they are.
    """
    tensors, config = model.state_dict(), model.config
    if kept is not None:
        rows = torch.from_numpy(kept)
        config = replace(config, vocab_size=len(rows), pad_id=pad_id)
        for name in {"embeddings.word.weight", "head.bias"} & tensors.keys():  # that of an mlm head
            tensors[name] = tensors[name][rows]
    if moments:
        config = replace(config, feed_forward=width)
    for layer, (mean, covariance) in enumerate(moments):
        inner, outer = (f"encoder.blocks.{layer}.feed_forward.{part}." for part in ("inner", "outer"))
        units, *fitted = narrow(tensors[outer + "weight"], tensors[outer + "bias"], mean, covariance, width)
        for part, tensor in zip(("weight", "bias"), fitted, strict=True):
            tensors[inner + part] = tensors[inner + part][units]
            tensors[outer + part] = tensor
    small = Model(config)
    small.load_state_dict(tensors)
    return small.eval()
