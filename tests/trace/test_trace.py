"""The guided tour: every number of it against the same number worked out again, where it points, and bad input."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import load_model, save_model
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig, TrainConfig
from kd_scratch.data.batches import collate
from kd_scratch.data.tokenizer import train_tokenizer
from kd_scratch.distillation.hidden_losses import HIDDEN_LOSSES, BothQKV, HiddenLoss, all_qkv, make_hidden_losses
from kd_scratch.distillation.layer_map import blocks
from kd_scratch.evaluation.evaluate import evaluate, load_for_inference
from kd_scratch.evaluation.inference import compute_logits
from kd_scratch.nn.int8 import quantize
from kd_scratch.nn.layers import (
    FeedForwardBlock,
    InputEmbeddings,
    LayerNormalization,
    MultiHeadAttention,
    PositionalEncoding,
    ResidualConnection,
    attention,
    split_heads,
)
from kd_scratch.nn.model import Model, SequenceHead
from kd_scratch.tasks import TASKS
from kd_scratch.tasks.question_answering import candidates
from kd_scratch.trace import losses, trace
from kd_scratch.trace.stages import agree, near, number, where
from kd_scratch.trace.steps import embedding_stage, walk_through
from kd_scratch.trace.trail import CPU
from tests.conftest import ROOT, TEXTS, tiny_model

SHAPES = {
    "bert": {},
    "distilbert": dict(model_type="distilbert", token_types=0, activation="gelu_new"),
    "scratch": dict(model_type="kd_scratch", token_types=0, positions="sinusoidal", activation="relu"),
    "pre-norm": dict(model_type="kd_scratch", norm_first=True, norm_epsilon=1e-5),
}
LABELS = {
    "csv": ("no", "yes", "maybe"),
    "clinc": ("no", "yes", "maybe"),
    "conll": ("O", "B-LOC", "I-LOC", "B-PER", "I-PER"),
    "squad": (),
}
HEADS = {"csv": "sequence", "clinc": "sequence", "conll": "token", "squad": "span"}
CONTEXT = "a probe sent back pictures of the frozen moon; scientists cheered"


@pytest.fixture
def make(tmp_path, tokenizer):
    """A function: task -> flags for a student of two blocks and a teacher of three, whose labels are turned round."""

    def saved(task, shape=None, teacher_labels=None, max_length=32, **both):
        labels = LABELS[task]
        shapes = {
            "student": dict(depth=2, seed=1, labels=labels),
            "teacher": dict(labels=teacher_labels or labels[::-1]),
        }
        flags = ["--task", task, "--threads", "1"]
        for flag, (name, own) in zip(("--model", "--teacher"), shapes.items(), strict=True):
            own = {"vocab_size": tokenizer.vocab_size, **own, **SHAPES[shape or "bert"], **both}
            save_model(tiny_model(HEADS[task], **own), tmp_path / name)
            tokenizer.save(tmp_path / name, max_length=max_length)
            flags += [flag, tmp_path / name]
        return flags

    return saved


@pytest.fixture
def data(tmp_path):
    """A function: task -> the flags that name a small file for it."""

    def write(task):
        path = tmp_path / f"data-{task}"
        if task == "csv":
            path.write_text(f'label,text\nno,"{TEXTS[0]}"\nyes,"{TEXTS[1]}"\nmaybe,dog\n')
        elif task == "clinc":
            path.write_text(json.dumps({"test": [["a fox", "yes"]], "oos_test": [["a moon", "oos"]]}))
        elif task == "conll":
            words = [("quick", "O"), ("brown", "O"), ("goalkeeper", "B-PER"), ("jumps", "I-PER"), ("moon", "B-LOC")]
            more = [("the", "O"), ("dog", "O")]
            lines = [[f"{word} {tag}" for word, tag in sentence] for sentence in (words, more, words, more)]
            path.write_text("-DOCSTART- O\n\n" + "\n\n".join("\n".join(part) for part in lines) + "\n")
        else:
            answer = {"text": "the frozen moon", "answer_start": CONTEXT.index("the frozen moon")}
            questions = [
                {"id": "q-moon", "question": "pictures of the moon", "answers": [answer]},
                {"id": "q-all", "question": "the dog", "answers": [{"text": CONTEXT, "answer_start": 0}]},
            ]
            path.write_text(json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": questions}]}]}))
        return ["--data", path]

    return write


def run(capsys, *argv) -> tuple[int, str, str]:
    """Exit status, stdout, stderr."""
    status = main(["trace", *map(str, argv)])
    out, err = capsys.readouterr()
    return status, out, err


class Tour:
    """What was printed, by stage: its paragraphs on one line, and its tables as lists of rows (header first)."""

    def __init__(self, out: str):
        parts = re.split(r"\n\d+\. (.+)\n-+\n", out)
        self.first, self.text, self.tables, self.code = parts[0], {}, {}, {}
        for title, body in zip(parts[1::2], parts[2::2], strict=True):
            self.code[title] = re.findall(r"^(?:code:|     ) (\S+:\d+ \S+)$", body, re.M)
            blocks = {block: bool(re.search(r"^-[- ]*$", block, re.M)) for block in body.split("\n\n")}
            self.text[title] = " ".join(" ".join(block.split()) for block, is_table in blocks.items() if not is_table)
            self.tables[title] = [self.table(block) for block, is_table in blocks.items() if is_table]

    @staticmethod
    def table(block: str) -> list[list[str]]:
        lines = block.strip("\n").split("\n")
        rule = next(i for i, line in enumerate(lines) if re.fullmatch(r"[- ]+", line))
        places = [found.span() for found in re.finditer("-+", lines[rule])]
        rows = [lines[rule - 1], *lines[rule + 1 :]]
        return [[line[a:b].strip() for a, b in places] for line in rows]

    def rows(self, title: str, which: int = 0) -> dict[str, list[float]]:
        """A table's rows by name (the last one of a name), numbers only."""
        return {
            row[0]: [float(cell) for cell in row[1:] if re.fullmatch(r"-?[\d.]+(e[+-]\d+)?", cell)]
            for row in self.tables[title][which][1:]
        }


def near_to(expected, places: int = 1):
    """Printed with six digits, computed in float32."""
    return pytest.approx(np.asarray(expected, float), rel=places * 2e-5, abs=places * 4e-6)


# --- an independent computation, in float64, one number after another ---


def softmax(scores):
    top = max(scores)
    powers = [math.exp(score - top) for score in scores]
    return np.array([power / sum(powers) for power in powers])


def norm(layer, x, epsilon):
    """x: D"""
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    weight, bias = (layer[name] for name in ("weight", "bias"))
    return np.array(
        [(v - mean) / math.sqrt(variance + epsilon) * w + b for v, w, b in zip(x, weight, bias, strict=True)]
    )


def activate(kind, a):
    if kind == "relu":
        return np.maximum(a, 0)
    if kind == "gelu_new":
        return np.array([v / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in a])
    return np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in a])


class LongHand:
    """A model over one input, position by position."""

    def __init__(self, model: Model, ids, types):
        self.config, self.weights = model.config, {k: v.double().numpy() for k, v in model.state_dict().items()}
        c = self.config
        self.positions = model.positions.weight.detach().double().numpy()
        scale = math.sqrt(c.width) if c.positions == "sinusoidal" else 1
        self.word = [self.weights["embeddings.word.weight"][i] * scale for i in ids]
        kinds = [self.weights["embeddings.token_type.weight"][t] for t in types] if c.token_types else [0] * len(ids)
        self.summed = [w + p + k for w, p, k in zip(self.word, self.positions, kinds, strict=False)]
        x = [norm(self.part("embedding_norm"), v, c.norm_epsilon) for v in self.summed]
        self.states, self.hidden_losses = [np.array(x)], []
        for i in range(c.depth):
            self.hidden_losses.append(self.block(f"encoder.blocks.{i}.", self.states[-1]))
            self.states.append(self.hidden_losses[-1]["out"])
        if c.norm_first:
            self.states[-1] = np.array(
                [norm(self.part("encoder.final_norm"), v, c.norm_epsilon) for v in self.states[-1]]
            )
        self.logits = self.head(self.states[-1])

    def part(self, name):
        return {key: self.weights[f"{name}.{key}"] for key in ("weight", "bias") if f"{name}.{key}" in self.weights}

    def linear(self, name, x):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def block(self, name, x):
        c, found = self.config, {}

        def around(residual, x, y):
            total = x + y
            layer = self.part(f"{name}{residual}.norm")
            return total if c.norm_first else np.array([norm(layer, v, c.norm_epsilon) for v in total])

        def before(residual, x):
            layer = self.part(f"{name}{residual}.norm")
            return np.array([norm(layer, v, c.norm_epsilon) for v in x]) if c.norm_first else x

        seen = before("attention_residual", x)
        q, k, v = (self.linear(f"{name}attention.{part}", seen) for part in ("query", "key", "value"))
        width, heads = c.width // c.heads, []
        maps = []
        for h in range(c.heads):
            part = slice(h * width, (h + 1) * width)
            scores = q[:, part] @ k[:, part].T / math.sqrt(width)
            maps.append(np.array([softmax(row) for row in scores]))
            heads.append(maps[-1] @ v[:, part])
            found.setdefault("scores", scores)
        y = self.linear(f"{name}attention.output", np.concatenate(heads, axis=1))
        middle = around("attention_residual", x, y)
        normed = before("feed_forward_residual", middle)
        inner = self.linear(f"{name}feed_forward.inner", normed)
        active = np.array([activate(c.activation, row) for row in inner])
        outer = self.linear(f"{name}feed_forward.outer", active)
        out = around("feed_forward_residual", middle, outer)
        return found | dict(
            seen=seen, q=q, k=k, v=v, maps=np.array(maps), heads=heads[0], y=y, middle=middle, normed=normed,
            inner=inner, active=active, outer=outer, out=out,
        )  # fmt: skip

    def head(self, x):
        if self.config.head == "sequence":
            squash = (lambda a: np.maximum(a, 0)) if self.config.model_type == "distilbert" else np.tanh
            self.pooled = squash(self.linear("head.pooler", x[:1]))
            return self.linear("head.classifier", self.pooled)
        return self.linear("head.classifier", x)


def encoded(tokenizer, task, example=0) -> tuple[list[int], list[int], int]:
    """Ids and token types of the files' first input, and the position that is followed."""
    if task == "csv":
        ids = tokenizer.encode([TEXTS[example]])[0].ids
        return ids, [0] * len(ids), 0
    if task == "conll":
        pieces = [tokenizer.encode([w])[0].ids[1:-1] for w in ("quick", "brown", "goalkeeper", "jumps", "moon")]
        start = tokenizer.encode([""])[0].ids
        ids = [start[0], *sum(pieces, []), start[1]]
        return ids, [0] * len(ids), 1 + len(pieces[0]) + len(pieces[1])
    question, context = (tokenizer.encode([text], offsets=True)[0] for text in ("pictures of the moon", CONTEXT))
    at = next(i for i, (a, _) in enumerate(context.offsets) if a == CONTEXT.index("the frozen") and i)
    ids = question.ids + context.ids[1:]
    return ids, [0] * len(question.ids) + [1] * (len(context.ids) - 1), len(question.ids) + at - 1


EVERY = pytest.mark.parametrize(
    ("task", "shape"), [("conll", "bert"), ("squad", "bert"), *(("csv", shape) for shape in SHAPES)]
)  # fmt: skip


@EVERY
def test_every_number_on_the_way_to_the_logits_is_that_of_a_long_hand_computation(
    task, shape, make, data, tokenizer, tmp_path, capsys
):
    status, out, err = run(capsys, *make(task, shape, max_positions=80), *data(task), "--max-length", 64)
    assert status == 0, err
    tour = Tour(out)
    ids, types, at = encoded(tokenizer, task)
    hand = LongHand(load_model(tmp_path / "student"), ids, types)
    first = hand.hidden_losses[0]

    def four(x):
        return near_to(x[:4])

    def whole(x, places=1):
        """A row with its sums."""
        return near_to([*x[:4], sum(x[4:]), sum(x)], places)

    embedded = tour.rows("Embeddings")
    assert embedded["position"] == four(hand.positions[at]) and embedded["sum"] == whole(hand.summed[at])
    assert embedded["state"] == four(hand.states[0][at])
    assert embedded["less mean"] == four(hand.summed[at] - hand.summed[at].mean())
    assert embedded["squared"] == whole(hand.states[0][at] ** 2, 2)

    before = shape == "pre-norm"  # a norm comes first
    looks = [tour.rows("Block 1: attention", i) for i in range(before, before + 4)]
    weights = first["maps"][0][at]
    j = max((i for i in range(len(ids)) if i != at), key=lambda i: weights[i])
    assert looks[0][f"x {at}"] == four(first["seen"][at]) and looks[0][f"x {j}"] == four(first["seen"][j])
    assert looks[1][f"query {at}"] == four(first["q"][at]) and looks[1][f"key {j}"] == four(first["k"][j])
    assert looks[1]["product"] == whole(first["q"][at, :8] * first["k"][j, :8])
    pieces = [tokenizer.backend.id_to_token(i) for i in ids]
    scores, top = first["scores"][at], max(first["scores"][at])
    for i in np.argsort(-weights, kind="stable")[:5]:
        power = math.exp(scores[i] - top)
        assert looks[2][f"{i} {pieces[i]}"] == near_to([scores[i], scores[i] - top, power, weights[i]])
        assert looks[3][f"{i} {pieces[i]}"] == near_to([weights[i], *first["v"][i, :4]])
    rest = sorted(weights)[:-5]
    assert looks[2][f"other {len(rest)}"][1] == near_to(sum(rest))
    assert looks[3]["sum of p * v"] == near_to([1, *first["heads"][at, :4]])

    joined = [tour.rows("Block 1: heads joined, residual, norm", i) for i in range(2)]
    assert joined[0]["heads"] == four(first["heads"][at]) and joined[1]["y"] == four(first["y"][at])
    assert joined[1]["x + y"] == whole(hand.states[0][at] + first["y"][at], 2)
    assert before or joined[1]["state"] == four(first["middle"][at])

    forward = [tour.rows("Block 1: feed-forward", i) for i in range(before, before + 3)]
    assert forward[0]["normed" if before else "x"] == four(first["normed"][at])
    assert forward[1]["a"] == four(first["inner"][at])
    assert forward[1][f"{hand.config.activation}(a)"] == four(first["active"][at])
    assert forward[2]["y"] == four(first["outer"][at])
    assert forward[2]["x + y" if before else "state"][:4] == four(first["out"][at])
    for i, state in enumerate(hand.states):
        lengths = np.sqrt((state**2).sum(axis=1))
        row = tour.tables["All blocks"][0][i + 1]
        assert [float(row[1]), float(row[2])] == near_to([lengths.mean(), lengths[at]])
        if i:
            mean = hand.hidden_losses[i - 1]["maps"][:, at].mean(axis=0)
            shown = re.findall(r"(\d+) \S+ ([\d.]+)(?:,|$)", row[3])
            assert [int(k) for k, _ in shown] == np.argsort(-mean)[:3].tolist()
            assert [float(p) for _, p in shown] == pytest.approx(sorted(mean)[:-4:-1], abs=0.0051)
    head = tour.rows("The head: logits", -1)
    assert head["state" if task != "csv" else "pooled"] == four(
        hand.pooled[0] if task == "csv" else hand.states[-1][at]
    )
    predictions = {"csv": 0, "conll": 3, "squad": 0}[task]
    logit = hand.logits[0 if task == "csv" else at, predictions]
    assert f"= {logit:.4f}"[:-1] in tour.text["The head: logits"]
    assert "Checked: Model.forward gives the same logits" in tour.text["The head: logits"]


@EVERY
def test_every_row_can_be_checked_by_hand_from_those_above_it(task, shape, make, data, capsys):
    """As a newcomer would: products, sums, norms, and every sum that is written out in a sentence."""
    status, out, _ = run(
        capsys, *make(task, shape), *data(task), "--losses", "hidden,attention,cosine,patient,relations"
    )
    assert status == 0
    tour = Tour(out)
    for tables in tour.tables.values():
        for header, *rows in tables:
            if len(header) < 7 or not header[-1].startswith("all "):
                continue
            numbers = [[float(cell) if cell else None for cell in row[1:]] for row in rows]
            for i, (name, row) in enumerate(zip((row[0] for row in rows), numbers, strict=True)):
                if row[-1] is not None:
                    assert sum(row[:-1]) == pytest.approx(row[-1], abs=1e-4, rel=1e-4), (name, row)
                if name == "product":
                    expected = [a * b for a, b in zip(numbers[i - 2][:4], numbers[i - 1][:4], strict=True)]
                    assert row[:4] == pytest.approx(expected, abs=2e-5, rel=2e-5)
                if name == "squared":
                    assert row[:4] == pytest.approx([x * x for x in numbers[i - 1][:4]], abs=2e-5, rel=2e-5)
                if name == "bias":  # above it: / spread, weight; below it: the result
                    made = [a * b + c for a, b, c in zip(numbers[i - 2], numbers[i - 1], row[:4], strict=False)]
                    assert numbers[i + 1][:4] == pytest.approx(made, abs=2e-5, rel=2e-5)
    text = " ".join(tour.text.values()).replace("+ bias ", "+ ")
    formulas = re.findall(r"(?<![\w.^])((?:sqrt\(|[-(\d])[-+*/(). \desqrt]*) = (-?\d[\d.]*(?:e[-+]\d+)?)", text)
    for formula, result in formulas:  # every sentence with an "="
        assert eval(formula, {"sqrt": math.sqrt}) == pytest.approx(float(result.rstrip(".")), rel=1e-4, abs=1e-5), (
            formula
        )
    assert len(formulas) >= 20


def kl(p, q):
    return sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize(("task", "units"), [("csv", 1), ("conll", 5), ("squad", 2)])
def test_the_loss_is_that_of_a_long_hand_computation(task, units, make, data, tokenizer, tmp_path, capsys):
    flags = ["--temperature", 3, "--alpha", 0.3, "--max-length", 64]
    status, out, _ = run(capsys, *make(task, max_positions=80), *data(task), *flags)
    assert status == 0
    tour = Tour(out)
    ids, types, at = encoded(tokenizer, task)
    z, t = (LongHand(load_model(tmp_path / name), ids, types).logits for name in ("student", "teacher"))
    t = t if task == "squad" else t[:, ::-1]  # the teacher's labels are those of the student, turned round
    if task == "conll":
        places = [
            i for i, piece in enumerate(map(tokenizer.backend.id_to_token, ids)) if not piece.startswith(("##", "["))
        ]
        assert len(places) == units
        z, t, labels, one = z[places], t[places], [0, 0, 3, 4, 1], places.index(at)
    elif task == "squad":
        allowed = [0, *range(types.index(1), len(ids) - 1)]
        ends = [at, [i for i, _ in enumerate(ids)][-2]]
        spans = tokenizer.encode([CONTEXT], offsets=True)[0].offsets[1:-1]
        last = max(i for i, (a, _) in enumerate(spans) if a < CONTEXT.index(";"))
        ends = [allowed.index(at), allowed.index(types.index(1) + last)]
        z, t, labels, one = z[allowed].T, t[allowed].T, ends, 0
    else:
        labels, one = [0], 0
    hard = [-math.log(softmax(row)[label]) for row, label in zip(z, labels, strict=True)]
    soft = [9 * kl(softmax(b / 3), softmax(a / 3)) for a, b in zip(z, t, strict=True)]
    mixed = [0.7 * a + 0.3 * b for a, b in zip(hard, soft, strict=True)]
    rows = [[float(cell) for cell in row[1:]] for row in tour.tables["Loss: the total"][0][1:]]
    assert np.array(rows[:-1]) == near_to(np.array([hard, soft, mixed]).T, 3)
    assert rows[-1] == near_to([sum(hard), sum(soft), sum(mixed)], 3)
    assert float(re.search(r"in float32: ([\d.]+\d)", tour.text["Loss: the total"])[1]) == near_to(np.mean(mixed), 3)
    assert f"{hard[one]:.4g}"[:-1] in tour.text["Loss: cross-entropy with the label"].split("= ")[-1]
    for logits, which in ((z[one], 0), (t[one], 1)):
        shown = {
            tuple(row[:1] + row[3:])
            for row in tour.rows("Loss: soft targets of the teacher", which).values()
            if len(row) == 5
        }
        expected = {round(x / 3, 4): p for x, p in zip(logits, softmax(logits / 3), strict=True)}
        assert len(shown) >= 3
        for scaled, p, log_p in shown:
            hit = min(expected, key=lambda x: abs(x - scaled))
            assert (hit, expected[hit], math.log(expected[hit])) == pytest.approx((scaled, p, log_p), abs=2e-4)
    assert tour.rows("Loss: soft targets of the teacher", 2)[f"all {z.shape[1]}"][0] * 9 == near_to(soft[one], 20)
    shown = list(tour.rows("Logits of both").values())
    assert all(
        any(np.allclose(pair, both, atol=1e-4) for both in zip(z[one], t[one], strict=True)) for pair in shown if pair
    )


def test_a_teacher_that_has_the_labels_in_another_order_is_followed_in_the_students(make, data, tmp_path, capsys):
    for order in (LABELS["csv"], ("maybe", "no", "yes")):
        assert run(capsys, *make("csv", teacher_labels=order), *data("csv"))[0] == 0  # makes the directories
        teacher = load_model(tmp_path / "teacher")
        weight = torch.arange(3)[:, None] * torch.ones(3, 16) / 10  # a row for each label: no, yes, maybe
        with torch.no_grad():
            for k, label in enumerate(order):
                teacher.head.classifier.weight[k] = weight[LABELS["csv"].index(label)]
                teacher.head.classifier.bias[k] = float(LABELS["csv"].index(label))
        save_model(teacher, tmp_path / "teacher")
        flags = ["--task", "csv", "--model", tmp_path / "student", "--teacher", tmp_path / "teacher"]
        _, out, _ = run(capsys, *flags, *data("csv"))
        tour = Tour(out)
        rows = tour.rows("Logits of both")
        if order == LABELS["csv"]:
            expected, total = rows, tour.tables["Loss: the total"]
            assert "in the same order" in tour.text["Logits of both"]
    assert rows == expected and tour.tables["Loss: the total"] == total
    assert rows["maybe"][1] > rows["yes"][1] > rows["no"][1]
    assert "its columns 1, 2, 0 (from 0) are the student's 0, 1, ..." in tour.text["Logits of both"]


# --- hidden-state losses ---


@pytest.mark.parametrize("width", [16, 24])
def test_each_hidden_state_loss_is_that_of_training_and_the_sum_is_added(
    width, make, data, tmp_path, tokenizer, capsys
):
    names = ",".join(name for name, loss in HIDDEN_LOSSES.items() if width == 16 or not loss.own_heads)
    names = names.replace("cosine", "cosine=2")
    argv = make("csv")
    save_model(tiny_model(vocab_size=tokenizer.vocab_size, width=width), tmp_path / "teacher")
    status, out, _ = run(capsys, *argv, *data("csv"), "--losses", names, "--seed", 5)
    assert status == 0
    tour = Tour(out)
    student, teacher = load_model(tmp_path / "student"), load_model(tmp_path / "teacher")
    torch.manual_seed(5)
    hidden_losses = make_hidden_losses(TrainConfig(losses=names), student.config, teacher.config)
    ids = torch.tensor([tokenizer.encode([TEXTS[0]], max_length=32)[0].ids])
    states = [model(ids, output_hidden_states=True).hidden_states for model in (student, teacher)]
    with torch.no_grad():
        real = torch.ones_like(ids, dtype=torch.bool)
        qkv = BothQKV(all_qkv(student, states[0]), all_qkv(teacher, states[1]))
        expected = float(hidden_losses(*states, real, qkv))
    rows = tour.tables["Loss: hidden-state losses"][0][1:]
    assert [(row[0], int(row[1]), int(row[2])) for row in rows[:-1]] == hidden_losses.terms()
    assert float(rows[-1][-1]) == near_to(expected, 5)
    assert float(rows[-1][-1]) == near_to(sum(float(row[-1]) for row in rows[:-1]), 20)
    for row in rows[:-1]:
        assert float(row[3]) * float(row[4]) == near_to(float(row[5]), 20)
    text = tour.text["Loss: hidden-state losses"]
    assert all(loss.summary in text and loss.paper in text for name, loss in HIDDEN_LOSSES.items() if name in names)
    assert ("here it is random" in text) == (width == 24)
    total = float(tour.text["Loss: the total"].rsplit("= ", 1)[1].rstrip("."))
    mixed = float(tour.rows("Loss: the total")["sum of 1"][2])
    assert total == near_to(mixed + expected, 5)


def mean_l1(student, teacher, real):
    """Σ_inputs mean over tokens and width of |s − t|

    Hidden states B,S,D and B,S,D; real B,S -> a scalar.
    """
    return (student - teacher).abs().mean(dim=-1)[real].mean()


def value_l1(student, teacher, real, heads):
    """Σ_inputs mean of |s − t| of the values that a block projects."""
    return (student[2] - teacher[2]).abs().mean()


def test_a_loss_that_was_added_from_outside_is_traced_from_its_entry(make, data, capsys, monkeypatch):
    entry = HiddenLoss(compare=mean_l1, layers=blocks, weight=0.5, paper="nobody 2030", summary="mean distance")
    monkeypatch.setitem(HIDDEN_LOSSES, "distance", entry)
    of_values = HiddenLoss(value_l1, blocks, 2.0, "nobody 2031", "distance of values", compares_qkv=True)
    monkeypatch.setitem(HIDDEN_LOSSES, "values", of_values)
    status, out, err = run(capsys, *make("csv"), *data("csv"), "--losses", "distance,values=3,hidden")
    assert status == 0, err
    tour = Tour(out)
    rows = [row for row in tour.tables["Loss: hidden-state losses"][0][1:] if row[0] == "distance"]
    assert [(row[1], row[2], row[4]) for row in rows] == [("1", "2", "0.5"), ("2", "3", "0.5")]
    text = tour.text["Loss: hidden-state losses"]
    assert float(rows[-1][3]) > 0
    assert "distance (nobody 2030): mean distance." in text and "values (nobody 2031): distance of values." in text
    assert "Σ_inputs mean over tokens and width of |s − t|" in text and "Hidden states B,S,D" not in text
    places = tour.code["Loss: hidden-state losses"]
    assert any(re.fullmatch(r"tests/trace/test_trace\.py:\d+ mean_l1", place) for place in places)
    assert float(tour.text["Loss: the total"].rsplit("+ ", 1)[1].split(" ")[0]) > 0


def test_a_task_that_was_added_from_outside_is_traced(make, data, capsys, monkeypatch):
    """Whose inputs are not made of the text alone: then no piece is shown with characters of it."""

    def featurize(examples, *more):
        return TASKS["csv"].featurize([replace(example, text=f"the {example.text}") for example in examples], *more)

    task = replace(TASKS["csv"], name="outside", unlabelled=None, featurize=featurize)
    monkeypatch.setitem(TASKS, "outside", task)
    argv = [*make("csv"), *data("csv"), "--task", "outside"]
    status, out, err = run(capsys, *argv)
    assert status == 0, err
    rows = Tour(out).tables["Text into word pieces"][0][1:]
    assert rows[1][0] == rows[2][0].replace("2", "1") == "1 the" and {row[1] for row in rows} <= {"-", ""}
    status, _, err = run(capsys, *make("csv"), "--task", "outside", "--text", "a")
    assert status == 2 and "--text: plain text is no input for outside; give --data" in err


def test_a_function_that_no_file_holds_is_named(tmp_path, monkeypatch):
    assert where(len) == "len"
    (tmp_path / "elsewhere.py").write_text("x = 1\n\n\ndef outside():\n    pass\n\n\nshort = lambda: 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import elsewhere

    assert where(elsewhere.outside) == "elsewhere.py:4 outside" and where(elsewhere.short) == "elsewhere.py:8 <lambda>"


# --- where it points ---


@pytest.mark.parametrize("task", ["csv", "conll", "squad"])
def test_every_place_named_is_where_that_function_is_defined(task, make, data, capsys):
    _, out, _ = run(capsys, *make(task), *data(task), "--losses", "hidden,relations")
    tour = Tour(out)
    named = [place for places in tour.code.values() for place in places]
    assert all(tour.code.values()) and len(named) > 25
    for place in named:
        path, line, name = re.fullmatch(r"(\S+):(\d+) (\S+)", place).groups()
        source = (ROOT / path).read_text().split("\n")
        assert re.match(rf"\s*def {name.split('.')[-1]}\(", source[int(line) - 1]), place
        if "." in name:  # the class that it stands in
            above = [found[1] for found in (re.match(r"class (\w+)", text) for text in source[: int(line)]) if found]
            assert above[-1] == name.split(".")[0], place
    for wanted in (
        "tokenizer.py",
        "batches.py",
        "layers.py",
        "model.py",
        "losses.py",
        "collate",
        "units",
        "decide",
    ):
        assert any(wanted in place for place in named), wanted


def test_a_decorated_function_is_found_at_its_def():
    path, rest = where(compute_logits).split(":")
    line, name = rest.split(" ")
    assert (ROOT / path).read_text().split("\n")[int(line) - 1].startswith(
        "def compute_logits("
    ) and name == "compute_logits"


# --- which example, input and position ---


def test_an_example_is_found_by_its_id_or_its_number(make, data, capsys):
    argv = [*make("csv"), *data("csv")]
    for wanted in ("data-csv:3", "2"):
        status, out, _ = run(capsys, *argv, "--example", wanted)
        assert status == 0 and out.startswith("tracing data-csv:3 through")
        assert "This is example 2 of 3 in " in Tour(out).text["The file, and the example in it"]
        assert "brewery" in str(Tour(out).tables["The file, and the example in it"])


def test_without_a_name_the_first_example_is_followed_also_where_another_is_called_1(make, data, capsys):
    argv = [*make("squad"), *data("squad")]
    argv[-1].write_text(argv[-1].read_text().replace("q-all", "1"))
    status, out, _ = run(capsys, *argv)
    assert status == 0 and out.startswith("tracing q-moon through")


def test_of_several_windows_that_which_holds_the_answer_is_followed(make, data, capsys):
    argv = [*make("squad", max_length=26), *data("squad"), "--overlap", 4]
    _, out, _ = run(capsys, *argv)
    text = Tour(out).text["Features and labels"]
    window = int(
        re.search(r"makes \d inputs \(windows\) of at most 26 pieces. Followed: number (\d), the start", text)[1]
    )
    assert window > 1 and f"/{window}" in out.split("14. The decision")[1]
    rows = [row for row in Tour(out).tables["Features and labels"][0] if "start" in row[-1] or "end" in row[-1]]
    assert [row[-1] for row in rows] == ["start", "end"] and f"position {rows[0][0].split(' ')[0]}," in text
    answer, best = Tour(out).tables["The decision"][:2]
    assert [float(row[3]) + float(row[4]) for row in answer[1:]] == near_to([float(row[5]) for row in answer[1:]], 3)
    assert [row[1] for row in best[1:5]] == [row[5] for row in answer[1:]]


@pytest.mark.parametrize("task", ["csv", "conll", "squad"])
def test_the_characters_shown_beside_a_piece_are_those_it_was_made_of(task, make, data, capsys):
    flags = ["--overlap", 4, "--question-length", 3] if task == "squad" else []
    _, out, _ = run(capsys, *make(task, max_length=22), *data(task), *flags)
    words = ("quick", "brown", "goalkeeper", "jumps", "moon")
    sources = {"text": TEXTS[0], "question": "pictures of the moon", "context": CONTEXT}
    sources |= {f"word {i}": word for i, word in enumerate(words, 1)}
    rows = [row for row in Tour(out).tables["Text into word pieces"][0][1:] if row[1] not in ("-", "")]
    assert len(rows) > 8 and {row[1] for row in rows} <= set(sources)
    assert task != "squad" or [row[1] for row in rows].count("question") == 3
    for piece, source, start, end, text in rows:
        assert text == repr(sources[source][int(start) : int(end)])
        assert text.strip("'") == piece.split(" ")[1].removeprefix("##"), "all lower case here"


def test_of_a_long_sentence_the_words_around_the_followed_one_are_shown(make, tmp_path, capsys):
    words = "the fox jumps over the moon".split() * 6
    (tmp_path / "long").write_text("".join(f"{word} O\n" for word in words))
    _, out, _ = run(capsys, *make("conll", max_length=48, max_positions=48), "--data", tmp_path / "long")
    shown = [row[0] for row in Tour(out).tables["The decision"][0][1:]]
    assert shown == [*words[:12], "...", words[-1]]


def test_a_word_longer_than_a_window_keeps_within_it(make, tmp_path, capsys):
    (tmp_path / "long").write_text("goalkeepergoalkeeper B-PER\njumps O\n")
    _, out, _ = run(capsys, *make("conll", max_length=8), "--data", tmp_path / "long")
    rows = Tour(out).tables["Text into word pieces"][0][1:]
    assert len(rows) == 8 and rows[-1][:2] == ["7 [SEP]", "-"] and rows[6][1] == "word 1"


def test_the_probabilities_of_answers_are_those_that_the_decision_is_made_of(make, data, tmp_path, capsys):
    _, out, _ = run(capsys, *make("squad", max_length=40), *data("squad"), "--answer-length", 5)
    tables = Tour(out).tables["The decision"]
    loaded, (example, _) = (
        load_for_inference(tmp_path / "student"),
        TASKS["squad"].read(data("squad")[1], "", DataConfig()),
    )
    predictions = evaluate(loaded, TASKS["squad"], [example], DataConfig(answer_length=5), CPU)
    ((best, nothing),) = candidates([example], predictions.features, predictions.logits, 5, 3)
    shown = {row[0]: float(row[-1]) for row in tables[1][1:]}
    assert [*shown.values()][:4] == near_to([answer.probability for answer in [*best, nothing]])
    assert shown["(all other spans)"] == near_to(1 - sum([*shown.values()][:4]), 3) and shown["all"] == near_to(1)


@pytest.mark.parametrize("length", [24, 64])
def test_a_sentence_among_its_neighbours_is_followed_where_it_stands(length, make, data, tokenizer, capsys):
    argv = [*make("conll", max_length=length, max_positions=64), *data("conll"), "--documents", "--overlap", 4]
    _, out, _ = run(capsys, *argv, "--example", 3)
    tour = Tour(out)
    assert "read with its document of 4 sentences" in tour.text["The file, and the example in it"]
    features = tour.tables["Features and labels"][0][1:]
    pieces = [row for row in tour.tables["Text into word pieces"][0][1:] if row[1] != "-" and row[0] != "..."]
    assert {row[1] for row in pieces} <= {f"word {w}" for w in range(1, 6)}
    at = int(re.search(r"position followed is (\d+)", tour.text["Features and labels"])[1])
    assert next(row for row in features if row[0].startswith(f"{at} "))[-1] == "3 B-PER"
    units = tour.tables["Loss: the total"][0][1:]
    for k in range(1, 4):  # what is not shown is in the sums
        shown = [float(row[k]) for row in units if row[k]]
        assert sum(shown[:-1]) == near_to(shown[-1], 5)
    if length == 64:
        assert (len(units), units[-1][0], units[-2][0]) == (14, "sum of 14", "other 4")
    words = [row[0] for row in tour.tables["The decision"][0][1:]]
    assert words == ["quick", "brown", "goalkeeper", "jumps", "moon"] and "gold: goalkeeper jumps PER, moon LOC" in out


@pytest.mark.parametrize("task", ["csv", "conll", "squad"])
def test_of_ones_own_text_no_label_is_known(task, make, capsys):
    own = ["--question", "the moon", "--context", CONTEXT] if task == "squad" else ["--text", TEXTS[3]]
    status, out, _ = run(capsys, *make(task), *own, "--alpha", 0.25)
    tour = Tour(out)
    assert status == 0 and "it has no label" in tour.text["The file, and the example in it"]
    assert tour.code["The file, and the example in it"][0].startswith("kd_scratch/trace/trail.py:")
    assert "there is no cross-entropy" in tour.text["Loss: cross-entropy with the label"]
    hard, soft, mixed = tour.tables["Loss: the total"][0][-1][1:]
    assert float(hard) == 0 and float(mixed) == near_to(float(soft) / 4, 3) and float(soft) > 0
    assert "only the soft targets are left" in tour.text["Loss: the total"]
    assert "in the file" not in out and "gold:" not in out


def test_an_answer_that_no_window_holds_and_a_label_that_the_model_lacks_are_followed_without(make, data, capsys):
    _, out, _ = run(capsys, *make("squad", max_length=20), *data("squad"), "--example", 2)
    tour = Tour(out)
    assert "No window holds the whole answer" in tour.text["Features and labels"]
    assert f"Answers in the file: {CONTEXT}." in tour.text["The decision"]
    assert "there is no cross-entropy" in tour.text["Loss: cross-entropy with the label"]
    _, out, _ = run(capsys, *make("clinc"), *data("clinc"), "--example", "oos_test:0", "--oos-threshold", 0.99)
    tour = Tour(out)
    assert "none that the models have" in tour.text["Features and labels"]
    assert (
        "below p = 0.99" in tour.text["The decision"] and "The label in the file is 'oos'." in tour.text["The decision"]
    )
    assert [row[1] for row in tour.tables["The decision"][0][1:]] == ["oos", "oos"]


def test_questions_without_an_answer_and_contexts_without_a_word(make, tmp_path, capsys):
    questions = [{"id": "none", "question": "the fox", "answers": [], "is_impossible": True}]
    paragraphs = [
        {"context": context, "qas": [q | {"id": f"q{i}"} for q in questions]} for i, context in enumerate((CONTEXT, ""))
    ]
    (tmp_path / "v2.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    for example in ("q0", "q1"):
        status, out, _ = run(capsys, *make("squad"), "--data", tmp_path / "v2.json", "--example", example)
        tour = Tour(out)
        assert status == 0 and "position 0, [CLS], is its start and end" in tour.text["Features and labels"]
        assert "The position followed is 0" in tour.text["Features and labels"]
        assert ("(--null-threshold) it wins" in tour.text["The decision"]) == (example == "q0")
        assert "Answers in the file: none." in tour.text["The decision"]
    odds = re.search(r"1 / \(1 \+ e\^\((-?[\d.]+) - (-?[\d.]+)\)\) = ([\d.]+);", run(
        capsys, *make("squad"), "--data", tmp_path / "v2.json")[1].replace("\n", " "))  # fmt: skip
    best, nothing, p = map(float, odds.groups())
    assert p == pytest.approx(1 / (1 + math.exp(best - nothing)), rel=1e-3)


def test_long_tables_show_the_beginning_the_place_that_matters_and_the_end():
    assert near(5, 2) == [0, 1, 2, 3, 4]
    shown = near(100, 50)
    assert shown == [*range(12), None, *range(47, 54), None, 99]
    assert near(100, 30, 34)[12:26] == [None, *range(27, 38), None, 99]
    assert near(100, 3) == [*range(12), None, 99] and near(30, 29)[-4:] == [26, 27, 28, 29]


def test_numbers_take_at_most_nine_characters():
    for x in (0, 1e-9, -1e-9, 0.123456789, -9.87654321, 99.99999, -123.4567, 39711.2345, -123456.78, 3e7, -1e30):
        text = number(x)
        assert len(text) <= 9 and float(text) == pytest.approx(x, rel=6e-3, abs=6e-7), (x, text)
    assert number(-1e-9) == "0.000000"


# --- the page, hostile texts, widths ---


class Balanced(HTMLParser):
    """Fails where tags are not closed in order; collects what is text, and the names of all tags."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.texts = [], set(), []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.seen.add(tag)

    def handle_data(self, text):
        self.texts.append(text)


HOSTILE = '<script>alert(1)</script> \x1b[31m & "quick" <img src=x onerror=y> \u202e\u200b ' + "x" * 300 + " 漢字"


@pytest.mark.parametrize("task", ["csv", "conll", "squad"])
def test_a_hostile_text_stays_text(task, tmp_path, capsys):
    """Its own vocabulary, so that there are pieces of it; and such labels."""
    tokenizer = train_tokenizer([HOSTILE, *TEXTS], vocab_size=200, lowercase=False)
    labels = {"csv": ("<script>", "</td>&", "\x1b[2J" + "y" * 100), "conll": ("O", "B-<b>", "I-<b>"), "squad": ()}[task]
    flags = ["--task", task]
    for flag, depth in (("--model", 1), ("--teacher", 2)):
        model = tiny_model(HEADS[task], labels=labels, vocab_size=tokenizer.vocab_size, depth=depth, max_positions=600)
        directory = tmp_path / f"{flag}\x1b[2J"
        save_model(model, directory)
        tokenizer.save(directory, max_length=500)
        flags += [flag, directory]
    if task == "squad":
        answer = {"text": '"quick"', "answer_start": HOSTILE.index('"quick"')}
        questions = [{"id": HOSTILE, "question": HOSTILE, "answers": [answer]}]
        (tmp_path / "x").write_text(json.dumps({"data": [{"paragraphs": [{"context": HOSTILE, "qas": questions}]}]}))
    elif task == "conll":
        (tmp_path / "x").write_text("".join(f"{word} B-X\n" for word in HOSTILE.split(" ") if word))
    else:
        quoted = HOSTILE.replace('"', '""')
        (tmp_path / "x").write_text(f'label,text\n<script>,"{quoted}"\n')
    (tmp_path / "x").rename(tmp_path / "x\x1b[2J")
    page = tmp_path / "x.html"
    status, out, err = run(capsys, *flags, "--data", tmp_path / "x\x1b[2J", "--output", page)
    assert status == 0, err
    assert not [line for line in out.split("\n") if len(line) > 80 and str(page) not in line]
    assert all(c.isprintable() or c == "\n" for c in out)
    html = page.read_text()
    parsed = Balanced(html)
    assert not parsed.seen & {"script", "img", "b", "link", "iframe"} and "\x1b" not in html
    assert "<script" in "".join(parsed.texts) and html.count("<svg") == 2
    for word in ("src=", 'href="http', "url("):
        assert (
            word not in html.replace("&lt;img src=x", "").replace("<img src=x", "")
            or word == "src="
            and "src=x" in html
        )


@pytest.mark.parametrize("task", ["csv", "conll", "squad"])
def test_the_page_holds_the_same_as_the_terminal_and_two_pictures(task, make, data, tmp_path, capsys):
    page = tmp_path / "out" / "trace.html"
    argv = [*make(task), *data(task), "--output", page, "--losses", "cosine"]
    status, out, _ = run(capsys, *argv)
    assert status == 0 and str(page) in out.replace("\n", "")
    assert all(len(line) <= 80 for line in out.split("\n") if str(tmp_path) not in line)
    parsed = Balanced(page.read_text())
    text = " ".join(" ".join(parsed.texts).split())
    tour = Tour(out)
    for title, tables in tour.tables.items():
        assert title in text
        for cell in (cell for table in tables for row in table for cell in row):
            assert cell in text or " ".join(cell.split()) in text, (title, cell)
    assert page.read_text().count("<svg") == 2 and "student, block 2" in text and "teacher, block 3" in text
    assert not list(page.parent.glob(".*"))


def test_as_json_it_is_the_same_and_quiet_leaves_out_what_is_no_result(make, data, capsys):
    argv = [*make("csv"), *data("csv")]
    tour, (_, out, _) = Tour(run(capsys, *argv)[1]), run(capsys, *argv, "--json")
    record = json.loads(out)
    assert record["example"] == "data-csv:2" and [stage["title"] for stage in record["stages"]] == list(tour.text)
    for stage in record["stages"]:
        tables = [part for part in stage["parts"] if isinstance(part, dict)]
        assert [[part["header"], *part["rows"]] for part in tables] == tour.tables[stage["title"]]
        assert stage["code"] == tour.code[stage["title"]]
    assert run(capsys, *argv, "--quiet")[1].startswith("\n1. The file")


def test_a_picture_of_many_pieces_shows_those_with_most_attention_in_both_models():
    weights = torch.full((40, 40), 0.01)
    weights[:, 35] = 0.3
    drawn = trace.heat_maps([(name, [f"p{i}" for i in range(40)], weights) for name in ("a", "b")])
    assert "35 p35" in drawn and "39 p39" not in drawn and drawn.count("<svg") == 2
    assert "the 32 pieces of 40 with the most attention" in drawn


# --- what goes wrong ---


BAD = {
    "an example of one's own text": ("csv", ["--text", "a", "--example", "1"], "--example: is for a file"),
    "no data": ("csv", [], "needs --data, or --text; given: nothing"),
    "two sources": ("csv", ["--text", "a", "--data", "FILE"], "given: data, text"),
    "another task's text": ("squad", ["--text", "a"], "needs --data, or --question and --context; given: text"),
    "half a question": ("squad", ["--question", "a"], "given: question"),
    "no word": ("conll", ["--text", "  "], "--text: holds no word"),
    "a wrong id": ("csv", ["--data", "FILE", "--example", "x"], "by number from 1 or by id, such as data-csv:2"),
    "number 0": ("csv", ["--data", "FILE", "--example", "0"], "--example 0: "),
    "a number behind the end": ("csv", ["--data", "FILE", "--example", "4"], "--example 4: "),
    "a huge number": ("csv", ["--data", "FILE", "--example", "9" * 5000], "has 3 examples"),
    "no such file": ("csv", ["--data", "nowhere.csv"], "nowhere.csv: no such file"),
    "a split": ("csv", ["--data", "FILE", "--split", "test"], "--split test: the files of csv have no splits"),
    "a loss": ("csv", ["--data", "FILE", "--losses", "magic"], "--losses magic"),
    "no pair": ("csv", ["--data", "FILE", "--losses", "patient", "--layer-map", "last"], "no pair of layers"),
    "layers": ("csv", ["--data", "FILE", "--losses", "hidden", "--layer-map", "9:1"], "9:1 is not possible"),
    "own layers": ("csv", ["--data", "FILE", "--losses", "hidden", "--layer-map", "own"], "choose spread"),
    "a length": ("csv", ["--data", "FILE", "--max-length", "99"], "has 40 positions, 99 are needed"),
    "over its input": ("csv", ["--data", "FILE", "--output", "FILE"], "would overwrite"),
    "over a model": ("csv", ["--data", "FILE", "--output", "MODEL/config.json"], "would overwrite"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_one_line_and_nothing_is_written(case, make, data, tmp_path, capsys):
    task, flags, fragment = BAD[case]
    file, argv = data(task)[1], make(task)
    before = file.read_text()
    flags = [flag.replace("FILE", str(file)).replace("MODEL", str(tmp_path / "student")) for flag in flags]
    status, out, err = run(capsys, *argv, *flags)
    assert status == 2 and out == "" and err.count("\n") == 1 and fragment in err
    assert file.read_text() == before


def test_int8_models_a_teacher_of_another_kind_and_another_tokenizer_are_refused(
    make, data, tmp_path, tokenizer, capsys
):
    argv = [*make("csv"), *data("csv")]
    save_model(quantize(load_model(tmp_path / "student")), tmp_path / "int8")
    tokenizer.save(tmp_path / "int8", max_length=32)
    status, _, err = run(capsys, *argv, "--model", tmp_path / "int8")
    assert status == 2 and err.count("\n") == 1 and "is an int8 model, which has no float layers to walk through" in err
    status, _, err = run(capsys, *argv, "--teacher", tmp_path / "int8")
    assert status == 2 and "--teacher" in err and "is an int8 model" in err
    train_tokenizer(TEXTS, 60).save(tmp_path / "teacher", max_length=32)
    status, _, err = run(capsys, *argv)
    assert status == 2 and "its tokenizer differs from the student's" in err
    save_model(tiny_model(labels=("a", "b"), vocab_size=tokenizer.vocab_size), tmp_path / "teacher")
    status, _, err = run(capsys, *argv)
    assert status == 2 and "was trained on other labels" in err
    save_model(tiny_model("span", vocab_size=tokenizer.vocab_size), tmp_path / "teacher")
    assert "has a span head" in run(capsys, *argv)[2]


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_a_model_that_gives_no_numbers_is_refused(name, make, data, tmp_path, capsys):
    argv = [*make("csv"), *data("csv")]
    model = load_model(tmp_path / name)
    model.embedding_norm.weight.data[0] = float("inf")
    save_model(model, tmp_path / name)
    status, _, err = run(capsys, *argv)
    assert status == 2 and "logits that are not finite numbers" in err


def test_a_model_without_a_table_of_positions_shows_none():
    model, task = tiny_model(), TASKS["csv"]
    model.positions = torch.nn.Identity()
    features = task.featurize([task.unlabelled("a", "fox")], train_tokenizer(TEXTS, 100), (), 16, DataConfig())
    batch = collate(features, np.array([0]), CPU)
    with torch.inference_mode():
        stage = embedding_stage(walk_through(model, batch), batch, 0, "[CLS]")
    intro, grid, _ = stage.parts
    assert [row[0] for row in grid.rows[:3]] == ["word", "segment", "sum"] and "of the positions" not in intro


def test_a_walk_that_is_not_the_models_way_is_refused():
    """A layer that is added to the model's forward, but not to the walk."""
    model, task = tiny_model(), TASKS["csv"]
    tokenizer = train_tokenizer(TEXTS, 100)
    examples = [task.unlabelled("a", TEXTS[0])]
    features = task.featurize(examples, tokenizer, model.config.labels, 16, DataConfig())
    batch = collate(features, np.array([0]), CPU)
    calls = []

    def second_is_larger(layer, x, y):
        calls.append(1)
        return y if len(calls) < 2 else y + 1

    with torch.inference_mode():
        assert walk_through(model, batch).difference < 1e-5
        model.head.register_forward_hook(second_is_larger)
        with pytest.raises(UserError, match=r"steps\.py:\d+ walk_through: the way to the logits by hand differs by 1 "):
            walk_through(model, batch)


def edited_attention(self, x, memory, mask=None, need_maps=False):
    """Attention in which keys and queries are twice as large: an edit that the block's project() has not got."""
    y, maps = attention(
        split_heads(2 * self.query(x), self.heads),
        split_heads(2 * self.key(memory), self.heads),
        split_heads(self.value(memory), self.heads),
        mask,
        need_maps=need_maps,
    )
    return self.output(y.transpose(1, 2).flatten(2)), maps


def edited_output(self, *inputs, plain=MultiHeadAttention.forward):
    y, maps = plain(self, *inputs)
    return 2 * y, maps


def edited_residual(self, x, y):
    return self.norm(x[:, : y.size(1)] + 2 * y)


#: What is edited -> class, its forward after the edit; what is refused
EDITS = {
    "the attention's queries and keys": (MultiHeadAttention, edited_attention, "attention by hand"),
    "the attention's output": (MultiHeadAttention, edited_output, "the block by hand"),
    "the feed-forward": (FeedForwardBlock, lambda self, x: self.outer(self.inner(x)), "the block by hand"),
    "the residual": (ResidualConnection, edited_residual, "the block by hand"),
    "the norm": (LayerNormalization, lambda self, x: 2 * x * self.weight, "the layer norm by hand"),
    "the embeddings": (InputEmbeddings, lambda self, ids, types=None: self.word(ids), "the embedding by hand"),
    "the positions": (PositionalEncoding, lambda self, x: x, "the embedding by hand"),
    "the head": (SequenceHead, lambda self, x: self.classifier(self.pooler(x[:, 0])), "the logit by hand"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_layer_is_refused_and_never_shown_as_it_was(edit, make, data, capsys, monkeypatch):
    argv = [*make("csv"), *data("csv")]
    layer, forward, why = EDITS[edit]
    monkeypatch.setattr(layer, "forward", forward)
    status, out, err = run(capsys, *argv)
    assert status == 2 and out == "" and err.count("\n") == 1, (out, err)
    assert why in err and "kd_scratch/trace/" in err and "change the first as the second was changed" in err


def test_an_edited_projection_is_followed(make, data, capsys, monkeypatch):
    """As with rotary positions: queries and keys are changed behind their matrices."""

    def project(self, x, memory):
        return 2 * self.query(x), 2 * self.key(memory), self.value(memory)

    monkeypatch.setattr(MultiHeadAttention, "project", project)
    status, out, err = run(capsys, *make("csv"), *data("csv"))
    assert status == 0, err
    tour = Tour(out)
    text = tour.text["Block 1: attention"]
    sums = re.search(r"query \S+ \+ bias \S+ = (\S+); key \S+ \+ bias \S+ = (\S+); value", text)
    changed = re.search(r"MultiHeadAttention.project changes them before they are used: query (\S+); key (\S+)\.", text)
    assert [float(x) for x in changed.groups()] == near_to([2 * float(x) for x in sums.groups()])
    queries = tour.rows("Block 1: attention", 1)
    assert next(row for name, row in queries.items() if name.startswith("query"))[0] == near_to(float(changed[1]))


def test_an_edited_loss_is_refused(make, data, capsys, monkeypatch):
    argv = [*make("csv"), *data("csv")]
    monkeypatch.setattr(losses, "soft_target_loss", lambda student, teacher, temperature: student.sum())
    status, out, err = run(capsys, *argv)
    assert status == 2 and out == "" and "soft_stage: the soft targets' loss by hand differs by" in err


def test_no_number_is_no_agreement():
    assert agree("x", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.00001]), near, number) == pytest.approx(1e-5, 0.1)
    for shown in (1.001, float("nan")):
        with pytest.raises(UserError, match="x by hand differs by"):
            agree("x", shown, 1.0, near, number)


def test_the_command_does_not_change_the_models_and_says_the_same_twice(make, data, capsys):
    argv = [*make("csv"), *data("csv"), "--losses", "hidden"]
    assert run(capsys, *argv) == run(capsys, *argv)
    with pytest.raises(UserError, match="no such model directory"):
        load_model("/nowhere")


def test_the_loss_is_what_was_chosen_else_what_the_student_was_distilled_with(tmp_path):
    def loss(**chosen):
        config = trace.loss_settings(str(tmp_path), "csv", **chosen)
        return config.temperature, config.alpha, config.losses

    usual = TASKS["csv"].train_config()
    assert loss() == (usual.temperature, usual.alpha, ""), "no record, so the task's own"
    epoch = {"epoch": 1, "steps": 1, "loss": 1.0, "losses": [1.0], "tokens_per_second": 1.0, "dev": {"accuracy": 0.5}}
    record = {"task": "csv", "teacher": "abc", "history": [epoch], "settings": {"temperature": 7.0, "alpha": 0.125,
              "losses": "hidden"}, "data settings": {}, "machine": {}, "parameters": 1, "best_epoch": 1,
              "step": 1, "seconds": 1.0, "seconds by phase": {}, "best_score": 0.5}  # fmt: skip
    (tmp_path / "training.json").write_text(json.dumps(record))
    assert loss() == (7.0, 0.125, "hidden") and loss(alpha=0.5, losses="") == (7.0, 0.5, "")
    record["settings"] = {"temperature": "hot", "alpha": None, "losses": 3}
    (tmp_path / "training.json").write_text(json.dumps(record))
    assert loss() == (usual.temperature, usual.alpha, ""), "what is none is not taken"
    record["settings"] = {"temperature": -1.0}
    (tmp_path / "training.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"training\.json: --temperature"):
        loss()
    record |= {"teacher": None, "settings": {"temperature": 7.0}}
    (tmp_path / "training.json").write_text(json.dumps(record))
    assert loss()[0] == usual.temperature, "a baseline was not distilled"
