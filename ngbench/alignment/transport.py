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
    return spread(first, second, plans(first, second.topology, embeddings=embeddings, masses=masses))


def widths(first: Topology, second: Topology) -> dict[str, tuple[int, int]]:
    """How many entries each index that moves has in either topology, by its name, in the first topology's order.

    Raises:
        GraphError: The topologies differ in more than sizes, or fixed indices have different sizes.
        UnsupportedLayerError: Units lie within heads, experts or groups, which are not transported.
    """
    _check_family(first, second)
    found = {}
    for _, one, other in _indices(first, second):
        if not one.fixed:
            found[one.name] = one.size, other.size
        elif one.size != other.size:
            raise GraphError(f"index {one.name!r} does not move and has sizes {one.size} and {other.size}; expected one size")
    return found


def differ_in_widths(first: Topology, second: Topology) -> bool:
    """Whether networks of the second topology can be transported to the first, and have other numbers of units."""
    try:
        return any(one != other for one, other in widths(first, second).values())
    except (GraphError, UnsupportedLayerError):
        return False


def plans(
    first: Topology,
    second: Topology,
    *,
    embeddings: tuple[np.ndarray, np.ndarray],
    masses: tuple[Masses, Masses] = ({}, {}),
) -> dict[str, np.ndarray]:
    """What of either network's units is brought together, by index that moves, float64 ``[first units, second units]``.

    A plan adds up to 1; its rows and columns to the masses of the units. Groups that share an index add their distances.

    Args:
        first: Topology of the first network.
        second: Of the second, which differs in sizes alone.
        embeddings: As of `transport`.
        masses: As of `transport`.

    Raises:
        GraphError: As of `widths`, or embeddings have other shapes or are not finite.
        UnsupportedLayerError: As of `widths`.
    """
    import ot

    moving = widths(first, second)
    _check_embeddings(first, second, embeddings)
    owners: dict[str, list[str]] = {}
    found = {}
    for group, one, _ in _indices(first, second):
        owners.setdefault(one.name, []).append(group)
    for name, sizes in moving.items():
        cost = sum(_distances((first, second), embeddings, group) for group in owners[name])
        one, other = (_mass(size, own, owners[name]) for size, own in zip(sizes, masses, strict=True))
        found[name] = np.asarray(ot.emd(one, other, cost))
    return found


def spread(first: Topology, second: NeuralGraph, plans: Mapping[str, np.ndarray]) -> NeuralGraph:
    """The second network on the units of the first, as `plans` says.

    Args:
        first: Topology of the first network.
        second: The network.
        plans: By index that moves, positive somewhere in each row and column, ``[first units, second units]``.

    Raises:
        GraphError: As of `widths`.
        UnsupportedLayerError: As of `widths`.
    """
    widths(first, second.topology)
    whole = {group.name: np.ones((1, 1)) for group in first.groups}
    whole |= {group: np.eye(one.size) if one.fixed else plans[one.name] for group, one, _ in _indices(first, second.topology)}
    arriving = {name: plan / plan.sum(1, keepdims=True) for name, plan in whole.items()}
    leaving = {name: plan / plan.sum(0, keepdims=True) for name, plan in whole.items()}
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


def _check_family(first: Topology, second: Topology) -> None:
    """Whether topologies differ in sizes alone, and are of layers that are transported."""

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
    for block in first.blocks:
        if block.pattern == "grouped":
            raise UnsupportedLayerError(
                f"block {block.name!r} joins units within {', '.join(block.shared)}, which are not transported; expected layers "
                "without heads, experts or groups, or networks of equal widths"
            )


def _check_embeddings(first: Topology, second: Topology, embeddings: tuple[np.ndarray, np.ndarray]) -> None:
    """Whether there is an embedding for each node."""
    shapes = [np.shape(nodes) for nodes in embeddings]
    if [shape[:1] for shape in shapes] != [(first.num_nodes,), (second.num_nodes,)] or shapes[0][1:] != shapes[1][1:]:
        raise GraphError(
            f"node embeddings have shapes {shapes[0]} and {shapes[1]}; expected ({first.num_nodes}, channels) and "
            f"({second.num_nodes}, channels)"
        )
    for nodes in embeddings:
        is_finite = np.isfinite(nodes).all(1)
        if not is_finite.all():
            raise GraphError(f"the embedding of node {int(is_finite.argmin())} is not finite; expected numbers")


def _indices(first: Topology, second: Topology) -> list[tuple[str, Index, Index]]:
    """Each node group that runs over an index, with that index in either topology.

    Raises:
        UnsupportedLayerError: A group runs over several.
    """
    found = []
    for group in first.groups:
        one, other = (topology.indices_of(group.name) for topology in (first, second))
        if [(i.name, i.fixed, len(i.parents)) for i in one] != [(i.name, i.fixed, len(i.parents)) for i in other] or len(one) > 1:
            names = ", ".join(dict.fromkeys(index.name for index in (*one, *other)))
            raise UnsupportedLayerError(
                f"group {group.name!r} runs over {names}, which are not transported; expected one index in each network"
            )
        if one:
            found.append((group.name, one[0], other[0]))
    return found


def _mass(size: int, masses: Masses, owners: list[str]) -> np.ndarray:
    """The mass of each entry of an index: the mean over the groups that say one, positive, adding up to 1."""
    own = [masses[group] for group in owners if group in masses]
    mass = np.mean(own, axis=0) if own else np.ones(size)
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
