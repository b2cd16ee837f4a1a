"""Files of CoNLL's kind: columns of words and tags -> sentences (Tjong Kim Sang & De Meulder 2003).

One word a line, columns apart by tabs or spaces, the word first, its tag last; a blank line ends a sentence:

    EU NNP B-ORG
    rejects VBZ O

Also what else people have: a header, an index column, comments, commas, numbers of sentences instead of blank
lines (conll_columns.py), and JSON lines of {"tokens": […], "ner_tags": […]}, or of a text and the characters of its
entities (entity_spans.py). What was decided or repaired is said.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kd_scratch.common.console import Say, say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_length
from kd_scratch.common.text_file import TextFile
from kd_scratch.config import DataConfig
from kd_scratch.data.json_lines import find_object, json_rows, open_rows
from kd_scratch.tasks import conll_columns
from kd_scratch.tasks.conll_columns import DOCSTART, Columns, find_columns, tidy_lines
from kd_scratch.tasks.conll_metric import ONLY_TYPE, scheme, to_iob2
from kd_scratch.tasks.entity_spans import REJECTED, EntityReader, entity_keys, entity_list, text_of

WORD_KEYS = ("tokens", "words")  # of a JSON line, unless --text-column and --label-column name others
TAG_KEYS = ("ner_tags", "tags", "labels", "ner")
NEW_DOCUMENT = re.compile(r"# *(newdoc|begin document)\b")  # a comment of CoNLL-U, of CoNLL-2012
BARE_TAG = re.compile(r"[^\W\d_]{2}\S*")  # PER, person-actor
LOOSE_TAG = re.compile(r"([BIESLUMW])[-_](.+)", re.IGNORECASE)  # b-per, B_PER
LETTER_TAG = re.compile(r"([BIESLUMW])()", re.IGNORECASE)  # B: where all tags are letters, of the only type
PRINTED_WORDS = re.compile(r"""\"?\[\s*(['"]).+\1[\s,]+['"]""")  # ['EU' 'it'], as lists are printed
LETTER_BEHIND = re.compile(r"(.+)[-_]([BIESLUMW])")  # PER-B, PER_B


@dataclass(frozen=True)
class Example:
    """One sentence: its words, and a tag in IOB2 for each. The id is its place, as in "train.txt:3" (the line)."""

    id: str
    words: tuple[str, ...]
    tags: tuple[str | None, ...]  # None: unlabelled, for soft targets
    document: str  # sentences of one document have the same
    scheme: str = "IOB2"  # how the file writes its tags


def untagged(place: str, words: Sequence[str]) -> Example:
    """A sentence without tags, which is a document of its own."""
    return Example(place, tuple(words), (None,) * len(words), document=place)


@dataclass
class Tags:
    """The tags of a file, as it writes them, and what they mean."""

    names: Sequence[str] = ()  # of those that are numbers
    first: dict[str, int] = field(default_factory=dict)  # tag -> the line where it is first
    counts: Counter[str] = field(default_factory=Counter)
    meaning: dict[str, str] = field(default_factory=dict)  # tag -> O, or as in B-PER; {} until all are read
    scheme: str = ""

    def add(self, tag: str, line: int) -> None:
        """Count a tag."""
        self.first.setdefault(tag, line)
        self.counts[tag] += 1

    def understand(self, path: Path, say: Say) -> None:
        """Find out what they mean. UserError with the line of one that means nothing.

        They may be written loosely, as in b-per or B_PER, or all without a type, as in B, or all with the
        letter behind it, as in PER-B. Where none has a letter, and most are O, neighbours of one type are
        one entity.
        """
        form = LETTER_TAG if all(len(tag) == 1 for tag in self.counts) else LOOSE_TAG
        loose = {tag: match.groups() for tag in self.counts if (match := form.fullmatch(tag))}
        bare = {tag for tag in self.counts if tag.upper() != "O" and tag not in loose}
        if not loose and all(behind := {tag: LETTER_BEHIND.fullmatch(tag) for tag in bare}.values()):
            loose, bare = {match[0]: (match[2], match[1]) for match in behind}, set()
        refused = bare
        if bare and not loose and self.counts.most_common(1)[0][0].upper() == "O":
            refused = {tag for tag in bare if not BARE_TAG.fullmatch(tag)}
        if refused:
            odd = min(refused, key=self.first.__getitem__)
            raise UserError(
                f"{path}: line {self.first[odd]}: tag {odd[:40]!r} is not O, nor B-, I-, E-, S-, L-, U-, M- or W- "
                "with a type; is it in another column? Then choose that one, as in --label-column 3; is that line a "
                "header? Then give --header yes"
            )
        for tag in self.counts:
            letter, kind = loose.get(tag, ("I", tag))
            self.meaning[tag] = f"{letter.upper()}-{kind or ONLY_TYPE}" if tag in loose or tag in bare else "O"
        if bare:
            say(f"{path}: tags are types without B- and I-; neighbours of one type are one entity")
        changed = [tag for tag, meaning in self.meaning.items() if tag != meaning and tag not in bare]
        if changed:
            count = sum(self.counts[tag] for tag in changed)
            as_in = f"{changed[0][:30]} for {self.meaning[changed[0]][:30]}"
            say(f"{path}: tags written otherwise, as in {as_in}: {count:,}")

    def iob2(self, tags: Sequence[str]) -> tuple[str, ...]:
        """The tags of one sentence in IOB2; as they are, until they are understood."""
        tags = tuple(self.meaning.get(tag, tag) for tag in tags)
        return to_iob2(tags) if self.scheme else tags


def read_conll(path: Path, split: str, data: DataConfig, say: Say = say) -> Sequence[Example]:
    """The sentences of a file; those of JSON lines stay in it until asked for.

    A -DOCSTART- line begins a document. Each sentence is one of its own where there is no such line, or, but with
    --documents, a single one, as annotation tools write it: of one document no part could be drawn. Tags may be in any
    of the schemes of conll_metric.py. Raises UserError with the odd line.
    """
    file = open_rows(path, data.encoding, say)
    text = file.text()
    names = data.tag_names.rstrip(", ")
    tags = Tags([name.strip() for name in names.split(",")] if names else ())
    if is_json_lines(text):
        return read_json_sentences(file, data, tags, say)
    counts: Counter[str] = Counter()
    lines = tidy_lines(path, text, counts)
    columns = find_columns(path, lines, data, say)
    sentences = list(read_sentences(path, lines, columns, tags, counts))
    for what, count in counts.items():
        say(f"{path}: {what}: {count:,}")
    tags.understand(path, say)
    tags.scheme = scheme([tags.meaning[tag] for tag in sentence.tags] for sentence in sentences)
    apart = not data.documents and len({sentence.document for sentence in sentences}) == 1 < len(sentences)
    if apart:
        say(f"{path}: is one document; each of its sentences is drawn by itself")
    return [
        Example(each.id, tuple(each.words), tags.iob2(each.tags), each.id if apart else each.document, tags.scheme)
        for each in sentences
    ]


@dataclass
class _Sentence:
    """A sentence while it is read, its tags as the file writes them."""

    id: str
    document: str
    words: list[str]
    tags: list[str]


def read_sentences(
    path: Path, lines: Sequence[str], columns: Columns, tags: Tags, counts: Counter[str], first: int = 1
) -> Iterator[_Sentence]:
    """The sentences of a file of columns, or of a part of it: from the line of the number `first` on.

    tags: are counted there; counts: of lines that are left out.
    """
    sentence: _Sentence | None = None
    document, number_of = "", ("", "")
    for number, line in enumerate(lines, first):
        cells = columns.split(line)
        begins = DOCSTART.match(line)
        comment = columns.is_comment(line, cells, in_sentence=sentence is not None)
        if not any(cells) or begins or comment:
            if sentence and not comment:
                yield sentence
                sentence = None
            if begins or NEW_DOCUMENT.match(line):
                document = f"{path.name}:{number}"
            if begins and "-DOCSTART-" not in cells:
                counts["document starts in another spelling than -DOCSTART-"] += 1
            elif line.startswith("#"):
                counts["comments left out"] += 1
            continue
        if number == columns.header:
            continue
        check_cells(line, cells, columns, f"{path}: line {number}")
        if columns.joined and conll_columns.JOINED_CELL.fullmatch(cells[0]):
            counts["tokens of several words, or of none (2-3, 2.1), left out"] += 1
            continue
        if columns.sentence is not None and (found := columns.sentence_of(line, number_of)) != number_of:
            if found[0] != number_of[0]:
                document = f"{path.name}:{number}"
            number_of = found
            if sentence:
                yield sentence
                sentence = None
        if sentence is None:
            place = f"{path.name}:{number}"
            sentence = _Sentence(place, document or place, [], [])
        sentence.words.append(cells[columns.word])
        tag = name_of(cells[columns.tag], tags.names, f"{path}: line {number}")
        sentence.tags.append(tag)
        tags.add(tag, number)
    if sentence:
        yield sentence


def check_cells(line: str, cells: list[str], columns: Columns, place: str) -> None:
    """UserError where a line is no word with a tag."""
    if columns.is_comment(line, cells):
        raise UserError(f"{place}: a comment within a sentence? Others begin with # and are words; delete that line")
    if len(cells) < 2 and not columns.words_alone:
        raise UserError(f"{place}: has no tag; each line needs a word and, in its last column, a tag")
    if holds_sentence(cells, columns):
        raise UserError(f"{place}: holds a whole sentence in a cell; write JSON lines with tokens and ner_tags")
    if len(cells) != columns.count:
        raise UserError(
            f"{place}: has {len(cells)} columns, the lines before it {columns.count}; was it cut, or joined?"
        )
    if not cells[columns.word]:
        where = "its first column" if columns.word == 0 else f"column {columns.word + 1}"
        raise UserError(f"{place}: has no word in {where}; for an empty line leave out the tabs too")
    check_length(cells[columns.word], place)


def holds_sentence(cells: list[str], columns: Columns) -> bool:
    """Whether a cell has all words of a sentence, as lists become in CSV, or has all their tags."""
    tag = cells[columns.tag] if len(cells) == columns.count else ""
    if not conll_columns.TAG_CELL.fullmatch(tag) and any(PRINTED_WORDS.match(cell) for cell in cells):
        return True
    word = cells[columns.word] if tag else ""
    return re.fullmatch(r"\[.+\]", tag) is not None or 0 < word.count(" ") == tag.count(" ")


# --- JSON lines ---


def is_json_lines(text: str) -> bool:
    """Whether the first line that is not blank is a JSON object, or begins a list of such, which is refused later."""
    start = text.lstrip()
    if start.startswith("["):
        return start[1:1000].lstrip().startswith("{")
    return find_object(start.split("\n", 1)[0]) is not None


def read_json_sentences(file: TextFile, data: DataConfig, tags: Tags, say: Say) -> Sequence[Example]:
    """The sentence of each JSON line, made when asked for."""
    path = file.path
    empty: set[int] = set()  # lines without words
    rejected: Counter[str] = Counter()
    reader = EntityReader()

    def make(line: int, value: dict) -> Example | None:
        place = f"{path}: line {line}"
        words, raw = word_list(value, data), first_list(value, (data.label_column, *TAG_KEYS))
        text = None if are_alike(words, raw) else text_of(value, data.text_column)
        entities = None if text is None else entity_list(value, data.label_column, place)
        if entities is not None:
            why = "answer is reject or ignore" if value.get("answer") in REJECTED else ""
            why = why or ("_is_binary is true: they judge one entity only" if value.get("_is_binary") is True else "")
            if why:
                rejected[why] += 1
                return None
            check_length(text, place)
            words, raw = reader.read(text, entities, place)
        elif text is not None and words is None and raw is None:
            cure = "write [] where it has none, and give texts that nobody has looked at to --unlabelled"
            keys = " or ".join(entity_keys(data.label_column))
            raise UserError(f"{place}: has a text without a list of entities under {keys}; {cure}")
        else:
            words = listed(value, (data.text_column, *WORD_KEYS), f"{place}: words", "--text-column")
            raw = listed(value, (data.label_column, *TAG_KEYS), f"{place}: tags", "--label-column")
        if len(words) != len(raw):
            raise UserError(f"{place}: has {len(words)} words and {len(raw)} tags; each word needs one")
        if not words:
            empty.add(line)
            return None
        for i, word in enumerate(words, 1):
            if not isinstance(word, str):
                raise UserError(f"{place}: word {str(word)[:40]!r} must be a string")
            if not word.strip(" "):
                raise UserError(f"{place}: word {i} is blank; delete it and its tag")
            check_length(word, place)
        raw = [name_of(tag, tags.names, place) for tag in raw]
        if not tags.meaning:
            for tag in raw:
                tags.add(tag, line)
        name = f"{path.name}:{line}"
        return Example(name, tuple(words), tags.iob2(raw), name, tags.scheme)

    examples = json_rows(file, make)
    if empty:
        say(f"{path}: sentences without words, left out: {len(empty):,}")
    for why, count in rejected.items():
        say(f"{path}: lines whose {why}, left out: {count:,}")
    for note in reader.notes(path):
        say(note)
    tags.understand(path, say)
    tags.scheme = scheme(example.tags for example in examples)
    return examples


def first_list(value: dict, keys: Sequence[str]) -> list | None:
    """The list under the first of the keys that has one; None where none has."""
    return next((value[key] for key in keys if isinstance(value.get(key), list)), None)


def word_list(value: dict, data: DataConfig) -> list | None:
    """The list of the words of an object; None where it has none, or beside a text an empty one or one of objects."""
    words = first_list(value, (data.text_column, *WORD_KEYS))
    if words is None or text_of(value, data.text_column) is None:
        return words
    return None if all(isinstance(word, dict) for word in words) else words


def are_alike(words: list | None, tags: list | None) -> bool:
    """Whether there are as many tags as words, and each is a name or a number."""
    if words is None or tags is None:
        return False
    return len(words) == len(tags) and all(isinstance(tag, str | int) for tag in tags)


def listed(value: dict, keys: Sequence[str], what: str, flag: str) -> list:
    """The same. UserError where none has."""
    found = first_list(value, keys)
    if found is None:
        there = ", ".join(value)[:200] or "nothing"
        raise UserError(f"{what} must be a list under {' or '.join(keys[1:])}, or {flag}'s key; there is {there}")
    return found


def name_of(tag: object, names: Sequence[str], place: str) -> str:
    """A tag as text; of a number, also one in quotes, the name that --tag-names gives it."""
    number = tag
    if isinstance(tag, str):
        if not names or not tag.isascii() or not tag.isdecimal():
            return tag
        number = int(tag.lstrip("0")[:9] or 0)  # nine digits are more than there are names
    if type(number) is not int:
        raise UserError(f"{place}: tag {str(tag)[:40]!r} must be a string or a number")
    if not 0 <= number < len(names):
        have = f"--tag-names has {len(names)}" if names else "tags are numbers"
        cure = "name them in the order of their numbers, as in --tag-names O,B-PER,I-PER"
        raise UserError(f"{place}: tag {str(tag)[:40]}: {have}; {cure}")
    return names[number]


def trainable(examples: Sequence[Example]) -> tuple[Sequence[Example], list[str]]:
    """All examples, and a note in which scheme the file writes their tags."""
    style = examples[0].scheme if examples else "IOB2"
    if style == "IOB2":
        reading = ""
    elif style == "mixed":
        reading = " (neither IOB1 nor IOB2: an I- after no entity of its type begins one); read as IOB2"
    else:
        reading = "; read as IOB2"
    return examples, [f"tags are written in {style}{reading}"]
