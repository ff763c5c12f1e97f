"""From predictions to scores: the only place where predictions meet the test split's answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ngbench.errors import ResultError, SplitError
from ngbench.evaluation.predictions import Predictions
from ngbench.evaluation.result import Result
from ngbench.store import Zoo, open_zoo
from ngbench.tasks import TASKS, Task

PREDICTIONS_FILE = "predictions.npz"


@dataclass(frozen=True)
class Answers:
    """The test split of a zoo with what the task asks for.

    Args:
        ids: Id of each test network.
        targets: Answer for each, float64 ``[graphs]``.
    """

    ids: tuple[str, ...]
    targets: np.ndarray


def answers(task: Task, zoo: Zoo) -> Answers:
    """The test networks of a zoo and their answers.

    Raises:
        SplitError: The zoo has no such split or target column.
    """
    check_zoo(task, zoo)
    rows = zoo.split("test", name=task.split)
    return Answers(tuple(zoo.ids[rows].tolist()), zoo.metadata[task.target][rows].astype(np.float64))


def check_zoo(task: Task, zoo: Zoo) -> None:
    """Whether a task can be asked of a zoo.

    Raises:
        SplitError: The zoo lacks the target column.
    """
    if task.target not in zoo.columns:
        raise SplitError(
            f"zoo {zoo.name!r} has no column {task.target!r} for task {task.name!r}; expected one among {', '.join(zoo.columns)}"
        )


@dataclass(frozen=True)
class Scored:
    """Predictions in test order, and what they score.

    Args:
        values: ``[graphs]``.
        scrambled: The same for the orbit-scrambled networks.
        scores: Metrics of `values`, by name.
        scrambled_scores: Metrics of `scrambled`.
    """

    values: np.ndarray
    scrambled: np.ndarray
    scores: dict[str, float]
    scrambled_scores: dict[str, float]

    @property
    def shifts(self) -> np.ndarray:
        """How far the prediction for each network moved when its hidden neurons were permuted, ``[graphs]``."""
        return np.abs(self.values - self.scrambled)


def score(task: Task, found: Answers, predictions: Predictions) -> Scored:
    """Scores predictions against the test split.

    Raises:
        PredictionsError: A row is missing, extra, there twice or not finite.
    """
    values, scrambled = predictions.aligned(found.ids)
    return Scored(values, scrambled, task.score(values, found.targets), task.score(scrambled, found.targets))


@dataclass(frozen=True)
class Difference:
    """A number of a stored result that its predictions do not give again."""

    seed: int
    name: str
    stored: float
    found: float


def rescore(folder: Path, *, zoo: Zoo | None = None) -> tuple[Result, list[Difference]]:
    """Scores the predictions of a finished run again and compares with its result file.

    Args:
        folder: Run folder.
        zoo: The zoo, if it is not the released one that the result names.

    Returns:
        The result as stored, and every number that differs.

    Raises:
        ResultError: No readable result, or the zoo is not the one that it was made on.
        PredictionsError: The predictions cannot be scored.
    """
    result = Result.load(folder)
    zoo = zoo or open_zoo(result.zoo)
    if zoo.sha256 != result.zoo_sha256:
        raise ResultError(
            f"the result in {folder} was made on zoo {result.zoo!r} with sha256 {result.zoo_sha256[:12]}…; "
            f"got {zoo.sha256[:12]}…: name that zoo's file with --zoo"
        )
    task = TASKS[result.task].on(result.split)
    found = answers(task, zoo)
    differences = []
    for seed in result.seeds:
        scored = score(task, found, Predictions.load(seed_folder(folder, seed.seed) / PREDICTIONS_FILE))
        pairs = [(name, seed.scores.get(name), value) for name, value in scored.scores.items()]
        pairs += [
            (f"scrambled {name}", seed.scrambled_scores.get(name), value) for name, value in scored.scrambled_scores.items()
        ]
        differences += [
            Difference(seed.seed, name, float("nan") if old is None else old, new) for name, old, new in pairs if old != new
        ]
    return result, differences


def seed_folder(folder: Path, seed: int) -> Path:
    """Where one seed of a run keeps its files."""
    return folder / f"seed-{seed}"
