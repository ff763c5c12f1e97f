"""Networks whose weights stand elsewhere in their own tensor: the same histogram in every layer, another network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from ngbench.errors import MethodError, NgbenchError
from ngbench.evaluation.audit.elements import graphs_of, with_graphs
from ngbench.evaluation.audit.movement import Outputs, given
from ngbench.evaluation.audit.record import Shuffle
from ngbench.loading import GraphDataset
from ngbench.methods import Problem, RunContext

Unit = Literal["weights", "edges"]
UNITS: tuple[Unit, ...] = ("weights", "edges")


def auc(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Share of pairs of a positive and a negative that are ranked right, ties counting half; both ``[graphs]``."""
    return float(roc_auc_score(targets, predictions))


PROBLEM = Problem(kind="regression", metric=auc, higher_is_better=True, bounds=(0.0, 1.0))
"""Tell shuffled networks (1) from originals (0); posed as regression, which every method can do."""


def chance_auc(num_each: int) -> float:
    """What the AUC of a guess stays below 97.7 % of the time: one half and two deviations of the Mann-Whitney statistic."""
    return 0.5 + 2 * math.sqrt((2 * num_each + 1) / (12 * num_each**2))


def shuffled(networks: GraphDataset, unit: Unit, *, seed: int) -> GraphDataset:
    """The weights of each block of each network in random order, by themselves or with all weights of their edge.

    Node features such as biases stay; the targets are withheld.

    Args:
        networks: On the CPU.
        unit: What changes places.
        seed: Of the order.
    """
    bundles = []
    for bundle in networks.bundles:
        values = bundle.values.clone()
        for row, position in enumerate(bundle.index.tolist()):
            rng = np.random.default_rng([seed, position])
            for slot in bundle.topology.slots:
                if slot.feature is None:
                    width = 1 if unit == "weights" else math.prod(slot.shape[2:])
                    own = values[row, slot.start : slot.stop].view(-1, width)
                    own.copy_(own[torch.from_numpy(rng.permutation(len(own)))])
        bundles.append(replace(bundle, values=values))
    return replace(networks, bundles=tuple(bundles)).without_targets()


def labelled(networks: GraphDataset, unit: Unit, *, seed: int) -> GraphDataset:
    """Networks (target 0), followed by their shuffles (target 1)."""
    twice = np.tile(np.arange(len(networks)), 2)
    both = with_graphs(networks, [*graphs_of(networks), *graphs_of(shuffled(networks, unit, seed=seed))], twice)
    ids = (*networks.ids, *(f"{id}-shuffled" for id in networks.ids))
    return replace(both, ids=ids, targets=np.repeat([0.0, 1.0], len(networks)))


def distances(method: Any, reference: Outputs, networks: GraphDataset, unit: Unit, *, seed: int) -> dict[str, float]:
    """By part how far networks are from their shuffles, as a share of the distance between two of the networks.

    Args:
        method: Fitted.
        reference: What it gives for the networks.
        networks: At least two.
        unit: What changes places.
        seed: Of the shuffle.
    """
    found, other = {}, shuffled(networks, unit, seed=seed)
    for part in ("predictions", "embeddings"):
        if part in reference.values:
            moved = np.square(given(method, part, other) - reference.values[part]).sum(axis=1).mean()
            # the mean square distance of two different networks is 2 n / (n - 1) of that from their mean
            independent = reference.spreads[part] * math.sqrt(2 * len(networks) / (len(networks) - 1))
            found[part] = float(math.sqrt(moved) / independent)
    return found


def _numbers(predictions: np.ndarray) -> np.ndarray:
    broken = np.count_nonzero(~np.isfinite(predictions))
    if broken:
        raise MethodError(f"{broken} of {len(predictions)} predictions are not finite; expected numbers")
    return predictions


def tell_apart(
    make: Callable[[], Any],
    splits: tuple[GraphDataset, GraphDataset, GraphDataset],
    unit: Unit,
    *,
    context: RunContext,
    distances: dict[str, float],
) -> Shuffle:
    """Fits a method to tell networks from their shuffles and asks it for networks that it has not seen.

    Args:
        make: Gives a method that is not fitted.
        splits: Networks to learn from, to select by and to ask for.
        unit: What changes places.
        context: Of the fit; its seed is also that of the shuffle.
        distances: For the record.
    """
    train, val, test = (labelled(split, unit, seed=context.seed) for split in splits)
    found, refusal = None, None
    try:
        method = make()
        method.fit(PROBLEM, train, val, context)
        found = auc(_numbers(method.predict(test.without_targets())), np.asarray(test.targets))
    except NgbenchError as error:
        refusal = f"{type(error).__name__}: {error}"
    return Shuffle(
        unit=unit,
        distances=distances,
        auc=found,
        chance_auc=chance_auc(len(test) // 2),
        num_train=len(train) // 2,
        num_test=len(test) // 2,
        refusal=refusal,
    )
