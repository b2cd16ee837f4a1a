"""Shared by all tests: a tiny model and tokenizer made on the spot, and where the real data files are."""

import os
import resource
import shlex
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

import kd_scratch.evaluation.compare
from kd_scratch.checkpoints.checkpoint import save_model
from kd_scratch.common import console, device, timing
from kd_scratch.config import SIZES, KernelConfig, ModelConfig
from kd_scratch.data.tokenizer import train_tokenizer
from kd_scratch.distillation.units import unit_labels, unit_logits
from kd_scratch.nn import int8, kernels
from kd_scratch.nn.model import Model

ROOT = Path(__file__).parents[1]
TINY = ModelConfig(vocab_size=120, width=16, depth=3, heads=2, feed_forward=32, max_positions=40)
TEXTS = [
    "the quick brown fox jumps over the lazy dog, again and again",
    "shares of the brewery rose nine percent after a quarterly report",
    "the goalkeeper saved a penalty in the last minute of the final",
    "a probe sent back pictures of the frozen moon; scientists cheered",
]
TORTURE = bool(os.environ.get("KD_TORTURE"))  # `make torture`: the long versions of tests that have one
tqdm.monitor_interval = 0  # tests fork: a thread that holds a lock just then would hold it in the child for ever
timing.SQUARE["cpu"] = 64  # each training run measures the rate of matrix products: half a second otherwise
# What kernels.py finds of this machine is not for the user's programs.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()
HAS_BF16, device.HAS_BF16 = device.HAS_BF16, ()  # --amp auto is off on every processor: all see the same numbers
os.environ.setdefault("OMP_NUM_THREADS", "1")  # in processes that tests start; tests run side by side
# `make` in a test is nobody's sub-make: it prints no directories, and `make test ARGS=…` gives it no ARGS.
GIVEN = [word.partition("=")[0] for word in shlex.split(os.environ.get("MAKEFLAGS", "").partition(" -- ")[2])]
for name in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", *GIVEN):
    os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def as_a_new_process():
    """One thread, since with tiny tensors others only get in the way; and notes are printed. A command that an earlier
    test has run may have set both otherwise.
    """
    torch.set_num_threads(1)
    console.hush(False)
    kernels.use(KernelConfig(kernels="exact"))


@pytest.fixture
def as_many_bits_as_a_graph(monkeypatch):
    """Activations in 8 bits, as ONNX files have them, on processors without VNNI too, where a model rounds to 7."""
    monkeypatch.setattr(int8, "activation_bits", lambda: 8)


#: Kinds of shapes that every part of the program takes. A layer with a choice of its own gets a line here.
KINDS = {
    "bert": {},
    "distilbert": dict(model_type="distilbert", token_types=0),
    "scratch": dict(model_type="kd_scratch", token_types=0, positions="sinusoidal"),
    "scratch pre-norm": dict(model_type="kd_scratch", norm_first=True, activation="relu"),
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def real_data():
    """A function: name of a real data file -> its path. Skips where it is absent, fails if KD_REQUIRE_DATA is set."""

    def find(name: str) -> Path:
        for folder in (os.environ.get("KD_DATA"), ROOT / "data", ROOT.parent / "shared" / "data"):
            if folder and (Path(folder) / name).is_file():
                return Path(folder) / name
        if os.environ.get("KD_REQUIRE_DATA"):
            pytest.fail(f"KD_REQUIRE_DATA is set, but {name} is in none of the data folders")
        pytest.skip(f"real data file {name} is not here (KD_DATA names its folder)")

    return find


@pytest.fixture(scope="session")
def tokenizer():
    """A WordPiece tokenizer of at most 120 pieces, learned from TEXTS."""
    return train_tokenizer(TEXTS, vocab_size=120)


def tiny_model(head: str | None = "sequence", labels=("no", "yes", "maybe"), seed: int = 0, **shape):
    """A random model, 16 numbers wide, in eval mode. Weights are larger than BERT's, so that outputs really differ."""
    torch.manual_seed(seed)
    labels = labels if head in ("sequence", "token") else ()
    model = Model(replace(TINY, **{"init_std": 0.3, **shape}, head=head, labels=labels))
    for parameter in model.parameters():  # biases and norms too: zeros and ones would hide mistakes
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=float(parameter[0].detach()), std=0.1)
    return model.eval()


@pytest.fixture
def no_memory_processes(monkeypatch):
    """`compare` without the processes in which it measures memory, three seconds for each model."""
    monkeypatch.setattr(kd_scratch.evaluation.compare, "peak_memory", lambda *arguments: 123.0)


@pytest.fixture
def one_memory_process(monkeypatch):
    """`compare` measures the memory of its first model only, and shows that of all."""
    real, found = kd_scratch.evaluation.compare.peak_memory, []

    def peak_memory(*arguments):
        if not found:
            found.append(real(*arguments))
        return found[0]

    monkeypatch.setattr(kd_scratch.evaluation.compare, "peak_memory", peak_memory)


@pytest.fixture(scope="module")
def small_scratch():
    """The size scratch-small, four times as narrow as it is."""
    narrow = replace(SIZES["scratch-small"], width=96, heads=4, feed_forward=192)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(SIZES, "scratch-small", narrow)
        yield


@pytest.fixture
def model_directory(tmp_path, tokenizer):
    """A saved tiny classifier with its tokenizer."""
    directory = tmp_path / "model"
    save_model(tiny_model(vocab_size=tokenizer.vocab_size), directory)
    tokenizer.save(directory, max_length=32)
    return directory


def units(head: str, logits: torch.Tensor, batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits and the labels of a batch's units: U,K and U."""
    return unit_logits(head, logits, batch), unit_labels(head, batch)


@pytest.fixture
def hardly_any_memory():
    """64 MB more than is in use now: whoever believes a lying header gets a MemoryError."""
    statm = Path("/proc/self/statm")
    before = resource.getrlimit(resource.RLIMIT_AS)
    if statm.exists():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
