"""Transfer: what an embedding that was learned for one target knows of the others, by linear probes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ngbench.errors import SplitError
from ngbench.evaluation.blinding import in_order, shown
from ngbench.evaluation.exam import Exam, PredictionExam, classes_of, orbit_salt, targets_of
from ngbench.evaluation.linear_probe import fit_linear_probe
from ngbench.evaluation.networks import networks_of
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


def probe(task: Task, zoo: Zoo, method: Any, *, origin: Mapping[str, str | int]) -> dict[str, Predictions]:
    """Probes the frozen embedding of a fitted method for each target of the zoo, by `fit_linear_probe`.

    What is embedded tells neither of the target that the method was fitted for nor of the one that is probed.

    Args:
        task: What the method was fitted for.
        zoo: Of the networks.
        method: Fitted; has ``embed``.
        origin: What the files say of where they come from, beside the target that is probed.

    Returns:
        Predictions for the test split, and for its scrambled copies, by target.
    """
    found = {}
    for target in probed_targets(task, zoo):
        exam = PredictionExam(task.asked(zoo.name, split=task.split, target=target), zoo)
        (train, own), (val, others) = (_embedded(exam, zoo, method, part, str(task.target)) for part in ("train", "val"))
        options = {"val_embeddings": val, "val_targets": others, "metric": METRICS[task.selection]}
        fitted = fit_linear_probe(train, own, **options, num_classes=len(exam.classes))
        test = networks_of(exam.task, zoo, exam.rows, hidden=[str(task.target)])
        copies = [test.scrambled(salt=orbit_salt(copy)) for copy in range(task.num_scrambled)]
        said = [fitted.predict(_embed(method, networks)) for networks in (test, *copies)]
        found[target] = Predictions(exam.ids, said[0], np.stack(said[1:]), {**origin, "probe": target})
    return found


def _embedded(exam: Exam, zoo: Zoo, method: Any, part: str, hidden: str) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of a part of the split, and its answers."""
    rows = zoo.split(part, name=exam.task.split)
    networks = networks_of(exam.task, zoo, rows, hidden=[hidden])
    return _embed(method, networks), targets_of(exam.task, zoo, rows, exam.classes)


def _embed(method: Any, networks: GraphDataset) -> np.ndarray:
    given, order = shown(networks, method.info)
    return in_order(np.asarray(method.embed(given)), order, method=method.info.name)


def transfer_scores(task: Task, zoo: Zoo, folder: Path) -> dict[str, float]:
    """The primary metric of each probe whose predictions stand in the folder of a seed, by target, of those that are told.

    Raises:
        PredictionsError: A file does not fit the test split.
    """
    found = {}
    for target in probed_targets(task, zoo):
        path = transfer_file(folder, target)
        if path.exists():
            exam = PredictionExam(task.asked(zoo.name, split=task.split, target=target), zoo)
            scores = exam.score(Predictions.load(path)).scores
            found |= {} if exam.is_withheld else {target: scores[task.primary.name]}
    return found
