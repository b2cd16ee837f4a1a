"""Cures for studies: `evidence`, whose runs are made in this process."""

import json
import shutil

import pytest

from kd_scratch.study.spec import StudySpec, check_study
from kd_scratch.training import layer_choice
from kd_scratch.training.spec import RunSpec
from tests.cures.world import ENOSPC, Cure, delete, drop, find, leave_out, main, put, stop, use

ANOTHER = r"choose another (--output)"


def finished(world, *more, **flags):
    """The command of a study that has come to its end."""
    argv = world.study(*more, **flags)
    assert main(argv) == 0
    return argv


def moved(pattern=ANOTHER):
    """Follows "choose another --output"."""
    return lambda world, argv, line: put(argv, find(pattern, line), world.folder / "elsewhere")


def edited(name, **values):
    """A finished study, with other values in one of its files."""

    def start(world):
        argv = finished(world)
        for path in (world.folder / "trained").glob(name):
            path.write_text(json.dumps(json.loads(path.read_text()) | values))
        return argv

    return start


def with_state(world):
    """The state of an interrupted run with another seed of its numbers, where a run of the study goes."""
    world.interrupted("--seed", 5, output=world.folder / "interrupted")
    runs = world.folder / "trained" / "runs"
    runs.mkdir(parents=True)
    shutil.copytree(world.folder / "interrupted", runs / "baseline-0")


def with_other_layers(world):
    """A study whose layers were being chosen when it was stopped, and now are given."""
    argv = world.study("--init-layers", "auto:1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_choice, "identify", lambda run: stop())
        assert main(argv) == 130
    return put(argv, "--init-layers", "0,1")


def labelled_as_its_teacher(world):
    """A study of several seeds, under a teacher that had the labels of one."""
    assert main(world.train("--labelled", "50%", "--seed", 3, output=world.folder / "teacher")) == 0
    return world.study("--labelled", "50%", teacher=world.folder / "teacher", seeds="3,4")


def in_two_files(world, argv, line):
    """Follows "leave --labelled out and give a file of the labelled texts to --train …"."""
    flag = find("leave (--labelled) out and give a file of the labelled texts to --train and the others to --unl", line)
    header, *rows = world.base.csv("train").read_text().splitlines()
    labelled = world.write("labelled.csv", "\n".join([header, *rows[:4]]))
    others = world.write("others.txt", "\n".join(row.partition(",")[2] for row in rows[4:]))
    return put(put(drop(argv, flag), "--train", labelled), "--unlabelled", others)


def failed(world):
    """A study in which a run cannot go on."""
    argv = world.study()
    with_state(world)
    return argv


def beside(world, *more):
    """A study beside another one; that one's flags."""
    other = world.folder / "other"
    argv = finished(world, *more, output=other)
    return put(argv, "--output", world.folder / "here"), other


def full_at_the_end(world):
    """A disk that is full when the result is to be written."""
    argv = world.study()
    world.full(ENOSPC, "trained/evidence.json", "os.replace")
    return argv


def room_made(world, argv, line):
    """Makes room, and gives the same command."""
    find("(the same command goes on where it stopped)", line)
    world.patch.undo()
    return world.study()


def described(world, teachers):
    """A study from Python."""
    run = RunSpec.of("csv", train="", dev="", model="", output=world.folder, teachers=teachers)
    return StudySpec(run, test=world.base.csv("test", 4))


ROWS = [
    Cure(
        "--teacher: a study needs a teacher; give one",
        lambda w: lambda: check_study(described(w, ())),
        lambda w, argv, line: lambda: check_study(described(w, (find("(--teacher): .*; give one", line),))),
    ),
    Cure(
        "--data {}{}: is what is trained or chosen on; give a test file",
        lambda w: w.study(data=w.base.csv("train")),
        lambda w, argv, line: put(argv, find("(--data) .*; give a test file", line), w.base.csv("test", 4)),
    ),
    Cure(
        "{}: its run is of --seed {}, not {}; delete the folder",
        edited("runs/baseline-0/training.json", seed=7),
        delete("error: (.*?): .*; delete the folder"),
    ),
    Cure(
        "{} and {} do not belong together: they had another {}; delete",
        edited("runs/hidden-0/training.json", torch="1"),
        delete("error: (.*?) and .*delete"),
    ),
    Cure(
        "{} and {} do not belong together: they had another {}; delete",
        edited("runs/hidden-0/training.json", torch="1"),
        moved(),
    ),
    Cure("{}: is not what a study writes; choose another --output", edited("study.json", variants=1), moved()),
    Cure(
        "{}: this folder holds another study: {}; choose another --output",
        lambda w: put(finished(w), "--batch-size", 2),
        moved(),
    ),
    *(
        Cure("leave --labelled out and give a file of the labelled texts to --train", labelled_as_its_teacher, follow)
        for follow in (use(r"give (--seeds \d+), or leave --labelled out"), in_two_files)
    ),
    Cure("{}: is a choice of other layers; choose another --output", with_other_layers, moved()),
    Cure("delete {} to train it anew", failed, delete("; delete (.*?) to train it anew")),
    Cure("; the same command goes on where it stopped", full_at_the_end, room_made),
    Cure(
        "{}: there is no {}; give the --output of a study that is finished",
        lambda w: [*beside(w)[0], "--beside", f"a={w.base.model()}"],
        lambda w, argv, line: put(argv, "--beside", f"a={w.folder / 'other'}"),
    ),
    Cure(
        "is not what a study writes; give the --output of a study that is finished",
        lambda w: [*beside(w)[0], "--beside", f"a={unlike(w)}"],
        lambda w, argv, line: put(argv, "--beside", f"a={w.folder / 'other'}"),
    ),
    Cure(
        "{}: there is no {}; give --seeds that both have",
        lambda w: [*put(beside(w)[0], "--seeds", "0,1"), "--beside", f"a={w.folder / 'other'}"],
        lambda w, argv, line: put(argv, find("give (--seeds) that both have", line), 0),
    ),
    Cure(
        "--learning-rate {}: is not among --learning-rates {}; leave it out",
        lambda w: w.study("--learning-rates", "1e-3,2e-3", "--learning-rate", "3e-3"),
        leave_out(r"(--learning-rate) .*; leave it out"),
    ),
    Cure(
        "--patience: runs would end after different numbers of steps; leave it out",
        lambda w: w.study("--patience", 1),
        leave_out(),
    ),
    Cure(
        "--grid: with an alpha of 0 nothing is learned from text without labels; leave it out",
        lambda w: w.study("--augment", 1, "--grid", "1x0,0.5"),
        lambda w, argv, line: put(argv, find("(--grid): with an alpha of 0 .*; leave it out", line), "1x0.5"),
    ),
]


def unlike(world):
    """A folder with another evidence.json."""
    (world.folder / "unlike").mkdir()
    (world.folder / "unlike" / "evidence.json").write_text("{}")
    return world.folder / "unlike"
