"""The tasks by name."""

from kd_scratch.tasks import classification, masked_lm, question_answering, token_classification
from kd_scratch.tasks.base import Predictions, Task, limited

TASKS: dict[str, Task] = {
    task.name: task
    for task in (*classification.TASKS, question_answering.TASK, token_classification.TASK, masked_lm.TASK)
}

#: Those in which something is decided of each example, so that two models can be compared on it.
DECIDING = [name for name, task in TASKS.items() if task.head != "mlm"]

__all__ = ["DECIDING", "TASKS", "Predictions", "Task", "limited"]
