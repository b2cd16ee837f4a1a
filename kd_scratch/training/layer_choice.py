"""Which layers of --model make the student, chosen by measurement: --init-layers auto:2.

Each choice is tried in one short run of the very training that follows (same loss, teachers, data and seed, and its
schedule in fewer steps), and scored on dev at its end. The scores are kept in layers.json; of the short runs nothing
else is written.
"""

import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
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
from kd_scratch.training.trainer import Trainer, add_teacher_outputs, total_steps

ALL = 24  # so many choices at most are all tried
SHARE, LEAST = 10, 50  # a short run has a tenth of the run's steps, but at least 50

Layers = tuple[int, ...]


@dataclass
class Choice:
    """What is known of a choice of layers, as layers.json holds it."""

    of: int  # layers that there are
    steps: int  # of each short run
    identity: dict  # what decides the scores
    scores: dict[str, float] = field(default_factory=dict)  # "0,5" -> its score on dev
    seconds: float = 0.0
    layers: list[int] = field(default_factory=list)  # the best, once the search has come to its end


def choose_layers(run: Run) -> Run:
    """The run with the layers that do best on dev, as if they had been given. A search that was stopped goes on.

    Raises UserError where its settings, data or versions were others, and Stopped.
    """
    choice = find_layers(run)
    if not run.resume:  # else the state has counted them
        run.seconds["choosing layers"] += choice.seconds
    spec = with_chosen(run.spec, choice.layers)
    chosen = with_student(run, spec, take_layers(whole_model(run), choice.layers))
    return replace(chosen, identity=identify(chosen))


def with_chosen(spec: RunSpec, layers: list[int]) -> RunSpec:
    """A run with the layers that were chosen for it."""
    return replace(spec, init_layers=tuple(layers), config=replace(spec.config, layer_steps=0))


def find_layers(run: Run) -> Choice:
    """The finished choice: what layers.json holds, or what is found now. UserError where it is of another run."""
    path, whole = run.spec.output / CHOICE, whole_model(run)
    total = total_steps(run, Progress())
    steps = run.spec.config.layer_steps or min(total, max(LEAST, total // SHARE))
    identity = json.loads(json.dumps(run.identity | {"model": fingerprint(whole), "short steps": steps}))
    known = read_choice(path) if distributed.rank() == 0 else None
    known = distributed.broadcast_object(asdict(known) if known else None)
    if run.resume and not (known and known["layers"]):
        raise UserError(f"{path}: is not there or has no layers, but the run has begun; choose another --output")
    choice = Choice(**known) if known else Choice(whole.config.depth, steps, identity)
    count = run.model.config.depth
    if any(len(layers_of(key)) != count for key in choice.scores):
        raise UserError(f"{path}: is a choice of more layers than {count}, or of fewer; choose another --output")
    differing = changes(choice.identity, identity)
    if differing and not run.resume:  # whose own state tells what it began with
        what = f"its short runs were others: {'; '.join(differing)}"
        raise UserError(f"{path}: {what}; delete it, and the layers are chosen anew")
    if not choice.layers:
        try_all(run, whole, choice, path)
    say(f"layers {describe_choice(run.spec)}")
    return choice


def whole_model(run: Run) -> Model:
    """The model whose layers there are to choose from."""
    seed_everything(run.spec.run.seed)  # as in set_up: where its head is a new one, it is the same
    return build_model(replace(run.spec, init_layers=()), run.data, say=lambda note: None)


def read_choice(path: Path) -> Choice | None:
    """What a layers.json holds; None where there is none. UserError where it is something else."""
    if not path.is_file():
        return None
    try:
        choice = Choice(**read_json(path))
        numbers = [choice.of, choice.steps, choice.seconds, *choice.scores.values()]
        best = list(best_of(choice.scores)) if choice.layers else []
        if not math.isfinite(sum(numbers)) or choice.layers != best or not isinstance(choice.identity, dict):
            raise ValueError
    except (TypeError, ValueError, AttributeError):
        raise UserError(f"{path}: is no choice of layers; delete the folder and start again") from None
    return choice


def known_choice(spec: RunSpec) -> Choice | None:
    """The finished choice that a run's layers come from, or will; None where there is none (yet)."""
    choice = read_choice(spec.output / CHOICE)
    if not choice or not choice.layers:
        return None
    if spec.chooses_layers:
        return choice if len(choice.layers) == layer_count(spec.init_layers, choice.of) else None
    return choice if choice.layers == list(spec.init_layers) else None


def describe_choice(spec: RunSpec) -> str:
    """What becomes of which layers, or how that will be found out; "" where they are not chosen by measurement."""
    if choice := known_choice(spec):
        layers, become = (", ".join(map(str, numbers)) for numbers in (choice.layers, range(len(choice.layers))))
        return f"{layers} of {spec.model} become {become}: best of {len(choice.scores)} on dev, see {CHOICE}"
    if not spec.chooses_layers:
        return ""
    depth = load_config(spec.model).depth
    count = layer_count(spec.init_layers, depth)
    steps = spec.config.layer_steps or f"a tenth of its steps (at least {LEAST})"
    return f"{count} of the {depth} of {spec.model}, chosen on dev: {describe_search(depth, count)} of {steps} steps"


# --- the search ---


def num_choices(depth: int, count: int) -> int:
    """How many choices are tried."""
    every = math.comb(depth, count)
    return every if every <= ALL else 1 + count * (depth - count)


def describe_search(depth: int, count: int) -> str:
    """Which choices are tried, and in how many short runs."""
    how = "every choice"
    if math.comb(depth, count) > ALL:
        how = "a greedy search (from evenly spread ones on, each in turn exchanged for every other)"
    return f"{how}, {num_choices(depth, count)} short runs"


def choices(depth: int, count: int, scores: dict[str, float]) -> Iterator[Layers]:
    """The choices to try, one after the other; the score of each must stand in `scores` before the next is asked for.

    Of few all, in order. Of many: layers evenly spread, then for each of these all others in its place, where it gives
    way to whichever makes the best choice so far.
    """
    if math.comb(depth, count) <= ALL:
        yield from itertools.combinations(range(depth), count)
        return
    spread = tuple(i * depth // count for i in range(count))
    yield spread
    for layer in spread:
        best = set(best_of(scores))
        for other in sorted(set(range(depth)) - best):
            yield tuple(sorted(best - {layer} | {other}))


def best_of(scores: dict[str, float]) -> Layers:
    """The choice with the highest score; of equal ones the first by its layers."""
    return min(map(layers_of, scores), key=lambda layers: (-scores[key_of(layers)], layers))


def key_of(layers: Layers) -> str:
    """(0, 5) -> "0,5" """
    return ",".join(map(str, layers))


def layers_of(key: str) -> Layers:
    """ "0,5" -> (0, 5)"""
    return tuple(map(int, key.split(",")))


def try_all(run: Run, whole: Model, choice: Choice, path: Path) -> None:
    """Try what is not yet tried, tell the scores, and let the choice be the best one."""
    count, name = run.model.config.depth, f"dev {run.task.score_name}"
    search = f"{describe_search(choice.of, count)} of {choice.steps} steps"
    say(f"choosing {count} of the {choice.of} layers of {run.spec.model}: {search}")
    config = replace(run.spec.config, keep_states=False)  # the states that are needed differ with the layers
    ready = replace(run, spec=replace(run.spec, config=config), teachers=list(run.teachers))
    if run.teachers:
        add_teacher_outputs(ready)
        ready.teachers = run.teachers
    for layers in choices(choice.of, count, choice.scores):
        if key_of(layers) in choice.scores:
            continue
        try_layers(ready, whole, layers, choice, path)
        tried, number = len(choice.scores), num_choices(choice.of, count)
        left = duration((number - tried) * choice.seconds / tried)
        score = f"{name} {choice.scores[key_of(layers)]:.4f}"
        say(f"layers {key_of(layers)}: {score} ({tried}/{number}, about {left} left)")
    choice.layers = list(best_of(choice.scores))
    write(choice, path)
    rows = sorted(choice.scores.items(), key=lambda row: (-row[1], layers_of(row[0])))
    say(table(("layers", name), rows))


def try_layers(run: Run, whole: Model, layers: Layers, choice: Choice, path: Path) -> None:
    """Add the score of these layers after a short run. Stopped after a signal."""
    start, config = time.monotonic(), run.spec.config
    warmup = config.warmup_steps * choice.steps // total_steps(run, Progress())
    config = replace(config, steps=choice.steps, warmup_steps=warmup, looks=1, patience=0)
    short = replace(run, seconds=Counter(), resume=False)
    short = with_student(short, replace(run.spec, init_layers=layers, config=config), take_layers(whole, layers))
    trainer = Trainer(short)
    with Bookkeeping(trainer, saves=False) as books:
        books.begin_epoch()
        train_epoch(trainer, books)
        trainer.words.widen()
        choice.scores[key_of(layers)] = score_dev(trainer)[run.task.score_name]
        choice.seconds += time.monotonic() - start
        write(choice, path)
        books.begin_epoch()  # where a signal is heard that came meanwhile


def write(choice: Choice, path: Path) -> None:
    """Write layers.json (rank 0)."""
    if distributed.rank() == 0:
        write_json(path, asdict(choice))
