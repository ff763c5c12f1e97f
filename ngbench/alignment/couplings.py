"""Plans of optimal transport between evenly weighted units as whole numbers, which anyone can write and the evaluator checks.

Each of n units weighs as much as the others, and so does each of m. The cheapest plan is a corner of the polytope of all plans:
the pairs of units that it joins form a forest, so that they are fewer than n + m, and what flows along each follows from the
pairs alone (Peyré and Cuturi 2019, arXiv:1803.00567, Section 3.4).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ngbench.errors import GraphError

Widths = Mapping[str, tuple[int, int]]
"""How many units each index has in the first and the second network."""


def row_length(widths: Widths) -> int:
    """Numbers that say the plans of some indices: for each as many as a forest on its units may have edges."""
    return sum(one + other - 1 for one, other in widths.values())


def codes_of(plans: Mapping[str, np.ndarray], widths: Widths) -> np.ndarray:
    """The pairs of units that plans join, int64 ``[row_length(widths)]``.

    For each index in turn the numbers ``i * m + j`` of the pairs (i, j), rising, and -1 behind them.

    Args:
        plans: Corners, as `ngbench.alignment.plans` gives them for even masses, by index ``[n, m]``.
        widths: (n, m) of each index.
    """
    parts = []
    for name, (one, other) in widths.items():
        # flows are multiples of 1 / (n * m), up to rounding
        joined = np.flatnonzero(plans[name] * one * other > 0.5)
        parts.append(np.pad(joined, (0, one + other - 1 - len(joined)), constant_values=-1))
    return np.concatenate([np.empty(0, dtype=np.int64), *parts])


def plans_of(codes: np.ndarray, widths: Widths) -> dict[str, np.ndarray]:
    """The plans that `codes_of` wrote, by index, float64 ``[n, m]``; the codes may come from anyone.

    Args:
        codes: int64 ``[row_length(widths)]``.
        widths: (n, m) of each index.

    Raises:
        GraphError: They say no plan that brings even masses together.
    """
    found, start = {}, 0
    for name, (one, other) in widths.items():
        own = codes[start : start + one + other - 1]
        start += len(own)
        joined = own[: len(own) - int((own == -1).sum())]
        if (own[len(joined) :] != -1).any() or (np.diff(joined) <= 0).any() or ((joined < 0) | (joined >= one * other)).any():
            raise GraphError(
                f"what is said of index {name!r} are no rising numbers from 0 to {one * other - 1}, the codes of pairs of its "
                f"{one} and {other} units, with -1 behind them"
            )
        found[name] = _flows(np.stack(np.divmod(joined, other), axis=1), (one, other), name) / (one * other)
    return found


def _flows(pairs: np.ndarray, sizes: tuple[int, int], name: str) -> np.ndarray:
    """What flows along each pair where each first unit sends m and each second one takes n, int64 ``[n, m]``.

    A unit that is in one pair sends all it has along that; it is taken away with the pair, which makes others such leaves.
    """
    one, other = sizes
    flows = np.zeros(sizes, dtype=np.int64)
    left = [other] * one + [one] * other
    neighbours: list[set[int]] = [set() for _ in left]
    for i, j in pairs.tolist():
        neighbours[i].add(one + j)
        neighbours[one + j].add(i)
    leaves = [unit for unit, around in enumerate(neighbours) if len(around) == 1]
    while leaves:
        leaf = leaves.pop()
        if not neighbours[leaf]:
            continue
        (partner,) = neighbours[leaf]
        flow = left[leaf]
        left[leaf], left[partner] = 0, left[partner] - flow
        if flow <= 0 or left[partner] < 0:
            raise GraphError(f"the pairs of index {name!r} bring no even masses of {one} and {other} units together")
        flows[min(leaf, partner), max(leaf, partner) - one] = flow
        neighbours[leaf].clear()
        neighbours[partner].discard(leaf)
        if len(neighbours[partner]) == 1:
            leaves.append(partner)
    if any(neighbours):
        raise GraphError(f"the pairs of index {name!r} form a ring; expected a forest, from which the plan follows")
    if any(left):
        raise GraphError(f"the pairs of index {name!r} bring no even masses of {one} and {other} units together")
    return flows
