"""One model's answer to a text, and what the page shows under it: pieces, their probabilities, and attention.

For each kind of head `find_…` computes what predict.py does, and `show_…` makes JSON values of it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from kd_scratch.config import DataConfig
from kd_scratch.evaluation import predict
from kd_scratch.evaluation.evaluate import LoadedModel
from kd_scratch.tasks import question_answering, token_classification
from kd_scratch.tasks.base import log_softmax
from kd_scratch.tasks.spans import span_scores, split_words

LABELS = 5  # the best labels that are shown
TEXT = 20_000  # the longest that is taken, in characters
QUESTION = 2_000


@dataclass
class Entry:
    """A model that is served."""

    loaded: LoadedModel
    megabytes: float
    device: torch.device


@dataclass
class Window:
    """One input as a model reads it: S token ids, and the slices of the text that they stand for (None: of none)."""

    tokens: np.ndarray  # S
    types: np.ndarray | None  # S
    spans: list[tuple[int, int] | None]  # S
    columns: dict[str, list]  # more about each piece: S values by name
    number: int = 1  # of so many
    windows: int = 1

    def pieces(self, entry: Entry) -> list[dict]:
        """Each piece as the vocabulary writes it, its place in the text, and the values of its columns."""
        names = entry.loaded.tokenizer.pieces(self.tokens.tolist())
        starts, ends = zip(*(span or (None, None) for span in self.spans), strict=True)
        columns = {"piece": names, "start": starts, "end": ends} | self.columns
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def find_labels(entry: Entry, data: DataConfig, text: str) -> dict[str, float]:
    """Every label with its probability."""
    return predict.classify(entry.loaded, entry.device, text)


def show_labels(entry: Entry, data: DataConfig, found: dict[str, float], text: str) -> tuple[dict, Window]:
    """The best labels, or of several all that the text gets and their threshold; and the pieces of the text."""
    encoding = entry.loaded.tokenizer.encode([text], max_length=entry.loaded.max_length, offsets=True)[0]
    config = entry.loaded.model.config
    threshold = {"threshold": data.threshold_or(config.threshold)} if config.multi_label else {}
    shown = max(LABELS, sum(p >= threshold["threshold"] for p in found.values()) if threshold else 0)
    best = [{"label": label, "probability": p} for label, p in list(found.items())[:shown]]
    spans = [None, *encoding.offsets[1:-1], None]
    return {"labels": best} | threshold, Window(np.array(encoding.ids), None, spans, {})


Tagged = tuple[token_classification.EncodedSentences, tuple[str, ...], np.ndarray]


def find_tags(entry: Entry, data: DataConfig, text: str) -> Tagged:
    """The encoded words of the text, their tags, and how probable each is."""
    return predict.tag_words(entry.loaded, text, data, entry.device)


def show_tags(entry: Entry, data: DataConfig, found: Tagged, text: str) -> tuple[dict, Window]:
    """The entities, and the pieces of the first window, of which each word's first one has the word's tag."""
    features, tags, probability = found
    length = int(features.starts[1])  # of the first window, which holds no more words than that
    words = split_words(text)[:length]
    most = entry.loaded.max_length - 2  # pieces of a word
    encodings = entry.loaded.tokenizer.encode([text[begin:end] for begin, end in words], offsets=True)
    spans: list[tuple[int, int] | None] = [None]
    for (begin, end), encoding in zip(words, encodings, strict=True):
        places = encoding.offsets[1:-1][:most] or [(0, end - begin)]
        spans += [(begin + a, begin + b) for a, b in places]
    columns: dict[str, list] = {"tag": [None] * length, "probability": [None] * length}
    for place, tag, p in zip(features.word_at, tags, probability, strict=True):
        if place < length:
            columns["tag"][place] = tag
            columns["probability"][place] = round(float(p), 6)
    spans = [*spans[: length - 1], None]
    found_entities = {"entities": predict.entities_in(text, tags, probability)}
    return found_entities, Window(features.tokens[:length], None, spans, columns, 1, len(features))


Spans = tuple[question_answering.EncodedWindows, np.ndarray, list[question_answering.Answer], question_answering.Answer]


def find_spans(entry: Entry, data: DataConfig, question: str, context: str) -> Spans:
    """The windows over a context, their logits, the best answers, and "no answer"."""
    windows, logits, found = predict.look_for_answers(entry.loaded, [question], context, data, entry.device)
    [(answers, nothing)] = found
    return windows, logits, answers, nothing


def show_spans(entry: Entry, data: DataConfig, found: Spans, *texts: str) -> tuple[dict, Window]:
    """The best answers, and the pieces of the window with the best one, each as a start and as an end of it."""
    windows, logits, answers, nothing = found
    best = [{name: getattr(answer, name) for name in ("text", "start", "end", "probability")} for answer in answers]
    i = best_window(windows, logits, data.answer_length)
    window = slice(windows.starts[i], windows.starts[i + 1])
    tokens = windows.tokens[window]
    allowed = windows.allowed[window]
    context_at = windows.context_at[i]
    first = windows.first_piece[i]
    after = first + len(tokens) - context_at - 1
    spans = [*[None] * context_at, *map(tuple, windows.piece_spans[first:after].tolist()), None]
    columns = {}
    for name, row in zip(("start_probability", "end_probability"), logits[window][allowed].T, strict=True):
        probability = np.full(len(tokens), np.nan)  # where no answer may start or end
        probability[allowed] = np.exp(log_softmax(row[None])[0])
        columns[name] = [None if np.isnan(p) else round(float(p), 6) for p in probability]
    answer = {"answers": best, "no_answer": nothing.probability}
    return answer, Window(tokens, windows.token_types[window], spans, columns, i + 1, len(windows))


def best_window(windows: question_answering.EncodedWindows, logits: np.ndarray, longest: int) -> int:
    """The window that holds the best span of all."""
    if len(windows) == 1:  # it may hold nothing of the context
        return 0
    longest = min(longest, int(windows.lengths.max()))
    bounds = zip(windows.starts[:-1] + windows.context_at, windows.starts[1:] - 1, strict=True)
    return int(np.argmax([span_scores(logits[begin:end], longest).max() for begin, end in bounds]))


@torch.inference_mode()
def attention_maps(entry: Entry, window: Window, layer: int) -> list[dict]:
    """The attention weights of a layer: the mean over heads, then each head.

    S,S weights row by row, each row scaled so that its largest one, which is given beside them, becomes 255.
    """
    ids = torch.tensor([window.tokens.tolist()], device=entry.device)  # 1,S
    types = None if window.types is None else torch.tensor([window.types.tolist()], device=entry.device)
    maps = entry.loaded.model(ids, token_type_ids=types, output_attentions=True).attentions[layer - 1][0]  # H,S,S
    maps = torch.cat([maps.mean(dim=0, keepdim=True), maps]).float().cpu().numpy()  # H+1,S,S
    largest = maps.max(axis=2)  # H+1,S
    weights = np.round(255 * maps / largest[:, :, None]).astype(int)
    return [
        {"largest": [round(p, 6) for p in tops.tolist()], "weights": rows.ravel().tolist()}
        for tops, rows in zip(largest, weights, strict=True)
    ]


@dataclass(frozen=True)
class Use:
    """What models with one kind of head can be asked."""

    name: str
    title: str
    fields: dict[str, int]  # the texts that it needs, and the longest that each may be
    find: Callable  # entry, data, texts -> what the model finds
    show: Callable  # entry, data, what it finds, texts -> JSON values, and the input that the page shows


#: Head -> its use.
USES = {
    "span": Use("answer", "Ask a question", {"question": QUESTION, "context": TEXT}, find_spans, show_spans),
    "token": Use("entities", "Mark entities", {"text": TEXT}, find_tags, show_tags),
    "sequence": Use("classify", "Classify a text", {"text": TEXT}, find_labels, show_labels),
}
