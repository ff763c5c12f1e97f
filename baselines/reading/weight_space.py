"""Weight spaces: the parameters of one architecture as fields over the indices that permute, and all linear maps between them.

An index is what permutes as one: the units of a layer, or of all layers that a residual stream ties together. A weight matrix
is a field over two indices and a bias a field over one; what stands at one entry, such as the numbers of a convolution's
kernel, are its channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations, permutations
from typing import TypeVar

import torch
from torch import Tensor, nn

from ngbench.graph import Topology
from ngbench.graph.topology import Index, Slot

Item = TypeVar("Item")

Key = tuple[tuple[str, tuple[int, ...]], ...]
"""What a map runs over: names of indices, each with the places in the key of its parents."""


@dataclass(frozen=True)
class Axis:
    """An axis of a field, along which it permutes.

    Args:
        index: Name of the index whose entries stand along it.
        size: Number of entries.
        parents: Axes of the same field, in each of whose entries this one permutes by itself.
    """

    index: str
    size: int
    parents: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """How values that stand one after the other run over indices.

    Axes that never permute are channels, as DWSNets has the inputs and outputs of a network; those of one entry are too.

    Args:
        axes: Along what the values permute.
        sizes: Of all indices in the order of the values, and last of the kernel at an entry.
        order: Which of these are `axes`, and then the others.
    """

    axes: tuple[Axis, ...]
    sizes: tuple[int, ...]
    order: tuple[int, ...]

    @classmethod
    def of(cls, targets: Sequence[Index], sources: Sequence[Index] = (), *, kernel_size: int = 1) -> Layout:
        """The layout of values that run over the indices of their targets and then over those of their sources."""
        indices = [*targets, *sources]
        at_target = {index.name: place for place, index in enumerate(targets)}
        at_source = {index.name: place for place, index in enumerate(sources, start=len(targets))}
        parents: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            if index.size > 1 and not index.fixed:
                # what source and target share, such as groups of channels, stands at the target
                here = at_target if place < len(targets) else at_target | at_source
                parents[place] = [here[name] for name in index.parents if name in here]
        # what permutes in each entry of an index by itself keeps that index as an axis, even where it stays
        moving = sorted({*parents, *chain(*parents.values())})
        axes = [Axis(indices[p].name, indices[p].size, tuple(moving.index(q) for q in parents.get(p, ()))) for p in moving]
        order = (*moving, *(place for place in range(len(indices) + 1) if place not in moving))
        return cls(tuple(axes), (*(index.size for index in indices), kernel_size), order)

    @property
    def num_channels(self) -> int:
        """Numbers at one entry of the axes."""
        return math.prod(self.sizes) // math.prod(axis.size for axis in self.axes)

    def split(self, values: Tensor) -> Tensor:
        """Values ``[graphs, values]`` by axes, ``[graphs, *axes, channels]``."""
        return values.unflatten(1, self.sizes).permute(0, *(1 + place for place in self.order)).flatten(1 + len(self.axes))

    def each(self, vectors: Tensor) -> Tensor:
        """For each value the vector at its entry, ``[graphs, *axes, channels]`` to ``[graphs, values, channels]``.

        An axis of the vectors may have size one: they are then the same along it.
        """
        moving = self.order[: len(self.axes)]
        sizes = [size if place in moving else 1 for place, size in enumerate(self.sizes)]
        full = vectors.expand(-1, *(axis.size for axis in self.axes), -1)
        return full.reshape(len(vectors), *sizes, vectors.shape[-1]).expand(-1, *self.sizes, -1).flatten(1, -2)


@dataclass(frozen=True)
class Field:
    """One parameter, or the part of one that a block or a node feature shows.

    Args:
        slot: Where its values stand.
        group: The nodes that it enters.
        layout: How its values run over indices.
    """

    slot: Slot
    group: str
    layout: Layout

    def read(self, values: Tensor) -> Tensor:
        """From the rows of networks ``[graphs, values]`` to the field, ``[graphs, *axes, channels]``."""
        return self.layout.split(values[:, self.slot.start : self.slot.stop])


def fields_of(topology: Topology) -> tuple[Field, ...]:
    """The fields of an architecture, one for each of its slots."""
    return tuple(_field_of(topology, slot) for slot in topology.slots)


def _field_of(topology: Topology, slot: Slot) -> Field:
    if slot.feature is not None:
        own = topology.indices_of(slot.owner) if slot.shape == (topology.group(slot.owner).size,) else ()
        return Field(slot, slot.owner, Layout.of(own))
    block = topology.edge_block(slot.owner)
    sources = () if block.pattern == "diagonal" else topology.indices_of(block.source)
    alone = [index for index in sources if index.name not in block.shared]
    return Field(slot, block.target, Layout.of(topology.indices_of(block.target), alone, kernel_size=slot.shape[2]))


@dataclass(frozen=True)
class View:
    """A field seen over some of its indices: its mean over the others; or the other way round, spread over them.

    Args:
        axes: Axes of the field.
        tied: For each axis the first that it runs along with: another one than itself on a diagonal.
        kept: Axes that remain, in the order of the key.
    """

    axes: tuple[Axis, ...]
    tied: tuple[int, ...]
    kept: tuple[int, ...]

    def pool(self, field: Tensor) -> Tensor:
        """``[graphs, *axes, channels]`` to ``[graphs, *kept, channels]``: on the diagonal, the mean over what is not kept."""
        letters = "abcdefghijklmnop"
        seen, kept = ("".join(letters[axis] for axis in axes) for axes in (self.tied, self.kept))
        count = math.prod(self.axes[axis].size for axis in set(self.tied) - set(self.kept))
        return torch.einsum(f"y{seen}z->y{kept}z", field) / count

    def spread(self, values: Tensor) -> Tensor:
        """``[graphs, *kept, channels]`` to what adds to ``[graphs, *axes, channels]``: on the diagonal, and zero beside it."""
        places = sorted(range(len(self.kept)), key=lambda place: self.kept[place])
        values = values.permute(0, *(1 + place for place in places), -1)
        sizes = [axis.size if place in self.kept else 1 for place, axis in enumerate(self.axes)]
        values = values.reshape(len(values), *sizes, -1)
        for place, first in enumerate(self.tied):
            if place != first:
                shape = [axis.size if k in (first, place) else 1 for k, axis in enumerate(self.axes)]
                diagonal = torch.eye(self.axes[first].size, dtype=values.dtype, device=values.device)
                values = values * diagonal.view(*shape, 1)
        return values


@lru_cache(maxsize=4096)
def views_of(axes: tuple[Axis, ...]) -> tuple[tuple[Key, View], ...]:
    """All views of a field, each with its key; fields that have one key can be mapped to one another over it."""
    return tuple(found for tied in _ties(axes) for kept in _closed(axes, tied) for found in _views(axes, tied, kept))


def _ties(axes: tuple[Axis, ...]) -> Iterator[tuple[int, ...]]:
    """Ways to run along pairs of axes of one index together; those of their parents too, where they have any."""
    pairs = [(i, j) for i, j in combinations(range(len(axes)), 2) if axes[i].index == axes[j].index]
    for chosen in _subsets(pairs):
        first = {j: i for i, j in chosen}
        tied = tuple(first.get(place, place) for place in range(len(axes)))
        if all({tied[p] for p in axes[i].parents} == {tied[p] for p in axes[j].parents} for i, j in chosen):
            yield tied


def _closed(axes: tuple[Axis, ...], tied: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Choices of axes that hold the parents of each."""
    for kept in _subsets(sorted(set(tied))):
        if all(tied[parent] in kept for axis in kept for parent in axes[axis].parents):
            yield kept


def _views(axes: tuple[Axis, ...], tied: tuple[int, ...], kept: tuple[int, ...]) -> Iterator[tuple[Key, View]]:
    """Some axes in each order that gives them the same, least key: two where a matrix may also be transposed."""

    def key(order: tuple[int, ...]) -> Key:
        places = {axis: place for place, axis in enumerate(order)}
        return tuple((axes[a].index, tuple(sorted(places[tied[parent]] for parent in axes[a].parents))) for a in order)

    least = min(key(order) for order in permutations(kept))
    yield from ((least, View(axes, tied, order)) for order in permutations(kept) if key(order) == least)


def _subsets(items: Sequence[Item]) -> Iterator[tuple[Item, ...]]:
    return chain.from_iterable(combinations(items, size) for size in range(len(items) + 1))


class EquivariantLinear(nn.Module):
    """Every linear map between fields that commutes with the permutations, with a matrix between channels for each.

    A field is seen over each choice of its indices, as its mean over the others, and is spread from there over every field that
    has these indices: a weight matrix ``[targets, sources]`` goes to itself as it is, by its means over rows, over columns and
    over both; to a bias of its targets by its means over sources; to the weights of the next layer by the same means, and to
    any field by its mean over all. Of a matrix whose rows and columns permute together the transposed matrix and the diagonal
    are seen too.

    For a chain of layers these are the maps of the HNP layers of Zhou et al., "Permutation Equivariant Neural Functionals",
    NeurIPS 2023, with means as there, and of Navon et al., "Equivariant Architectures for Learning in Deep Weight Spaces", ICML
    2023; with indices that several layers share those of Zhou et al., "Universal Neural Functionals", NeurIPS 2024.

    Args:
        fields: Axes of each field.
        in_channels: Channels that enter of each field.
        out_channels: Channels that leave.
    """

    def __init__(self, fields: Sequence[tuple[Axis, ...]], in_channels: int, out_channels: int):
        super().__init__()
        self.num_fields = len(fields)
        self.sources: dict[Key, list[tuple[int, View]]] = {}
        self.targets: dict[Key, list[tuple[int, View]]] = {}
        for number, axes in enumerate(fields):
            ends: dict[tuple[Key, frozenset[int], tuple[int, ...]], View] = {}
            for key, view in views_of(axes):
                self.sources.setdefault(key, []).append((number, view))
                # a field is seen transposed or as it is, which is enough: it need not be spread in both orders as well
                ends.setdefault((key, frozenset(view.kept), view.tied), view)
            for (key, _, _), view in ends.items():
                self.targets.setdefault(key, []).append((number, view))
        self.mixes = nn.ModuleList(
            nn.Linear(len(self.sources[key]) * in_channels, len(self.targets[key]) * out_channels, bias=not key)
            for key in self.sources
        )

    def forward(self, fields: Sequence[Tensor]) -> list[Tensor]:
        """Fields ``[graphs, *axes, in channels]`` to ``[graphs, *axes, out channels]``."""
        out: list[list[Tensor]] = [[] for _ in range(self.num_fields)]
        for key, mix in zip(self.sources, self.mixes, strict=True):
            seen = torch.cat([view.pool(fields[number]) for number, view in self.sources[key]], -1)
            targets = self.targets[key]
            for (number, view), part in zip(targets, mix(seen).chunk(len(targets), -1), strict=True):
                out[number].append(view.spread(part))
        return [sum(parts[1:], start=parts[0]) for parts in out]
