"""A checkpoint and a text in, an answer out. `python -m kd_scratch predict`"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from kd_scratch.common.console import shorten, show, table
from kd_scratch.common.device import start
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_target, write_json
from kd_scratch.config import DataConfig, RunConfig, add_flags, given
from kd_scratch.evaluation.evaluate import LoadedModel, load_for_inference
from kd_scratch.evaluation.inference import compute_logits
from kd_scratch.tasks import Predictions, question_answering, token_classification
from kd_scratch.tasks.base import log_softmax
from kd_scratch.tasks.conll_metric import entities
from kd_scratch.tasks.question_answering import Answer
from kd_scratch.tasks.spans import split_words

ANSWERS = 5  # the best answers that are shown to each question


@torch.inference_mode()
def classify(loaded: LoadedModel, text: str, device: torch.device) -> dict[str, float]:
    """Every label with its probability, the most probable first."""
    ids = loaded.tokenizer.encode([text], max_length=loaded.max_length)[0].ids
    logits = loaded.model(torch.tensor([ids], device=device)).logits[0]  # C
    if not logits.isfinite().all():
        raise UserError("the model gives logits that are not finite numbers: training diverged, or its file is damaged")
    probability = logits.cpu().double().softmax(dim=0).numpy()
    labels = loaded.model.config.labels
    return {labels[i]: float(probability[i]) for i in np.argsort(-probability, kind="stable")}


def look_for_answers(
    loaded: LoadedModel, questions: list[str], context: str, data: DataConfig, device: torch.device
) -> tuple[question_answering.EncodedWindows, np.ndarray, list[tuple[list[Answer], Answer]]]:
    """The windows over a context for each question, their logits, and its best answers and "no answer"."""
    examples = [
        question_answering.Example(f"question {i}", question, context) for i, question in enumerate(questions, 1)
    ]
    windows = question_answering.featurize(examples, loaded.tokenizer, (), loaded.max_length, data)
    logits = compute_logits(loaded.model, windows, device)
    return windows, logits, question_answering.candidates(examples, windows, logits, data.answer_length, ANSWERS)


def find_answers(
    loaded: LoadedModel, questions: list[str], context: str, data: DataConfig, device: torch.device
) -> list[list[Answer]]:
    """The best answers to each question about a context, with "no answer" among them, the most probable first."""
    _, _, found = look_for_answers(loaded, questions, context, data, device)
    return [sorted([*answers, nothing], key=lambda answer: -answer.probability) for answers, nothing in found]


def tag_words(
    loaded: LoadedModel, text: str, data: DataConfig, device: torch.device
) -> tuple[token_classification.EncodedSentences, tuple[str, ...], np.ndarray]:
    """The words of a text as the model reads them, the tag of each, and how probable that is."""
    examples = [token_classification.from_text("text", text)]
    labels = loaded.model.config.labels
    features = token_classification.featurize(examples, loaded.tokenizer, labels, loaded.max_length, data)
    logits = compute_logits(loaded.model, features, device)
    tags = Predictions(token_classification.TASK, examples, features, logits, labels, data).decisions[0]
    return features, tags, np.exp(log_softmax(logits[features.word_at]).max(axis=1))


def find_entities(loaded: LoadedModel, text: str, data: DataConfig, device: torch.device) -> list[dict]:
    """The entities in a text, in order: their slice of it, start and end (code points), type, and probability."""
    _, tags, probability = tag_words(loaded, text, data, device)
    return entities_in(text, tags, probability)


def entities_in(text: str, tags: Sequence[str], probability: np.ndarray) -> list[dict]:
    """The entities that the tags of a text's words make; each as probable as the least certain of its tags."""
    spans = split_words(text)
    return [
        {
            "entity": text[spans[first][0] : spans[end - 1][1]],
            "type": kind,
            "start": spans[first][0],
            "end": spans[end - 1][1],
            "probability": float(probability[first:end].min()),
        }
        for kind, first, end in entities(tags)
    ]


def marked(text: str, found: list[dict]) -> str:
    """The text with its entities in brackets.  [Ada Berg PER] flew to [Torvia LOC]."""
    for entity in reversed(found):  # from the end, so that the places before it stay valid
        start, end = entity["start"], entity["end"]
        text = f"{text[:start]}[{text[start:end]} {entity['type']}]{text[end:]}"
    return text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `predict`."""
    parser.add_argument("--model", required=True, metavar="DIR")
    parser.add_argument(
        "--text", nargs="+", metavar="TEXT", help="texts to label, or to find entities in, each in quotes"
    )
    parser.add_argument("--question", nargs="+", metavar="TEXT", help="question answering: questions about --context")
    parser.add_argument("--context", metavar="TEXT", help="question answering: the text that holds the answers")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write all of it there")
    add_flags(parser, DataConfig, only=("overlap", "question_length", "answer_length"))
    add_flags(parser, RunConfig)


def show_labels(loaded: LoadedModel, arguments: argparse.Namespace, data: DataConfig, device: torch.device) -> dict:
    """Print the three best labels of each text; returns all of them, by text."""
    result = {text: classify(loaded, text, device) for text in arguments.text}
    for text, answer in result.items():
        show(table((shorten(text, 66), "probability"), list(answer.items())[:3]))
    return result


def show_entities(loaded: LoadedModel, arguments: argparse.Namespace, data: DataConfig, device: torch.device) -> dict:
    """Print each text with its entities marked, and a table of them; returns them by text."""
    result = {text: find_entities(loaded, text, data, device) for text in arguments.text}
    for text, found in result.items():
        show(marked(text, found))
        if found:
            rows = [(shorten(entity["entity"], 56), entity["type"], entity["probability"]) for entity in found]
            show(table(("entity", "type", "probability"), rows))
    return result


def show_answers(loaded: LoadedModel, arguments: argparse.Namespace, data: DataConfig, device: torch.device) -> dict:
    """Print the best answers to each question; returns them by question."""
    result = {}
    found = find_answers(loaded, arguments.question, arguments.context, data, device)
    for question, best in zip(arguments.question, found, strict=True):
        names = ("start", "end", "probability", "no_answer")
        result[question] = [{"answer": a.text} | {name: getattr(a, name) for name in names} for a in best]
        rows = [(shorten(a.text, 66) or "(no answer)", a.probability) for a in best]
        show(table((shorten(question, 66), "probability"), rows))
    return result


#: Head -> the flags that it needs, and what prints its answer.
USES = {
    "sequence": (("text",), show_labels),
    "token": (("text",), show_entities),
    "span": (("question", "context"), show_answers),
}


def command(arguments: argparse.Namespace) -> dict:
    """`predict`: the label of each text, its entities, or the answer to each question; all with probabilities."""
    device = start(**vars(RunConfig(**given(arguments, RunConfig))))
    data = DataConfig(**given(arguments, DataConfig))
    loaded = load_for_inference(arguments.model, device=device)
    head = loaded.model.config.head
    if head in (None, "mlm"):
        raise UserError(f"{arguments.model}: has a pre-training head; predict needs a model trained for a task")
    wanted, answer = USES[head]
    for name in ("text", "question", "context"):
        if (getattr(arguments, name) is not None) != (name in wanted):
            flags = " and ".join(f"--{name}" for name in wanted)
            raise UserError(f"{arguments.model}: has a {head} head; predict needs {flags} for it, and no more")
    if arguments.output is not None:
        check_target(arguments.output, arguments.model)
    result = answer(loaded, arguments, data, device)
    if arguments.output is not None:
        write_json(arguments.output, result)
    return result
