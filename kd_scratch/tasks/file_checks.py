"""What looks wrong in a file that can be read: pure functions, for the table before work starts."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

from kd_scratch.common.console import shorten
from kd_scratch.config import DataConfig
from kd_scratch.tasks.label_cells import SEPARATORS

MOST = 0.5  # a share of the texts that calls for a remark


def odd_texts(texts: Sequence[str]) -> list[str]:
    """What is odd about the texts of N examples, each in a few words; nothing where all is well."""
    return [remark for remark in (empty_texts(texts), numbers_alone(texts), repeated_text(texts)) if remark]


def odd_labels(labels: Sequence[str | None], names: Sequence[str]) -> list[str]:
    """What is odd about the labels of N examples (None: has none) and the names of the classes."""
    remarks = (many_labels(labels), single_class(labels, names), no_labels(names), joined_labels(names), scores(names))
    remarks += tuple(near_labels(names))
    return [remark for remark in remarks if remark]


def empty_texts(texts: Sequence[str]) -> str:
    """How many texts hold nothing but blanks; "" where none does."""
    count = sum(not text.strip() for text in texts)
    return f"{count:,} of {len(texts):,} texts are EMPTY: is that the column of the texts?" if count else ""


def numbers_alone(texts: Sequence[str]) -> str:
    """How many texts are numbers, dates and the like, where most are; "" else."""
    count = sum(bool(re.search(r"\d", text)) and not re.search(r"[^\W\d_]", text) for text in texts)
    if count <= MOST * len(texts):
        return ""
    return f"{count:,} of {len(texts):,} texts are NUMBERS: is that the column of the texts?"


def repeated_text(texts: Sequence[str]) -> str:
    """Which text is that of most examples; "" where there is none."""
    [(text, count)] = Counter(texts).most_common(1) or [("", 0)]
    if count < 3 or count <= MOST * len(texts):
        return ""
    return f"{count:,} of {len(texts):,} texts are THE SAME, {shorten(text, 30)!r}: is that the column of the texts?"


def many_labels(labels: Sequence[str | None]) -> str:
    """How many different labels there are, where hardly one is there twice, or they are many and of several words."""
    labels = [label for label in labels if label is not None]
    words = sum(len(label.split()) for label in labels)
    few_twice = len(labels) >= 20 and len(set(labels)) > 0.9 * len(labels)
    if few_twice or (len(labels) >= 100 and 3 * len(set(labels)) > len(labels) and words > 2 * len(labels)):
        count = f"{len(set(labels)):,} DIFFERENT ONES among {len(labels):,} examples"
        return f"{count}: is that the column of the labels, or are text and label swapped?"
    return ""


def single_class(labels: Sequence[str | None], names: Sequence[str]) -> str:
    """Which label all examples have, or is the only one there is; "" where there are several."""
    found = set(labels) - {None}
    if len(names) == 1:
        return (
            f"ONE CLASS ONLY, {shorten(names[0], 30)!r}: there is nothing to learn; is that the column of the labels?"
        )
    if len(found) == 1 and len(labels) >= 20:
        return f"ONE CLASS ONLY among {len(labels):,} examples, {shorten(found.pop(), 30)!r}: is the file sorted?"
    return ""


def no_labels(names: Sequence[str]) -> str:
    """Which of the classes may mean that there is no label; "" where none does."""
    odd = [name for name in names if name in ("nan", "NaN", "null", "NULL", "None", "N/A", "\\N", "-1")]
    if not odd or (odd == ["-1"] and set(names) <= {"-1", "0", "1"}):
        return ""
    return (
        f"A CLASS CALLED {odd[0]!r}: if it means that there is no label, delete its rows, or give them to --unlabelled"
    )


def scores(names: Sequence[str]) -> str:
    """Which class is a number with a fraction, where all are numbers; "" where none is."""
    numbers = [name for name in names if re.fullmatch(r"[+-]?(\d+(\.\d+)?|\.\d+)", name, re.ASCII)]
    odd = [name for name in numbers if name.partition(".")[2].strip("0")]
    if not odd or len(numbers) < len(names):
        return ""
    return f"SCORES, such as {odd[0]!r}? Each is a class of its own here: numbers are not predicted"


def joined_labels(names: Sequence[str]) -> str:
    """Which labels are several in one, such as "a;b" beside "a" and "b"; "" where none is."""
    known = set(names)
    for separator in SEPARATORS:
        parts = {name: [part.strip() for part in name.split(separator)] for name in names if separator in name}
        joined = [name for name in parts if known.issuperset(parts[name])]
        if joined:
            cure = "--task labels" + f" --label-separator '{separator}'" * (separator != DataConfig.label_separator)
            count = f"{len(joined):,} of {len(names):,}, such as {shorten(joined[0], 30)!r}"
            return f"SEVERAL LABELS IN ONE: {count}; for several labels a text choose {cure}"
    return ""


def near_labels(names: Sequence[str]) -> list[str]:
    """Labels that differ in case, blanks, punctuation, a final s or zeros only, such as "Sport" and "sports "."""
    groups = defaultdict(list)
    for name in names:
        groups[bare(name)].append(repr(shorten(name, 30)))
    alike = [" and ".join(group) for key, group in groups.items() if key and len(group) > 1]
    return [f"NEARLY THE SAME LABEL: {pair}; are they one?" for pair in alike[:5]]


def bare(label: str) -> str:
    """ "Credit-Cards " -> "creditcard", "01" -> "1", "2.0" -> "2": what is left when two labels are nearly the same."""
    label = unicodedata.normalize("NFC", label.strip())
    if re.fullmatch(r"[+-]?\d{1,15}(\.0*)?", label, re.ASCII):
        return str(int(float(label)))
    letters = re.sub(r"(?<!\d)[\s_./,&-]+|[\s_./,&-]+(?!\d)", "", label.casefold())  # but within numbers: 1.1 is not 11
    return letters.removesuffix("s") if len(letters) > 3 else letters


def odd_questions(examples: Sequence) -> list[str]:
    """What is odd about N questions (squad_file.Example)."""
    total = max(1, len(examples))
    empty = {name: sum(not getattr(e, name).strip() for e in examples) for name in ("context", "question")}
    remarks = [
        f"{count:,} of {total:,} {name}s are EMPTY: is that the {name}'s place, --{name}-column?"
        for name, count in empty.items()
        if count
    ]
    answered = [example for example in examples if example.answers]
    lost = sum(example.start is None for example in answered)
    if lost > MOST * len(answered):
        remarks.append(
            f"HARDLY ANY ANSWER IS FOUND, {lost:,} of {len(answered):,} are not: do answers and contexts fit?"
        )
    if examples and not answered and all(example.labelled for example in examples):
        remarks.append("NO QUESTION HAS AN ANSWER: is that the place of the answers, --answers-column?")
    return remarks


def odd_sentences(examples: Sequence) -> list[str]:
    """What is odd about N sentences with tags (conll_file.Example)."""
    words = [word for example in examples for word in example.words]
    tags = [tag for example in examples for tag in example.tags if tag is not None]
    single = sum(len(example.words) == 1 for example in examples)
    digits = sum(any(character.isdecimal() for character in word) for word in words)
    first = ", ".join(repr(shorten(word, 20)) for word in words[:3])
    outside = tags.count("O")
    remarks = {
        f"MOST SENTENCES ARE ONE WORD, {single:,} of {len(examples):,}: is a blank line behind each?": (
            single > MOST * len(examples)
        ),
        f"SENTENCES OF {len(words) // max(1, len(examples)):,} WORDS: is there no blank line between them?": (
            len(words) > 200 * len(examples)
        ),
        f"MOST WORDS HOLD DIGITS, the first are {first}: choose another column, --text-column 2": (
            digits > MOST * len(words)
        ),
        f"NO ENTITY among {len(tags):,} words: is that the column of the tags? --label-column chooses it": (
            len(tags) >= 20 and outside == len(tags)
        ),
        f"HARDLY ANY WORD IS O, {outside:,} of {len(tags):,}: choose another column, --label-column 3": (
            len(tags) >= 20 and outside < 0.2 * len(tags)
        ),
    }
    return [remark for remark, holds in remarks.items() if holds]
