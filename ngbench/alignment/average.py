"""Several networks of one topology brought to one network's nodes, and averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ngbench.errors import GraphError
from ngbench.graph import NeuralGraph
from ngbench.graph.symmetry import GroupElement

Matcher = Callable[[NeuralGraph, NeuralGraph], GroupElement]
"""Gives the element that brings the second network's nodes to the first's."""

_MAX_ROUNDS = 20


def mean_of(graphs: Sequence[NeuralGraph]) -> NeuralGraph:
    """The network whose values are the means of others', whose nodes already correspond.

    Raises:
        GraphError: There is none, or their topologies differ.
    """
    if not graphs or any(graph.topology != graphs[0].topology for graph in graphs):
        digests = ", ".join(sorted({graph.topology.digest[:12] for graph in graphs})) or "none"
        raise GraphError(f"{len(graphs)} networks of topologies {digests} have no mean; expected one or more of one topology")
    rows = torch.stack([graph.row() for graph in graphs])
    return NeuralGraph(graphs[0].topology, NeuralGraph.from_row(graphs[0].topology, rows.mean(0)).slot_values, graphs[0].buffers)


def merge(graphs: Sequence[NeuralGraph], matcher: Matcher) -> NeuralGraph:
    """The mean of networks, each matched to the first.

    Args:
        graphs: One or more networks of one topology.
        matcher: What matches two of them.

    Raises:
        GraphError: As of `mean_of`.
    """
    return mean_of([graphs[0], *(matcher(graphs[0], graph).act(graph) for graph in graphs[1:])] if graphs else [])


def merge_many(graphs: Sequence[NeuralGraph], matcher: Matcher, *, seed: int = 0) -> NeuralGraph:
    """The mean of networks, each matched in turn to the mean of the others until none moves.

    Ainsworth et al. 2023, arXiv:2209.04836, Algorithm 3 (MergeMany).

    Args:
        graphs: One or more networks of one topology.
        matcher: What matches two of them.
        seed: Decides the order in which they are matched.

    Raises:
        GraphError: As of `mean_of`.
    """
    found, generator = list(graphs), torch.Generator().manual_seed(seed)
    for _ in range(_MAX_ROUNDS if len(found) > 1 else 0):
        moved = False
        for place in torch.randperm(len(found), generator=generator).tolist():
            element = matcher(mean_of([*found[:place], *found[place + 1 :]]), found[place])
            if not _is_identity(element):
                found[place], moved = element.act(found[place]), True
        if not moved:
            break
    return mean_of(found)


def _is_identity(element: GroupElement) -> bool:
    def stays(nodes: Tensor) -> bool:
        return torch.equal(nodes, torch.arange(len(nodes)))

    return all(stays(nodes) for nodes in element.permutations.values()) and not element.scales and not element.shifts
