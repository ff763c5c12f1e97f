"""Which nodes of one network correspond to which of another: the element of the symmetry group that gains most."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ngbench.errors import GraphError
from ngbench.graph import Index, Topology, symmetry
from ngbench.graph.symmetry import GroupElement, SymmetryGroup

_MAX_SWEEPS = 100
"""Times that indices which gain only together are assigned in turn."""


def match(topology: Topology, first: Tensor | np.ndarray, second: Tensor | np.ndarray) -> GroupElement:
    """The element that brings the second network's nodes to the first's by their embeddings.

    The gain of a pair of nodes is the inner product of their embeddings, after each node group, both networks together, was
    centred and divided by its root mean square, so that groups that share an index weigh alike. Within a group the same
    permutation makes the inner products largest and the squared distances least.

    Args:
        topology: Of both networks.
        first: Embeddings of the first network's nodes in canonical order, ``[nodes, channels]``.
        second: Those of the second.

    Raises:
        GraphError: Embeddings have other shapes, or are not finite.
    """
    embedded = [np.asarray(nodes, dtype=np.float64) for nodes in (first, second)]
    for nodes in embedded:
        if nodes.ndim != 2 or nodes.shape != embedded[0].shape or len(nodes) != topology.num_nodes:
            shapes = " and ".join(str(list(part.shape)) for part in embedded)
            raise GraphError(f"node embeddings have shapes {shapes}; expected [{topology.num_nodes}, channels] twice")
        if not np.isfinite(nodes).all():
            raise GraphError(f"the embedding of node {int(np.isfinite(nodes).all(1).argmin())} is not finite; expected numbers")
    gains = {}
    for name in group_of(topology).moving_groups:
        own = slice(topology.node_ptr[name], topology.node_ptr[name] + topology.group(name).size)
        gains[name] = _inner_products(embedded[0][own], embedded[1][own])
    return assign(topology, gains)


def _inner_products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Of nodes as they are once both networks' were centred and scaled, ``[nodes, nodes]``."""
    centre = (first.mean(0) + second.mean(0)) / 2
    first, second = first - centre, second - centre
    square = (np.square(first).mean() + np.square(second).mean()) / 2
    return first @ second.T / square if square > 0 else np.zeros((len(first), len(second)))


def assign(topology: Topology, gains: Mapping[str, np.ndarray]) -> GroupElement:
    """The element g of the permutation group that makes the sum of ``gains[group][i, g(i)]`` over groups and nodes i largest.

    Node i of the acted second network is node ``g(i) = permutations[group][i]`` of it, so ``gains[group][i, j]`` is what it is
    worth to bring node j of the second network to node i of the first. Groups that share an index, such as the layers of a
    residual stream, add their gains. Indices within others, such as the units of a head, are solved inside out: each pair of
    heads is worth what the best assignment of their units gains.

    The result is the best there is, but for groups that run over several indices of which none lies within the other (query
    units of a grouped attention: heads of a key, and units): those are assigned in turn until nothing is gained, a local
    maximum. Where a group runs over one index twice, only the gains of its nodes (u, u) count.

    Args:
        topology: Of both networks.
        gains: For each node group a float array ``[nodes, nodes]``; groups left out gain nothing.

    Raises:
        GraphError: An array has another shape, is not finite, or belongs to no group.
    """
    group = group_of(topology)
    tables = []
    for name, gain in gains.items():
        size = topology.group(name).size
        if np.shape(gain) != (size, size) or not np.isfinite(gain).all():
            raise GraphError(f"gains of group {name!r} have shape {np.shape(gain)}; expected finite numbers ({size}, {size})")
        if name in group.moving_groups:
            tables.append(_Table.of(topology.indices_of(name), np.asarray(gain, dtype=np.float64)))
    indices = {index.name: index for g in topology.groups for index in topology.indices_of(g.name)}
    moving = {index.name for index in group.indices}
    given = {name: _identity(index, indices) for name, index in indices.items() if name not in moving}
    return group.element(_Assignment(indices).solve(tables, given).moves)


@lru_cache(maxsize=1024)
def group_of(topology: Topology) -> SymmetryGroup:
    """The permutations of a topology, kept from call to call."""
    return symmetry.group(topology)


@dataclass(frozen=True, eq=False)
class _Table:
    """What pairs of nodes gain, ``[*sizes, *sizes]``: first by the first network's coordinates, then by the second's.

    Args:
        axes: Names of the indices whose entries the coordinates are, each once.
        gains: As above.
    """

    axes: tuple[str, ...]
    gains: np.ndarray

    @classmethod
    def of(cls, indices: Sequence[Index], gains: np.ndarray) -> _Table:
        """The table of a node group that runs over some indices, from its gains ``[nodes, nodes]``."""
        names, sizes = [index.name for index in indices], [index.size for index in indices]
        axes = tuple(dict.fromkeys(names))
        firsts = [axes.index(name) for name in names]
        seconds = [len(axes) + axis for axis in firsts]
        out = [*range(2 * len(axes))]
        return cls(axes, np.einsum(gains.reshape(*sizes, *sizes), [*firsts, *seconds], out))

    def bind(self, name: str, first: int, second: int) -> _Table:
        """The gains where an index has one entry in the first network and one in the second."""
        if name not in self.axes:
            return self
        axis = self.axes.index(name)
        gains = self.gains.take(second, axis=len(self.axes) + axis).take(first, axis=axis)
        return _Table(self.axes[:axis] + self.axes[axis + 1 :], gains)

    def follow(self, moves: Mapping[str, np.ndarray], parents: Mapping[str, Sequence[str]]) -> _Table:
        """The gains summed over indices that move in a given way, ``[*sizes of its parents, size]`` each."""
        followed = [axis for axis, name in enumerate(self.axes) if name in moves]
        if not followed:
            return self
        kept = [axis for axis in range(len(self.axes)) if axis not in followed]
        order = [*followed, *(len(self.axes) + axis for axis in followed), *kept, *(len(self.axes) + axis for axis in kept)]
        places = dict(zip([self.axes[a] for a in followed], np.indices([self.gains.shape[a] for a in followed]), strict=True))
        firsts = tuple(place.ravel() for place in places.values())
        seconds = [moves[name][(*(places[p] for p in parents[name]), place)].ravel() for name, place in places.items()]
        gains = self.gains.transpose(order)[(*firsts, *seconds)].sum(0)
        return _Table(tuple(self.axes[axis] for axis in kept), gains)


@dataclass(frozen=True)
class _Solution:
    """What is gained, and how each index moves, ``[*sizes of its parents that are not bound, size]``."""

    gain: float
    moves: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Assignment:
    """Assigns the entries of indices whose gains stand in tables.

    Args:
        indices: By name.
    """

    indices: Mapping[str, Index]

    def solve(self, tables: Sequence[_Table], given: Mapping[str, np.ndarray]) -> _Solution:
        """The best moves of all indices in the tables.

        Args:
            tables: Gains over indices; what is not in their axes is bound already.
            given: Moves of indices that are settled.
        """
        parents = self._parents(tables)
        free = [name for name in self.indices if name in parents and name not in given]
        tables = [table.follow(_settled(table, given, parents), parents) for table in tables]
        movers = [name for name in free if not set(parents[name]) & set(free)]
        trees = {mover: {mover, *(name for name in free if mover in parents[name])} for mover in movers}
        gain = float(sum(table.gains for table in tables if not table.axes))
        moves: dict[str, np.ndarray] = {}
        for part, together in _components([table for table in tables if table.axes], trees):
            own = {mover: trees[mover] for mover in together}
            found = self._in_turn(part, given, own) if len(own) > 1 else self._tree(part, given, *own)
            gain, moves = gain + found.gain, moves | found.moves
        return _Solution(gain, moves)

    def _parents(self, tables: Sequence[_Table]) -> dict[str, list[str]]:
        """Of each index in the axes of some tables the parents that are not bound."""
        names = {name for table in tables for name in table.axes}
        return {name: [parent for parent in self.indices[name].parents if parent in names] for name in names}

    def _in_turn(self, tables: Sequence[_Table], given: Mapping[str, np.ndarray], trees: Mapping[str, set[str]]) -> _Solution:
        """Indices that gain only together: each with what lies within it while the others stay, until nothing is gained."""
        parents = self._parents(tables)
        free = set().union(*trees.values())
        moves = {name: _identity(self.indices[name], self.indices, parents[name]) for name in free}
        for tree in trees.values():
            # what is gained by one alone is the better place to start from
            moves |= self.solve([table for table in tables if set(table.axes) & free <= tree], given).moves
        gain = -math.inf
        for _ in range(_MAX_SWEEPS):
            before = gain
            for tree in trees.values():
                found = self.solve(tables, {**given, **{name: move for name, move in moves.items() if name not in tree}})
                moves, gain = moves | found.moves, found.gain
            if gain <= before + 1e-12 * abs(gain):
                break
        return _Solution(gain, moves)

    def _tree(self, tables: Sequence[_Table], given: Mapping[str, np.ndarray], mover: str) -> _Solution:
        """One index with all that lies within it; where it lies within a settled one, for each entry of that by itself."""
        parents = self._parents(tables)
        if parents[mover]:
            outer = next(name for name in parents[mover] if not parents[name])
            found = [self._inside(tables, given, outer, pair) for pair in enumerate(given[outer].tolist())]
            return _Solution(sum(solution.gain for solution in found), _stacked(found, outer, parents))
        if all(table.axes == (mover,) for table in tables):
            gains = np.sum([table.gains for table in tables], axis=0)
            rows, columns = linear_sum_assignment(gains, maximize=True)
            return _Solution(float(gains[rows, columns].sum()), {mover: columns})
        size = self.indices[mover].size
        inner = [[self._inside(tables, given, mover, (i, j)) for j in range(size)] for i in range(size)]
        gains = np.array([[solution.gain for solution in row] for row in inner])
        rows, columns = linear_sum_assignment(gains, maximize=True)
        chosen = [inner[i][j] for i, j in zip(rows, columns, strict=True)]
        return _Solution(float(gains[rows, columns].sum()), {mover: columns, **_stacked(chosen, mover, parents)})

    def _inside(self, tables: Sequence[_Table], given: Mapping[str, np.ndarray], name: str, pair: tuple[int, int]) -> _Solution:
        """The solution within one entry of an index in the first network and one in the second."""
        parents = self._parents(tables)
        inner = {other: given[other] for other in parents if other in given and other != name}
        for other in inner:
            if name in parents[other]:
                inner[other] = inner[other].take(pair[0], axis=parents[other].index(name))
        return self.solve([table.bind(name, *pair) for table in tables], inner)


def _settled(table: _Table, given: Mapping[str, np.ndarray], parents: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """The given moves of those indices of a table within which no other of its indices is still to be moved."""
    needed = {parent for name in table.axes if name not in given for parent in parents[name]}
    return {name: given[name] for name in table.axes if name in given and name not in needed}


def _stacked(solutions: Sequence[_Solution], outer: str, parents: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """The moves within each entry of an outer index as one array for each index."""
    names = solutions[0].moves
    return {name: np.stack([solution.moves[name] for solution in solutions], axis=parents[name].index(outer)) for name in names}


def _components(tables: Sequence[_Table], trees: Mapping[str, set[str]]) -> Iterator[tuple[list[_Table], list[str]]]:
    """Tables that have free indices in common, directly or through others, with the roots of these."""
    left = list(tables)
    while left:
        names, part = set(left[0].axes), []
        roots: list[str] = []
        while True:
            new = [root for root, tree in trees.items() if root not in roots and tree & names]
            roots += new
            joined = [table for table in left if any(trees[root] & set(table.axes) for root in roots)]
            part, left = part + joined, [table for table in left if table not in joined]
            names |= {name for table in joined for name in table.axes}
            if not new:
                break
        yield part, roots


def _identity(index: Index, indices: Mapping[str, Index], parents: Sequence[str] | None = None) -> np.ndarray:
    """The move that leaves an index as it is, ``[*sizes of its parents, size]``."""
    sizes = [indices[name].size for name in (index.parents if parents is None else parents)]
    return np.broadcast_to(np.arange(index.size), (*sizes, index.size))
