"""The tasks by name."""

from kd_scratch.tasks import classification
from kd_scratch.tasks.base import Task, limited

TASKS: dict[str, Task] = {task.name: task for task in classification.TASKS}

__all__ = ["TASKS", "Task", "limited"]
