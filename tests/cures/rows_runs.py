"""Cures for the folders of runs: those of others, those that were damaged or interrupted, and their records."""

from pathlib import Path

import pytest
import torch

import kd_scratch.training.preflight
import kd_scratch.training.run
from kd_scratch.checkpoints.safetensors import save_file
from kd_scratch.training import layer_choice
from tests.cures.world import (
    ENOSPC,
    Cure,
    another,
    delete,
    drop,
    find,
    main,
    put,
    stop,
    value,
)


def of_the_whole_file(world):
    """A model that has learned all texts, to begin a part of them with."""
    assert main(world.train(output=world.folder / "whole")) == 0
    return world.train("--fold", "1/2", model=world.folder / "whole")


ELSEWHERE = "choose another --output"


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


def broken_record(world):
    """A run whose record something else has written."""
    assert main(world.train()) == 0
    (world.folder / "trained" / "training.json").write_text("{}")
    return ["report", "--runs", f"a={world.folder / 'trained'}", "--output", str(world.folder / "r.html")]


def layers_chosen(*flags, text=""):
    """A run that was stopped when its layers were chosen, and the command that goes on with it, with these flags."""

    def start(world):
        argv = world.train("--init-layers", "auto:1")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layer_choice, "identify", lambda run: stop())
            assert main(argv) == 130
        if text:
            (world.folder / "trained" / "layers.json").write_text(text)
        return [*(put(argv, *flags) if flags else argv), "--resume"]

    return start


ROWS = [
    Cure(
        "{}; give the model from before that training",
        of_the_whole_file,
        lambda w, argv, line: put(argv, find("(--model) .*give the model from before", line), w.base.model()),
    ),
    # --- the layers of another run ---
    Cure(
        "{}: {}; delete it, and the layers are chosen anew",
        layers_chosen("--seed", 5),
        delete("error: (.*?): .*delete it, and the layers are chosen anew"),
    ),
    Cure(
        f"{{}}: is a choice of another number of layers; {ELSEWHERE}",
        layers_chosen("--init-layers", "auto:2"),
        moved,
    ),
    Cure(
        "{}: is no choice of layers; delete the folder and start again",
        layers_chosen(text="[]"),
        from_anew("error: (.*?): .*delete the folder"),
    ),
    *(
        Cure("give that again, or delete the file", layers_chosen("--init-layers", 0), follow)
        for follow in (
            lambda w, argv, line: put(argv, *find(r"\((--init-layers auto)\); give that again", line).split()),
            delete("error: (.*?): .*delete the file"),
        )
    ),
    Cure(
        "{}: began with layers that were given; give --init-layers as then",
        lambda w: [*put(w.interrupted("--init-layers", 0), "--init-layers", "auto:1"), "--resume"],
        lambda w, argv, line: put(argv, find("give (--init-layers) as then", line), 0),
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
    Cure(
        "--force goes on anyway",
        lambda w: [*put(w.interrupted(), "--seed", 5), "--resume"],
        lambda w, argv, line: [*argv, find("(--force) goes on", line)],
    ),
    *(
        Cure(
            f"not even --force can go on {{}}; {ELSEWHERE}",
            lambda w, force=force: [
                *put(w.interrupted("--dev", "50%"), "--train", w.csv_of_other_labels()),
                "--resume",
                *force,
            ],
            follow,
        )
        for force, follow in (([], moved), (["--force"], moved))
    ),
    Cure(
        f"not even --force can go on {{}}; {ELSEWHERE}",
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
            lambda w, argv, line, flag=flag: put(
                argv, find(f"give more .*({flag})", line), 1 + int(find(r"made (\d+) steps", line))
            ),
        )
        for flag in ("--steps",)
    ),
    Cure(
        "; {} is intact: the same command with --resume goes on from where it was saved last",
        full_at_the_end,
        room_made,
    ),
    *(
        Cure(
            "smaller inputs, --accumulation, --gradient-checkpointing or a smaller --batch-size may help",
            little_memory(2),
            lambda w, argv, line, flag=flag, n=n: put(argv, find(f"({flag}).* may help", line), n),
        )
        for flag, n in {"--accumulation": 4, "--batch-size": 2}.items()
    ),
    Cure(
        "which was not taken; try a lower --learning-rate in another --output, or look at its examples: {}",
        lambda w: put(put(w.train("--learning-rate", "1e8"), "--steps", 30), "--warmup-steps", 0),
        lambda w, argv, line: put(
            put(argv, find("lower (--learning-rate)", line), "1e-3"), find("another (--output)", line), w.folder / "b"
        ),
    ),
    # --- records ---
    Cure(
        "{}: is not what `train` writes of a run; delete the folder and train again",
        broken_record,
        lambda w, argv, line: (
            delete("error: (.*?)/training.json: .*delete the folder")(w, argv, line) or main(w.train()) or argv
        ),
    ),
    Cure(
        "{}: holds no {}; give the --output of a `train` that has come to its end",
        lambda w: ["report", "--runs", f"a={teacher(w)}", "--output", str(w.folder / "r.html")],
        lambda w, argv, line: (
            main(w.train())
            or [
                word.replace(find("error: (.*?): .*give the --output of a `train`", line), value(w.train(), "--output"))
                for word in argv
            ]
        ),
    ),
    Cure(
        "--output and --predictions are both {}; give each its own file",
        lambda w: w.evaluate("--output", w.folder / "m.json", "--predictions", w.folder / "m.json"),
        lambda w, argv, line: put(
            argv, find("(--predictions) are both .*; give each its own", line), w.folder / "p.json"
        ),
    ),
    Cure(
        "{}: a name is used twice; give each its own",
        lambda w: ["benchmark", "--shapes", "1x8", "--models", f"a={teacher(w)}", f"a={w.base.int8}"],
        lambda w, argv, line: put(
            argv, find("(--models): .*give each its own", line), f"a={teacher(w)}", f"b={w.base.int8}"
        ),
    ),
]
