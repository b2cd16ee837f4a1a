"""Which inputs an epoch has: all but the altered copies, and of those the ones that were made for it.

The copies of --augment are made for all epochs at once, so that the teacher's logits are computed once. Where --steps
outlasts the --epochs, they come round again.

    inputs      a b c   a~1 b~1 c~1   a~2 b~2 c~2        --augment 1 --epochs 2
    epoch 1     a b c   a~1 b~1 c~1
    epoch 2     a b c                 a~2 b~2 c~2
"""

import re
from collections.abc import Sequence

import numpy as np

from kd_scratch.data.batches import EncodedInputs, epoch_batches
from kd_scratch.tasks.augment import COPY
from kd_scratch.training.examples import TrainingData
from kd_scratch.training.spec import RunSpec

EVERY = -1  # as the number of an epoch


class EpochPlan:
    """The batches of every epoch, and how many optimizer steps they make. of_input: N, the epoch of each, or EVERY."""

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, of_input: np.ndarray):
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.of_input = of_input
        #: Of each epoch until they come round.
        self.inputs = np.bincount(of_input[of_input != EVERY], minlength=1) + (of_input == EVERY).sum()
        self.steps = -(-self.inputs // batch_size)  # the last batch may be smaller

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch, as numbers of inputs."""
        numbers = np.flatnonzero((self.of_input == EVERY) | (self.of_input == epoch % len(self.steps)))
        batches = epoch_batches(self.lengths[numbers], self.batch_size, self.seed, epoch)
        return [numbers[batch] for batch in batches]

    def steps_before(self, epoch: int) -> int:
        """Optimizer steps in all epochs before this one, the first being 0."""
        rounds, rest = divmod(epoch, len(self.steps))
        return rounds * int(self.steps.sum()) + int(self.steps[:rest].sum())

    def epoch_of(self, step: int) -> int:
        """The epoch in which a step is taken, both counted from 0."""
        rounds, rest = divmod(step, int(self.steps.sum()))
        return rounds * len(self.steps) + int(np.searchsorted(self.steps.cumsum(), rest, side="right"))


def plan_epochs(spec: RunSpec, data: TrainingData, inputs: EncodedInputs) -> EpochPlan:
    """The epochs of a run, whose inputs are known."""
    of_input = np.full(len(inputs), EVERY)
    if spec.config.augment:
        of_input = epoch_of_inputs(inputs.ids, data.examples[0].id, spec.config.augment)
    return EpochPlan(inputs.lengths, spec.config.batch_size, spec.run.seed, of_input)


def epoch_of_inputs(ids: Sequence[str], first: str, per_epoch: int) -> np.ndarray:
    """The epoch of each input, N, by the number of its copy: with two per epoch 1 and 2 are for the first. EVERY for
    all before a copy of the first example, whatever they are called."""
    found = np.full(len(ids), EVERY)
    is_behind = False
    for i, name in enumerate(ids):
        is_behind = is_behind or name == f"{first}{COPY}1"
        if is_behind and (match := re.search(rf"{COPY}(\d+)$", name)):
            found[i] = (int(match[1]) - 1) // per_epoch
    return found


def as_range(numbers: np.ndarray) -> str:
    """Numbers in few words: 1,875, or where they differ 1,875 to 1,877."""
    return " to ".join(f"{number:,}" for number in dict.fromkeys((numbers.min(), numbers.max())))
