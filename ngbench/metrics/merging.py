"""The numbers of merging: what each says, and in which direction it is better; networks are run to get them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


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


NOISES = (0.0, 0.1, 0.3, 1.0)
"""Noise on a copy whose permutation is to be found again, in standard deviations of the weights of a tensor."""

SET_SIZES = tuple(range(2, 9))
"""Networks that are merged into one."""

_SHARE, _UNBOUNDED = (0.0, 1.0), (float("-inf"), float("inf"))
_REPAIRED = " Statistics of its units are estimated again on training images (Jordan et al., REPAIR, ICLR 2023)."
_MIDPOINT = "Test accuracy of the mean of the weights of two independent networks, the second aligned to the first."
_BARRIER = (
    "Largest excess of the test loss, in nats, on the line between two aligned networks over the line between their losses, at "
    "25 points (Frankle et al., ICML 2020)."
)


def _merging() -> list[Measure]:
    measures = [
        Measure("midpoint_accuracy", "Midpoint", True, _SHARE, _MIDPOINT),
        Measure("midpoint_accuracy_repaired", "Repaired", True, _SHARE, _MIDPOINT + _REPAIRED),
        Measure("barrier", "Barrier", False, _UNBOUNDED, _BARRIER),
        Measure("barrier_repaired", "Repaired barrier", False, _UNBOUNDED, _BARRIER + _REPAIRED),
        Measure(
            "barrier_area",
            "Barrier area",
            False,
            _UNBOUNDED,
            "Mean over the line of the excess that the barrier is the largest of.",
        ),
        Measure("endpoint_accuracy", "Endpoints", True, _SHARE, "Mean test accuracy of the two networks themselves."),
        Measure(
            "cycle_consistency",
            "Cycles",
            True,
            _SHARE,
            "Share of the hidden nodes that return to themselves over three networks.",
        ),
    ]
    for noise in NOISES:
        what = f"a permuted copy with noise of {noise:g} standard deviations of the weights"
        measures += [
            Measure(
                f"recovery_{noise:g}", f"Recovery {noise:g}", True, _SHARE, f"Share of the hidden nodes matched right in {what}."
            ),
            Measure(
                f"recovery_exact_{noise:g}", f"Exact {noise:g}", True, _SHARE, f"Share of networks without a fault in {what}."
            ),
        ]
    for size in SET_SIZES:
        what = f"Test accuracy of the mean of {size} aligned networks."
        measures += [
            Measure(f"merged_{size}", f"Of {size}", True, _SHARE, what),
            Measure(f"merged_{size}_repaired", f"Of {size}, repaired", True, _SHARE, what + _REPAIRED),
        ]
    return measures


MERGING: Mapping[str, Measure] = MappingProxyType({measure.name: measure for measure in _merging()})
"""What matchings of networks are scored by, by name."""
