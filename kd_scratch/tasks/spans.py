"""Spans of a text: where its pieces and words stand, windows over a context, the scores of all spans, the best ones."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

#: What is written without blanks (Thai to Khmer, Japanese, Chinese): each character, with its accents, is a word.
SOLID = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
CHARACTER = rf"[{SOLID}](?:(?!\w)[{SOLID}])*"
INITIALS = re.compile(r"(?:\w\.){1,20}")  # their full stops are theirs
BETWEEN_BLANKS = re.compile(rf"{CHARACTER}|[^\s{SOLID}]+")


def piece_spans(text: str, offsets: list[tuple[int, int]]) -> np.ndarray:
    """Start and end of each piece, P,2, as code points of the text.

    A tokenizer that lowercases deletes combining marks: the piece "e" of a decomposed "é" ends before the accent. They
    belong to the character before them, so the end moves behind them.
    """
    spans = np.array(offsets, np.int32).reshape(-1, 2)
    if len(spans) and not text.isascii():
        for span, limit in zip(spans, [*spans[1:, 0], len(text)], strict=True):
            while span[1] < limit and unicodedata.category(text[span[1]]) == "Mn":
                span[1] += 1
    return spans


def context_windows(pieces: int, room: int, overlap: int) -> list[tuple[int, int]]:
    """(start, end) of the windows over a context, each of at most `room` pieces.

    Neighbours share `overlap` pieces, or half the room where that is less: (10, 6, 2) -> [(0, 6), (4, 10)]
    """
    step = room - min(overlap, room // 2)
    count = 1 + max(0, -(-(pieces - room) // step))  # rounded up
    return [(k * step, min(k * step + room, pieces)) for k in range(count)]


def span_scores(logits: np.ndarray, longest: int) -> np.ndarray:
    """The scores of all spans of at most `longest` of P pieces, in float64: P,2 (start, end) -> P,longest.

    Entry p,k is the score of the span from piece p to piece p + k: its start logit + its end logit; −∞ for a span that
    reaches beyond the last piece.
    """
    start, end = logits.astype(np.float64).T  # P each
    ends = np.append(end, np.full(longest - 1, -np.inf))
    return start[:, None] + np.lib.stride_tricks.sliding_window_view(ends, longest)  # P,1 + P,longest


class ScoredSpan(NamedTuple):
    """A span of pieces, and its score."""

    first: int
    last: int
    score: float


def best_spans(scores: np.ndarray, most: int) -> list[ScoredSpan]:
    """At most `most` of all spans, the best first; ties: the earlier, then the shorter. scores: as of span_scores."""
    flat = scores.ravel()
    if most == 1:
        best = np.array([flat.argmax()])
    else:
        count = min(most, flat.size)
        floor = np.partition(flat, -count)[-count]
        best = np.flatnonzero((flat >= floor) & np.isfinite(flat))
        best = best[np.argsort(-flat[best], kind="stable")][:most]
    first, beyond = np.divmod(best, scores.shape[1])
    return list(map(ScoredSpan, first.tolist(), (first + beyond).tolist(), flat[best].tolist()))


def merge(scores: np.ndarray, others: np.ndarray, first: int) -> np.ndarray:
    """The span scores of two overlapping stretches of pieces as one array: the better where a span is in both.

    scores: of the first stretch. others: of a stretch that begins at piece `first` of the first one.
    """
    merged = np.full((first + len(others), scores.shape[1]), -np.inf)
    merged[: len(scores)] = scores
    merged[first:] = np.maximum(merged[first:], others)
    return merged


def change_words(texts: Sequence[str], change: Callable[[list[str]], list[str]]) -> list[str]:
    """Texts whose words, all together, `change` has given other ones; what stood side by side still does."""
    found = [list(BETWEEN_BLANKS.finditer(text)) for text in texts]
    words = iter(change([match[0] for matches in found for match in matches]))
    changed = []
    for matches in found:
        parts, end = [], 0
        for match in matches:
            parts += [" "] * (len(parts) > 0 and match.start() > end) + [next(words)]
            end = match.end()
        changed.append("".join(parts))
    return changed


def split_words(text: str) -> list[tuple[int, int]]:
    """Start and end of each word of a plain text, much as in CoNLL's files: punctuation at the ends of a word is a word
    of its own, as is 's, and each character of what is written without blanks.

    "Ada's (34) trip to the U.S. ..." -> Ada 's ( 34 ) trip to the U.S. ...
    """
    spans = []
    for found in BETWEEN_BLANKS.finditer(text):
        start, end = found.span()
        while start < end and _is_mark(text[start]):
            stop = start + 1
            while stop < end and text[stop] == text[start]:  # behind a run of the same mark
                stop += 1
            spans.append((start, stop))
            start = stop
        behind = []
        while start < end and _is_mark(text[end - 1]) and not INITIALS.fullmatch(text, start, end):
            stop = end - 1
            while stop > start and text[stop - 1] == text[end - 1]:
                stop -= 1
            behind.append((stop, end))
            end = stop
        if end - start > 2 and text[end - 2 : end] in ("'s", "’s"):
            behind.append((end - 2, end))
            end -= 2
        if start < end:
            spans.append((start, end))
        spans += reversed(behind)
    return spans


def _is_mark(character: str) -> bool:
    """Whether a character is punctuation or a symbol."""
    return unicodedata.category(character)[0] in "PS"
