"""Cures for settings that do not go together, and for what is seen before work starts."""

import json

import torch

import kd_scratch.training.preflight
import kd_scratch.training.run
from kd_scratch.config import SIZES, TrainConfig
from kd_scratch.tasks.base import refuse_unlabelled
from kd_scratch.training.checks import check_spec
from kd_scratch.training.spec import RunSpec
from tests.cures.world import (
    Cure,
    World,
    find,
    give,
    leave_out,
    put,
    use,
)

ONLY_TAUGHT = "only a teacher can teach from such text; give --teacher, and an --alpha above 0 or --losses"


def teacher(world):
    return world.base.model()


def on_mps(world, *dropout):
    """A run that computes its layers anew, checked."""
    settings = dict(train=world.base.csv("train"), dev="50%", model="tiny-student", output=world.folder)
    settings |= dict(zip(("dropout", "attention_dropout"), map(float, dropout), strict=True))
    return lambda: check_spec(RunSpec.of("csv", gradient_checkpointing=True, **settings), torch.device("mps"))


def no_such_device(world):
    """A machine without MPS, which is there to be asked for."""
    world.patch.setattr("torch.backends.mps.is_available", lambda: False)
    return put(world.train(), "--device", "mps")


def too_little(world):
    """A machine with less memory than a run of large batches takes."""
    world.patch.setattr(kd_scratch.training.preflight, "free_memory", lambda device: 600_000_000)
    return put(world.train("--check"), "--batch-size", 8192)


def across_windows(world):
    """Questions whose answers lie where a window ends."""
    words = "the goal of the team and the bank".split() * 4
    context, text = " ".join(words), " ".join(words[20:28])
    answer = {"text": text, "answer_start": len(" ".join(words[:20])) + 1}
    qas = [{"id": str(i), "question": "goal", "answers": [answer]} for i in range(4)]
    articles = [{"title": "t", "paragraphs": [{"context": context, "qas": qas}]}]
    return world.write("across.json", json.dumps({"data": articles}))


ROWS = [
    # --- settings that do not go together ---
    Cure(
        "--force is about --resume; give both",
        lambda w: w.train("--force"),
        give(r"about (--resume); give both", lambda w: []),
    ),
    *(
        Cure(
            "--layer-map is about --losses; add --losses hidden (say), or leave it out",
            lambda w: w.train("--layer-map", "1:1", teacher=teacher(w)),
            follow,
        )
        for follow in (use(r"add (--losses hidden) \(say\)"), leave_out(r"(--[\w-]+) is about.*, or leave it out"))
    ),
    Cure(
        "--layer-map own: the student is not made of a model of the teacher's depth; choose spread",
        lambda w: w.train("--losses", "hidden", "--layer-map", "own", model="tiny-student", teacher=teacher(w)),
        lambda w, argv, line: put(put(argv, "--layer-map", find("; choose (spread)", line)), "--losses", "relations"),
    ),
    Cure(
        "--losses compares student and teacher; give --teacher",
        lambda w: w.train(losses="hidden"),
        give("give (--teacher)", teacher),
    ),
    Cure(
        "{} is empty; give a name, or leave it out",
        lambda w: w.train("--teacher", ""),
        leave_out("(--teacher) is empty.*leave it out"),
    ),
    Cure(
        "{} is empty; give a name, or leave it out",
        lambda w: w.train("--teacher", ""),
        give("(--teacher) is empty; give a name", teacher),
    ),
    Cure(ONLY_TAUGHT, lambda w: w.train("--unlabelled", w.base.csv("train")), give("give (--teacher)", teacher)),
    Cure(ONLY_TAUGHT, lambda w: w.train("--augment", 1), give("give (--teacher)", teacher)),
    Cure(
        ONLY_TAUGHT, lambda w: w.squad("train", "--cloze", 1), give("give (--teacher)", lambda w: w.base.model("span"))
    ),
    Cure(
        ONLY_TAUGHT,
        lambda w: w.train("--augment", 1, "--alpha", 0, teacher=teacher(w)),
        lambda w, argv, line: put(argv, find("an (--alpha) above 0", line), 0.1),
    ),
    Cure(
        ONLY_TAUGHT,
        lambda w: w.train("--augment", 1, "--alpha", 0, teacher=teacher(w)),
        lambda w, argv, line: put(argv, find("above 0 or (--losses)", line), "hidden"),
    ),
    Cure(
        "--augment-model is about --augment; give --augment 1 (say), or leave it out",
        lambda w: w.train("--augment-model", w.base.model("mlm"), teacher=teacher(w)),
        use(r"give (--augment 1) \(say\)"),
    ),
    Cure(
        "--augment-model is about --augment; give --augment 1 (say), or leave it out",
        lambda w: w.train("--augment-model", w.base.model("mlm"), teacher=teacher(w)),
        leave_out(r"(--augment-model) is about .*, or leave it out"),
    ),
    Cure(
        "--labelled: with an --alpha of 0 nothing is learned from the other texts; leave --teacher out",
        lambda w: w.train("--labelled", 4, "--alpha", 0, teacher=teacher(w)),
        leave_out("leave (--teacher) out"),
    ),
    Cure(
        "--teacher: with masked words there can be one only, since it runs in every step; give one",
        lambda w: w.mlm("--teacher", w.base.model("mlm"), w.base.model("mlm")),
        give("(--teacher): .*; give one", lambda w: w.base.model("mlm")),
    ),
    Cure(
        "--unlabelled: the lines of --train are such text already; leave it out",
        lambda w: w.mlm("--unlabelled", w.base.csv("train")),
        leave_out("(--unlabelled): .*; leave it out"),
    ),
    Cure("--labelled: masked words need no labels; leave it out", lambda w: w.mlm("--labelled", 4), leave_out()),
    *(
        Cure(
            "--gradient-checkpointing on mps needs {}: computed again, it drops other numbers",
            lambda w, dropout=dropout: on_mps(w, *dropout),
            lambda w, argv, line: on_mps(w, *find("needs (--dropout .*):", line).split()[1::2]),
        )
        for dropout in ((0.1, -1), (0, 0.1))
    ),
    *(
        Cure(
            "--amp fp16 needs a CUDA device; use bf16 or off",
            lambda w: w.train("--amp", "fp16"),
            lambda w, argv, line, choice=choice: put(argv, "--amp", find(f"use .*({choice})", line)),
        )
        for choice in ("bf16", "off")
    ),
    Cure(
        "--device {}: PyTorch finds no such device here; use --device auto", no_such_device, use("use (--device auto)")
    ),
    Cure(
        "--norm-first: the norms of a model directory stay where they are; leave it out",
        lambda w: w.train("--norm-first"),
        leave_out(),
    ),
    *(
        Cure(
            "--norm-first: BERT and DistilBERT are post-norm; leave it out, or choose a scratch size",
            lambda w: w.train("--norm-first", model="tiny-student"),
            follow,
        )
        for follow in (
            leave_out(),
            lambda w, argv, line: put(
                argv, "--model", next(size for size in SIZES if size == find("choose a (scratch)", line) + "-small")
            ),
        )
    ),
    Cure(
        "--tokenizer is for a size, a model directory has its own; leave it out",
        lambda w: w.train("--tokenizer", teacher(w)),
        leave_out("(--tokenizer) .*; leave it out"),
    ),
    Cure(
        "--vocab-size is for a size, a model directory has its own vocabulary; leave it out",
        lambda w: w.train("--vocab-size", 80, model=teacher(w)),
        leave_out("(--vocab-size) .*; leave it out"),
    ),
    Cure(
        "--vocab-size learns a vocabulary, --tokenizer takes another's; leave one of them out",
        lambda w: w.train("--vocab-size", 80, "--tokenizer", teacher(w), model="tiny-student"),
        leave_out("(--vocab-size) .*; leave one of them out"),
    ),
    Cure(
        "--init-layers picks layers of a model directory, --model is a size here; leave it out",
        lambda w: w.train("--init-layers", 0, model="tiny-student"),
        leave_out("(--init-layers) .*; leave it out"),
    ),
    *(
        Cure(
            "--init-layers {}: --model has {} layers; give fewer, as in auto:1, or leave it out",
            lambda w: w.train("--init-layers", "auto:3"),
            follow,
        )
        for follow in (
            leave_out("(--init-layers) .*, or leave it out"),
            lambda w, argv, line: put(argv, "--init-layers", find("give fewer, as in (auto:1)", line)),
        )
    ),
    Cure(
        "--layer-steps is about --init-layers auto; leave it out",
        lambda w: w.train("--init-layers", 0, "--layer-steps", 5),
        leave_out("(--layer-steps) .*; leave it out"),
    ),
    Cure(
        "the student has {} heads, the teacher {}; relations works with any",
        lambda w: w.train(losses="attention", teacher=teacher(w), model=w.base.model(name="more-heads", heads=4)),
        lambda w, argv, line: put(argv, "--losses", find("; (relations) works with any", line)),
    ),
    Cure(
        "{}: give the single settings by their names",
        lambda w: lambda: RunSpec.of("csv", config=TrainConfig(epochs=5)),
        lambda w, argv, line: (
            lambda: RunSpec.of(
                "csv",
                train="",
                dev="",
                model="",
                output="",
                **{find("give the single (setting)", line) and "epochs": 5},
            )
        ),
    ),
    Cure(
        "--labelled: the examples of this task need their labels; leave it out",
        lambda w: w.new_task(unlabel=refuse_unlabelled) or w.train("--labelled", 4, teacher=teacher(w)),
        leave_out(),
    ),
    Cure(
        "{}; choose an --accumulation that divides it",
        lambda w: w.train("--accumulation", 3),
        lambda w, argv, line: put(
            argv,
            find("choose an (--accumulation) that", line),
            max(n for n in (1, 2, 3) if int(find(r"--batch-size (\d+)", line)) % n == 0),
        ),
    ),
    *(
        Cure(
            "--max-length {}: {}; choose a larger one",
            lambda w, train=train: put(train(w), "--max-length", 2),
            lambda w, argv, line: put(argv, find("(--max-length) 2: .*choose a larger one", line), 20),
        )
        for train in (World.train, World.mlm)
    ),
    # --- notes before work starts ---
    Cure(
        "a larger --max-length would read more of them",
        lambda w: put(w.train("--check"), "--max-length", 5),
        lambda w, argv, line: put(argv, find("a larger (--max-length)", line), 20),
        note=True,
    ),
    *(
        Cure(
            "try a larger --max-length or --overlap",
            lambda w: put(
                w.squad("train", "--check", "--overlap", 0, train=across_windows(w), dev=across_windows(w)),
                "--max-length",
                30,
            ),
            lambda w, argv, line, flag=flag, n=n: put(argv, find(f"a larger .*({flag})", line), n),
            note=True,
        )
        for flag, n in {"--max-length": 40, "--overlap": 12}.items()
    ),
    Cure(
        "a larger one would reach them",
        lambda w: w.squad("train", "--check", "--answer-length", 1),
        lambda w, argv, line: put(argv, find("longer than (--answer-length) 1 .a larger one", line), 10),
        note=True,
    ),
    *(
        Cure(
            "; TOO LITTLE: try --accumulation, --gradient-checkpointing, or a smaller --batch-size",
            too_little,
            lambda w, argv, line, flag=flag, n=n: put(argv, find(f"try .*({flag})", line), *n),
            note=True,
        )
        for flag, n in {"--accumulation": [8], "--gradient-checkpointing": [], "--batch-size": [4]}.items()
    ),
    Cure(
        "most of the {} steps are warm-up; consider fewer --warmup-steps",
        lambda w: w.train("--warmup-steps", 1),
        lambda w, argv, line: put(
            put(argv, find("consider fewer (--warmup-steps)", line), 0), "--output", w.folder / "b"
        ),
        note=True,
    ),
]
