"""Exported folders in a real browser: its library for such folders, with ONNX Runtime, answers what we answer.

Needs Chromium and npm, which fetches two packages (35 MB); skipped without them, failed if KD_REQUIRE_NPM is set.
"""

import functools
import http.server
import json
import os
import shutil
import subprocess
import tarfile
import threading

import pytest
import torch

import kd_scratch
from kd_scratch.checkpoints.checkpoint import save_model
from tests.conftest import KINDS, TEXTS, tiny_model

pytestmark = pytest.mark.usefixtures("as_many_bits_as_a_graph")
LIBRARY = "@huggingface/transformers@4.3.2"
PAGE = """<!doctype html><link rel="icon" href="data:,"><script type="module">
import {pipeline, env} from '/library/package/dist/transformers.min.js';
env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = '/';
env.backends.onnx.wasm.wasmPaths = '/runtime/package/dist/';
window.ask = async (task, folder, dtype, question, options) => {
  const model = await pipeline(task, folder, {dtype, device: 'wasm'});
  const started = performance.now();
  const answer = await model(...question, options);
  return {answer, milliseconds: performance.now() - started};
};
window.ready = true;
</script>"""


def fetched(package: str, folder) -> dict:
    """A package of npm, unpacked into a folder, and what it tells about itself. Skips where it cannot be had."""
    npm = shutil.which("npm")
    done = npm and subprocess.run([npm, "pack", package, "--silent"], cwd=folder.parent, capture_output=True, text=True)
    if not npm or done.returncode:
        why = f"npm cannot fetch {package}: {done.stderr.strip()[-300:]}" if npm else "there is no npm here"
        (pytest.fail if os.environ.get("KD_REQUIRE_NPM") else pytest.skip)(why)
    with tarfile.open(folder.parent / done.stdout.split()[-1]) as archive:
        archive.extractall(folder, filter="data")
    return json.loads((folder / "package" / "package.json").read_text())


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, by the types that a browser wants."""

    extensions_map = {
        ".html": "text/html",
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".json": "application/json",
        ".wasm": "application/wasm",
        "": "application/octet-stream",
    }

    def log_message(self, *arguments):
        """Nothing is printed."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a page may ask for: itself, the library, the runtime."""
    folder = tmp_path_factory.mktemp("site")
    needed = fetched(LIBRARY, folder / "library")["dependencies"]
    fetched(f"onnxruntime-web@{needed['onnxruntime-web']}", folder / "runtime")
    (folder / "page.html").write_text(PAGE)
    return folder


@pytest.fixture(scope="module")
def page(browser, folder):
    """The page, open; it must not print an error."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page, errors = browser.new_page(), []
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(f"http://127.0.0.1:{server.server_port}/page.html")
        page.wait_for_function("window.ready", timeout=60_000)
        yield page
        page.close()
        server.shutdown()
        assert not errors


def ask(page, *arguments):
    """What the library in the page answers."""
    found = page.evaluate("a => window.ask(...a)", list(arguments))
    assert 0 < found["milliseconds"] < 60_000
    return found["answer"]


@pytest.fixture
def exported(folder, tokenizer):
    """A function: makes a model of some head, exports it, and gives its directory and that of the export's name."""

    def make(head, labels=("no", "yes", "maybe"), **shape):
        name = f"{head}-{len(list(folder.iterdir()))}"
        model = folder.parent / f"{folder.name}-{name}"
        save_model(tiny_model(head, labels, vocab_size=tokenizer.vocab_size, **shape), model)
        tokenizer.save(model, max_length=32)
        kd_scratch.quantize(model, f"{model}-int8")
        kd_scratch.export_onnx(f"{model}-int8", folder / f"{name}-q")
        kd_scratch.export_onnx(model, folder / name, ["float32", "float16", "int8"])
        return f"{model}-int8", model, name

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_gets_the_same_label_and_probability(kind, page, exported):
    small, model, name = exported("sequence", **KINDS[kind])
    for place, folder, dtype in (
        (small, f"{name}-q", "q8"),
        (small, name, "q8"),
        (model, name, "fp32"),
        (model, name, "fp16"),
    ):
        for text in (TEXTS[0], "the moon"):
            wanted = kd_scratch.predict(place, [text], device="cpu")[text]
            found = ask(page, "text-classification", folder, dtype, [text], {"top_k": None})
            assert [row["label"] for row in found] == list(wanted)
            assert [row["score"] for row in found] == pytest.approx(list(wanted.values()), abs=1e-3)


def test_answers_and_tags_are_the_same(page, exported):
    small, _, name = exported("span")
    [answer, *_] = kd_scratch.predict(small, questions=["who jumps?"], context=TEXTS[0], device="cpu")["who jumps?"]
    found = ask(page, "question-answering", f"{name}-q", "q8", ["who jumps?", TEXTS[0]], {})
    assert found["answer"] == answer["answer"]
    small, _, name = exported("token", labels=("O", "B-PER", "I-PER"))
    encoding = kd_scratch.load_tokenizer(small).encode([TEXTS[0]])[0]
    with torch.no_grad():
        best = kd_scratch.load_model(small)(torch.tensor([encoding.ids])).logits[0].argmax(-1).tolist()[1:-1]
    found = ask(page, "token-classification", f"{name}-q", "q8", [TEXTS[0]], {})
    wanted = [(i, ("O", "B-PER", "I-PER")[tag]) for i, tag in enumerate(best, start=1) if tag]
    assert [(row["index"], row["entity"]) for row in found] == wanted and len(wanted) > 2
