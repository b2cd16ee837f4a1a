"""Files of tensors as memory: a private mapping, and tensors that are views of it. Both file formats read so."""

import mmap
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from kd_scratch.common.errors import UserError


@contextmanager
def naming(path: str | Path, error_class: type[UserError], verdict: str) -> Iterator[None]:
    """Turn an error of the steps inside into one line that names the file."""
    try:
        yield
    except OSError as error:
        raise error_class(f"{path}: cannot be read: {error.strerror}; check the path and its rights") from None
    except (ValueError, RecursionError) as error:
        raise error_class(f"{path}: {verdict}: {error}") from None


def map_file(path: str | Path) -> mmap.mmap:
    """A regular file's bytes, read when first used; changing them changes this mapping only. ValueError, OSError."""
    if not stat.S_ISREG(Path(path).stat().st_mode):  # before opening: a pipe would wait for its writer
        raise ValueError("a folder or device, not a regular file")
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    if mapped[:8] == b"version ":
        raise ValueError("is a Git LFS pointer, not the file itself; fetch that with: git lfs pull")
    return mapped


def bytes_as_tensor(mapped: mmap.mmap, start: int, stop: int, alignment: int) -> Tensor:
    """The bytes of a mapping as uint8 numbers, a view that keeps the mapping alive; a copy where they lie unaligned."""
    if start == stop:  # frombuffer knows no empty tensors
        return torch.empty(0, dtype=torch.uint8, device="cpu")
    flat = torch.frombuffer(mapped, dtype=torch.uint8, count=stop - start, offset=start)
    return flat.clone() if start % alignment else flat


def require_booleans(flat: Tensor, name: str) -> None:
    """ValueError where a byte is neither 0 nor 1: torch would count it as true and yet not as equal to true."""
    if flat.numel() and flat.max() > 1:
        raise ValueError(f"tensor {name!r:.200}: a BOOL byte is neither 0 nor 1")
