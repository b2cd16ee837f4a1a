"""Arrays on disk: they may be larger than memory, and vanish with the process that made them."""

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from kd_scratch.common.errors import DiskError


class Names(Sequence):
    """N strings in two arrays: their UTF-8 bytes, end to end, and where each begins (N+1)."""

    def __init__(self, text: np.ndarray, starts: np.ndarray):
        self.text = text
        self.starts = starts

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i: int) -> str:
        i = range(len(self))[i]
        return self.text[self.starts[i] : self.starts[i + 1]].tobytes().decode()


class DiskArray:
    """An array that grows at its end, in a file without a name that vanishes with it."""

    def __init__(self, folder: Path, dtype, row: tuple[int, ...] = ()):
        self.folder = folder
        self.dtype = np.dtype(dtype)
        self.row = row
        with _writing(folder):
            self.file = tempfile.TemporaryFile(dir=folder)

    def append(self, values: np.ndarray) -> None:
        """Add rows."""
        with _writing(self.folder):
            self.file.write(np.ascontiguousarray(values, self.dtype).data)

    def array(self) -> np.ndarray:
        """All rows, memory-mapped."""
        with _writing(self.folder):
            self.file.flush()
        size = self.file.tell() // self.dtype.itemsize
        if size == 0:  # which cannot be mapped
            return np.empty((0, *self.row), self.dtype)
        # "c": torch wants to be able to write, though nobody does
        return np.memmap(self.file, self.dtype, "c", shape=(size,)).reshape(-1, *self.row)


def zeros_on_disk(folder: Path, shape: tuple[int, ...], dtype) -> np.ndarray:
    """Zeros, memory-mapped onto a file without a name that vanishes with them. UserError where the disk is full."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size == 0:  # which cannot be mapped
        return np.zeros(shape, dtype)
    with _writing(folder), tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # now, with an error: a full disk that is met through memory is a crash
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, dtype, "w+", shape=shape)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn the system's error, where the disk cannot be written, into a DiskError of one line."""
    try:
        yield
    except OSError as error:
        raise DiskError(f"{folder}: cannot be written to: {error.strerror}; choose another --cache") from None
