"""The shape of a neural graph: node groups, edge blocks, and where in a state dict their values stand. It holds no numbers."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from ngbench.errors import GraphError

Role = Literal["input", "hidden", "output", "structural"]
Pattern = Literal["dense", "diagonal", "grouped"]

_closed = with_config(ConfigDict(extra="forbid"))


@_closed
@dataclass(frozen=True)
class ParameterView:
    """The part of one state-dict entry that a block or a node feature shows, and the order of its axes.

    The entry is viewed with shape `split`, sliced by `bounds`, viewed with shape `inner`, and its axes put in the order
    `order`; what remains reshapes to the canonical shape of its owner. A view with only a path shows the whole entry in its
    own order.

    Args:
        path: State-dict path, for example ``"features.0.weight"``.
        split: Shape to view the entry with first; empty where neither bounds nor order are needed.
        bounds: ``(start, stop)`` for each axis of `split`; empty where nothing is cut.
        order: Axis order after slicing; empty where it stays.
        inner: Shape of the slice that `order` speaks of, each sliced axis split by itself; empty where it is the slice's own.

    Raises:
        GraphError: Bounds or order without `split`, or `inner` without both.
    """

    path: str
    split: tuple[int, ...] = ()
    bounds: tuple[tuple[int, int], ...] = ()
    order: tuple[int, ...] = ()
    inner: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if (self.bounds or self.order) and not self.split:
            raise GraphError(f"view of {self.path!r} has bounds or an order but no split shape; expected all or none")
        if self.inner and not (self.bounds and self.order):
            raise GraphError(f"view of {self.path!r} has an inner shape but no bounds or order; expected both beside it")

    @property
    def region(self) -> Hashable:
        """Which elements are shown, whatever their order: views of one region are tied."""
        return self.path, self.split if self.bounds else (), self.bounds


@_closed
@dataclass(frozen=True)
class NodeFeature:
    """One number a node, for example its bias, for all nodes of a group; or one number that all of them share."""

    name: str
    parameter: ParameterView
    shared: bool = False


@_closed
@dataclass(frozen=True)
class Index:
    """Entries that move as one in every symmetry: a group's units, or the heads, experts or groups that they are sorted into.

    Args:
        name: Unique among the indices of a topology.
        size: Number of entries.
        parents: Names of the indices on whose entries the permutation may depend: units move in each head by themselves.
        fixed: Whether no entry moves.
    """

    name: str
    size: int
    parents: tuple[str, ...] = ()
    fixed: bool = False


@_closed
@dataclass(frozen=True)
class NodeGroup:
    """The units of one layer: neurons, channels, inputs or outputs.

    Args:
        name: Unique among the groups of a topology.
        size: Number of nodes.
        role: Input and output nodes are the visible interface and never permute.
        activation: What the units apply to their sum: ``"relu"``, ``"sine(30)"``, ``"none"`` and so on.
        layer: Depth; 0 for inputs, one more than the deepest source otherwise.
        features: Named numbers on the nodes, with their parameters.
        indices: Names of the indices that the nodes are the product of, slowest first; empty where the group has one
            index of its own, named like the group, which moves unless the group is input or output.
        pooling: What is done to the units across positions and answers to less than their activation when they change sign
            or scale, such as ``"max_pool"`` behind a tanh, in the order of names.
    """

    name: str
    size: int
    role: Role
    activation: str
    layer: int
    features: tuple[NodeFeature, ...] = ()
    indices: tuple[str, ...] = ()
    pooling: tuple[str, ...] = ()


@_closed
@dataclass(frozen=True)
class EdgeBlock:
    """The edges of one layer, from the nodes of one group to the nodes of another.

    Args:
        name: Unique among the blocks of a topology.
        source: Name of the group that the edges leave.
        target: Name of the group that the edges enter.
        pattern: ``"dense"`` (every source to every target), ``"diagonal"`` (source i to target i) or ``"grouped"`` (every
            source to every target that agrees with it on the `shared` indices).
        operation: ``"linear"``, ``"conv"``, ``"identity"`` and so on.
        kernel: Spatial shape of one edge's weights; empty for a single number.
        parameter: Where the values come from; None for a structural block, whose edges all carry the number one.
        shared: Names of the indices that source and target share in a grouped block.
    """

    name: str
    source: str
    target: str
    pattern: Pattern
    operation: str
    kernel: tuple[int, ...] = ()
    parameter: ParameterView | None = None
    shared: tuple[str, ...] = ()

    @property
    def kernel_size(self) -> int:
        """Numbers on one edge."""
        return math.prod(self.kernel)


@dataclass(frozen=True)
class Slot:
    """A contiguous run of the canonical value row: one node feature or one block with its canonical shape.

    Args:
        owner: Name of the group or block.
        feature: Name of the node feature; None for a block.
        parameter: Where the values stand in the state dict.
        shape: ``(nodes,)`` for a feature, ``(targets, sources, kernel)`` for a block.
        start: First position in the row.
    """

    owner: str
    feature: str | None
    parameter: ParameterView
    shape: tuple[int, ...]
    start: int

    @property
    def stop(self) -> int:
        """One past the last position in the row."""
        return self.start + math.prod(self.shape)


@_closed
@dataclass(frozen=True)
class Topology:
    """Node groups, edge blocks and parameter shapes of a neural graph; hashable, shared by many networks.

    The canonical value row of a network is the concatenation of its slots: the node features, groups in order, then the
    blocks in order, each block target-major. A parameter shown by several blocks (tied weights) stands in it once.

    Args:
        groups: Node groups in canonical order.
        blocks: Edge blocks in canonical order.
        parameters: Path and shape of every state-dict entry that the graph shows, in state-dict order.
        indices: What the nodes of groups with `NodeGroup.indices` run over.
        tied: Further paths of parameters that stand in the state dict under several, each with the path that is shown.
        buffers: Paths of state-dict entries that are no part of the graph, such as counters.
        order: All paths in state-dict order, where that is not parameters, tied paths, buffers.

    Raises:
        GraphError: A name stands twice, a block names no group, a group's indices do not multiply to its size, a diagonal
            block joins groups of different indices, a view shows no parameter, or the views do not show every element of
            every parameter.
    """

    groups: tuple[NodeGroup, ...]
    blocks: tuple[EdgeBlock, ...]
    parameters: tuple[tuple[str, tuple[int, ...]], ...]
    indices: tuple[Index, ...] = ()
    tied: tuple[tuple[str, str], ...] = ()
    buffers: tuple[str, ...] = ()
    order: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for kind, names in (("group", [g.name for g in self.groups]), ("block", [b.name for b in self.blocks])):
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise GraphError(f"{kind} name {twice[0]!r} stands {names.count(twice[0])} times in a topology; expected once")
        for group in self.groups:
            if group.role not in get_args(Role):
                raise GraphError(f"group {group.name!r} has role {group.role!r}; expected one of {', '.join(get_args(Role))}")
            sizes = [index.size for index in self.indices_of(group.name)]
            if math.prod(sizes) != group.size:
                raise GraphError(
                    f"group {group.name!r} has {group.size} nodes and indices of sizes {sizes}; "
                    "expected sizes that multiply to it"
                )
        for block in self.blocks:
            self._check_block(block)
        self._check_coverage()
        self._check_ties()

    def __hash__(self) -> int:
        # The digest, not a cached hash: hashes of strings differ between processes, and a pickle keeps what was cached.
        return hash(self.digest)

    def _check_block(self, block: EdgeBlock) -> None:
        for name in (block.source, block.target):
            if name not in self._groups_by_name:
                raise GraphError(f"block {block.name!r} names group {name!r}; expected one of {', '.join(self._groups_by_name)}")
        if block.pattern not in get_args(Pattern):
            raise GraphError(
                f"block {block.name!r} has pattern {block.pattern!r}; expected one of {', '.join(get_args(Pattern))}"
            )
        source_size, target_size = self.group(block.source).size, self.group(block.target).size
        if block.pattern == "diagonal" and source_size != target_size:
            raise GraphError(
                f"diagonal block {block.name!r} joins {source_size} sources with {target_size} targets; expected equal numbers"
            )
        if block.pattern == "diagonal" and not self._agree(block):
            raise GraphError(
                f"diagonal block {block.name!r} joins groups {block.source!r} and {block.target!r}, whose nodes run over "
                "different indices; expected the same indices, or fixed ones"
            )
        for name in block.shared:
            for group in (block.source, block.target):
                if name not in [index.name for index in self.indices_of(group)]:
                    raise GraphError(
                        f"block {block.name!r} shares index {name!r}, which group {group!r} lacks; expected both ends to have it"
                    )

    def _agree(self, block: EdgeBlock) -> bool:
        """Whether the ends of a diagonal block move together, or not at all."""
        ends = [[index for index in self.indices_of(name) if index.size > 1] for name in (block.source, block.target)]
        return ends[0] == ends[1] or all(index.fixed for end in ends for index in end)

    def _check_ties(self) -> None:
        """A parameter that several blocks show moves one way only."""
        moving: dict[Hashable, tuple[str, tuple[str, ...]]] = {}
        for block in self.blocks:
            if block.parameter is None:
                continue
            ends = (index for name in (block.source, block.target) for index in self.indices_of(name) if not index.fixed)
            names = tuple(sorted({index.name for index in ends if index.size > 1}))
            first, known = moving.setdefault(block.parameter.region, (block.name, names))
            if known != names:
                raise GraphError(
                    f"blocks {first!r} and {block.name!r} show one parameter, {block.parameter.path!r}, over indices "
                    f"{', '.join(known) or 'none'} and {', '.join(names) or 'none'}; expected the same moving indices"
                )

    def _check_coverage(self) -> None:
        shown: Counter[str] = Counter()
        for slot in self.slots:
            shown[slot.parameter.path] += math.prod(slot.shape)
        paths = [path for path, _ in self.parameters]
        unknown = [path for path in shown if path not in paths]
        if unknown:
            raise GraphError(f"the topology shows {unknown[0]!r}, which is no parameter; expected one of {', '.join(paths)}")
        for path, shape in self.parameters:
            if shown[path] != math.prod(shape):
                raise GraphError(
                    f"parameter {path!r} has {math.prod(shape)} elements, of which the topology shows {shown[path]}; "
                    "expected each element in exactly one slot"
                )

    @cached_property
    def _groups_by_name(self) -> dict[str, NodeGroup]:
        return {group.name: group for group in self.groups}

    @cached_property
    def _blocks_by_name(self) -> dict[str, EdgeBlock]:
        return {block.name: block for block in self.blocks}

    def group(self, name: str) -> NodeGroup:
        """The group of a name.

        Raises:
            GraphError: No such group.
        """
        if name not in self._groups_by_name:
            raise GraphError(f"no group {name!r} in this topology; expected one of {', '.join(self._groups_by_name)}")
        return self._groups_by_name[name]

    def edge_block(self, name: str) -> EdgeBlock:
        """The block of a name.

        Raises:
            GraphError: No such block.
        """
        if name not in self._blocks_by_name:
            raise GraphError(f"no block {name!r} in this topology; expected one of {', '.join(self._blocks_by_name)}")
        return self._blocks_by_name[name]

    @cached_property
    def _indices_by_name(self) -> dict[str, Index]:
        return {index.name: index for index in self.indices}

    def indices_of(self, group: str) -> tuple[Index, ...]:
        """What the nodes of a group run over, slowest first.

        Raises:
            GraphError: No such group, or it names an index that does not exist.
        """
        found = self.group(group)
        if not found.indices:
            return (Index(found.name, found.size, fixed=found.role in ("input", "output")),)
        missing = [name for name in found.indices if name not in self._indices_by_name]
        if missing:
            raise GraphError(f"group {group!r} names index {missing[0]!r}; expected one of {', '.join(self._indices_by_name)}")
        return tuple(self._indices_by_name[name] for name in found.indices)

    def block_shape(self, name: str) -> tuple[int, int, int]:
        """``(targets, sources, kernel)`` of a block; sources are those of one target: one where the block is diagonal.

        Raises:
            GraphError: No such block.
        """
        block = self.edge_block(name)
        num_sources = self.group(block.source).size
        if block.pattern == "diagonal":
            num_sources = 1
        for shared in block.shared:
            num_sources //= next(index.size for index in self.indices_of(block.source) if index.name == shared)
        return self.group(block.target).size, num_sources, block.kernel_size

    def block_sources(self, name: str) -> np.ndarray:
        """The sources of each target of a block, positions within the source group, int64 ``[targets, sources]``.

        Raises:
            GraphError: No such block.
        """
        block = self.edge_block(name)
        num_targets, num_sources, _ = self.block_shape(name)
        if block.pattern == "diagonal":
            return np.arange(num_targets)[:, None]
        if block.pattern == "dense":
            return np.broadcast_to(np.arange(num_sources), (num_targets, num_sources))
        places = self._places(block.source, block.shared)
        return np.argsort(places, kind="stable").reshape(-1, num_sources)[self._places(block.target, block.shared)]

    def _places(self, group: str, names: tuple[str, ...]) -> np.ndarray:
        """For each node of a group the place of its coordinates on some of its indices, int64 ``[nodes]``."""
        indices = self.indices_of(group)
        coordinates = np.unravel_index(np.arange(self.group(group).size), [index.size for index in indices])
        place = np.zeros(self.group(group).size, dtype=np.int64)
        for name in names:
            own = next(k for k, index in enumerate(indices) if index.name == name)
            place = place * indices[own].size + coordinates[own]
        return place

    @cached_property
    def slots(self) -> tuple[Slot, ...]:
        """The runs of the canonical value row, in order; a part of a parameter that was shown before has no second slot."""
        slots: list[Slot] = []
        shown: set[Hashable] = set()

        def add(owner: str, feature: str | None, view: ParameterView, shape: tuple[int, ...]) -> None:
            if view.region not in shown:
                shown.add(view.region)
                slots.append(Slot(owner, feature, view, shape, slots[-1].stop if slots else 0))

        for group in self.groups:
            for feature in group.features:
                add(group.name, feature.name, feature.parameter, (1,) if feature.shared else (group.size,))
        for block in self.blocks:
            if block.parameter is not None:
                add(block.name, None, block.parameter, self.block_shape(block.name))
        return tuple(slots)

    @cached_property
    def slot_index(self) -> dict[tuple[str, str | None], int]:
        """Position in `slots` by owner and feature."""
        return {(slot.owner, slot.feature): index for index, slot in enumerate(self.slots)}

    @property
    def num_values(self) -> int:
        """Length of the canonical value row: the number of parameters of the network."""
        return self.slots[-1].stop if self.slots else 0

    @property
    def num_nodes(self) -> int:
        """Number of nodes."""
        return sum(group.size for group in self.groups)

    @cached_property
    def num_edges(self) -> int:
        """Number of edges."""
        return sum(math.prod(self.block_shape(block.name)[:2]) for block in self.blocks)

    @cached_property
    def node_ptr(self) -> dict[str, int]:
        """First node of each group in the canonical node order."""
        starts, total = {}, 0
        for group in self.groups:
            starts[group.name] = total
            total += group.size
        return starts

    @cached_property
    def digest(self) -> str:
        """Hexadecimal sha256 of the canonical JSON form."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @cached_property
    def structure(self) -> str:
        """Digest of the topology with activations and pooling left out: networks that agree in it stack into one array."""
        return replace(self, groups=tuple(replace(group, activation="", pooling=()) for group in self.groups)).digest

    def to_json(self) -> str:
        """Canonical JSON: the same topology gives the same text, in this and in later versions.

        Fields at their defaults are left out, so that a field added later leaves the text, and the digest, of what does
        not use it as it was.
        """
        return _ADAPTER.dump_json(self, exclude_defaults=True).decode()

    @classmethod
    def from_json(cls, text: str) -> Topology:
        """The topology of `to_json`.

        Raises:
            GraphError: The text is no JSON, or not that of a topology.
        """
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"])) or "the text"
            raise GraphError(
                f"text is not the JSON of a topology: {where}: {problem['msg']}; expected what to_json() gives"
            ) from error


_ADAPTER: TypeAdapter[Topology] = TypeAdapter(Topology)
