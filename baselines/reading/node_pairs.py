"""Neural graphs as tables of all nodes and of all pairs of nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.reading.encoding import Reading
from baselines.reading.message_passing import FlatWiring, on_device, starts_of

LARGEST_PADDING = 1.2
"""Graphs stand in one table as long as the largest has no more nodes than this times the smallest."""


@dataclass(frozen=True)
class NodePairs:
    """Where the nodes and edges of a reading stand in tables of all nodes and of all pairs of nodes.

    Networks of one structure have one table. Others are sorted by size into a few, in which the smaller ones are padded.

    Args:
        shapes: Number of graphs and of nodes of each table.
        masks: Which places of each table have a node, bool ``[graphs, nodes]``; None for all.
        nodes: Place of each node in the tables of nodes, one after the other, int64 ``[nodes]``; None for networks of one
            structure, which stand side by side.
        edges: Place of each edge in the tables of pairs, one after the other, source-major, int64 ``[edges]``; for networks of
            one structure the place among the pairs of each.
    """

    shapes: tuple[tuple[int, int], ...]
    masks: tuple[Tensor | None, ...]
    nodes: Tensor | None
    edges: Tensor

    @classmethod
    def of(cls, reading: Reading) -> NodePairs:
        """The tables for a reading."""
        wiring = reading.wiring
        if isinstance(wiring, FlatWiring):
            return cls.padded(wiring)
        num_nodes, num_graphs, _ = reading.features.shape
        return cls(((num_graphs, num_nodes),), (None,), None, on_device(wiring.pairs, reading.features.device))

    @classmethod
    def padded(cls, wiring: FlatWiring) -> NodePairs:
        """The tables for networks of several structures."""
        sizes, num_nodes = wiring.nodes_of_graph, wiring.num_real_nodes
        ascending, order = sizes.sort(stable=True)
        shapes = _shapes(ascending.tolist())
        widths = torch.tensor([width for count, width in shapes for _ in range(count)], device=sizes.device)
        width, first_node, first_pair = (torch.empty_like(sizes) for _ in range(3))
        width[order], first_node[order], first_pair[order] = widths, starts_of(widths), starts_of(widths.square())
        graph = wiring.graph[:num_nodes]
        rank = wiring.nodes[:num_nodes] - starts_of(sizes)[graph]
        sources, targets = wiring.sources[: wiring.num_real_edges], wiring.targets
        of_edge = graph[targets]
        parts = ascending.unsqueeze(1).split([count for count, _ in shapes])
        return cls(
            shapes=shapes,
            masks=tuple(torch.arange(w, device=sizes.device) < part for (_, w), part in zip(shapes, parts, strict=True)),
            nodes=first_node[graph] + rank,
            edges=first_pair[of_edge] + rank[sources] * width[of_edge] + rank[targets],
        )

    def spread(self, nodes: Tensor, edges: Tensor, absent: Tensor) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """For each table nodes ``[graphs, nodes, channels]``, pairs ``[graphs, nodes, nodes, channels]`` and mask.

        What edges with the same source and target differ in from a pair without an edge is summed.

        Args:
            nodes: ``[nodes, graphs, channels]``.
            edges: ``[edges, graphs, channels]``.
            absent: What a pair without an edge has, ``[channels]``.
        """
        absent = absent.to(edges.dtype)
        if self.nodes is None:
            ((num_graphs, width),) = self.shapes
            changes = edges.transpose(0, 1) - absent
            pairs = absent.expand(num_graphs, width**2, -1).index_add(1, self.edges, changes)
            return [(nodes.transpose(0, 1), pairs.unflatten(1, (width, width)), None)]
        places = nodes.new_zeros(sum(count * width for count, width in self.shapes), nodes.shape[2])
        places = places.index_copy(0, self.nodes, nodes[: len(self.nodes), 0])
        pairs = absent.expand(sum(count * width**2 for count, width in self.shapes), -1)
        pairs = pairs.index_add(0, self.edges, edges[: len(self.edges), 0] - absent)
        of_nodes = places.split([count * width for count, width in self.shapes])
        of_pairs = pairs.split([count * width**2 for count, width in self.shapes])
        return [
            (rows.view(count, width, -1), table.view(count, width, width, -1), mask)
            for (count, width), rows, table, mask in zip(self.shapes, of_nodes, of_pairs, self.masks, strict=True)
        ]

    def collect(self, tables: Sequence[Tensor], like: Tensor) -> Tensor:
        """Nodes of all tables as they stand in the reading, ``[nodes, graphs, channels]``; zeros for its padding.

        Args:
            tables: ``[graphs, nodes, channels]`` each.
            like: Nodes of the reading.
        """
        if self.nodes is None:
            return tables[0].transpose(0, 1)
        rows = torch.cat([table.flatten(0, 1) for table in tables]).index_select(0, self.nodes)
        return torch.cat([rows, rows.new_zeros(len(like) - len(rows), rows.shape[1])]).unsqueeze(1)


def _shapes(sizes: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Number of graphs and of nodes of each table, for graphs of these ascending numbers of nodes."""
    shapes: list[tuple[int, int]] = []
    smallest = 0
    for size in sizes:
        if shapes and size <= LARGEST_PADDING * smallest:
            shapes[-1] = shapes[-1][0] + 1, size
        else:
            smallest = size
            shapes.append((1, size))
    return tuple(shapes)
