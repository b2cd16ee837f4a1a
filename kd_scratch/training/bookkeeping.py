"""What goes on around the training steps: the progress bar, losses that are checked late, signals, and saving."""

import time
from collections import Counter

import numpy as np
import torch
from torch import Tensor

from kd_scratch.common import distributed
from kd_scratch.common.console import duration, progress, say
from kd_scratch.common.errors import UserError
from kd_scratch.common.signals import Interruption, Stopped
from kd_scratch.common.timing import Clock
from kd_scratch.training.resume import save_state
from kd_scratch.training.trainer import Trainer

SAVE_EVERY = 600  # seconds between two savings of an unfinished epoch
BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"  # fits 80 columns
#: Steps between two looks at the losses, for which the program waits until the device has them.
READ_EVERY = {"cpu": 1, "cuda": 50, "mps": 50}


class Bookkeeping:
    """A context around the loop: it shows a bar, checks losses, saves, and raises Stopped after a signal."""

    def __init__(self, trainer: Trainer, saves: bool = True):
        self.trainer, self.saves = trainer, saves
        self.run = trainer.run
        self.clock = Clock(self.run.device)
        self.interruption = Interruption()
        self.unread: list[tuple[np.ndarray, Tensor]] = []  # inputs and loss of the steps that nobody has looked at
        self.tokens = 0  # of all ranks, in this epoch, since this process began
        self.seconds_before = 0.0  # that the epoch took before it was interrupted
        self.saved_at = time.monotonic()

    def __enter__(self) -> "Bookkeeping":
        if not self.run.resume:
            self.save()  # so that whatever happens from here on, there is something to resume
        steps, done = self.trainer.stepper.steps, self.trainer.progress.step
        self.bar = progress(total=steps, initial=done, desc="training", bar_format=BAR)
        self.bar.__enter__()
        self.interruption.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        self.interruption.__exit__(*exception)
        self.bar.__exit__(*exception)

    def begin_epoch(self) -> None:
        """Stop where a signal came in an epoch's last batch, or while dev was scored; its end has been saved."""
        (signal,) = distributed.all_reduce_max([self.interruption.signal])
        if signal:
            raise Stopped(int(signal))
        self.clock = Clock(self.run.device)
        self.saved_at = time.monotonic()
        self.seconds_before = self.trainer.progress.seconds
        self.tokens = 0

    def after_step(self, indices: np.ndarray, loss: Tensor, is_last: bool) -> None:
        """Note a step's loss. From time to time check the losses, save, and stop where a signal has come."""
        done = self.trainer.progress
        self.clock.lap("optimizer")
        self.unread.append((indices, loss))
        self.bar.update()
        self.tokens += int(self.run.train_inputs.lengths[indices].sum())
        if len(self.unread) < READ_EVERY[self.run.device.type] and not is_last:
            return
        done.losses += self.read_losses()
        spent = sum(self.clock.totals().values())
        self.bar.set_postfix_str(
            f"loss {np.mean(done.losses[-50:]):.4f}, {self.tokens / spent:,.0f} tokens/s", refresh=False
        )
        done.seconds = self.seconds_before + spent
        is_late = time.monotonic() - self.saved_at > SAVE_EVERY
        signal, is_late = distributed.all_reduce_max([self.interruption.signal, is_late])
        if (signal or is_late) and not is_last:  # the last batch is saved with the end of the epoch
            self.save()
            self.saved_at = time.monotonic()
            self.clock.lap("saving")
            if signal:
                raise Stopped(int(signal))

    def read_losses(self) -> list[float]:
        """The losses of the last steps as numbers: here the program waits for the device.

        UserError where one is not finite.
        """
        losses = distributed.all_reduce_sum(torch.stack([loss for _, loss in self.unread]))
        first = self.trainer.progress.step - len(self.unread) + 1
        for step, (loss, (indices, _)) in enumerate(zip(losses, self.unread, strict=True), first):
            if not np.isfinite(loss):
                examples = ", ".join(self.run.train_inputs.ids[i] for i in indices)
                raise UserError(
                    f"the loss or its gradient is not a finite number at step {step}, which was not taken; try a lower "
                    f"--learning-rate in another --output, or look at its examples: {examples}"
                )
        self.unread.clear()
        return losses

    def end_epoch(self) -> None:
        """Save, and print the epoch."""
        self.clock.lap("scoring dev")
        self.save()
        self.clock.lap("saving")
        self.run.seconds.update(self.clock.totals())
        seconds = sum(self.clock.totals().values())
        self.clock = Clock(self.run.device)  # the totals are counted
        say(epoch_message(self.trainer, seconds))

    def save(self) -> None:
        """Save the state of the run (rank 0)."""
        if self.saves and distributed.rank() == 0:
            trainer = self.trainer
            trainer.progress.spent = dict(self.run.seconds + Counter(self.clock.totals()))
            stepper = trainer.stepper
            save_state(
                self.run.spec.output,
                trainer.student,
                stepper.optimizer,
                stepper.scaler,
                trainer.progress,
                trainer.identity,
            )


def epoch_message(trainer: Trainer, seconds: float) -> str:
    """An epoch that took so many seconds in all: its loss, score and speed, and the time that is left."""
    run, done = trainer.run, trainer.progress
    name = run.task.score_name
    last = done.history[-1]
    share = f" ({last['matmul_share']:.0%} of the matrix-product rate)" if run.matmul_rate else ""
    looks = run.spec.config.looks
    steps_left = trainer.stepper.steps - done.step
    left = f", about {duration(steps_left / last['steps'] * seconds)} left" if steps_left else ""
    last_epoch = run.plan.epoch_of(run.plan.steps_before(done.epoch) + steps_left - 1) + 1
    number = f"look {done.epoch}/{looks}" if looks else f"epoch {done.epoch}/{last_epoch}"
    return (
        f"{number}: loss {last['loss']:.4f}, "
        f"dev {name} {last['dev'][name]:.4f}, {last['tokens_per_second']:,.0f} tokens/s{share}{left}"
    )
