"""Files of SQuAD, versions 1.1 and 2.0, and their relatives: JSON -> questions with contexts and answers.

An answer is a span of the context (Rajpurkar et al. 2016); in version 2.0 some questions have none (Rajpurkar et
al. 2018). The official form has three levels of lists:

    {"data": [{"paragraphs": [{"context", "qas": [{"id", "question", "answers": [{"text", "answer_start"}]}]}]}]}

Any of them may be missing, down to JSON lines as the hub's data sets are written:

    {"id", "question", "context", "answers": {"text": […], "answer_start": […]}}

What had to be repaired or decided is counted, and said in one line for each kind.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from kd_scratch.common.console import Say, say
from kd_scratch.common.errors import UserError
from kd_scratch.common.text_file import TextFile, open_text
from kd_scratch.config import DataConfig
from kd_scratch.data.json_lines import find_object, json_rows, parse_line
from kd_scratch.data.rows import Subset
from kd_scratch.tasks.answer_places import MOVED, locate
from kd_scratch.tasks.columns import named
from kd_scratch.tasks.squad_answers import Node, answer_list, answer_start, detected_in
from kd_scratch.tasks.text_files import is_table_of_texts, read_texts
from kd_scratch.tasks.unlabelled_file import sample_of_table

LEVELS = ("", "data", "paragraphs", "qas")  # lists within lists; "": the file itself is one
FROM_TABLE = "write a JSON object for each row, on a line of its own, with answers as plain texts or as objects"
MRQA = re.compile(r'\s*{\s*"header"\s*:')  # how its files begin: a line about the file


@dataclass(frozen=True)
class Example:
    """One question about one context, with its gold answers (none: it cannot be answered)."""

    id: str
    question: str
    context: str
    answers: tuple[str, ...] = ()
    start: int | None = None  # code point at which the first answer begins; None: no answer, or not to be found
    moved: bool = False  # the file has no start, or a wrong one; `start` is where the text was found
    may_be_unanswerable: bool = False  # the file is of version 2.0
    labelled: bool = True  # False: the answer is unknown, for soft targets
    article: str = ""  # the title of what the context is from, where the file has it


# --- file -> examples ---


def read_squad(path: Path, split: str, data: DataConfig, say: Say = say, labelled: bool = True) -> Sequence[Example]:
    """All questions of a file, with their contexts and answers; those of JSON lines stay in it until asked for.

    Other keys are ignored, but for "is_impossible", which marks version 2.0: where it is true, "answers" may be
    missing. (Whether a question has an answer is decided by "answers", as in the official script.)
    labelled: False to leave the answers alone; ids are then told from those of other files by the file's name.
    Raises UserError with the place of what is odd.
    """
    reader = Reader(path, data, labelled, contexts=not labelled)
    file = open_text(path, data.encoding, say)
    is_table = labelled and file.first_line()[:1] not in ("{", "[")
    if is_table and has_columns(file, (data.question_column, data.context_column)):
        raise UserError(f"{path}: is a table; {FROM_TABLE}")
    if is_json_lines(file, data.question_column):
        examples = json_rows(file, lambda i, value: reader.example(Node(value, path, f"line {i}"), None))
        reader.finish(len(examples), say)
        return examples
    root = root_of(file)
    examples = [reader.example(node, context) for node, context in reader.questions(root, LEVELS, None)]
    reader.finish(len(examples), say)
    return [replace(example, may_be_unanswerable=True) for example in examples] if reader.version2 else examples


def root_of(file: TextFile) -> Node:
    """All that a file of JSON holds, or its lines. UserError where that is neither an object nor a list."""
    objects = several_objects(file)
    value = [parse_line(text, i, str(file.path)) for i, text in objects] if objects else file.json()
    if not isinstance(value, dict | list):
        raise UserError(f"{file.path}: is not SQuAD's JSON: it must be an object or a list")
    return Node({"": value} if isinstance(value, list) else value, file.path, "")


def read_without_answers(path: Path, data: DataConfig, say: Say, name: str) -> Sequence[Example]:
    """The questions of a file as above or of a table, whose answers are not looked at; or each text of one of texts as
    a context, without question. name: of the file, in messages. UserError as of read_squad and read_texts."""
    file = open_text(path, data.encoding)
    first = next(lines_of(file), (0, ""))[1].strip()
    row = find_object(first) or {}
    is_json = not row and re.match(r"\{\s*(\"|$)|\[\s*(\{|$)", first)
    if data.question_column in row or has_lists(file, data.question_column) or is_json:
        return read_squad(path, "", data, say, labelled=False)
    names = data.question_column, data.context_column
    if not row and has_columns(file, names):

        def example(place: str, question: str, context: str) -> Example | None:
            whole = question.strip() and context.strip()
            return Example(place, question, context, labelled=False) if whole else None

        return read_texts(path, replace(data, text_column=",".join(names)), say, example, name, pairs=True)
    if data.text_column == DataConfig.text_column:
        data = replace(data, text_column=data.context_column)
    return read_texts(path, data, say, lambda place, text: Example(place, "", text, labelled=False), name)


def has_columns(file: TextFile, names: Sequence[str]) -> bool:
    """Whether it is a table with columns of these names."""
    is_table = is_table_of_texts(file, names)
    return is_table and all(named(sample_of_table(file, names)[0], name) for name in names)


def lines_of(file: TextFile) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines that are not blank, but for the header that MRQA's files begin with."""
    lines = ((i, text) for i, (_, text) in enumerate(file.lines(), 1) if text.strip())
    return (line for line in lines if not (line[0] == 1 and MRQA.match(line[1])))


def several_objects(file: TextFile) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers, where the first of several is an object; else none."""
    lines = lines_of(file)
    first = list(islice(lines, 2))
    is_several = len(first) > 1 or (first and first[0][0] > 1 and MRQA.match(file.first_line()))
    return [*first, *lines] if is_several and find_object(first[0][1]) is not None else []


def is_json_lines(file: TextFile, question: str) -> bool:
    """Whether each line is a question: the first of several is an object without a list of them."""
    lines = lines_of(file)
    is_object = find_object(next(lines, (0, ""))[1]) is not None
    return is_object and next(lines, None) is not None and not has_lists(file, question)


def has_lists(file: TextFile, question: str) -> bool:
    """Whether the first line is no question, but has a list of paragraphs or of questions: {"context", "qas"}."""
    first = find_object(next(lines_of(file), (0, ""))[1]) or {}
    return question not in first and any(isinstance(first.get(key), list) for key in LEVELS[1:])


class Reader:
    """Makes the examples of one file, and counts what it repairs or decides on the way."""

    def __init__(self, path: Path, data: DataConfig, labelled: bool, contexts: bool = False):
        self.path = path
        self.labelled = labelled
        self.contexts = contexts  # one without questions counts as a question whose text is empty
        self.data = data
        self.counts: Counter[str] = Counter()  # of what is told
        self.seen: set[str] | None = set()  # the ids so far; None when all have been seen
        self.renamed: dict[str, str] = {}  # place -> id of a question whose own id was there before
        self.unanswered = 0
        self.version2 = False  # some question has is_impossible, or no answer

    def questions(self, node: Node, levels: Sequence[str], context: Node | None) -> Iterator[tuple[Node, ...]]:
        """The questions below a node, each with the node that has its context."""
        if self.data.context_column in node.value:
            if self.seen is not None:  # else each question is read, or refused, by itself
                node.text(self.data.context_column)
            context = node
        for depth, key in enumerate(levels, 1):
            if key in node.value:
                items = list(node.items(key))
                for item in items:
                    yield from self.questions(item, levels[depth:], context)
                if items or not (self.contexts and context is node):
                    return
        if not node.place and self.data.question_column not in node.value:
            raise node.error("data", f"must be a list{node.has('data')}")
        yield node, context

    def example(self, node: Node, context: Node | None) -> Example:
        """One question; its context is its own where no node above it has one."""
        bare = self.contexts and self.data.question_column not in node.value and context is node
        question = "" if bare else node.text(self.data.question_column)
        text = (context or node).text(self.data.context_column)
        if not self.labelled:
            return Example(f"{self.path.name}:{self.id(node)}", question, text, labelled=False)
        found = [locate(text, answer, given) for answer, given in self.answers(node)]
        if found and all(place is None for _, place, _ in found) and (detected := detected_in(text, node.value)):
            self.counts["questions whose answers their context spells otherwise: detected_answers tell how"] += 1
            found.insert(0, (*detected, None))
        if (best := next((i for i, (_, place, _) in enumerate(found) if place is not None), 0)) > 0:
            self.counts["questions whose first answer has no clear place: another one is learned"] += 1
            found.insert(0, found.pop(best))
        start, moved = None, False
        if found:
            _, start, repair = found[0]  # the one that is learned
            moved = repair == MOVED
            if repair not in (None, MOVED):
                self.counts[repair] += 1
        answers = [answer for answer, _, _ in found]
        self.unanswered += not answers and "is_impossible" not in node.value
        self.version2 = self.version2 or "is_impossible" in node.value or not answers
        return Example(self.id(node), question, text, tuple(answers), start, moved, self.version2, article=node.title)

    def id(self, node: Node) -> str:
        """The question's id, as text; made of its place where it has none, or another question has the same."""
        value = next((node.value[key] for key in ("id", "qid") if node.value.get(key) not in (None, "")), None)
        if value in (None, ""):
            self.counts["questions without an id, so named by their place"] += 1
            value = node.place or "the only one"
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise node.error("id", "must be a string or a number")
        value = str(value)
        if self.seen is not None:
            if value in self.seen:
                self.counts["ids that an earlier question has, so their place is added"] += 1
                while value in self.seen:
                    value += f" ({node.place})"
                self.renamed[node.place] = value
            self.seen.add(value)
        return self.renamed.get(node.place, value)

    def answers(self, node: Node) -> list[tuple[str, int | None]]:
        """The texts of the answers, and where they begin, as far as the file knows."""
        key = self.data.answers_column
        impossible = str(node.value.get("is_impossible")).lower() in ("true", "1")
        if node.value.get(key) is None:
            if key not in node.value and not impossible:
                raise node.error(key, f"must be a list, an empty one where there is no answer{node.has(key)}")
            if not impossible:
                self.counts["questions whose answers are null, taken for none"] += 1
            return []
        answers = []
        for i, answer in enumerate(answer_list(node, key)):
            place = Node(answer, node.path, node.at(f"{key}[{i}]"))
            if answer.get("text", 0) is not None and place.text("text").strip():
                answers.append((answer["text"], answer_start(place)))
            else:
                self.counts["answers of nothing but blanks, taken for none"] += 1
        if impossible and answers:
            self.counts["questions that is_impossible calls unanswerable, but with answers, which hold"] += 1
        return answers

    def finish(self, total: int, say: Say) -> None:
        """Tell what was repaired or decided. From here on ids are known to be repeated or not."""
        self.seen = None
        for what, count in self.counts.items():
            say(f"{self.path}: {what}: {count:,}")
        if self.unanswered:
            say(f"{self.path}: {self.unanswered:,} of {total:,} questions have no answer: rules of version 2.0")


def trainable(examples: Sequence[Example]) -> tuple[Sequence[Example], list[str]]:
    """The examples whose answer is where the file has it, or was found elsewhere; and notes about the others.

    UserError where no answer was found.
    """
    keep, lost = [], []
    moved = 0
    for i, example in enumerate(examples):
        if example.start is None and example.answers:
            lost.append(example.id)
        else:
            keep.append(i)
            moved += example.moved
    if lost and not keep:
        what = f"none of the {len(lost):,} answers has a clear place in its context"
        raise UserError(f"{lost[0]}: {what}; do they belong together?")
    notes = []
    if moved:
        how = "the answer occurs once in its context, or once near there"
        notes.append(f"answer_start wrong or missing, repaired: {moved:,} ({how})")
    if lost:
        notes.append(
            f"questions left out of training: {len(lost):,} of {len(examples):,}, their answer is not at answer_start, "
            f"nor, as whole words, at exactly one other place: {', '.join(lost[:5])}{', …' if len(lost) > 5 else ''}"
        )
    return Subset(examples, keep) if lost else examples, notes
