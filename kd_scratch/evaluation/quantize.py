"""A float model in, the directory of its int8 form out, with what that gains in size and speed.

The arithmetic is in nn/int8.py and the files are in checkpoints/; this stands here because it measures what it made.
"""

from pathlib import Path

import numpy as np
import torch

from kd_scratch.checkpoints.checkpoint import megabytes, save_folder
from kd_scratch.common.device import describe
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_new_folder, make_folder, write_json
from kd_scratch.evaluation.evaluate import LoadedModel
from kd_scratch.evaluation.measure import in_turns
from kd_scratch.nn import int8
from kd_scratch.nn.fast import make_fast
from kd_scratch.nn.model import Model
from kd_scratch.pages.card import write_card
from kd_scratch.pages.records import QUANTIZATION, origin_record

TOKENS = (16, 128)  # lengths of the inputs that are timed
ROUNDS, WARM_UP = 15, 3  # how often each is timed, and how often it is computed before that


def quantize(loaded: LoadedModel, output: Path) -> dict:
    """Write the int8 form of a model, with tokenizer, card and licences, and return what quantization.json there holds.

    loaded: a float model on the CPU, not in its fast form (load_for_inference with fast=False).
    rows of the result: for "float" and "int8" the megabytes on disk, and the median milliseconds of one input.
    Raises UserError where the model cannot be quantized, or the folder holds something already.
    """
    check_new_folder(output, loaded.directory)
    try:
        small = int8.quantize(loaded.model)
    except UserError as error:
        raise UserError(f"{loaded.directory}: {error}") from None
    rows = {"float": {"megabytes": megabytes(loaded.directory)}, "int8": {}}
    record = {
        "model": loaded.directory,
        "int8": int8.describe([small]),
        "machine": describe(torch.device("cpu")),
        "rows": rows,
        "training": origin_record(loaded.directory),  # of the float model, which may not be there any more
    }
    write_json(make_folder(output) / QUANTIZATION, record)  # first: it tells what the model has learned
    save_folder(small, loaded.tokenizer, loaded.max_length, output)
    rows["int8"]["megabytes"] = megabytes(output)
    for name, milliseconds in time_models({"float": make_fast(loaded.model), "int8": make_fast(small)}).items():
        rows[name] |= milliseconds
    write_json(output / QUANTIZATION, record)
    write_card(output, [loaded.directory])
    return record


def time_models(models: dict[str, Model]) -> dict[str, dict[str, float]]:
    """By model the median milliseconds of one input: {"ms_16_tokens": …, "ms_128_tokens": …}, as far as it fits in."""
    config = next(iter(models.values())).config
    rows = {name: {} for name in models}
    for tokens in TOKENS:
        if tokens > config.max_positions:
            continue
        ids = torch.randint(config.vocab_size, (1, tokens), generator=torch.Generator().manual_seed(0))
        times = in_turns(models, [ids] * (WARM_UP + ROUNDS), lambda model, ids: model(ids), WARM_UP, "timing")
        for name, milliseconds in times.items():
            rows[name][f"ms_{tokens}_tokens"] = float(np.median(milliseconds))
    return rows
