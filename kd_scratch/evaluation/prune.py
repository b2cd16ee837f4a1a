"""A float model in, one of narrower feed-forward or fewer words out: texts decide, without labels."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kd_scratch.checkpoints.checkpoint import save_model
from kd_scratch.common.console import progress, say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_new_folder, write_json
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import EncodedInputs, collate, length_sorted_batches, require_inputs
from kd_scratch.data.fewer_pieces import fewer_pieces
from kd_scratch.evaluation.evaluate import LoadedModel
from kd_scratch.nn.model import Model
from kd_scratch.tasks import TASKS, Task, limited
from kd_scratch.tasks.text_files import read_texts

RECORD = "pruning.json"
TEXTS = TASKS["csv"]  # reads the files that are texts alone
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
) -> dict:
    """Write a pruned model with its tokenizer, and return what pruning.json holds: rows before and after.

    loaded: a float model on the CPU, not in its fast form. feed_forward: units per block (0: all).
    words: whether pieces that the texts do not use go (see fewer_pieces). data: files of the task (of one that has
    splits, what is to train on). texts: files as --unlabelled takes them.
    Raises UserError where nothing is to be pruned, or no text says how.
    """
    check_new_folder(output, loaded.directory)
    model, tokenizer, settings = loaded.model, loaded.tokenizer, settings or DataConfig()
    units = model.config.feed_forward
    wrong = f"--feed-forward {feed_forward}: the model has {units} units; give 1 to {units - 1}"
    for is_wrong, what in (
        (model.config.int8, f"{loaded.directory}: is an int8 model; give the float model that it was made of"),
        (not feed_forward and not words, "nothing is to be pruned; give --feed-forward 768 (say), or --words"),
        (feed_forward and not 0 < feed_forward < units, wrong),
        (not (data or texts), "texts tell what can be pruned; give --task and --data, or --words FILE"),
        (data and task is None, "--data: of which task? Add --task, or give it to --words if it holds texts alone"),
    ):
        if is_wrong:
            raise UserError(what)
    sources = []
    for path in data:
        examples = task.read(path, "train" if task.splits else "", settings, say=say)
        sources.append((path, task, examples, task.label_list(examples) if examples else ()))
    for path in texts:
        sources.append((path, TEXTS, read_texts(path, settings, say, TEXTS.unlabelled, f"--words {path}"), ()))
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
    chosen = mean = kept = None
    if feed_forward:
        weights, mean = weigh_units(model, inputs)
        chosen = weights.topk(feed_forward, dim=1).indices.sort(dim=1).values  # L,F -> L,W
    if words:
        tokenizer, kept = fewer_pieces(tokenizer, np.unique(np.concatenate(used)))
    small = take(model, chosen, mean, kept, tokenizer.pad_id)
    save_model(small, output)
    tokenizer.save(output, loaded.max_length, token_types=small.config.token_types > 0)
    rows = {}
    for name, one in (("before", model), ("after", small)):
        count = one.num_parameters()
        rows[name] = {"parameters": count, "megabytes": count * 4 / 1e6}  # in float32
        rows[name] |= {"pieces": one.config.vocab_size, "feed_forward": one.config.feed_forward}
    record = {"model": loaded.directory, "texts": [str(path) for path in (*data, *texts)], "rows": rows}
    write_json(output / RECORD, record)
    return record


@torch.inference_mode()
def weigh_units(model: Model, inputs: Sequence[EncodedInputs]) -> tuple[Tensor, Tensor]:
    """How much each of the F units of each of L blocks counts on inputs, L,F; its mean activation, L,F

    A unit counts by how much what it adds to the output varies: the deviation of its activation over tokens times the
    norm of its column of the second matrix. (What does not vary, the bias can add: see `take`. Weights and activations,
    without labels: Sun et al. 2023; the mean in place of what is pruned: Molchanov et al. 2017.)
    """
    blocks, real = model.encoder.blocks, torch.ones(1, 1)
    sums = torch.zeros(3, len(blocks), model.config.feed_forward, dtype=torch.float64)  # of 1, x, x²

    def watch(layer: int, module: nn.Module, arguments: tuple[Tensor]) -> None:
        (x,) = arguments  # B,Q,F: in the last block of a sequence head the first position alone
        x = x[real[:, : x.size(1)]].double()  # B,Q,F -> N,F: padding does not count
        sums[:, layer] += torch.stack([torch.ones_like(x), x, x.square()]).sum(dim=1)

    hooks = [b.feed_forward.outer.register_forward_pre_hook(partial(watch, i)) for i, b in enumerate(blocks)]
    for features in inputs:
        features = replace(features, head="sequence", labels=np.zeros(len(features), int), allowed=None)
        some = np.random.default_rng(0).permutation(len(features))[:MANY]
        for batch in progress(length_sorted_batches(features.lengths[some], 32), desc="weighing units"):
            batch = collate(features, some[batch], torch.device("cpu"), model.config.pad_id)
            real = torch.ones_like(batch.input_ids).bool() if batch.attention_mask is None else batch.attention_mask
            model(**batch.inputs, at=torch.zeros(1, dtype=torch.int64))  # one masked word, not all
    for hook in hooks:
        hook.remove()
    mean, square = sums[1:] / sums[0]  # L,F each
    norms = torch.stack([block.feed_forward.outer.weight.norm(dim=0) for block in blocks])  # L,F
    return (square - mean.square()).clamp(min=0).sqrt() * norms, mean


def take(model: Model, units: Tensor | None, mean: Tensor | None, kept: np.ndarray | None, pad_id: int) -> Model:
    """A model of some of another's feed-forward units (L,W) and rows of its word table; None: all.

    mean: L,F, the activations of all units; the bias takes what those that go add by it.
    """
    tensors, config = model.state_dict(), model.config
    if kept is not None:
        rows = torch.from_numpy(kept)
        config = replace(config, vocab_size=len(rows), pad_id=pad_id)
        for name in {"embeddings.word.weight", "head.bias"} & tensors.keys():  # that of an mlm head
            tensors[name] = tensors[name][rows]
    if units is not None:
        config = replace(config, feed_forward=units.size(1))
        for layer, chosen in enumerate(units):
            block, gone = f"encoder.blocks.{layer}.feed_forward.", mean[layer].float().index_fill(0, chosen, 0.0)  # F
            tensors[block + "outer.bias"] = tensors[block + "outer.bias"] + tensors[block + "outer.weight"] @ gone
            for part, dim in (("inner.weight", 0), ("inner.bias", 0), ("outer.weight", 1)):
                tensors[block + part] = tensors[block + part].index_select(dim, chosen)
    small = Model(config)
    small.load_state_dict(tensors)
    return small.eval()
