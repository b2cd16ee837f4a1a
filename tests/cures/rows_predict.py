"""Cures for whole files that are to be answered."""

import io
import shutil
import sys

from tests.cures.world import Cure, drop, find, leave_out, put

ANSWERS = "error: --output .*; choose another name, or replace it with (--force)"


def whole(world, *more, output="o.csv"):
    """A command that answers a file."""
    texts = world.write("texts.txt", "the goal\na match\n")
    return ["predict", "--model", str(world.base.model()), "--device", "cpu", "--file", str(texts),
            *(["--output", str(world.folder / output)] if output else []), *map(str, more)]  # fmt: skip


def of_other_labels(world):
    """A model that calls sport otherwise."""
    folder = shutil.copytree(world.base.model(), world.folder / "other")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"sport"', '"sports"'))
    return folder


def left(world):
    """A command whose output another run has begun."""
    world.write("o.csv.part", "text,prediction\n")
    return whole(world)


def there(world):
    """A command whose output is there."""
    world.write("o.csv", "text,prediction\n")
    return whole(world)


def asked(world, *more):
    """A command that answers one text."""
    return ["predict", "--model", str(world.base.model()), "--device", "cpu", "--text", "the goal", *map(str, more)]


def piped(world, *more):
    """A command that answers standard input."""
    world.patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the goal\n")))
    return ["predict", "--model", str(world.base.model()), "--device", "cpu", *map(str, more)]


def of_rows(world, text):
    """A command that answers a table, anew."""
    return put(whole(world, "--force"), "--file", world.write("texts.csv", text))


ROWS = [
    Cure(
        "; line 1 is taken as the header; put one above it if it is a text",
        lambda w: of_rows(w, "a;a goal\n1;the goal\n2;a match\n"),
        lambda w, argv, line: (
            find("(put one above it)", line) and of_rows(w, "id;text\na;a goal\n1;the goal\n2;a match\n")
        ),
        note=True,
    ),
    Cure(
        "--output {}: give it a name that ends with .csv, .tsv or .jsonl",
        lambda w: whole(w, output="o.xlsx"),
        lambda w, argv, line: put(argv, "--output", w.folder / f"o{find('ends with .csv, .tsv or (.jsonl)', line)}"),
    ),
    Cure(
        "--output {}: is there already; choose another name, or replace it with --force",
        there,
        lambda w, argv, line: [*argv, find(ANSWERS, line)],
    ),
    Cure(
        "--output {}: is there already; choose another name, or replace it with --force",
        there,
        lambda w, argv, line: put(argv, "--output", w.folder / "another.csv"),
    ),
    Cure(
        "; choose another --output, or begin anew with --force",
        left,
        lambda w, argv, line: put(argv, find("choose another (--output)", line), w.folder / "another.csv"),
    ),
    Cure(
        "; choose another --output, or begin anew with --force",
        left,
        lambda w, argv, line: [*argv, find("or begin anew with (--force)", line)],
    ),
    Cure(
        "needs a file for the answers: add --output FILE.csv, .tsv or .jsonl",
        lambda w: whole(w, output=""),
        lambda w, argv, line: put(argv, find("add (--output) FILE", line), w.folder / "o.tsv"),
    ),
    Cure(
        "--file and {}: leave out one of them",
        lambda w: whole(w, "--text", "a goal"),
        lambda w, argv, line: drop(drop(argv, find("(--file) and --text: leave out", line)), "--output"),
    ),
    Cure(
        "--file and {}: leave out one of them",
        lambda w: whole(w, "--text", "a goal"),
        lambda w, argv, line: drop(argv, find("--file and (--text): leave out", line)),
    ),
    *(
        Cure(
            "{}: standard input is answered in JSON lines, on standard output; leave it out",
            lambda w, flags=flags: piped(w, *flags),
            leave_out(),
        )
        for flags in (["--json"], ["--file", "-", "--output", "o.jsonl"])
    ),
    *(
        Cure(
            "{}: is for --file FILE; leave it out",
            lambda w, start=start, flags=flags: start(w, *flags),
            leave_out(),
        )
        for start, flags in ((asked, ["--probabilities"]), (asked, ["--null-threshold", "0"]), (piped, ["--force"]))
    ),
    Cure(
        "--label-threshold: is for a model that gives a text several labels; leave it out",
        lambda w: asked(w, "--label-threshold", "0.5"),
        leave_out(),
    ),
    Cure(
        "standard input: is not {}; choose another --encoding",
        lambda w: piped(w, "--encoding", "utf-16"),
        lambda w, argv, line: piped(w, find("another (--encoding)", line), "utf-8"),
    ),
    Cure(
        "--ask and --below belong together; give both, or leave out both",
        lambda w: whole(w, "--ask", w.base.model()),
        lambda w, argv, line: put(argv, find("--ask and (--below) belong", line), "0.5"),
    ),
    Cure(
        "--ask and {}: leave out one of them",
        lambda w: whole(w, "--ask", w.base.model(), "--below", "0.5", "--text", "a goal"),
        lambda w, argv, line: drop(argv, find("--ask and (--text): leave out", line)),
    ),
    Cure(
        "--ask {}: has other labels than --model; give a model of the same ones",
        lambda w: whole(w, "--ask", of_other_labels(w), "--below", "0.5"),
        lambda w, argv, line: put(argv, find("(--ask) .*of the same ones", line), w.base.model()),
    ),
    Cure(
        "--below {}: is a probability; give a number from 0 to 1",
        lambda w: whole(w, "--ask", w.base.model(), "--below", "90"),
        lambda w, argv, line: put(argv, find("(--below) 90: .*number from", line), find("from 0 to (1)", line)),
    ),
]
