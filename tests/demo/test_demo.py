"""The demo's answers, site and page: what each model answers, hostile texts, what the page may do, an attack."""

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import load_model, megabytes, save_model
from kd_scratch.commands import demo
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.demo import server
from kd_scratch.demo.answers import USES
from kd_scratch.demo.protocol import content_policy, parse_body
from kd_scratch.demo.site import make_site, open_groups
from kd_scratch.demo.worker import compute
from kd_scratch.evaluation.evaluate import load_for_inference
from kd_scratch.evaluation.predict import classify, find_answers, find_entities
from kd_scratch.nn.int8 import quantize
from kd_scratch.pages import html
from kd_scratch.tasks.spans import split_words
from tests.conftest import ROOT, TEXTS, tiny_model

CPU = torch.device("cpu")
DATA = DataConfig(overlap=8, question_length=10)
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
LONG = " ".join(TEXTS)  # does not fit into one window of 32 pieces
SHORT = "the final of the fox"  # does
HTML = (ROOT / "kd_scratch" / "demo" / "demo.html").read_text()


def save_tiny(folder, tokenizer, name: str, head: str | None, max_length: int = 32, int8: bool = False, **shape) -> str:
    """A tiny model's directory."""
    model = tiny_model(head, vocab_size=tokenizer.vocab_size, max_positions=max(40, max_length), **shape)
    save_model(quantize(model) if int8 else model, folder / name)
    tokenizer.save(folder / name, max_length=max_length)
    return str(folder / name)


@pytest.fixture(scope="session")
def models(tmp_path_factory, tokenizer) -> list[tuple[str, str]]:
    """NAME, DIR of tiny models of every head, some of them int8; two sets of labels to classify by."""
    folder = tmp_path_factory.mktemp("models")
    named = []
    for head, labels in (("span", ()), ("token", TAGS), ("sequence", ("no", "yes", "maybe"))):
        for seed, name in enumerate(("teacher", "distilled", "int8")):
            int8 = name == "int8"
            place = save_tiny(folder, tokenizer, f"{head}-{name}", head, labels=labels, seed=seed, int8=int8)
            named.append((name, place))
    other = dict(labels=("yes", "maybe", "no"), model_type="distilbert", token_types=0)
    named.append(("reordered", save_tiny(folder, tokenizer, "reordered", "sequence", **other)))
    named.append(("teacher", save_tiny(folder, tokenizer, "news", "sequence", labels=("trade", "sport"))))
    return named


@pytest.fixture(scope="session")
def groups(models):
    """The same, opened."""
    return open_groups(models, CPU)


@pytest.fixture(scope="session")
def site(groups):
    """What the command serves."""
    return make_site(groups, DATA)


def post(site, name: str, **values) -> tuple[int, dict]:
    """Status and JSON of an answer, from the bytes of a body to those of the answer."""
    choices, function = site.functions[f"/api/{name}"]
    try:
        reply, _ = compute(function, parse_body(json.dumps(values).encode(), choices))
    except UserError as error:
        return 400, {"error": str(error)}
    return reply.status, json.loads(reply.body)


def answered(site, name: str, **values) -> dict[str, dict]:
    """The models' answers by name."""
    status, reply = post(site, name, **values)
    assert status == 200, reply
    return {model["name"]: model for model in reply["models"]}


# --- groups ---


def test_models_are_grouped_by_head_and_set_of_labels(groups, models):
    assert {name: list(group.models) for name, group in groups.items()} == {
        "answer": ["teacher", "distilled", "int8"],
        "entities": ["teacher", "distilled", "int8"],
        "classify": ["teacher", "distilled", "int8", "reordered"],
        "classify-2": ["teacher"],
    }
    entry = groups["answer"].models["int8"]
    assert entry.loaded.model.config.int8 and entry.megabytes == megabytes(dict(models[:3])["int8"])


def test_types_of_entities_are_those_of_the_scheme_however_it_is_written(tmp_path, tokenizer):
    labels = ("O", "PER-B", "PER-I", "[CLS]", "X")
    found = make_site(open_groups([("a", save_tiny(tmp_path, tokenizer, "a", "token", labels=labels))], CPU), DATA)
    assert found.json["/api/models"]["groups"][0]["types"] == ["PER"]


def test_the_page_gets_a_list_of_what_is_served(site):
    served = site.json["/api/models"]["groups"]
    assert [group["title"] for group in served] == [
        "Ask a question", "Mark entities", "Classify a text: 3 labels", "Classify a text: 2 labels",
    ]  # fmt: skip
    assert [group["path"] for group in served] == ["/api/answer", "/api/entities", "/api/classify", "/api/classify"]
    assert served[3]["labels"] == ("trade", "sport") and served[0]["labels"] == ()
    assert served[1]["types"] == ["LOC", "PER"] and served[0]["types"] == served[2]["types"] == []
    teacher = served[0]["models"][0]
    assert (teacher["name"], teacher["depth"], teacher["heads"], teacher["int8"]) == ("teacher", 3, 2, False)
    assert teacher["parameters"] > 1000 and served[0]["models"][2]["int8"]
    for group in served:
        assert 2 <= len(group["examples"]) <= 3
        for example in group["examples"]:
            assert example.keys() == {"name", *group["fields"]} and all(example.values())
    assert json.dumps(served)


def test_a_name_is_used_once_in_a_group(models):
    with pytest.raises(UserError, match="this name has another model of the same task"):
        open_groups([models[0], models[0]], CPU)


@pytest.mark.parametrize("head", [None, "mlm"])
def test_a_pre_training_head_is_refused(tmp_path, tokenizer, head):
    with pytest.raises(UserError, match="has no head for a task; demo needs a model trained for a task"):
        open_groups([("a", save_tiny(tmp_path, tokenizer, "bare", head))], CPU)


def test_a_model_that_cannot_answer_is_refused_before_anything_is_served(tmp_path, tokenizer):
    model = tiny_model("sequence", vocab_size=tokenizer.vocab_size)
    model.head.classifier.bias.data[0] = float("inf")
    save_model(model, tmp_path / "broken")
    tokenizer.save(tmp_path / "broken", max_length=32)
    for named, why in (
        (("b", str(tmp_path / "broken")), "b: the model gives logits that are not finite"),
        (("t", save_tiny(tmp_path, tokenizer, "tags", "token", labels=("yes", "no"))), "tags: .* not tags of entities"),
    ):
        with pytest.raises(UserError, match=why):
            make_site(open_groups([named], CPU), DATA)


def test_an_int8_model_stays_on_the_cpu_wherever_the_others_are(models):
    entry = open_groups([models[2]], torch.device("meta"))["answer"].models["int8"]
    assert entry.device == CPU


# --- answers: those of predict ---


@pytest.mark.parametrize("text", [TEXTS[0], LONG, "木 é 😀", "\x00\x01"])
def test_labels_are_those_of_predict(site, models, text):
    found = answered(site, "classify", group="classify", text=text)
    for name, directory in models[6:10]:
        expected = classify(load_for_inference(directory), CPU, text)
        assert [(row["label"], row["probability"]) for row in found[name]["labels"]] == list(expected.items())
        assert found[name]["milliseconds"] > 0 and found[name]["megabytes"] == megabytes(directory)


def test_only_the_best_labels_are_given(tmp_path, tokenizer):
    labels = tuple(map(str, range(9)))
    site = make_site(open_groups([("a", save_tiny(tmp_path, tokenizer, "m", "sequence", labels=labels))], CPU), DATA)
    found = answered(site, "classify", group="classify", text="a")["a"]["labels"]
    assert len(found) == 5 and found == sorted(found, key=lambda row: -row["probability"])


@pytest.mark.parametrize("text", [TEXTS[1], LONG, "Ada\x00 木 é😀 (U.S.)", "\x01 a"])
def test_entities_are_those_of_predict(site, models, text):
    found = answered(site, "entities", group="entities", text=text)
    for name, directory in models[3:6]:
        expected = find_entities(load_for_inference(directory), text, DATA, CPU)
        assert found[name]["entities"] == expected
    assert any(model["entities"] for model in found.values()) or len(text) < 20


@pytest.mark.parametrize("context", [TEXTS[2], LONG, "木 é😀 é", "\x00\x01", "a"])
def test_answers_are_those_of_predict(site, models, context):
    found = answered(site, "answer", group="answer", question="who saved it?", context=context)
    for name, directory in models[:3]:
        [expected] = find_answers(load_for_inference(directory), ["who saved it?"], context, DATA, CPU)
        nothing = [answer for answer in expected if (answer.start, answer.end) == (0, 0)]
        spans = [answer for answer in expected if answer not in nothing]
        names = ("text", "start", "end", "probability")
        assert found[name]["answers"] == [{key: getattr(answer, key) for key in names} for answer in spans]
        assert [found[name]["no_answer"]] == [answer.probability for answer in nothing]
        assert len(spans) == 5 or len(context) < 12


# --- under the text ---


def text_of(text: str, piece: dict) -> str | None:
    """The slice of the text that a piece stands for."""
    return None if piece["start"] is None else text[piece["start"] : piece["end"]]


def test_pieces_of_a_classified_text_are_slices_of_it(site):
    pieces = answered(site, "classify", group="classify", text=TEXTS[0])["teacher"]["pieces"]
    assert [piece["piece"] for piece in (pieces[0], pieces[-1])] == ["[CLS]", "[SEP]"]
    assert text_of(TEXTS[0], pieces[0]) is None and text_of(TEXTS[0], pieces[-1]) is None
    assert [text_of(TEXTS[0], piece) for piece in pieces[1:-1]] == [p["piece"].lstrip("#") for p in pieces[1:-1]]


def test_each_words_first_piece_has_its_tag(site, groups):
    text = LONG
    models = answered(site, "entities", group="entities", text=text).values()
    found = next(model for model in models if model["entities"])
    assert found["window"] == 1 < found["windows"]
    pieces, words = found["pieces"], split_words(text)
    assert [text_of(text, piece) for piece in pieces[1:-1]] == [p["piece"].lstrip("#") for p in pieces[1:-1]]
    tagged = [piece for piece in pieces if piece["tag"] is not None]
    starts = [start for start, _ in words]
    assert [piece["start"] for piece in tagged] == starts[: len(tagged)] and len(tagged) > 4
    assert all(0 < piece["probability"] <= 1 for piece in tagged)
    known = {piece["start"]: piece["tag"] for piece in tagged}
    entity = found["entities"][0]
    assert known[entity["start"]][2:] == entity["type"]
    assert {piece["probability"] for piece in pieces if piece["tag"] is None} == {None}


def test_a_word_without_pieces_has_a_place_and_a_tag(site):
    pieces = answered(site, "entities", group="entities", text="a \x01 b")["teacher"]["pieces"]
    assert [(piece["piece"], piece["start"], piece["end"]) for piece in pieces[1:-1]] == [
        ("a", 0, 1), ("[UNK]", 2, 3), ("b", 4, 5),
    ]  # fmt: skip
    assert all(piece["tag"] for piece in pieces[1:-1])


@pytest.mark.parametrize("context", [SHORT, LONG])
def test_the_window_with_the_best_answer_is_shown_with_starts_and_ends(site, context):
    for model in answered(site, "answer", group="answer", question="who?", context=context).values():
        pieces, best = model["pieces"], model["answers"][0]
        assert model["windows"] > 1 if context is LONG else model["windows"] == 1
        starts = {piece["start"]: piece["start_probability"] for piece in pieces if piece["start"] is not None}
        ends = {piece["end"]: piece["end_probability"] for piece in pieces if piece["end"] is not None}
        assert best["start"] in starts and best["end"] in ends
        for column in ("start_probability", "end_probability"):
            known = [piece[column] for piece in pieces if piece[column] is not None]
            assert sum(known) == pytest.approx(1, abs=1e-4) and len(known) == len(starts) + 1
        assert pieces[0]["start_probability"] is not None and pieces[1]["start_probability"] is None
        within = [text_of(context, piece) for piece in pieces if piece["start"] is not None]
        assert within == [p["piece"].lstrip("#") for p in pieces if p["start"] is not None]
        if context is SHORT:  # one window: both are softmaxes of the same sums
            chances = [starts[answer["start"]] * ends[answer["end"]] for answer in model["answers"]]
            ratio = chances[0] / best["probability"]
            assert chances == pytest.approx([ratio * answer["probability"] for answer in model["answers"]], rel=1e-2)


ASKED = {
    "classify": {"text": TEXTS[0]},
    "entities": {"text": TEXTS[0]},
    "answer": {"question": "who?", "context": TEXTS[2]},
}


@pytest.mark.parametrize("name", ["teacher", "int8"])
@pytest.mark.parametrize("group", ASKED)
def test_attention_is_the_models_own(site, groups, models, group, name):
    """By the plain form of the model, not the fast one that is served."""
    directory = dict(models[{"answer": 0, "entities": 3, "classify": 6}[group] :][:3])[name]
    model = load_model(directory)
    for layer in (1, 3):
        status, reply = post(site, "attention", group=group, model=name, layer=layer, **ASKED[group])
        assert status == 200, reply
        size = len(reply["pieces"])
        shown = answered(site, group, group=group, **ASKED[group])[name]["pieces"]
        assert [piece["piece"] for piece in shown] == reply["pieces"]
        ids = [groups[group].models[name].loaded.tokenizer.backend.token_to_id(piece) for piece in reply["pieces"]]
        first_sep = reply["pieces"].index("[SEP]") + 1
        types = torch.tensor([[int(group == "answer" and i >= first_sep) for i in range(size)]])
        with torch.inference_mode():
            own = model(torch.tensor([ids]), token_type_ids=types, output_attentions=True).attentions[layer - 1][0]
        assert len(reply["maps"]) == 1 + model.config.heads
        for found, expected in zip(reply["maps"], [own.mean(dim=0), *own], strict=True):
            weights = np.array(found["weights"]).reshape(size, size)
            assert weights.min() >= 0 and (weights.max(axis=1) == 255).all()
            largest = np.array(found["largest"])[:, None]
            assert np.abs(weights / 255 * largest - expected.numpy()).max() < 0.005


def test_attention_of_a_long_input_is_refused(tmp_path, tokenizer):
    place = save_tiny(tmp_path, tokenizer, "long", "sequence", max_length=300)
    site = make_site(open_groups([("long", place)], CPU), DATA)
    asked = {"group": "classify", "model": "long", "layer": 1}
    assert post(site, "attention", text="a " * 254, **asked)[0] == 200
    status, reply = post(site, "attention", text="a " * 255, **asked)
    assert (
        status == 400 and "text: attention is shown for inputs of up to 256 pieces, this one has 257" in reply["error"]
    )


# --- hostile requests ---

REFUSED = {
    "an empty text": ("classify", {"group": "classify", "text": ""}, "text: is empty"),
    "spaces": ("entities", {"group": "entities", "text": " \n\u2003"}, "text: is empty"),
    "an empty question": ("answer", {"group": "answer", "question": "", "context": "a"}, "question: is empty"),
    "an empty context": ("answer", {"group": "answer", "question": "a", "context": ""}, "context: is empty"),
    "half a character": ("classify", {"group": "classify", "text": "\ud800"}, "text: holds half a character"),
    "a long text": ("classify", {"group": "classify", "text": "a" * 20_001}, "at most 20,000 are taken"),
    "a long question": ("answer", {"group": "answer", "question": "a" * 2001, "context": "a"}, "at most 2,000"),
    "a number": ("classify", {"group": "classify", "text": 10**400}, "text: must be a text"),
    "a list": ("entities", {"group": "entities", "text": ["a"]}, "text: must be a text"),
    "another key": ("classify", {"group": "classify", "text": "a", "model": "b"}, "model: there is no such key"),
    "no group": ("classify", {"text": "a"}, "group: is missing"),
    "a strange group": ("classify", {"group": "<script>", "text": "a"}, "group: there is no '<script>' here, but"),
    "another task's group": ("entities", {"group": "classify", "text": "a"}, "group: there is no 'classify' here"),
    "a strange model": ("attention", {"group": "classify", "model": "x", "layer": 1, "text": "a"}, "model: there is"),
    "layer 0": ("attention", {"group": "classify", "model": "teacher", "layer": 0, "text": "a"}, "has layers 1 to 3"),
    "a layer too many": ("attention", {"group": "classify", "model": "teacher", "layer": 4, "text": "a"}, "1 to 3"),
    "a huge layer": ("attention", {"group": "classify", "model": "int8", "layer": 10**300, "text": "a"}, "1 to 3"),
    "half a layer": ("attention", {"group": "classify", "model": "int8", "layer": 1.5, "text": "a"}, "whole number"),
    "another task's texts": (
        "attention",
        {"group": "answer", "model": "teacher", "layer": 1, "text": "a"},
        "question: is missing, answer needs it",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_is_refused_in_one_line_that_names_the_key(site, case):
    name, values, fragment = REFUSED[case]
    status, reply = post(site, name, **values)
    assert status == 400 and fragment in reply["error"] and "\n" not in reply["error"], reply


@pytest.mark.parametrize(
    "text",
    ["<script>alert(1)</script>", "[CLS] [SEP] [MASK]", "\u202e\u0000\u200b", "a\u0301" * 900, "木" * 999, "!?" * 999],
)
def test_any_text_is_answered(site, text):
    for group in ("classify", "entities"):
        for model in answered(site, group, group=group, text=text).values():
            assert all(text[e["start"] : e["end"]] == e["entity"] for e in model.get("entities", []))
    for model in answered(site, "answer", group="answer", question=text[:2000], context=text).values():
        assert all(text[a["start"] : a["end"]] == a["text"] for a in model["answers"])


def test_a_question_that_leaves_no_room_names_the_model_and_the_cure(groups):
    site = make_site(groups, DataConfig(question_length=64))
    status, reply = post(site, "answer", group="answer", question="a " * 40, context="b")
    assert status == 400 and reply["error"].startswith("teacher: question 1: inputs of 32 pieces leave no room")


# --- the page ---


def test_the_pages_blocks_are_those_that_the_policy_allows(site):
    assert html.STYLE in site.page and "/* the house style */" not in site.page
    policy = content_policy(site.page)
    assert len(re.findall("sha256-[A-Za-z0-9+/]{43}=", policy)) == 2 and "unsafe" not in policy
    assert site.page.count("<script") == site.page.count("<script>") == 1
    assert site.page.count("<style") == site.page.count("<style>") == 1


def test_the_page_puts_no_data_in_as_html_and_loads_nothing():
    for word in (
        "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "srcdoc", "DOMParser",
        "createContextualFragment", "setHTML", "import(", "XMLHttpRequest", "http:", "https:", "url(", "@import",
        "localStorage", "document.cookie", "target=",
    ):  # fmt: skip
        assert word not in HTML, word
    markup = re.sub("<(script|style)>.*?</", "</", HTML, flags=re.DOTALL)
    assert not re.search(r"\s(on\w+|style|src|action)\s*=", markup)
    assert re.findall(r"<link[^>]*>", markup) == ['<link rel="icon" href="data:,">']
    assert not re.search(r"<(img|iframe|object|embed|base|form|a)\b", markup)


def test_the_page_asks_for_paths_that_are_served_and_ids_that_exist(site):
    asked = set(re.findall(r'"(/api/\w+)"', HTML))
    assert asked == {"/api/models", "/api/attention"} <= site.functions.keys() | site.json.keys()
    assert set(re.findall(r"^  (\w+): \{$", HTML, re.M)) == {use.name for use in USES.values()}
    for name in re.findall(r'getElementById\("(\w+)"\)', HTML):
        assert f'id="{name}"' in HTML


# --- the command ---


def flags(models) -> list[str]:
    """Those of a small demo."""
    return ["demo", "--models", *(f"{name}={place}" for name, place in models), "--device", "cpu", "--threads", "1"]


def get(port: int, path: str) -> tuple[int, bytes]:
    """What a browser gets."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    client.request("GET", path)
    reply = client.getresponse()
    return reply.status, reply.read()


def test_the_command_serves_until_a_signal_and_ends_with_0(models, capfd, monkeypatch):
    seen, ports = [], []

    def listen(port):
        listener = server.listen(port)
        ports.append(listener.getsockname()[1])
        return listener

    def visit():
        try:
            while not ports:
                time.sleep(0.02)
            seen.extend([get(ports[0], "/"), get(ports[0], "/api/models")])  # connections wait until it serves
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # SIGINT is ignored by what runs in the background

    monkeypatch.setattr(demo, "listen", listen)
    visitor = threading.Thread(target=visit, daemon=True)
    visitor.start()
    status = main([*flags(models[:3]), "--port", "0", "--overlap", "8", "--question-length", "8"])
    visitor.join(30)
    out = capfd.readouterr().out
    assert status == 0 and out.startswith(f"open http://127.0.0.1:{ports[0]}/ in your browser; Ctrl-C ends it\n")
    assert re.search(r"^answer +distilled +[\d.]+ +3 +-$", out, re.M) and out.endswith("\nstopped\n")
    (found, html), (_, models_json) = seen
    assert found == 200 and html.decode().startswith("<!doctype html>")
    assert [model["name"] for model in json.loads(models_json)["groups"][0]["models"]] == [
        "teacher",
        "distilled",
        "int8",
    ]


def test_mistakes_are_one_line_and_2(models, tmp_path, tokenizer, capsys):
    bare = save_tiny(tmp_path, tokenizer, "bare", None)
    for argv, why in (
        ([*flags([("a", bare)]), "--port", "0"], "no head for a task"),
        ([*flags([("a", str(tmp_path / "none"))]), "--port", "0"], "no such model directory"),
        ([*flags(models[:1]), "--port", "99999"], "--port 99999: must be between 0"),
    ):
        assert main(argv) == 2
        out, err = capsys.readouterr()
        assert why in err and err.count("\n") == 1 and out == ""
    with pytest.raises(SystemExit) as caught:
        main(["demo", "--models", "teacher"])
    assert caught.value.code == 2 and "is not NAME=DIR" in capsys.readouterr().err


# --- an attack ---


def resident(process: int) -> float:
    """Megabytes of memory that a process has (VmRSS)."""
    with open(f"/proc/{process}/status") as file:
        return int(re.search(r"VmRSS:\s+(\d+) kB", file.read())[1]) / 1000


async def exchange(port: int, text: str, more: str = "") -> int:
    """The status of an answer to a question about a text; 0: the connection was lost."""
    body = json.dumps({"group": "answer", "question": "who saved it?", "context": text}).encode()
    head = (
        f"POST /api/answer HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n{more}\r\n"
    )
    writer = None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode() + body)
        reply = await reader.read()
        return int(reply[9:12] or 0)
    except OSError:
        return 0
    finally:
        if writer:
            writer.close()


async def slow_client(port: int) -> None:
    """Sends a byte now and then, for ever; connects anew when it is thrown out."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            while not reader.at_eof():
                writer.write(b"G")
                await writer.drain()
                await asyncio.sleep(0.5)
        except OSError:
            await asyncio.sleep(0.1)


async def large_client(port: int) -> bytes:
    """Declares a gigabyte and begins to send it; the answer's first line."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        f"POST /api/answer HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {1 << 30}\r\n\r\n".encode()
    )
    writer.write(bytes(1 << 20))
    line = await reader.readline()
    writer.close()
    return line


async def attack(port: int, most: int, seconds: float) -> tuple[list[int], list[float], bytes]:
    """200 slow clients, a body of a gigabyte, `most` quick questions from 50 clients, and more for some seconds. The
    page asks meanwhile, again after a second where it is refused. Their statuses; the seconds that the page waits."""
    slow = [asyncio.create_task(slow_client(port)) for _ in range(200)]
    await asyncio.sleep(0.5)
    large = asyncio.create_task(large_client(port))
    end = time.perf_counter() + seconds
    statuses, waits = [], []

    def going_on() -> bool:
        return len(statuses) < most or time.perf_counter() < end

    async def quick() -> None:
        while going_on():
            statuses.append(await exchange(port, f"{TEXTS[len(statuses) % 4]} {len(statuses)}"))

    async def visitor() -> None:
        while going_on():
            begin = time.perf_counter()
            while await exchange(port, f"{LONG} {len(waits)}", f"Origin: http://127.0.0.1:{port}\r\n") != 200:
                await asyncio.sleep(1)
            waits.append(time.perf_counter() - begin)
            await asyncio.sleep(0.05)

    await asyncio.gather(visitor(), *(quick() for _ in range(50)))
    for task in slow:
        task.cancel()
    return statuses, waits, await large


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux shows the memory of a process")
def test_under_attack_an_honest_visitor_is_answered_and_memory_stays(models):
    command = [sys.executable, "-m", "kd_scratch", *flags(models), "--port", "0", "--overlap", "8"]
    command += ["--question-length", "8"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        try:
            port = int(re.search(r":(\d+)/", process.stdout.readline())[1])
            assert all(asyncio.run(exchange(port, f"{LONG} {i} {i}")) == 200 for i in range(3))  # warm
            before = resident(process.pid)
            statuses, waits, large = asyncio.run(attack(port, 1000, 2))
            grown = resident(process.pid) - before
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    summary = f"the page: {len(waits)} answers, longest {max(waits):.2f} s; others: {statuses.count(200)} answered, "
    print(summary + f"{statuses.count(503)} refused; {grown:+.1f} MB")
    assert large == b"HTTP/1.1 413 Request Entity Too Large\r\n"
    assert len(statuses) >= 1000 and set(statuses) == {200, 503}
    assert len(waits) > 1 and max(waits) < 2 and grown < 50
    assert process.returncode == 0 and out.endswith("stopped\n") and err == ""
