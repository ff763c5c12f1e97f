"""What each axis of an intermediate tensor runs over, followed through views: units of a group, positions or a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Factor:
    """One index that an axis runs over; two factors are the same only if they are the same object."""

    size: int


Axes = tuple[tuple[Factor, ...], ...]
"""For each axis of a tensor the factors that it is the product of, slowest first."""


def fresh(shape: Sequence[int]) -> Axes:
    """Axes of one new factor each."""
    return tuple((Factor(int(size)),) for size in shape)


def refactor(axes: Axes, shape: Sequence[int], *, keep: Sequence[Factor]) -> Axes | None:
    """Axes of a tensor viewed with another shape.

    Args:
        axes: Axes before.
        shape: Shape after; the same number of elements.
        keep: Factors that must stay whole; others may be split.
            A factor of size one stands in the first axis of the result that has room for it.

    Returns:
        The new axes, or None where a factor to keep would be cut, or two axes do not divide each other.
    """
    queue = [factor for axis in axes for factor in axis]
    result: list[tuple[Factor, ...]] = []
    for position, size in enumerate(shape):
        taken: list[Factor] = []
        room = int(size)
        last = position == len(shape) - 1
        while queue and room % queue[0].size == 0 and (room > 1 or (queue[0].size == 1 and (last or not taken))):
            taken.append(queue.pop(0))
            room //= taken[-1].size
        if room > 1:
            if not queue or queue[0] in keep or queue[0].size % room:
                return None
            rest = queue.pop(0).size // room
            taken.append(Factor(room))
            queue.insert(0, Factor(rest))
        result.append(tuple(taken) or (Factor(1),))
    return tuple(result) if math.prod(factor.size for factor in queue) == 1 else None
