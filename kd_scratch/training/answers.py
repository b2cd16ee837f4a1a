"""What answers files mean for the inputs of a run: logits, as if a teacher had made them.

They are log p: softmax(log p / T) is what a live teacher's softmax(t / T) would be. Of several labels they are
log(p / (1 − p)), and the same holds of sigmoid. A row of NaN: no answer.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from kd_scratch.common.console import progress, say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import sha256, sha256_of_file
from kd_scratch.common.source_hash import source_hash
from kd_scratch.data.batches import IGNORE, UNLABELLED, EncodedInputs
from kd_scratch.distillation.answer_file import Answer, AnswersFile, example_hash, log
from kd_scratch.distillation.teacher import features_hash, load_or_compute, mean_probabilities
from kd_scratch.evaluation.inference import logits_shape
from kd_scratch.tasks.feature_cache import chunks
from kd_scratch.tasks.question_answering import answer_pieces, label_windows
from kd_scratch.training.setup import Run


def add_answers(run: Run) -> None:
    """Fill in run.teacher_logits: for each text the mean of the probabilities (at --temperature) in the files that
    answer it. UserError where a text has neither label nor answer; a label without answer teaches alone."""
    inputs, each = run.train_inputs, [cached_logits(run, file) for file in run.answers]
    answered = np.stack([~np.isnan(logits[:, 0]) for logits in each])  # K,rows
    rows, labels = unit_rows(inputs)
    known = answered.any(axis=0)[rows]
    number = rows if inputs.head == "sequence" else np.searchsorted(inputs.starts, rows, side="right") - 1
    lost = np.unique(number[~known & (labels == UNLABELLED)])
    alone = np.unique(number[~known & (labels != UNLABELLED)])
    if len(lost):
        raise UserError(
            f"--answers: {len(lost):,} of {len(inputs):,} inputs have neither label nor answer, the first is "
            f"{inputs.ids[lost[0]]}; write answers for these too (`answers`, with --unlabelled for text alone)"
        )
    if len(alone):
        say(f"note: --answers: {len(alone):,} of {len(inputs):,} inputs have none, they learn from their labels")
    run.partly_taught = not known.all()
    answered[:, ~answered.any(axis=0)] = True  # a mean of nothing is NaN too
    run.teacher_logits = mean_probabilities(each, inputs, run.spec.config.temperature, run.spec.cache, answered)


def unit_rows(inputs: EncodedInputs) -> tuple[np.ndarray, np.ndarray]:
    """The rows of logits that the loss looks at (span head: each window's first), and their first labels."""
    labels = inputs.labels
    if labels.ndim == 2:  # of several labels, one that is known
        labels = labels[:, 0] if inputs.head == "span" else labels.max(axis=1)
    rows = np.flatnonzero((labels != IGNORE) | (inputs.head == "sequence"))
    return (inputs.starts[rows] if inputs.head == "span" else rows), labels[rows]


def cached_logits(run: Run, file: AnswersFile) -> np.ndarray:
    """The logits that a file's answers make, memory-mapped: N,C (sequence head) or ΣS,C."""
    inputs, model = run.train_inputs, run.model.config
    key = {
        "answers": file.sha256,
        "features": features_hash(inputs),
        "texts": sha256(*map(str, run.data.hashes.values()), *inputs.ids),
        "labels": sha256(*model.labels),
        "kind": "sigmoid" if inputs.multi_label else "softmax",  # of which these are logits
        "code": source_hash("training.answers"),
    }
    what = f"answers of {file.path} for {len(inputs):,} inputs"
    fill = partial(fill_logits, run, file)
    return load_or_compute(what, key, logits_shape(run.model, inputs), fill, run.spec.cache)


def fill_logits(run: Run, file: AnswersFile, logits: np.ndarray) -> None:
    """Fill in the answers to the training examples. UserError for a file of other texts, or changed since."""
    used, unfit, place = np.zeros(len(file.ids), np.int32), [], 0
    with progress(run.data.examples, desc=f"reading {file.path.name}", unit="ex") as bar:
        for chunk in chunks(bar, run.task):
            hashes = [example_hash(run.task, example) for example in chunk]
            found, others = file.find([example.id for example in chunk], hashes)
            np.add.at(used, found[found >= 0], 1)
            unfit.append(others)
            rows = ROWS[run.task.head](run, chunk, [file.rows[i] if i >= 0 else None for i in found], str(file.path))
            logits[place : place + len(rows)] = rows
            place += len(rows)
    if len(shared := np.flatnonzero((used > 1) & (file.texts == 0))):
        answer = file.rows[shared[0]]
        what = f'has no text, and two texts are called {answer.id}; give its "text" or "hash" too'
        raise UserError(f"{file.path}: line {answer.line}: {what}")
    unfit = np.concatenate(unfit)
    if run.spec.unlabelled and run.spec.unlabelled.name == run.spec.train.name:
        unfit = unfit[:0]  # ids of both are alike; it may be about a text that is held out
    if len(unfit := unfit[used[unfit] == 0]):  # of two texts with one id, each has its own line
        answer = file.rows[unfit[0]]
        what = f"is about another text than {answer.id} is now; write the answers anew, or delete the line"
        raise UserError(f"{file.path}: line {answer.line}: {what}")
    if not used.any():
        what = f"is about no text of --train, where ids are such as {run.data.examples[0].id}"
        raise UserError(f"{file.path}: {what}; write the answers for that file")
    if not used.all():
        say(f"note: {file.path}: {(used == 0).sum():,} of {len(used):,} lines are about texts that are not learned")
    if sha256_of_file(file.path) != file.sha256:
        raise UserError(f"{file.path}: has been changed while it was read; start again")


# --- answers -> rows of logits, by head: NaN where there is no answer ---


def rows_of_texts(run: Run, chunk: list, answers: Sequence[Answer | None], path: str) -> np.ndarray:
    """One row a text: E,C"""
    rows = np.full((len(chunk), run.model.config.classes), np.nan, np.float32)
    for row, answer in zip(rows, answers, strict=True):
        row[:] = np.nan if answer is None else answer.value
    return rows


def rows_of_words(run: Run, chunk: list, answers: Sequence[Answer | None], path: str) -> np.ndarray:
    """One row a token, those of words at their first pieces: ΣS,C"""
    part = featurize(run, chunk)
    rows = np.full((len(part.tokens), run.model.config.classes), np.nan, np.float32)
    for example, answer, first in zip(chunk, answers, part.word_starts[:-1], strict=True):
        if answer is not None and len(answer.value) != len(example.words):
            what = f"has {len(answer.value)} words, {example.id} has {len(example.words)}; give one object a word"
            raise UserError(f"{path}: line {answer.line}: {what}")
        if answer is not None:
            rows[part.word_at[first : first + len(example.words)]] = answer.value
    return rows


def rows_of_questions(run: Run, chunk: list, answers: Sequence[Answer | None], path: str) -> np.ndarray:
    """One row a token, for starts and for ends; 0 where none may be: ΣS,2"""
    windows = featurize(run, chunk)
    rows = np.where(windows.allowed[:, None], np.full(2, np.nan, np.float32), np.float32(0))
    bounds = np.searchsorted(windows.example, np.arange(len(chunk) + 1))
    for example, answer, *numbers in zip(chunk, answers, bounds[:-1], bounds[1:], strict=True):
        if answer is not None:
            targets = span_targets(windows, slice(*numbers), example, answer, f"{path}: line {answer.line}")
            tokens = slice(windows.starts[numbers[0]], windows.starts[numbers[1]])
            rows[tokens][windows.allowed[tokens]] = log(np.concatenate(targets))
    return rows


def span_targets(windows, numbers: slice, example, answer: Answer, place: str) -> list[np.ndarray]:
    """The distributions of starts and of ends over the allowed positions of each of an example's windows.

    Where a text stands several times and "start" is not given, its places share its mass. In a window that does not
    hold all of a span, that mass is at [CLS], as a label is; the rest's is spread evenly over all positions.
    """
    at, base = windows.context_at[numbers][0], windows.first_piece[numbers][0]
    sizes = windows.lengths[numbers] - at - 1
    firsts = windows.first_piece[numbers] - base
    bounds = list(zip(firsts, firsts + sizes, strict=True))
    pieces = windows.piece_spans[base : base + bounds[-1][1]]
    targets = [np.zeros((1 + size, 2)) for size in sizes]
    spans, rest = answer.value
    for text, start, mass in spans:
        anywhere = (i for i in range(len(example.context)) if example.context.startswith(text, i))
        places = [0] if not text else [start] if start is not None else list(anywhere)
        if not places or not example.context.startswith(text, places[0]):
            what = f"{text[:60]!r} does not stand {'there ' * (start is not None)}in the context of {example.id}"
            raise UserError(f"{place}: {what}; write it as it stands there, or leave it out")
        for start in places:
            asked = replace(example, answers=(text,) * bool(text), start=start)
            for target, label in zip(targets, label_windows(answer_pieces(asked, pieces), bounds, at), strict=True):
                first, last = (max(0, position - at + 1) for position in label)  # row 0: [CLS], then the context
                target[first, 0] += mass / len(places)
                target[last, 1] += mass / len(places)
    return [(target + rest / len(target)) / (target.sum(axis=0) + rest) for target in targets]


ROWS = {"sequence": rows_of_texts, "token": rows_of_words, "span": rows_of_questions}


def featurize(run: Run, chunk: list) -> EncodedInputs:
    """The inputs of some training examples, with what decoding needs."""
    return run.task.featurize(chunk, run.data.tokenizer, run.data.labels, run.spec.config.max_length, run.spec.data)
