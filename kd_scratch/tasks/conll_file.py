"""Files of CoNLL's kind: columns of words and tags -> sentences (Tjong Kim Sang & De Meulder 2003)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_scratch.common.console import Say, say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_length
from kd_scratch.common.text_file import open_text
from kd_scratch.config import DataConfig
from kd_scratch.tasks.conll_metric import TAG, scheme, to_iob2


@dataclass(frozen=True)
class Example:
    """One sentence: its words, and a tag in IOB2 for each. The id is its place, as in "train.txt:3" (the line)."""

    id: str
    words: tuple[str, ...]
    tags: tuple[str | None, ...]  # None: unlabelled, for soft targets
    document: str  # sentences of one document have the same
    scheme: str = "IOB2"  # how the file writes its tags


def read_conll(path: Path, split: str, data: DataConfig, say: Say = say) -> list[Example]:
    """The sentences of a file with one word a line, its columns apart by spaces or tabs: the word first, its tag last.

    A blank line ends a sentence. -DOCSTART- lines begin a document; without any, each sentence is a document of its
    own. Tags may be IOB1, IOB2 or IOBES. Raises UserError with the odd line.
    """
    sentences: list[_Sentence] = []
    document = ""
    columns = 0
    inside = False  # of a sentence
    for number, line in enumerate(open_text(path, data.encoding, say).text().split("\n"), 1):
        line = line.removesuffix("\r").strip(" ")
        if not line.strip("\t"):
            inside = False
            continue
        cells = [cell.strip(" ") for cell in line.split("\t")] if "\t" in line else re.split(" +", line)
        if cells[0] == "-DOCSTART-":
            document = f"{path.name}:{number}"
            inside = False
            continue
        columns = columns or len(cells)
        _check_line(line, cells, columns, f"{path}: line {number}")
        if not inside:
            place = f"{path.name}:{number}"
            sentences.append(_Sentence(place, document or place, [], []))
            inside = True
        sentences[-1].words.append(cells[0])
        sentences[-1].tags.append(cells[-1])
    style = scheme(sentence.tags for sentence in sentences)
    return [
        Example(sentence.id, tuple(sentence.words), to_iob2(sentence.tags), sentence.document, style)
        for sentence in sentences
    ]


@dataclass
class _Sentence:
    """A sentence while it is read, its tags as the file writes them."""

    id: str
    document: str
    words: list[str]
    tags: list[str]


def _check_line(line: str, cells: list[str], columns: int, place: str) -> None:
    """UserError where a line is no word with a tag. columns: as many as the first one has."""
    if "\r" in line:
        raise UserError(f"{place}: holds a carriage return; lines must end with LF or CRLF")
    if len(cells) < 2:
        raise UserError(f"{place}: has no tag; each line needs a word and, in its last column, a tag")
    if len(cells) != columns:
        raise UserError(f"{place}: has {len(cells)} columns, the lines before it {columns}; was it cut, or joined?")
    if not cells[0]:
        raise UserError(f"{place}: has no word in its first column; for an empty line leave out the tabs too")
    check_length(cells[0], place)
    if not TAG.fullmatch(cells[-1]):
        raise UserError(f"{place}: tag {cells[-1][:40]!r} is not O, nor B-, I-, E- or S- with a type")


def trainable(examples: Sequence[Example]) -> tuple[list[Example], list[str]]:
    """All examples, and a note in which scheme the file writes their tags."""
    style = examples[0].scheme if examples else "IOB2"
    if style == "IOB2":
        reading = ""
    elif style == "mixed":
        reading = " (neither IOB1 nor IOB2: an I- after no entity of its type begins one); read as IOB2"
    else:
        reading = "; read as IOB2"
    return list(examples), [f"tags are written in {style}{reading}"]
