"""How a task questions a method about the test networks of a zoo, and scores what it says; one `Exam` for each kind of task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ngbench.errors import ConfigError, PredictionsError, SplitError, WithheldError
from ngbench.evaluation.blinding import in_order, shown
from ngbench.evaluation.predictions import Predictions
from ngbench.loading import GraphDataset
from ngbench.metrics import METRICS, Resamples
from ngbench.store import Zoo
from ngbench.tasks import Task

BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class Scored:
    """What a method said, in the order of the exam, and what that scores.

    Args:
        values: ``[rows, ...]``.
        scrambled: The same for each orbit-scrambled copy of the test networks, ``[copies, rows, ...]``.
        scores: Metrics of `values`, by name; empty where the zoo withholds the answers.
        scrambled_scores: Metrics of that copy on which the primary one is worst.
        shifts: How far what was said of each row moved, at most, when hidden neurons were permuted, ``[rows]``.
    """

    values: np.ndarray
    scrambled: np.ndarray
    scores: dict[str, float]
    scrambled_scores: dict[str, float]
    shifts: np.ndarray


class Exam(ABC):
    """The test networks of a zoo with what a task asks of them.

    Args:
        task: About one target and split of the zoo.
        zoo: An open zoo.

    Attributes:
        rows: The test networks, int64 ``[graphs]``.
        classes: Names of the classes, sorted; none for a regression.
    """

    def __init__(self, task: Task, zoo: Zoo):
        self.task, self.zoo = task, zoo
        check_zoo(task, zoo)
        self.rows = zoo.split("test", name=task.split)
        self.classes = classes_of(task, zoo)

    @property
    def is_withheld(self) -> bool:
        """Whether the zoo keeps answers back, so that its host alone can score what is said."""
        return self.task.target is not None and bool(self.zoo.withheld(self.task.target)[self.rows].any())

    @property
    def clusters(self) -> np.ndarray:
        """What test networks belong to that are not independent, such as a run or an image, ``[graphs]``."""
        return self.zoo.split_keys[self.rows]

    @property
    @abstractmethod
    def ids(self) -> tuple[str, ...]:
        """Names of the rows: the test networks, or what else is asked about."""

    @property
    @abstractmethod
    def row_shape(self) -> tuple[int, ...]:
        """Shape of what is said of a row; -1 for any size."""

    @abstractmethod
    def ask(self, method: Any, networks: GraphDataset) -> np.ndarray:
        """What a fitted method says, ``[rows, ...]``.

        Args:
            method: Fitted.
            networks: The test networks, or a scrambled copy of them.
        """

    @abstractmethod
    def scores(self, values: np.ndarray, twins: np.ndarray) -> dict[str, float]:
        """Every metric of the task, by name.

        Args:
            values: ``[rows, ...]``.
            twins: What was said of the same rows with their hidden neurons permuted, ``[rows, ...]``.
        """

    @abstractmethod
    def shifts(self, values: np.ndarray, twins: np.ndarray) -> np.ndarray:
        """How far what is said of each row moved, ``[rows]``, 0 for not at all."""

    @abstractmethod
    def resamples(self, method: str, scored: Sequence[Scored]) -> Resamples:
        """The primary metric, mean over seeds, and its draws over rows and seeds.

        Args:
            method: Whose answers they are.
            scored: One for each seed.
        """

    def check(self, values: np.ndarray) -> None:
        """Whether values have the shape that the task asks for.

        Raises:
            PredictionsError: They have another.
        """
        wanted = self.row_shape
        fits = values.ndim == 1 + len(wanted) and all(w in (-1, n) for w, n in zip(wanted, values.shape[1:], strict=True))
        if not fits:
            expected = ", ".join("any" if size < 0 else str(size) for size in wanted)
            raise PredictionsError(
                f"what is said of a row of task {self.task.name!r} has shape {list(values.shape[1:])}; expected [{expected}]"
            )

    def score(self, predictions: Predictions) -> Scored:
        """Scores predictions.

        Raises:
            PredictionsError: A row is missing, extra, there twice, of another shape or not finite.
        """
        values, scrambled = predictions.aligned(self.ids)
        self.check(values)
        for copy in scrambled:
            self.check(copy)
        shifts = np.max([self.shifts(values, copy) for copy in scrambled], axis=0)
        if self.is_withheld:
            return Scored(values, scrambled, {}, {}, shifts)
        copies = [self.scores(copy, values) for copy in scrambled]
        primary = self.task.primary
        worst = min(copies, key=lambda found: found[primary.name] if primary.higher_is_better else -found[primary.name])
        return Scored(values, scrambled, self.scores(values, scrambled[0]), worst, shifts)


class PredictionExam(Exam):
    """Asks for the answer of each test network: a number, or the probability of each class."""

    @cached_property
    def targets(self) -> np.ndarray:
        """The answers, as of `targets_of`."""
        return targets_of(self.task, self.zoo, self.rows, self.classes)

    @property
    def ids(self) -> tuple[str, ...]:
        """The test networks."""
        return tuple(self.zoo.ids[self.rows].tolist())

    @property
    def row_shape(self) -> tuple[int, ...]:
        """A number, or one for each class."""
        return (len(self.classes),) if self.classes else ()

    def ask(self, method: Any, networks: GraphDataset) -> np.ndarray:
        """Predictions, float64 ``[graphs]`` or ``[graphs, classes]``."""
        given, order = shown(networks, method.info)
        return in_order(np.asarray(method.predict(given), dtype=np.float64), order, method=method.info.name)

    def scores(self, values: np.ndarray, twins: np.ndarray) -> dict[str, float]:
        """Metrics of predictions against targets."""
        return {name: METRICS[name](values, self.targets) for name in self.task.metrics}

    def shifts(self, values: np.ndarray, twins: np.ndarray) -> np.ndarray:
        """Absolute difference, or total variation of the probabilities."""
        # a difference of unsigned integers is never below zero
        moved = np.abs(np.asarray(values, dtype=np.float64) - np.asarray(twins, dtype=np.float64))
        return moved if moved.ndim == 1 else moved.sum(axis=1) / 2

    def resamples(self, method: str, scored: Sequence[Scored]) -> Resamples:
        """Of the metric of resampled predictions."""
        stack = np.stack([found.values for found in scored])
        options = {"seed": BOOTSTRAP_SEED, "clusters": self.clusters, "num_resamples": self.task.num_resamples}
        return Resamples.of(METRICS[self.task.metrics[0]], stack, self.targets, method=method, **options)


def orbit_salt(copy: int) -> str:
    """Names the draw of an orbit-scrambled copy of the test set; a network's twin depends on it and on the network's id alone."""
    return f"ngbench-orbit-{copy + 1}"


def check_zoo(task: Task, zoo: Zoo) -> None:
    """Whether a task can be asked of a zoo.

    Raises:
        SplitError: The zoo lacks the target column.
        WithheldError: It keeps back what the question itself takes.
        ConfigError: The column says which network it is, or holds text where a number is asked for.
    """
    if task.target is None:
        if zoo.withheld("corpus").any():
            raise WithheldError(
                f"zoo {zoo.name!r} version {zoo.version} withholds 'corpus', by which task {task.name!r} pairs networks; "
                "expected a zoo that tells it"
            )
        return
    own = {column for columns in task.zoos.values() for column in columns}
    kinds = ("int", "float") if task.kind == "regression" else ("str", "int")
    columns = {name: column for name, column in zoo.columns.items() if column.role != "identity" or name in own}
    fitting = ", ".join(name for name, column in columns.items() if column.dtype in kinds)
    if task.target not in zoo.columns:
        raise SplitError(
            f"zoo {zoo.name!r} has no column {task.target!r} for task {task.name!r}, which is asked of {', '.join(task.zoos)}; "
            f"expected one of these zoos, or --target with a column of this one: {fitting}"
        )
    is_text = zoo.columns[task.target].dtype == "str"
    if task.target not in columns or (is_text and task.kind == "regression"):
        raise ConfigError(
            f"column {task.target!r} of zoo {zoo.name!r} {'holds text' if is_text else 'only says which network it is'}; "
            f"expected one that task {task.name!r} can ask about: {fitting}"
        )


def classes_of(task: Task, zoo: Zoo) -> tuple[str, ...]:
    """Names of the classes that a task distinguishes in a zoo: the values of the target among the training networks, sorted.

    Raises:
        SplitError: There is only one, or another split has one that training lacks.
    """
    if task.kind not in ("classification", "retrieval") or task.target is None:
        return ()
    column = zoo.metadata[task.target]
    known = ~zoo.withheld(task.target)
    rows = {part: zoo.split(part, name=task.split) for part in ("train", "val", "test")}
    found = {part: np.unique(column[own[known[own]]]) for part, own in rows.items()}
    if len(found["train"]) < 2:
        raise SplitError(f"column {task.target!r} of zoo {zoo.name!r} has one value in training; expected two or more classes")
    for part, values in found.items():
        unseen = set(values.tolist()) - set(found["train"].tolist())
        if unseen:
            raise SplitError(
                f"column {task.target!r} of zoo {zoo.name!r} has {_some(sorted(map(str, unseen)))} in split {task.split!r}, "
                f"{part}, but not in training; expected the same classes: choose another split or target"
            )
    return tuple(str(value) for value in found["train"].tolist())


def _some(values: Sequence[str], most: int = 4) -> str:
    return f"{len(values)} values, such as {', '.join(values[:most])}, …," if len(values) > most else ", ".join(values)


def targets_of(task: Task, zoo: Zoo, rows: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Answers for some networks of a zoo: float64 ``[graphs]``, or the number of each class, int64 ``[graphs]``.

    Raises:
        WithheldError: The zoo keeps some of them back.
    """
    withheld = int(zoo.withheld(task.target or "")[rows].sum())
    if withheld:
        raise WithheldError(
            f"zoo {zoo.name!r} version {zoo.version} withholds {task.target!r} of {withheld} of {len(rows)} networks; its host "
            "scores what is said of them: hand your predictions in, or name the answer file with --answers if you are the host"
        )
    column = zoo.metadata[task.target or ""][rows]
    if not classes:
        return column.astype(np.float64)
    number: Mapping[str, int] = {name: place for place, name in enumerate(classes)}
    return np.array([number[str(value)] for value in column.tolist()], dtype=np.int64)
