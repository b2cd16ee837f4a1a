"""The files that hold a model directory's weights: which there are, their tensors, and where they come from."""

import re
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from kd_scratch.checkpoints import safetensors, torch_pickle
from kd_scratch.common.console import say
from kd_scratch.common.errors import UserError, printable
from kd_scratch.common.files import read_json

WEIGHTS, PICKLED = "model.safetensors", "pytorch_model.bin"
#: Name of the one file -> its reader, in the order of the search. Where there are shards, NAME.index.json lists them.
READERS: dict[str, Callable] = {
    WEIGHTS: lambda path, say: safetensors.load_file(path),
    PICKLED: torch_pickle.load_file,
}
OTHERS = {"tf_model.h5": "from_tf=True", "flax_model.msgpack": "from_flax=True"}  # and how transformers 4 opens them
NO_WEIGHTS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth")
LONGEST_NAME = 1000  # of a parameter, in characters
SHARD = re.compile(r".*-\d{5}-of-\d{5}\.\w+")


def way_from_hub(directory: Path) -> str:
    """How a model of the hub comes here, in brackets, where a missing folder has a name like one; else ""."""
    hub = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", str(directory)) and not directory.parent.is_dir()
    hub = hub or re.fullmatch(r"(distil)?bert-[\w.-]+", str(directory))
    return f" (one of the hub comes with `make weights MODEL={directory}`)" if hub else ""


def load_weights(directory: Path, say=say) -> dict[str, Tensor]:
    """All tensors of a model directory under the names they have in the file; from one file or from shards.

    `say` gets a note of what a file holds beside them. Raises UserError.
    """
    load, parts = _parts(directory)
    tensors = {}
    for path, claimed in parts.items():
        part = load(path, say)
        if claimed is not None and part.keys() != claimed:
            raise UserError(f"{path}: holds other parameters than the index lists: {listed(part.keys() ^ claimed)}")
        tensors |= part
    longest = max(map(len, tensors), default=0)
    if longest > LONGEST_NAME:
        raise UserError(f"{directory}: a name of a parameter has {longest:,} characters, at most {LONGEST_NAME}")
    return tensors


def weight_files(directory: Path) -> list[Path]:
    """The files that hold a model's weights; UserError where there are none."""
    return list(_parts(directory)[1])


def _parts(directory: Path) -> tuple[Callable, dict[Path, set[str] | None]]:
    """How a directory's weights are read, and its files with the parameters that the index claims (None: no index)."""
    for name, load in READERS.items():
        if (directory / name).is_file():
            return load, {directory / name: None}
        if (directory / f"{name}.index.json").is_file():
            return load, _shards(directory / f"{name}.index.json")
    raise UserError(f"{directory}: has no {' and no '.join(READERS)}{_other_weights(directory)}")


def _other_weights(directory: Path) -> str:
    """What to do with the weights that are there instead, where there are any."""
    for pattern in ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt"):
        for path in sorted(directory.glob(pattern)):
            if path.name not in NO_WEIGHTS:
                name = WEIGHTS if path.suffix == ".safetensors" else PICKLED
                if SHARD.fullmatch(path.name):
                    return f"; {path.name} is one of several; fetch {name}.index.json, too"
                return f"; if {path.name} holds the weights of this model, rename it to {name}"
    for name, how in OTHERS.items():
        if (directory / name).is_file():
            return (
                f"; {name} is not read, but transformers 4 makes weights of PyTorch from it, in place: "
                f"CLASS.from_pretrained(DIR, {how}).save_pretrained(DIR), with the CLASS that config.json names under "
                "architectures"
            )
    return ""


def _shards(index_file: Path) -> dict[Path, set[str]]:
    """Each shard -> the names of the parameters in it, from the index."""
    index = read_json(index_file)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise UserError(f"{index_file}: has no weight_map of parameter names to file names")
    shards: dict[Path, set[str]] = {}
    for name, shard in sorted(weight_map.items()):
        if not shard or Path(shard).name != shard or "\\" in shard or shard.startswith("."):
            raise UserError(f"{index_file}: {shard!r:.200} is not a plain file name in this directory")
        shards.setdefault(index_file.with_name(shard), set()).add(name)
    return shards


def listed(names, most: int = 12) -> str:
    """Names in one line, the rest counted."""
    names = sorted(names)
    return printable(", ".join(names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
