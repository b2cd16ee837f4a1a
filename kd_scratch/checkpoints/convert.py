"""A model directory in, the same model as one model.safetensors out: the same tensors, and all files beside them."""

from pathlib import Path

from kd_scratch.checkpoints.safetensors import save_file
from kd_scratch.checkpoints.weight_files import PICKLED, WEIGHTS, load_weights, weight_files
from kd_scratch.common.console import say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_new_folder, make_folder, open_file, write_atomically

KEPT = (".json", ".txt", ".model", ".md")  # config.json, the tokenizer's files, the model card
INDICES = (f"{WEIGHTS}.index.json", f"{PICKLED}.index.json")


def convert(directory: Path, output: Path, say=say) -> dict:
    """Write a model directory again with its weights in model.safetensors, and return what was written.

    Every tensor keeps its name, type and values, whatever model it belongs to. What is there under two names (tied
    weights) is written under both: only the model's class knows whether it may leave one out. Files beside the weights
    are copied byte for byte. UserError where `directory` is no model directory, or `output` holds something.
    """
    if not (directory / "config.json").is_file():
        raise UserError(f"{directory}: is not a model directory, it has no config.json")
    check_new_folder(output)
    tensors = load_weights(directory, say)
    make_folder(output)
    save_file(tensors, output / WEIGHTS, metadata={"format": "pt"})
    copied = []
    for path in sorted(directory.iterdir()):
        if path.suffix in KEPT and path.is_file() and path.name not in INDICES:
            with open_file(path) as file:
                write_atomically(output / path.name, [file.read()])
            copied.append(path.name)
    return {
        "from": [path.name for path in weight_files(directory)],
        "tensors": len(tensors),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "copied": copied,
    }
