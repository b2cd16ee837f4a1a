"""A model directory as a folder of ONNX files, for ONNX Runtime and browsers. `python -m kd_scratch export`"""

import argparse
from pathlib import Path

from kd_scratch.checkpoints.onnx_folder import FILES, own_precision
from kd_scratch.common.console import say, show, table
from kd_scratch.evaluation.evaluate import load_for_inference
from kd_scratch.evaluation.export import export_onnx

FORMATS = ("onnx",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `export`."""
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="of the files (default onnx)")
    parser.add_argument("--model", required=True, metavar="DIR", help="a model directory, float or int8")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where the folder of ONNX files goes")
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=tuple(FILES),
        default=(),
        help="one file for each: float32, float16 (half the size, computed in float32), int8 (a float model is "
        "quantized first); default: the model's own",
    )


def command(arguments: argparse.Namespace) -> dict:
    """`export`: open, write, a table of the files."""
    loaded = load_for_inference(arguments.model, fast=False)
    precisions = tuple(arguments.precision) or own_precision(loaded.model.config)
    say(f"writing {loaded.describe()} to {arguments.output} as ONNX, in {' and '.join(precisions)}")
    record = export_onnx(loaded, arguments.output, precisions)
    rows = [(" ".join(row["files"]), name, row["bytes"] / 1e6, row["nodes"]) for name, row in record["files"].items()]
    show(table(("", "precision", "MB", "nodes"), rows))
    if "int8" in precisions:
        option = 'its session option session.x64quantprecision is "1", as in the code of the card'
        say(f"note: on x86 processors without VNNI, int8 overflows in ONNX Runtime unless {option}")
    say(f"inputs {', '.join(record['inputs'])}; outputs {', '.join(record['outputs'])}; opset {record['opset']}")
    return record
