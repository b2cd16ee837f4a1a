"""The state of an unfinished training run: enough to go on as if nothing had happened."""

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from kd_scratch.checkpoints.checkpoint import CONFIG, WEIGHTS
from kd_scratch.checkpoints.hf_layout import config_to_json
from kd_scratch.checkpoints.safetensors import CHECKSUM, is_intact, load_file, read_metadata, save_file
from kd_scratch.common import distributed
from kd_scratch.common.console import say, shorten
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import is_leftover, read_json, remove, replace_file, sha256_of_file, write_json
from kd_scratch.config import ModelConfig
from kd_scratch.pages.records import RECORD

STATE, PREVIOUS = "training_state.safetensors", "training_state.previous.safetensors"
PREVIOUS_WEIGHTS, DAMAGED = "model.previous.safetensors", "training_state.damaged.safetensors"
CHOICE = "layers.json"  # how layers were chosen, or how far that has come: see layer_choice.py
#: What no --force can bridge: the rows of a table, or its columns, would be other things.
FIXED = ("task", "tokenizer", "labels", "words")
IDLE = "settings.gradient_checkpointing"  # changes no result: what resumes a run that had too little memory
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's steps, and running means of the gradient and of its square


@dataclass
class Progress:
    """How far a run has come."""

    epoch: int = 0  # epochs finished
    batch: int = 0  # batches of the next epoch that are done
    losses: list[float] = field(default_factory=list)  # theirs
    seconds: float = 0.0  # that they took
    step: int = 0  # optimizer steps taken, in all epochs
    best_epoch: int = 0
    best_score: float = -1.0
    best_sha256: str = ""  # of the weights that were kept of that epoch
    history: list[dict] = field(default_factory=list)  # one record per finished epoch
    spent: dict[str, float] = field(default_factory=dict)  # seconds by phase, in all processes of this run so far
    forced: list[str] = field(default_factory=list)  # what differed where the run was resumed all the same


def has_state(folder: Path) -> bool:
    """Whether a folder holds the state of a run that has not come to its end."""
    return any((folder / name).is_file() for name in (STATE, PREVIOUS))


def unfinished(folder: Path) -> bool:
    """Whether a folder holds a run that has not come to its end: its state, or what comes before it."""
    return has_state(folder) or ((folder / CHOICE).is_file() and not (folder / RECORD).is_file())


def saved_precision(folder: Path) -> str | None:
    """The --amp of the unfinished run in a folder; None where there is none, or none that can be read (whoever resumes
    it tells why)."""
    places = (STATE, PREVIOUS, CHOICE)
    for path in (folder / name for name in places if (folder / name).is_file()):
        try:
            identity = (
                read_json(path)["identity"] if path.name == CHOICE else json.loads(read_metadata(path)["identity"])
            )
            return str(identity["settings"]["amp"])
        except (UserError, OSError, LookupError, TypeError, ValueError, RecursionError):
            continue
    return None


def drop_state(folder: Path) -> None:
    """Remove what only a resume needs, and what killed processes have left, on whatever machine."""
    leftovers = [path.name for path in folder.iterdir() if is_leftover(path.name)]
    # The state last: killed before, the run resumes at its end.
    for name in (*leftovers, PREVIOUS_WEIGHTS, DAMAGED, PREVIOUS, STATE):
        remove(folder / name)


def restore_best(folder: Path, progress: Progress, config: ModelConfig) -> None:
    """Let model.safetensors be what was kept of the best epoch, and config.json have the threshold that was chosen
    with it: killed before the next state, they may be newer ones, or there may be no config.json.

    config: the model's. UserError where the weights are neither that nor what it has replaced.
    """
    thresholds = [epoch.get("threshold") for epoch in progress.history if epoch["epoch"] == progress.best_epoch]
    if any(thresholds):
        config = replace(config, threshold=thresholds[-1])
    write_json(folder / CONFIG, config_to_json(config))
    restore_weights(folder, progress.best_sha256)


def restore_weights(folder: Path, sha256: str) -> None:
    """The weights of a folder again, from those that they have replaced. UserError where these are others, too."""
    now, before = folder / WEIGHTS, folder / PREVIOUS_WEIGHTS
    if now.is_file() and sha256_of_file(now) == sha256:
        return
    if not before.is_file() or sha256_of_file(before) != sha256:
        raise UserError(f"{now}: is not what was kept, something has changed it; delete the folder and start again")
    say(f"note: {now} is newer than the state, or damaged: going on from the one kept before it")
    replace_file(before, now)


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that training changes, by name."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def save_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.AdamW,
    scaler: torch.amp.GradScaler,
    progress: Progress,
    identity: dict,
) -> None:
    """Trained weights, moments and progress in one safetensors file, written atomically; the one before it is kept.

    Random numbers need no state, each step makes them anew (device.seed_step); weights that are not trained are those
    that the run began with, and before its first step all are. A checksum covers the whole file.
    `identity` is what a resumed run must have in common with this one (settings, data, teacher, versions).
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in trained(model) if progress.step else ():
        tensors[f"weight.{name}"] = parameter.detach()
        tensors |= {f"{key}.{name}": optimizer.state[parameter][key] for key in MOMENTS}
    metadata = {"progress": vars(progress), "scaler": scaler.state_dict(), "identity": identity}
    texts = {key: json.dumps(value) for key, value in metadata.items()}
    save_file(tensors, folder / STATE, texts, checksum=True, keep=folder / PREVIOUS)


def load_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.AdamW,
    scaler: torch.amp.GradScaler,
    identity: dict,
    force: bool = False,
) -> Progress:
    """Put a saved state back. UserError where the run was started with other settings, data or versions.

    force: go on all the same where the weights fit; what differs is printed, and kept in the progress. The unfinished
    epoch then begins anew, since its batches may be others.
    Of several processes the first reads the file, and sends what is in it to the others.
    """
    device = next(model.parameters()).device
    for _, parameter in trained(model):
        optimizer.state[parameter] = {"step": torch.zeros((), device=device)} | {
            key: torch.zeros_like(parameter) for key in MOMENTS[1:]
        }
    found = _read(folder, model, optimizer, identity, force) if distributed.rank() == 0 else None
    found = distributed.broadcast_object(found)
    for _, parameter in trained(model):
        distributed.broadcast_tensors([parameter.data, *optimizer.state[parameter].values()])
    if found["scaler"]:  # {}: the run before needed none
        scaler.load_state_dict(found["scaler"])
    return Progress(**found["progress"])


def _read(folder: Path, model: nn.Module, optimizer: torch.optim.AdamW, identity: dict, force: bool) -> dict:
    """Put weights and moments from the file into their places; returns the rest of it."""
    path = _newest_intact(folder)
    try:
        metadata = {key: json.loads(value) for key, value in read_metadata(path).items()}
        before, progress = flat(metadata["identity"]), metadata["progress"]
        usable = all(_like(progress[key], default) for key, default in vars(Progress()).items())
        usable = usable and len(progress) == len(vars(Progress())) and isinstance(metadata["scaler"], dict)
        if not usable or not all(_like(loss, 0.0) for loss in progress["losses"]):
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        what = "is no training state, or one of another version of this program"
        raise UserError(f"{path}: {what}; delete the folder and start again") from None
    now = json.loads(json.dumps(identity))
    differing = changes(before, now)
    fixed = [key for key in FIXED if before.get(key) != now.get(key)]
    if bool(before.get("settings.looks")) != bool(flat(now).get("settings.looks")):
        fixed.append("--looks")  # progress counts those, or epochs
    places = {f"weight.{name}": parameter.detach() for name, parameter in trained(model)}
    for name, parameter in trained(model):
        places |= {f"{key}.{name}": optimizer.state[parameter][key] for key in MOMENTS}
    tensors = load_file(path)
    del tensors[CHECKSUM]
    shapes = [{name: each.shape for name, each in of.items()} for of in (tensors, places)]
    fits = not progress["step"] or shapes[0] == shapes[1]
    if not fits or (differing and (fixed or not force)):
        differing = differing or ["the weights in its state"]
        cure = "--force goes on anyway"
        if fixed or not fits:
            what = f"with other {', '.join(fixed)}" if fixed else "where other weights are trained"
            cure = f"not even --force can go on {what}; choose another --output"
        raise UserError(f"{folder}: cannot resume, this is another run: {'; '.join(differing)}; {cure}")
    if differing:
        say(f"note: resumed by force: {shorten('; '.join(differing), 2000)}")
        progress |= {"batch": 0, "losses": [], "seconds": 0.0, "forced": progress["forced"] + differing}
    for name, place in places.items() if progress["step"] else ():
        place.copy_(tensors[name])
    return metadata


def _newest_intact(folder: Path) -> Path:
    """The last state, or where that is damaged or missing the one before it; UserError where both are."""
    newest, previous = folder / STATE, folder / PREVIOUS
    if newest.is_file() and is_intact(newest):
        return newest
    what = "is damaged, or of another version of this program" if newest.is_file() else "is missing"
    if not previous.is_file() or not is_intact(previous):
        raise UserError(f"{newest}: {what}, and there is no older one to go back to; delete the folder and start again")
    say(f"note: {newest} {what}; going on from the one saved before it")
    if newest.is_file():
        replace_file(newest, folder / DAMAGED)  # or the next saving would keep it, and not the good one
    return previous


def _like(value, default) -> bool:
    """Whether a value of the progress is of its field's type, and if it is a number a possible one."""
    if isinstance(default, int | float):
        return type(value) in {int, type(default)} and -1 <= value < 2**53
    return type(value) is type(default)


def changes(before: dict, now: dict) -> list[str]:
    """How what decides a run differs: {"seed": 0} and {"seed": 1} -> ["seed was 0, is 1"]. What lacks is None."""
    before, now = flat(before), flat(now)
    keys = [key for key in dict.fromkeys([*now, *before]) if key != IDLE]
    return [f"{k} was {brief(before.get(k))}, is {brief(now.get(k))}" for k in keys if before.get(k) != now.get(k)]


def brief(value) -> str:
    """A value in a message: of a hash its beginning."""
    return re.sub(r"^([0-9a-f]{8})[0-9a-f]{56}$", r"\1…", str(value))


def flat(value: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    result = {}
    for key, item in value.items():
        result |= flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {prefix + key: item}
    return result
