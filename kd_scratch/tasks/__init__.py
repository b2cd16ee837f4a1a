"""The tasks by name."""

from kd_scratch.tasks import classification, language_model, question_answering, token_classification
from kd_scratch.tasks.base import Outcome, Task, limited

TASKS: dict[str, Task] = {
    task.name: task
    for task in (*classification.TASKS, question_answering.TASK, token_classification.TASK, language_model.TASK)
}

__all__ = ["TASKS", "Outcome", "Task", "limited"]
