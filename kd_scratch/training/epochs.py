"""Which inputs an epoch has: all but the altered copies, and of those the ones that were made for it.

The copies of --augment are made for all epochs at once, so that the teacher's logits are computed once; copies 1 and 2
of a text are for the first epoch, 3 and 4 for the second one, with --augment 2. After --epochs they come round again.

    inputs      a b c   a~1 b~1 c~1   a~2 b~2 c~2        --augment 1 --epochs 2
    epoch 1     a b c   a~1 b~1 c~1
    epoch 2     a b c                 a~2 b~2 c~2
"""

import re
from collections.abc import Iterable

import numpy as np

from kd_scratch.data.batches import EncodedInputs, epoch_batches
from kd_scratch.tasks.augment import COPY
from kd_scratch.training.examples import TrainingData
from kd_scratch.training.spec import RunSpec

EVERY = -1  # as the number of an epoch


class EpochPlan:
    """The batches of every epoch, and how many optimizer steps they make.

    of_input: N, the epoch that each input is for, or EVERY; None: all are for every one. cycle: how many epochs differ
    in their inputs.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, of_input: np.ndarray | None, cycle: int):
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.of_input = of_input
        self.inputs = [len(lengths)]  # of each epoch of a cycle
        if of_input is not None:
            copies = np.bincount(of_input[of_input != EVERY], minlength=cycle)
            self.inputs = (copies + (of_input == EVERY).sum()).tolist()
        self.steps = [-(-count // batch_size) for count in self.inputs]  # the last batch may be smaller
        self.ends = np.cumsum(self.steps)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The batches of an epoch, as numbers of inputs."""
        numbers = None
        if self.of_input is not None:
            numbers = np.flatnonzero((self.of_input == EVERY) | (self.of_input == epoch % len(self.steps)))
        return epoch_batches(self.lengths, self.batch_size, self.seed, epoch, numbers)

    def steps_before(self, epoch: int) -> int:
        """Optimizer steps in all epochs before this one, the first being 0."""
        cycles, rest = divmod(epoch, len(self.steps))
        return int(cycles * self.ends[-1] + sum(self.steps[:rest]))

    def epoch_of(self, step: int) -> int:
        """The epoch in which a step is taken, both counted from 0."""
        cycles, rest = divmod(step, int(self.ends[-1]))
        return cycles * len(self.steps) + int(np.searchsorted(self.ends, rest, side="right"))


def plan_epochs(spec: RunSpec, data: TrainingData, inputs: EncodedInputs) -> EpochPlan:
    """The epochs of a run, whose inputs are known."""
    config, of_input = spec.config, None
    if config.augment:
        of_input = epoch_of_inputs(inputs.ids, data.examples[0].id, config.augment)
    return EpochPlan(inputs.lengths, config.batch_size, spec.run.seed, of_input, config.epochs)


def epoch_of_inputs(ids: Iterable[str], first: str, per_epoch: int) -> np.ndarray:
    """The epoch that each input is for, N, from the number behind its name; EVERY for those that are no copies.

    Copies stand behind all others: an input is none, whatever it is called, before one of the first example is seen.
    """
    found = np.full(len(ids), EVERY, np.int32)
    is_behind = False
    for i, name in enumerate(ids):
        is_behind = is_behind or name == f"{first}{COPY}1"
        if is_behind and (match := re.search(rf"{COPY}(\d+)$", name)):
            found[i] = (int(match[1]) - 1) // per_epoch
    return found


def several(numbers: Iterable[int]) -> str:
    """Numbers in few words: "1,875", or where they differ "1,875 to 1,877"."""
    return " to ".join(f"{number:,}" for number in dict.fromkeys((min(numbers), max(numbers))))
