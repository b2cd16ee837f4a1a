"""Files of SQuAD, versions 1.1 and 2.0: JSON -> questions with their contexts and answers.

An answer is a span of the context (Rajpurkar et al. 2016); in version 2.0 some questions have none (Rajpurkar et al.
2018).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from kd_scratch.common.console import Say, say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_length
from kd_scratch.common.text_file import open_text
from kd_scratch.config import DataConfig


@dataclass(frozen=True)
class Example:
    """One question about one context, with its gold answers (none: it cannot be answered)."""

    id: str
    question: str
    context: str
    answers: tuple[str, ...] = ()
    start: int | None = None  # code point at which the first answer begins; None: no answer, or not to be found
    moved: bool = False  # the file's answer_start was wrong; `start` is where the text occurs, exactly once
    may_be_unanswerable: bool = False  # the file is of version 2.0
    labelled: bool = True  # False: the answer is unknown, for soft targets


class Node(NamedTuple):
    """A JSON value and its place in the file, such as data[0].paragraphs[3]."""

    value: dict
    path: Path
    place: str

    def items(self, key: str) -> Iterator["Node"]:
        """The objects in the list under a key. UserError where there is no such list."""
        place = f"{self.place}.{key}".lstrip(".")
        values = self.value.get(key) if isinstance(self.value, dict) else None
        if not isinstance(values, list):
            raise UserError(f"{self.path}: is not SQuAD's JSON: {place} must be a list")
        for i, value in enumerate(values):
            if not isinstance(value, dict):
                raise UserError(f"{self.path}: is not SQuAD's JSON: {place}[{i}] must be an object")
            yield Node(value, self.path, f"{place}[{i}]")

    def text(self, key: str) -> str:
        """The string under a key. UserError where there is none."""
        if not isinstance(self.value.get(key), str):
            raise UserError(f"{self.path}: is not SQuAD's JSON: {self.place}.{key} must be a string")
        return self.value[key]


def read_squad(path: Path, split: str, data: DataConfig, say: Say = say) -> list[Example]:
    """All questions of {"data": [{"paragraphs": [{"context", "qas": [{"id", "question", "answers": [{"text",
    "answer_start"}]}]}]}]}.

    Keys beyond these are ignored, but for "is_impossible", which marks version 2.0: where it is true, "answers" may be
    missing. (Whether a question has an answer is decided by "answers", as in the official script.)
    Raises UserError with the place of what is odd.
    """
    examples = []
    version2 = False
    places: dict[str, str] = {}  # id -> where it stands
    for article in Node(open_text(path, data.encoding, say).json(), path, "").items("data"):
        for paragraph in article.items("paragraphs"):
            context = paragraph.text("context")
            check_length(context, f"{path}: {paragraph.place}.context")
            for qa in paragraph.items("qas"):
                example = read_question(qa, context)
                if example.id in places:
                    raise UserError(
                        f"{path}: {qa.place}.id: {example.id[:60]!r} is the id of {places[example.id]} too; "
                        "each needs its own"
                    )
                places[example.id] = qa.place
                version2 = version2 or "is_impossible" in qa.value or not example.answers
                examples.append(example)
    return [replace(example, may_be_unanswerable=True) for example in examples] if version2 else examples


def read_question(qa: Node, context: str) -> Example:
    """One entry of "qas" about a context."""
    if qa.value.get("is_impossible") is True:
        qa.value.setdefault("answers", [])
    texts, starts = [], []
    for answer in qa.items("answers"):
        start = answer.value.get("answer_start")
        if type(start) is not int or start < 0:
            raise UserError(f"{qa.path}: {answer.place}.answer_start: must be a number, 0 or more")
        texts.append(answer.text("text"))
        starts.append(start)
    start, moved = locate(context, texts[0], starts[0]) if texts else (None, False)
    key = qa.text("id")
    question = qa.text("question")
    check_length(question, f"{qa.path}: {qa.place}.question")
    return Example(key, question, context, tuple(texts), start, moved)


def locate(context: str, answer: str, start: int) -> tuple[int | None, bool]:
    """Where an answer begins, and whether the file has it elsewhere. None: nowhere, or at several places."""
    if context[start : start + len(answer)] == answer:
        return (start, False) if answer else (None, False)
    first = context.find(answer)
    unique = first >= 0 and context.find(answer, first + 1) < 0
    return (first, True) if unique else (None, False)


def trainable(examples: Sequence[Example]) -> tuple[list[Example], list[str]]:
    """The examples whose answer is where the file has it, or was found elsewhere; and notes about the others."""
    keep = [example for example in examples if example.start is not None or not example.answers]
    lost = [example.id for example in examples if example.start is None and example.answers]
    moved = sum(example.moved for example in keep)
    notes = []
    if moved:
        notes.append(f"wrong answer_start, repaired: {moved:,} (the answer occurs exactly once in its context)")
    if lost:
        notes.append(
            f"questions left out of training: {len(lost):,}, their answer is not at answer_start and not at exactly "
            f"one other place: {', '.join(lost[:5])}{', …' if len(lost) > 5 else ''}"
        )
    return keep, notes
