"""Cures for pairs of texts."""

from dataclasses import replace

from kd_scratch.checkpoints.checkpoint import load_model, save_model
from kd_scratch.data.tokenizer import load_tokenizer
from tests.cures.world import Cure, find, put

PAIRS = "kind,x,y\n" + "sport,the goal,the match\ntrade,the bank,the market\n" * 4
FLAGS = ("--text-column", "x,y", "--label-column", "kind")
THREE = "n,q,p\nthe a,the goal of it,the team of it\nthe b,the bank of it,the shares of it\n"


def model(world, pairs=True):
    """A classifier that has noted whether it was trained on pairs of texts."""
    folder = world.folder / f"pairs-{pairs}"
    plain = load_model(world.base.model())
    plain.config = replace(plain.config, pairs=pairs)
    save_model(plain, folder)
    load_tokenizer(world.base.model()).save(folder, max_length=20)
    return folder


def evaluate(world, *flags, pairs=True):
    """`evaluate` of such a model."""
    return world.evaluate(*flags, model=model(world, pairs), data=world.write("pairs.csv", PAIRS))


def train(world, unlabelled, text):
    """A distillation from pairs."""
    data = world.write("pairs.csv", PAIRS)
    flags = (*FLAGS, "--unlabelled", world.write(unlabelled, text), "--teacher", world.base.model())
    return world.train(*flags, train=data, dev=data)


def predict(world, *flags):
    """`predict` of a model of pairs."""
    return ["predict", "--model", str(model(world)), *flags]


ROWS = [
    Cure(
        "choose two columns, as in --text-column premise,hypothesis",
        lambda w: evaluate(w, "--text-column", "x", "--label-column", "kind"),
        lambda w, argv, line: put(argv, find("choose two columns, as in (--text-column)", line), "x,y"),
    ),
    Cure(
        "choose one column with --text-column",
        lambda w: evaluate(w, *FLAGS, pairs=False),
        lambda w, argv, line: put(argv, find("choose one column with (--text-column)", line), "y"),
    ),
    *(
        Cure(
            "--text-column names {} columns; give one, or two that make pairs",
            lambda w: evaluate(w, "--text-column", "x,y,kind", "--label-column", "kind", pairs=None),
            lambda w, argv, line, pattern=pattern, columns=columns: (
                find(pattern, line) and put(argv, "--text-column", columns)
            ),
        )
        for pattern, columns in {"give (one)": "x", "or (two) that make": "x,y"}.items()
    ),
    Cure(
        "both texts are {}; choose two with --text-column",
        lambda w: evaluate(w, "--text-column", "x,x", "--label-column", "kind"),
        lambda w, argv, line: put(argv, find("choose two with (--text-column)", line), "x,y"),
    ),
    Cure(
        "are the pairs' texts, {}? Write sentence1 and sentence2 for their names",
        lambda w: train(w, "more.csv", THREE),
        lambda w, argv, line: (
            w.write("more.csv", THREE.replace("q,p", find("Write (.*) for their", line).replace(" and ", ","))) and None
        ),
    ),
    Cure(
        "holds single texts, --train pairs; give a table with two columns of texts",
        lambda w: train(w, "more.txt", "the goal\nthe bank\n"),
        lambda w, argv, line: (
            find("(a table with two columns) of texts", line)
            and put(argv, "--unlabelled", w.write("more.csv", "the goal of it,the team of it\nthe bank,the shares\n"))
        ),
    ),
    Cure(
        "--text has {} texts, --text-pair {}; give as many, in the same order",
        lambda w: predict(w, "--text", "a goal", "a bank", "--text-pair", "a team"),
        lambda w, argv, line: [*argv, "a market"] if find("give (as many)", line) else argv,
    ),
    Cure(
        "was trained on pairs of texts; predict needs {}, and no more",
        lambda w: predict(w, "--text", "a goal"),
        lambda w, argv, line: put(argv, find("needs --text and (--text-pair), and no more", line), "a team"),
    ),
    Cure(
        "ask it with predict --text A --text-pair B",
        lambda w: ["demo", "--models", f"a={model(w)}", "--port", "0"],
        lambda w, argv, line: [
            *find("ask it with (predict --text A --text-pair B)", line).split(), "--model", str(w.folder / "pairs-True")
        ],
    ),
]  # fmt: skip
