"""Layers that a network repeats: where a sequence holds the same run several times in a row, and names that stand for all."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

_NUMBER = re.compile(r"(?<=:)\d+|(?<=_)\d+(?=$|:)|(?:(?<=\.)|(?<=^))\d+(?=\.|\[|:|$)")
# The first of several alike operations has no number: "add", "add_1".
_COUNTER = re.compile(r"_\d+(?=$|:)")


@dataclass(frozen=True)
class Repeat:
    """A stretch of a sequence.

    Args:
        start: First position.
        length: Entries of one copy.
        count: Copies that follow each other; 1 where nothing repeats.
    """

    start: int
    length: int
    count: int

    @property
    def stop(self) -> int:
        """One past the last position."""
        return self.start + self.length * self.count

    def copies(self, offset: int) -> list[int]:
        """Positions of one entry in each copy."""
        return [self.start + offset + copy * self.length for copy in range(self.count)]


def find_repeats(entries: Sequence[Hashable]) -> list[Repeat]:
    """A sequence cut into stretches: the one that saves most entries first, then what is left and right of it.

    Args:
        entries: What is compared.

    Returns:
        Stretches that cover the sequence, in order.
    """
    return _cut(entries, 0, len(entries))


def _cut(entries: Sequence[Hashable], start: int, stop: int) -> list[Repeat]:
    best = Repeat(start, stop - start, 1)
    for length in range(1, (stop - start) // 2 + 1):
        same = 0
        for position in range(stop - length - 1, start - 1, -1):
            same = same + 1 if entries[position] == entries[position + length] else 0
            count = same // length + 1
            if (count - 1) * length > (best.count - 1) * best.length or (best.count == count > 1 and best.length == length):
                best = Repeat(position, length, count)
    if best.count == 1:
        return [best] if best.length else []
    return [*_cut(entries, start, best.start), best, *_cut(entries, best.stop, stop)]


def pattern_of(name: str) -> str:
    """A name with its position numbers left out: ``"h.3.ln_1"`` and ``"h.4.ln_1"`` have the same."""
    return _NUMBER.sub("#", _COUNTER.sub("", name))


def joint_name(names: Sequence[str]) -> str:
    """One name for copies of a layer: ``"h.0…11.ln_1"``; the first, with a mark, where they have no common pattern."""
    if len(set(names)) == 1:
        return names[0]
    if len({_NUMBER.sub("#", name) for name in names}) > 1:
        return f"{names[0]}, …"
    numbers = zip(*(_NUMBER.findall(name) for name in names), strict=True)
    joint = iter(first if len({first, *others}) == 1 else f"{first}…{others[-1]}" for first, *others in numbers)
    return _NUMBER.sub(lambda _: next(joint), names[0])
