"""From what a run keeps to scores: the only place where predictions meet the answers of the test split."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ngbench.evaluation.exam import Exam, PredictionExam, Scored, classes_of, targets_of
from ngbench.evaluation.merging import MergingExam
from ngbench.evaluation.predictions import Predictions
from ngbench.evaluation.result import IntervalRecord, Spread
from ngbench.evaluation.retrieval import RetrievalExam
from ngbench.evaluation.transfer import transfer_scores
from ngbench.metrics import METRICS, Resamples
from ngbench.store import Zoo
from ngbench.tasks import Kind, Task

PREDICTIONS_FILE = "predictions.npz"
VAL_PREDICTIONS_FILE = "val-predictions.npz"

EXAMS: Mapping[Kind, type[Exam]] = {
    "regression": PredictionExam,
    "classification": PredictionExam,
    "retrieval": RetrievalExam,
    "merging": MergingExam,
}


def exam_of(task: Task, zoo: Zoo) -> Exam:
    """The exam of a task, about one target and split, on a zoo.

    Raises:
        SplitError: The zoo has no such split or target column.
    """
    return EXAMS[task.kind](task, zoo)


def seed_folder(folder: Path, seed: int) -> Path:
    """Where one seed of a run keeps its files."""
    return folder / f"seed-{seed}"


def origin_of(task: Task, zoo: Zoo, *, method: str, seed: int) -> dict[str, str | int]:
    """What every file of predictions says of where it comes from."""
    origin: dict[str, str | int] = {"method": method, "task": task.name, "task_version": task.version}
    origin |= {"zoo": zoo.name, "zoo_sha256": zoo.sha256, "split": task.split, "seed": seed}
    return origin | ({} if task.target is None else {"target": task.target})


def scores_of_seed(exam: Exam, scored: Scored, place: Path) -> dict[str, Any]:
    """The fields of a `SeedResult` that follow from the files of a seed: its predictions, those for validation and of probes.

    Args:
        exam: What was asked.
        scored: Its predictions, scored.
        place: Its folder.

    Raises:
        PredictionsError: A file is missing or does not fit the zoo.
    """
    return {
        "val_score": val_score(exam.task, exam.zoo, place),
        "transfer": transfer_scores(exam.task, exam.zoo, place),
        "scores": scored.scores,
        "scrambled_scores": scored.scrambled_scores,
        "mean_shift": _known(scored.shifts.mean()),
        "largest_shift": _known(scored.shifts.max()),
        "num_test": len(exam.rows),
    }


def has_val_score(task: Task) -> bool:
    """Whether a method predicts for the val split, by which it is selected."""
    return task.kind in ("regression", "classification")


def val_score(task: Task, zoo: Zoo, place: Path) -> float | None:
    """The metric of selection of the predictions for the val split in the folder of a seed; None for a task without such.

    Raises:
        PredictionsError: The file is missing or does not fit the val split.
    """
    if not has_val_score(task):
        return None
    rows = zoo.split("val", name=task.split)
    predictions = Predictions.load(place / VAL_PREDICTIONS_FILE).plain(zoo.ids[rows].tolist())
    return METRICS[task.selection](predictions, targets_of(task, zoo, rows, classes_of(task, zoo)))


def scores_of_run(exam: Exam, method: str, scored: Sequence[Scored], others: Mapping[str, Sequence[Scored]]) -> dict[str, Any]:
    """The fields of a `Result` that follow from its predictions, and for the differences from those of other methods.

    Args:
        exam: What was asked.
        method: Whose predictions they are.
        scored: One for each seed.
        others: The same of each method that it is compared with.
    """
    if exam.is_withheld:
        return {"scores": {}, "scrambled_scores": {}, "interval": None, "differences": {}}
    own = exam.resamples(method, scored)
    return {
        "scores": {name: Spread.of([found.scores[name] for found in scored]) for name in scored[0].scores},
        "scrambled_scores": {name: Spread.of([found.scrambled_scores[name] for found in scored]) for name in scored[0].scores},
        "interval": _interval(exam.task, own),
        "differences": differences_from(exam.task, own, {name: exam.resamples(name, found) for name, found in others.items()}),
    }


def differences_from(task: Task, own: Resamples, others: Mapping[str, Resamples]) -> dict[str, IntervalRecord]:
    """Intervals of the differences of a method's primary metric to those of other methods, by their names.

    Args:
        task: Whose confidence they have.
        own: The method's.
        others: Of as many draws, by method.
    """
    return {name: _interval(task, own.minus(found)) for name, found in others.items()}


def _interval(task: Task, resamples: Resamples) -> IntervalRecord:
    """The interval of a number at the confidence of a task."""
    return IntervalRecord(**dataclasses.asdict(resamples.interval(task.confidence)))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
