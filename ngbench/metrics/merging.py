"""The numbers of merging: what each says, and in which direction it is better; networks are run to get them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """The facts about a number that is no function of predictions and targets alone.

    Attributes:
        name: Its name in results, ``snake_case``.
        title: As it is printed.
        higher_is_better: The direction in which methods are ranked.
        bounds: Least and greatest value.
        description: What it is, in words.
    """

    name: str
    title: str
    higher_is_better: bool
    bounds: tuple[float, float]
    description: str


_SHARE, _EXCESS, _MEAN_EXCESS = (0.0, 1.0), (0.0, float("inf")), (float("-inf"), float("inf"))
_REPAIRED = " Statistics of its units are estimated again on training images (Jordan et al., REPAIR, ICLR 2023)."
_MIDPOINT = "Test accuracy of the mean of the weights of two independent networks, the second aligned to the first."
_BARRIER = (
    "Largest excess of the test loss, in nats, on the line between two aligned networks over the line between their losses, at "
    "evenly spaced points (Frankle et al., ICML 2020); the ends are among them, so that it is never below 0."
)
_AREA = "Mean over the line of the excess that the barrier is the largest of."
_ENDPOINTS = "Mean test accuracy of the two networks themselves."
_UNEQUAL = (
    " The two have one architecture and unequal widths, and the second is spread over the units of the first by optimal "
    "transport of node embeddings (Singh and Jaggi, NeurIPS 2020); left out where a zoo has no such pairs, or a method embeds no "
    "nodes."
)
_UNEQUAL_ENDS = " The two have unequal widths, and the second is taken before it is spread over the units of the first."
_CYCLES = "Share of the hidden nodes that return to themselves over three networks."

_OF_PAIRS_AND_TRIPLES = (
    Measure("midpoint_accuracy", "Midpoint", True, _SHARE, _MIDPOINT),
    Measure("midpoint_accuracy_repaired", "Repaired", True, _SHARE, _MIDPOINT + _REPAIRED),
    Measure("barrier", "Barrier", False, _EXCESS, _BARRIER),
    Measure("barrier_repaired", "Repaired barrier", False, _EXCESS, _BARRIER + _REPAIRED),
    Measure("barrier_area", "Barrier area", False, _MEAN_EXCESS, _AREA),
    Measure("endpoint_accuracy", "Endpoints", True, _SHARE, _ENDPOINTS),
    Measure("cycle_consistency", "Cycles", True, _SHARE, _CYCLES),
    Measure("midpoint_accuracy_unequal", "Midpoint, unequal widths", True, _SHARE, _MIDPOINT + _UNEQUAL),
    Measure("midpoint_accuracy_unequal_repaired", "Repaired, unequal widths", True, _SHARE, _MIDPOINT + _UNEQUAL + _REPAIRED),
    Measure("barrier_unequal", "Barrier, unequal widths", False, _EXCESS, _BARRIER + _UNEQUAL),
    Measure("endpoint_accuracy_unequal", "Endpoints, unequal widths", True, _SHARE, _ENDPOINTS + _UNEQUAL_ENDS),
)


def merging_measures(noises: Iterable[float], set_sizes: Iterable[int]) -> dict[str, Measure]:
    """Everything that matchings of networks are scored by, by name.

    Args:
        noises: On a copy whose permutation is to be found again, in standard deviations of the weights of a tensor.
        set_sizes: Networks that are merged into one.
    """
    of_noises = [measure for noise in noises for measure in _of_noise(noise)]
    of_sizes = [measure for size in set_sizes for measure in _of_size(size)]
    return {measure.name: measure for measure in (*_OF_PAIRS_AND_TRIPLES, *of_noises, *of_sizes)}


def merging_measure(name: str) -> Measure | None:
    """The facts about a number of merging, of any noise and size of a set; None where the name is of no such number."""
    noise, size = re.fullmatch(r"recovery_(?:exact_)?([0-9.e-]+)", name), re.fullmatch(r"merged_([0-9]+)(?:_repaired)?", name)
    try:
        found = merging_measures([float(noise[1])] if noise else [], [int(size[1])] if size else [])
    except ValueError:
        return None
    return found.get(name)


def _of_noise(noise: float) -> tuple[Measure, Measure]:
    what = f"a permuted copy with noise of {noise:g} standard deviations of the weights"
    nodes, networks = f"Share of the hidden nodes matched right in {what}.", f"Share of networks without a fault in {what}."
    return (
        Measure(f"recovery_{noise:g}", f"Recovery {noise:g}", True, _SHARE, nodes),
        Measure(f"recovery_exact_{noise:g}", f"Exact {noise:g}", True, _SHARE, networks),
    )


def _of_size(size: int) -> tuple[Measure, Measure]:
    what = f"Test accuracy of the mean of {size} aligned networks."
    return (
        Measure(f"merged_{size}", f"Of {size}", True, _SHARE, what),
        Measure(f"merged_{size}_repaired", f"Of {size}, repaired", True, _SHARE, what + _REPAIRED),
    )
