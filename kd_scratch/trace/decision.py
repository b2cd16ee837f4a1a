"""The last stage of `trace`: what both models decide on the example, and what is right."""

from itertools import product

import numpy as np
import torch

from kd_scratch.common.console import shorten
from kd_scratch.tasks.base import log_softmax
from kd_scratch.tasks.multi_label import sigmoid, threshold_of
from kd_scratch.tasks.question_answering import Answer, EncodedWindows, candidates
from kd_scratch.tasks.squad_metric import question_scores
from kd_scratch.tasks.token_classification import list_entities, probabilities
from kd_scratch.trace.stages import Grid, Stage, exact, near, number, softmax_grid
from kd_scratch.trace.trail import Side, Trail, word_places


def decision_stage(trail: Trail) -> Stage:
    """The decision of the task on the example, with both models."""
    decide = {"sequence": decided_label, "token": decided_tags, "span": decided_answers}[trail.task.head]
    decide = decided_labels if trail.task.multi_label else decide
    return Stage("The decision", [trail.task.decide], decide(trail))


def decided_label(trail: Trail) -> list[str | Grid]:
    """The label of a text."""
    rows = []
    for name, side in trail.sides.items():
        p = np.exp(log_softmax(side.predictions.logits).max())
        rows.append((name, shorten(side.predictions.decisions[0], 40), f"{p:.4f}"))
    text = "The label with the highest p of the softmax (without temperature) is the answer"
    if trail.data.oos_threshold:
        text += f"; below p = {trail.data.oos_threshold:g} (--oos-threshold) it is out of scope"
    label = trail.task.gold(trail.gold)
    text += "." if label is None else f". The label in the file is {shorten(label, 40)!r}."
    return [text, Grid(("model", "label", "p"), rows)]


def decided_labels(trail: Trail) -> list[str | Grid]:
    """The labels of a text, where it may have several."""
    names, known = trail.labels, trail.task.gold(trail.gold)
    columns, thresholds = [], []
    for name, side in trail.sides.items():
        found = side.predictions
        p = dict(zip(found.labels, sigmoid(found.logits)[0].tolist(), strict=True))
        columns += [[f"{p[label]:.4f}", "yes" if label in found.decisions[0] else "no"] for label in names]
        thresholds.append(f"{threshold_of(found):.4f} ({name})")
    gold = ["?" if known is None else "yes" if label in known else "no" for label in names]
    student, teacher = columns[: len(names)], columns[len(names) :]
    rows = [(shorten(label, 20), *a, *b, g) for label, a, b, g in zip(names, student, teacher, gold, strict=True)]
    rows = [("...", *[""] * 5) if i is None else rows[i] for i in near(len(rows), trail.unit)]
    text = f"The text gets the labels whose p = sigmoid(z) (without temperature) is {' and '.join(thresholds)} or more:"
    return [text, Grid(("label", "student", "gets", "teacher", "gets", "gold"), rows)]


def decided_tags(trail: Trail) -> list[str | Grid]:
    """The tag of each word of a sentence, and the entities that they make."""
    gold = trail.gold
    tags = {name: side.predictions.decisions[trail.place] for name, side in trail.sides.items()}
    places = word_places(trail.student.predictions, trail.place)
    first, after = trail.features.word_starts[trail.place : trail.place + 2]
    p = {name: probabilities(side.predictions)[first:after] for name, side in trail.sides.items()}
    followed = places.tolist().index(trail.features.starts[trail.window] + trail.position)
    rows = []
    for w in near(len(places), followed):
        if w is None:
            rows.append(("...", "", "", "", "", ""))
            continue
        cells = [cell for name in tags for cell in (shorten(tags[name][w], 10), f"{p[name][w]:.4f}")]
        rows.append((shorten(gold.words[w], 20), *cells, shorten(gold.tags[w] or "?", 10)))
    parts = ["Each word gets the most probable tag of its first piece, with the probability p:"]
    parts.append(Grid(("word", "student", "p", "teacher", "p", "gold"), rows))
    known = {} if None in gold.tags else {"gold": gold.tags}
    for name, sequence in (tags | known).items():
        parts.append(f"Entities, {name}: {shorten(list_entities(gold.words, sequence), 300)}.")
    return parts


def decided_answers(trail: Trail) -> list[str | Grid]:
    """Both models' answers to a question."""
    return [part for name, side in trail.sides.items() for part in decided_answer(trail, name, side)]


def decided_answer(trail: Trail, name: str, side: Side) -> list[str | Grid]:
    """One model's best answers to a question, its decision, and how right that is."""
    example, windows = trail.gold, trail.features
    longest = trail.data.answer_length
    logits = side.predictions.logits
    ((answers, nothing),) = candidates([example], windows, logits, longest, 3)
    best = [*answers, nothing]
    names = [*(shorten(answer.text, 20) for answer in answers), "(no answer)"]
    rows = [(shown, *ends(windows, logits, answer)) for shown, answer in zip(names, best, strict=True)]
    scores = [answer.score for answer in best]
    rest = 1 - sum(answer.probability for answer in best)
    if rest > 1e-9:  # the score that all other spans together would have
        surest = max(best, key=lambda answer: answer.probability)
        scores.append(surest.score + float(np.log(rest / surest.probability)))
        names.append("(all other spans)")
    grid, text = softmax_grid(
        names, torch.tensor(scores, dtype=torch.float64), list(range(len(scores))), "answer", "score"
    )
    grid.rows[-1] = ("all", *grid.rows[-1][1:])
    decided = side.predictions.decisions[trail.place]
    what = f"characters {decided.start} to {decided.end} of the context: {shorten(decided.text, 300)!r}"
    parts = [
        f"The {name}: a span of at most {longest} pieces has the score start logit + end logit; [CLS] (position 0) "
        f"stands for no answer. From and to are positions{', behind a stroke the window' * (len(windows) > 1)}.",
        Grid(("answer", "from", "to", "start logit", "end logit", "score"), rows),
        f"{text} All other spans together are in it with the ln of their sum of e^score.",
        grid,
        f"The {name}'s answer: {what if decided.text else 'none'}.",
    ]
    if example.may_be_unanswerable and answers:
        odds = f"1 / (1 + e^({exact(answers[0].score)} - {exact(nothing.score)})) = {exact(decided.no_answer)}"
        parts.append(
            f"No answer against the best span alone has p = {odds}; above {trail.data.null_threshold:g} "
            "(--null-threshold) it wins."
        )
    if example.labelled:
        match, f1 = question_scores(example.answers, decided.text, example.may_be_unanswerable)
        gold = " | ".join(example.answers) or "none"
        parts.append(f"Answers in the file: {shorten(gold, 300)}. Exact match {match:g}, F1 {f1:.4f}.")
    return parts


def ends(windows: EncodedWindows, logits: np.ndarray, answer: Answer) -> tuple[str, ...]:
    """Where an answer's score comes from: first and last position, their logits, and the sum."""
    for w in range(len(windows)):
        row = logits[windows.starts[w] : windows.starts[w + 1]].astype(np.float64)  # S,2
        first_position = windows.context_at[w]
        spans = windows.piece_spans[windows.first_piece[w] :][: len(row) - first_position - 1]
        starts = np.flatnonzero(spans[:, 0] == answer.start) + first_position
        lasts = np.flatnonzero(spans[:, 1] == answer.end) + first_position
        for first, last in product(starts, lasts) if answer.end else [(0, 0)]:
            if row[first, 0] + row[last, 1] == answer.score:
                window = f"/{w + 1}" if len(windows) > 1 else ""
                numbers = map(number, (row[first, 0], row[last, 1], answer.score))
                return f"{first}{window}", f"{last}{window}", *numbers
