"""The permutations of a neural graph's nodes that leave the network's function unchanged: draw, apply, invert, compose."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ngbench.errors import GraphError
from ngbench.graph.layout import entries_of, slots_of, split_rows
from ngbench.graph.neural_graph import NeuralGraph
from ngbench.graph.topology import ParameterView, Slot, Topology


@dataclass(frozen=True)
class SymmetryGroup:
    """The permutation group of a topology, a product of symmetric groups.

    Args:
        topology: The topology that it acts on.
        factors: For each symmetric group the names of the node groups that it permutes together.
    """

    topology: Topology
    factors: tuple[tuple[str, ...], ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of nodes that each factor permutes."""
        return tuple(self.topology.group(names[0]).size for names in self.factors)

    @property
    def log_order(self) -> float:
        """Natural logarithm of the number of elements."""
        return sum(math.lgamma(size + 1) for size in self.sizes)

    def identity(self) -> GroupElement:
        """The element that moves nothing."""
        return GroupElement(self.topology, {})

    def sample(self, seed: int) -> GroupElement:
        """A uniformly random element; the same on every machine for a seed.

        Args:
            seed: An integer from 0 to 2**64 - 1.
        """
        drawn = self._draw(np.array([seed], dtype=np.uint64))
        return GroupElement(self.topology, {name: permutations[0] for name, permutations in drawn.items()})

    def scramble(self, rows: Tensor, seeds: Sequence[int] | np.ndarray) -> Tensor:
        """Each network of a stack replaced by a random equivalent one: ``sample(seed).act`` for all at once.

        Args:
            rows: Canonical value rows ``[graphs, values]``.
            seeds: One seed for each graph.

        Returns:
            New rows ``[graphs, values]``.

        Raises:
            GraphError: Numbers of rows and seeds differ, or the rows have another length.
        """
        if len(seeds) != len(rows):
            raise GraphError(f"got {len(seeds)} seeds for {len(rows)} networks; expected one each")
        permutations = self._draw(np.asarray(seeds, dtype=np.uint64))
        slots = split_rows(self.topology, rows)
        pairs = zip(self.topology.slots, slots, strict=True)
        moved = [_permute(self.topology, slot, values, permutations) for slot, values in pairs]
        return torch.cat([values.flatten(1) for values in moved], dim=1) if moved else rows.clone()

    def _draw(self, seeds: np.ndarray) -> dict[str, Tensor]:
        """For each node group that moves, one permutation per seed, int64 ``[seeds, nodes]``."""
        drawn, counter = {}, 0
        for names, size in zip(self.factors, self.sizes, strict=True):
            keys = _splitmix64(_splitmix64(seeds)[:, None] + np.arange(counter, counter + size, dtype=np.uint64))
            permutations = torch.from_numpy(np.argsort(keys, axis=1, kind="stable"))
            drawn.update(dict.fromkeys(names, permutations))
            counter += size
        return drawn

    def __str__(self) -> str:
        return " × ".join(f"S_{size}" for size in self.sizes) or "1"


@dataclass(frozen=True, eq=False)
class GroupElement:
    """One element of a symmetry group: node i of an acted group is node ``permutations[group][i]`` of the original.

    Args:
        topology: The topology that it acts on.
        permutations: For each node group that moves an int64 tensor ``[nodes]``; groups left out stay.
    """

    topology: Topology
    permutations: Mapping[str, Tensor]

    def act(self, graph: NeuralGraph) -> NeuralGraph:
        """The equivalent graph; the one given is left as it is.

        Raises:
            GraphError: The graph has another topology.
        """
        if graph.topology != self.topology:
            mine, other = self.topology.digest[:12], graph.topology.digest[:12]
            raise GraphError(f"a group element of topology {mine} cannot act on a graph of {other}; expected one topology")
        return NeuralGraph(self.topology, self._act_slots(graph.slot_values))

    def act_state_dict(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of the equivalent network; the one given is left as it is.

        Raises:
            GraphError: The entries are not those of the topology, by name or shape.
        """
        return entries_of(self.topology, self._act_slots(slots_of(self.topology, state_dict)))

    def _act_slots(self, slot_values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        stacked = {name: permutation[None] for name, permutation in self.permutations.items()}
        return tuple(
            _permute(self.topology, slot, values[None], stacked)[0]
            for slot, values in zip(self.topology.slots, slot_values, strict=True)
        )

    def inverse(self) -> GroupElement:
        """The element that undoes this one."""
        return GroupElement(self.topology, {name: torch.argsort(permutation) for name, permutation in self.permutations.items()})

    def compose(self, first: GroupElement) -> GroupElement:
        """The element that acts as `first` and then as this one.

        Raises:
            GraphError: The two belong to different topologies.
        """
        if first.topology != self.topology:
            raise GraphError("elements of different topologies do not compose; expected one topology")
        names = {**first.permutations, **self.permutations}
        return GroupElement(self.topology, {name: first._of(name)[self._of(name)] for name in names})

    def _of(self, name: str) -> Tensor:
        identity = torch.arange(self.topology.group(name).size)
        return self.permutations.get(name, identity)


def group(topology: Topology) -> SymmetryGroup:
    """The permutation symmetry of a topology: hidden groups permute, those joined by a diagonal block or a tied parameter alike.

    Input and output groups, and whatever is joined with them, stay; so do groups that show one parameter in two layouts.
    """
    leader = {g.name: g.name for g in topology.groups}

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    def join(first: str, second: str) -> None:
        leader[find(second)] = find(first)

    still = {g.name for g in topology.groups if g.role in ("input", "output")}
    for block in topology.blocks:
        if block.pattern == "diagonal":
            join(block.source, block.target)
    shown: dict[Hashable, tuple[ParameterView, tuple[int, ...], tuple[str, ...]]] = {}
    for view, shape, names in _shown(topology):
        first_view, first_shape, first_names = shown.setdefault(view.region, (view, shape, names))
        if (first_view, first_shape) == (view, shape):
            for first, second in zip(first_names, names, strict=True):
                join(first, second)
        else:
            still.update(first_names, names)
    classes: dict[str, list[str]] = {}
    for g in topology.groups:
        classes.setdefault(find(g.name), []).append(g.name)
    fixed = {find(name) for name in still}
    return SymmetryGroup(topology, tuple(tuple(names) for key, names in classes.items() if key not in fixed))


def _shown(topology: Topology) -> Iterator[tuple[ParameterView, tuple[int, ...], tuple[str, ...]]]:
    """Every view of a parameter, tied ones too, with its canonical shape and the groups of its node axes."""
    for g in topology.groups:
        yield from ((feature.parameter, (g.size,), (g.name,)) for feature in g.features)
    for block in topology.blocks:
        if block.parameter is not None:
            yield block.parameter, topology.block_shape(block.name), (block.target, block.source)


def _permute(topology: Topology, slot: Slot, values: Tensor, permutations: Mapping[str, Tensor]) -> Tensor:
    """Slot values ``[graphs, *slot shape]`` gathered along their node axes; a permutation has shape ``[graphs, nodes]``."""
    if slot.feature is not None:
        return _gather(values, 1, permutations.get(slot.owner))
    block = topology.edge_block(slot.owner)
    values = _gather(values, 1, permutations.get(block.target))
    return values if block.pattern == "diagonal" else _gather(values, 2, permutations.get(block.source))


def _gather(values: Tensor, axis: int, permutations: Tensor | None) -> Tensor:
    if permutations is None:
        return values.clone()
    permutations = permutations.to(values.device)
    if len(permutations) == 1:
        return values.index_select(axis, permutations[0])
    shape = [1] * values.dim()
    shape[0], shape[axis] = permutations.shape
    return values.gather(axis, permutations.view(shape).expand_as(values))


def _splitmix64(x: np.ndarray) -> np.ndarray:
    """A 64-bit mixing function with no state (Steele, Lea and Flood, OOPSLA 2014), so that a draw needs no generator."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
