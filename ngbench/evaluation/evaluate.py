"""From predictions to scores: the only place where predictions meet the test split's answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ngbench.errors import ResultError
from ngbench.evaluation.exam import Exam, PredictionExam
from ngbench.evaluation.merging import MergingExam
from ngbench.evaluation.predictions import Predictions
from ngbench.evaluation.result import Result
from ngbench.evaluation.retrieval import RetrievalExam
from ngbench.evaluation.transfer import transfer_scores
from ngbench.store import Zoo, open_zoo
from ngbench.tasks import TASKS, Kind, Task

PREDICTIONS_FILE = "predictions.npz"

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
    exam = exam_of(TASKS[result.task].asked(result.zoo, split=result.split, target=result.target), zoo)
    differences = []
    for seed in result.seeds:
        place = seed_folder(folder, seed.seed)
        scored = exam.score(Predictions.load(place / PREDICTIONS_FILE))
        probed = transfer_scores(exam.task, zoo, place)
        pairs = [(name, seed.scores.get(name), value) for name, value in scored.scores.items()]
        pairs += [
            (f"scrambled {name}", seed.scrambled_scores.get(name), value) for name, value in scored.scrambled_scores.items()
        ]
        pairs += [(f"probe of {target}", old, probed.get(target, float("nan"))) for target, old in seed.transfer.items()]
        differences += [
            Difference(seed.seed, name, float("nan") if old is None else old, new) for name, old, new in pairs if old != new
        ]
    return result, differences


def seed_folder(folder: Path, seed: int) -> Path:
    """Where one seed of a run keeps its files."""
    return folder / f"seed-{seed}"
