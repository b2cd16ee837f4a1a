"""A float model directory in, its int8 form out. `python -m kd_scratch quantize`"""

import argparse
from pathlib import Path

import numpy as np
import torch

from kd_scratch.checkpoints.checkpoint import megabytes, save_model
from kd_scratch.common.console import say, show, table
from kd_scratch.common.device import describe, start
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import write_json
from kd_scratch.config import RunConfig, add_flags, given
from kd_scratch.evaluation.evaluate import load_for_inference
from kd_scratch.evaluation.measure import in_turns
from kd_scratch.nn import int8
from kd_scratch.nn.fast import make_fast
from kd_scratch.training.setup import check_output

TOKENS, ROUNDS, WARM_UP = (16, 128), 15, 3  # lengths of the inputs that are timed; how often each is, and is not


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `quantize`."""
    parser.add_argument("--model", required=True, metavar="DIR", help="a float model directory")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where its int8 form goes")
    add_flags(parser, RunConfig, only=("threads",))


def command(arguments: argparse.Namespace) -> dict:
    """`quantize`: open, quantize, save, and say what it gained."""
    device = start(**vars(RunConfig(device="cpu", **given(arguments, RunConfig))))
    check_output(arguments.output, resume=False)
    loaded = load_for_inference(arguments.model, fast=False)
    say(f"quantizing {arguments.model} ({loaded.model.num_parameters() / 1e6:.1f}M) to int8")
    try:
        small = int8.quantize(loaded.model)
    except UserError as error:
        raise UserError(f"{arguments.model}: {error}") from None
    save_model(small, arguments.output)
    loaded.tokenizer.save(arguments.output, loaded.max_length, token_types=small.config.token_types > 0)
    rows = {"float": {"megabytes": megabytes(arguments.model)}, "int8": {"megabytes": megabytes(arguments.output)}}
    lengths = [tokens for tokens in TOKENS if tokens <= small.config.max_positions]
    models = {"float": make_fast(loaded.model), "int8": make_fast(small)}
    for tokens in lengths:
        ids = torch.randint(small.config.vocab_size, (1, tokens), generator=torch.Generator().manual_seed(0))
        times = in_turns(models, [ids] * (WARM_UP + ROUNDS), lambda model, ids: model(ids), WARM_UP, "timing")
        for name, milliseconds in times.items():
            rows[name][f"ms_{tokens}_tokens"] = float(np.median(milliseconds))
    gain = [rows["float"][key] / rows["int8"][key] for key in rows["int8"]]
    header = ("", "MB", *(f"ms, {tokens} tokens" for tokens in lengths))
    show(table(header, [(name, *row.values()) for name, row in rows.items()] + [("times smaller, faster", *gain)]))
    say(f"kept in {arguments.output} ({int8.describe()}, {torch.get_num_threads()} threads); evaluate it next")
    record = {"model": arguments.model, "int8": int8.describe(), "machine": describe(device), "rows": rows}
    write_json(arguments.output / "quantization.json", record)
    return record
