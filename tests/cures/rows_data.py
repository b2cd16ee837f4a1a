"""Cures for data files, and for the disk that is written to."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

import kd_scratch.training.examples
from kd_scratch.__main__ import main
from kd_scratch.common.files import LONGEST, locked
from tests.cures.world import (
    EACCES,
    EDQUOT,
    EFBIG,
    ENOSPC,
    EROFS,
    Cure,
    another,
    delete,
    drop,
    find,
    leave_out,
    put,
    undo,
)

FULL = "full/metrics.json"


# --- situations ---


def vocabulary_in_latin1(world):
    """A model whose vocab.txt is in another encoding."""
    model = world.copy(world.base.model())
    (model / "tokenizer.json").unlink()
    pieces = (model / "vocab.txt").read_text().split("\n")
    (model / "vocab.txt").write_text("\n".join([*pieces[:-2], "café", ""]), encoding="latin1")
    return world.evaluate(model=model)


def convert(world, argv, line):
    """The command in the line, run on the file in the line."""
    path, command = Path(find("error: (.*?): line", line)), shlex.split(find("example: (.*)", line))
    try:
        path.write_bytes(subprocess.run([*command, path], check=True, capture_output=True).stdout)
    except FileNotFoundError:
        pytest.skip(f"there is no {command[0]} here")


def clinc(world, text):
    """A file of CLINC150's form with one test text."""
    rows = {"train": [["the goal", "sport"]], "test": [[text, "sport"]]}
    return world.evaluate(task="clinc", data=world.write("clinc.json", json.dumps(rows)))


def cut(world, argv, line):
    """Makes the text at the place in the line shorter."""
    path, split, at, most = re.search(r"error: (.*?): (\w+)\[(\d+)\]: .* at most ([\d,]+) can", line).groups()
    rows = json.loads(Path(path).read_text())
    rows[split][int(at)][0] = rows[split][int(at)][0][: min(1000, int(most.replace(",", "")))]
    Path(path).write_text(json.dumps(rows))


def pipe(world):
    """A pipe instead of a file."""
    os.mkfifo(world.folder / "pipe")
    return world.evaluate(data=world.folder / "pipe")


def refused(number, *functions):
    """A disk on which one folder refuses to be written to."""

    def start(world):
        world.full(number, "full", *(functions or ["os.replace"]))
        return world.evaluate("--output", world.folder / FULL)

    return start


def locked_folder(world):
    """Another process trains into the folder."""
    folder = world.folder / "trained"
    folder.mkdir()
    world.lock = locked(folder)
    world.lock.__enter__()
    return world.train()


def changed_while_read(world):
    """A training file to which a row is added after it was hashed, once."""
    path, real = world.copy(world.base.csv("train")), kd_scratch.training.examples.choose_tokenizer

    def choose_tokenizer(*arguments):
        world.patch.undo()
        path.write_text(path.read_text() + "sport,one more\n")
        return real(*arguments)

    world.patch.setattr(kd_scratch.training.examples, "choose_tokenizer", choose_tokenizer)
    return world.train(train=path)


def swapped(kind, *changed):
    """Two files of the cache, each under the other's name. changed: in the flags of the run that made the second."""

    def start(world):
        first = world.train(teacher=world.base.model(), output=world.folder / "one")
        second = put(put(first, "--output", world.folder / "two"), *(part(world) for part in changed))
        for argv in (first, second):
            assert main(argv) == 0
        one, two = (world.folder / "cache").glob(f"{kind}-*")
        one_bytes, two_bytes = one.read_bytes(), two.read_bytes()
        one.write_bytes(two_bytes)
        two.write_bytes(one_bytes)
        return put(first, "--output", world.folder / "three")

    return start


def without_mask(world) -> Path:
    """A model directory whose tokenizer has no [MASK]."""
    if (world.folder / "no-mask").exists():
        return world.folder / "no-mask"
    model = world.copy(world.base.model(), "no-mask")
    pieces = (model / "vocab.txt").read_text().replace("[MASK]", "[NONE]")
    for path in model.glob("tokenizer*.json"):
        path.unlink()
    (model / "vocab.txt").write_text(pieces)
    (model / "tokenizer_config.json").write_text('{"mask_token": null}')
    return model


def other_mask(world) -> Path:
    """A model directory of another tokenizer, whose [MASK] is called otherwise."""
    model = world.copy(without_mask(world), "other-mask")
    (model / "vocab.txt").write_text((model / "vocab.txt").read_text().replace("[NONE]", "<mask>"))
    (model / "tokenizer_config.json").write_text('{"mask_token": "<mask>"}')
    return model


NO_QUESTION = '{"data": [{"paragraphs": []}]}'
FLAT = '{"query": "who?", "passage": "the team of the bank", "answer": "the bank"}\n'


def printed(answers):
    """Questions whose answers are an object in a text."""
    return 2 * (json.dumps({"question": "who?", "context": "the team of the bank", "answers": answers}) + "\n")


ROWS = [
    # --- files that are read ---
    Cure("is not UTF-8; convert the file first, for example: iconv -f latin1 -t utf-8", vocabulary_in_latin1, convert),
    Cure("does a whole file stand in one line? Cut it first", lambda w: clinc(w, "a" * (LONGEST + 1)), cut),
    Cure(
        "is a pipe or a device, not a file; write it to a file first",
        pipe,
        lambda w, argv, line: put(argv, "--data", w.copy(w.base.csv("test", 4), "written.csv")),
    ),
    Cure("a data file has been changed while it was read; start again", changed_while_read, lambda *_: None),
    Cure(
        "these are not the features of this data; delete the file",
        swapped("features", lambda w: "--max-length", lambda w: 10),
        delete("error: (.*?): "),
    ),
    Cure(
        "{}: these are not this teacher's logits for this data; delete the file",
        swapped("teacher-logits", lambda w: "--teacher", lambda w: w.base.model(name="other-model", seed=5)),
        delete("error: (.*?): "),
    ),
    # --- files that are written ---
    Cure(
        "is a folder, pipe or device; give the name of a file",
        lambda w: w.evaluate("--output", w.folder),
        lambda w, argv, line: put(argv, "--output", Path(find("error: (.*?): ", line)) / "metrics.json"),
    ),
    Cure(
        "{}: would overwrite {}, or a part of it; choose another name",
        lambda w: w.evaluate("--output", w.base.csv("test", 4)),
        lambda w, argv, line: put(argv, "--output", w.folder / find("choose (another) name", line)),
    ),
    *(
        Cure("{}; delete it, or choose another folder", start, follow)
        for start in (
            lambda w: ["quantize", "--model", str(w.base.model()), "--output", str(w.copy(w.base.model(), "full"))],
            lambda w: w.train(output=w.copy(w.base.model(), "full")),
            lambda w: w.train("--resume", output=w.copy(w.base.model(), "full")),
        )
        for follow in (delete("--output (.*?): .*; delete it"), another("--output (.*?): .*choose another folder"))
    ),
    Cure(
        "is a file; give the name of a folder",
        lambda w: w.train(output=w.write("file", "something")),
        another("--output (.*?): "),
    ),
    Cure(
        "another process writes there; wait for it, or choose another folder",
        locked_folder,
        lambda w, argv, line: w.lock.__exit__(None, None, None) or find("(wait for it)", line) and None,
    ),
    Cure(
        "another process writes there; wait for it, or choose another folder", locked_folder, another("error: (.*?): ")
    ),
    Cure("; make room on the disk", refused(ENOSPC), undo("make room")),
    Cure("; your quota on this disk is used up: make room", refused(EDQUOT), undo("make room")),
    Cure("; no file may grow so large here: see ulimit -f", refused(EFBIG), undo("see ulimit -f")),
    Cure("; choose a folder that can be written to", refused(EROFS), another("error: (.*?): ")),
    Cure("; choose a folder that can be written to", refused(EACCES, "os.mkdir"), another("error: (.*?): ", FULL)),
    Cure(
        "{}: {} cannot be written to; choose another folder",
        lambda w: w.train(output=w.write("file", "something") / "trained"),
        another("error: (.*?): "),
    ),
    Cure(
        "{}: {} cannot be written to; choose another folder",
        lambda w: w.train(cache=w.write("file", "something") / "cache"),
        another("error: (.*?): "),
    ),
    Cure(
        "{}: cannot be written to: {}; choose another --cache",
        lambda w: w.full(ENOSPC, "full", "tempfile.TemporaryFile") or w.train(cache=w.folder / "full"),
        lambda w, argv, line: put(argv, find("choose another (--cache)", line), w.folder / "roomy"),
    ),
    Cure(
        "{}: needs about {}, {} are free; make room first",
        lambda w: w.patch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0)) or w.train(),
        undo("make room"),
    ),
    # --- what tasks read ---
    Cure(
        "has no tag; each line needs a word and, in its last column, a tag",
        lambda w: w.conll("evaluate", data=w.write("words.txt", "the\nAda\n")),
        lambda w, argv, line: w.write("words.txt", "the O\nAda B-PER\n") and None,
    ),
    Cure(
        "; choose its names with --question-column, --context-column and, where answers are read, --answers-column",
        lambda w: w.squad("evaluate", data=w.write("flat.jsonl", FLAT * 2)),
        lambda w, argv, line: [
            argv := put(argv, find(f"(--{flag}-column)", line), key)
            for flag, key in {"question": "query", "context": "passage", "answers": "answer"}.items()
            if find(f"there is only .*({key})", line)
        ][-1],
    ),
    Cure(
        "is an object as a program prints it; write it as JSON",
        lambda w: w.squad("evaluate", data=w.write("printed.jsonl", printed("{'text': array(['the bank'])}"))),
        lambda w, argv, line: (
            w.write("printed.jsonl", printed(find("write it as JSON, as in (.*)", line).replace('"a"', '"the bank"')))
            and None
        ),
    ),
    Cure(
        "take {}% or more",
        lambda w: w.train(dev="5%"),
        lambda w, argv, line: put(argv, find("(--dev) 5%", line), find(r"take (\d+%) or more", line)),
    ),
    Cure(
        "take a file of more",
        lambda w: w.evaluate("--limit", "50%", data=w.write("one.csv", "label,text\nsport,the goal\n")),
        lambda w, argv, line: put(argv, "--data", find("(take a file of more)", line) and w.base.csv("test", 4)),
    ),
    *(
        Cure(
            "--dev {}: no such file; give one, or a share of --train, as in --dev 10%",
            lambda w: w.train(dev="50"),
            follow,
        )
        for follow in (
            lambda w, argv, line: put(argv, find("no such file; (give one)", line) and "--dev", w.base.csv("dev", 4)),
            lambda w, argv, line: put(argv, *find("as in (--dev) 10%", line).split(), "50%"),
        )
    ),
    Cure(
        "{}: holds nothing but blank lines; give one text a line",
        lambda w: w.train("--unlabelled", w.write("texts.txt", "\n \n"), teacher=w.base.model()),
        lambda w, argv, line: w.write("texts.txt", "the goal of the team\nthe bank\n") and None,
    ),
    *(
        Cure(
            "--documents needs whole documents, --limit draws single sentences; leave one of them out",
            lambda w: w.conll("evaluate", "--documents", "--limit", 4),
            lambda w, argv, line, flag=flag: drop(argv, find(f"({flag}).*leave one of them out", line)),
        )
        for flag in ("--documents", "--limit")
    ),
    Cure(
        "choose a smaller --question-length, or where there is one, a larger --max-length",
        lambda w: w.squad("evaluate", "--max-length", 8),
        lambda w, argv, line: put(argv, "--max-length", int(find(r"question of (\d+); choose a smaller", line)) + 12),
    ),
    Cure(
        "choose a smaller --question-length, or where there is one, a larger --max-length",
        lambda w: w.squad("evaluate", "--max-length", 8),
        lambda w, argv, line: put(argv, find("smaller (--question-length)", line), 2),
    ),
    Cure(
        "so no word can be masked; choose a --model (or --tokenizer) that has one",
        lambda w: w.mlm(model=without_mask(w)),
        lambda w, argv, line: put(argv, find("choose a (--model)", line), w.base.model("mlm")),
    ),
    Cure(
        "so no word can be masked; choose a --model (or --tokenizer) that has one",
        lambda w: w.mlm("--tokenizer", without_mask(w), model="tiny-student"),
        lambda w, argv, line: put(argv, find(r"or (--tokenizer)\)", line), w.base.model("mlm")),
    ),
    Cure(
        "--augment: the tokenizer has no [MASK]; leave it out",
        lambda w: w.train(
            "--augment", 1, "--tokenizer", without_mask(w), model="tiny-student", teacher=without_mask(w)
        ),
        leave_out(),
    ),
    Cure(
        "--augment: --teacher {} has another [MASK] than the student, or none; leave it out",
        lambda w: w.train("--augment", 1, teacher=other_mask(w)),
        leave_out(),
    ),
    Cure(
        "--augment: --teacher {} has another [MASK] than the student, or none; leave it out",
        lambda w: w.train("--augment", 1, teacher=without_mask(w)),
        leave_out(),
    ),
    Cure(
        "--augment: altered texts are no input for {}; leave it out",
        lambda w: w.mlm("--augment", 1, teacher=w.base.model("mlm")),
        leave_out(),
    ),
    Cure(
        "--unlabelled: plain text is no input for {}; leave it out",
        lambda w: w.new_task(unlabelled=None) or w.train("--unlabelled", w.base.csv("train"), teacher=w.base.model()),
        leave_out(),
    ),
    Cure(
        "add --cloze 4 (say) to have some made of them",
        lambda w: w.squad("train", "--unlabelled", w.base.csv("train"), teacher=w.base.model("span")),
        lambda w, argv, line: put(argv, *find("add (--cloze 4)", line).split()),
    ),
    Cure(
        "--output {}: holds --cache {}; choose another folder",
        lambda w: w.train("--cache", w.folder / "runs" / "cache", output=w.folder / "runs"),
        lambda w, argv, line: put(argv, find("(--output) .*choose another folder", line), w.folder / "elsewhere"),
    ),
    Cure(
        "give a .txt with each context on a line",
        lambda w: w.squad(
            "train", "--unlabelled", w.write("no.json", NO_QUESTION), "--cloze", 1, teacher=w.base.model("span")
        ),
        lambda w, argv, line: put(
            argv,
            "--unlabelled",
            w.write("contexts" + find(r"give a (\.txt) with", line), "the bank of the team won a cup\n"),
        ),
    ),
    Cure(
        "--cloze: {} has no questions; leave it out",
        lambda w: w.train("--cloze", 1, teacher=w.base.model()),
        leave_out(),
    ),
    Cure(
        "no splits; leave it out",
        lambda w: w.evaluate("--split", "test"),
        leave_out(),
    ),
    # --- made-up data ---
    *(
        Cure(
            message,
            lambda w, task=task: ["make_sample", task, "--rows", "3", "--output", str(w.folder)],
            lambda w, argv, line: put(argv, "--rows", find(r"give at least (\d+)", line)),
        )
        for task, message in {
            "agnews": "--rows {}: too few; give at least 40 (each class needs rows in each split)",
            "clinc": "--rows {}: too few; give at least {} (5 for each intent)",
            "squad": "--rows {}: too few; give at least 40 (a passage has 4 questions)",
            "conll": "--rows {}: too few; give at least 40",
        }.items()
    ),
]
