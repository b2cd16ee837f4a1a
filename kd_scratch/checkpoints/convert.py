"""A model directory in, the same model as one model.safetensors out, with the small files that stand beside it."""

from pathlib import Path

from kd_scratch.checkpoints.checkpoint import require_model_directory
from kd_scratch.checkpoints.safetensors import save_file
from kd_scratch.checkpoints.weight_files import PICKLED, WEIGHTS, load_weights, weight_files
from kd_scratch.common.console import say
from kd_scratch.common.files import check_new_folder, make_folder, open_file, write_atomically

KEPT = (".json", ".txt", ".model", ".md")  # config.json, the tokenizer's files, the model card
INDICES = (f"{WEIGHTS}.index.json", f"{PICKLED}.index.json")


def convert(directory: Path, output: Path, say=say) -> dict:
    """Write a model directory again with its weights in model.safetensors, and return what was written and left out.

    Every tensor keeps its name, type and values, whatever model it belongs to. What is there under two names (tied
    weights) is written under both: only the model's class knows whether it may leave one out. Files of KEPT are copied
    byte for byte, folders and others are left out. The weights come last: a folder without them is no model yet.
    UserError where `directory` is no model directory, or `output` holds something.
    """
    require_model_directory(directory)
    check_new_folder(output)
    tensors, sources = load_weights(directory, say), weight_files(directory)
    make_folder(output)
    copied, left_out = [], []
    for path in sorted(directory.iterdir()):
        if path in sources or path.name in INDICES or path.name.startswith("."):
            continue
        if path.suffix in KEPT and path.is_file():
            with open_file(path) as file:
                write_atomically(output / path.name, [file.read()])
            copied.append(path.name)
        else:
            left_out.append(path.name)
    save_file(tensors, output / WEIGHTS, metadata={"format": "pt"})
    return {
        "from": [path.name for path in sources],
        "tensors": len(tensors),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "copied": copied,
        "left_out": left_out,
    }
