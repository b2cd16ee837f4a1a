"""What one training step runs and trains: the student, and where they are needed hidden-state losses and teacher."""

from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kd_scratch.distillation.hidden_losses import HiddenLosses
from kd_scratch.nn.model import Model


class StudentOutput(NamedTuple):
    """What a forward pass of the student gives."""

    student_logits: Tensor
    teacher_logits: Tensor | None  # None where no teacher runs here
    hidden_loss: Tensor | None  # the sum over inputs of the hidden-state losses; None where there are none


class Student(nn.Module):
    """A model to train, and the hidden-state losses where some were asked for.

    teacher: runs beside the student in every step. Only hidden-state losses and masked words need one here:
    otherwise its logits were computed before the first step.
    """

    def __init__(self, model: Model, hidden_losses: HiddenLosses | None = None, teacher: Model | None = None):
        super().__init__()
        self.model = model
        self.hidden_losses = hidden_losses
        self.teacher = (teacher,)  # in a tuple: no part of what is trained, nor put into train mode

    def forward(self, inputs: dict[str, Tensor | None]) -> StudentOutput:
        """A batch's inputs -> the student's logits, the teacher's if it runs, hidden-state losses if any"""
        (teacher,) = self.teacher
        need_states = self.hidden_losses is not None
        with self.hidden_losses.record_qkv(self.model, teacher) if need_states else nullcontext() as qkv:
            output = self.model(**inputs, output_hidden_states=need_states)
            teacher_logits = teacher_states = hidden_loss = None
            if teacher is not None:
                with torch.no_grad():
                    teacher_output = teacher(**inputs, output_hidden_states=need_states)
                teacher_logits = teacher_output.logits
                teacher_states = teacher_output.hidden_states
        if need_states:
            mask = inputs["attention_mask"]
            real = torch.ones_like(inputs["input_ids"], dtype=torch.bool) if mask is None else mask
            hidden_loss = self.hidden_losses(output.hidden_states, teacher_states, real, qkv)
        return StudentOutput(output.logits, teacher_logits, hidden_loss)
