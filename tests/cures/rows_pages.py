"""Cures for `trace`, `demo`, `benchmark` and `cascade`."""

import torch

from kd_scratch.config import DataConfig
from kd_scratch.demo.protocol import parse_body
from kd_scratch.demo.server import listen
from kd_scratch.demo.site import ATTENTION, attention, open_groups
from tests.cures.rows_models import OPEN, fine_tuned, float_model
from tests.cures.world import Cure, drop, find, leave_out, put, words


def trace(world, *more, task="csv", head="sequence", **flags):
    model = str(flags.get("model") or world.base.model(head))
    return ["trace", "--task", task, "--model", model, "--teacher", str(world.base.model(head)), *map(str, more)]


def cascade(world, *more, **flags):
    """A `cascade` of a model before itself."""
    model, base = world.base.model(), world.base
    usual = {"student": model, "teacher": model, "dev": base.csv("dev", 4), "data": base.csv("test", 4)}
    return ["cascade", *words({"task": "csv"} | usual | flags), "--device", "cpu", *map(str, more)]


def demo(world, *named):
    """What `demo` does before it serves: --models NAME=DIR."""
    return lambda: open_groups([(name, str(directory)) for name, directory in named], torch.device("cpu"))


def ask(world, text):
    """A question of the demo's page about the attention in a model."""
    groups = open_groups([("a", str(world.base.model(name="long-model", max_positions=512)))], torch.device("cpu"))
    for group in groups.values():
        group.models["a"].loaded.max_length = 512
    return lambda: attention(groups, DataConfig(), {"group": "classify", "model": "a", "layer": 1, "text": text})


def port_in_use(world):
    """A port that another program has."""
    world.listener = listen(0)
    return lambda: listen(world.listener.getsockname()[1])


ROWS = [
    # --- trace, demo, benchmark ---
    Cure(
        "is an int8 model, which has no float layers to walk through; give the float model that it was made of",
        lambda w: trace(w, "--text", "the goal", model=w.base.int8),
        float_model,
    ),
    *(
        Cure(
            "--task {} needs --data, or {}; given: {}",
            lambda w: trace(w, "--question", "who?"),
            lambda w, argv, line, flag=flag, given=given: put(
                drop(argv, "--question"), find(f"needs .*({flag}).*; given: question", line), given(w)
            ),
        )
        for flag, given in {"--data": lambda w: w.base.csv("test", 4), "--text": lambda w: "the goal"}.items()
    ),
    Cure(
        "--text: plain text is no input for {}; give --data",
        lambda w: w.new_task(unlabelled=None) or trace(w, "--text", "the goal"),
        lambda w, argv, line: put(drop(argv, "--text"), find("give (--data)", line), w.base.csv("test", 4)),
    ),
    Cure(
        "--example: is for a file; leave it out beside your own text",
        lambda w: trace(w, "--text", "the goal", "--example", 2),
        leave_out(),
    ),
    Cure(
        "demo needs a model trained for a task (train --model)",
        lambda w: demo(w, ("a", w.base.model("mlm"))),
        lambda w, argv, line: demo(w, ("a", fine_tuned(w, find(OPEN, line)))),
    ),
    Cure(
        ": {}; choose another name",
        lambda w: demo(w, ("a", w.base.model()), ("a", w.base.int8)),
        lambda w, argv, line: demo(w, ("a", w.base.model()), ("another", find("--models a=(.*?): ", line))),
    ),
    Cure(
        "attention is shown for inputs of up to {} pieces, this one has {}; shorten it",
        lambda w: ask(w, "goal " * (ATTENTION + 1)),
        lambda w, argv, line: ask(w, "goal " * (int(find(r"up to (\d+) pieces", line)) // 5)),
    ),
    Cure(
        "{}: there is no such key; these are needed: {}",
        lambda w: lambda: parse_body(b'{"txt": "a"}', [{"text": 10}]),
        lambda w, argv, line: lambda: parse_body(b'{"%s": "a"}' % find("needed: (.*)", line).encode(), [{"text": 10}]),
    ),
    Cure(
        "choose another one, or 0 for any that is free",
        port_in_use,
        lambda w, argv, line: lambda: listen(int(find(r"or (0) for any", line))),
    ),
    Cure(
        "{}: has {} positions; leave longer inputs out of --shapes",
        lambda w: ["benchmark", "--models", f"a={w.base.model()}", "--shapes", "1x8,1x50,2x60"],
        lambda w, argv, line: put(
            argv,
            "--shapes",
            ",".join(
                shape
                for shape in ["1x8", "1x50", "2x60"]
                if int(shape.split("x")[1]) <= int(find(r"has (\d+) positions; leave longer", line))
            ),
        ),
    ),
    # --- cascade ---
    Cure(
        "--keep {}: is a share of the teacher's score; give 0.999 for 99.9%",
        lambda w: cascade(w, "--keep", "99.9"),
        lambda w, argv, line: put(argv, "--keep", find(r"(?:--keep) 99.9: .*; give ([\d.]+) for 99.9%", line)),
    ),
    Cure(
        "--dev {}: {}; give another file",
        lambda w: cascade(w, dev=w.copy(w.base.csv("test", 4))),
        lambda w, argv, line: put(argv, find("(--dev) .*; give another file", line), w.base.csv("dev", 4)),
    ),
]
