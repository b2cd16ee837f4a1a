"""Answers in SQuAD's files and their relatives: a JSON object -> their texts, and where they begin.

{"answers": [{"text": "90 metres", "answer_start": 18}]}                      the official form
{"answers": {"text": ["90 metres"], "answer_start": [18]}}                    the hub's
{"answers": ["90 metres"], "answer_start": [18]}                              two lists
{"answers": ["90 metres"],                                                    MRQA's, to the last character
 "detected_answers": [{"text": "90 metres", "char_spans": [[18, 26]]}]}
"""

import ast
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_length

PRINTED = re.compile(r"""\s*(\[\s*)?\{\s*['"]\w+['"]\s*:|\s*\[\s*['"]""")  # an object or a list in the cell of a table
FLAGS = "; choose its names with --question-column, --context-column and, where answers are read, --answers-column"


class Node(NamedTuple):
    """A JSON object and its place in the file, such as data[0].paragraphs[3]."""

    value: dict
    path: Path
    place: str
    above: str = ""  # the title of the article that it is in

    @property
    def title(self) -> str:
        """The title of the article that this is, or is in; "" where none is known."""
        own = self.value.get("title")
        return own if isinstance(own, str) and own.strip() else self.above

    def at(self, key: str) -> str:
        """The place of what stands under a key: data[0].paragraphs, or line 3: question."""
        return f"{self.place}{': ' if self.place.startswith('line ') else '.'}{key}".strip(".")

    def error(self, key: str, problem: str) -> UserError:
        """What is wrong with the value under a key."""
        return UserError(f"{self.path}: is not SQuAD's JSON: {self.at(key)} {problem}")

    def items(self, key: str) -> Iterator["Node"]:
        """The objects in the list under a key. UserError where there is no such list."""
        values = self.value.get(key)
        if not isinstance(values, list):
            raise self.error(key, "must be a list")
        for i, value in enumerate(values):
            if not isinstance(value, dict):
                raise self.error(f"{key}[{i}]", "must be an object")
            yield Node(value, self.path, self.at(f"{key}[{i}]"), self.title)

    def text(self, key: str) -> str:
        """The string under a key. UserError where there is none, or too long a one."""
        if not isinstance(self.value.get(key), str):
            raise self.error(key, f"must be a string{self.has(key)}")
        check_length(self.value[key], f"{self.path}: {self.at(key)}")
        return self.value[key]

    def has(self, key: str) -> str:
        """What stands there instead of a key, for a message."""
        if key in self.value:
            return ""
        there = f"; there is only {', '.join(self.value)[:200] or 'an empty object'}"
        flat = len(self.value) > 1 and not (key == "data" and any(isinstance(v, list) for v in self.value.values()))
        return there + (FLAGS if flat else "")


def answer_list(node: Node, key: str) -> list[dict]:
    """The answers under a key as objects with text and answer_start.

    They may be there as one object, as strings, or as an object of two lists. UserError for anything else.
    """
    value = node.value[key]
    if isinstance(value, str) and PRINTED.match(value):
        value = printed_object(node, key)
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        texts = value["text"]
        starts = [None] * len(texts) if value.get("answer_start") is None else value["answer_start"]
        if not isinstance(starts, list) or len(starts) != len(texts):
            raise node.error(f"{key}.answer_start", f"must be a list of {len(texts)}, one for each text")
        return [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if isinstance(value, str | dict):
        value = [value]
    if not isinstance(value, list):
        raise node.error(key, "must be a list")
    starts = starts_beside(node, key, value)
    value = [
        {"text": item, "answer_start": start} if isinstance(item, str) else item
        for item, start in zip(value, starts, strict=True)
    ]
    for i, item in enumerate(value):
        if not isinstance(item, dict):
            raise node.error(f"{key}[{i}]", "must be an object")
    return value


def starts_beside(node: Node, key: str, answers: list) -> list:
    """Where each of the answers under a key begins that are strings: beside them stands the start of the first, or a
    list of as many; or MRQA's files have found them. UserError for a list of others."""
    starts = node.value.get("answer_start")
    starts = starts if isinstance(starts, list) else [] if starts is None else [starts]
    if answers and (len(starts) == 1 or (starts and len(answers) == 1)):
        return [starts[0], *[None] * (len(answers) - 1)]
    if starts and any(isinstance(answer, str) for answer in answers):
        if len(starts) != len(answers):
            raise node.error("answer_start", f"must be a list of {len(answers)}, one for each of {key}")
        return starts
    detected = {text: start for text, start, _ in reversed(detected_answers(node.value))}
    return [detected.get(answer) if isinstance(answer, str) else None for answer in answers]


def printed_object(node: Node, key: str) -> dict | list:
    """The object or list that a text under a key is, written as JSON or as Python prints it. UserError where it
    is neither; an array of numpy looks like a list, in which Python would join the strings."""
    text = node.value[key]
    for read in (json.loads, ast.literal_eval)[: 1 if re.search(r"""['"]\s+['"]""", text) else 2]:
        with suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return read(text)
    example = '{"text": ["a"], "answer_start": [3]}'
    raise node.error(key, f"is an object as a program prints it; write it as JSON, as in {example}")


def detected_answers(question: dict) -> list[tuple[str, int, int]]:
    """The answers that MRQA's files have found: text, where it is first, and its last character."""
    detected = question.get("detected_answers")
    if isinstance(detected, dict):  # as the hub writes it: lists in objects
        with suppress(LookupError, TypeError, ValueError):
            spans = [[*zip(spans["start"], spans["end"], strict=True)] for spans in detected["char_spans"]]
            detected = [
                {"text": text, "char_spans": places} for text, places in zip(detected["text"], spans, strict=True)
            ]
    answers = []
    for found in detected if isinstance(detected, list) else ():
        with suppress(LookupError, TypeError, ValueError):
            start, end = found["char_spans"][0]
            if isinstance(found["text"], str) and type(start) is type(end) is int and 0 <= start <= end:
                answers.append((found["text"], start, end))
    return answers


def detected_in(context: str, question: dict) -> tuple[str, int] | None:
    """The first such answer as its context spells it, and where it begins; None where there is none."""
    for text, start, end in detected_answers(question):
        spelled = context[start : end + 1]
        same, other = ("".join(filter(str.isalnum, form.casefold())) for form in (spelled, text))
        if same == other != "":
            return spelled, start
    return None


def answer_start(answer: Node) -> int | None:
    """Where an answer begins. None where the file does not know: missing, null or below 0."""
    value = answer.value.get("answer_start")
    if value is None:
        return None
    if isinstance(value, str):
        with suppress(ValueError):
            value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise answer.error("answer_start", "must be a whole number (of characters), or null")
    return value if value >= 0 else None
