"""A checkpoint and a text in, an answer out. `python -m kd_scratch predict`"""

import argparse
from pathlib import Path

import numpy as np
import torch

from kd_scratch.config import RunConfig, add_flags, given
from kd_scratch.console import table
from kd_scratch.evaluate import Opened, open_model
from kd_scratch.files import UserError, make_folder, write_json
from kd_scratch.runtime import start


@torch.no_grad()
def classify(opened: Opened, text: str, device: torch.device) -> dict[str, float]:
    """Every label with its probability, the most probable first."""
    ids = opened.tokenizer.encode([text], max_length=opened.max_length)[0].ids
    logits = opened.model.to(device)(torch.tensor([ids], device=device)).logits[0]  # C
    probability = logits.cpu().double().softmax(dim=0).numpy()
    labels = opened.model.config.labels
    return {labels[i]: float(probability[i]) for i in np.argsort(-probability, kind="stable")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `predict`."""
    parser.add_argument("--model", required=True, metavar="DIR")
    parser.add_argument("--text", required=True, nargs="+", metavar="TEXT", help="one or more texts, each in quotes")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the probabilities of all labels there")
    add_flags(parser, RunConfig)


def command(arguments: argparse.Namespace) -> None:
    """`predict`: the label of each text with its probability, and the runners-up."""
    device = start(RunConfig(**given(arguments, RunConfig)))
    opened = open_model(arguments.model)
    if opened.model.config.head != "sequence":
        raise UserError(
            f"{arguments.model}: has a {opened.model.config.head or 'pre-training'} head; predict --text needs "
            "a classifier"
        )
    if arguments.output:
        make_folder(arguments.output.parent)
    answers = {text: classify(opened, text, device) for text in arguments.text}
    for text, answer in answers.items():
        print(table((" ".join(text.split())[:70], "probability"), list(answer.items())[:3]))
    if arguments.output:
        write_json(arguments.output, answers)
