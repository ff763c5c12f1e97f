"""Whether a method fitted on some architectures takes wider, deeper and other ones: of a zoo's splits, and fake ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ngbench.errors import NgbenchError
from ngbench.evaluation.audit.record import Acceptance, Plan
from ngbench.graph import Topology
from ngbench.loading import GraphDataset
from ngbench.methods import Problem, RunContext
from ngbench.metrics import KENDALL_TAU
from ngbench.store import Zoo
from ngbench.testing import FAILURES, attention_topology, cnn_topology, fake_dataset, mlp_topology, residual_topology

FITTED = cnn_topology((1, 6, 4), num_classes=5)
"""The structure of the fake networks that a method is fitted on."""

OTHERS: dict[str, Topology] = {
    "wider": cnn_topology((1, 11, 9), num_classes=5),
    "deeper": cnn_topology((1, 6, 4, 4), num_classes=5),
    "larger kernels": cnn_topology((1, 6, 4), num_classes=5, kernel=(5, 5)),
    "more classes": cnn_topology((1, 6, 4), num_classes=7),
    "an MLP": mlp_topology((9, 8, 5)),
    "a residual network": residual_topology(),
    "a transformer": attention_topology(),
}
"""What it is then asked for, by what is different."""

NOT_RUN = ("a residual network", "a transformer")
"""Fakes of which only values are known: methods that run networks on inputs are not asked for them."""


@dataclass(frozen=True)
class Question:
    """Networks that a method, fitted on others, is asked for.

    Args:
        asked: In words.
        networks: Without targets.
    """

    asked: str
    networks: GraphDataset


def ask_fakes(make: Callable[[], Any], context: RunContext, plan: Plan) -> list[Acceptance]:
    """Fits on fake networks of one structure and asks for others."""
    train, val = (fake_dataset((FITTED,), num_graphs=size, seed=plan.seed + i) for i, size in enumerate((48, 12)))
    is_run = make().info.access == "probes"
    questions = [
        Question(asked, fake_dataset((topology,), num_graphs=plan.num_asked, seed=plan.seed + 2).without_targets())
        for asked, topology in OTHERS.items()
        if not (is_run and asked in NOT_RUN)
    ]
    return list(_ask(make, (train, val), context, questions, fitted_on="fake CNNs of one structure"))


def ask_zoo(make: Callable[[], Any], zoo: Zoo, target: str, context: RunContext, plan: Plan) -> list[Acceptance]:
    """Fits on the training part of each split of a zoo but the default one, and asks for its test part.

    A method that refuses to be fitted on several structures is also fitted on the commonest of them.
    """
    found = []
    for name in zoo.splits:
        if name == "default":
            continue
        test = GraphDataset.from_zoo(zoo, chosen(zoo.split("test", name), 2 * plan.num_asked, seed=plan.seed))
        questions = [Question(f"{zoo.name}, test part of {name}", test)]
        rows = [zoo.split(part, name) for part in ("train", "val")]
        fitted_on = f"{zoo.name}, training part of {name}"
        sets = _sets(zoo, [chosen(r, size, seed=plan.seed) for r, size in zip(rows, (32, 8), strict=True)], target)
        answers = list(_ask(make, sets, context, questions, fitted_on=fitted_on))
        found += answers
        if any(answer.stage == "fit" for answer in answers):
            sets = _sets(zoo, _of_one_structure(zoo, rows), target)
            found += _ask(make, sets, context, questions, fitted_on=f"one structure of {fitted_on}")
    return found


def problem_of(train: GraphDataset, val: GraphDataset) -> Problem:
    """Regression of the targets between the least and the largest of them, judged by Kendall's τ_b."""
    targets = np.concatenate([np.asarray(part.targets, dtype=np.float64) for part in (train, val)])
    bounds = float(targets.min()), max(float(targets.max()), float(targets.min()) + 1e-6)
    return Problem(kind="regression", metric=KENDALL_TAU, higher_is_better=True, bounds=bounds)


def chosen(rows: np.ndarray, most: int, *, seed: int) -> np.ndarray:
    """At most so many of some rows, drawn by a seed, rising."""
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])


def _sets(zoo: Zoo, rows: list[np.ndarray], target: str) -> tuple[GraphDataset, GraphDataset]:
    train, val = (GraphDataset.from_zoo(zoo, part, target=target) for part in rows)
    return train, val


def _of_one_structure(zoo: Zoo, rows: list[np.ndarray]) -> list[np.ndarray]:
    """Of rows of a train and a val part those of the structure commonest in train; those of train twice where val has too few."""
    structures = np.array([topology.structure for topology in zoo.topologies])[zoo.topology_index]
    commonest = Counter(structures[rows[0]].tolist()).most_common(1)[0][0]
    train, val = (part[structures[part] == commonest] for part in rows)
    return [train, val if len(val) > 1 else train]


def _ask(
    make: Callable[[], Any],
    sets: tuple[GraphDataset, GraphDataset],
    context: RunContext,
    questions: list[Question],
    *,
    fitted_on: str,
) -> Iterator[Acceptance]:
    """One fit, and an answer to each question."""
    method = make()
    fault = _attempt(lambda: method.fit(problem_of(*sets), *sets, context))
    for question in questions:
        stage: Any = "fit" if fault else "predict"
        outcome, error = fault or _attempt(lambda networks=question.networks: _finite(method.predict(networks))) or (None, None)
        yield Acceptance(
            fitted_on=fitted_on,
            asked=question.asked,
            num_networks=len(question.networks),
            outcome=outcome or "accepted",
            stage=stage if outcome else None,
            error=error,
        )


def _attempt(action: Callable[[], object]) -> tuple[Any, str] | None:
    """How an action was refused or failed, with type and text of the error; None where it was not."""
    try:
        action()
    except (NgbenchError, *FAILURES) as error:
        return "refused" if isinstance(error, NgbenchError) else "failed", f"{type(error).__name__}: {error}"
    return None


def _finite(predictions: np.ndarray) -> None:
    if not np.isfinite(predictions).all():
        raise ValueError(f"{np.sum(~np.isfinite(predictions))} of {len(predictions)} predictions are not finite")
