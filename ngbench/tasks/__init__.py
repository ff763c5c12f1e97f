"""The questions of the benchmark: takes predictions and a zoo's answers, gives scores.

Knows metrics, splits and target columns; does not know methods, or how predictions came about.
"""

from ngbench.registry import Registry
from ngbench.tasks.task import Task

TASKS: Registry[Task] = Registry("task")
TASKS.register("generalization", "ngbench.tasks.generalization:GENERALIZATION")

__all__ = ["TASKS", "Task"]
