"""The files that hold a model directory's weights: which there are, and their tensors."""

from pathlib import Path

from torch import Tensor

from kd_scratch.checkpoints.safetensors import load_file
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import read_json

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def load_weights(directory: Path) -> dict[str, Tensor]:
    """All tensors of a model directory under the names they have in the file; from one file or from shards."""
    if (directory / WEIGHTS).is_file():
        return load_file(directory / WEIGHTS)
    if (directory / INDEX).is_file():
        return _load_shards(directory)
    pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in directory.glob(pattern))
    if pickles:
        raise UserError(
            f"{directory / pickles[0]}: a pickle can run code when opened and is never read here; convert it once with "
            "transformers, where you trust it: AutoModel.from_pretrained(DIR).save_pretrained(NEW_DIR)"
        )
    raise UserError(f"{directory}: has no {WEIGHTS}")


def weight_files(directory: Path) -> list[Path]:
    """The files that hold a model's weights."""
    single = directory / WEIGHTS
    return [single] if single.is_file() else [directory / shard for shard in _shards(directory)]


def _shards(directory: Path) -> dict[str, set[str]]:
    """File name of each shard -> the names of the parameters in it, from the index."""
    index = read_json(directory / INDEX)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise UserError(f"{directory / INDEX}: has no weight_map of parameter names to file names")
    shards: dict[str, set[str]] = {}
    for name, shard in sorted(weight_map.items()):
        if Path(shard).name != shard or "\\" in shard or shard.startswith(".") or (directory / shard).is_symlink():
            raise UserError(f"{directory / INDEX}: {shard!r:.200} is not a plain file name in this directory")
        shards.setdefault(shard, set()).add(name)
    return shards


def _load_shards(directory: Path) -> dict[str, Tensor]:
    tensors = {}
    for shard, claimed in _shards(directory).items():
        path = directory / shard
        part = load_file(path)
        if part.keys() != claimed:
            raise UserError(f"{path}: holds other parameters than {INDEX} lists: {listed(part.keys() ^ claimed)}")
        tensors |= part
    return tensors


def listed(names, most: int = 12) -> str:
    """Names in one line, the rest counted."""
    names = sorted(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
