"""README.md of a model folder, as hubs of models show it (a model card, Mitchell et al. 2019).

It is made of the files in the folder (config.json, the records of records.py, onnx/); what they do not tell is
left out. Of a path it has the last component alone. Text from a file stands in a code span, where no markup
counts.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from glob import escape
from pathlib import Path

import torch

from kd_scratch.checkpoints.checkpoint import CONFIG, WEIGHTS, load_config, megabytes
from kd_scratch.common.console import Say, say, shorten, table
from kd_scratch.common.errors import UserError, printable
from kd_scratch.common.files import has_content, leads_out, read_bytes, read_text, sha256, write_atomically, write_text
from kd_scratch.config import DataConfig, ModelConfig
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.nn.model import Model
from kd_scratch.pages.card_code import usage
from kd_scratch.pages.records import is_number, known_quantization, origin_record
from kd_scratch.tasks import TASKS

CARD = "README.md"
#: Its last line, with the hash of what is above.
MARK = "<!-- written by kd_scratch, which leaves it alone once it is edited: "
LICENCES = ("LICEN[CS]E*", "NOTICE*", "COPYING*")
LABELS = 20  # that are named
KINDS = {"bert": "BERT", "distilbert": "DistilBERT", "kd_scratch": "transformer of kd_scratch's own shape"}
#: Head -> what hubs call such a model, and what it gives.
HEADS = {
    "sequence": ("text-classification", "gives one label to a {}"),
    "token": ("token-classification", "gives a tag to each word"),
    "span": ("question-answering", "finds the answer to a question in a text"),
    "mlm": ("fill-mask", "guesses masked words"),
    None: ("feature-extraction", "turns text into hidden states, and has no head yet"),
}
MULTI_LABEL = "gives any number of labels to a {}"
OF_ORIGIN = "**These are the scores of the model before it was {}. What is here was not measured.** "
CHOSEN = (
    "The first of these scores has chosen the weights that are kept, so it is a little too high. Measure the model "
    "on text that was used for nothing else: "
    "`python -m kd_scratch evaluate --task {task} --model {model} --data FILE`. "
    "The interval is over dev sets like this one; another training run may differ by more."
)
CARRIED_ON = "It is made of other models, whose licences go on for it:\n"
UNLICENSED = "No licence was found beside the models that it is made of: it is up to whoever made those."
OWN = "It is made of no other model, so its licence is up to whoever trained it and to that of the data."


def write_card(folder: Path, sources: Iterable[str | Path], training: dict | None = None, say: Say = say) -> None:
    """Write README.md into a model folder, and the licences of what the model was made of.

    sources: the folders of the models that went into it; a name that is no folder is left out.
    training: the record of its training. None: the model is another form of the first source, and the records
    in this folder or that one tell of it.
    A README.md that somebody has written or edited stays as it is; `say` gets a note of that.
    """
    sources = list(dict.fromkeys(Path(source).resolve() for source in sources if Path(source).is_dir()))
    licences = [(source.name, name) for source in sources for name in copy_licences(source, folder, say)]
    path = folder / CARD
    if path.exists() and not is_generated(path):
        say(f"note: {path}: was not written by this program, or edited since; it stays as it is")
        return
    quantized = None
    if training is None:
        places = [folder, *sources[:1]]
        quantized = next(filter(None, (known_quantization(place, say) for place in places)), None)
        training = next(filter(None, (origin_record(place, say) for place in places)), None)
    text = card(folder, sources, licences, training, quantized)
    write_text(path, f"{text}\n\n{MARK}{sha256(text)} -->\n")


def is_generated(path: Path) -> bool:
    """Whether a card is as it was written here."""
    try:
        text, mark, end = read_text(path).rpartition(f"\n\n{MARK}")
    except UserError:
        return False
    return bool(mark) and end == f"{sha256(text)} -->\n"


def copy_licences(source: Path, folder: Path, say: Say = say) -> list[str]:
    """The names of a folder's licences in another one, where they now stand too. None is ever overwritten."""
    names = []
    for path in sorted({path for pattern in LICENCES for path in source.glob(pattern) if path.is_file()}):
        try:
            if leads_out(path):
                raise UserError(f"{path}: is a link to a file elsewhere")
            content = read_bytes(path)
        except UserError as error:
            say(f"note: {error}; it is not copied")
            continue
        places = (path.name, *(f"{path.stem}-{i}{path.suffix}" for i in range(2, 100)))
        places = [folder / name for name in places]
        target = next((p for p in places if not p.exists() or has_content(p, content)), None)
        if target is None:
            say(printable(f"note: {path}: is not copied, {folder} has other files of all such names"))
            continue
        if not target.exists():
            write_atomically(target, [content])
        names.append(target.name)
    return names


def common_licence(sources: Sequence[Path]) -> str:
    """The licence that the cards of all these folders name; "" where one has none, or they differ."""
    found = set()
    for source in sources:
        try:
            front = re.match(r"---\n(.*?)\n---\n", read_text(source / CARD), re.DOTALL)
        except UserError:
            front = None
        match = front and re.search(r"^license: *[\"']?([\w.-]{1,60})[\"']? *$", front[1], re.MULTILINE)
        found.add(match[1] if match else "")
    return found.pop() if len(found) == 1 else ""


# --- the text ---


def code(text) -> str:
    """Text from a file or a path as a code span: on one line, and no markup in it counts."""
    text = shorten(str(text), 100)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text or not text else ""
    return f"{fence}{space}{text}{space}{fence}"


def card(
    folder: Path,
    sources: Sequence[Path],
    licences: Sequence[tuple[str, str]],
    training: dict | None,
    quantized: dict | None,
) -> str:
    """The text of a card. licences: of which source each is, and the name of its file."""
    config, onnx = load_config(folder), sorted(path.name for path in folder.glob("onnx/*.onnx"))
    tokenizer = load_tokenizer(folder, lambda note: None)
    longest = min(tokenizer.max_length or config.max_positions, config.max_positions)
    is_model = (folder / WEIGHTS).is_file()
    # ONNX calls our own shapes BERT, and int8 is a matter of its files.
    shape = config if is_model else replace(load_config([*sources, folder][0]), int8=False)
    opens = is_model and not config.int8 and config.model_type != "kd_scratch"
    sections = {
        "Scores": scores(training, config.int8, bool(onnx), "." if is_model else "DIR") if training else "",
        "Size and speed": size(folder, shape, onnx, quantized),
        "Made of": made_of(training) if training else "",
        "Use": usage(config, longest, tokenizer.has_token_types, is_model, opens, onnx),
        "Limits": limits(config, longest, opens),
        "Licence": licence_of(sources, licences),
    }
    parts = [front_matter(config, training, common_licence(sources), opens, bool(onnx))]
    parts += [f"# {code(folder.resolve().name)}", what_it_is(config, training)]
    parts += [f"## {title}\n\n{text}" for title, text in sections.items() if text]
    return "\n\n".join(parts)


# --- its parts ---


def front_matter(config: ModelConfig, training: dict | None, licence: str, opens: bool, onnx: bool) -> str:
    """What a hub sorts models by, in YAML. Nobody knows here: the language, the name of the base model there."""
    facts = {"license": licence, "library_name": "transformers" if opens else ""}
    facts["pipeline_tag"] = HEADS[config.head][0]
    taught = bool(training and training.get("teacher"))
    tags = {"kd_scratch": True, "knowledge-distillation": taught, "int8": config.int8, "onnx": onnx}
    facts["tags"] = [tag for tag, holds in tags.items() if holds]
    facts["metrics"] = [TASKS[training["task"]].score_name] if training else []
    lines = [f"{key}: {json.dumps(value)}" for key, value in facts.items() if value]  # JSON is YAML
    return "\n".join(["---", *lines, "---"])


def what_it_is(config: ModelConfig, training: dict | None) -> str:
    """A paragraph: the kind of model, what it gives, and who taught it."""
    labels = ", ".join(map(code, config.labels[:LABELS]))
    more = f" and {len(config.labels) - LABELS} more (in `{CONFIG}`)" if len(config.labels) > LABELS else ""
    kind = ("An int8 " if config.int8 else "A ") + KINDS[config.model_type]
    gives = MULTI_LABEL if config.multi_label else HEADS[config.head][1]
    gives = gives.format("pair of texts" if config.pairs else "text")
    depth = f"{config.depth} layer{'s' * (config.depth > 1)}"
    text = f"{kind} of {depth}, {config.width} wide. It {gives}{': ' * bool(labels)}{labels}{more}."
    if not training:
        return text
    names = training.get("sources", {})
    teachers = " and ".join(map(code, names.get("teachers", []))) or "a teacher"
    layers = f"layers {code(names['layers'])} of " if names.get("layers") else ""
    start = f", starting from {layers}{code(names['model'])}" if names.get("model") else ""
    how = f"distilled from {teachers}" if training.get("teacher") else "fine-tuned"
    return f"{text} It was {how}{start}."


def scores(training: dict, int8: bool, onnx: bool, model: str) -> str:
    """The scores on dev of the weights that were kept, and what they are worth. model: what `evaluate` is given."""
    task, history = TASKS[training["task"]], training["history"]
    kept = next((epoch for epoch in history if epoch["epoch"] == training["best_epoch"]), history[-1])
    cells = []
    for name in [task.score_name, *(column for column in task.columns if column != task.score_name)]:
        if is_number(kept["dev"].get(name)):
            low, high = kept.get("interval", (None, None)) if name == task.score_name else (None, None)
            cells.append((name, float(kept["dev"][name]), low, high))
    since = training.get("since", [])
    since = [*since, *["quantized"] * (int8 and "quantized" not in since), *["exported"] * onnx]
    notes = OF_ORIGIN.format(", then ".join(since)) if since else ""
    notes += CHOSEN.format(task=task.name, model=model)
    return f"{table(('on dev', 'score', '95% from', 'to'), cells, markdown=True)}\n\n{notes}"


def size(folder: Path, config: ModelConfig, onnx: Sequence[str], quantized: dict | None) -> str:
    """Parameters, megabytes, and where `quantize` has measured them, milliseconds."""
    with torch.device("meta"):
        parameters = Model(config).num_parameters()
    files = [(WEIGHTS, megabytes(folder))] if (folder / WEIGHTS).is_file() else []
    for name in onnx:
        parts = (folder / "onnx").glob(f"{escape(name)}*")  # tensors of more than 2 GB stand beside it
        files.append((f"onnx/{name}", sum(path.stat().st_size for path in parts) / 1e6))
    sizes = table(("file", "MB"), [(code(name), megabytes) for name, megabytes in files], markdown=True)
    text = f"{parameters:,} parameters.\n\n{sizes}"
    if quantized:
        float_row, int8_row = (quantized["rows"][name] for name in ("float", "int8"))
        cells = [(code(key.replace("_", " ")), float_row.get(key), value) for key, value in int8_row.items()]
        costs = table(("one input at a time", "float", "int8"), cells, markdown=True)
        machine = quantized["machine"]
        keys = [key for key in ("processor", "instructions", "threads") if key in machine]
        on = ", ".join(f"{key} {code(machine[key])}" for key in keys)
        text += f"\n\n{costs}\n\nMeasured by `quantize`: {on}."
    return text


def made_of(training: dict) -> str:
    """Data with its hashes, and the settings that are not the usual ones, or always matter."""
    names, examples, data = training.get("sources", {}), training.get("examples", {}), []
    for part in ("train", "dev", "unlabelled"):
        if isinstance(training.get(part), str):
            count = examples.get(part)
            digest = None if "%" in training[part] else code(training[part])  # --dev 10%: a part of train
            data.append((part, code(names.get(part, "?")), count if is_number(count) else None, digest))
    always = {"learning_rate", "batch_size", "max_length"}
    always.add("steps" if training["settings"].get("steps") else "epochs")
    always |= {"temperature", "alpha"} if training.get("teacher") else set()
    usual = vars(TASKS[training["task"]].train_config()) | vars(DataConfig())
    every = training["settings"] | training["data settings"]
    # (Older records have a switch that is no more; it was usually off.)
    shown = {key: value for key, value in every.items() if key in always or value != usual.get(key, False)}
    settings = [(code(key), code(value)) for key, value in (shown | {"seed": training.get("seed")}).items()]
    files = table(("data", "file", "examples", "SHA-256"), data, markdown=True)
    chosen = table(("setting", "value"), settings, markdown=True)
    return f"{files}\n\n{chosen}\n\nAll other settings are the usual ones of this task."


def limits(config: ModelConfig, longest: int, opens: bool) -> str:
    """What it cannot do, as far as the files tell."""
    windows = config.head in ("token", "span")
    beyond = "several windows here, elsewhere cut off" if windows else "cut off"
    lines = [f"- Of a text, what is beyond {longest} word pieces is {'read in ' * windows}{beyond}."]
    if config.int8:
        lines.append("- Only kd_scratch opens it, on a CPU.")
    elif not opens:
        lines.append("- `transformers` does not open it.")
    lines.append("- It knows the kind of text, and the language, of its training data. Nothing else was tested.")
    return "\n".join(lines)


def licence_of(sources: Sequence[Path], licences: Sequence[tuple[str, str]]) -> str:
    """Which licences go on for the model."""
    if not sources:
        return OWN
    by_card = [(source.name, common_licence([source]), "by its card") for source in sources]
    by_file = [(source, name, "a copy of its file") for source, name in licences]
    named = [f"- {code(source)}: {code(what)}, {how}" for source, what, how in by_card + by_file if what]
    return "\n".join([CARRIED_ON, *named]) if named else UNLICENSED
