"""The table of tasks. A new task is one file in this folder, and one entry here."""

from kd_scratch.config import ModelConfig
from kd_scratch.tasks import classification, masked_lm, multi_label, question_answering, token_classification
from kd_scratch.tasks.base import Predictions, Task, kept_together, limited

#: By name, in the order in which `--help` lists them.
TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        classification.AGNEWS,
        classification.CLINC,
        classification.CSV,
        classification.COLA,
        multi_label.MULTI_LABEL,
        question_answering.TASK,
        token_classification.TASK,
        masked_lm.TASK,
    )
}


def usual_task(config: ModelConfig) -> Task:
    """The task that reads a model's files where none is given: by its head; without labels, tags or spans, texts."""
    names = {"token": "conll", "span": "squad"}
    return TASKS["labels" if config.multi_label else names.get(config.head, "csv")]


def deciding_tasks() -> list[str]:
    """The names of the tasks that decide something about each example, so that two models can be compared on it."""
    return [name for name, task in TASKS.items() if task.head != "mlm"]


def train_defaults() -> dict[str, dict]:
    """By task, where it differs from TrainConfig's defaults: for the help texts of the flags."""
    return {name: task.train_defaults for name, task in TASKS.items()}


__all__ = ["TASKS", "Predictions", "Task", "deciding_tasks", "kept_together", "limited", "train_defaults", "usual_task"]
