"""Cures for several labels at once."""

import json
from dataclasses import replace

from kd_scratch.checkpoints.checkpoint import load_model, save_model
from kd_scratch.data.tokenizer import load_tokenizer
from tests.cures.world import Cure, find, put

COLUMNS = "text,sport,trade\nthe goal,1,0\nthe bank,0,1\nthe match of the bank,1,1\nthe,0,0\n"
LISTS = [{"text": "the goal", "labels": ["sport"]}, {"text": "the bank of a team", "labels": ["sport", "trade"]}] * 2
TWO = ("--label-column", "sport,trade")


def multi_label(world, labels=("sport", "trade")):
    """A classifier whose labels are there or not, each by itself."""
    folder = world.folder / "several"
    model = load_model(world.base.model())
    model.config = replace(model.config, multi_label=True, labels=labels)
    save_model(model, folder)
    load_tokenizer(world.base.model()).save(folder, max_length=20)
    return folder


def train(world, name, text, *more, task="labels"):
    """A `train` on such a file."""
    path = world.write(name, text)
    return world.train(*more, task=task, train=path, dev=path)


def jsonl(rows):
    """Objects, one a line."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def edit(name, text):
    """Writes the file anew."""
    return lambda world, argv, line: world.write(name, text) and None


ROWS = [
    Cure(
        "choose --task labels",
        lambda w: w.evaluate(model=multi_label(w)),
        lambda w, argv, line: put(argv, "--task", find("choose --task (labels)", line)),
    ),
    Cure(
        "choose --task csv, or train it with --task labels",
        lambda w: w.evaluate(task="labels"),
        lambda w, argv, line: put(argv, "--task", find("choose --task (csv)", line)),
    ),
    Cure(
        "choose --task csv, or train it with --task labels",
        lambda w: w.evaluate(task="labels"),
        lambda w, argv, line: w.train(task=find("train it with --task (labels)", line)),
    ),
    *(
        Cure(
            "give one, or choose --task labels for several labels a text",
            lambda w: train(w, "x.csv", COLUMNS, *TWO, task="csv"),
            lambda w, argv, line, flag=flag, value=value: put(argv, flag, value),
        )
        for flag, value in (("--label-column", "sport"), ("--task", "labels"))
    ),
    *(
        Cure(
            'give their names, as in ["a", "b"], or write each into a field of its own',
            lambda w: train(w, "x.jsonl", jsonl({"text": "the goal", "labels": marks} for marks in ([1, 1], [0, 1]))),
            follow,
        )
        for follow in (
            edit("x.jsonl", jsonl(LISTS)),
            lambda w, argv, line: train(
                w, "x.jsonl", jsonl({"text": "the goal", "sport": 1, "trade": n} for n in (0, 1)), *TWO
            ),
        )
    ),
    *(
        Cure(
            "{}: {}; correct it, or delete the row",
            lambda w: train(w, "x.csv", COLUMNS + "a team,-1,0\n", *TWO),
            edit("x.csv", text),
        )
        for text in (COLUMNS, COLUMNS + "a team,1,0\n")
    ),
    Cure(
        "--train: no text has a label; is that their column? choose it with --label-column",
        lambda w: train(w, "x.csv", "text,label,kinds\nthe goal,,sport\nthe bank,,sport;trade\n"),
        lambda w, argv, line: put(argv, find("choose it with (--label-column)", line), "kinds"),
    ),
    *(
        Cure(
            "choose another --label-separator, or an --output that ends with .jsonl",
            lambda w: [
                "predict",
                "--model",
                str(multi_label(w, ("a;b", "c"))),
                "--file",
                str(w.base.csv("test")),
                "--output",
                str(w.folder / "answers.csv"),
            ],
            follow,
        )
        for follow in (
            lambda w, argv, line: put(argv, find("another (--label-separator)", line), "|"),
            lambda w, argv, line: put(argv, "--output", w.folder / f"answers{find('ends with ([.]jsonl)', line)}"),
        )
    ),
]
