"""The first stages of `trace`: an example as it is in its file, its word pieces, and what the models get."""

from collections.abc import Callable

from kd_scratch.common.console import shorten
from kd_scratch.data.batches import IGNORE, UNLABELLED, collate
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.tasks.question_answering import answer_pieces, label_windows
from kd_scratch.tasks.spans import piece_spans
from kd_scratch.tasks.token_classification import word_pieces
from kd_scratch.trace.stages import Grid, Stage
from kd_scratch.trace.trail import Found, Trail, word_places


def file_stage(found: Found, code: list[Callable]) -> Stage:
    """The example as it was read. code: what has read it."""
    example = found.examples[found.place]
    rows = []
    for name, value in vars(example).items():
        if (name, value) in (("pair", None), ("known", ())):
            continue
        if isinstance(value, tuple):
            value = " | ".join("?" if part is None else part for part in value)
        rows.append((name, "-" if value is None else shorten(str(value), 58)))
    parts = [found.source, Grid(("field", "value"), rows, left=True)]
    return Stage("The file, and the example in it", code, parts)


def pieces_stage(trail: Trail, tokenizer: Tokenizer) -> Stage:
    """Word pieces, and the characters that each stands for."""
    rows = []
    origin = origins(trail, tokenizer)
    for i in trail.shown:
        source, start, end, text = ("", "", "", "") if i is None else origin.get(i, ("-", "", "", ""))
        name = "..." if i is None else f"{i} {trail.pieces[i]}"
        rows.append((name, source, str(start), str(end), repr(shorten(text, 18)) if text else ""))
    what = {"sequence": "the text", "token": "each word by itself", "span": "question and context"}[trail.task.head]
    parts = [
        f"The tokenizer ({'lower case only' if tokenizer.lowercase else 'upper and lower case'}, "
        f"{tokenizer.vocab_size:,} pieces) cuts {what} at spaces and punctuation, and every word into the longest "
        "pieces of its vocabulary, from the left; ## goes on with a word. From and to count characters from 0, the end "
        "not with it.",
        Grid(("piece", "of", "from", "to", "characters"), rows, left=True),
    ]
    more = {"sequence": [], "token": [word_pieces], "span": [piece_spans]}[trail.task.head]
    return Stage("Text into word pieces", [Tokenizer.encode, *more], parts)


Origin = tuple[str, int, int, str]  # of what text a piece is, from where to where, and these characters


def origins(trail: Trail, tokenizer: Tokenizer) -> dict[int, Origin]:
    """Where each piece comes from, by position."""
    gold = trail.gold
    if trail.task.head == "token":
        return word_origins(trail, tokenizer)
    if trail.task.head == "sequence":
        texts = trail.task.texts([gold])[:2]
        ids = tokenizer.encode(*([text] for text in texts), max_length=trail.max_length)[0].ids
        plain = ids == trail.batch.input_ids[0].tolist()  # else the task makes its inputs in another way
        names = ("text",) if len(texts) == 1 else ("first", "second")
        return text_origins(dict(zip(names, texts, strict=True)), tokenizer, trail.max_length) if plain else {}
    found = text_origins({"question": gold.question}, tokenizer, trail.data.question_length + 2)
    windows = trail.features
    first = windows.context_at[trail.window]
    for i in range(first, len(trail.pieces) - 1):
        start, end = windows.piece_spans[windows.first_piece[trail.window] + i - first].tolist()
        found[i] = ("context", start, end, gold.context[start:end])
    return found


def text_origins(texts: dict[str, str], tokenizer: Tokenizer, longest: int) -> dict[int, Origin]:
    """The same for the text that an input begins with, or a pair of them, by name."""
    encoding = tokenizer.encode(*([text] for text in texts.values()), max_length=longest, offsets=True)[0]
    named, found = list(texts.items()), {}
    for i, (kind, (start, end)) in enumerate(zip(encoding.type_ids, encoding.offsets, strict=True)):
        name, text = named[kind]
        if start < end:
            found[i] = (name, start, end, text[start:end])
    return found


def word_origins(trail: Trail, tokenizer: Tokenizer) -> dict[int, Origin]:
    """The same for a sentence, whose words are cut one by one."""
    found = {}
    positions = word_places(trail.student.predictions, trail.place) - trail.features.starts[trail.window]
    for w, position in enumerate(positions.tolist()):
        if not 0 <= position < len(trail.pieces):  # another window holds it
            continue
        word = trail.gold.words[w]
        spans = tokenizer.encode([word], offsets=True)[0].offsets[1:-1]
        spans = spans[: len(trail.pieces) - 1 - position]  # of a word longer than a window
        for i, (start, end) in enumerate(spans or [(0, len(word))], position):
            found[i] = (f"word {w + 1}", start, end, word[start:end])
    return found


def features_stage(trail: Trail) -> Stage:
    """What the models get: the numbers of one input."""
    batch, head = trail.batch, trail.task.head
    rows = []
    for i in trail.shown:
        if i is None:
            rows.append(("...", "", "", "", ""))
            continue
        kind = 0 if batch.token_type_ids is None else int(batch.token_type_ids[0, i])
        allowed = "" if batch.allowed is None else ("yes" if batch.allowed[0, i] else "no")
        rows.append((f"{i} {trail.pieces[i]}", str(int(batch.input_ids[0, i])), str(kind), allowed, label_of(trail, i)))
    keep = {"sequence": [0, 1, 2], "token": [0, 1, 2, 4], "span": [0, 1, 2, 3, 4]}[head]
    header = ("piece", "id", "segment", "may answer", "label")
    parts = [
        "The id is the piece's place in the vocabulary (its line in vocab.txt, counted from 0). The input stands alone "
        "in its batch, so nothing is padded and there is no mask: every piece may be attended to.",
        Grid([header[k] for k in keep], [[row[k] for k in keep] for row in rows], left=True),
        label_text(trail),
        trail.why,
    ]
    more = [answer_pieces, label_windows] if head == "span" else []
    return Stage("Features and labels", [trail.task.featurize, *more, collate], parts)


def label_of(trail: Trail, i: int) -> str:
    """The label of one position, where positions have some."""
    if trail.task.head == "token":
        label = int(trail.batch.labels[0, i])
        without = {IGNORE: "none", UNLABELLED: "unknown"}
        return without.get(label) or f"{label} {shorten(trail.labels[label], 12)}"
    if trail.task.head == "span":
        ends = zip(("start", "end"), trail.batch.labels[0].tolist(), strict=True)
        return " ".join(name for name, position in ends if position == i)
    return ""


def label_text(trail: Trail) -> str:
    """How the label of the input comes about."""
    gold, head = trail.gold, trail.task.head
    labels = trail.labels
    if trail.unknown:
        return trail.unknown
    if trail.task.multi_label:
        has = [f"{shorten(label, 40)!r} (number {labels.index(label)})" for label in trail.task.gold(gold)]
        return (
            f"Of the {len(labels)} labels, numbered from 0, it has {', '.join(has) or 'none'}: those are 1, others 0."
        )
    if head == "sequence":
        label = trail.task.gold(gold)
        place = labels.index(label)
        return f"The label {shorten(label, 40)!r} is number {place} of the {len(labels)} labels, from 0."
    if head == "token":
        return (
            f"Of {len(labels)} tags; the first piece of each word has the word's tag, and nothing else has any. "
            f"{len(trail.batch.counted)} words have one in this input."
        )
    start, end = trail.batch.labels[0].tolist()
    if not start:
        return "No answer is in this window, so position 0, [CLS], is its start and end."
    text = gold.answers[0]
    begin = gold.start
    after = begin + len(text)
    return (
        f"The answer {shorten(text, 60)!r} begins at character {begin} of the context and ends before {begin} + "
        f"{len(text)} = {after}. The first piece of the context that ends behind {begin} is at position {start}, the "
        f"last one that begins before {after} at position {end}: these are the labels."
    )
