"""Which factors the units of a topology can be given without a change of the function: scales, signs and shifts of sines.

Each node group g has an unknown factor b on its units' sum, and with it, through its activation, a factor on what the units
give to others: b ** degree for a scale, b ** parity for a sign. Weights and biases absorb any pair of factors. What has no
parameter ties factors: an identity, a residual or a join those of its two ends, a product that of its result to the sum of
its arguments' (in logarithms), a parameter shown twice those of both layers; and whatever does not pass factors on, such as
an output or a softmax, ties them to one. All ties are linear equations, over the rationals for the logarithms of scales and
over the field of two elements for signs; their solutions are the group.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from ngbench.graph.homogeneity import RELU, TANH, Response, pooled_response
from ngbench.graph.topology import EdgeBlock, NodeGroup, ParameterView, Topology

Kind = Literal["scale", "sign", "shift"]

_WEIGHTED = (
    "linear",
    "conv",
    "conv_transpose",
    "embedding",
    "positional",
    "experts",
    "scale",
    "lstm",
    "gru",
    "rnn_tanh",
    "rnn_relu",
)
"""Operations in which an edge's value multiplies what its source gives."""

_NORMS = ("batch_norm", "cudnn_batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm", "fused_rms_norm")
_ODD_NORMS = ("batch_norm", "cudnn_batch_norm", "instance_norm", "rms_norm", "fused_rms_norm")
"""Norms that a unit's sign passes; in the others it moves the mean over units."""

_AFFINE_NORMS = ("batch_norm", "cudnn_batch_norm")
"""Norms that with running statistics are affine in each unit by itself, as long as the running mean follows the unit."""

_PASSING = ("identity", "residual", "join", "shift", "sub", "rsub", "negative", "mul", "start")
"""Structural operations that pass each source's factor on to its target."""

_BILINEAR = ("product", "matmul", "attention")
"""Structural operations whose result is linear in each of two sources."""

_STATES: dict[str, tuple[Response, ...]] = {
    "lstm": (Response(), Response(), TANH, Response()),
    "gru": (Response(), Response(), TANH),
    "rnn_tanh": (TANH,),
    "rnn_relu": (RELU,),
}
"""How a recurrent state follows each of its gates: input, forget, cell and output; reset, update and new."""

_RUNNING = ("running_mean", "running_var")
_ADDED = ("bias", "recurrent_bias")

Unknown = tuple[str, str]
"""``("factor", group)`` or ``("shift", group)``."""

Row = dict[Unknown, Fraction]


@dataclass(frozen=True)
class UnitFactor:
    """A factor that every unit can be given for itself, with what must follow from it.

    Args:
        kind: ``"scale"`` (any positive number), ``"sign"``, or ``"shift"`` (by half a period).
        group: The node group whose nodes it is given by.
        exponents: For each group that follows the power of the factor that its units' sums are multiplied by.
        shifted: Groups of sines that are shifted by half a period where the sign is negative.
    """

    kind: Kind
    group: str
    exponents: tuple[tuple[str, Fraction], ...]
    shifted: tuple[str, ...] = ()


def unit_factors(topology: Topology, *, scaling: bool, signs: bool, phases: bool) -> tuple[UnitFactor, ...]:
    """A basis of the factors that leave the function of every network of a topology unchanged.

    Args:
        topology: The topology.
        scaling: Whether to look for positive scales.
        signs: Whether to look for signs.
        phases: Whether to look for shifts of periodic units by half a period.
    """
    found: list[UnitFactor] = []
    if scaling:
        found += [UnitFactor("scale", name, tuple((g, power) for (_, g), power in row.items())) for name, row in _basis(topology)]
    if signs or phases:
        for name, row in _basis(topology, signs=signs, phases=phases):
            exponents = tuple((group, power) for (kind, group), power in row.items() if kind == "factor")
            shifted = tuple(group for kind, group in row if kind == "shift")
            found.append(UnitFactor("sign" if exponents else "shift", name, exponents, shifted))
    return tuple(found)


def turning(topology: Topology) -> tuple[str, ...]:
    """Groups whose biases can be shifted by whole periods, whatever the network does with their units."""
    follows = responses(topology)
    return tuple(
        group.name for group in topology.groups if follows[group.name].half_period is not None and _own_bias(topology, group)
    )


def _basis(topology: Topology, *, signs: bool | None = None, phases: bool = False) -> list[tuple[str, Row]]:
    """Independent solutions, each with the group of its free unknown: of scales, or of signs and shifts."""
    modulo = None if signs is None else 2
    equations = _Equations(topology, for_signs=modulo == 2, phases=phases).rows()
    shifts: list[Unknown] = [("shift", name) for name in turning(topology)] if phases else []
    factors: list[Unknown] = [("factor", group.name) for group in topology.groups]
    if signs is False:
        equations += [{unknown: Fraction(1)} for unknown in factors]
    # Shifts first: the solutions without any sign are then among the basis.
    return [(free[1], row) for free, row in solutions([*shifts, *factors], equations, modulo=modulo)]


def responses(topology: Topology) -> dict[str, Response]:
    """How what the units of each group give follows their sums, pooling across positions included."""
    found = {group.name: pooled_response(group.activation, group.pooling) for group in topology.groups}
    for sources in _gates(topology).values():
        for block, own in sources:
            found[block.source] = own
    return found


def _gates(topology: Topology) -> dict[str, list[tuple[EdgeBlock, Response]]]:
    """For each recurrent state the blocks from its gates, with what it makes of each."""
    blocks: dict[str, list[EdgeBlock]] = defaultdict(list)
    for block in topology.blocks:
        if block.operation in _STATES and block.parameter is None:
            blocks[block.target].append(block)
    order = {group.name: number for number, group in enumerate(topology.groups)}
    found = {}
    for state, own in blocks.items():
        own.sort(key=lambda block: order[block.source])
        known = _STATES[own[0].operation]
        known = known if len(known) == len(own) else (Response(),) * len(own)
        found[state] = list(zip(own, known, strict=True))
    return found


def norm_source(topology: Topology, group: str) -> str | None:
    """The group whose units a norm reads; None where it is no norm, or reads several groups."""
    sources = [block.source for block in topology.blocks if block.target == group and block.operation in _NORMS]
    return sources[0] if len(sources) == 1 else None


def _own_bias(topology: Topology, group: NodeGroup) -> bool:
    """Whether the units have a bias each that nothing else shows."""
    views = [feature.parameter for feature in group.features if feature.name == "bias" and not feature.shared]
    return len(views) == 1 and len(_users(topology)[views[0].region]) == 1


def _users(topology: Topology) -> dict[object, list[tuple[str, str | None, ParameterView]]]:
    """Who shows each part of a parameter: owner, feature and view."""
    users: dict[object, list[tuple[str, str | None, ParameterView]]] = defaultdict(list)
    for group in topology.groups:
        for feature in group.features:
            users[feature.parameter.region].append((group.name, feature.name, feature.parameter))
    for block in topology.blocks:
        if block.parameter is not None:
            users[block.parameter.region].append((block.name, None, block.parameter))
    return users


class _Equations:
    """The ties between the factors of a topology's groups, each a sum that must be zero."""

    def __init__(self, topology: Topology, *, for_signs: bool, phases: bool):
        self.topology, self.for_signs = topology, for_signs
        self.responses, self.gates = responses(topology), _gates(topology)
        self.shifting = set(turning(topology)) if phases else set()

    def before(self, group: str) -> Row:
        """The factor on a group's sums."""
        return {("factor", group): Fraction(1)}

    def after(self, group: str) -> Row:
        """The factor on what a group gives to others."""
        own = self.responses[group]
        power = Fraction(own.parity) if self.for_signs and own.parity is not None else own.degree if not self.for_signs else None
        row: Row = {("factor", group): power} if power else {}
        if group in self.shifting and own.flip == 1:
            row["shift", group] = Fraction(1)
        return row

    def rows(self) -> list[Row]:
        """All equations."""
        rows = [row for group in self.topology.groups for row in self._of_group(group)]
        rows += [row for block in self.topology.blocks for row in self._of_block(block)]
        for operation in _BILINEAR:
            rows += self._of_bilinear(operation)
        for users in _users(self.topology).values():
            for user in users[1:]:
                rows += self._of_tie(users[0], user)
        return rows

    def _of_group(self, group: NodeGroup) -> Iterable[Row]:
        own = self.responses[group.name]
        if (own.parity if self.for_signs else own.degree) is None or group.role == "input" or self._is_closed_state(group.name):
            yield self.before(group.name)
        if group.name in self.shifting and own.flip is None:
            yield {("shift", group.name): Fraction(1)}
        if group.role == "output" or not any(block.source == group.name for block in self.topology.blocks):
            yield self.after(group.name)
        for feature in group.features:
            if not self._absorbs(group, feature.name, feature.shared):
                yield self.before(group.name)

    def _is_closed_state(self, group: str) -> bool:
        """Whether a recurrent state follows none of its gates in a known way."""
        gates = self.gates.get(group)
        return gates is not None and all(own == Response() for _, own in gates)

    def _absorbs(self, group: NodeGroup, feature: str, shared: bool) -> bool:
        """Whether a number on the nodes follows a factor on their sums, or does not matter to it."""
        if feature in _RUNNING:
            return norm_source(self.topology, group.name) is not None
        if shared:
            return all(block.operation == "mul" for block in self.topology.blocks if block.target == group.name)
        return feature in _ADDED

    def _of_block(self, block: EdgeBlock) -> Iterable[Row]:
        target, source = self.before(block.target), self.after(block.source)
        if block.parameter is not None and block.operation in _WEIGHTED:
            return
        if block.parameter is not None and block.operation in _NORMS:
            if not self._passes(block):
                yield source
        elif block.parameter is None and block.operation in _BILINEAR:
            return
        elif block.parameter is not None or not self._aligned(block):
            yield from (target, source)
        elif block.operation in _STATES:
            if self.responses[block.source] != Response():
                yield _sum(target, source, Fraction(-1))
        elif self._passes(block):
            yield _sum(target, source, Fraction(-1))
        else:
            yield from (target, source)

    def _passes(self, block: EdgeBlock) -> bool:
        """Whether an operation without weights gives each target the factor of its source."""
        if block.operation in _AFFINE_NORMS and not self.for_signs:
            features = [feature.name for feature in self.topology.group(block.target).features]
            return all(name in features for name in _RUNNING)
        return block.operation in _PASSING or block.operation in (_ODD_NORMS if self.for_signs else ("maximum", "minimum"))

    def _aligned(self, block: EdgeBlock) -> bool:
        """Whether node i of the source is joined to node i of the target, and to no other."""
        source, target = (self.topology.group(name) for name in (block.source, block.target))
        if source.size == target.size == 1:
            return True
        first, second = (self.topology.indices_of(name) for name in (source.name, target.name))
        known = bool(source.indices and target.indices)
        return block.pattern == "diagonal" and (not known or [i.name for i in first] == [i.name for i in second])

    def _of_bilinear(self, operation: str) -> Iterable[Row]:
        """A product's factor is that of both its arguments together; in a scalar product of units theirs must cancel."""
        blocks: dict[str, list[EdgeBlock]] = defaultdict(list)
        for block in self.topology.blocks:
            if block.operation == operation and block.parameter is None:
                blocks[block.target].append(block)
        for target, own in blocks.items():
            factors = [self.after(block.source) for block in own]
            aligned = [factor for block, factor in zip(own, factors, strict=True) if self._aligned(block)]
            if len(own) == 2 and aligned and (len(aligned) == 2 or operation != "product"):
                yield from (factor for block, factor in zip(own, factors, strict=True) if not self._aligned(block))
                row = self.before(target)
                for factor in aligned:
                    row = _sum(row, factor, Fraction(-1))
                yield row
            elif len(own) == 2 and operation != "product" and self._meet(*own):
                yield from (self.before(target), _sum(factors[0], factors[1], Fraction(1)))
            else:
                yield from (self.before(target), *factors)

    def _meet(self, first: EdgeBlock, second: EdgeBlock) -> bool:
        """Whether two groups have the same indices and enter the same nodes by them, as queries and keys do."""
        indices = [self.topology.indices_of(block.source) for block in (first, second)]
        alike = indices[0] == indices[1] and (first.pattern, first.shared) == (second.pattern, second.shared)
        # Nothing else is left of the units: they were summed over.
        return alike and self.topology.group(first.target).size == math.prod(i.size for i in indices[0] if i.name in first.shared)

    def _of_tie(self, first: tuple[str, str | None, ParameterView], second: tuple[str, str | None, ParameterView]) -> list[Row]:
        """Both owners of one parameter ask it to change alike."""
        owners = [self._factors_of(owner, feature) for owner, feature, _ in (first, second)]
        axes = [self._strides(owner, feature, view) for owner, feature, view in (first, second)]
        if len(owners[0]) == len(owners[1]) and axes[0] is not None and axes[1] is not None:
            if axes[0] == axes[1]:
                return [_sum(a, b, Fraction(-1)) for a, b in zip(*owners, strict=True)]
            if axes[0] == axes[1][::-1]:
                return [_sum(a, b, Fraction(-1)) for a, b in zip(owners[0], owners[1][::-1], strict=True)]
        return [row for factors in owners for row in factors]

    def _factors_of(self, owner: str, feature: str | None) -> list[Row]:
        """The factors on a slot's values along its nodes, or its targets and its sources."""
        if feature == "running_mean":
            source = norm_source(self.topology, owner)
            return [] if source is None else [self.after(source)]
        if feature is not None:
            return [] if feature == "running_var" else [self.before(owner)]
        block = self.topology.edge_block(owner)
        inverse = _sum({}, self.after(block.source), Fraction(-1))
        if block.pattern == "diagonal":
            return [_sum(self.before(block.target), inverse, Fraction(1))]
        return [self.before(block.target), inverse]

    def _strides(self, owner: str, feature: str | None, view: ParameterView) -> list[list[tuple[int, int]]] | None:
        """Sizes and steps in memory of a view's axes along its nodes, or its targets and its sources; None where unclear."""
        if feature is not None:
            size = self.topology.group(owner).size
            known = feature in (*_ADDED, *_RUNNING) and math.prod(_lengths(view, (size,))) == size
            return _grouped_axes(view, (size,), num_axes=1) if known else None
        block = self.topology.edge_block(owner)
        if block.pattern == "grouped" or block.operation not in (*_WEIGHTED, *_NORMS):
            return None
        return _grouped_axes(view, self.topology.block_shape(owner), num_axes=1 if block.pattern == "diagonal" else 2)


def _lengths(view: ParameterView, shape: tuple[int, ...]) -> list[int]:
    return [stop - start for start, stop in view.bounds] or list(view.split or shape)


def _grouped_axes(view: ParameterView, shape: tuple[int, ...], *, num_axes: int) -> list[list[tuple[int, int]]] | None:
    """Sizes and steps of a view's axes that multiply to each of the first sizes in turn, neighbours in memory merged."""
    split = view.split or shape
    steps = [math.prod(split[axis + 1 :]) for axis in range(len(split))]
    lengths = _lengths(view, shape)
    axes = [(lengths[axis], steps[axis]) for axis in view.order or range(len(split)) if lengths[axis] > 1]
    found = []
    for size in shape[:num_axes]:
        own: list[tuple[int, int]] = []
        while size > 1:
            length, step = axes.pop(0)
            if size % length:
                return None
            size //= length
            merged = bool(own) and own[-1][1] == length * step
            own[-1:] = [(own[-1][0] * length, step)] if merged else [*own[-1:], (length, step)]
        found.append(own)
    return found


def _sum(first: Mapping[Unknown, Fraction], second: Mapping[Unknown, Fraction], factor: Fraction) -> Row:
    total = defaultdict(Fraction, first)
    for unknown, value in second.items():
        total[unknown] += factor * value
    return {unknown: value for unknown, value in total.items() if value}


def solutions(unknowns: Sequence[Unknown], equations: Iterable[Row], *, modulo: int | None) -> list[tuple[Unknown, Row]]:
    """A basis of the solutions of homogeneous linear equations, over the rationals or over the integers modulo 2.

    Args:
        unknowns: All unknowns; where there is a choice, later ones are free.
        equations: Rows of coefficients, each of whose sums is zero.
        modulo: 2, or None for the rationals.

    Returns:
        For each free unknown, in order, the solution in which it is one and the other free ones are zero.
    """
    rank = {unknown: number for number, unknown in enumerate(unknowns)}

    def reduced(row: Row) -> Row:
        return row if modulo is None else {unknown: value % modulo for unknown, value in row.items() if value % modulo}

    # Each solved unknown as a sum of unsolved ones.
    solved: dict[Unknown, Row] = {}
    for equation in equations:
        row = reduced(equation)
        for unknown in [unknown for unknown in row if unknown in solved]:
            value = row.pop(unknown)
            row = reduced(_sum(row, solved[unknown], value))
        if not row:
            continue
        pivot = min(row, key=rank.__getitem__)
        value = row.pop(pivot)
        own = reduced({unknown: -other / value for unknown, other in row.items()})
        for unknown, known in solved.items():
            if pivot in known:
                solved[unknown] = reduced(_sum({u: v for u, v in known.items() if u != pivot}, own, known[pivot]))
        solved[pivot] = own
    basis = []
    for free in (unknown for unknown in unknowns if unknown not in solved):
        row = {unknown: known[free] for unknown, known in solved.items() if free in known} | {free: Fraction(1)}
        basis.append((free, {unknown: row[unknown] for unknown in sorted(row, key=rank.__getitem__)}))
    return basis
