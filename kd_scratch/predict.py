"""A checkpoint and a text in, an answer out. `python -m kd_scratch predict`"""

import argparse
from pathlib import Path

import numpy as np
import torch

from kd_scratch.config import DataConfig, RunConfig, add_flags, given
from kd_scratch.console import shorten, table
from kd_scratch.evaluate import Opened, open_model
from kd_scratch.files import UserError, make_folder, write_json
from kd_scratch.inference import compute_logits
from kd_scratch.runtime import start
from kd_scratch.tasks.question_answering import Answer, Example, candidates, featurize

ANSWERS = 5  # the best answers that are shown to each question


@torch.no_grad()
def classify(opened: Opened, text: str, device: torch.device) -> dict[str, float]:
    """Every label with its probability, the most probable first."""
    ids = opened.tokenizer.encode([text], max_length=opened.max_length)[0].ids
    logits = opened.model.to(device)(torch.tensor([ids], device=device)).logits[0]  # C
    probability = logits.cpu().double().softmax(dim=0).numpy()
    labels = opened.model.config.labels
    return {labels[i]: float(probability[i]) for i in np.argsort(-probability, kind="stable")}


def find_answers(
    opened: Opened, questions: list[str], context: str, data: DataConfig, device: torch.device
) -> list[list[Answer]]:
    """The best answers to each question about a context, with "no answer" among them, the most probable first."""
    examples = [Example(str(i), question, context) for i, question in enumerate(questions)]
    windows = featurize(examples, opened.tokenizer, (), opened.max_length, data)
    logits = compute_logits(opened.model.to(device), windows, device)
    found = candidates(examples, windows, logits, data.answer_length, ANSWERS)
    return [sorted([*answers, nothing], key=lambda answer: -answer.probability) for answers, nothing in found]


def check_utf8(texts: str | list[str], flag: str) -> None:
    """UserError where the command line held bytes that are not UTF-8 (Python passes them on as half characters)."""
    for text in [texts] if isinstance(texts, str) else texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(f"{flag}: {ascii(shorten(text, 40))} is not UTF-8") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `predict`."""
    parser.add_argument("--model", required=True, metavar="DIR")
    parser.add_argument("--text", nargs="+", metavar="TEXT", help="a classifier: texts to label, each in quotes")
    parser.add_argument("--question", nargs="+", metavar="TEXT", help="question answering: questions about --context")
    parser.add_argument("--context", metavar="TEXT", help="question answering: the text that holds the answers")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write all of it there")
    add_flags(parser, DataConfig, only=("overlap", "question_length", "answer_length"))
    add_flags(parser, RunConfig)


def command(arguments: argparse.Namespace) -> None:
    """`predict`: the label of each text, or the answer to each question, with its probability and the runners-up."""
    device = start(RunConfig(**given(arguments, RunConfig)))
    data = DataConfig(**given(arguments, DataConfig))
    opened = open_model(arguments.model)
    head = opened.model.config.head
    wanted = {"sequence": ("text",), "span": ("question", "context")}.get(head)
    if wanted is None:
        raise UserError(
            f"{arguments.model}: has a {head or 'pre-training'} head; predict needs a classifier or a span head"
        )
    for name in ("text", "question", "context"):
        if (getattr(arguments, name) is not None) != (name in wanted):
            flags = " and ".join(f"--{name}" for name in wanted)
            raise UserError(f"{arguments.model}: has a {head} head; predict needs {flags} for it, and no more")
    for name in wanted:
        check_utf8(getattr(arguments, name), f"--{name}")
    if arguments.output:
        make_folder(arguments.output.parent)
    if head == "sequence":
        result = {text: classify(opened, text, device) for text in arguments.text}
        rows = {text: list(answer.items())[:3] for text, answer in result.items()}
    else:
        answers = find_answers(opened, arguments.question, arguments.context, data, device)
        result = {
            question: [
                {
                    "answer": a.text,
                    "start": a.start,
                    "end": a.end,
                    "probability": a.probability,
                    "no_answer": a.no_answer,
                }
                for a in best
            ]
            for question, best in zip(arguments.question, answers, strict=True)
        }
        rows = {
            question: [(shorten(a["answer"], 70) or "(no answer)", a["probability"]) for a in best]
            for question, best in result.items()
        }
    for text, lines in rows.items():
        print(table((shorten(text, 70), "probability"), lines))
    if arguments.output:
        write_json(arguments.output, result)
