"""Each benchmark beside other libraries (tests/peers) in its smallest form. They need the extra `peers`."""

import importlib.util
import os
import subprocess
import sys

import pytest

from data_scripts import make_sample
from kd_scratch.checkpoints.checkpoint import save_model
from kd_scratch.data.tokenizer import train_tokenizer
from kd_scratch.tasks import TASKS
from tests.conftest import ROOT, TEXTS, tiny_model

#: benchmark -> the other libraries that it needs, its flags, and what it prints at the end
SMALLEST = {
    "distillation": (["accelerate"], "--model MODEL --layers 0,2 --rows 64 --steps 2 --test DATA/ag_news_csv/test.csv",
                     "accuracy on test"),
    "distillation, questions": (["accelerate"], "--task squad --file DATA/squad/train.json --test DATA/squad/dev.json "
                                "--model MODEL --size minilm-l3 --layers 0 --rows 8 --steps 2", "f1 on test"),
    "memory": (["accelerate"], "--model MODEL --size tiny-teacher --layers 0,2", "Trainer, gradient checkpointing"),
    "featurizing": (["datasets"], "--model MODEL --data squad/dev.json --rounds 1 --questions 20", "20 questions, "),
    "inference": (["onnx", "onnxruntime"], "--sizes tiny-teacher tiny-student --shapes 1x8 --rounds 1",
                  "transformers' teacher / our student int8"),
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a tiny classifier of news and samples of news and of questions."""
    folder = tmp_path_factory.mktemp("peers")
    make_sample.make_agnews(folder / "data", rows=300)
    make_sample.make_squad(folder / "data", rows=40)
    tokenizer = train_tokenizer(TEXTS, vocab_size=120)
    labels = TASKS["agnews"].label_list([])
    save_model(tiny_model(labels=labels, vocab_size=tokenizer.vocab_size, max_positions=128), folder / "model")
    tokenizer.save(folder / "model", max_length=128)
    return folder


@pytest.mark.parametrize("name", SMALLEST)
def test_each_benchmark_runs_in_its_smallest_form(name, files):
    libraries, flags, expected = SMALLEST[name]
    name = name.split(",")[0]
    missing = [library for library in libraries if importlib.util.find_spec(library) is None]
    if missing:
        why = f"tests/peers/{name}.py needs {', '.join(missing)}: pip install -e '.[peers]'"
        (pytest.fail if os.environ.get("KD_REQUIRE_PEERS") else pytest.skip)(why)
    flags = flags.replace("MODEL", str(files / "model")).replace("DATA", str(files / "data")).split()
    environment = os.environ | {"KD_DATA": str(files / "data"), "HF_HUB_OFFLINE": "1"}
    argv = [sys.executable, "-m", f"tests.peers.{name}", *flags]
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert expected in done.stdout
