"""A model directory in, the same model as one model.safetensors out, with the small files that stand beside it."""

from collections.abc import Collection
from pathlib import Path

from kd_scratch.checkpoints.checkpoint import CONFIG, require_model_directory
from kd_scratch.checkpoints.own_head import CLASSES, UNDECIDED, completed, wrapper_prefix
from kd_scratch.checkpoints.safetensors import save_file
from kd_scratch.checkpoints.weight_files import PICKLED, WEIGHTS, load_weights, weight_files
from kd_scratch.common.console import say
from kd_scratch.common.errors import UserError, printable
from kd_scratch.common.files import (
    OF_A_MODEL,
    check_new_folder,
    leads_out,
    make_folder,
    open_file,
    read_json,
    write_atomically,
    write_json,
)

KEPT = (".json", ".txt", ".model", ".md")  # config.json, the tokenizer's files, the model card
INDICES = (f"{WEIGHTS}.index.json", f"{PICKLED}.index.json")


def convert(directory: Path, output: Path, say=say) -> dict:
    """Write a model directory again with its weights in model.safetensors, and return what was written and left out.

    Every tensor keeps its name (but for what a wrapper put before all of them), type and values, whatever model it
    belongs to. What is there under two names (tied weights) is written under both: only the model's class knows
    whether it may leave one out. Files of KEPT are copied byte for byte, but for what config.json lacks; folders,
    links to files elsewhere and others are left out. The weights come last: a folder without them is no model yet.
    `say` gets a note of each thing that is written in another way. UserError where `directory` is no model directory,
    where one of a model's own files is a link to elsewhere, or `output` holds something.
    """
    require_model_directory(directory)
    check_new_folder(output, directory)
    tensors, sources = load_weights(directory, say), weight_files(directory)
    prefix, config = wrapper_prefix(tensors), completed_config(directory, tensors, say)
    if prefix:
        say(f"{directory}: the names of all parameters begin with {prefix!r}, which is left out")
    if outside := next((path for path in map(directory.joinpath, OF_A_MODEL) if leads_out(path)), None):
        raise UserError(f"{outside}: is a link to a file elsewhere; put the file in its place")
    make_folder(output)
    copied, left_out = [], []
    for path in sorted(directory.iterdir()):
        if path in sources or path.name in INDICES or path.name.startswith("."):
            continue
        if leads_out(path):
            say(printable(f"note: {path}: is a link to a file elsewhere, and not copied"))
            left_out.append(path.name)
        elif path.name == CONFIG and config is not None:
            write_json(output / CONFIG, config)
            copied.append(CONFIG)
        elif path.suffix in KEPT and path.is_file():
            with open_file(path) as file:
                write_atomically(output / path.name, [file.read()])
            copied.append(path.name)
        else:
            left_out.append(path.name)
    tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    save_file(tensors, output / WEIGHTS, metadata={"format": "pt"})
    return {
        "from": [path.name for path in sources],
        "tensors": len(tensors),
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "copied": copied,
        "left_out": left_out,
    }


def completed_config(directory: Path, names: Collection[str], say) -> dict | None:
    """The content of config.json with what it lacks and the parameters' names tell; None where it stays as it is.

    Two keys that `transformers` looks for: model_type and architectures. What is not decided is left open.
    """
    found = read_json(directory / CONFIG)
    if not isinstance(found, dict) or (found.get("model_type") is not None and found.get("architectures")):
        return None
    try:
        raw, notes = completed(found, names, str(directory / CONFIG))
    except UserError:  # another kind of model, of which the parameters tell nothing
        return None
    if raw["model_type"] not in tuple(CLASSES) or raw["architectures"][0].endswith(UNDECIDED):
        return None
    for note in notes:
        say(note)
    return raw
