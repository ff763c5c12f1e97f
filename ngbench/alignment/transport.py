"""Networks of one family with unequal widths: the units of one spread softly over the units of the other.

OTFusion, Singh and Jaggi 2020, arXiv:1910.05653, Sections 3 and 4. It differs in that what leaves a unit is shared out among
the units that it is spread over, and not averaged, so that the sum that the next layer gets stays what it was; for equal widths
and masses that is the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ngbench.errors import GraphError, UnsupportedLayerError
from ngbench.graph import Index, NeuralGraph, Topology
from ngbench.graph.topology import EdgeBlock

Masses = Mapping[str, np.ndarray]
"""How much each unit counts, by node group, float64 ``[nodes]``; groups left out count evenly."""


def transport(
    first: Topology,
    second: NeuralGraph,
    *,
    embeddings: tuple[np.ndarray, np.ndarray],
    masses: tuple[Masses, Masses] = ({}, {}),
) -> NeuralGraph:
    """The second network spread over the units of the first: a network of the first's topology that can be averaged with it.

    For each index that moves a plan of optimal transport brings the mass of the second network's units to the first's at the
    least squared distance of node embeddings. What enters a unit of the result is the mean of what enters those that it comes
    from; what leaves a unit of the second goes to those that it is spread over, in shares.

    Args:
        first: Topology of the first network.
        second: A network whose groups and blocks have the same names and roles, of other sizes.
        embeddings: Of all nodes of either network in canonical order, ``[nodes, channels]``.
        masses: Of either network's units, such as `outgoing_masses`.

    Raises:
        GraphError: The topologies differ in more than sizes, fixed indices have different sizes, or shapes do not fit.
        UnsupportedLayerError: Units lie within heads, experts or groups, which are not transported.
    """
    _check(first, second.topology, embeddings)
    plans = _plans((first, second.topology), embeddings, masses)
    arriving = {name: plan / plan.sum(1, keepdims=True) for name, plan in plans.items()}
    leaving = {name: plan / plan.sum(0, keepdims=True) for name, plan in plans.items()}
    found: list[Tensor] = []
    for slot in second.topology.slots:
        values = second.slot_values[second.topology.slot_index[slot.owner, slot.feature]]
        if slot.feature is not None:
            found.append(values if len(values) == 1 else _matrix(arriving[slot.owner], values) @ values)
            continue
        block = second.topology.edge_block(slot.owner)
        values = torch.einsum("ut,tsk->usk", _matrix(arriving[block.target], values), values)
        if block.pattern == "dense":
            values = torch.einsum("vs,usk->uvk", _matrix(leaving[block.source], values), values)
        found.append(values)
    return NeuralGraph(first, tuple(found))


def outgoing_masses(graph: NeuralGraph) -> dict[str, np.ndarray]:
    """The norm of what leaves each unit by dense blocks, relative to its group's, by node group, float64 ``[nodes]``.

    A unit that stands twice, with half the outgoing weights each, has as much mass as one that stands once.
    """
    squares: dict[str, np.ndarray] = {}
    for block in graph.topology.blocks:
        if block.pattern == "dense" and block.parameter is not None:
            own = graph.block(block.name).double().square().sum((0, 2)).numpy()
            squares[block.source] = squares.get(block.source, 0) + own
    norms = {name: np.sqrt(own) for name, own in squares.items()}
    return {name: own / own.sum() for name, own in norms.items() if own.sum() > 0}


def _matrix(plan: np.ndarray, values: Tensor) -> Tensor:
    return torch.from_numpy(plan).to(values)


def _check(first: Topology, second: Topology, embeddings: tuple[np.ndarray, np.ndarray]) -> None:
    """Topologies that differ in sizes alone, and an embedding for each node."""

    def shape_of(block: EdgeBlock) -> tuple:
        return block.name, block.source, block.target, block.pattern, block.kernel, block.parameter is None

    for mine, theirs, what in (
        (*([(g.name, g.role, g.activation) for g in topology.groups] for topology in (first, second)), "groups"),
        ([shape_of(block) for block in first.blocks], [shape_of(block) for block in second.blocks], "blocks"),
        ([(s.owner, s.feature) for s in first.slots], [(s.owner, s.feature) for s in second.slots], "parameters"),
    ):
        other = [repr(one[0]) for one in set(mine) ^ set(theirs)]
        if mine != theirs:
            raise GraphError(
                f"networks differ in {what} ({', '.join(sorted(set(other))[:3]) or 'their order'}); expected one family of "
                "different widths"
            )
    shapes = [np.shape(nodes) for nodes in embeddings]
    if [shape[:1] for shape in shapes] != [(first.num_nodes,), (second.num_nodes,)] or shapes[0][1:] != shapes[1][1:]:
        raise GraphError(
            f"node embeddings have shapes {shapes[0]} and {shapes[1]}; expected ({first.num_nodes}, channels) and "
            f"({second.num_nodes}, channels)"
        )
    for block in first.blocks:
        if block.pattern == "grouped":
            raise UnsupportedLayerError(
                f"block {block.name!r} joins units within {', '.join(block.shared)}, which are not transported; expected layers "
                "without heads, experts or groups, or networks of equal widths"
            )


def _plans(
    topologies: tuple[Topology, Topology], embeddings: tuple[np.ndarray, np.ndarray], masses: tuple[Masses, Masses]
) -> dict[str, np.ndarray]:
    """For each node group the plan of its index, ``[first nodes, second nodes]``; groups that share an index add distances."""
    import ot

    owners: dict[str, list[str]] = {}
    indices: dict[str, tuple[Index, Index]] = {}
    for group in topologies[0].groups:
        one, other = (topology.indices_of(group.name) for topology in topologies)
        if [(i.name, i.fixed, len(i.parents)) for i in one] != [(i.name, i.fixed, len(i.parents)) for i in other] or len(one) > 1:
            names = ", ".join(dict.fromkeys(index.name for index in (*one, *other)))
            raise UnsupportedLayerError(
                f"group {group.name!r} runs over {names}, which are not transported; expected one index in each network"
            )
        if one:
            owners.setdefault(one[0].name, []).append(group.name)
            indices[one[0].name] = one[0], other[0]
    plans = {group.name: np.ones((1, 1)) for group in topologies[0].groups}
    for name, (one, other) in indices.items():
        if one.fixed:
            if one.size != other.size:
                raise GraphError(f"index {name!r} does not move and has sizes {one.size} and {other.size}; expected one size")
            plan = np.eye(one.size) / one.size
        else:
            cost = sum(_distances(topologies, embeddings, group) for group in owners[name])
            plan = np.asarray(ot.emd(_mass(one, masses[0], owners[name]), _mass(other, masses[1], owners[name]), cost))
        plans |= dict.fromkeys(owners[name], plan)
    return plans


def _mass(index: Index, masses: Masses, owners: list[str]) -> np.ndarray:
    """The mass of each entry of an index: the mean over the groups that say one, positive, adding up to 1."""
    own = [masses[group] for group in owners if group in masses]
    mass = np.mean(own, axis=0) if own else np.ones(index.size)
    # a unit without mass would come from nowhere
    mass = np.maximum(mass, 1e-9 * mass.max())
    return mass / mass.sum()


def _distances(topologies: tuple[Topology, Topology], embeddings: tuple[np.ndarray, np.ndarray], group: str) -> np.ndarray:
    """Squared distances of the nodes of a group, ``[first nodes, second nodes]``, relative to their mean square."""
    parts = []
    for topology, nodes in zip(topologies, embeddings, strict=True):
        start = topology.node_ptr[group]
        parts.append(np.asarray(nodes[start : start + topology.group(group).size], dtype=np.float64))
    centre = np.concatenate(parts).mean(0)
    first, second = (part - centre for part in parts)
    square = np.concatenate([first, second]).var()
    distances = np.square(first).sum(1)[:, None] + np.square(second).sum(1) - 2 * first @ second.T
    return np.maximum(distances, 0) / square if square > 0 else np.zeros_like(distances)
