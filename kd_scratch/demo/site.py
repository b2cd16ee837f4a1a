"""The site that `demo` serves: models in groups that answer the same, what each group takes, and examples to try."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from kd_scratch.checkpoints.checkpoint import load_config, megabytes
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import read_text
from kd_scratch.config import DataConfig
from kd_scratch.demo.answers import QUESTION, TEXT, USES, Entry, attention_maps
from kd_scratch.demo.protocol import Fields
from kd_scratch.demo.server import Site
from kd_scratch.evaluation.evaluate import load_for_inference
from kd_scratch.pages import html
from kd_scratch.tasks.tag_schemes import TagScheme

NAME = 1_000  # the longest that is taken, in characters
ATTENTION = 256  # pieces of the longest input whose attention is shown


@dataclass
class Group:
    """Models that answer the same: of one head, with the same labels, one a text or several."""

    id: str
    head: str
    labels: tuple[str, ...]
    models: dict[str, Entry] = field(default_factory=dict)


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
            cure = "demo needs a model trained for a task (train --model)"
            raise UserError(f"{directory}: has no head for a task; {cure}")
        if config.pairs:
            cure = "ask it with predict --text A --text-pair B"
            raise UserError(f"{directory}: was trained on pairs of texts, the page takes single ones; {cure}")
        key = (config.head, config.multi_label, frozenset(config.labels))
        if key not in groups:
            use = USES[config.head].name
            count = 1 + sum(head == config.head for head, *_ in groups)
            groups[key] = Group(use if count == 1 else f"{use}-{count}", config.head, config.labels)
        if name in groups[key].models:
            taken = "this name has another model of the same task and labels"
            raise UserError(f"--models {name}={directory}: {taken}; choose another name")
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
    """Each model's answer to the texts, and how long that took."""
    group = group_of(groups, values, [head])
    texts = texts_for(group, values)
    use = USES[head]
    rows = []
    for name, entry in group.models.items():
        begin = time.perf_counter()
        try:
            found = use.find(entry, data, *texts)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        milliseconds = 1000 * (time.perf_counter() - begin)
        result, window = use.show(entry, data, found, *texts)
        about_model = {"name": name, "megabytes": entry.megabytes, "milliseconds": milliseconds}
        about_window = {"window": window.number, "windows": window.windows, "pieces": window.pieces(entry)}
        rows.append(about_model | result | about_window)
    return {"models": rows}


def attention(groups: dict[str, Group], data: DataConfig, values: dict) -> dict:
    """The attention between the pieces of an input, in one layer of one model."""
    group = group_of(groups, values, list(USES))
    texts = texts_for(group, values)
    use = USES[group.head]
    entry = group.models.get(values["model"])
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


def about_model(name: str, entry: Entry) -> dict:
    """One model, for the page."""
    model, config = entry.loaded.model, entry.loaded.model.config
    size = {"megabytes": entry.megabytes, "parameters": model.num_parameters()}
    return {"name": name, **size, "depth": config.depth, "heads": config.heads, "int8": config.int8}


def types_of_entities(group: Group) -> list[str]:
    """What a model of tags finds, in whatever scheme its labels are written."""
    return sorted(TagScheme.of(group.labels).types) if group.head == "token" else []


def about(groups: dict[str, Group]) -> dict:
    """What is served, for the page."""
    heads = [group.head for group in groups.values()]
    rows = []
    for group in groups.values():
        use = USES[group.head]
        several = f": {len(group.labels)} labels" if heads.count(group.head) > 1 else ""
        models = [about_model(name, entry) for name, entry in group.models.items()]
        examples = [dict(zip(["name", *use.fields], texts, strict=True)) for texts in EXAMPLES[group.head]]
        rows.append(
            {
                "id": group.id,
                "path": f"/api/{use.name}",
                "title": use.title + several,
                "labels": group.labels,
                "types": types_of_entities(group),
                "fields": use.fields,
                "models": models,
                "examples": examples,
            }
        )
    return {"groups": rows}


def make_site(groups: dict[str, Group], data: DataConfig) -> Site:
    """The page, and what it asks for. Each model is asked once: UserError where it cannot answer."""
    names: Fields = {"group": NAME}
    functions = {}
    for group in groups.values():
        use = USES[group.head]
        functions[f"/api/{use.name}"] = ([names | use.fields], partial(answer, groups, data, group.head))
        answer(groups, data, group.head, {"group": group.id} | dict.fromkeys(use.fields, "a"))
    one_layer = names | {"model": NAME, "layer": int}
    choices = [one_layer | {"text": TEXT}, one_layer | {"question": QUESTION, "context": TEXT}]
    functions["/api/attention"] = (choices, partial(attention, groups, data))
    page = read_text(Path(__file__).with_name("demo.html")).replace("/* the house style */", html.STYLE)
    return Site(page, {"/api/models": about(groups)}, functions)
