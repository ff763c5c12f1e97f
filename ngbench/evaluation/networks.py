"""The networks of a zoo as methods get them for a task, and what they are asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np

from ngbench.errors import ConfigError
from ngbench.evaluation.exam import classes_of, targets_of
from ngbench.loading import GraphDataset
from ngbench.methods import Problem
from ngbench.metrics import METRICS
from ngbench.store import Zoo
from ngbench.tasks import Task


def networks_of(task: Task, zoo: Zoo, rows: np.ndarray, *, hidden: Collection[str] = ()) -> GraphDataset:
    """Some networks of a zoo as methods get them for a task, without targets.

    Recipe columns hold no answer: the one that is asked about is left out. Where that is the activation, which stands in the
    topology, networks that differ in it alone have the same topology, and cannot be run. Programs give no input of a test part.
    What the zoo keeps back of any network is left out of all.

    Args:
        task: About one target.
        zoo: An open zoo.
        rows: Which networks, int64 ``[graphs]``.
        hidden: Further columns that must not be told.
    """
    withheld = {task.target, *hidden}
    kept_back = {*zoo.info.withheld.columns} if zoo.info.withheld else set()
    networks = GraphDataset.from_zoo(zoo, rows, parts=("train", "val"))
    known = {name: column for name, column in networks.hyperparameters.items() if name not in withheld | kept_back}
    networks = dataclasses.replace(networks, hyperparameters=known)
    return networks.without_activations() if "activation" in withheld else networks


def examples_of(task: Task, zoo: Zoo, part: str) -> GraphDataset:
    """A part of the split of a zoo as methods learn from it, with answers where the task has any.

    Raises:
        ConfigError: An answer is outside what the task asks for.
    """
    rows = zoo.split(part, name=task.split)
    networks = networks_of(task, zoo, rows)
    if task.target is None:
        return networks
    targets = targets_of(task, zoo, rows, classes_of(task, zoo))
    low, high = task.target_bounds
    if task.kind == "regression" and not (low <= targets.min() and targets.max() <= high):
        raise ConfigError(
            f"column {task.target!r} of zoo {zoo.name!r} has numbers from {targets.min():g} to {targets.max():g}; "
            f"task {task.name!r} asks for numbers from {low:g} to {high:g}: choose another --target"
        )
    return dataclasses.replace(networks, targets=targets)


def problem_of(task: Task, zoo: Zoo) -> Problem:
    """What a task, about one target, asks of methods on a zoo."""
    metric = None if task.kind == "merging" else METRICS[task.selection]
    is_better = metric is None or metric.higher_is_better
    return Problem(task.kind, metric, is_better, task.target_bounds, classes_of(task, zoo))
