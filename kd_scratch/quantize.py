"""A float model directory in, its int8 form out. `python -m kd_scratch quantize`"""

import argparse
import time
from pathlib import Path
from statistics import median

import torch

from kd_scratch.checkpoint import save_model, weight_files
from kd_scratch.config import RunConfig, add_flags, given
from kd_scratch.console import table
from kd_scratch.evaluate import open_model
from kd_scratch.files import UserError, write_json
from kd_scratch.int8 import activation_bits, quantize
from kd_scratch.model import Model
from kd_scratch.prepare import check_output
from kd_scratch.runtime import describe, start

TOKENS, ROUNDS = (16, 128), 15  # lengths of the inputs that are timed, and how often each is


@torch.no_grad()
def latencies(models: dict[str, Model], tokens: int) -> dict[str, float]:
    """Median milliseconds for one input of so many random tokens; the models take turns."""
    config = next(iter(models.values())).config
    ids = torch.randint(config.vocab_size, (1, tokens), generator=torch.Generator().manual_seed(0))
    times: dict[str, list[float]] = {name: [] for name in models}
    for i in range(ROUNDS + 3):
        for name, model in models.items():
            started = time.perf_counter()
            model(ids)
            if i >= 3:  # the first ones warm up
                times[name].append(1000 * (time.perf_counter() - started))
    return {name: median(values) for name, values in times.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `quantize`."""
    parser.add_argument("--model", required=True, metavar="DIR", help="a float model directory")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where its int8 form goes")
    add_flags(parser, RunConfig, only=("seed", "device", "threads"))


def command(arguments: argparse.Namespace) -> None:
    """`quantize`: open, quantize, save, and say what it gained."""
    device = start(RunConfig(**given(arguments, RunConfig)))
    check_output(arguments.output, resume=False)
    opened = open_model(arguments.model)
    if opened.model.config.int8:
        raise UserError(f"{arguments.model}: is int8 already")
    print(f"quantizing {arguments.model} ({opened.model.num_parameters() / 1e6:.1f}M) to int8", flush=True)
    small = quantize(opened.model)
    save_model(small, arguments.output)
    opened.tokenizer.save(arguments.output, opened.max_length, token_types=small.config.token_types > 0)
    models = {"float": opened.model, "int8": small}
    folders = {"float": Path(arguments.model), "int8": arguments.output}
    rows = {name: {"megabytes": sum(f.stat().st_size for f in weight_files(folders[name])) / 1e6} for name in models}
    for tokens in TOKENS:
        if tokens <= small.config.max_positions:
            for name, milliseconds in latencies(models, tokens).items():
                rows[name][f"ms_{tokens}_tokens"] = milliseconds
    gain = [rows["float"][key] / rows["int8"][key] for key in rows["int8"]]
    header = ("", "MB", *(f"ms, {tokens} tokens" for tokens in TOKENS[: len(gain) - 1]))
    print(table(header, [(name, *row.values()) for name, row in rows.items()] + [("times smaller, faster", *gain)]))
    bits = activation_bits()
    where = f"{small.config.int8} kernels, activations in {bits} bits, {torch.get_num_threads()} threads"
    print(f"kept in {arguments.output} ({where}); evaluate it")
    record = {"model": arguments.model, "engine": small.config.int8, "activation bits": bits}
    record |= {"machine": describe(device), "rows": rows}
    write_json(arguments.output / "quantization.json", record)
