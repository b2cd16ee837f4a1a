"""The state of an unfinished training run: enough to go on as if nothing had happened."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from kd_scratch import parallel
from kd_scratch.files import UserError
from kd_scratch.model import Model
from kd_scratch.safetensors import load_file, read_metadata, save_file

STATE = "training_state.safetensors"
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
    history: list[dict] = field(default_factory=list)  # one record per finished epoch


def trained(model: Model) -> list[tuple[str, torch.nn.Parameter]]:
    """The parameters that training changes, by name."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def save_state(
    folder: Path,
    model: Model,
    optimizer: torch.optim.AdamW,
    scaler: torch.amp.GradScaler,
    progress: Progress,
    identity: dict,
) -> None:
    """Trained weights, moments and progress in one safetensors file, replaced atomically.

    Random numbers need no state, each step makes them anew (runtime.seed_step); weights that are not trained are those
    that the run began with.
    `identity` is what a resumed run must have in common with this one (settings, data, teacher, versions).
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in trained(model):
        tensors[f"weight.{name}"] = parameter.detach()
        tensors |= {f"{key}.{name}": optimizer.state[parameter][key] for key in MOMENTS}
    metadata = {"progress": vars(progress), "scaler": scaler.state_dict(), "identity": identity}
    save_file(tensors, folder / STATE, {key: json.dumps(value) for key, value in metadata.items()})


def load_state(
    folder: Path, model: Model, optimizer: torch.optim.AdamW, scaler: torch.amp.GradScaler, identity: dict
) -> Progress:
    """Put a saved state back. UserError where the run was started with other settings, data or versions.

    Of several processes the first reads the file, and sends what is in it to the others.
    """
    device = next(model.parameters()).device
    for _, parameter in trained(model):
        optimizer.state[parameter] = {"step": torch.zeros((), device=device)} | {
            key: torch.zeros_like(parameter) for key in MOMENTS[1:]
        }
    found = _read(folder, model, optimizer, identity) if parallel.rank() == 0 else None
    found = parallel.value_of_first(found)
    for _, parameter in trained(model):
        parallel.send_from_first([parameter.data, *optimizer.state[parameter].values()])
    scaler.load_state_dict(found["scaler"])
    return Progress(**found["progress"])


def _read(folder: Path, model: Model, optimizer: torch.optim.AdamW, identity: dict) -> dict:
    """Put weights and moments from the file into their places; returns the rest of it."""
    path = folder / STATE
    metadata = {key: json.loads(value) for key, value in read_metadata(path).items()}
    before, now = metadata["identity"], json.loads(json.dumps(identity))
    keys = dict.fromkeys([*now, *before])  # one that is lacking is as good as None
    differing = [f"{k} was {before.get(k)}, is {now.get(k)}" for k in keys if before.get(k) != now.get(k)]
    if differing:
        raise UserError(f"{folder}: cannot resume, this is another run: {'; '.join(differing)}")
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in trained(model):
            parameter.copy_(tensors[f"weight.{name}"])
            for key in MOMENTS:
                optimizer.state[parameter][key].copy_(tensors[f"{key}.{name}"])
    return metadata
