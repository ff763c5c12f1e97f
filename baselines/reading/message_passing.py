"""Messages on neural graphs: which node hears which edges, and the operations between the two.

Networks of one structure stand side by side (`Wiring`): nodes are ``[nodes, graphs, channels]`` and edges ``[edges, graphs,
channels]``, in the canonical order of the topology. The edges of a block are then one contiguous run, viewed as ``[targets,
sources, graphs, channels]``: what a node receives is a reduction over one axis, and as the graphs stand inside, it runs over
long rows of memory. Networks of many structures are one graph (`FlatWiring`), sorted so that all nodes of one in-degree are such
a run too. The gradients are written out: autograd would pass over the edges three times as often.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from baselines.kernels.sums import column_sums
from baselines.kernels.usable import in_format
from ngbench.graph import Topology
from ngbench.graph.neural_graph import edge_index

SMALLEST_VARIANCE = 1e-5

CACHE_SIZE = 4096
"""Tables of indices of each sort that are kept."""


def on_device(table: Tensor, device: torch.device) -> Tensor:
    """A table that a cache keeps, on a device, copied there once: a captured step must not copy."""
    return table if table.device == device else _copied(table, device)


@lru_cache(maxsize=CACHE_SIZE)
def _copied(table: Tensor, device: torch.device) -> Tensor:
    return table.to(device)


@dataclass(frozen=True)
class Run:
    """The edges of one block and the nodes that they join, as runs of the edge and node axes.

    Args:
        edges: Its edges, target-major.
        targets: Their target nodes, each with equally many edges.
        sources: Their source nodes.
        sources_of_target: For each target its sources within `sources`, ``[targets, sources]``; None where it has all of them.
    """

    edges: slice
    targets: slice
    sources: slice
    sources_of_target: Tensor | None

    def block(self, edges: Tensor) -> Tensor:
        """Its part of ``[edges, ...]`` as ``[targets, sources, ...]``."""
        return _by_target(edges, self.edges, self.targets)

    def add_ends(self, edges: Tensor, at_target: Tensor, at_source: Tensor) -> None:
        """Writes to its edges the sum of a vector of the target and a vector of the source, from ``[nodes, ...]`` each."""
        sources, places = at_source[self.sources], self.sources_of_target
        by_target = sources.unsqueeze(0) if places is None else sources[on_device(places, sources.device)]
        torch.add(at_target[self.targets].unsqueeze(1), by_target, out=self.block(edges))

    def add_edges(self, edges: Tensor, at_target: Tensor, at_source: Tensor) -> None:
        """Adds its edges to their targets and to their sources, in ``[nodes, ...]`` each."""
        block = self.block(edges)
        at_target[self.targets].add_(block.sum(1))
        if self.sources_of_target is None:
            at_source[self.sources].add_(block.sum(0))
        else:
            places = on_device(self.sources_of_target, edges.device)
            at_source[self.sources].index_add_(0, places.flatten(), block.flatten(0, 1))


Receivers = tuple[slice, tuple[slice, ...]]
"""A run of nodes of one in-degree, and the runs of edges that enter them, each in the order of the nodes."""


@dataclass(frozen=True, eq=False)
class Wiring:
    """The edges of a topology: its blocks in canonical order, then, where asked for, the same blocks reversed.

    For networks of this one topology, so that all have the same nodes and edges: ``[nodes, graphs, channels]``.
    """

    runs: tuple[Run, ...]
    num_nodes: int
    num_edges: int

    @classmethod
    @lru_cache(maxsize=CACHE_SIZE)
    def of(cls, topology: Topology, reverse_edges: bool, /) -> Wiring:
        """The wiring of a topology."""
        nodes = {g.name: slice(topology.node_ptr[g.name], topology.node_ptr[g.name] + g.size) for g in topology.groups}
        runs, start = [], 0
        for is_reversed in (False, True)[: 1 + reverse_edges]:
            for block in topology.blocks:
                stop = start + math.prod(topology.block_shape(block.name)[:2])
                target, source = (block.source, block.target) if is_reversed else (block.target, block.source)
                ends = None if block.pattern == "dense" else _sources_of_target(topology, block.name, is_reversed=is_reversed)
                runs.append(Run(slice(start, stop), nodes[target], nodes[source], ends))
                start = stop
        return cls(tuple(runs), topology.num_nodes, start)

    @property
    def num_real_edges(self) -> int:
        """Number of edges; here none is padding."""
        return self.num_edges

    def parts(self, most_edges: int, device: torch.device) -> Iterator[tuple[slice, list[slice], Wiring]]:
        """The wiring cut into parts of a few targets each: the targets, their edges, and the wiring of these edges alone.

        Args:
            most_edges: Edges of a part, at most, unless one target has more.
            device: Where the tables of the parts stand: they are not kept, so that nothing may copy them there later.
        """
        incoming: dict[tuple[int, int], list[Run]] = {}
        for run in self.runs:
            incoming.setdefault((run.targets.start, run.targets.stop), []).append(run)
        for (first, last), runs in incoming.items():
            degrees = [_size(run.edges) // (last - first) for run in runs]
            step = max(1, most_edges // max(1, sum(degrees)))
            for start in range(first, last, step):
                targets = slice(start, min(start + step, last))
                yield targets, *_cut(runs, degrees, targets, num_nodes=self.num_nodes, device=device)

    @cached_property
    def receivers(self) -> tuple[Receivers, ...]:
        """All nodes that edges enter; groups that follow one another with equal in-degree from one block each are one run."""
        incoming: dict[tuple[int, int], list[slice]] = {}
        for run in self.runs:
            incoming.setdefault((run.targets.start, run.targets.stop), []).append(run.edges)
        found: list[Receivers] = []
        for (start, stop), edges in sorted(incoming.items()):
            nodes, runs = slice(start, stop), tuple(edges)
            if found and _continues(found[-1], (nodes, runs)):
                before_nodes, (before_edges,) = found.pop()
                nodes, runs = slice(before_nodes.start, stop), (slice(before_edges.start, runs[0].stop),)
            found.append((nodes, runs))
        return tuple(found)

    @cached_property
    def degree(self) -> Tensor:
        """Number of edges that enter each node, float64 ``[nodes]``."""
        degree = torch.zeros(self.num_nodes, dtype=torch.float64)
        for run in self.runs:
            degree[run.targets] += _size(run.edges) / _size(run.targets)
        return degree

    @cached_property
    def pairs(self) -> Tensor:
        """Place of each edge among all pairs of nodes, source-major, int64 ``[edges]``."""
        places = []
        for run in self.runs:
            targets, sources = (torch.arange(ends.start, ends.stop) for ends in (run.targets, run.sources))
            of_target = sources.expand(len(targets), -1) if run.sources_of_target is None else sources[run.sources_of_target]
            places.append((of_target * self.num_nodes + targets.unsqueeze(1)).flatten())
        return torch.cat(places)

    def add_ends(self, nodes: Tensor) -> Tensor:
        """The sum of ends of `SumOfEnds`."""
        at_target, at_source = nodes.chunk(2, -1)
        edges = at_target.new_empty(self.num_edges, *at_target.shape[1:])
        for run in self.runs:
            run.add_ends(edges, at_target, at_source)
        return edges

    def add_edges(self, edges: Tensor) -> Tensor:
        """What `add_ends` sends back: for each node the sums over the edges that enter and over those that leave it."""
        nodes = edges.new_zeros(self.num_nodes, edges.shape[1], 2 * edges.shape[2])
        at_target, at_source = nodes.chunk(2, -1)
        for run in self.runs:
            run.add_edges(edges, at_target, at_source)
        return nodes

    def sum(self, nodes: Tensor) -> Tensor:
        """Sum of the nodes of each graph, ``[graphs, channels]``."""
        return nodes.sum(0)

    def max(self, nodes: Tensor) -> Tensor:
        """Largest number of each channel among the nodes of each graph, ``[graphs, channels]``."""
        return nodes.amax(0)

    def spread(self, graphs: Tensor) -> Tensor:
        """``[graphs, channels]`` shaped to be added to the nodes."""
        return graphs.unsqueeze(0)

    def num_nodes_of_graph(self, like: Tensor) -> Tensor:
        """Number of nodes of each graph, shaped to divide ``[graphs, channels]``."""
        return like.new_full((), self.num_nodes)

    def amplification(self, like: Tensor, mean_log_degree: float) -> Tensor:
        """The amplification scaler of each node, log(in-degree + 1) over its mean, ``[nodes, 1, 1]``."""
        return (on_device(self.degree, like.device).log1p() / mean_log_degree).to(like.dtype)[:, None, None]

    def split(self, nodes: Tensor) -> list[Tensor]:
        """The nodes of each graph in canonical order, ``[nodes, channels]``."""
        return list(nodes.unbind(1))


def _cut(
    runs: list[Run], degrees: list[int], targets: slice, *, num_nodes: int, device: torch.device
) -> tuple[list[slice], Wiring]:
    """The edges of runs, which enter the same nodes, that enter some of these, and the wiring of those edges alone."""
    edges, kept, position = [], [], 0
    for run, degree in zip(runs, degrees, strict=True):
        first, last = targets.start - run.targets.start, targets.stop - run.targets.start
        start = run.edges.start + first * degree
        edges.append(slice(start, start + (last - first) * degree))
        places = run.sources_of_target
        here = slice(position, position + _size(edges[-1]))
        kept.append(Run(here, targets, run.sources, None if places is None else on_device(places, device)[first:last]))
        position = here.stop
    return edges, Wiring(tuple(kept), num_nodes, position)


def _sources_of_target(topology: Topology, name: str, *, is_reversed: bool) -> Tensor:
    """For each target of a block its sources, or for each source its targets, ``[targets, sources]``."""
    sources = torch.from_numpy(topology.block_sources(name).copy())
    if not is_reversed:
        return sources
    num_sources = topology.group(topology.edge_block(name).source).size
    return (sources.flatten().argsort(stable=True) // sources.shape[1]).view(num_sources, -1)


@lru_cache(maxsize=CACHE_SIZE)
def reversal(topology: Topology, /) -> Tensor:
    """The edges in the order in which they stand when each block is reversed, int64 ``[edges]``."""
    orders, start = [], 0
    for block in topology.blocks:
        sources = torch.from_numpy(topology.block_sources(block.name).copy()).flatten()
        orders.append(start + sources.argsort(stable=True))
        start += len(sources)
    return torch.cat(orders)


def _size(run: slice) -> int:
    return run.stop - run.start


def _by_target(edges: Tensor, run: slice, targets: slice) -> Tensor:
    return edges[run].unflatten(0, (_size(targets), -1))


def _continues(before: Receivers, after: Receivers) -> bool:
    if len(before[1]) > 1 or len(after[1]) > 1:
        return False
    (nodes, (edges,)), (next_nodes, (next_edges,)) = before, after
    adjacent = nodes.stop == next_nodes.start and edges.stop == next_edges.start
    return adjacent and _size(edges) * _size(next_nodes) == _size(next_edges) * _size(nodes)


@dataclass(frozen=True)
class Ends:
    """The edges of one topology as lists, in the order of its `Wiring`.

    Args:
        sources: Source of each edge, int64 ``[edges]``.
        targets: Target of each edge, int64 ``[edges]``.
        rank_at_source: How many edges before it leave the same source, int64 ``[edges]``.
        rank_at_target: How many edges before it enter the same target, int64 ``[edges]``.
        out_degree: Number of edges that leave each node, int64 ``[nodes]``.
        in_degree: Number of edges that enter each node, int64 ``[nodes]``.
    """

    sources: Tensor
    targets: Tensor
    rank_at_source: Tensor
    rank_at_target: Tensor
    out_degree: Tensor
    in_degree: Tensor

    @classmethod
    @lru_cache(maxsize=CACHE_SIZE)
    def of(cls, topology: Topology, reverse_edges: bool, /) -> Ends:
        """The edges of a topology."""
        sources, targets = edge_index(topology)
        if reverse_edges:
            order = reversal(topology)
            sources, targets = torch.cat([sources, targets[order]]), torch.cat([targets, sources[order]])
        degrees = [torch.bincount(ends, minlength=topology.num_nodes) for ends in (sources, targets)]
        return cls(sources, targets, *map(_rank_among_equals, (sources, targets), degrees), *degrees)


def _rank_among_equals(ends: Tensor, degree: Tensor) -> Tensor:
    order = ends.argsort(stable=True)
    rank = torch.empty_like(ends)
    rank[order] = torch.arange(len(ends)) - starts_of(degree)[ends[order]]
    return rank


def starts_of(counts: Tensor) -> Tensor:
    """Where each of several runs begins that stand one after the other."""
    return counts.cumsum(0) - counts


def tiled(tables: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """Tables one after the other along the first axis, each as often as is asked for."""
    return torch.cat([table.repeat(count, *[1] * (table.dim() - 1)) for table, count in zip(tables, counts, strict=True)])


FLAT_ROWS = 64
"""Nodes and edges of a `FlatWiring` are padded to a multiple of this, so that `product` may see them as a table."""


@dataclass(frozen=True, eq=False)
class FlatWiring:
    """Networks of many topologies as one graph: ``[nodes, 1, channels]`` and ``[edges, 1, channels]``.

    Nodes are sorted by their in-degree and edges by their target, so that the edges that enter all nodes of one degree are one
    run, ``[nodes, degree, 1, channels]``. Both are padded at the end: with nodes that no edge touches and edges that reach no
    node.

    Args:
        nodes: Place of each node where all graphs stand one after the other, int64 ``[padded nodes]``; 0 for the padding.
        places: The other way round: where each node stands here, int64 ``[nodes]``.
        edges: Place of each edge where all graphs stand one after the other, int64 ``[padded edges]``; 0 for the padding.
        sources: Source of each edge, int64 ``[padded edges]``.
        leaving: Edges sorted by their source, int64 ``[edges]``.
        leaving_ptr: Where in `leaving` the edges of each node begin, int64 ``[padded nodes]``.
        receivers: Nodes of one in-degree and the edges that enter them.
        degree: Number of edges that enter each node, float64 ``[padded nodes]``.
        graph: Graph of each node, int64 ``[padded nodes]``; 0 for the padding.
        nodes_of_graph: Number of nodes of each graph, int64 ``[graphs]``.
    """

    nodes: Tensor
    places: Tensor
    edges: Tensor
    sources: Tensor
    leaving: Tensor
    leaving_ptr: Tensor
    receivers: tuple[Receivers, ...]
    degree: Tensor
    graph: Tensor
    nodes_of_graph: Tensor

    @classmethod
    def of(cls, topologies: Sequence[tuple[Topology, int]], *, reverse_edges: bool) -> FlatWiring:
        """The wiring of some networks.

        Args:
            topologies: Topologies, and how many networks of each follow one another.
            reverse_edges: Whether each edge also runs from target to source.
        """
        ends, counts = [Ends.of(topology, reverse_edges) for topology, _ in topologies], [count for _, count in topologies]

        def of_all(name: str) -> Tensor:
            return tiled([getattr(of_one, name) for of_one in ends], counts)

        copies = torch.tensor(counts)
        nodes_of_graph = torch.tensor([len(of_one.in_degree) for of_one in ends]).repeat_interleave(copies)
        edges_of_graph = torch.tensor([len(of_one.sources) for of_one in ends]).repeat_interleave(copies)
        first_node = starts_of(nodes_of_graph).repeat_interleave(edges_of_graph)
        in_degree = of_all("in_degree")
        order = in_degree.argsort(stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        sources, targets = place[first_node + of_all("sources")], place[first_node + of_all("targets")]
        in_degree, out_degree = in_degree[order], of_all("out_degree")[order]
        edge_place = starts_of(in_degree)[targets] + of_all("rank_at_target")
        edges, leaving = torch.empty_like(sources), torch.empty_like(sources)
        edges[edge_place] = torch.arange(len(sources))
        leaving[starts_of(out_degree)[sources] + of_all("rank_at_source")] = edge_place
        graph = torch.arange(len(nodes_of_graph)).repeat_interleave(nodes_of_graph)[order]
        return cls(
            nodes=_padded(order, with_value=0),
            places=place,
            edges=_padded(edges, with_value=0),
            sources=_padded(sources[edges], with_value=0),
            leaving=leaving,
            leaving_ptr=_padded(starts_of(out_degree), with_value=len(leaving)),
            receivers=_runs_of_equal_degree(in_degree),
            degree=_padded(in_degree, with_value=0).double(),
            graph=_padded(graph, with_value=0),
            nodes_of_graph=nodes_of_graph,
        )

    @property
    def num_nodes(self) -> int:
        """Number of nodes, the padding included."""
        return len(self.nodes)

    @property
    def num_edges(self) -> int:
        """Number of edges, the padding included."""
        return len(self.edges)

    def to(self, device: torch.device) -> FlatWiring:
        """The wiring on another device."""
        if device == self.nodes.device:
            return self
        tensors = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)

    def add_ends(self, nodes: Tensor) -> Tensor:
        """The sum of ends of `SumOfEnds`."""
        at_target, at_source = nodes.chunk(2, -1)
        edges = at_source.contiguous().index_select(0, self.sources)
        for targets, (run,) in self.receivers:
            _by_target(edges, run, targets).add_(at_target[targets].unsqueeze(1))
        return edges

    def add_edges(self, edges: Tensor) -> Tensor:
        """What `add_ends` sends back: for each node the sums over the edges that enter and over those that leave it."""
        nodes = edges.new_zeros(self.num_nodes, 1, 2 * edges.shape[2])
        at_target, at_source = nodes.chunk(2, -1)
        for targets, (run,) in self.receivers:
            torch.sum(_by_target(edges, run, targets), 1, out=at_target[targets])
        at_source[:, 0] = functional.embedding_bag(self.leaving, edges[:, 0], self.leaving_ptr, mode="sum")
        return nodes

    def sum(self, nodes: Tensor) -> Tensor:
        """Sum of the nodes of each graph, ``[graphs, channels]``."""
        return _GraphSum.apply(nodes, self)

    def sum_rows(self, nodes: Tensor) -> Tensor:
        """What `sum` gives, without gradients: in the canonical order of each graph's nodes, so always with the same bits."""
        return functional.embedding_bag(self.places, nodes[:, 0].contiguous(), starts_of(self.nodes_of_graph), mode="sum")

    def max(self, nodes: Tensor) -> Tensor:
        """Largest number of each channel among the nodes of each graph, ``[graphs, channels]``."""
        rows = nodes[: self.num_real_nodes, 0]
        index = self.graph[: len(rows)].unsqueeze(1).expand_as(rows)
        least = rows.new_full((len(self.nodes_of_graph), rows.shape[1]), -math.inf)
        return least.scatter_reduce(0, index, rows, "amax")

    def spread(self, graphs: Tensor) -> Tensor:
        """``[graphs, channels]`` shaped to be added to the nodes."""
        return _GraphSpread.apply(graphs, self)

    def spread_rows(self, graphs: Tensor) -> Tensor:
        """What `spread` gives, without gradients."""
        return graphs.index_select(0, self.graph).unsqueeze(1)

    def num_nodes_of_graph(self, like: Tensor) -> Tensor:
        """Number of nodes of each graph, shaped to divide ``[graphs, channels]``."""
        return self.nodes_of_graph.to(like).unsqueeze(1)

    def places_of(self, nodes: Tensor) -> Tensor:
        """Where nodes of each graph stand, int64 ``[graphs, nodes]``; beyond the graph's own nodes `num_nodes`."""
        first = starts_of(self.nodes_of_graph).unsqueeze(1)
        is_there = nodes < self.nodes_of_graph.unsqueeze(1)
        return torch.where(is_there, self.places[torch.where(is_there, first + nodes, 0)], self.num_nodes)

    def amplification(self, like: Tensor, mean_log_degree: float) -> Tensor:
        """The amplification scaler of each node, log(in-degree + 1) over its mean, ``[nodes, 1, 1]``."""
        return (self.degree.log1p() / mean_log_degree).to(like.dtype)[:, None, None]

    def split(self, nodes: Tensor) -> list[Tensor]:
        """The nodes of each graph in canonical order, ``[nodes, channels]``."""
        return list(nodes[self.places, 0].split(self.nodes_of_graph.tolist()))

    @property
    def targets(self) -> Tensor:
        """Target of each edge, without the padding, int64 ``[edges]``."""
        nodes = torch.arange(len(self.degree), device=self.degree.device)
        return nodes.repeat_interleave(self.degree.long(), output_size=self.num_real_edges)

    @property
    def num_real_edges(self) -> int:
        """Number of edges without the padding."""
        return len(self.leaving)

    @property
    def num_real_nodes(self) -> int:
        """Number of nodes without the padding."""
        return len(self.places)


def _padded(rows: Tensor, *, with_value: int) -> Tensor:
    return functional.pad(rows, (0, -len(rows) % FLAT_ROWS), value=with_value)


def _runs_of_equal_degree(degree: Tensor) -> tuple[Receivers, ...]:
    """Runs of nodes, sorted by in-degree, and of their edges, sorted by target; those of no edge left out."""
    found: list[Receivers] = []
    first_node = first_edge = 0
    for size, count in zip(*(part.tolist() for part in torch.unique_consecutive(degree, return_counts=True)), strict=True):
        last_node, last_edge = first_node + count, first_edge + count * size
        if size:
            found.append((slice(first_node, last_node), (slice(first_edge, last_edge),)))
        first_node, first_edge = last_node, last_edge
    return tuple(found)


class _GraphSum(torch.autograd.Function):
    """`FlatWiring.sum`; autograd's own way on a CUDA device adds in no fixed order."""

    @staticmethod
    def forward(ctx: Any, nodes: Tensor, wiring: FlatWiring) -> Tensor:
        ctx.wiring = wiring
        return wiring.sum_rows(nodes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad_nodes = ctx.wiring.spread_rows(grad)
        grad_nodes[ctx.wiring.num_real_nodes :] = 0
        return grad_nodes, None


class _GraphSpread(torch.autograd.Function):
    """`FlatWiring.spread`; nothing comes back from the padding."""

    @staticmethod
    def forward(ctx: Any, graphs: Tensor, wiring: FlatWiring) -> Tensor:
        ctx.wiring = wiring
        return wiring.spread_rows(graphs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.wiring.sum_rows(grad), None


class SumOfEnds(torch.autograd.Function):
    """For each edge the sum of a vector of its target and a vector of its source, ``[edges, graphs, channels]``."""

    @staticmethod
    def forward(ctx: Any, nodes: Tensor, wiring: Wiring | FlatWiring) -> Tensor:
        """From ``[nodes, graphs, 2 channels]``: each node's vector as a target, then its vector as a source."""
        ctx.wiring = wiring
        return wiring.add_ends(nodes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Sums over the edges that a node ends."""
        return ctx.wiring.add_edges(grad), None


class Aggregate(torch.autograd.Function):
    """Mean, min, max and standard deviation of the messages that each node receives, ``[nodes, graphs, 4 channels]``.

    The message of an edge is ``scale · ends + shift``. A node that receives none gets zeros, and so does the deviation where
    the variance is no more than `SMALLEST_VARIANCE`.
    """

    @staticmethod
    def forward(ctx: Any, film: Tensor, ends: Tensor, wiring: Wiring | FlatWiring) -> Tensor:
        """From scale and shift ``[edges, graphs, 2 channels]`` and ends ``[edges, graphs, channels]``."""
        scale, shift = film.chunk(2, -1)
        messages = torch.addcmul(shift, scale, ends)
        out = _aggregated(messages, wiring)
        ctx.save_for_backward(film, ends, messages, out)
        ctx.wiring = wiring
        return out.flatten(2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Extremes pass their gradient to the edges that attain them, in equal parts."""
        film, ends, messages, out = ctx.saved_tensors
        grad_messages = _through_aggregate(grad, messages, out, ctx.wiring, torch.empty_like(messages))
        scale = film.chunk(2, -1)[0]
        return torch.cat([grad_messages * ends, grad_messages], -1), grad_messages * scale, None


class AggregateOfEdges(torch.autograd.Function):
    """`Aggregate` with scale and shift ``linear(edges)``, which are computed again in the backward pass instead of kept."""

    @staticmethod
    def forward(ctx: Any, edges: Tensor, ends: Tensor, weight: Tensor, bias: Tensor, wiring: Wiring | FlatWiring) -> Tensor:
        """From edges and ends, ``[edges, graphs, channels]``."""
        scale, shift = functional.linear(edges, weight, bias).chunk(2, -1)
        out = _aggregated(torch.addcmul(shift, scale, ends), wiring)
        ctx.save_for_backward(edges, ends, weight, bias, out)
        ctx.wiring = wiring
        return out.flatten(2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """As `Aggregate`, and through the linear layer."""
        edges, ends, weight, bias, out = ctx.saved_tensors
        scale, shift = functional.linear(edges, weight, bias).chunk(2, -1)
        messages = torch.addcmul(shift, scale, ends)
        grad_film = edges.new_empty(*edges.shape[:2], 2 * messages.shape[2])
        grad_scale, grad_shift = grad_film.chunk(2, -1)
        _through_aggregate(grad, messages, out, ctx.wiring, grad_shift)
        torch.mul(grad_shift, ends, out=grad_scale)
        rows = grad_film.flatten(0, 1)
        grad_weight = rows.T @ edges.flatten(0, 1)
        return grad_film @ weight, grad_shift * scale, grad_weight, column_sums(rows), None


class LinearOfSiLU(torch.autograd.Function):
    """``linear(silu(vectors))``, which keeps nothing but the vectors."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """On ``[edges, graphs, channels]``."""
        ctx.save_for_backward(vectors, weight)
        return functional.linear(functional.silu(vectors), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Of vectors, weight and bias."""
        vectors, weight = ctx.saved_tensors
        rows = grad.flatten(0, 1)
        grad_weight = rows.T @ functional.silu(vectors).flatten(0, 1)
        grad_vectors = torch.ops.aten.silu_backward(grad @ weight, vectors)
        return grad_vectors, grad_weight, column_sums(rows)


def _aggregated(messages: Tensor, wiring: Wiring | FlatWiring) -> Tensor:
    """What `Aggregate` gives of messages ``[edges, graphs, channels]``, ``[nodes, graphs, 4, channels]``."""
    out = messages.new_zeros(wiring.num_nodes, messages.shape[1], 4, messages.shape[2])
    for nodes, runs in wiring.receivers:
        block = _received(messages, nodes, runs)
        mean, least, most, deviation = out[nodes].unbind(2)
        torch.mean(block, 1, out=mean)
        torch.amin(block, 1, out=least)
        torch.amax(block, 1, out=most)
        variance = (block - mean.unsqueeze(1)).square_().mean(1)
        torch.sqrt(functional.threshold(variance, SMALLEST_VARIANCE, 0), out=deviation)
    return out


def _through_aggregate(grad: Tensor, messages: Tensor, out: Tensor, wiring: Wiring | FlatWiring, grad_messages: Tensor) -> Tensor:
    """The gradient of the messages, written to the last tensor, from that of `_aggregated`'s result."""
    grad = grad.unflatten(2, (4, -1))
    grad_messages[wiring.num_real_edges :] = 0
    for nodes, runs in wiring.receivers:
        block, grad_block = _received(messages, nodes, runs), _received(grad_messages, nodes, runs)
        mean, least, most, deviation = out[nodes].unbind(2)
        grad_mean, grad_least, grad_most, grad_deviation = grad[nodes].unbind(2)
        # d deviation / d message = (message - mean) / (degree · deviation), and nothing where the deviation counts as zero
        variance = deviation.square().clamp_(min=SMALLEST_VARIANCE)
        slope = grad_deviation * deviation / variance.mul_(block.shape[1])
        base = torch.addcmul(grad_mean / block.shape[1], mean, slope, value=-1)
        torch.addcmul(base.unsqueeze(1), block, slope.unsqueeze(1), out=grad_block)
        for extreme, grad_extreme in ((least, grad_least), (most, grad_most)):
            attained = torch.eq(block, extreme.unsqueeze(1), out=torch.empty_like(block))
            grad_block.addcmul_(attained, (grad_extreme / attained.sum(1)).unsqueeze(1))
        if len(runs) > 1:
            parts = [_by_target(grad_messages, run, nodes) for run in runs]
            torch.split_with_sizes_copy(grad_block, [part.shape[1] for part in parts], 1, out=parts)
    return grad_messages


def _received(messages: Tensor, nodes: slice, runs: tuple[slice, ...]) -> Tensor:
    """All messages to some nodes, ``[targets, sources, graphs, channels]``; no copy where one run of edges enters them."""
    parts = [_by_target(messages, run, nodes) for run in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class Linear(nn.Linear):
    """`torch.nn.Linear` on ``[rows, graphs, channels]``, by the fastest kernel that torch has for it."""

    def forward(self, input: Tensor) -> Tensor:
        """``[rows, graphs, channels]`` to the same."""
        return product(input, self.weight, self.bias)


class PlainLinear(nn.Linear):
    """`torch.nn.Linear` by `linear`, on ``[..., channels]``."""

    def forward(self, input: Tensor) -> Tensor:
        """``[..., channels]`` to the same."""
        return linear(input, self.weight, self.bias)


def product(vectors: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``functional.linear`` on ``[rows, graphs, channels]``.

    On CPU torch multiplies float32 matrices with MKL, which is slow on processors of another maker, but convolves with oneDNN,
    which is not: as a convolution of 1×1, with rows for images and graphs for pixels, a product of these sizes takes 40 % of
    the time on an AMD EPYC.
    """
    if vectors.shape[1] == 1 and len(vectors) % FLAT_ROWS == 0:
        return product(vectors.reshape(-1, FLAT_ROWS, vectors.shape[-1]), weight, bias).reshape(len(vectors), 1, -1)
    return Convolution.apply(vectors, weight, bias) if _convolves(vectors) else linear(vectors, weight, bias)


def linear(vectors: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``functional.linear`` on ``[..., channels]``; on a CUDA device the gradient of the bias is one of `column_sums`."""
    if bias is None or not vectors.is_cuda or not torch.is_grad_enabled():
        return functional.linear(vectors, weight, bias)
    return LinearWithSums.apply(*in_format(vectors, weight, bias))


class LinearWithSums(torch.autograd.Function):
    """A linear layer, see `linear`."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """``vectors @ weight.T + bias``."""
        ctx.save_for_backward(vectors, weight)
        return functional.linear(vectors, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Of vectors, weight and bias."""
        vectors, weight = ctx.saved_tensors
        rows, grad_vectors = grad.flatten(0, -2), grad @ weight if ctx.needs_input_grad[0] else None
        return grad_vectors, rows.T @ vectors.flatten(0, -2), column_sums(rows)


def product_alone(vectors: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What `product` gives of ``[rows, graphs, channels]``, without a way back."""
    return _convolved(vectors, weight, bias) if _convolves(vectors) else functional.linear(vectors, weight, bias)


def product_gradients(grad: Tensor, vectors: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """What `product` sends back to its vectors and to its weight.

    Args:
        grad: Of the result, ``[rows, graphs, channels]``.
        vectors: As they were given.
        weight: As it was given.
    """
    if not _convolves(vectors):
        return grad @ weight, grad.flatten(0, 1).T @ vectors.flatten(0, 1)
    return _convolution_gradients(grad, vectors, weight, of_vectors=True)


def _convolves(vectors: Tensor) -> bool:
    is_slow_as_product = vectors.device.type == "cpu" and vectors.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return is_slow_as_product and len(vectors) >= LEAST_IMAGES and torch.backends.mkldnn.is_available()


class Convolution(torch.autograd.Function):
    """A linear layer as a convolution of 1×1, on ``[rows, graphs, channels]``."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``vectors @ weight.T + bias``."""
        ctx.save_for_backward(vectors, weight)
        return _convolved(vectors, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Leaves the gradient of the bias to a sum, which takes a fifth of the time that the convolution takes for it."""
        vectors, weight = ctx.saved_tensors
        grad_vectors, grad_weight = _convolution_gradients(grad, vectors, weight, of_vectors=ctx.needs_input_grad[0])
        return grad_vectors, grad_weight, grad.sum((0, 1)) if ctx.needs_input_grad[2] else None


def _convolved(vectors: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    images = _as_images(_in_larger_images(vectors))
    return _as_vectors(functional.conv2d(images, weight[:, :, None, None], bias)).reshape(*vectors.shape[:2], -1)


def _convolution_gradients(grad: Tensor, vectors: Tensor, weight: Tensor, *, of_vectors: bool) -> tuple[Tensor, Tensor]:
    images, filters, wanted = _as_images(vectors), weight[:, :, None, None], [of_vectors, True, False]
    grad_images, grad_filters, _ = torch.ops.aten.convolution_backward(
        _as_images(grad), images, filters, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, wanted
    )
    return _as_vectors(grad_images) if of_vectors else grad_images, grad_filters[:, :, 0, 0]


LEAST_IMAGES, MOST_PIXELS = 16, 128
"""Of a convolution: below so many images torch takes one thread without oneDNN, and more pixels in each gain nothing."""


def _in_larger_images(vectors: Tensor) -> Tensor:
    """``[rows, graphs, channels]`` as fewer rows of more pixels where no copy is needed, which changes no bit of a convolution.

    One of 16 pixels, or of 8, takes 1.1 to 1.3 times as long for the same vectors as one of 128.
    """
    num_rows, num_graphs, channels = vectors.shape
    if not vectors.is_contiguous():
        return vectors
    most = min(MOST_PIXELS // max(1, num_graphs), num_rows // LEAST_IMAGES)
    together = next((number for number in range(most, 1, -1) if num_rows % number == 0), 1)
    return vectors.view(num_rows // together, num_graphs * together, channels)


def _as_images(vectors: Tensor) -> Tensor:
    return vectors.transpose(1, 2).unsqueeze(2)


def _as_vectors(images: Tensor) -> Tensor:
    return images.squeeze(2).transpose(1, 2)
