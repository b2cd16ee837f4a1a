"""A model directory and a text in, a prediction out; or a whole file. `python -m kd_scratch predict`"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch

from kd_scratch.checkpoints.own_head import numbered
from kd_scratch.commands.flags import add_flags, data_config, given, start_device
from kd_scratch.common.console import hush, shorten, show, table
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_target, write_json
from kd_scratch.common.text_file import AUTO
from kd_scratch.config import DataConfig, KernelConfig, RunConfig, flag_name
from kd_scratch.evaluation.cascade import ALL
from kd_scratch.evaluation.evaluate import LoadedModel, find_split, load_for_inference, require_fit
from kd_scratch.evaluation.inputs import EMPTY
from kd_scratch.evaluation.predict import check_inputs, predict
from kd_scratch.evaluation.predict_file import Answerer, answer_stream, predict_file
from kd_scratch.tasks import TASKS, Task, deciding_tasks, usual_task
from kd_scratch.tasks.tag_schemes import TagScheme

LABELS = 3  # that are shown for each text
INPUT = "-"  # as --file: standard input
#: Fields of DataConfig that have a flag here.
SETTINGS = (
    "encoding oos oos_threshold text_column label_column label_separator label_threshold header "
    "question_column context_column overlap question_length answer_length null_threshold"
).split()
#: Flags that change nothing, and so are refused: beside --text or --question; for lines of standard input;
#: and for those of them that are texts, not objects with columns.
NOT_FOR_TEXTS = (
    "force probabilities task split encoding oos oos_threshold text_column label_column label_separator header "
    "question_column context_column null_threshold"
).split()
NOT_FOR_LINES = "force label_separator header split".split()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `predict`."""
    parser.add_argument("--model", required=True, metavar="DIR")
    parser.add_argument(
        "--text", nargs="+", metavar="TEXT", help="texts to label, or to find entities in, each in quotes"
    )
    parser.add_argument(
        "--text-pair", nargs="+", metavar="TEXT", help="for a model of pairs of texts: the second text of each"
    )
    parser.add_argument("--question", nargs="+", metavar="TEXT", help="question answering: questions about --context")
    parser.add_argument("--context", metavar="TEXT", help="question answering: the text that holds the answers")
    parser.add_argument(
        "--file",
        type=Path,
        metavar="FILE",
        help="answer all of a file: texts as a table, JSON lines or lines; questions as SQuAD's JSON, JSON lines or a "
        "table; sentences also as CoNLL's columns. What is odd in it becomes a row with an error. - or a pipe: each "
        "line of standard input when it comes, in JSON lines (a question is an object with question and context)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write all of it there, as JSON; with --file as .csv, .tsv or .jsonl, with the columns of the input. What "
        "was interrupted goes on by the same command, from FILE.part",
    )
    parser.add_argument("--probabilities", action="store_true", help="--file: also those of all labels")
    parser.add_argument("--ask", metavar="DIR", help="--file: a model that answers where --model is not sure")
    below_help = "--ask: where it is less sure than this, a number that `cascade` finds on dev"
    parser.add_argument("--below", type=float, metavar="P", help=below_help)
    parser.add_argument(
        "--force", action="store_true", help="--file: replace --output, or what another run has left unfinished"
    )
    parser.add_argument(
        "--task", choices=deciding_tasks(), help="--file: whose files are read (default csv, conll or squad, by model)"
    )
    parser.add_argument("--split", default="", metavar="NAME", help="clinc: train, val or test (default test)")
    add_flags(parser, DataConfig, only=SETTINGS)
    add_flags(parser, RunConfig, only=("device", "threads"))
    add_flags(parser, KernelConfig)


def command(arguments: argparse.Namespace) -> dict:
    """`predict`: the label of each text, its entities, or the answer to each question; all with probabilities."""
    names = "text", "text_pair", "question", "context"
    texts = [flag_name(name) for name in names if getattr(arguments, name) is not None]
    if (arguments.ask is None) != (arguments.below is None):
        raise UserError("--ask and --below belong together; give both, or leave out both")
    if arguments.ask and not 0 <= arguments.below <= ALL:
        raise UserError(f"--below {arguments.below:g}: is a probability; give a number from 0 to 1")
    if arguments.ask and texts:
        raise UserError(f"--ask and {texts[0]}: leave out one of them")
    if arguments.file and texts:
        raise UserError(f"--file and {texts[0]}: leave out one of them")
    if arguments.file or not (texts or sys.stdin is None or sys.stdin.isatty()):
        return whole_file(arguments, str(arguments.file) in (INPUT, "None"))
    refuse(arguments, NOT_FOR_TEXTS)
    refuse_blanks(arguments, names)
    device = start_device(arguments, arguments.model)
    data = data_config(arguments)
    loaded = open_model(arguments, device)
    if arguments.output is not None:
        check_target(arguments.output, arguments.model)
    texts = arguments.text, arguments.question, arguments.context
    result = predict(loaded, *texts, data, device, arguments.text_pair)
    if arguments.output is not None:
        write_json(arguments.output, result)
    show_one = show_multi_label if loaded.model.config.multi_label else SHOW[loaded.model.config.head]
    for text, prediction in result.items():
        show_one(text, prediction)
    return result


def refuse(arguments: argparse.Namespace, names: Iterable[str]) -> None:
    """UserError where one of these flags is given."""
    asked = given(arguments, DataConfig).keys()
    for name in names:
        if name in asked or (name not in SETTINGS and getattr(arguments, name)):
            raise UserError(f"{flag_name(name)}: is for --file FILE; leave it out")


def refuse_blanks(arguments: argparse.Namespace, names: Iterable[str]) -> None:
    """UserError where one of these inputs, or of several texts one, is blank."""
    for name in names:
        value = getattr(arguments, name) or []
        for text in [value] if isinstance(value, str) else value:
            if not text.strip():
                raise UserError(f"{flag_name(name)}: {EMPTY} in {shorten(repr(text), 20)}")


def open_model(arguments: argparse.Namespace, device: torch.device, task: Task | None = None) -> LoadedModel:
    """The model of --model. UserError where --label-threshold is given, and it gives one label a text."""
    loaded = load_for_inference(arguments.model, task, device=device)
    if "label_threshold" in given(arguments, DataConfig) and not loaded.model.config.multi_label:
        raise UserError("--label-threshold: is for a model that gives a text several labels; leave it out")
    return loaded


def whole_file(arguments: argparse.Namespace, is_stream: bool) -> dict:
    """The answers to all inputs of a file, or of standard input, while they come."""
    if is_stream:
        if arguments.json or arguments.output:
            flag = "--json" if arguments.json else "--output"
            raise UserError(f"{flag}: standard input is answered in JSON lines, on standard output; leave it out")
        refuse(arguments, NOT_FOR_LINES)
        hush()  # notes are no JSON
    device = start_device(arguments, *filter(None, (arguments.model, arguments.ask)))
    data = data_config(arguments)
    loaded = open_model(arguments, device, arguments.task and TASKS[arguments.task])
    head = loaded.model.config.head
    if head in (None, "mlm"):
        check_inputs(loaded, {})
    task = TASKS[arguments.task] if arguments.task else usual_task(loaded.model.config)
    abstain = "null_threshold" in given(arguments, DataConfig)
    answerer = Answerer(loaded, task, data, device, abstain, arguments.probabilities)
    if arguments.ask:
        answerer = replace(answerer, other=other_model(answerer, arguments.ask), below=arguments.below)
    if is_stream:
        is_plain = not answerer.pairs and "text_column" not in given(arguments, DataConfig)
        refuse(arguments, ["label_column"] if head != "span" and is_plain else ())
        if answerer.other:
            require_fit(answerer.other.loaded, answerer.pairs, "standard input")
        lines = lines_of_input(data.encoding)
        first = next(lines, "")
        if not first and arguments.file is None:
            check_inputs(loaded, {})
        lines = chain([first] * bool(first), lines)
        return answer_stream(answerer, lines, lambda line: print(line, end="", flush=True))
    if arguments.output is None:
        raise UserError(f"--file {arguments.file}: needs a file for the answers: add --output FILE.csv, .tsv or .jsonl")
    split = find_split(task, arguments.split)
    found = predict_file(answerer, arguments.file, arguments.output, split, arguments.force)
    odd = f", {found['odd']:,} of them odd (their column error has why)" if found["odd"] else ""
    show(f"{found['inputs']:,} inputs{odd}, answers in {arguments.output}, {found['seconds']:.1f} s")
    return found


def lines_of_input(encoding: str) -> Iterator[str]:
    """The lines of standard input as they come. A byte that is no text becomes a surrogate (see TextFile)."""
    encoding = "utf-8" if encoding == AUTO else encoding
    sys.stdin.reconfigure(encoding=encoding, errors="surrogateescape", newline="\n")
    try:
        yield from sys.stdin
    except UnicodeError:
        raise UserError(f"standard input: is not {encoding}; choose another --encoding") from None


def other_model(answerer: Answerer, directory: str) -> Answerer:
    """What answers where the first model is not sure. UserError where it has other labels."""
    other = load_for_inference(directory, answerer.task, device=answerer.device)
    first, second = answerer.loaded.model, other.model
    for model, beside in ((first, second), (second, first)):  # one may have numbers for names
        labels = numbered(model.config.labels, beside.config.labels)
        model.config = replace(model.config, labels=labels)
    mean = TagScheme.of if answerer.task.head == "token" else None
    labels, others = (mean(m.config.labels).types if mean else {*m.config.labels} for m in (first, second))
    if labels != others:
        raise UserError(f"--ask {directory}: has other labels than --model; give a model of the same ones")
    return replace(answerer, loaded=other)


def show_labels(text: str, probabilities: dict[str, float]) -> None:
    """Print the best labels of a text."""
    show(table((shorten(text, 66), "probability"), list(probabilities.items())[:LABELS]))


def show_multi_label(text: str, found: dict) -> None:
    """Print the labels that a text gets."""
    rows = [(label, found["probabilities"][label]) for label in found["labels"]]
    rows = rows or [(f"(no label has {found['threshold']:.4f} or more)", None)]
    show(table((shorten(text, 66), "probability"), rows))


def show_entities(text: str, entities: list[dict]) -> None:
    """Print a text with its entities marked, and a table of them."""
    show(marked(text, entities))
    if entities:
        rows = [(shorten(entity["entity"], 56), entity["type"], entity["probability"]) for entity in entities]
        show(table(("entity", "type", "probability"), rows))


def marked(text: str, entities: list[dict]) -> str:
    """The text with its entities in brackets.  [Ada Berg PER] flew to [Torvia LOC]."""
    for entity in reversed(entities):  # from the end, so that the places before it stay valid
        start, end = entity["start"], entity["end"]
        text = f"{text[:start]}[{text[start:end]} {entity['type']}]{text[end:]}"
    return text


def show_answers(question: str, answers: list[dict]) -> None:
    """Print the best answers to a question."""
    rows = [(shorten(answer["answer"], 66) or "(no answer)", answer["probability"]) for answer in answers]
    show(table((shorten(question, 66), "probability"), rows))


#: Head -> what prints a prediction of it.
SHOW = {"sequence": show_labels, "token": show_entities, "span": show_answers}
