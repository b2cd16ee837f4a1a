"""Named entities: sentences -> sentence windows of word pieces -> one tag a word -> F1 of entities.

Every word has exactly one tag, in the data and in the predictions. The first piece of a word carries its label, and
nothing else has one (Devlin et al. 2019, section 5.3). A sentence too long for one input is read through overlapping
windows of whole words, and each word is decided in the one window in which it stands more words away from the cut.
Data (conll_file.py) and score (conll_metric.py) are those of Tjong Kim Sang & De Meulder 2003.

    [CLS]  ada   flew  to    tor   ##via  .     [SEP]
    -100   B-PER O     O     B-LOC -100   O     -100
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import NamedTuple

import numpy as np

from kd_scratch.common.console import shorten, table
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import IGNORE, UNLABELLED, EncodedInputs
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.tasks.base import (
    Confidence,
    Mistake,
    Predictions,
    Summary,
    Task,
    confidence_of,
    f1_score,
    log_softmax,
    surest_mistakes,
)
from kd_scratch.tasks.conll_file import Example, read_conll, trainable
from kd_scratch.tasks.conll_metric import entities, entity_metrics
from kd_scratch.tasks.file_checks import odd_sentences
from kd_scratch.tasks.tag_schemes import TagScheme
from kd_scratch.tasks.untagged_file import from_text, read_without_tags


def label_list(examples: Sequence[Example]) -> tuple[str, ...]:
    """O, then B- and I- of each type that occurs, sorted by type."""
    types = {tag[2:] for example in examples for tag in example.tags if tag != "O"}
    labels = ["O"]
    for kind in sorted(types):
        labels += [f"B-{kind}", f"I-{kind}"]
    return tuple(labels)


def student_labels(labels: tuple[str, ...], teacher_labels: tuple[str, ...]) -> tuple[str, ...]:
    """The teacher's labels, where they write the same types in a way of their own (IOB1, IOBES, …), else the data's."""
    if set(labels) == set(teacher_labels):
        return labels
    try:
        teacher = TagScheme.of(teacher_labels)
    except UserError:  # then the teacher is refused when it is opened
        return labels
    fits = teacher.is_complete and teacher.types == TagScheme.of(labels).types  # else it is refused, too
    return teacher_labels if fits else labels


# --- examples without labels ---


def unlabel(example: Example) -> Example:
    """A sentence without its tags."""
    return replace(example, tags=(None,) * len(example.words))


def reworded(example: Example, change: Callable[[Sequence[str]], Sequence[str]], name: str) -> Example:
    """A copy with other words and without tags, in a copy of its document."""
    document = example.document + name.removeprefix(example.id)
    return replace(unlabel(example), id=name, words=tuple(change(example.words)), document=document)


# --- examples -> sentence windows ---


@dataclass
class EncodedSentences(EncodedInputs):
    """Sentence windows, N of them. Word w of all examples together has its first piece at tokens[word_at[w]]; example i
    has words word_starts[i]…word_starts[i+1]."""

    word_at: np.ndarray = field(kw_only=True)
    word_starts: np.ndarray = field(kw_only=True)


def featurize(
    examples: Sequence[Example], tokenizer: Tokenizer, labels: tuple[str, ...], max_length: int, data: DataConfig
) -> EncodedSentences:
    """[CLS] pieces of some words [SEP] for each window. Tags that the labels cannot say get no label (IGNORE).

    Raises UserError where the labels are no tags of entities.
    """
    scheme = TagScheme.of(labels)
    cls, sep = tokenizer.encode([""], max_length=max_length)[0].ids
    room = max_length - 2
    pieces = word_pieces(examples, tokenizer, room)
    index = {label: i for i, label in enumerate(labels)} | {None: UNLABELLED}
    tokens: list[int] = []
    starts, ids = [0], []
    word_at, word_labels = [], []
    for group in sentence_groups(examples, data.documents):
        words = [word for example in group for word in example.words]
        tags = [tag for example in group for tag in scheme.encode(example.tags)]
        example_ids = [example.id for example in group for _ in example.words]
        lengths = [len(pieces[word]) for word in words]
        for window in sentence_windows(lengths, room, data.overlap):
            tokens.append(cls)
            for i in range(window.start, window.end):
                if window.first <= i < window.last:  # the word is decided in this window
                    word_at.append(len(tokens))
                    word_labels.append(index.get(tags[i], IGNORE))
                tokens.extend(pieces[words[i]])
            tokens.append(sep)
            starts.append(len(tokens))
            ids.append(example_ids[window.first] if window.first < window.last else group[0].id)
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
    """The first `most` piece ids of each distinct word, which are the same in every sentence.

    A word of which the tokenizer leaves nothing (a lone control character) becomes [UNK], so that it can have a tag.
    """
    words = list(dict.fromkeys(word for example in examples for word in example.words))
    unknown = tokenizer.unknown_id
    encodings = tokenizer.encode(words)
    return {word: encoding.ids[1:-1][:most] or [unknown] for word, encoding in zip(words, encodings, strict=True)}


def sentence_groups(examples: Sequence[Example], documents: bool) -> Iterator[list[Example]]:
    """What windows may span: each sentence alone, or with --documents all sentences of a document that follow each
    other."""
    for _, group in groupby(examples, key=lambda example: example.document if documents else example.id):
        yield list(group)


class SentenceWindow(NamedTuple):
    """A window shows words start…end, of which first…last are decided in it (ends exclusive)."""

    start: int
    end: int
    first: int
    last: int


def sentence_windows(lengths: Sequence[int], room: int, overlap: int) -> list[SentenceWindow]:
    """The windows over words that have so many pieces each (at most `room`).

    A window shows as many words as fit. Each word is decided in exactly one; words that two windows share in the one in
    which they are more words away from the cut. Neighbours share up to `overlap` pieces, at most half the room.
    sentence_windows([1] * 10, 6, 2) == [(0, 6, 0, 5), (4, 10, 5, 10)]
    """
    ends = np.cumsum([0, *lengths])  # ends[w] pieces before word w
    windows = []
    start = first = 0
    while True:
        end = int(np.searchsorted(ends, ends[start] + room, side="right")) - 1
        if end == len(lengths):
            windows.append(SentenceWindow(start, end, first, end))
            return windows
        shared = min(overlap, room // 2, room - lengths[end])  # pieces seen again; the next word must still fit
        next_start = int(np.searchsorted(ends, ends[end] - shared))
        last = (next_start + end) // 2
        windows.append(SentenceWindow(start, end, first, last))
        start = next_start
        first = last


# --- logits -> tags and metrics ---


def word_logits(predictions: Predictions) -> np.ndarray:
    """The logits of each word's first piece, W,C; of labels that are no tags (see TagScheme) minus infinity."""
    logits = predictions.logits[predictions.features.word_at]
    logits[:, [tag is None for tag in TagScheme.of(predictions.labels).tags]] = -np.inf
    return logits


def decide(predictions: Predictions) -> list[tuple[str, ...]]:
    """The most probable tag of each word, for each example, in IOB2 whatever the model's own scheme."""
    scheme = TagScheme.of(predictions.labels)
    best = word_logits(predictions).argmax(axis=1).tolist()
    bounds = predictions.features.word_starts
    return [scheme.decode(best[start:end]) for start, end in zip(bounds[:-1], bounds[1:], strict=True)]


def probabilities(predictions: Predictions) -> np.ndarray:
    """How probable the tag is that each word is given, W."""
    return np.exp(log_softmax(word_logits(predictions)).max(axis=1))


def tag_pairs(predictions: Predictions) -> list[tuple[str, str]]:
    """(gold tag, predicted tag) of each word of all examples."""
    sentences = zip(predictions.gold, predictions.decisions, strict=True)
    return [pair for gold, tags in sentences for pair in zip(gold, tags, strict=True)]


def score(predictions: Predictions) -> dict:
    """Entity precision, recall and F1 by conlleval's rules; accuracy and mean cross-entropy over all words.

    A tag that is not among the model's labels is out of its reach: its words count as wrong, its entities as missed,
    and only the loss leaves it out. How many words have such tags, and which, is among the metrics.
    """
    gold = [example.tags for example in predictions.examples]
    pairs = tag_pairs(predictions)
    found = entity_metrics(gold, predictions.decisions)
    found["begun_with_i"] = begun_with_i(predictions)
    per_class = found.pop("per_class")
    labels = predictions.features.labels[predictions.features.word_at]
    known = labels != IGNORE
    log_p = log_softmax(word_logits(predictions)[known])
    unreachable = Counter(tag for (tag, _), ok in zip(pairs, known, strict=True) if not ok)
    return {
        "examples": len(gold),
        "words": len(pairs),
        "tag_scheme": predictions.examples[0].scheme,
        **found,
        "accuracy": float(np.mean([gold_tag == tag for gold_tag, tag in pairs])),
        "loss": float(-log_p[np.arange(len(log_p)), labels[known]].mean()) if known.any() else None,
        "unreachable_words": unreachable.total(),
        "unreachable_tags": dict(sorted(unreachable.items())),
        "per_class": per_class,
    }


def begun_with_i(predictions: Predictions) -> int:
    """How many predicted entities begin with I in the model's own scheme: most do where it learned IOB1."""
    scheme = TagScheme.of(predictions.labels)
    tags = [scheme.tags[i] for i in word_logits(predictions).argmax(axis=1)]
    starts = predictions.features.word_starts
    sentences = (tags[start:end] for start, end in zip(starts[:-1], starts[1:], strict=True))
    return sum(written[first][0] == "I" for written in sentences for _, first, _ in entities(written))


def teaches_iob1(logits: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> bool:
    """Whether a teacher (its logits: ΣS,C; NaN where it has not answered) has an I at most of the tokens whose label
    (ΣS) is a B."""
    letters = np.array([(tag or "O")[0] for tag in TagScheme.of(names).tags])
    begins = np.flatnonzero(np.isin(labels, np.flatnonzero(letters == "B")) & ~np.isnan(logits[:, 0]))[:10_000]
    return 2 * np.sum(letters[logits[begins].argmax(axis=1)] == "I") > len(begins)


def tally(predictions: Predictions) -> np.ndarray:
    """Correct entities of each sentence, those in gold and those predicted: N,3"""
    rows = []
    for gold, tags in zip(predictions.gold, predictions.decisions, strict=True):
        counts = entity_metrics([gold], [tags])
        rows.append([counts["correct_entities"], counts["gold_entities"], counts["predicted_entities"]])
    return np.array(rows, np.float64)


def confidence(predictions: Predictions) -> Confidence:
    """That of the best tag of each word."""
    features = predictions.features
    right = np.array([gold == tag for gold, tag in tag_pairs(predictions)])
    example = np.repeat(np.arange(len(predictions.examples)), np.diff(features.word_starts))
    return confidence_of(word_logits(predictions), right, example, features.labels[features.word_at])


def summaries(predictions: Predictions) -> list[Summary]:
    """Each sentence, its entities, the predicted ones, and whether all tags are right."""
    rows = []
    for example, tags in zip(predictions.examples, predictions.decisions, strict=True):
        text = " ".join(example.words)
        gold = list_entities(example.words, example.tags)
        rows.append(Summary(text, gold, list_entities(example.words, tags), float(tags == example.tags)))
    return rows


def list_entities(words: Sequence[str], tags: Sequence[str]) -> str:
    """The entities with their types in one line: "Ada Berg PER, Torvia LOC"; without any: "none"."""
    found = [f"{' '.join(words[first:end])} {kind}" for kind, first, end in entities(tags)]
    return ", ".join(found) or "none"


def confused(predictions: Predictions) -> Counter:
    """How often a word of one type (or of none: O) was given another, or the same."""
    return Counter((gold[2:] or gold, tag[2:] or tag) for gold, tag in tag_pairs(predictions))


def prediction_records(predictions: Predictions) -> dict:
    """Words, tags and gold tags of each sentence, by id."""
    return {
        example.id: {"words": example.words, "tags": tags, "gold": example.tags}
        for example, tags in zip(predictions.examples, predictions.decisions, strict=True)
    }


# --- what a person sees ---


def details(metrics: dict) -> str:
    """A table of the entity types, and the tags that are no labels of the model."""
    rows = [(shorten(kind, 30), *row.values()) for kind, row in metrics["per_class"].items()]
    text = table(("per type", "precision", "recall", "F1", "gold", "predicted", "correct"), rows)
    if metrics["unreachable_tags"]:
        tags = ", ".join(f"{tag} ({count:,})" for tag, count in metrics["unreachable_tags"].items())
        text += f"\ntags that the model does not have, so counted as wrong: {tags}"
    if 2 * metrics["begun_with_i"] > metrics["predicted_entities"]:
        count = f"{metrics['begun_with_i']:,} of {metrics['predicted_entities']:,}"
        text += f"\n{count} predicted entities begin with I-: the model learned tags in IOB1; read as IOB2"
    return text


def mistakes(predictions: Predictions, most: int = 5) -> str:
    """The most probable of the wrong tags, each with the words around it."""
    probability = probabilities(predictions)
    starts = predictions.features.word_starts[:-1]
    wrong = []
    for example, tags, start in zip(predictions.examples, predictions.decisions, starts, strict=True):
        for i, (word, gold, tag) in enumerate(zip(example.words, example.tags, tags, strict=True)):
            if tag != gold:
                what = f"{example.id}  {shorten(word, 30)}  {gold} -> {tag}"
                around = " ".join(example.words[max(0, i - 8) : i + 9])
                wrong.append(Mistake(float(probability[start + i]), what, around))
    return surest_mistakes(wrong, most)


TASK = Task(
    name="conll",
    head="token",
    reading=f"{Task.reading} tag_names",
    read=read_conll,
    texts=lambda examples: [" ".join(example.words) for example in examples],
    label_list=label_list,
    featurize=featurize,
    decide=decide,
    group=lambda example: example.document,
    trainable=trainable,
    odd=odd_sentences,
    student_labels=student_labels,
    gold=lambda example: example.tags,
    score=score,
    score_name="f1",
    columns=("precision", "recall", "f1", "accuracy", "loss"),
    tally=tally,
    tally_score=f1_score,
    unlabelled=from_text,
    read_unlabelled=read_without_tags,
    unlabel=unlabel,
    reworded=reworded,
    confidence=confidence,
    summaries=summaries,
    confused=confused,
    prediction_records=prediction_records,
    details=details,
    mistakes=mistakes,
)
