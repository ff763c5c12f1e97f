"""A topology as rows of two tables; layers that repeat may stand in one row."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ngbench.graph.repeats import Repeat, find_repeats, joint_name, pattern_of
from ngbench.graph.topology import EdgeBlock, Index, NodeGroup, Topology

_NEAR = 40


@dataclass(frozen=True)
class GroupRow:
    """One group, or its copies in layers that repeat.

    Args:
        number: Row number, by which blocks name it.
        name: Name of the group, or of all copies.
        size: Nodes of one copy.
        role: Role.
        activation: What the units apply.
        layers: Depth of the first and of the last copy.
        indices: Row numbers of the indices that its nodes run over; of the first copy.
        features: Names of the numbers on its nodes.
        count: Copies.
    """

    number: int
    name: str
    size: int
    role: str
    activation: str
    layers: tuple[int, int]
    indices: tuple[int, ...]
    features: tuple[str, ...]
    count: int


@dataclass(frozen=True)
class BlockRow:
    """One block, or its copies in layers that repeat.

    Args:
        name: Name of the block, or of all copies.
        sources: Rows of the groups that the copies leave.
        targets: Rows of the groups that the copies enter.
        pattern: ``"dense"``, ``"diagonal"`` or ``"grouped"``.
        operation: Operation.
        kernel: Spatial shape of one edge's weights.
        num_edges: Edges of one copy.
        parameter: Path of the values in the state dict; empty where the block is structural.
        count: Copies.
    """

    name: str
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    pattern: str
    operation: str
    kernel: tuple[int, ...]
    num_edges: int
    parameter: str
    count: int


@dataclass(frozen=True)
class IndexRow:
    """One index, or its copies in layers that repeat.

    Args:
        number: Row number, by which groups name it.
        name: Name of the index, or of all copies.
        size: Entries.
        parents: Row numbers of the indices in whose entries it moves by itself.
        moves: Whether a symmetry moves its entries.
        num_groups: Groups that have it, over all copies.
        count: Copies.
    """

    number: int
    name: str
    size: int
    parents: tuple[int, ...]
    moves: bool
    num_groups: int
    count: int


@dataclass(frozen=True)
class Listing:
    """The rows of a topology in canonical order."""

    groups: tuple[GroupRow, ...]
    blocks: tuple[BlockRow, ...]
    indices: tuple[IndexRow, ...]


def listing(topology: Topology, *, fold: bool) -> Listing:
    """The tables of a topology.

    Args:
        topology: What is listed.
        fold: Whether layers that repeat stand in one row.
    """
    groups, blocks = topology.groups, topology.blocks
    group_stretches = _stretches(group_signatures(topology), fold=fold)
    block_stretches = _stretches(block_signatures(topology), fold=fold)
    order = list(dict.fromkeys(index for group in groups for index in topology.indices_of(group.name)))
    index_stretches = _stretches([(pattern_of(index.name), index.size, index.fixed) for index in order], fold=fold)
    row_of_group = {groups[k].name: row for row, copies in enumerate(_rows(group_stretches)) for k in copies}
    row_of_index = {order[k].name: row for row, copies in enumerate(_rows(index_stretches)) for k in copies}
    return Listing(
        tuple(_group_row(row, [groups[k] for k in c], topology, row_of_index) for row, c in enumerate(_rows(group_stretches))),
        tuple(_block_row([blocks[k] for k in c], topology, row_of_group) for c in _rows(block_stretches)),
        tuple(_index_row(row, [order[k] for k in c], topology, row_of_index) for row, c in enumerate(_rows(index_stretches))),
    )


def _stretches(signatures: Sequence[tuple], *, fold: bool) -> list[Repeat]:
    return find_repeats(signatures) if fold else [Repeat(0, len(signatures), 1)]


def _rows(stretches: Sequence[Repeat]) -> list[list[int]]:
    return [stretch.copies(offset) for stretch in stretches for offset in range(stretch.length)]


def group_signatures(topology: Topology) -> list[tuple]:
    """For each group what it has in common with its copies in layers that repeat, blocks that enter it included."""
    blocks = defaultdict(list)
    for block, signature in zip(topology.blocks, block_signatures(topology), strict=True):
        blocks[block.target].append(signature)
    return [
        (pattern_of(g.name), g.size, g.role, g.activation, tuple(f.name for f in g.features), tuple(blocks[g.name]))
        for g in topology.groups
    ]


def block_signatures(topology: Topology) -> list[tuple]:
    """For each block what it has in common with its copies in layers that repeat."""
    place = {group.name: k for k, group in enumerate(topology.groups)}
    found = []
    for block in topology.blocks:
        distance = place[block.target] - place[block.source]
        # What all layers read, such as the result of an encoder, is at another distance from each.
        source = distance if distance <= _NEAR else pattern_of(block.source)
        found.append(
            (pattern_of(block.name), source, topology.block_shape(block.name), block.pattern, block.operation, block.kernel)
        )
    return found


def _group_row(number: int, copies: Sequence[NodeGroup], topology: Topology, rows: dict[str, int]) -> GroupRow:
    first = copies[0]
    indices = tuple(rows[index.name] for index in topology.indices_of(first.name))
    return GroupRow(
        number, joint_name([g.name for g in copies]), first.size, first.role, first.activation, (first.layer, copies[-1].layer),
        indices, tuple(feature.name for feature in first.features), len(copies),
    )  # fmt: skip


def _block_row(copies: Sequence[EdgeBlock], topology: Topology, rows: dict[str, int]) -> BlockRow:
    first = copies[0]
    paths = [copy.parameter.path if copy.parameter is not None else "" for copy in copies]
    return BlockRow(
        joint_name([b.name for b in copies]), tuple(dict.fromkeys(rows[b.source] for b in copies)),
        tuple(dict.fromkeys(rows[b.target] for b in copies)), first.pattern, first.operation, first.kernel,
        math.prod(topology.block_shape(first.name)[:2]), joint_name(paths), len(copies),
    )  # fmt: skip


def _index_row(number: int, copies: Sequence[Index], topology: Topology, rows: dict[str, int]) -> IndexRow:
    names = {index.name for index in copies}
    num_groups = sum(any(index.name in names for index in topology.indices_of(group.name)) for group in topology.groups)
    first = copies[0]
    return IndexRow(
        number, joint_name([index.name for index in copies]), first.size, tuple(rows[name] for name in first.parents),
        not first.fixed and first.size > 1, num_groups, len(copies),
    )  # fmt: skip
