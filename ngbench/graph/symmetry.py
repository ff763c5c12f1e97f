"""What can be done to a neural graph's nodes without a change of the network's function: draw, apply, invert, compose.

The group of a topology always contains the permutations of the hidden units, each index by itself. A caller switches on

* ``scaling``: a positive factor for each unit with an activation that is positively homogeneous (none, relu, leaky_relu,
  relu squared, …): what enters the unit is multiplied by it, what leaves is divided by its power. It passes through residual
  streams, products (the linear half of a gated unit), maxima, pooling, the values and outputs of an attention whose heads have
  keys and values of their own, and inversely through its queries and keys. Units behind the affine part of a norm have one;
  units before a batch norm as well, which in evaluation is affine: the running mean takes the factor, the weight its inverse,
  the running variance stays.
* ``signs``: a factor of 1 or -1 for each unit with an odd activation (none, tanh, erf, sine, …), or an even one, where only
  what enters changes. It passes also through batch, instance and RMS norm, and through the cells of an LSTM, GRU or tanh RNN.
* ``phases``: for each sine or cosine with a bias of its own, a shift of the bias by multiples of half its period. An odd
  multiple changes the sign of what the unit gives, as far as the network lets it; even multiples always belong.

Units that have to agree share the factor (`ngbench.graph.rescaling` says how that is found): all parts of a residual stream,
both layers of a tied weight. What a topology does not settle is left out, so that every element leaves the function as it is.

Not in the group, though the function stays the same: matrices that mix units (the general linear group on the queries and
keys of a head, on its values, or on consecutive linear layers, of which diagonal matrices and permutations alone are here);
constants added to what a softmax reads, or moved between a bias and the next layer of linear units; a factor before a norm of
the inputs' own statistics, or on a running variance, which its epsilon keeps from being exact; one factor common to all units
of a layer, where each unit cannot have its own; the exchange of whole layers with parameters of their own, such as experts in a
list of modules or the members of an ensemble (experts in one stacked parameter do exchange, with the router's rows); units that
are told apart by their number, such as those that an argmax names to a table; and what holds only for some values of the
weights, such as dead units.

An element is a relabelling followed by factors and shifts. Groups of factors and shifts are semidirect factors, which the
permutations act on: a unit's factors R and permutations S_n make the wreath product R ≀ S_n.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ngbench.errors import GraphError
from ngbench.graph import rescaling
from ngbench.graph.homogeneity import Response
from ngbench.graph.layout import entries_of, in_order, slots_of, split_rows
from ngbench.graph.neural_graph import NeuralGraph
from ngbench.graph.rescaling import UnitFactor
from ngbench.graph.topology import EdgeBlock, Index, Slot, Topology

_SIGMA = 0.5
"""Standard deviation of the logarithm of a sampled scale."""

_STREAMS = {"scale": 1 << 40, "sign": 2 << 40, "shift": 3 << 40, "turn": 4 << 40}
"""Where the counters of a kind of draw start; permutations have those below, so that no kind changes what another draws."""


@dataclass(frozen=True)
class SymmetryGroup:
    """A symmetry group of a topology, built of symmetric groups and the factors of units by products and wreath products.

    Printed, ``S_n`` are permutations, ``ℝ₊`` scales, ``{±1}`` signs, ``ℝ*`` a scale with a sign, ``ℤ`` the shifts of a
    periodic unit and ``D_∞``, the infinite dihedral group, its shifts with its sign.

    Args:
        topology: The topology that it acts on.
        indices: The indices that move, each by itself for all entries of its parents.
        factors: Scales, signs and shifts by half periods, each one for each node of its group.
        turning: Node groups whose biases are shifted by whole periods.
    """

    topology: Topology
    indices: tuple[Index, ...]
    factors: tuple[UnitFactor, ...] = ()
    turning: tuple[str, ...] = ()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of entries of each index that moves."""
        return tuple(index.size for index in self.indices)

    @property
    def log_order(self) -> float:
        """Natural logarithm of the number of elements; infinite with scales or shifts."""
        if self.turning or any(factor.kind != "sign" for factor in self.factors):
            return math.inf
        num_signs = sum(self.topology.group(factor.group).size for factor in self.factors)
        return sum(self._num_copies(index) * math.lgamma(index.size + 1) for index in self.indices) + num_signs * math.log(2)

    def _num_copies(self, index: Index) -> int:
        return math.prod(self._sizes[name] for name in index.parents)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return {index.name: index.size for g in self.topology.groups for index in self.topology.indices_of(g.name)}

    def identity(self) -> GroupElement:
        """The element that moves nothing."""
        return GroupElement(self.topology, {})

    def sample(self, seed: int) -> GroupElement:
        """A random element; the same for a seed, to the last digits of a scale on every machine.

        Permutations and signs are uniform; the logarithms of scales are normal with a standard deviation of 0.5; shifts are
        -2, -1, 0 or 1 half periods, or -2 or 0 where odd ones are excluded.

        Args:
            seed: An integer from 0 to 2**64 - 1.
        """
        drawn = self._draw(np.array([seed], dtype=np.uint64))
        parts = [{name: values[0] for name, values in part.items()} for part in (drawn.permutations, drawn.scales, drawn.shifts)]
        return GroupElement(self.topology, parts[0], scales=parts[1], shifts=parts[2])

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
        moves = self._draw(np.asarray(seeds, dtype=np.uint64))
        moved = moves.act(split_rows(self.topology, rows))
        return torch.cat([values.flatten(1) for values in moved], dim=1) if moved else rows.clone()

    def permutations(self, seeds: np.ndarray) -> dict[str, Tensor]:
        """How `scramble` permutes the nodes of each group that moves, int64 ``[seeds, nodes]``.

        Args:
            seeds: Integers from 0 to 2**64 - 1, uint64 ``[seeds]``.
        """
        drawn: dict[str, np.ndarray] = {}
        counter = 0
        for index in self.indices:
            shape = (*(self._sizes[name] for name in index.parents), index.size)
            keys = _keys(seeds, counter, math.prod(shape)).reshape(len(seeds), *shape)
            drawn[index.name] = np.argsort(keys, axis=-1, kind="stable")
            counter += math.prod(shape)
        found = {name: self._of_nodes(name, drawn, len(seeds)) for name in self.moving_groups}
        return {name: torch.from_numpy(nodes) for name, nodes in found.items()}

    def _draw(self, seeds: np.ndarray) -> _Moves:
        """One element per seed."""
        return _Moves(self.topology, self.permutations(seeds), *self._draw_factors(seeds))

    def _draw_factors(self, seeds: np.ndarray) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """For each node group that has any the scales and the shifts per seed, ``[seeds, nodes]``."""
        scales: dict[str, np.ndarray] = {}
        shifts: dict[str, np.ndarray] = {}
        starts = dict(_STREAMS)
        for factor in self.factors:
            size = self.topology.group(factor.group).size
            own = _of_kind(factor.kind, seeds, starts[factor.kind], size)
            starts[factor.kind] += 2 * size
            for group, power in factor.exponents:
                scales[group] = scales.get(group, 1.0) * own ** float(power)
            for group in factor.shifted:
                shifts[group] = shifts.get(group, 0) ^ (own < 0)
        for group in self.turning:
            size = self.topology.group(group).size
            shifts[group] = shifts.get(group, 0) - 2 * (_keys(seeds, starts["turn"], size) >> np.uint64(63)).astype(np.int64)
            starts["turn"] += size
        found = [{name: torch.from_numpy(np.asarray(values)) for name, values in part.items()} for part in (scales, shifts)]
        return found[0], found[1]

    @cached_property
    def moving_groups(self) -> tuple[str, ...]:
        """Names of the node groups that move."""
        moving = {index.name for index in self.indices}
        return tuple(g.name for g in self.topology.groups if any(i.name in moving for i in self.topology.indices_of(g.name)))

    def element(self, moves: Mapping[str, np.ndarray]) -> GroupElement:
        """The element that permutes indices so.

        Args:
            moves: For each index that moves an int64 array ``[*sizes of its parents, size]``, as `moves` gives it: entry i of an
                acted index is entry ``moves[..., i]`` of the original, in that entry of the parents; indices left out stay.

        Raises:
            GraphError: A name is no index that moves, or its array no permutation.
        """
        known = {index.name: index for index in self.indices}
        for name, move in moves.items():
            if name not in known:
                raise GraphError(f"index {name!r} does not move; expected one of {', '.join(known) or 'none'}")
            shape = (*(self._sizes[parent] for parent in known[name].parents), known[name].size)
            if move.shape != shape or move.dtype.kind not in "iu" or not (np.sort(move, axis=-1) == np.arange(shape[-1])).all():
                raise GraphError(
                    f"move of index {name!r} has shape {move.shape} and type {move.dtype}, and entries from {move.min()} to "
                    f"{move.max()}; expected permutations of {shape[-1]} entries of shape {shape}"
                )
        batched = {name: move[None].astype(np.int64) for name, move in moves.items()}
        return GroupElement(
            self.topology, {name: torch.from_numpy(self._of_nodes(name, batched, 1)[0]) for name in self.moving_groups}
        )

    def moves(self, permutations: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """How each index moves where the nodes of groups do: the inverse of `element`.

        Args:
            permutations: For each node group an int64 array ``[nodes]``; groups left out stay.

        Raises:
            GraphError: No element of the group permutes the nodes so.
        """
        found: dict[str, np.ndarray] = {}
        nodes = {g.name: np.asarray(permutations.get(g.name, np.arange(g.size))) for g in self.topology.groups}
        for g in self.topology.groups:
            if nodes[g.name].shape != (g.size,) or nodes[g.name].dtype.kind not in "iu":
                got = f"{nodes[g.name].dtype} {list(nodes[g.name].shape)}"
                raise GraphError(f"the permutation of group {g.name!r} is {got}; expected integers [{g.size}]")
            if not (np.sort(nodes[g.name]) == np.arange(g.size)).all():
                raise GraphError(f"what is said of group {g.name!r} is no permutation of its {g.size} nodes; expected each once")
        for index in self.indices:
            found[index.name] = self._move_of(index, nodes)
        batched = {name: move[None] for name, move in found.items()}
        wrong = [name for name, given in nodes.items() if not (self._of_nodes(name, batched, 1)[0] == given).all()]
        if wrong:
            raise GraphError(
                f"the nodes of group {wrong[0]!r} are permuted as no symmetry does; expected groups that share an index to move "
                "alike, units to stay in their heads, inputs and outputs to stay"
            )
        return found

    def _move_of(self, index: Index, nodes: Mapping[str, np.ndarray]) -> np.ndarray:
        """What the first group of an index says of it, ``[*sizes of its parents, size]``."""
        name = next(name for name in nodes if index in self.topology.indices_of(name))
        own = self.topology.indices_of(name)
        names = [other.name for other in own]
        acted = np.unravel_index(nodes[name], [other.size for other in own])[names.index(index.name)]
        kept = (*index.parents, index.name)
        table = acted.reshape([other.size for other in own])
        order = [names.index(axis) for axis in kept]
        rest = [axis for axis in range(len(own)) if axis not in order]
        return table.transpose(*order, *rest).reshape(*(own[axis].size for axis in order), -1)[..., 0]

    def _of_nodes(self, group_name: str, drawn: Mapping[str, np.ndarray], num_seeds: int) -> np.ndarray:
        """The permutation of a group's nodes that those of its indices make, ``[seeds, nodes]``."""
        indices = self.topology.indices_of(group_name)
        sizes = [index.size for index in indices]
        places = np.indices(sizes)
        coordinates = dict(zip([index.name for index in indices], places, strict=True))
        node = np.zeros((num_seeds, *sizes), dtype=np.int64)
        # One index may stand twice, as in a matrix of units by the same units.
        for index, place in zip(indices, places, strict=True):
            if index.name in drawn:
                place = drawn[index.name][:, *(coordinates[name] for name in index.parents), place]
            node = node * index.size + place
        return node.reshape(num_seeds, math.prod(sizes))

    def __str__(self) -> str:
        names = {index.name for index in self.indices}
        roots = [index for index in self.indices if not names & set(index.parents)]
        places = self._symbols()
        apart = places.pop(None, [])
        whole = " × ".join([*apart, *(self._text(index, places) for index in roots)])
        entangled = places.get("", [])
        return f"({' × '.join(entangled)}) ⋊ ({whole or 1})" if entangled else whole or "1"

    def _text(self, index: Index, symbols: Mapping[str | None, list[str]]) -> str:
        """An index with its units' factors and those indices that move in each of its entries: ``(S_4 × S_8) ≀ S_3``."""
        inner = [other for other in self.indices if other.parents and self._deepest(other) == index.name]
        own = f"S_{index.size}"
        fixed = [name for name in index.parents if name not in {other.name for other in self.indices}]
        if fixed:
            own += f"^{math.prod(self._sizes[name] for name in fixed)}"
        texts = [*symbols.get(index.name, []), *(self._text(other, symbols) for other in inner)]
        if not texts:
            return own
        joined = texts[0] if len(texts) == 1 else f"({' × '.join(texts)})"
        whole = f"{joined} ≀ {own}"
        return f"({whole})"

    def _symbols(self) -> dict[str | None, list[str]]:
        """The factors of one entry of each index, by its name; under None those of units that stay, under "" any others."""
        kinds: dict[tuple[str | None, int], Counter[str]] = {}
        for factor in self.factors:
            if factor.kind != "shift":
                kinds.setdefault(self._place(factor.group), Counter())[factor.kind] += 1
        for group in self.turning:
            signed = any(factor.kind == "sign" and group in dict(factor.exponents) for factor in self.factors)
            place = kinds.setdefault(self._place(group), Counter())
            place["dihedral" if signed and place["sign"] else "shift"] += 1
            place["sign"] -= bool(signed and place["sign"])
        found: dict[str | None, list[str]] = {}
        for (name, copies), counts in kinds.items():
            both = min(counts["scale"], counts["sign"])
            numbers = {"ℝ*": both, "ℝ₊": counts["scale"] - both, "{±1}": counts["sign"] - both}
            numbers |= {"ℤ": counts["shift"], "D_∞": counts["dihedral"]}
            powers = {symbol: number * copies for symbol, number in numbers.items() if number}
            texts = [symbol if power == 1 else f"{symbol}^{power}" for symbol, power in powers.items()]
            found.setdefault(name, []).extend(texts)
        return found

    def _place(self, group: str) -> tuple[str | None, int]:
        """The index whose entries, with those of its parents, a group's nodes are, and the number of nodes for each entry."""
        names = {index.name for index in self.indices}
        moving = [index for index in self.topology.indices_of(group) if index.name in names]
        size = self.topology.group(group).size
        if not moving:
            return None, size
        deepest = max(moving, key=lambda index: len(index.parents))
        others = {index.name for index in moving} - {deepest.name}
        within = {index.name for index in self.topology.indices_of(group)}
        if others <= set(deepest.parents) <= within:
            return deepest.name, size // (self._num_copies(deepest) * deepest.size)
        return "", size

    def _deepest(self, index: Index) -> str | None:
        moving = [other for other in self.indices if other.name in index.parents]
        return max(moving, key=lambda other: len(other.parents)).name if moving else None


@dataclass(frozen=True, eq=False)
class GroupElement:
    """One element of a symmetry group: node i of an acted group is node ``permutations[group][i]`` of the original, rescaled.

    What enters node i is multiplied by ``scales[group][i]``, and then its bias raised by ``shifts[group][i]`` half periods
    of its activation; what leaves it makes good for both.

    Args:
        topology: The topology that it acts on.
        permutations: For each node group that moves an int64 tensor ``[nodes]``; groups left out stay.
        scales: For each node group with factors a float64 tensor ``[nodes]`` of numbers that are not zero.
        shifts: For each node group with shifts an int64 tensor ``[nodes]``; its scales must be 1 or -1.
    """

    topology: Topology
    permutations: Mapping[str, Tensor]
    scales: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True)
    shifts: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True)

    def act(self, graph: NeuralGraph) -> NeuralGraph:
        """The equivalent graph; the one given is left as it is.

        Raises:
            GraphError: The graph has another topology.
        """
        if graph.topology != self.topology:
            mine, other = self.topology.digest[:12], graph.topology.digest[:12]
            raise GraphError(f"a group element of topology {mine} cannot act on a graph of {other}; expected one topology")
        return NeuralGraph(self.topology, self._act_slots(graph.slot_values), graph.buffers)

    def act_state_dict(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of the equivalent network; the one given is left as it is.

        Raises:
            GraphError: The entries are not those of the topology, by name or shape.
        """
        moved = entries_of(self.topology, self._act_slots(slots_of(self.topology, state_dict)))
        return in_order(self.topology, moved | {path: state_dict[path] for path in self.topology.buffers if path in state_dict})

    def _act_slots(self, slot_values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        parts = [{name: own[None] for name, own in part.items()} for part in (self.permutations, self.scales, self.shifts)]
        moved = _Moves(self.topology, *parts).act([values[None] for values in slot_values])
        return tuple(values[0] for values in moved)

    def inverse(self) -> GroupElement:
        """The element that undoes this one: exactly for permutations, signs and shifts, up to rounding for scales."""
        permutations = {name: torch.argsort(permutation) for name, permutation in self.permutations.items()}
        back = GroupElement(self.topology, permutations)
        scales = {name: 1 / scale[back._of(name)] for name, scale in self.scales.items()}
        shifts = {name: -(shift * self._signs_of(name))[back._of(name)] for name, shift in self.shifts.items()}
        return GroupElement(self.topology, permutations, scales=scales, shifts=shifts)

    def compose(self, first: GroupElement) -> GroupElement:
        """The element that acts as `first` and then as this one.

        Raises:
            GraphError: The two belong to different topologies.
        """
        if first.topology != self.topology:
            raise GraphError("elements of different topologies do not compose; expected one topology")
        permutations = {name: first._of(name)[self._of(name)] for name in {**first.permutations, **self.permutations}}
        scales = {
            name: self._scales_of(name) * first._scales_of(name)[self._of(name)] for name in {**first.scales, **self.scales}
        }
        shifts = {
            name: self._shifts_of(name) + self._signs_of(name) * first._shifts_of(name)[self._of(name)]
            for name in {**first.shifts, **self.shifts}
        }
        return GroupElement(self.topology, permutations, scales=scales, shifts=shifts)

    def _of(self, name: str) -> Tensor:
        identity = torch.arange(self.topology.group(name).size)
        return self.permutations.get(name, identity)

    def _scales_of(self, name: str) -> Tensor:
        return self.scales.get(name, torch.ones(self.topology.group(name).size, dtype=torch.float64))

    def _shifts_of(self, name: str) -> Tensor:
        return self.shifts.get(name, torch.zeros(self.topology.group(name).size, dtype=torch.int64))

    def _signs_of(self, name: str) -> Tensor:
        return self._scales_of(name).sign().to(torch.int64)


def group(topology: Topology, *, scaling: bool = False, signs: bool = False, phases: bool = False) -> SymmetryGroup:
    """The symmetry of a topology: every index that is not fixed moves, in all groups that have it alike.

    Args:
        topology: The topology.
        scaling: Whether units are also rescaled by positive numbers.
        signs: Whether units also change sign.
        phases: Whether periodic units are also shifted by half periods.
    """
    indices = dict.fromkeys(index for g in topology.groups for index in topology.indices_of(g.name))
    moving = [index for index in indices if not index.fixed and index.size > 1]
    factors = rescaling.unit_factors(topology, scaling=scaling, signs=signs, phases=phases)
    return SymmetryGroup(topology, tuple(moving), factors, rescaling.turning(topology) if phases else ())


@dataclass(frozen=True, eq=False)
class _Moves:
    """One element for each graph of a stack, or one for all: permutations, scales and shifts ``[graphs, nodes]``."""

    topology: Topology
    permutations: Mapping[str, Tensor]
    scales: Mapping[str, Tensor]
    shifts: Mapping[str, Tensor]

    def act(self, slot_values: Sequence[Tensor]) -> list[Tensor]:
        """New slot values ``[graphs, *slot shape]``."""
        pairs = zip(self.topology.slots, slot_values, strict=True)
        if not (self.scales or self.shifts):
            return [_permute(self.topology, slot, values, self.permutations) for slot, values in pairs]
        return [self._rescale(slot, _permute(self.topology, slot, values, self.permutations)) for slot, values in pairs]

    @cached_property
    def _responses(self) -> dict[str, Response]:
        return rescaling.responses(self.topology)

    def _rescale(self, slot: Slot, values: Tensor) -> Tensor:
        """Slot values, already permuted, with the factors and shifts of their nodes."""
        if slot.feature is not None:
            return self._rescale_feature(slot, values)
        block = self.topology.edge_block(slot.owner)
        before, after = self.scales.get(block.target), self._after(block.source)
        if before is not None:
            values = values * before.to(values)[:, :, None, None]
        if after is not None:
            sources = torch.from_numpy(self.topology.block_sources(block.name).copy())
            own = after[:, None, :] if block.pattern == "dense" else after[:, sources]
            values = values / own.to(values)[..., None]
        return values

    def _rescale_feature(self, slot: Slot, values: Tensor) -> Tensor:
        name = slot.feature
        if values.shape[1:] != (self.topology.group(slot.owner).size,) or name == "running_var":
            return values
        if name == "running_mean":
            source = rescaling.norm_source(self.topology, slot.owner)
            factors = None if source is None else self._after(source)
        else:
            factors = self.scales.get(slot.owner)
        if factors is not None:
            values = values * factors.to(values)
        half_period = self._responses[slot.owner].half_period
        if name == "bias" and slot.owner in self.shifts and half_period is not None:
            values = values + (self.shifts[slot.owner].double() * half_period).to(values)
        return values

    def _after(self, name: str) -> Tensor | None:
        """The factors on what a group gives to others, ``[graphs, nodes]``."""
        own, scales, shifts = self._responses[name], self.scales.get(name), self.shifts.get(name)
        factors = None
        if scales is not None:
            # A group that follows in no known way is treated as if it followed its factor: that is no symmetry.
            signs = scales.sign() if own.parity != 0 else torch.ones_like(scales)
            factors = scales.abs() ** float(1 if own.degree is None else own.degree) * signs
        if shifts is not None and own.flip == 1:
            factors = (1.0 if factors is None else factors) * (1 - 2 * (shifts % 2)).to(torch.float64)
        return factors


def _permute(topology: Topology, slot: Slot, values: Tensor, permutations: Mapping[str, Tensor]) -> Tensor:
    """Slot values ``[graphs, *slot shape]`` gathered along their node axes; a permutation has shape ``[graphs, nodes]``."""
    if slot.feature is not None:
        own = permutations.get(slot.owner)
        # A number that all nodes share stays where it is.
        return _gather(values, 1, own if own is not None and own.shape[1] == values.shape[1] else None)
    block = topology.edge_block(slot.owner)
    values = _gather(values, 1, permutations.get(block.target))
    if block.pattern == "diagonal":
        return values
    if block.pattern == "dense":
        return _gather(values, 2, permutations.get(block.source))
    return _gather_within(topology, block, values, permutations.get(block.source))


def _gather_within(topology: Topology, block: EdgeBlock, values: Tensor, permutations: Tensor | None) -> Tensor:
    """Edge values of a grouped block gathered along their sources, which stand by their place among those of one target."""
    if permutations is None:
        return values
    sources = torch.from_numpy(topology.block_sources(block.name).copy())
    place = torch.empty(topology.group(block.source).size, dtype=torch.int64)
    place[sources] = torch.arange(sources.shape[1]).expand_as(sources)
    moved = place[permutations[:, sources]].to(values.device)
    return values.gather(2, moved[..., None].expand(len(values), *values.shape[1:]))


def _gather(values: Tensor, axis: int, permutations: Tensor | None) -> Tensor:
    if permutations is None:
        return values.clone()
    permutations = permutations.to(values.device)
    if len(permutations) == 1:
        return values.index_select(axis, permutations[0])
    shape = [1] * values.dim()
    shape[0], shape[axis] = permutations.shape
    return values.gather(axis, permutations.view(shape).expand_as(values))


def _of_kind(kind: str, seeds: np.ndarray, start: int, size: int) -> np.ndarray:
    """Random scales, or signs, float64 ``[seeds, size]``, from two counters each."""
    keys = _keys(seeds, start, 2 * size)
    if kind != "scale":
        return 1.0 - 2.0 * (keys[:, :size] >> np.uint64(63))
    # Box and Muller, Annals of Mathematical Statistics 1958.
    first, second = np.split(((keys >> np.uint64(11)) + 0.5) * 2.0**-53, 2, axis=1)
    return np.exp(_SIGMA * np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second))


def _keys(seeds: np.ndarray, start: int, size: int) -> np.ndarray:
    """64 random bits for each seed and each of `size` counters, uint64 ``[seeds, size]``."""
    return _splitmix64(_splitmix64(seeds)[:, None] + np.arange(start, start + size, dtype=np.uint64))


def _splitmix64(x: np.ndarray) -> np.ndarray:
    """A 64-bit mixing function with no state (Steele, Lea and Flood, OOPSLA 2014), so that a draw needs no generator."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
