"""A model directory and a text in, a prediction out. `python -m kd_scratch predict`"""

import argparse
from pathlib import Path

from kd_scratch.commands.flags import add_flags, data_config, start_device
from kd_scratch.common.console import shorten, show, table
from kd_scratch.common.files import check_target, write_json
from kd_scratch.config import DataConfig, RunConfig
from kd_scratch.evaluation.evaluate import load_for_inference
from kd_scratch.evaluation.predict import predict

LABELS = 3  # that are shown for each text


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
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write all of it there")
    add_flags(parser, DataConfig, only=("overlap", "question_length", "answer_length"))
    add_flags(parser, RunConfig)


def command(arguments: argparse.Namespace) -> dict:
    """`predict`: the label of each text, its entities, or the answer to each question; all with probabilities."""
    device = start_device(arguments)
    data = data_config(arguments)
    loaded = load_for_inference(arguments.model, device=device)
    if arguments.output is not None:
        check_target(arguments.output, arguments.model)
    texts = arguments.text, arguments.question, arguments.context
    result = predict(loaded, *texts, data, device, arguments.text_pair)
    if arguments.output is not None:
        write_json(arguments.output, result)
    for text, prediction in result.items():
        SHOW[loaded.model.config.head](text, prediction)
    return result


def show_labels(text: str, probabilities: dict[str, float]) -> None:
    """Print the best labels of a text."""
    show(table((shorten(text, 66), "probability"), list(probabilities.items())[:LABELS]))


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
