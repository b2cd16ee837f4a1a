"""Cures for the columns of CoNLL files, and for what looks wrong about examples before work starts."""

from tests.cures.world import Cure, find, put

USUAL = "the O x\nAda B-PER x\n\nthe O x\n"


def evaluated(*more, text=USUAL):
    """An `evaluate` of a file whose tags are in its second column."""
    return lambda w: w.conll("evaluate", *more, data=w.write("words.txt", text))


def checked(text, **flags):
    """A `train --check` of a file of sentences."""

    def start(world):
        path = world.write("words.txt", text)
        return world.conll("train", "--check", train=path, dev=path, **flags)

    return start


def answered(world, text):
    """A `predict` of a file of texts or words."""
    texts, output = world.write("texts.txt", text), world.folder / "o.jsonl"
    return ["predict", "--model", str(world.base.model("token")), "--device", "cpu", "--file", str(texts),
            "--output", str(output), "--force"]  # fmt: skip


GOOD = '{"text": "the Ada", "label": [[4, 7, "PER"]]}\n'


def of_entities(entities):
    """An `evaluate` of a text with a list of entities by their characters."""
    return lambda w: w.conll("evaluate", data=w.write("a.jsonl", f'{{"text": "the Ada", "label": {entities}}}\n'))


def mended(pattern, entities='[[4, 7, "PER"]]'):
    """Follows an advice about such an entity."""
    text = f'{{"text": "the Ada", "label": {entities}}}\n'
    return lambda w, argv, line: find(pattern, line) and w.write("a.jsonl", text) and None


ROWS = [
    Cure(
        "overlap, and a word has one tag; leave out one of them",
        of_entities('[[4, 7, "PER"], [5, 7, "PER"]]'),
        mended("(leave out one)", '[[5, 7, "PER"]]'),
    ),
    Cure(
        "entity [{}, {}, {}] {}; correct it, or leave it out",
        of_entities('[[4, 9, "PER"]]'),
        mended("(correct it)"),
    ),
    Cure("{}: {}; correct it, or leave it out", of_entities('[[3, 4, "PER"]]'), mended("(leave it out)", "[]")),
    Cure(
        "an entity is not where its start and end are; correct them, or leave it out",
        of_entities('[{"start": 0, "end": 3, "label": "PER", "text": "Ada"}]'),
        mended("(correct them)"),
    ),
    Cure(
        "leave one of them out, or choose it, as in --label-column {}",
        lambda w: w.conll("evaluate", data=w.write("a.jsonl", GOOD[:-2] + ', "spans": [[0, 3, "PER"]]}\n')),
        lambda w, argv, line: put(argv, *find("as in (--label-column spans)", line).split()),
    ),
    Cure(
        "write [] where it has none, and give texts that nobody has looked at to --unlabelled",
        lambda w: w.conll("evaluate", data=w.write("a.jsonl", GOOD + '{"text": "the"}\n')),
        lambda w, argv, line: (
            find(r"under (label).*; write \[\]", line)
            and w.write("a.jsonl", GOOD + '{"text": "the", "label": []}\n')
            and None
        ),
    ),
    Cure(
        "word {} is blank; delete it and its tag",
        lambda w: w.conll("evaluate", data=w.write("a.jsonl", '{"tokens": ["Ada", ""], "ner_tags": ["B-PER", "O"]}\n')),
        lambda w, argv, line: (
            find("(delete it and its tag)", line)
            and put(argv, "--data", w.write("a.jsonl", '{"tokens": ["Ada"], "ner_tags": ["B-PER"]}\n'))
        ),
    ),
    Cure(
        "{}: {}; leave out the blank lines if each line is a text",
        lambda w: answered(w, "Ada flew\nBob ran\n\nAda slept\n"),
        lambda w, argv, line: find("(leave out the blank)", line) and answered(w, "Ada flew\nBob ran\nAda slept\n"),
        note=True,
    ),
    Cure(
        "Others begin with # and are words; delete that line",
        evaluated(text="# O\n# not sure\nthe O\n\nAda B-PER\n"),
        lambda w, argv, line: (
            find("(delete that line)", line) and w.write("words.txt", "# O\nthe O\n\nAda B-PER\n") and None
        ),
    ),
    Cure(
        "holds a whole sentence in a cell; write JSON lines with tokens and ner_tags",
        evaluated(text="id,tokens,ner_tags\n0,['the' 'Ada'],['O' 'B-PER']\n"),
        lambda w, argv, line: (
            find("write (JSON lines with tokens and ner_tags)", line)
            and put(argv, "--data", w.write("words.jsonl", '{"tokens": ["the", "Ada"], "ner_tags": ["O", "B-PER"]}\n'))
        ),
    ),
    Cure(
        "{}: has {} columns; {} {}: choose one from 1 to {}",
        evaluated("--label-column", 5),
        lambda w, argv, line: put(argv, "--label-column", find(r"choose one from 1 to (\d+)", line).replace("3", "2")),
    ),
    Cure(
        "word and tag are both column {}; choose another one with {}",
        evaluated("--text-column", 2, text="the O\nAda B-PER\n"),
        lambda w, argv, line: put(argv, find("another one with (--text-column)", line), 1),
    ),
    Cure(
        "holds a carriage return; use LF, CRLF or CR alone",
        evaluated(text="the O\rAda B-PER\n\nthe O\n"),
        lambda w, argv, line: find("(use LF)", line) and w.write("words.txt", "the O\nAda B-PER\n\nthe O\n") and None,
    ),
    Cure(
        "choose a column by its number, as in {} 2",
        evaluated("--label-column", "gold"),
        lambda w, argv, line: put(argv, *find("as in (--label-column 2)", line).split(" ")),
    ),
    Cure(
        "choose another column, --text-column 2",
        checked("1 the O\n2 Ada B-PER\n3 the O\n\n" * 8, text_column=1),
        lambda w, argv, line: put(argv, *find("choose another column, (--text-column 2)", line).split(" ")),
        note=True,
    ),
    Cure(
        "choose another column, --label-column 3",
        checked("the B-NP O\nAda B-NP B-PER\nthe B-NP O\n\n" * 8, label_column=2),
        lambda w, argv, line: put(argv, *find("choose another column, (--label-column 3)", line).split(" ")),
        note=True,
    ),
    Cure(
        "--dev IS THE SAME FILE as --train: scores will be too good; give another, or a share as in --dev 10%",
        lambda w: w.train("--check", dev=w.base.csv("train")),
        lambda w, argv, line: put(argv, *find("as in (--dev) 10%", line).split(" "), "50%"),
        note=True,
    ),
    Cure(
        "{} OF DEV STANDS IN TRAIN TOO: scores will be too good; take other examples",
        lambda w: w.train("--check", dev=w.write("some.csv", "".join(open(w.base.csv("train")).readlines()[:5]))),
        lambda w, argv, line: put(argv, "--dev", w.base.csv("dev", 4)),
        note=True,
    ),
]
