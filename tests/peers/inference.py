"""Latency of one forward pass: ours against `transformers` (sdpa) and ONNX Runtime, float32 and int8; sizes on disk.

    make bench-peers PEER=inference ARGS="--rounds 15"

A BERT-base-shaped teacher and a DistilBERT-base-shaped student with random weights are written to disk, and all sides
open the same files, ONNX Runtime by way of an export of the `transformers` model, and of our own. The script checks
that the float sides give the same logits. Then all sides take turns, shape by shape; every turn is a pause, in which
the others' threads go to sleep, one call that is not timed, and two that are. Figures are medians; a ratio is the
median of the rounds' ratios, since the machine's speed drifts from round to round.
"""

import argparse
import contextlib
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from kd_scratch.checkpoints.checkpoint import load_model, megabytes, save_model
from kd_scratch.checkpoints.onnx_format import save_graph
from kd_scratch.checkpoints.onnx_graph import graph_of
from kd_scratch.commands.flags import shape_list
from kd_scratch.common.console import progress, table
from kd_scratch.common.device import describe
from kd_scratch.common.files import write_json
from kd_scratch.config import SIZES
from kd_scratch.evaluation.benchmark import SHAPES, floor, machine_rates
from kd_scratch.nn import int8, kernels
from kd_scratch.nn.fast import TOLERANCE, make_fast
from kd_scratch.nn.model import Model

LABELS = tuple(f"intent {i}" for i in range(150))  # CLINC150's number of classes
PAUSE = 0.25  # seconds: ONNX Runtime's threads stay awake for 60 ms or so, and would slow whoever comes next
TIMED = 2  # calls of each turn


def make_models(folder: Path, teacher: str, student: str) -> None:
    """teacher, student (of these sizes) and int8: three model directories."""
    torch.manual_seed(0)
    for name, size in (("teacher", teacher), ("student", student)):
        save_model(Model(replace(SIZES[size], head="sequence", labels=LABELS)).eval(), folder / name)
    save_model(int8.quantize(load_model(folder / "student")), folder / "int8")


def exported(model: torch.nn.Module, path: Path) -> Path:
    """A `transformers` model as an ONNX file that takes any batch size and length."""

    class Plain(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    ids, axes = torch.ones(2, 8, dtype=torch.int64), {0: "batch", 1: "tokens"}
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Plain().eval(), (ids, ids), path, dynamo=False, opset_version=17,
            input_names=["input_ids", "attention_mask"], output_names=["logits"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "logits": {0: "batch"}},
        )  # fmt: skip
    return path


def session(path: Path, threads: int, spinning: bool) -> Callable:
    """An ONNX file as a function of token ids, with all of the library's own graph optimizations.

    On x86 processors without VNNI its int8 sums would overflow, unless it is told to take exact ones.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    loaded = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in loaded.get_inputs()]

    def call(ids: torch.Tensor) -> np.ndarray:
        inputs = {"input_ids": ids.numpy(), "attention_mask": np.ones_like(ids.numpy())}
        return loaded.run(None, {name: inputs.get(name, np.zeros_like(ids.numpy())) for name in names})[0]

    return call


def our_models(folder: Path) -> dict[str, Model]:
    """Our side of what is timed, by name."""
    names = {"teacher": "teacher, ours", "student": "student, ours", "int8": "student int8, ours"}
    return {side: make_fast(load_model(folder / name)) for name, side in names.items()}


def our_sides(models: dict[str, Model]) -> dict[str, Callable]:
    """name -> a function of token ids B,S that gives the logits B,C"""
    return {side: lambda ids, model=model: model(ids).logits.numpy() for side, model in models.items()}


def other_sides(folder: Path, threads: int, spinning: bool) -> dict[str, Callable]:
    """The other libraries' sides of what is timed."""
    import transformers
    from onnxruntime.quantization import QuantType, quantize_dynamic

    transformers.logging.set_verbosity_error()
    calls = {}
    for name in ("teacher", "student"):
        reference = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder / name, attn_implementation="sdpa"
        ).eval()
        onnx = exported(reference, folder / f"{name}.onnx")
        calls[f"{name}, transformers"] = lambda ids, model=reference: model(ids).logits.numpy()
        calls[f"{name}, ONNX Runtime"] = session(onnx, threads, spinning)
    for directory, name in (("teacher", "teacher"), ("student", "student"), ("int8", "student-int8")):
        model = load_model(folder / directory)
        save_graph(graph_of(model.config, int8.to_tensors(model)), folder / f"{name}-ours.onnx", {})
        side = f"{name.replace('-', ' ')}, our export"
        calls[side] = session(folder / f"{name}-ours.onnx", threads, spinning)
    quantize_dynamic(folder / "student.onnx", folder / "student-int8.onnx", weight_type=QuantType.QInt8)
    calls["student int8, ONNX Runtime"] = session(folder / "student-int8.onnx", threads, spinning)
    return calls


def check(calls: dict[str, Callable]) -> None:
    """The float sides compute the same function, to the precision of our weights; the int8 sides nearly."""
    near = TOLERANCE["exact" if not any("half" in kernel for _, kernel, _ in kernels.choices()) else "half"]
    ids = torch.randint(1000, 30000, (2, 24), generator=torch.Generator().manual_seed(1))
    for name, call in calls.items():
        expected = calls[f"{name.split(',')[0].split()[0]}, ours"](ids)
        far = np.abs(call(ids) - expected).max() / np.abs(expected).max()
        assert far < (0.2 if "int8" in name else near), f"{name}: logits differ by {far:.2g} of the largest"


def timed(calls: dict[str, Callable], shape: tuple[int, int], rounds: int) -> dict[str, np.ndarray]:
    """Milliseconds of each call of each side, all sides in turns."""
    ids = torch.randint(1000, 30000, shape, generator=torch.Generator().manual_seed(0))
    times = {name: [] for name in calls}
    for _ in progress(range(rounds), desc="{} x {}".format(*shape)):
        for name, call in calls.items():
            time.sleep(PAUSE)
            call(ids)
            for _ in range(TIMED):
                started = time.perf_counter()
                call(ids)
                times[name].append(1000 * (time.perf_counter() - started))
    return {name: np.array(values) for name, values in times.items()}


@torch.inference_mode()
def main(argv: list[str] | None = None) -> None:
    """Make, check, time, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sizes = ["bert-base", "distilbert-base"]
    parser.add_argument("--sizes", nargs=2, choices=list(SIZES), default=sizes, metavar=("TEACHER", "STUDENT"))
    parser.add_argument("--shapes", type=shape_list, default=SHAPES)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--no-spinning", action="store_true", help="ONNX Runtime: threads that wait for work leave the processor alone"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    logging.getLogger().setLevel(logging.ERROR)  # the quantizer's advice to preprocess, which changes nothing here
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_models(folder, *arguments.sizes)
        models = our_models(folder)
        calls = our_sides(models) | other_sides(folder, arguments.threads, not arguments.no_spinning)
        check(calls)
        sizes = {"ours": {name: megabytes(folder / name) for name in ("teacher", "student", "int8")}}
        for side, ending in (("onnx", ""), ("our export", "-ours")):
            paths = {name: folder / f"{name}{ending}.onnx" for name in ("teacher", "student", "student-int8")}
            sizes[side] = {name: path.stat().st_size / 1e6 for name, path in paths.items()}
    print(table(("MB on disk", "teacher", "student", "student int8"), [(n, *row.values()) for n, row in sizes.items()]))
    print(f"our int8 student is {1 - sizes['ours']['int8'] / sizes['ours']['teacher']:.1%} smaller than the teacher")
    rates = machine_rates()
    results = {f"{b} x {s}": timed(calls, (b, s), arguments.rounds) for b, s in arguments.shapes}
    medians = [(name, *(np.median(row[name]) for row in results.values())) for name in calls]
    for model, (name, size) in zip(models.values(), sizes["ours"].items(), strict=True):
        medians.append((f"floor, {name}", *(floor(model, 1e6 * size, shape, rates) for shape in arguments.shapes)))
    print(table(("median ms", *results), medians))
    ratios = {
        "teacher: our export / export of transformers": ("teacher, our export", "teacher, ONNX Runtime"),
        "teacher: ours / transformers": ("teacher, ours", "teacher, transformers"),
        "student: ours / transformers": ("student, ours", "student, transformers"),
        "teacher: ours / ONNX Runtime": ("teacher, ours", "teacher, ONNX Runtime"),
        "student: ours / ONNX Runtime": ("student, ours", "student, ONNX Runtime"),
        "student int8: ours / ONNX Runtime": ("student int8, ours", "student int8, ONNX Runtime"),
        "student: our export / export of transformers": ("student, our export", "student, ONNX Runtime"),
        "student int8: our export / export of transformers": ("student int8, our export", "student int8, ONNX Runtime"),
        "our teacher / our student int8": ("teacher, ours", "student int8, ours"),
        "transformers' teacher / our student int8": ("teacher, transformers", "student int8, ours"),
    }
    lines = [(name, *(np.median(row[a] / row[b]) for row in results.values())) for name, (a, b) in ratios.items()]
    print(table(("ratio", *results), lines))
    product, reading = rates.operations_per_second / 1e9, rates.bytes_per_second / 1e9
    print(f"sgemm {product:.0f} GFLOP/s, memory {reading:.1f} GB/s; {describe(torch.device('cpu'))}")
    print(f"ours by {', '.join(sorted({kernel for _, kernel, _ in kernels.choices()}))}")
    versions = f"onnxruntime {version('onnxruntime')}, transformers {version('transformers')}"
    print(f"{int8.describe(models.values())}; {versions}")
    if arguments.output:
        times = {shape: {name: list(values) for name, values in row.items()} for shape, row in results.items()}
        write_json(arguments.output, {"megabytes": sizes, "milliseconds": times})


if __name__ == "__main__":
    main()
