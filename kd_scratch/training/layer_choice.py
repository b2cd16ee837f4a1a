"""Which layers of --model make the student, chosen by measurement: --init-layers auto:2.

Each choice is tried in one short run of the very training that follows (same loss, teachers, data and seed, and its
schedule in fewer steps), and scored on dev at its end. Only the scores are kept, in layers.json.
"""

import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from kd_scratch.checkpoints.checkpoint import fingerprint, load_config, take_layers
from kd_scratch.common import distributed
from kd_scratch.common.console import duration, say, table
from kd_scratch.common.device import seed_everything
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import read_json, write_json
from kd_scratch.nn.model import Model
from kd_scratch.training.bookkeeping import Bookkeeping
from kd_scratch.training.loop import score_dev, train_epoch
from kd_scratch.training.resume import CHOICE, Progress, changes
from kd_scratch.training.setup import Run, build_model, identify, with_student
from kd_scratch.training.spec import RunSpec, layer_count
from kd_scratch.training.teacher_outputs import add_teacher_outputs
from kd_scratch.training.trainer import Trainer, total_steps

ALL = 24  # so many choices at most are all tried
SHARE, LEAST = 10, 50  # a short run has a tenth of the run's steps, but at least 50


def choose_layers(run: Run) -> Run:
    """The run with the layers that do best on dev, as if they had been given. A search that was stopped goes on.

    With run.resume the run has begun, with what was chosen then. Raises UserError where that is of another run, and
    where nothing was.
    """
    spec, path, total = run.spec, run.spec.output / CHOICE, total_steps(run, Progress())
    steps = spec.config.layer_steps or min(total, max(LEAST, total // SHARE))
    seed_everything(spec.run.seed)  # as in set_up: where the head is a new one, it is the same
    whole = build_model(replace(spec, init_layers=()), run.data, say=lambda note: None)
    identity = json.loads(json.dumps(run.identity | {"model": fingerprint(whole), "short steps": steps}))
    choice = distributed.broadcast_object(read_choice(spec.output) if distributed.rank() == 0 else None)
    choice = choice or {"layers": [], "scores": {}, "steps": steps, "seconds": 0.0, "identity": identity}
    if any(key.count(",") + 1 != run.model.config.depth for key in choice["scores"]):
        raise UserError(f"{path}: is a choice of another number of layers; choose another --output")
    differing = changes(choice["identity"], identity)
    if differing and not run.resume:  # whose state tells what else it began with
        what = f"its short runs were others: {'; '.join(differing)}"
        raise UserError(f"{path}: {what}; delete it, and the layers are chosen anew")
    if not is_complete(choice, whole.config.depth):
        if run.resume:
            raise UserError(f"{spec.output}: began with layers that were given; give --init-layers as then")
        try_all(run, whole, choice)
    say(f"layers {describe_choice(spec, choice)}")
    if not run.resume:  # else the state has counted them
        run.seconds["choosing layers"] += choice["seconds"]
    spec = replace(spec, init_layers=tuple(choice["layers"]), config=replace(spec.config, layer_steps=0))
    run = with_student(run, spec, take_layers(whole, choice["layers"]))
    scores = {layers_key(layers): score for layers, score in ranked(choice["scores"])}
    return replace(run, identity=identify(run), layer_choice={"steps": choice["steps"]} | scores)


def read_choice(folder: Path) -> dict | None:
    """What a folder's layers.json holds; None where there is none, UserError where it is something else.

    "scores": on dev, by layers ("0,5"); "layers": the best so far; "steps" of each short run, "seconds" of all, and
    "identity": what decides the scores.
    """
    if not (path := folder / CHOICE).is_file():
        return None
    choice = read_json(path)
    try:
        finite = math.isfinite(choice["seconds"] + choice["steps"] + sum(choice["scores"].values()))
        if not finite or choice["layers"] != ranked(choice["scores"])[0][0] or not isinstance(choice["identity"], dict):
            raise ValueError
    except (LookupError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path}: is no choice of layers; delete the folder and start again") from None
    return choice


def is_complete(choice: dict | None, depth: int) -> bool:
    """Whether nothing is left to try."""
    return bool(choice) and len(choice["scores"]) == num_choices(depth, len(choice["layers"]))


def describe_choice(spec: RunSpec, choice: dict | None) -> str:
    """What becomes of which layers, or how that will be found out."""
    depth = load_config(spec.model).depth
    if is_complete(choice, depth):
        layers, become = (", ".join(map(str, numbers)) for numbers in (choice["layers"], range(len(choice["layers"]))))
        return f"{layers} of {spec.model} become {become}: best of {len(choice['scores'])} on dev, see {CHOICE}"
    steps = choice["steps"] if choice else spec.config.layer_steps or f"a tenth of all (or {LEAST})"
    count = layer_count(spec.init_layers, depth)
    how, number = "all choices are tried", num_choices(depth, count)
    if number < math.comb(depth, count):
        how = "a greedy search, from evenly spread ones on each in turn exchanged for every other"
    return f"{count} of the {depth} of {spec.model} by their score on dev: {how}, {number} short runs of {steps} steps"


def num_choices(depth: int, count: int) -> int:
    """How many choices are tried."""
    every = math.comb(depth, count)
    return every if every <= ALL else 1 + count * (depth - count)


def choices(depth: int, count: int, scores: dict[str, float]) -> Iterator[list[int]]:
    """The choices to try; each one's score must stand in `scores` before the next is asked for.

    Of few all, in order. Of many: layers evenly spread, then for each of these all others in its place, where it gives
    way to whichever makes the best choice so far.
    """
    if math.comb(depth, count) <= ALL:
        yield from map(list, itertools.combinations(range(depth), count))
        return
    spread = [i * depth // count for i in range(count)]
    yield spread
    tried = [spread]  # so far: a search that goes on takes the same way, whatever it has scored before
    for layer in spread:
        best = set(ranked({key: scores[key] for key in map(layers_key, tried)})[0][0])
        for other in sorted(set(range(depth)) - best):
            tried.append(sorted(best - {layer} | {other}))
            yield tried[-1]


def layers_key(layers: Iterable[int]) -> str:
    """What a choice is called in layers.json: "0,5"."""
    return ",".join(map(str, layers))


def ranked(scores: dict[str, float]) -> list[tuple[list[int], float]]:
    """Layers and scores, the best first; of equal ones the first by its layers.  {"0,5": 0.9} -> [([0, 5], 0.9)]"""
    rows = [([int(layer) for layer in key.split(",")], score) for key, score in scores.items()]
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def try_all(run: Run, whole: Model, choice: dict) -> None:
    """Try what is not yet tried, and tell the scores."""
    depth, count, name, scores = whole.config.depth, run.model.config.depth, run.task.score_name, choice["scores"]
    say(f"choosing layers: {describe_choice(run.spec, choice)}")
    ready = replace(run, teachers=list(run.teachers))
    if run.spec.is_taught:
        add_teacher_outputs(ready)
        ready.teachers = run.teachers
    for layers in choices(depth, count, scores):
        key, number = layers_key(layers), num_choices(depth, count)
        if key not in scores:
            try_layers(ready, take_layers(whole, layers), layers, key, choice)
            left = duration((number - len(scores)) * choice["seconds"] / len(scores))
            say(f"layers {key}: dev {name} {scores[key]:.4f} ({len(scores)}/{number}, about {left} left)")
    say(table(("layers", f"dev {name}"), [(", ".join(map(str, layers)), score) for layers, score in ranked(scores)]))


def try_layers(run: Run, student: Model, layers: list[int], key: str, choice: dict) -> None:
    """Add the score of these layers, after a short run. Stopped after a signal."""
    start, config = time.monotonic(), run.spec.config
    warmup = config.warmup_steps * choice["steps"] // total_steps(run, Progress())
    config = replace(config, steps=choice["steps"], warmup_steps=warmup, looks=1, patience=0)
    spec = replace(run.spec, init_layers=tuple(layers), config=config)
    trainer = Trainer(with_student(replace(run, seconds=Counter(), resume=False), spec, student))
    with Bookkeeping(trainer, saves=False) as books:
        books.begin_epoch()
        train_epoch(trainer, books)
        trainer.words.restore_table()
        choice["scores"][key] = score_dev(trainer)[run.task.score_name]
        choice["layers"] = ranked(choice["scores"])[0][0]
        choice["seconds"] += time.monotonic() - start
        if distributed.rank() == 0:
            write_json(run.spec.output / CHOICE, choice)
        books.begin_epoch()  # where a signal is heard that came meanwhile
