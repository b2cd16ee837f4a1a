"""Teacher and students side by side, on a page in your browser. `python -m kd_scratch demo`"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from kd_scratch.checkpoints.checkpoint import load_config, megabytes
from kd_scratch.common.console import hush, table
from kd_scratch.common.device import start
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import read_text
from kd_scratch.common.signals import Interruption
from kd_scratch.config import DataConfig, RunConfig, add_flags, given
from kd_scratch.demo.server import ADDRESS, Fields, Site, listen, serve
from kd_scratch.evaluation import predict
from kd_scratch.evaluation.evaluate import LoadedModel, load_for_inference
from kd_scratch.pages import html
from kd_scratch.pages.report import named_directory
from kd_scratch.tasks import question_answering, token_classification
from kd_scratch.tasks.base import log_softmax
from kd_scratch.tasks.spans import span_scores, split_words

TEXT, QUESTION, NAME = 20_000, 2_000, 1_000  # the longest that are taken, in characters
LABELS = 5  # the best labels that are shown
ATTENTION = 256  # pieces of the longest input whose attention is shown


@dataclass
class Entry:
    """A model that is served."""

    loaded: LoadedModel
    megabytes: float
    device: torch.device


@dataclass
class Group:
    """Models that answer the same: of one head, with the same labels."""

    id: str
    head: str
    labels: tuple[str, ...]
    models: dict[str, Entry] = field(default_factory=dict)


@dataclass
class Window:
    """One input as a model reads it: S token ids, and the slices of the text that they stand for (None: of none)."""

    tokens: np.ndarray  # S
    types: np.ndarray | None  # S
    spans: list[tuple[int, int] | None]  # S
    columns: dict[str, list]  # what is known of each piece: S values by name
    number: int = 1  # of so many
    windows: int = 1

    def pieces(self, entry: Entry) -> list[dict]:
        """Each piece as the vocabulary writes it, its place in the text, and what is known of it."""
        names = entry.loaded.tokenizer.pieces(self.tokens.tolist())
        starts, ends = zip(*(span or (None, None) for span in self.spans), strict=True)
        columns = {"piece": names, "start": starts, "end": ends} | self.columns
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


# --- one model's answers: `find` does what predict.py does, `show` tells of it ---


def find_labels(entry: Entry, data: DataConfig, text: str) -> dict[str, float]:
    """Every label with its probability."""
    return predict.classify(entry.loaded, text, entry.device)


def show_labels(entry: Entry, data: DataConfig, found: dict[str, float], text: str) -> tuple[dict, Window]:
    """The best labels, and the pieces of the text."""
    encoding = entry.loaded.tokenizer.encode([text], max_length=entry.loaded.max_length, offsets=True)[0]
    best = [{"label": label, "probability": p} for label, p in list(found.items())[:LABELS]]
    spans = [None, *encoding.offsets[1:-1], None]
    return {"labels": best}, Window(np.array(encoding.ids), None, spans, {})


Tagged = tuple[token_classification.EncodedSentences, tuple[str, ...], np.ndarray]


def find_tags(entry: Entry, data: DataConfig, text: str) -> Tagged:
    """The text's words as the model reads them, their tags, and how probable each is."""
    return predict.tag_words(entry.loaded, text, data, entry.device)


def show_tags(entry: Entry, data: DataConfig, found: Tagged, text: str) -> tuple[dict, Window]:
    """The entities, and the pieces of the first window, of which each word's first one has the word's tag."""
    features, tags, probability = found
    words, loaded, length = split_words(text), entry.loaded, int(features.starts[1])
    spans: list[tuple[int, int] | None] = [None]
    room = loaded.max_length - 2  # no word has more pieces
    encodings = loaded.tokenizer.encode([text[a:b] for a, b in words[:length]], offsets=True)
    for (begin, end), encoding in zip(words, encodings, strict=False):
        places = encoding.offsets[1:-1][:room] or [(0, end - begin)]
        spans += [(begin + a, begin + b) for a, b in places]
    columns: dict[str, list] = {"tag": [None] * length, "probability": [None] * length}
    for place, tag, p in zip(features.word_at, tags, probability, strict=True):
        if place < length:
            columns["tag"][place], columns["probability"][place] = tag, round(float(p), 6)
    tokens = features.tokens[:length]
    marked = {"entities": predict.entities_in(text, tags, probability)}
    return marked, Window(tokens, None, [*spans[: length - 1], None], columns, 1, len(features))


Spans = tuple[question_answering.EncodedWindows, np.ndarray, list[question_answering.Answer], question_answering.Answer]


def find_spans(entry: Entry, data: DataConfig, question: str, context: str) -> Spans:
    """The windows over a context, their logits, the best answers, and "no answer"."""
    loaded, device = entry.loaded, entry.device
    windows, logits, [(answers, nothing)] = predict.look_for_answers(loaded, [question], context, data, device)
    return windows, logits, answers, nothing


def show_spans(entry: Entry, data: DataConfig, found: Spans, *texts: str) -> tuple[dict, Window]:
    """The best answers, and the pieces of the window with the best one, each as a start and as an end of it."""
    windows, logits, answers, nothing = found
    best = [{name: getattr(answer, name) for name in ("text", "start", "end", "probability")} for answer in answers]
    i = best_window(windows, logits, data.answer_length)
    inside, at = slice(windows.starts[i], windows.starts[i + 1]), windows.context_at[i]
    tokens, allowed = windows.tokens[inside], windows.allowed[inside]
    count, first = len(tokens) - at - 1, windows.first_piece[i]
    spans = [None] * at + [tuple(span) for span in windows.piece_spans[first : first + count].tolist()] + [None]
    columns = {}
    for name, row in zip(("start_probability", "end_probability"), logits[inside][allowed].T, strict=True):
        values = iter(np.exp(log_softmax(row[None])[0]))
        columns[name] = [round(float(next(values)), 6) if fits else None for fits in allowed]
    answer = {"answers": best, "no_answer": nothing.probability}
    return answer, Window(tokens, windows.token_types[inside], spans, columns, i + 1, len(windows))


def best_window(windows: question_answering.EncodedWindows, logits: np.ndarray, longest: int) -> int:
    """The window that holds the best span of all."""
    if len(windows) == 1:  # it may hold nothing of the context
        return 0
    longest = min(longest, int(windows.lengths.max()))
    bounds = zip(windows.starts[:-1] + windows.context_at, windows.starts[1:] - 1, strict=True)
    return int(np.argmax([span_scores(logits[begin:end], longest).max() for begin, end in bounds]))


@torch.inference_mode()
def attention_maps(entry: Entry, window: Window, layer: int) -> list[dict]:
    """What each piece looks at in a layer: the mean over heads, then each head. S,S weights row by row, each row scaled
    so that its largest, which is told too, becomes 255."""
    inputs = [None if row is None else torch.tensor([row.tolist()]) for row in (window.tokens, window.types)]
    ids, types = (None if row is None else row.to(entry.device) for row in inputs)
    maps = entry.loaded.model(ids, token_type_ids=types, output_attentions=True).attentions[layer - 1][0]  # H,S,S
    maps = torch.cat([maps.mean(dim=0, keepdim=True), maps]).float().cpu().numpy()  # H+1,S,S
    largest = maps.max(axis=2)  # H+1,S
    weights = np.round(255 * maps / largest[:, :, None]).astype(int)
    return [
        {"largest": [round(p, 6) for p in tops.tolist()], "weights": rows.ravel().tolist()}
        for tops, rows in zip(largest, weights, strict=True)
    ]


# --- the site ---


@dataclass(frozen=True)
class Use:
    """What a head is good for."""

    name: str
    title: str
    fields: dict[str, int]  # the texts that it needs
    find: Callable
    show: Callable


#: Head -> its use.
USES = {
    "span": Use("answer", "Ask a question", {"question": QUESTION, "context": TEXT}, find_spans, show_spans),
    "token": Use("entities", "Mark entities", {"text": TEXT}, find_tags, show_tags),
    "sequence": Use("classify", "Classify a text", {"text": TEXT}, find_labels, show_labels),
}
#: Head -> examples to try: a name, and the texts.
EXAMPLES = {
    "span": [
        (
            "A lighthouse",
            "How high is the tower?",
            "The lighthouse of Varn stands on a granite reef eight kilometres off the coast. Its tower is 41 metres "
            "high and was finished in 1874, after six years of work. Nobody has lived there since 1989: the lamp is "
            "switched on and off by radio from the harbour.",
        ),
        (
            "A privacy notice",
            "Who receives my address?",
            "When you order from our shop we ask for your name, your address and your e-mail address. We share your "
            "address with the carrier, who needs it to deliver the parcel, and delete it three months after delivery. "
            "Your e-mail address is kept until you close your account. We never sell it.",
        ),
        (
            "No answer in it",
            "Who painted the ceiling?",
            "The old town hall burnt down in 1911. The new one, of red brick, was opened four years later by the "
            "mayor, Ines Calder, and has a clock that strikes every quarter of an hour.",
        ),
    ],
    "token": [
        ("A journey", "Maria Lindqvist of Northwind Airlines flew from Oslo to Buenos Aires."),
        ("A loan", "The World Bank will lend Kenya 300 million dollars, it said in Washington."),
        ("A match", "Goals by Diego Ferrari and Tom Okafor gave Leeds United a 2-0 win over Ajax."),
    ],
    "sequence": [
        ("A request", "how much money is in my account"),
        ("News of trade", "Shares in the carmaker fell five percent after it warned of lower profits this year."),
        ("News of sport", "The goalkeeper saved two penalties, and the visitors won the cup for the first time."),
    ],
}


def open_groups(named: Sequence[tuple[str, str]], device: torch.device) -> dict[str, Group]:
    """The models by group, each opened once. UserError for one that cannot answer anything."""
    groups: dict[tuple, Group] = {}
    for name, directory in named:
        config = load_config(directory)
        if config.head not in USES:
            raise UserError(f"{directory}: has a pre-training head; demo needs a model trained for a task")
        key, use = (config.head, frozenset(config.labels)), USES[config.head].name
        if key not in groups:
            count = 1 + sum(head == config.head for head, _ in groups)
            groups[key] = Group(use if count == 1 else f"{use}-{count}", config.head, config.labels)
        if name in groups[key].models:
            raise UserError(f"--models {name}={directory}: this name has another model of the same task and labels")
        where = torch.device("cpu") if config.int8 else device
        groups[key].models[name] = Entry(load_for_inference(directory, device=where), megabytes(directory), where)
    return {group.id: group for group in groups.values()}


def texts_for(group: Group, values: dict) -> list[str]:
    """The texts that a group's head needs, from a request."""
    for name in USES[group.head].fields:
        if name not in values:
            raise UserError(f"{name}: is missing, {group.id} needs it")
        if not values[name].strip():
            raise UserError(f"{name}: is empty")
    return [values[name] for name in USES[group.head].fields]


def group_of(groups: dict[str, Group], values: dict, heads: Sequence[str]) -> Group:
    """The group that a request names, of one of these heads."""
    there = [name for name, group in groups.items() if group.head in heads]
    if values["group"] not in there:
        raise UserError(f"group: there is no {values['group'][:40]!r} here, but {', '.join(there) or 'none at all'}")
    return groups[values["group"]]


def answer(groups: dict[str, Group], data: DataConfig, head: str, values: dict) -> dict:
    """What each model of a group makes of the texts, and how long that took."""
    group, use, rows = group_of(groups, values, [head]), USES[head], []
    texts = texts_for(group, values)
    for name, entry in group.models.items():
        begin = time.perf_counter()
        try:
            found = use.find(entry, data, *texts)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        milliseconds = 1000 * (time.perf_counter() - begin)
        result, window = use.show(entry, data, found, *texts)
        rows.append({"name": name, "megabytes": entry.megabytes, "milliseconds": milliseconds} | result)
        rows[-1] |= {"window": window.number, "windows": window.windows, "pieces": window.pieces(entry)}
    return {"models": rows}


def attention(groups: dict[str, Group], data: DataConfig, values: dict) -> dict:
    """What the pieces of an input look at, in one layer of one model."""
    group = group_of(groups, values, list(USES))
    texts, entry, use = texts_for(group, values), group.models.get(values["model"]), USES[group.head]
    if entry is None:
        raise UserError(f"model: there is no {values['model'][:40]!r} in {group.id}, but {', '.join(group.models)}")
    depth = entry.loaded.model.config.depth
    if not 1 <= values["layer"] <= depth:
        raise UserError(f"layer: {values['model']} has layers 1 to {depth}")
    _, window = use.show(entry, data, use.find(entry, data, *texts), *texts)
    if len(window.tokens) > ATTENTION:
        raise UserError(
            f"{list(use.fields)[-1]}: attention is shown for inputs of up to {ATTENTION} pieces, this one has "
            f"{len(window.tokens)}; shorten it"
        )
    pieces = [piece["piece"] for piece in window.pieces(entry)]
    return {"pieces": pieces, "maps": attention_maps(entry, window, values["layer"])}


def about(groups: dict[str, Group]) -> dict:
    """What is served, for the page."""
    heads, rows = [group.head for group in groups.values()], []
    for group in groups.values():
        use = USES[group.head]
        several = f": {len(group.labels)} labels" if heads.count(group.head) > 1 else ""
        models = [
            {"name": name, "megabytes": entry.megabytes, "parameters": entry.loaded.model.num_parameters()}
            | {key: getattr(entry.loaded.model.config, key) for key in ("depth", "heads", "int8")}
            for name, entry in group.models.items()
        ]
        examples = [dict(zip(["name", *use.fields], texts, strict=True)) for texts in EXAMPLES[group.head]]
        rows.append(
            {"id": group.id, "path": f"/api/{use.name}", "title": use.title + several, "labels": group.labels}
            | {"fields": use.fields, "models": models, "examples": examples}
        )
    return {"groups": rows}


def make_site(groups: dict[str, Group], data: DataConfig) -> Site:
    """The page, and what it asks for. Each model has answered once then: what cannot work is told before."""
    names: Fields = {"group": NAME}
    functions = {}
    for head in dict.fromkeys(group.head for group in groups.values()):
        fields = names | USES[head].fields
        functions[f"/api/{USES[head].name}"] = [fields], partial(answer, groups, data, head)
    for group in groups.values():
        answer(groups, data, group.head, {"group": group.id} | dict.fromkeys(USES[group.head].fields, "a"))
    looked_at = names | {"model": NAME, "layer": int}
    choices = [looked_at | {"text": TEXT}, looked_at | {"question": QUESTION, "context": TEXT}]
    functions["/api/attention"] = choices, partial(attention, groups, data)
    page = read_text(Path(__file__).with_name("demo.html")).replace("/* the house style */", html.STYLE)
    return Site(page, {"/api/models": about(groups)}, functions)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `demo`."""
    parser.add_argument(
        "--models",
        required=True,
        nargs="+",
        type=named_directory,
        metavar="NAME=DIR",
        help="models of any tasks; those with the same head and labels are shown side by side",
    )
    parser.add_argument("--port", type=int, default=8321, metavar="N", help="0: any that is free (default 8321)")
    add_flags(parser, DataConfig, only=("overlap", "question_length", "answer_length"))
    add_flags(parser, RunConfig)


def command(arguments: argparse.Namespace) -> None:
    """`demo`: serve the page until Ctrl-C."""
    device, data = start(**vars(RunConfig(**given(arguments, RunConfig)))), DataConfig(**given(arguments, DataConfig))
    with listen(arguments.port) as listener:
        groups = open_groups(arguments.models, device)
        site = make_site(groups, data)
        rows = [
            (group.id, name, entry.megabytes, entry.loaded.model.config.depth, len(group.labels) or None)
            for group in groups.values()
            for name, entry in group.models.items()
        ]
        hush()  # no progress bars for what takes longer
        with Interruption() as interruption:
            print(f"open http://{ADDRESS}:{listener.getsockname()[1]}/ in your browser; Ctrl-C ends it")
            print(table(("task", "model", "MB", "layers", "labels"), rows), flush=True)
            serve(site, listener, interruption)
    print("stopped")
