"""A network as a neural graph: a topology and its values, which stay views of the memory that they came from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ngbench.errors import GraphError
from ngbench.graph.layout import entries_of, in_order, show, slots_of, split_rows
from ngbench.graph.topology import ParameterView, Topology

if TYPE_CHECKING:
    from torch_geometric.data import Data


class NeuralGraph:
    """The values of one network on its topology.

    Build one with `trace`, `NeuralGraph.from_state_dict` or `NeuralGraph.from_row`. Values are views wherever the
    layout allows; nothing that takes a graph writes to them.

    Args:
        topology: The shape of the graph.
        slot_values: One tensor for each slot of `topology`, in its canonical shape.
        buffers: State-dict entries that are no part of the graph, by path.

    Raises:
        GraphError: Number or shapes of the values do not fit the topology.
    """

    __slots__ = ("buffers", "slot_values", "topology")

    def __init__(self, topology: Topology, slot_values: tuple[Tensor, ...], buffers: Mapping[str, Tensor] | None = None):
        expected = [slot.shape for slot in topology.slots]
        got = [tuple(values.shape) for values in slot_values]
        if expected != got:
            raise GraphError(f"values of shapes {got} do not fit a topology; expected {expected}")
        self.topology = topology
        self.slot_values = slot_values
        self.buffers = dict(buffers or {})

    @classmethod
    def from_state_dict(cls, topology: Topology, state_dict: Mapping[str, Tensor]) -> NeuralGraph:
        """The graph of another network of a known topology: no tracing, no copy.

        Raises:
            GraphError: The state dict lacks an entry, has one too many, or one of another shape.
        """
        graph = cls._unchecked(topology, slots_of(topology, state_dict))
        if topology.buffers:
            graph.buffers = {path: state_dict[path] for path in topology.buffers if path in state_dict}
        return graph

    @classmethod
    def from_row(cls, topology: Topology, row: Tensor) -> NeuralGraph:
        """The graph of a canonical value row ``[values]``, without a copy.

        Raises:
            GraphError: The row has another length.
        """
        return cls._unchecked(topology, split_rows(topology, row))

    @classmethod
    def _unchecked(cls, topology: Topology, slot_values: tuple[Tensor, ...]) -> NeuralGraph:
        graph = cls.__new__(cls)
        graph.topology, graph.slot_values, graph.buffers = topology, slot_values, {}
        return graph

    @property
    def dtype(self) -> torch.dtype:
        """Type of the numbers."""
        return self.slot_values[0].dtype

    def row(self) -> Tensor:
        """The canonical value row ``[values]``, a contiguous copy."""
        return torch.cat([values.reshape(-1) for values in self.slot_values])

    def block(self, name: str) -> Tensor:
        """Weights of one edge block, ``[targets, sources, kernel]``; ``[targets, 1, kernel]`` where it is diagonal.

        Raises:
            GraphError: No such block.
        """
        shape = self.topology.block_shape(name)
        view = self.topology.edge_block(name).parameter
        if view is None:
            return self.slot_values[0].new_ones(()).expand(shape)
        return self._values(name, None, view, shape)

    def node_feature(self, group: str, feature: str) -> Tensor:
        """One named feature of the nodes of a group, ``[nodes]``; zeros where the group has none of that name.

        Raises:
            GraphError: No such group.
        """
        shape = (self.topology.group(group).size,)
        for entry in self.topology.group(group).features:
            if entry.name == feature:
                return self._values(group, feature, entry.parameter, (1,) if entry.shared else shape).expand(shape)
        return self.slot_values[0].new_zeros(()).expand(shape)

    def _values(self, owner: str, feature: str | None, view: ParameterView, shape: tuple[int, ...]) -> Tensor:
        """A slot's values, or for a tied parameter, whose slot another owner has, another view of the same entry."""
        index = self.topology.slot_index.get((owner, feature))
        if index is not None:
            return self.slot_values[index]
        return show(entries_of(self.topology, self.slot_values)[view.path], view, shape)

    def to_pyg(self) -> Data:
        """The flat view for torch_geometric.

        Edges stand in canonical order (blocks in order, target-major within a block), nodes in canonical order.

        Returns:
            A `Data` with ``edge_index`` int64 ``[2, edges]``, ``edge_attr`` ``[edges, kernel]`` (kernels zero-padded,
            centred, to the largest), ``x`` ``[nodes, features]``, ``node_group`` ``[nodes]`` and ``edge_block``
            ``[edges]`` (positions in the topology), and the lists ``feature_names`` and ``activations``.
        """
        from torch_geometric.data import Data

        topology = self.topology
        kernel = largest_kernel(topology)
        names = sorted({feature.name for group in topology.groups for feature in group.features})
        columns = [torch.cat([self.node_feature(group.name, name) for group in topology.groups]) for name in names]
        num_block_edges = [math.prod(topology.block_shape(block.name)[:2]) for block in topology.blocks]
        return Data(
            x=torch.stack(columns, dim=1) if columns else self.slot_values[0].new_zeros(topology.num_nodes, 0),
            edge_index=edge_index(topology),
            edge_attr=torch.cat([pad_kernel(self.block(b.name), b.kernel, kernel).flatten(0, 1) for b in topology.blocks]),
            node_group=_repeat([group.size for group in topology.groups]),
            edge_block=_repeat(num_block_edges),
            feature_names=names,
            activations=[group.activation for group in topology.groups],
        )

    def equal(self, other: NeuralGraph) -> bool:
        """Whether topology, types and values are the same, bit for bit: a NaN equals itself, and 0.0 is not -0.0."""
        if self.topology != other.topology:
            return False
        pairs = zip(self.slot_values, other.slot_values, strict=True)
        return all(mine.dtype == theirs.dtype and torch.equal(_bytes(mine), _bytes(theirs)) for mine, theirs in pairs)

    def __repr__(self) -> str:
        t = self.topology
        return (
            f"NeuralGraph({t.num_nodes} nodes in {len(t.groups)} groups, {t.num_edges} edges in {len(t.blocks)} blocks, "
            f"{t.num_values} parameters)"
        )


def restore(graph: NeuralGraph) -> dict[str, Tensor]:
    """The state dict that a graph was traced from, bit for bit and in its order; values are views where the layout allows."""
    return in_order(graph.topology, entries_of(graph.topology, graph.slot_values) | graph.buffers)


def _bytes(values: Tensor) -> Tensor:
    # A tensor of one row may call itself contiguous whatever its strides; its flattened copy cannot.
    return values.flatten().clone(memory_format=torch.contiguous_format).view(torch.uint8)


def _repeat(counts: list[int]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.int64))


def edge_index(topology: Topology) -> Tensor:
    """Source and target of each edge in canonical order, int64 ``[2, edges]``; shared between calls, so not to be written."""
    # A table of millions of edges is not worth the memory that keeping it takes.
    return _kept_edge_index(topology) if topology.num_edges <= 2**20 else _edge_index(topology)


@lru_cache(maxsize=256)
def _kept_edge_index(topology: Topology) -> Tensor:
    return _edge_index(topology)


def _edge_index(topology: Topology) -> Tensor:
    parts = []
    for block in topology.blocks:
        sources = torch.from_numpy(topology.block_sources(block.name).copy())
        targets = torch.arange(len(sources))[:, None].expand_as(sources)
        parts.append(
            torch.stack(
                [sources.flatten() + topology.node_ptr[block.source], targets.flatten() + topology.node_ptr[block.target]]
            )
        )
    return torch.cat(parts, dim=1) if parts else torch.zeros(2, 0, dtype=torch.int64)


def largest_kernel(*topologies: Topology) -> tuple[int, ...]:
    """The smallest spatial shape that holds every kernel of some topologies; empty if all edges are single numbers."""
    kernels = [block.kernel for topology in topologies for block in topology.blocks]
    num_axes = max(map(len, kernels), default=0)
    return tuple(map(max, *(_with_axes(kernel, num_axes) for kernel in kernels), (1,) * num_axes))


def pad_kernel(values: Tensor, kernel: tuple[int, ...], to: tuple[int, ...]) -> Tensor:
    """Zero-pads flattened kernels, centred, to a larger spatial shape; each axis by its own margin.

    Args:
        values: ``[..., kernel]``, flattened kernels of shape `kernel`.
        kernel: Spatial shape that the values have; may have fewer axes than `to`.
        to: Spatial shape that they get.

    Returns:
        ``[..., product of to]``; `values` itself where nothing is to pad.

    Raises:
        GraphError: `to` is smaller than `kernel` on an axis.
    """
    shape = _with_axes(kernel, len(to))
    if shape == to:
        return values
    if any(size > room for size, room in zip(shape, to, strict=True)):
        raise GraphError(f"kernel {kernel} does not fit into {to}; expected a shape at least as large on each axis")
    margins: list[int] = []
    for size, room in reversed(list(zip(shape, to, strict=True))):
        before = (room - size) // 2
        margins += [before, room - size - before]
    return torch.nn.functional.pad(values.unflatten(-1, shape), margins).flatten(-len(to))


def _with_axes(kernel: tuple[int, ...], num_axes: int) -> tuple[int, ...]:
    if len(kernel) > num_axes:
        raise GraphError(f"kernel {kernel} has {len(kernel)} axes; expected at most {num_axes}")
    return (1,) * (num_axes - len(kernel)) + kernel
