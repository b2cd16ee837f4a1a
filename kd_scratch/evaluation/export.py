"""A model directory's model for other runtimes, in a folder that explains itself."""

from pathlib import Path

from kd_scratch.checkpoints import onnx_folder
from kd_scratch.evaluation.evaluate import LoadedModel
from kd_scratch.pages.card import write_card


def export_onnx(loaded: LoadedModel, output: Path, precisions: tuple[str, ...] = ()) -> dict:
    """Write a model, not in its fast form, as a folder of ONNX files with a card; what was written (onnx_folder.py)."""
    about = loaded.model, loaded.tokenizer, loaded.max_length
    record = onnx_folder.export_onnx(*about, output, precisions, str(loaded.directory))
    write_card(output, [loaded.directory])
    return record
