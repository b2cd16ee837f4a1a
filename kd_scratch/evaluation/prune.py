"""A float model in, one of a narrower feed-forward and with fewer words out, in the layout that it came in.

Both are decided by texts; no labels are looked at, and nothing is trained.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kd_scratch.checkpoints.checkpoint import megabytes, save_model
from kd_scratch.common.console import progress, say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_new_folder, write_json
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import EncodedInputs, collate, length_sorted_batches, require_inputs
from kd_scratch.data.fewer_pieces import fewer_pieces
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.evaluation.evaluate import LoadedModel
from kd_scratch.nn.model import Model
from kd_scratch.tasks import TASKS, Task
from kd_scratch.tasks.text_files import read_texts

RECORD = "pruning.json"
TEXTS = TASKS["csv"]  # reads the files that are texts alone
WATCHED = 4096  # inputs of each file by which units are weighed that are drawn
CHUNK = 4096  # texts that are cut into pieces together


def prune(
    loaded: LoadedModel,
    output: Path,
    feed_forward: int = 0,
    words: bool = False,
    task: Task | None = None,
    data: Sequence[Path] = (),
    texts: Sequence[Path] = (),
    settings: DataConfig = DataConfig(),
) -> dict:
    """Write a pruned model with its tokenizer, and return what pruning.json there holds too: rows before and after.

    loaded: a float model on the CPU, not in its fast form. feed_forward: the units that each block keeps (0: all).
    words: whether only the pieces that the texts use are kept, see fewer_pieces.
    data: files of a task (of a file of several splits, what is to train on). texts: files as --unlabelled takes them.
    Raises UserError where nothing is to be done, or there are no texts.
    """
    check(loaded, output, feed_forward, words, task, data, texts)
    model, tokenizer = loaded.model, loaded.tokenizer
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
        features = kind.featurize(examples, tokenizer, labels, loaded.max_length, settings)
        inputs.append(require_inputs(features, str(path)))
        used += [np.unique(features.tokens), *(pieces_of(tokenizer, kind.texts(examples)) if words else ())]
    units = kept = None
    if feed_forward:
        units = weigh_units(model, inputs).topk(feed_forward, dim=1).indices.sort(dim=1).values  # L,F -> L,W
    if words:
        tokenizer, kept = fewer_pieces(tokenizer, np.unique(np.concatenate(used)))
    small = take(model, units, kept, tokenizer.pad_id)
    save_model(small, output)
    tokenizer.save(output, loaded.max_length, token_types=small.config.token_types > 0)
    rows = {"before": about(model, loaded.directory), "after": about(small, output)}
    record = {"model": loaded.directory, "texts": [str(path) for path in (*data, *texts)], "rows": rows}
    write_json(output / RECORD, record)
    return record


def check(
    loaded: LoadedModel, output: Path, feed_forward: int, words: bool, task: Task | None, data: Sequence, texts: Sequence
) -> None:
    """UserError, before any work, where a model cannot be pruned so."""
    check_new_folder(output, loaded.directory)
    config = loaded.model.config
    if config.int8:
        raise UserError(f"{loaded.directory}: is an int8 model; prune the float model that it was made of")
    if not feed_forward and not words:
        raise UserError("nothing is to be pruned; give --feed-forward 768 (say), or --words, or both")
    if feed_forward and not 0 < feed_forward < config.feed_forward:
        most = config.feed_forward - 1
        raise UserError(f"--feed-forward {feed_forward}: must lie between 1 and {most}; the model has {most + 1}")
    if not (data or texts):
        raise UserError("texts tell what can be pruned; give --task and --data, or --words FILE")
    if data and task is None:
        raise UserError("--data: which task is it a file of? Add --task, or give the file to --words if it holds texts alone")


def pieces_of(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[np.ndarray]:
    """The numbers of the pieces of whole texts, however long, some thousand texts at a time."""
    for start in range(0, len(texts), CHUNK):
        yield np.unique([number for e in tokenizer.encode(texts[start : start + CHUNK]) for number in e.ids])


@torch.inference_mode()
def weigh_units(model: Model, inputs: Sequence[EncodedInputs]) -> Tensor:
    """How much each of the F units of each of L feed-forwards counts on some inputs: L,F

    That is the sum over tokens of what the unit adds to the sublayer's output, in length: |activation| times the norm
    of the unit's column of the second matrix. (Pruning by activations and by weights: Molchanov et al. 2017, Han et
    al. 2015; units of a whole Transformer by how much the output needs them: Michel et al. 2019.)
    """
    blocks, real = model.encoder.blocks, torch.ones(1, 1)
    sums = torch.zeros(len(blocks), model.config.feed_forward, dtype=torch.float64)  # L,F

    def watch(layer: int):
        def add(module: nn.Module, arguments: tuple[Tensor]) -> None:
            (x,) = arguments  # B,Q,F: in the last block of a sequence head the first position alone
            sums[layer] += (x.abs() * real[:, : x.size(1), None]).sum(dim=(0, 1))  # padding does not count

        return add

    hooks = [block.feed_forward.outer.register_forward_pre_hook(watch(i)) for i, block in enumerate(blocks)]
    first = torch.zeros(1, dtype=torch.int64)  # a head for masked words guesses one, not all
    drawn = np.random.default_rng(0)
    for features in inputs:
        features = replace(features, head="sequence", labels=np.zeros(len(features), int), allowed=None)
        some = np.sort(drawn.permutation(len(features))[:WATCHED])
        for batch in progress(length_sorted_batches(features.lengths[some], 32), desc="weighing units"):
            batch = collate(features, some[batch], torch.device("cpu"), model.config.pad_id)
            real = torch.ones(batch.input_ids.shape) if batch.attention_mask is None else batch.attention_mask
            model(**batch.inputs, at=first)
    for hook in hooks:
        hook.remove()
    return sums * torch.stack([block.feed_forward.outer.weight.norm(dim=0) for block in blocks])


def take(model: Model, units: Tensor | None, kept: np.ndarray | None, pad_id: int) -> Model:
    """A model of some of another's feed-forward units (L,W; None: all) and rows of its word table (None: all)."""
    tensors, config = model.state_dict(), model.config
    if kept is not None:
        rows = torch.from_numpy(kept)
        config = replace(config, vocab_size=len(rows), pad_id=pad_id)
        for name in {"embeddings.word.weight", "head.bias"} & tensors.keys():  # the second of a head for masked words
            tensors[name] = tensors[name][rows]
    if units is not None:
        config = replace(config, feed_forward=units.size(1))
        for layer, chosen in enumerate(units):
            block = f"encoder.blocks.{layer}.feed_forward."
            for part, dim in (("inner.weight", 0), ("inner.bias", 0), ("outer.weight", 1)):
                tensors[block + part] = tensors[block + part].index_select(dim, chosen)
    small = Model(config)
    small.load_state_dict(tensors)
    return small.eval()


def about(model: Model, directory: str | Path) -> dict[str, float]:
    """The sizes of a model in a folder: parameters, MB on disk, pieces, feed-forward."""
    config = model.config
    sizes = {"parameters": model.num_parameters(), "megabytes": megabytes(directory)}
    return sizes | {"pieces": config.vocab_size, "feed_forward": config.feed_forward}
