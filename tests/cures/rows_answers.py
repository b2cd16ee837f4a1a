"""Cures for answers files: what a line lacks or holds too much, and texts that belong to no line."""

import json
from pathlib import Path

import kd_scratch.training.answers
from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import save_model
from kd_scratch.data.tokenizer import train_tokenizer
from tests.conftest import tiny_model
from tests.cures.world import KINDS, Cure, drop, find, leave_out, put, value

ANSWER = ["answers", "--task", "csv", "--unlabelled", "--device", "cpu"]
ELSEWHERE = "the goal of another file"
GOOD = {"id": "train.csv:2", "probabilities": {"sport": 0.5, "trade": 0.5}}


def taught_by(*rows, task="csv", **flags):
    """A `train` with a file of answers."""

    def start(world):
        file = world.write("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        train = {"csv": world.train, "conll": lambda *a, **f: world.conll("train", *a, **f)}
        return train.get(task, lambda *a, **f: world.squad("train", *a, **f))("--answers", file, **flags)

    return start


def line_of(argv) -> Path:
    return Path(value(argv, "--answers"))


def two_files_of_one_name(world):
    """A text of the training file and one without label, both with the id train.csv:2."""
    (world.folder / "more").mkdir()
    more = world.write("more/train.csv", f"text\n{ELSEWHERE}\n")
    return [*taught_by(GOOD)(world), "--unlabelled", str(more)]


def edit(change):
    """Follows "FILE: line N: …": changes that line. change: row, printed line -> row; None: the line goes."""

    def follow(world, argv, line):
        file, number = line_of(argv), int(find(r"a\.jsonl: line (\d+)", line))
        rows = file.read_text().splitlines()
        row = change(json.loads(rows[number - 1]), line)
        rows[number - 1 : number] = [] if row is None else [json.dumps(row)]
        file.write_text("\n".join(rows) + "\n")

    return follow


def given(pattern, **fields):
    """Follows "give …": with these fields, once the line asks for what the pattern finds."""
    return edit(lambda row, line: find(pattern, line) and row | fields)


def answered(world, argv, *more, data="--train", output="a.jsonl"):
    """Follows "write the answers": with the command that does."""
    words = ["answers", "--task", value(argv, "--task"), "--data", value(argv, data), "--model", value(argv, "--model")]
    assert main([*words, "--output", str(world.folder / output), "--max-length", "40", "--device", "cpu", *more]) == 0


def written_anew(pattern):
    """Follows "write the answers anew"."""
    return lambda world, argv, line: find(pattern, line) and answered(world, argv)


def answers_and(*more, **flags):
    """A `train` with the answers of a model, and with more flags."""

    def start(world):
        argv = world.train(*more, **flags)
        answered(world, put(argv, "--model", world.base.model()))
        return [*argv, "--answers", str(world.folder / "a.jsonl")]

    return start


def unlabelled(world):
    texts = world.write("more.txt", "the team\nthe bank\n")
    return answers_and("--unlabelled", texts)(world)


def answered_too(world, argv, line):
    """Follows "write answers for these too (`answers`, with --unlabelled …)"."""
    answered(world, argv, find("with (--unlabelled) for", line), data="--unlabelled", output="b.jsonl")
    return [*put(argv, "--answers", line_of(argv), world.folder / "b.jsonl")]


def changed_meanwhile(world):
    """Answers to which something else adds a line when they are read."""
    argv = answers_and()(world)
    real = kd_scratch.training.answers.fill_logits

    def fill_logits(run, file, logits):
        file.path.write_text(file.path.read_text() + "\n")
        world.patch.undo()
        real(run, file, logits)

    world.patch.setattr(kd_scratch.training.answers, "fill_logits", fill_logits)
    return argv


def first_of(task, change):
    """The answer for the first example of --train alone, changed."""

    def start(world):
        answered(world, world.conll("train") if task == "conll" else world.squad("train"))
        row = json.loads((world.folder / "a.jsonl").read_text().splitlines()[0])
        if task == "conll":  # of whose tags the model has only some
            row["words"] = [{"label": "O"} for _ in row["words"]]
        return taught_by(change(row), task=task)(world)

    return start


def spans_of_the_first(*spans):
    return first_of("squad", lambda row: row | {"spans": list(spans), "rest": 0})


def with_spans(spans, rest):
    return lambda row, line: row | {"spans": spans, "rest": rest}


def tagger_of_other_words(world):
    """A run of a tagger whose teacher has the same tags and another tokenizer."""
    tags = ("O", *(f"{letter}-{kind}" for kind in ("LOC", "MISC", "ORG", "PER") for letter in "BI"))
    folder, tokenizer = world.folder / "tagger", train_tokenizer(list(KINDS.values()), vocab_size=60)
    save_model(tiny_model("token", tags, vocab_size=tokenizer.vocab_size), folder)
    tokenizer.save(folder, max_length=40)
    return world.conll("train", "--teacher", folder)


def answers_given(world, argv, line):
    """Follows "give its answers (`answers --model DIR`) to --answers"."""
    answered(world, put(argv, "--model", find(r"answers \(`answers --model (.*)`\) to --answers", line)))
    return [*drop(argv, "--teacher"), "--answers", str(world.folder / "a.jsonl")]


NOT_THERE = "{}: {}; write it as it stands there, or leave it out"
NO_SPANS = '{}: "spans" is no list of objects; give one with "text" and "probability" an answer'
ANOTHER_TEXT = "is about another text than {} is now; write the answers anew, or delete the line"
OTHER = {"id": "train.csv:3", "hash": "0" * 16, "label": "sport"}
TEACHER = "--{} needs a teacher that can be asked, no file of --answers; leave one of the two out"

ROWS = [
    # --- a line ---
    Cure(
        "{}: holds no answers; give each text a line",
        lambda w: taught_by()(w)[:-1] + [str(w.write("a.jsonl", "\n"))],
        lambda w, argv, line: w.write("a.jsonl", json.dumps(GOOD)) and argv,
    ),
    Cure(
        'has no text, and two texts are called {}; give its "text" or "hash" too',
        two_files_of_one_name,
        edit(lambda row, line: find('(give its "text")', line) and row | {"text": ELSEWHERE}),
    ),
    Cure(
        "contradicts line {}, which is about the same text; keep one of them",
        taught_by(GOOD, {"id": "train.csv:2", "label": "sport"}),
        edit(lambda row, line: None),
    ),
    *(
        Cure(
            'is about no text; give its "id", its "text", or as "hash" 16 digits of its SHA-256',
            taught_by({"label": "sport", "hash": "zzz"}),
            given('(give its "id", its "text", or as "hash")', **field),
        )
        for field in ({"id": "train.csv:2", "hash": ""}, {"text": "the goal of team and coach train"})
    ),
    *(
        Cure(
            '"id" must be a text or a whole number; correct it, or leave it out',
            taught_by({"id": 2.0, "text": "the goal of team and coach train", "label": "sport"}),
            edit(
                lambda row, line, new=new, pattern=pattern: (
                    find(pattern, line) and {key: value for key, value in (row | new).items() if value}
                )
            ),
        )
        for new, pattern in (({"id": "train.csv:2"}, "(correct it)"), ({"id": ""}, "or (leave it out)"))
    ),
    *(
        Cure("{}: {}; give a number from 0 to {}", taught_by(GOOD | {"probabilities": {"sport": wrong, "trade": 0.5}}),
             given("(give a number from 0 to 1)", **GOOD))
        for wrong in (-1, float("nan"), "0.5")
    ),
    *(
        Cure(
            '{}: {}; correct them, or give what is missing as "rest"',
            taught_by(GOOD | {"probabilities": {"sport": 0.5}, "rest": 0}),
            given('(correct them), or give what is missing as "rest"', **fields),
        )
        for fields in (GOOD, {"rest": 0.5})
    ),
    *(
        Cure(
            'has neither "probabilities" nor a "label" with "confidence"; give one of them',
            taught_by({"id": "train.csv:2"}),
            given("(give one of them)", **fields),
        )
        for fields in (GOOD, {"label": "sport", "confidence": 0.8})
    ),
    *(
        Cure(
            'call them "prediction" and "confidence", or "probabilities" of each label, or leave them out',
            taught_by({"id": "train.csv:2", "label": "trade", "pred": "sport", "prob": 0.9}),
            edit(
                lambda row, line, new=new, pattern=pattern: (
                    find(pattern, line) and {key: row[key] for key in row if key not in ("pred", "prob")} | new
                )
            ),
        )
        for pattern, new in (
            ('call them "(prediction)" and "confidence"', {"prediction": "sport", "confidence": 0.9}),
            ('or "(probabilities)" of each label', {"probabilities": {"sport": 0.9, "trade": 0.1}}),
            ("or (leave them out)", {}),
        )
    ),
    *(
        Cure("{}: {}; correct its name, or count it to the rest", taught_by(GOOD | {"probabilities": wrong, "rest": 0}),
             given("(correct its name, or count it to the rest)", **fields))
        for wrong, fields in (
            ({"sports": 0.5, "trade": 0.5}, GOOD),
            ({"cooking": 0.2, "trade": 0.8}, {"probabilities": {"trade": 0.8}, "rest": 0.2}),
        )
    ),
    *(
        Cure('{}: {}; add it, or "rest": 0 for all that are not named',
             taught_by(GOOD | {"probabilities": {"sport": 1}}), given('(add it, or "rest": 0) for', **fields))
        for fields in ({"rest": 0}, {"probabilities": {"sport": 1, "trade": 0}})
    ),
    Cure(
        '{}: "words" is no list of objects; give one with "probabilities" or "label" a word',
        first_of("conll", lambda row: row | {"words": ["O"], "kept": row["words"]}),
        edit(lambda row, line: row | {"words": find('(give one with "probabilities" or)', line) and row["kept"]}),
    ),
    Cure(
        "has {} words, {} has {}; give one object a word",
        first_of("conll", lambda row: row | {"words": [*row["words"], {"label": "O"}]}),
        edit(lambda row, line: row | {"words": row["words"][: int(find(r"has (\d+); give one", line))]}),
    ),
    Cure(NO_SPANS, spans_of_the_first("a text"), edit(with_spans([{"text": "", "probability": 1}], 0))),
    Cure(
        '{}: a span has no "text", or its "start" is no whole number from 0; correct it',
        spans_of_the_first({"text": "", "start": -3, "probability": 1}),
        edit(with_spans([{"text": "", "probability": 1}], 0)),
    ),
    *(
        Cure(NOT_THERE, spans_of_the_first({"text": "qqq qqq", "probability": 1}), edit(with_spans(*fields)))
        for fields in (([{"text": "The", "probability": 1}], 0), ([], 1))
    ),
    # --- texts and lines ---
    Cure(ANOTHER_TEXT, taught_by(GOOD, OTHER), edit(lambda row, line: find("or (delete) the line", line) and None)),
    Cure(ANOTHER_TEXT, taught_by(GOOD, OTHER), written_anew("(write the answers anew)")),
    Cure(
        "{}: {}; write the answers for that file",
        taught_by(GOOD | {"id": "test.csv:2"}),
        written_anew("; (write the answers) for that file"),
    ),
    Cure("{}; write answers for these too (`answers`, with --unlabelled for text alone)", unlabelled, answered_too),
    Cure("{}: has been changed while it was read; start again", changed_meanwhile,
         lambda w, argv, line: find("(start again)", line) and argv),
    Cure(
        "give a file that has some",
        lambda w: ["answers", "--task", "squad", "--data", str(w.write("contexts.txt", "the team of the bank\n")),
                   "--unlabelled", "--model", str(w.base.model("span")), "--output", str(w.folder / "a.jsonl"),
                   "--max-length", "40", "--device", "cpu"],
        lambda w, argv, line: find("(give a file that has some)", line)
        and put(argv, "--data", w.base.sample / "squad" / "dev.json"),
    ),
    Cure(", or give its answers (`answers --model {}`) to --answers", tagger_of_other_words, answers_given),
    # --- settings ---
    *(
        Cure("--answers takes the place of --teacher; leave one of them out",
             lambda w: answers_and("--teacher", w.base.model())(w), leave_out(pattern))
        for pattern in ("(--answers) takes", "of (--teacher); leave one")
    ),
    Cure(
        "--answers: a file is given twice; leave one out",
        lambda w: [*answers_and()(w), str(w.folder / "a.jsonl")],
        lambda w, argv, line: find("(leave one out)", line) and argv[:-1],
    ),
    *(
        Cure(TEACHER, answers_and(*flags), leave_out("(--[a-z]+) needs a teacher"))
        for flags in (("--losses", "hidden"), ("--augment", 1), ("--fold", "1/2"))
    ),
    Cure(
        "--split: a file of texts without labels has no splits; leave it out",
        lambda w: [*ANSWER, "--model", str(w.base.model()), "--data", str(w.write("t.txt", "a goal\n")),
                   "--split", "test", "--output", str(w.folder / "a.jsonl")],
        leave_out("(--split): a file of texts .*leave it out"),
    ),
    Cure(
        "--answers: other words are masked in every epoch, which no file can answer; leave it out",
        lambda w: w.mlm("--answers", "a.jsonl"),
        leave_out("(--answers): other words.*leave it out"),
    ),
]  # fmt: skip
