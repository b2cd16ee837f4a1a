"""What all steps of a run share: the student, its optimizer, and how far it has come."""

import torch

from kd_scratch.common import distributed
from kd_scratch.common.device import amp_dtype
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import sha256
from kd_scratch.distillation.student import Student
from kd_scratch.training.optimizer import Stepper, make_optimizer
from kd_scratch.training.resume import Progress, load_state, restore_best
from kd_scratch.training.setup import Run
from kd_scratch.training.vocabulary import UsedWords


class Trainer:
    """A run that is being trained. With run.resume it is put into the state that was saved last."""

    def __init__(self, run: Run, force: bool = False):
        spec, model = run.spec, run.model.to(run.device)
        model.encoder.recompute = spec.config.gradient_checkpointing
        for part in (model.embeddings, model.positions):
            part.requires_grad_(not spec.config.freeze_embeddings)
        self.run = run
        self.dtype = amp_dtype(spec.config.amp, run.device)
        self.words = UsedWords(model, run.train_inputs.tokens)
        self.words.use_rows()  # before the optimizer and the other ranks ask which parameters there are
        self.student = Student(model, run.hidden_losses, run.live_teacher).to(run.device)
        self.network = distributed.data_parallel(self.student)  # the same where there is one rank
        self.identity = run.identity | {"words": sha256(self.words.used.cpu().numpy().tobytes())}
        optimizer = make_optimizer(self.student, spec.config)
        scaler = torch.amp.GradScaler(run.device.type, enabled=self.dtype == torch.float16)
        self.progress = Progress()
        if run.resume:
            self.progress = load_state(spec.output, self.student, optimizer, scaler, self.identity, force)
        if self.progress.best_epoch and distributed.rank() == 0:
            restore_best(spec.output, self.progress, run.model.config)
        run.seconds.update(self.progress.spent)
        self.stepper = Stepper(optimizer, scaler, spec.config, total_steps(run, self.progress))
        if force and self.stepper.steps <= self.progress.step:
            raise UserError(
                f"{spec.output}: its run has made {self.progress.step} steps already; give more --epochs or --steps"
            )


def total_steps(run: Run, progress: Progress) -> int:
    """Optimizer steps of the whole run, those that are done among them."""
    config = run.spec.config
    whole = run.plan.steps_before(config.epochs)
    left = whole - run.plan.steps_before(progress.epoch) - progress.batch
    if config.looks:
        left = whole - progress.step
    return config.steps or progress.step + left
