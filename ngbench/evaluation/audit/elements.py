"""Elements of a topology's symmetry group by size, from two neurons exchanged to all layers permuted, and acting with them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from ngbench.graph import Index, NeuralGraph, Topology, symmetry
from ngbench.graph.symmetry import GroupElement
from ngbench.loading import GraphDataset

SAMPLED_SIGMA = 0.5
"""Standard deviation of the logarithms of the scales that `SymmetryGroup.sample` draws."""


@dataclass(frozen=True)
class Size:
    """Elements of one kind and size.

    Args:
        kind: ``"permutation"``, ``"scale"`` or ``"sign"``.
        name: The size in words.
        draw: Gives the element of a topology for a seed; None where its group has none of the kind.
    """

    kind: str
    name: str
    draw: Callable[[Topology, int], GroupElement | None]


def _two_neurons(topology: Topology, seed: int) -> GroupElement | None:
    indices = symmetry.group(topology).indices
    if not indices:
        return None
    rng = np.random.default_rng(seed)
    index = indices[rng.integers(len(indices))]
    first, second = rng.choice(index.size, size=2, replace=False).tolist()
    return transposition(topology, index, first, second)


def transposition(topology: Topology, index: Index, first: int, second: int) -> GroupElement:
    """Exchanges two entries of an index, in the first entry of each of its parents, and moves nothing else."""
    permutations = {}
    for group in topology.groups:
        indices = topology.indices_of(group.name)
        if index.name not in [own.name for own in indices]:
            continue
        shape = [own.size for own in indices]
        places = np.unravel_index(np.arange(group.size), shape)
        within = np.all([place == 0 for own, place in zip(indices, places, strict=True) if own.name in index.parents], axis=0)
        moved = [
            np.where(within & (place == first), second, np.where(within & (place == second), first, place))
            if own.name == index.name
            else place
            for own, place in zip(indices, places, strict=True)
        ]
        permutations[group.name] = torch.from_numpy(np.ravel_multi_index(moved, shape))
    return GroupElement(topology, permutations)


def _one_layer(topology: Topology, seed: int) -> GroupElement | None:
    group = symmetry.group(topology)
    if not group.indices:
        return None
    index = group.indices[np.random.default_rng(seed).integers(len(group.indices))]
    return replace(group, indices=(index,)).sample(seed)


def _all_layers(topology: Topology, seed: int) -> GroupElement | None:
    group = symmetry.group(topology)
    return group.sample(seed) if group.indices else None


def _scales(topology: Topology, seed: int, *, sigma: float) -> GroupElement | None:
    drawn = symmetry.group(topology, scaling=True).sample(seed).scales
    # powers of positive factors satisfy the same equations between units
    scales = {name: scale ** (sigma / SAMPLED_SIGMA) for name, scale in drawn.items()}
    return GroupElement(topology, {}, scales=scales) if scales else None


def _signs(topology: Topology, seed: int) -> GroupElement | None:
    drawn = symmetry.group(topology, signs=True).sample(seed)
    return GroupElement(topology, {}, scales=drawn.scales, shifts=drawn.shifts) if drawn.scales else None


PERMUTATIONS = (
    Size("permutation", "two neurons", _two_neurons),
    Size("permutation", "one layer", _one_layer),
    Size("permutation", "all layers", _all_layers),
)
SCALES = tuple(Size("scale", f"σ = {sigma}", partial(_scales, sigma=sigma)) for sigma in (0.1, 0.5, 1.0))
"""Positive scales whose logarithms have a standard deviation σ, without permutations."""
SIGNS = (Size("sign", "half of all units", _signs),)


@dataclass(frozen=True)
class Acted:
    """Networks before and after an element acted on each.

    Args:
        positions: Of these networks in the set that they were taken from, int64 ``[graphs]``.
        elements: What acted on each.
        before: The networks as they were.
        after: The networks acted on, in the same order.
    """

    positions: np.ndarray
    elements: tuple[GroupElement, ...]
    before: GraphDataset
    after: GraphDataset


def act(networks: GraphDataset, size: Size, *, salt: str, dtype: torch.dtype) -> Acted | None:
    """Acts on each network with an element of a size, drawn by the hash of salt and id; None where no network has such elements.

    Args:
        networks: On the CPU.
        size: Of the elements.
        salt: Names the draw.
        dtype: Type of the values before the element acts.
    """
    graphs = [in_dtype(graph, dtype) for graph in graphs_of(networks)]
    drawn = [size.draw(graph.topology, _seed(salt, id)) for graph, id in zip(graphs, networks.ids, strict=True)]
    found = [(position, element) for position, element in enumerate(drawn) if element is not None]
    if not found:
        return None
    positions, elements = np.array([position for position, _ in found]), tuple(element for _, element in found)
    before = [graphs[position] for position in positions]
    after = [element.act(graph) for element, graph in zip(elements, before, strict=True)]
    return Acted(positions, elements, with_graphs(networks, before, positions), with_graphs(networks, after, positions))


def graphs_of(networks: GraphDataset) -> list[NeuralGraph]:
    """The networks one by one, in the order of their ids; views of the values."""
    graphs = {}
    for bundle in networks.bundles:
        for position, variant, row in zip(bundle.index.tolist(), bundle.variant.tolist(), bundle.values, strict=True):
            graphs[position] = NeuralGraph.from_row(bundle.variants[variant], row)
    return [graphs[position] for position in range(len(networks))]


def in_dtype(graph: NeuralGraph, dtype: torch.dtype) -> NeuralGraph:
    """The same network with values of a type."""
    return NeuralGraph.from_row(graph.topology, graph.row().to(dtype))


def with_graphs(networks: GraphDataset, graphs: Sequence[NeuralGraph], positions: np.ndarray) -> GraphDataset:
    """Other graphs in the place of some networks, whose ids and hyper-parameters they keep; without targets.

    Args:
        networks: A set of networks.
        graphs: One for each position.
        positions: int64 ``[graphs]``.
    """
    ids = [networks.ids[position] for position in positions]
    dataset = GraphDataset.from_graphs(graphs, ids=ids, programs=networks.bundles[0].programs)
    return replace(dataset, hyperparameters={name: column[positions] for name, column in networks.hyperparameters.items()})


def _seed(salt: str, network_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{salt}/{network_id}".encode()).digest()[:8], "little")
