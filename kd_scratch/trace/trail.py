"""One example's way into the models and out of them, as the stages that `trace` shows: its file, pieces and features,
and at the end what is decided."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from itertools import pairwise, product

import numpy as np
import torch

from kd_scratch.common.console import shorten
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import IGNORE, UNLABELLED, Batch, EncodedInputs, collate
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.nn.model import Model
from kd_scratch.tasks import Predictions, Task
from kd_scratch.tasks.base import log_softmax
from kd_scratch.tasks.conll_metric import entities
from kd_scratch.tasks.question_answering import Answer, EncodedWindows, answer_pieces, candidates, label_windows
from kd_scratch.tasks.spans import piece_spans
from kd_scratch.tasks.squad_metric import question_scores
from kd_scratch.tasks.token_classification import word_pieces
from kd_scratch.trace.steps import Grid, Stage, Walk, exact, number, softmax_grid


@dataclass
class Side:
    """What one of the two models makes of the input (walk), and of all windows of the example (outcome)."""

    model: Model
    walk: Walk
    predictions: Predictions


@dataclass
class Trail:
    """One input of an example, and the position in it that is followed."""

    task: Task
    data: DataConfig
    gold: object  # the example as it was read
    max_length: int
    example: int  # its place among those that were featurized with it
    features: EncodedInputs
    window: int  # the input of these features that is followed
    batch: Batch  # that input alone
    at: int  # the position
    pieces: list[str]
    unknown: str  # why no label is known; empty: one is
    student: Side
    teacher: Side

    @property
    def sides(self) -> dict[str, Side]:
        """Both models by name."""
        return {"student": self.student, "teacher": self.teacher}

    @property
    def unit(self) -> int:
        """Which of the input's units the position is."""
        return self.batch.counted.tolist().index(self.at) if self.task.head == "token" else 0

    @property
    def shown(self) -> list[int | None]:
        """The positions that tables of the pieces show, None for a gap."""
        ends = self.batch.labels[0].tolist() if self.task.head == "span" else []
        return near(len(self.pieces), self.at, *ends)


def near(length: int, *places: int, most: int = 24) -> list[int | None]:
    """Which of so many rows are shown: all, or the first ones, those around some places, and the last; None: a gap."""
    if length <= most:
        return list(range(length))
    kept = [
        i for i in range(length) if i < most // 2 or i == length - 1 or any(abs(i - j) <= most // 8 for j in places)
    ]
    gaps = {b: [None, b] for a, b in pairwise(kept) if b > a + 1}
    return [i for b in kept for i in gaps.get(b, [b])]


# --- file -> features ---


def file_stage(example, said: str, code: list[Callable]) -> Stage:
    """The example as it was read, and by what."""
    rows = []
    for f in fields(example):
        value = getattr(example, f.name)
        value = " | ".join("?" if part is None else part for part in value) if isinstance(value, tuple) else value
        rows.append((f.name, "-" if value is None else shorten(str(value), 58)))
    return Stage("The file, and the example in it", code, [said, Grid(("field", "value"), rows, left=True)])


def pieces_stage(trail: Trail, tokenizer: Tokenizer) -> Stage:
    """Word pieces, and the characters that each stands for."""
    rows = []
    origin = origins(trail, tokenizer)
    for i in trail.shown:
        source, start, end, text = ("", "", "", "") if i is None else origin.get(i, ("-", "", "", ""))
        name = "..." if i is None else f"{i} {trail.pieces[i]}"
        rows.append((name, source, str(start), str(end), repr(shorten(text, 18)) if text else ""))
    what = {"sequence": "the text", "token": "each word by itself", "span": "question and context"}[trail.task.head]
    parts = [
        f"The tokenizer ({'lower case only' if tokenizer.lowercase else 'upper and lower case'}, "
        f"{tokenizer.vocab_size:,} pieces) cuts {what} at spaces and punctuation, and every word into the longest "
        "pieces that it knows, from the left; ## goes on with a word. From and to count characters from 0, the end "
        "not with it.",
        Grid(("piece", "of", "from", "to", "characters"), rows, left=True),
    ]
    more = {"sequence": [], "token": [word_pieces], "span": [piece_spans]}[trail.task.head]
    return Stage("Text into word pieces", [Tokenizer.encode, *more], parts)


def origins(trail: Trail, tokenizer: Tokenizer) -> dict[int, tuple[str, int, int, str]]:
    """By position: of what text its piece is, from where to where, and these characters."""
    found, gold, windows = {}, trail.gold, trail.features
    if trail.task.head == "token":
        first, after = windows.word_starts[trail.example : trail.example + 2]
        for w, at in enumerate((windows.word_at[first:after] - windows.starts[trail.window]).tolist()):
            if 0 <= at < len(trail.pieces):  # another window may hold it
                spans = tokenizer.encode([gold.words[w]], offsets=True)[0].offsets[1:-1]
                spans = spans[: len(trail.pieces) - 1 - at]  # of a word longer than a window
                for i, (a, b) in enumerate(spans or [(0, len(gold.words[w]))], at):
                    found[i] = f"word {w + 1}", a, b, gold.words[w][a:b]
        return found
    text, name, most = (
        (gold.question, "question", trail.data.question_length + 2)
        if trail.task.head == "span"
        else (gold.text, "text", trail.max_length)
    )
    for i, (a, b) in enumerate(tokenizer.encode([text], max_length=most, offsets=True)[0].offsets):
        if a < b:
            found[i] = name, a, b, text[a:b]
    if trail.task.head == "span":
        at, place = windows.context_at[trail.window], windows.first_piece[trail.window]
        for i in range(at, len(trail.pieces) - 1):
            a, b = windows.piece_spans[place + i - at].tolist()
            found[i] = "context", a, b, gold.context[a:b]
    return found


def features_stage(trail: Trail, why: str) -> Stage:
    """What the models get: the numbers of one input. why: what is to be said of the choice of input and position."""
    batch, labels, task = trail.batch, trail.student.model.config.labels, trail.task
    rows = []
    for i in trail.shown:
        if i is None:
            rows.append(("...", "", "", "", ""))
            continue
        kind = 0 if batch.token_type_ids is None else int(batch.token_type_ids[0, i])
        allowed = "" if batch.allowed is None else ("yes" if batch.allowed[0, i] else "no")
        label = ""
        if task.head == "token":
            k = int(batch.labels[0, i])
            known = {IGNORE: "none", UNLABELLED: "unknown"}
            label = known.get(k) or f"{k} {shorten(labels[k], 12)}"
        elif task.head == "span":
            label = " ".join(
                name for name, at in zip(("start", "end"), batch.labels[0].tolist(), strict=True) if at == i
            )
        rows.append((f"{i} {trail.pieces[i]}", str(int(batch.input_ids[0, i])), str(kind), allowed, label))
    keep = [0, 1, 2, *([3] if task.head == "span" else []), *([4] if task.head != "sequence" else [])]
    header = ("piece", "id", "segment", "may answer", "label")
    parts = [
        "The id is the piece's place in the vocabulary (its line in vocab.txt, counted from 0). The input stands alone "
        "in its batch, so nothing is padded and there is no mask: every piece may be looked at.",
        Grid([header[k] for k in keep], [[row[k] for k in keep] for row in rows], left=True),
        *label_texts(trail),
        why,
    ]
    more = [answer_pieces, label_windows] if task.head == "span" else []
    return Stage("Features and labels", [task.featurize, *more, collate], parts)


def label_texts(trail: Trail) -> list[str]:
    """What is to be said of the labels."""
    labels, gold, head = trail.student.model.config.labels, trail.gold, trail.task.head
    if trail.unknown:
        return [trail.unknown]
    if head == "sequence":
        place = labels.index(gold.label)
        return [f"The label {shorten(gold.label, 40)!r} is number {place} of the {len(labels)} labels, from 0."]
    if head == "token":
        return [
            f"Of {len(labels)} tags; the first piece of each word has the word's tag, and nothing else has any. "
            f"{len(trail.batch.counted)} words have one in this input."
        ]
    start, end = trail.batch.labels[0].tolist()
    if not start:
        return ["No answer is in this window, so position 0, [CLS], is its start and end."]
    text, begin = gold.answers[0], gold.start
    return [
        f"The answer {shorten(text, 60)!r} begins at character {begin} of the context and ends before {begin} + "
        f"{len(text)} = {begin + len(text)}. The first piece of the context that ends behind {begin} is at position "
        f"{start}, the last one that begins before {begin + len(text)} at position {end}: these are the labels."
    ]


# --- logits -> decision ---


def decision_stage(trail: Trail) -> Stage:
    """What both models decide on the example, and what is right."""
    decide = {"sequence": decided_label, "token": decided_tags, "span": decided_answer}[trail.task.head]
    return Stage("The decision", [trail.task.decide], decide(trail))


def decided_label(trail: Trail) -> list[str | Grid]:
    """The label of a text."""
    rows = []
    for name, side in trail.sides.items():
        p = np.exp(log_softmax(side.predictions.logits).max())
        rows.append((name, shorten(side.predictions.decisions[0], 40), f"{p:.4f}"))
    said = "The label with the highest p of the softmax (without temperature) is the answer"
    if trail.data.oos_threshold:
        said += f"; below p = {trail.data.oos_threshold:g} (--oos-threshold) it is out of scope"
    label = trail.gold.label
    said += "." if label is None else f". The file says {shorten(label, 40)!r}."
    return [said, Grid(("model", "label", "p"), rows)]


def decided_tags(trail: Trail) -> list[str | Grid]:
    """The tag of each word of a sentence, and the entities that they make."""
    bounds = trail.features.word_starts[trail.example : trail.example + 2]
    at = trail.features.word_at[slice(*bounds)]
    said = {name: side.predictions.decisions[trail.example] for name, side in trail.sides.items()}
    p = {name: np.exp(log_softmax(side.predictions.logits[at]).max(axis=1)) for name, side in trail.sides.items()}
    followed = at.tolist().index(trail.features.starts[trail.window] + trail.at)
    rows = []
    for w in near(len(at), followed):
        cells = ["", "", "", "", ""]
        if w is not None:
            cells = [cell for name in said for cell in (shorten(said[name][w], 10), f"{p[name][w]:.4f}")]
            cells.append(shorten(trail.gold.tags[w] or "?", 10))
        rows.append(("..." if w is None else shorten(trail.gold.words[w], 20), *cells))
    parts = ["Each word gets the most probable tag of its first piece, with the probability p:"]
    parts.append(Grid(("word", "student", "p", "teacher", "p", "gold"), rows))
    known = {} if None in trail.gold.tags else {"gold": trail.gold.tags}
    for name, tags in (said | known).items():
        found = [f"{' '.join(trail.gold.words[a:b])} {kind}" for kind, a, b in entities(tags)]
        parts.append(f"Entities, {name}: {shorten(', '.join(found), 300) or 'none'}.")
    return parts


def decided_answer(trail: Trail) -> list[str | Grid]:
    """The best answers to a question."""
    example, windows, parts = trail.gold, trail.features, []
    for name, side in trail.sides.items():
        logits, longest = side.predictions.logits, trail.data.answer_length
        ((answers, nothing),) = candidates([example], windows, logits, longest, 3)
        best = [*answers, nothing]
        names = [*(shorten(answer.text, 20) for answer in answers), "(no answer)"]
        rows = [(shown, *ends(windows, logits, answer)) for shown, answer in zip(names, best, strict=True)]
        scores, rest = [answer.score for answer in best], 1 - sum(answer.probability for answer in best)
        if rest > 1e-9:  # the score that all other spans together would have
            surest = max(best, key=lambda answer: answer.probability)
            scores.append(surest.score + float(np.log(rest / surest.probability)))
            names.append("(all other spans)")
        every = list(range(len(scores)))
        grid, said = softmax_grid(names, torch.tensor(scores, dtype=torch.float64), every, "answer", "score")
        grid.rows[-1] = ("all", *grid.rows[-1][1:])
        parts += [
            f"The {name}: a span of at most {longest} pieces has the score start logit + end logit; [CLS] (position 0) "
            f"stands for no answer. From and to are positions{', behind a stroke the window' * (len(windows) > 1)}.",
            Grid(("answer", "from", "to", "start logit", "end logit", "score"), rows),
            f"{said} All other spans together are in it with the ln of their sum of e^score.",
            grid,
        ]
        decided = side.predictions.decisions[trail.example]
        what = f"characters {decided.start} to {decided.end} of the context: {shorten(decided.text, 300)!r}"
        parts.append(f"The {name}'s answer: {what if decided.text else 'none'}.")
        if example.may_be_unanswerable and answers:
            odds = f"1 / (1 + e^({exact(answers[0].score)} - {exact(nothing.score)})) = {exact(decided.no_answer)}"
            parts.append(
                f"No answer against the best span alone has p = {odds}; above {trail.data.null_threshold:g} "
                "(--null-threshold) it wins."
            )
        if example.labelled:
            match, f1 = question_scores(example.answers, decided.text, example.may_be_unanswerable)
            gold = " | ".join(example.answers) or "none"
            parts.append(f"The file says: {shorten(gold, 300)}. Exact match {match:g}, F1 {f1:.4f}.")
    return parts


def ends(windows: EncodedWindows, logits: np.ndarray, answer: Answer) -> tuple[str, ...]:
    """Where an answer's score comes from: first and last position, their logits, and the sum."""
    for w in range(len(windows)):
        row = logits[windows.starts[w] : windows.starts[w + 1]].astype(np.float64)  # S,2
        spans = windows.piece_spans[windows.first_piece[w] :][: len(row) - windows.context_at[w] - 1]
        places = [
            np.flatnonzero(spans[:, k] == x) + windows.context_at[w] for k, x in enumerate((answer.start, answer.end))
        ]
        for first, last in product(*places) if answer.end else [(0, 0)]:
            if row[first, 0] + row[last, 1] == answer.score:
                window = f"/{w + 1}" if len(windows) > 1 else ""
                logits_ = row[first, 0], row[last, 1], answer.score
                return f"{first}{window}", f"{last}{window}", *map(number, logits_)
