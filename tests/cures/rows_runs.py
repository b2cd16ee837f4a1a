"""Cures for training runs: settings that do not go together, folders of other runs, and what is seen before work."""

import json
from pathlib import Path

import torch

import kd_scratch.training.preflight
import kd_scratch.training.run
from kd_scratch.checkpoints.safetensors import save_file
from kd_scratch.config import SIZES, TrainConfig
from kd_scratch.tasks.base import refuse_unlabelled
from kd_scratch.training.checks import check_spec
from kd_scratch.training.spec import RunSpec
from tests.cures.rows_models import new_task
from tests.cures.world import ENOSPC, Cure, another, delete, drop, find, give, leave_out, main, put, undo, use, value

ELSEWHERE = "choose another --output"
ONLY_SOFT = "only a teacher's soft targets can teach from such text; give --teacher, and an --alpha above 0"


def teacher(world):
    return world.base.model()


def damaged(*names, **flags):
    """An interrupted run, some of whose files were changed since, and the command that goes on with it."""

    def start(world):
        argv = world.interrupted(**flags)
        for name in names:
            for path in (world.folder / "trained").glob(name):
                path.write_bytes(path.read_bytes()[:-1] + b"?")
        return [*argv, "--resume"]

    return start


def other_state(world):
    """A run whose state is a file of tensors of something else."""
    argv = world.interrupted()
    for path in (world.folder / "trained").glob("training_state*"):
        save_file({"a": torch.ones(1)}, path, {"a": "b"}, checksum=True)
    return [*argv, "--resume"]


def moved(world, argv, line):
    """Follows "choose another --output", with what was there for a run that begins."""
    return put(drop(argv, "--force"), find("choose another (--output)", line), world.folder / "another")


def from_anew(pattern):
    """Follows "FOLDER…; delete the folder and start again": again without --resume."""

    def follow(world, argv, line):
        path = Path(find(pattern, line))
        delete(f"({path.parent if path.suffix else path})")(world, argv, str(path))
        return drop(argv, "--resume")

    return follow


def changed_at_the_end(world):
    """Weights that are changed between the last step and the record."""
    real = kd_scratch.training.run.write_record

    def write_record(run, *more):
        weights = run.spec.output / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"?")
        world.patch.undo()
        return real(run, *more)

    world.patch.setattr(kd_scratch.training.run, "write_record", write_record)
    return world.train()


def full_at_the_end(world):
    """A disk that is full when the record is to be written."""
    world.full(ENOSPC, "trained/training.json", "os.replace")
    return world.train()


def room_made(world, argv, line):
    """Makes room, and goes on as the line says."""
    world.patch.undo()
    return [*argv, find("is intact: the same command with (--resume) goes on", line)]


def little_memory(most):
    """A machine on which a step of more than `most` inputs at once does not fit into memory."""

    def start(world):
        real = kd_scratch.training.run.train_model

        def train_model(run, force):
            if run.spec.config.batch_size / run.spec.config.accumulation > most:
                raise MemoryError
            return real(run, force)

        world.patch.setattr(kd_scratch.training.run, "train_model", train_model)
        return world.train()

    return start


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


def on_mps(world, dropout):
    """A run that computes its layers anew."""
    settings = dict(train=world.base.csv("train"), dev="50%", model="tiny-student", output=world.folder)
    return RunSpec.of("csv", gradient_checkpointing=True, dropout=dropout, **settings)


def no_such_device(world):
    """A machine without MPS, which is there to be asked for."""
    world.patch.setattr("torch.backends.mps.is_available", lambda: False)
    return put(world.train(), "--device", "mps")


def broken_record(world):
    """A run whose record something else has written."""
    assert main(world.train()) == 0
    (world.folder / "trained" / "training.json").write_text("{}")
    return ["report", "--runs", f"a={world.folder / 'trained'}", "--output", str(world.folder / "r.html")]


def hidden(world, *more, **flags):
    return world.train(*more, **{"teacher": teacher(world), "losses": "hidden"} | flags)


ROWS = [
    # --- settings that do not go together ---
    Cure("--force is about --resume; give both", lambda w: w.train("--force"), give(r"about (--resume); give both", lambda w: [])),
    *(
        Cure("is about --losses; add --losses hidden (say), or leave it out", lambda w, more=more: w.train(*more, teacher=teacher(w)), follow)
        for more in (["--keep-states"], ["--layer-map", "1:1"])
        for follow in (use(r"add (--losses hidden) \(say\)"), leave_out(r"(--[\w-]+) is about.*, or leave it out"))
    ),
    Cure("--losses compares student and teacher; give --teacher", lambda w: w.train(losses="hidden"), give("give (--teacher)", teacher)),
    Cure("{} is empty; give a name, or leave it out", lambda w: w.train("--teacher", ""), leave_out("(--teacher) is empty.*leave it out")),
    Cure("{} is empty; give a name, or leave it out", lambda w: w.train("--teacher", ""), give("(--teacher) is empty; give a name", teacher)),
    Cure(ONLY_SOFT, lambda w: w.train("--unlabelled", w.base.csv("train")), give("give (--teacher)", teacher)),
    Cure(ONLY_SOFT, lambda w: w.train("--augment", 1), give("give (--teacher)", teacher)),
    Cure(
        ONLY_SOFT,
        lambda w: w.train("--augment", 1, "--alpha", 0, teacher=teacher(w)),
        lambda w, argv, line: put(argv, find("an (--alpha) above 0", line), 0.1),
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
        "other words are masked in every epoch, so there is nothing to keep; leave it out",
        lambda w: w.mlm("--keep-states", losses="hidden", teacher=w.base.model("mlm")),
        leave_out("(--keep-states): .*; leave it out"),
    ),
    Cure(
        "--unlabelled: the lines of --train are such text already; leave it out",
        lambda w: w.mlm("--unlabelled", w.base.csv("train")),
        leave_out("(--unlabelled): .*; leave it out"),
    ),
    Cure("--labelled: masked words need no labels; leave it out", lambda w: w.mlm("--labelled", 4), leave_out()),
    Cure(
        "--gradient-checkpointing on mps needs --dropout 0: computed again, it drops other numbers",
        lambda w: lambda: check_spec(on_mps(w, 0.1), torch.device("mps")),
        lambda w, argv, line: lambda: check_spec(on_mps(w, float(find("needs --dropout (0)", line))), torch.device("mps")),
    ),
    *(
        Cure(
            "--amp fp16 needs a CUDA device; use bf16 or off",
            lambda w: w.train("--amp", "fp16"),
            lambda w, argv, line, choice=choice: put(argv, "--amp", find(f"use .*({choice})", line)),
        )
        for choice in ("bf16", "off")
    ),
    Cure("--device {}: PyTorch finds no such device here; use --device auto", no_such_device, use("use (--device auto)")),
    Cure("--norm-first: the norms of a model directory stay where they are; leave it out", lambda w: w.train("--norm-first"), leave_out()),
    *(
        Cure(
            "--norm-first: BERT and DistilBERT are post-norm; leave it out, or choose a scratch size",
            lambda w: w.train("--norm-first", model="tiny-student"),
            follow,
        )
        for follow in (
            leave_out(),
            lambda w, argv, line: put(argv, "--model", next(size for size in SIZES if size == find("choose a (scratch)", line) + "-small")),
        )
    ),
    Cure(
        "--tokenizer is for a size, a model directory has its own; leave it out",
        lambda w: w.train("--tokenizer", teacher(w)),
        leave_out("(--tokenizer) .*; leave it out"),
    ),
    Cure(
        "--init-layers picks layers of a model directory, --model is a size here; leave it out",
        lambda w: w.train("--init-layers", 0, model="tiny-student"),
        leave_out("(--init-layers) .*; leave it out"),
    ),
    Cure(
        "the student has {} heads, the teacher {}; relations works with any",
        lambda w: hidden(w, losses="attention", model=w.base.model(name="more-heads", heads=4)),
        lambda w, argv, line: put(argv, "--losses", find("; (relations) works with any", line)),
    ),
    Cure(
        "{}: give the single settings by their names",
        lambda w: lambda: RunSpec.of("csv", config=TrainConfig(epochs=5)),
        lambda w, argv, line: lambda: RunSpec.of("csv", train="", dev="", model="", output="", **{find("give the single (setting)", line) and "epochs": 5}),
    ),
    Cure(
        "--labelled: the examples of this task need their labels; leave it out",
        lambda w: new_task(w, unlabel=refuse_unlabelled) or w.train("--labelled", 4, teacher=teacher(w)),
        leave_out(),
    ),
    # --- the folder of another run ---
    *(
        Cure("continue it with --resume, delete it, or choose another folder", lambda w: w.interrupted(), follow)
        for follow in (
            lambda w, argv, line: [*argv, find("continue it with (--resume)", line)],
            delete("--output (.*?): .*delete it"),
            another("--output (.*?): .*choose another folder"),
        )
    ),
    Cure("--force goes on anyway", lambda w: [*put(w.interrupted(), "--seed", 5), "--resume"], lambda w, argv, line: [*argv, find("(--force) goes on", line)]),
    *(
        Cure(
            f"not even --force can go on with other {{}}; {ELSEWHERE}",
            lambda w, force=force: [*put(w.interrupted("--dev", "50%"), "--train", w.csv_of_other_labels()), "--resume", *force],
            follow,
        )
        for force, follow in (([], moved), (["--force"], moved))
    ),
    Cure(
        f"its weights do not fit this model, or the words of this data; {ELSEWHERE}",
        lambda w: [*put(w.interrupted(), "--init-layers", 0), "--resume", "--force"],
        moved,
    ),
    Cure("{}: {}; delete the folder and start again", other_state, from_anew("error: (.*?): .*delete the folder")),
    Cure(
        "is not what was kept, something has changed it; delete the folder and start again",
        damaged("model*.safetensors"),
        from_anew("error: (.*?): .*delete the folder"),
    ),
    Cure(
        "{}: {}, and there is no older one to go back to; delete the folder and start again",
        damaged("training_state*"),
        from_anew("error: (.*?): .*delete the folder"),
    ),
    Cure(
        "something has changed it since; delete the folder and start again",
        changed_at_the_end,
        from_anew("error: (.*?): .*delete the folder"),
    ),
    *(
        Cure(
            "{}: its run has made {} steps already; give more --epochs or --steps",
            lambda w: [*put(w.interrupted(), "--steps", 1), "--resume", "--force"],
            lambda w, argv, line, flag=flag: put(argv, find(f"give more .*({flag})", line), 1 + int(find(r"made (\d+) steps", line))),
        )
        for flag in ("--steps",)
    ),
    Cure("; {} is intact: the same command with --resume goes on from where it was saved last", full_at_the_end, room_made),
    *(
        Cure(
            "smaller inputs, --accumulation, --gradient-checkpointing or a smaller --batch-size may help",
            little_memory(2),
            lambda w, argv, line, flag=flag, n=n: put(argv, find(f"({flag}).* may help", line), n),
        )
        for flag, n in {"--accumulation": 4, "--batch-size": 2}.items()
    ),
    Cure(
        "the loss or its gradient is not a finite number at step {}, which was not taken; try a lower --learning-rate in another --output",
        lambda w: put(put(w.train("--learning-rate", "1e8"), "--steps", 30), "--warmup-steps", 0),
        lambda w, argv, line: put(put(argv, find("lower (--learning-rate)", line), "1e-3"), find("another (--output)", line), w.folder / "b"),
    ),
    # --- records ---
    Cure(
        "{}: is not what `train` writes of a run; delete the folder and train again",
        broken_record,
        lambda w, argv, line: delete("error: (.*?)/training.json: .*delete the folder")(w, argv, line) or main(w.train()) or argv,
    ),
    Cure(
        "{}: holds no {}; give the --output of a `train` that has come to its end",
        lambda w: ["report", "--runs", f"a={teacher(w)}", "--output", str(w.folder / "r.html")],
        lambda w, argv, line: main(w.train()) or [word.replace(find("error: (.*?): .*give the --output of a `train`", line), value(w.train(), "--output")) for word in argv],
    ),
    Cure(
        "--output and --predictions are both {}; give each its own file",
        lambda w: w.evaluate("--output", w.folder / "m.json", "--predictions", w.folder / "m.json"),
        lambda w, argv, line: put(argv, find("(--predictions) are both .*; give each its own", line), w.folder / "p.json"),
    ),
    Cure(
        "{}: a name is used twice; give each its own",
        lambda w: ["benchmark", "--shapes", "1x8", "--models", f"a={teacher(w)}", f"a={w.base.int8}"],
        lambda w, argv, line: put(argv, find("(--models): .*give each its own", line), f"a={teacher(w)}", f"b={w.base.int8}"),
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
            lambda w: put(w.squad("train", "--check", "--overlap", 0, train=across_windows(w), dev=across_windows(w)), "--max-length", 30),
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
        lambda w, argv, line: put(put(argv, find("consider fewer (--warmup-steps)", line), 0), "--output", w.folder / "b"),
        note=True,
    ),
]  # fmt: skip
