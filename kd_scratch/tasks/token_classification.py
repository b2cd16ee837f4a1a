"""Named entities, the whole way: CoNLL columns -> words and tags -> windows of word pieces -> one tag a word -> F1.

Every word has exactly one tag, in the data and in what the model says. The first piece of a word carries its label, and
nothing else has one (Devlin et al. 2019, section 5.3). A sentence too long for one input is read through overlapping
windows, and each of its words belongs to the window in which it stands more words away from the cut. Data and score are
those of Tjong Kim Sang & De Meulder 2003.

    [CLS]  ada   flew  to    tor   ##via  .     [SEP]
    -100   B-PER O     O     B-LOC -100   O     -100
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from kd_scratch.common.console import shorten, table
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_length, read_text
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import IGNORE, UNLABELLED, EncodedInputs
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.tasks.base import Predictions, Task, log_softmax, surest_mistakes
from kd_scratch.tasks.conll_metric import TAG, entities, entity_metrics, scheme, to_iob2
from kd_scratch.tasks.spans import split_words


@dataclass(frozen=True)
class Example:
    """One sentence: its words, and a tag in IOB2 for each. The id is its place, as in "train.txt:3" (the line)."""

    id: str
    words: tuple[str, ...]
    tags: tuple[str | None, ...]  # None: unlabelled, for soft targets
    document: str  # sentences of one document have the same
    scheme: str = "IOB2"  # how the file wrote its tags (a fact about the file, here for whoever tells it)


# --- file -> examples ---


def read_conll(path: Path, split: str, data: DataConfig) -> list[Example]:
    """One word a line, its columns apart by spaces or tabs: the word first, its tag last. A blank line ends a sentence.

    -DOCSTART- lines begin a document; without any, each sentence is a document of its own. Tags may be IOB1, IOB2 or
    IOBES. UserError names the odd line.
    """
    sentences, documents = [], []  # [[(line number, word, tag), …], …] and the document of each
    document, columns, open_sentence = "", 0, False
    for number, line in enumerate(read_text(path).split("\n"), 1):
        line = line.removesuffix("\r").strip(" ")
        if not line.strip("\t"):
            open_sentence = False
            continue
        cells = [cell.strip(" ") for cell in line.split("\t")] if "\t" in line else re.split(" +", line)
        if cells[0] == "-DOCSTART-":
            document, open_sentence = f"{path.name}:{number}", False
            continue
        columns = columns or len(cells)
        place = f"{path}: line {number}"
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
        if not open_sentence:
            sentences.append([])
            documents.append(document or f"{path.name}:{number}")
            open_sentence = True
        sentences[-1].append((number, cells[0], cells[-1]))
    style = scheme([tag for _, _, tag in sentence] for sentence in sentences)
    return [
        Example(
            id=f"{path.name}:{sentence[0][0]}",
            words=tuple(word for _, word, _ in sentence),
            tags=to_iob2([tag for _, _, tag in sentence]),
            document=document,
            scheme=style,
        )
        for sentence, document in zip(sentences, documents, strict=True)
    ]


def trainable(examples: Sequence[Example]) -> tuple[list[Example], list[str]]:
    """All examples, and in which scheme the file writes their tags."""
    style = examples[0].scheme if examples else "IOB2"
    reading = {
        "IOB2": "",
        "mixed": " (neither IOB1 nor IOB2: an I- after no entity of its type begins one); read as IOB2",
    }
    return list(examples), [f"tags are written in {style}{reading.get(style, '; read as IOB2')}"]


def label_list(examples: Sequence[Example]) -> tuple[str, ...]:
    """O, then B- and I- of each type that occurs, sorted by type."""
    types = sorted({tag[2:] for example in examples for tag in example.tags} - {""})
    return ("O", *(f"{position}-{kind}" for kind in types for position in "BI"))


# --- examples -> windows ---


@dataclass
class EncodedSentences(EncodedInputs):
    """Windows over sentences, N of them. Word w of all examples together has its first piece at tokens[word_at[w]];
    example i has words word_starts[i]…word_starts[i+1]."""

    word_at: np.ndarray = field(kw_only=True)
    word_starts: np.ndarray = field(kw_only=True)


def featurize(
    examples: Sequence[Example], tokenizer: Tokenizer, labels: tuple[str, ...], max_length: int, data: DataConfig
) -> EncodedSentences:
    """[CLS] pieces of some words [SEP] for each window. Tags that are not among `labels` get no label (IGNORE)."""
    for label in labels:
        if label != "O" and not (label[:2] in ("B-", "I-") and f"B-{label[2:]}" in labels):
            raise UserError(
                f"the model's labels are not tags in IOB2 (O, and B- and I- of each type): {label[:40]!r}; "
                "fine-tune it for this task first"
            )
    cls, sep = tokenizer.encode([""], max_length=max_length)[0].ids
    room = max_length - 2
    pieces = word_pieces(examples, tokenizer, room)
    index = {label: i for i, label in enumerate(labels)} | {None: UNLABELLED}
    tokens, starts, ids, word_at, word_labels = [], [0], [], [], []
    for passage in passages(examples, data.documents):
        words = [
            (example.id, word, tag)
            for example in passage
            for word, tag in zip(example.words, example.tags, strict=True)
        ]
        for start, end, first, last in window_bounds([len(pieces[word]) for _, word, _ in words], room, data.overlap):
            tokens.append(cls)
            for i, (_, word, tag) in enumerate(words[start:end], start):
                if first <= i < last:  # this window is where the word belongs
                    word_at.append(len(tokens))
                    word_labels.append(index.get(tag, IGNORE))
                tokens.extend(pieces[word])
            tokens.append(sep)
            starts.append(len(tokens))
            ids.append(words[first][0] if first < last else passage[0].id)
    token_labels = np.full(len(tokens), IGNORE, np.int64)
    token_labels[word_at] = word_labels
    return EncodedSentences(
        head="token",
        ids=ids,
        tokens=np.array(tokens, np.int32),
        starts=np.array(starts, np.int64),
        labels=token_labels,
        word_at=np.array(word_at, np.int64),
        word_starts=np.cumsum([0, *(len(example.words) for example in examples)]),
    )


def word_pieces(examples: Sequence[Example], tokenizer: Tokenizer, most: int) -> dict[str, list[int]]:
    """The piece ids of each distinct word, at most so many: the same as if its sentence were tokenized word by word.

    A word of which the tokenizer leaves nothing (a lone control character) becomes [UNK], so that it can have a tag.
    """
    words = list(dict.fromkeys(word for example in examples for word in example.words))
    unknown = tokenizer.unknown_id
    encodings = tokenizer.encode(words)
    return {word: encoding.ids[1:-1][:most] or [unknown] for word, encoding in zip(words, encodings, strict=True)}


def passages(examples: Sequence[Example], documents: bool) -> Iterator[list[Example]]:
    """What is read in one go: each sentence, or with --documents all sentences of a document that follow each other."""
    for _, group in groupby(examples, key=lambda example: example.document if documents else example.id):
        yield list(group)


def window_bounds(lengths: Sequence[int], room: int, overlap: int) -> list[tuple[int, int, int, int]]:
    """(start, end, first, last) of the windows over a passage, whose words have so many pieces (each at most `room`).

    A window shows words start…end, as many as fit, of which first…last belong to it: each word to exactly one window,
    words that two windows share to the one in which they are more words away from the cut. Neighbours share up to
    `overlap` pieces, at most half the room.  window_bounds([1] * 10, 6, 2) == [(0, 6, 0, 5), (4, 10, 5, 10)]
    """
    ends = np.cumsum([0, *lengths])  # ends[w] pieces before word w
    windows, start, first = [], 0, 0
    while True:
        end = int(np.searchsorted(ends, ends[start] + room, side="right")) - 1
        if end == len(lengths):
            return [*windows, (start, end, first, end)]
        shared = min(overlap, room // 2, room - lengths[end])  # what may be seen again, the next word must still fit
        again = int(np.searchsorted(ends, ends[end] - shared))
        last = (again + end) // 2
        windows.append((start, end, first, last))
        start, first = again, last


def from_text(place: str, text: str) -> Example:
    """The words of a plain text as an example that is a document of its own; nobody knows its tags."""
    words = tuple(text[start:end] for start, end in split_words(text))
    return Example(place, words, (None,) * len(words), document=place)


def unlabel(example: Example) -> Example:
    """A sentence as if nobody knew its tags."""
    return replace(example, tags=(None,) * len(example.words))


def reworded(example: Example, change: Callable[[Sequence[str]], Sequence[str]], name: str) -> Example:
    """A copy with other words, in a copy of its document."""
    document = example.document + name.removeprefix(example.id)
    return replace(unlabel(example), id=name, words=tuple(change(example.words)), document=document)


# --- logits -> tags and metrics ---


def decide(predictions: Predictions) -> list[tuple[str, ...]]:
    """The most probable tag of each word, for each example."""
    best = predictions.logits[predictions.features.word_at].argmax(axis=1)
    tags = [predictions.labels[i] for i in best]
    bounds = predictions.features.word_starts
    return [tuple(tags[start:end]) for start, end in zip(bounds[:-1], bounds[1:], strict=True)]


def score(predictions: Predictions) -> dict:
    """Entity precision, recall and F1 by conlleval's rules; accuracy and mean cross-entropy over all words.

    A tag that the model does not know can't be reached: its words count as wrong, its entities as missed, and only the
    loss leaves it out. How many words have such a tag, and which tags these are, is told.
    """
    gold = [example.tags for example in predictions.examples]
    words = [tag for tags in gold for tag in tags]
    said = [tag for tags in predictions.decisions for tag in tags]
    found = entity_metrics(gold, predictions.decisions)
    labels = predictions.features.labels[predictions.features.word_at]
    known = labels != IGNORE
    log_p = log_softmax(predictions.logits[predictions.features.word_at][known])
    unreachable = Counter(tag for tag, ok in zip(words, known, strict=True) if not ok)
    return {
        "examples": len(gold),
        "words": len(words),
        "tag_scheme": predictions.examples[0].scheme,
        **{name: value for name, value in found.items() if name != "per_class"},
        "accuracy": float(np.mean([a == b for a, b in zip(words, said, strict=True)])),
        "loss": float(-log_p[np.arange(len(log_p)), labels[known]].mean()) if known.any() else None,
        "unreachable_words": unreachable.total(),
        "unreachable_tags": dict(sorted(unreachable.items())),
        "per_class": found["per_class"],
    }


def tally(predictions: Predictions) -> np.ndarray:
    """Correct entities of each sentence, those in gold and those predicted: N,3"""
    names = ("correct_entities", "gold_entities", "predicted_entities")
    pairs = zip(predictions.examples, predictions.decisions, strict=True)
    counts = [entity_metrics([example.tags], [tags]) for example, tags in pairs]
    return np.array([[row[name] for name in names] for row in counts], np.float64)


def entity_f1(sums: np.ndarray) -> np.ndarray:
    """F1 from sums of a tally.  …,3 -> …"""
    return 2 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1)


def confidence(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Of each word, the probability of its best tag, and whether that is right."""
    probability = np.exp(log_softmax(predictions.logits[predictions.features.word_at]).max(axis=1))
    pairs = zip(predictions.examples, predictions.decisions, strict=True)
    right = [gold == said for example, tags in pairs for gold, said in zip(example.tags, tags, strict=True)]
    return probability, np.array(right)


def summaries(predictions: Predictions) -> list[tuple[str, str, str, float]]:
    """Each sentence, its entities, those that the model finds, and whether all tags are right."""
    rows = []
    for example, tags in zip(predictions.examples, predictions.decisions, strict=True):
        gold, said = (
            ", ".join(f"{' '.join(example.words[first:end])} {kind}" for kind, first, end in entities(which)) or "none"
            for which in (example.tags, tags)
        )
        rows.append((" ".join(example.words), gold, said, float(tags == example.tags)))
    return rows


def confused(predictions: Predictions) -> Counter:
    """How often a word of one type (or of none: O) was given another, or the same."""
    pairs = zip(predictions.examples, predictions.decisions, strict=True)
    tags = ((gold, said) for example, tags in pairs for gold, said in zip(example.tags, tags, strict=True))
    return Counter(tuple(tag[2:] or tag for tag in pair) for pair in tags)


def prediction_records(predictions: Predictions) -> dict:
    """Words, tags and gold tags of each sentence, by id."""
    return {
        example.id: {"words": example.words, "tags": tags, "gold": example.tags}
        for example, tags in zip(predictions.examples, predictions.decisions, strict=True)
    }


# --- what a person sees ---


def details(metrics: dict) -> str:
    """A table of the entity types, and what no tag of the model can reach."""
    rows = [(shorten(kind, 30), *row.values()) for kind, row in metrics["per_class"].items()]
    text = table(("per type", "precision", "recall", "F1", "gold", "predicted", "correct"), rows)
    if metrics["unreachable_tags"]:
        tags = ", ".join(f"{tag} ({count:,})" for tag, count in metrics["unreachable_tags"].items())
        text += f"\ntags that the model does not know, so counted as wrong: {tags}"
    return text


def mistakes(predictions: Predictions, most: int = 5) -> str:
    """The wrong tags of which the model is surest."""
    log_p = log_softmax(predictions.logits[predictions.features.word_at]).max(axis=1)
    wrong = []
    starts = predictions.features.word_starts[:-1]
    for example, tags, start in zip(predictions.examples, predictions.decisions, starts, strict=True):
        for i, (word, gold, tag) in enumerate(zip(example.words, example.tags, tags, strict=True)):
            if tag != gold:
                what = f"{example.id}  {shorten(word, 30)}  {gold} -> {tag}"
                around = " ".join(example.words[max(0, i - 8) : i + 9])
                wrong.append((float(np.exp(log_p[start + i])), what, around))
    return surest_mistakes(wrong, most)


TASK = Task(
    name="conll",
    head="token",
    splits=(),
    score_name="f1",
    columns=("precision", "recall", "f1", "accuracy", "loss"),
    read=read_conll,
    texts=lambda examples: [" ".join(example.words) for example in examples],
    group=lambda example: example.document,
    trainable=trainable,
    label_list=label_list,
    unlabelled=from_text,
    unlabel=unlabel,
    reworded=reworded,
    featurize=featurize,
    decide=decide,
    score=score,
    tally=tally,
    tally_score=entity_f1,
    confidence=confidence,
    summaries=summaries,
    confused=confused,
    prediction_records=prediction_records,
    details=details,
    mistakes=mistakes,
)
