"""Transfer: what an embedding that was learned for one target knows of the others, by linear probes of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ngbench.errors import SplitError
from ngbench.evaluation.blinding import in_order, shown
from ngbench.evaluation.exam import PredictionExam, classes_of, orbit_salt, targets_of
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
    embedded: dict[str, list[np.ndarray]] = {}
    for target in probed_targets(task, zoo):
        exam = PredictionExam(task.asked(zoo.name, split=task.split, target=target), zoo)
        hidden = {target, str(task.target)}
        # what is not told is a column, which few methods read, or stands in the topology
        told = target if method.info.access == "hyperparameters" else "all" if "activation" not in hidden else "no activation"
        if told not in embedded:
            embedded[told] = [_embed(method, networks) for networks in _networks(task, zoo, hidden)]
        train, val, *tests = embedded[told]
        own, others = (targets_of(exam.task, zoo, zoo.split(part, name=task.split), exam.classes) for part in ("train", "val"))
        options = {"val_embeddings": val, "val_targets": others, "metric": METRICS[task.selection]}
        fitted = fit_linear_probe(train, own, **options, num_classes=len(exam.classes))
        said = [fitted.predict(rows) for rows in tests]
        found[target] = Predictions(exam.ids, said[0], np.stack(said[1:]), {**origin, "probe": target})
    return found


def _networks(task: Task, zoo: Zoo, hidden: Collection[str]) -> Iterator[GraphDataset]:
    """The train, val and test networks, and the scrambled copies of these, without what is to be hidden."""
    for part in ("train", "val"):
        yield networks_of(task, zoo, zoo.split(part, name=task.split), hidden=hidden)
    test = networks_of(task, zoo, zoo.split("test", name=task.split), hidden=hidden)
    yield test
    for copy in range(task.num_scrambled):
        yield test.scrambled(salt=orbit_salt(copy))


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
