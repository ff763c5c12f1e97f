"""Transfer: what an embedding that was learned for one target knows of the others, by linear probes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ngbench.errors import SplitError
from ngbench.evaluation.exam import PredictionExam, classes_of, targets_of
from ngbench.evaluation.linear_probe import fit_linear_probe
from ngbench.evaluation.predictions import Predictions
from ngbench.loading import GraphDataset
from ngbench.metrics import METRICS
from ngbench.store import Zoo
from ngbench.tasks import Task


def transfer_file(folder: Path, target: str) -> Path:
    """Where the predictions of the probe of a target are kept beside those of the run."""
    return folder / f"probe-{target}.npz"


def probed_targets(task: Task, zoo: Zoo) -> tuple[str, ...]:
    """The columns that an embedding is probed for: all that the task names for the zoo, its own among them, if several.

    Those are left out that cannot be learned on the split of the task, as where it holds one of their classes out.
    """
    named = task.zoos.get(zoo.name, ())
    if task.kind != "classification" or len(named) < 2 or task.target not in named:
        return ()
    return tuple(target for target in named if _is_learnable(task, zoo, target))


def _is_learnable(task: Task, zoo: Zoo, target: str) -> bool:
    try:
        return bool(classes_of(task.asked(zoo.name, split=task.split, target=target), zoo))
    except SplitError:
        return False


def probe(
    task: Task, zoo: Zoo, method: Any, *, train: GraphDataset, val: GraphDataset, test: GraphDataset
) -> dict[str, Predictions]:
    """Probes the frozen embedding of a fitted method for each target of the zoo, by `fit_linear_probe`.

    Args:
        task: What the method was fitted for.
        zoo: Of the networks.
        method: Fitted; has ``embed``.
        train: Networks of the train split, on whose embeddings probes are fitted.
        val: By which their penalties are chosen.
        test: Whose classes the probes predict.

    Returns:
        Predictions for the test split by target.
    """
    embedded = [method.embed(part.without_targets()) for part in (train, val, test)]
    rows = [zoo.split(part, name=task.split) for part in ("train", "val")]
    found = {}
    for target in probed_targets(task, zoo):
        exam = PredictionExam(task.asked(zoo.name, split=task.split, target=target), zoo)
        answers = [targets_of(exam.task, zoo, of_part, exam.classes) for of_part in rows]
        fitted = fit_linear_probe(
            embedded[0],
            answers[0],
            val_embeddings=embedded[1],
            val_targets=answers[1],
            metric=METRICS[task.selection],
            num_classes=len(exam.classes),
        )
        values = fitted.predict(embedded[2])
        found[target] = Predictions(exam.ids, values, values[None], {"probe": target, "task": task.name, "zoo": zoo.name})
    return found


def transfer_scores(task: Task, zoo: Zoo, folder: Path) -> dict[str, float]:
    """The primary metric of each probe whose predictions stand in the folder of a seed, by target.

    Raises:
        PredictionsError: A file does not fit the test split.
    """
    found = {}
    for target in probed_targets(task, zoo):
        path = transfer_file(folder, target)
        if path.exists():
            exam = PredictionExam(task.asked(zoo.name, split=task.split, target=target), zoo)
            found[target] = exam.score(Predictions.load(path)).scores[task.primary.name]
    return found
