"""The questions of the benchmark: takes predictions and a zoo's answers, gives scores.

Knows metrics, splits and target columns; does not know methods, or how predictions came about.
"""

from ngbench.registry import Registry
from ngbench.tasks.plan import MergingPlan, RetrievalPlan
from ngbench.tasks.task import Kind, Task, load_task

TASKS: Registry[Task] = Registry("task")
for _name in ("generalization", "classification", "retrieval", "merging"):
    TASKS.register(_name, load_task(_name))

__all__ = ["TASKS", "Kind", "MergingPlan", "RetrievalPlan", "Task"]
