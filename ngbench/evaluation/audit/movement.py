"""How far what a method gives for networks moves when group elements act on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ngbench.errors import MethodError, NgbenchError
from ngbench.evaluation.audit.elements import Acted, graphs_of
from ngbench.graph import NeuralGraph
from ngbench.graph.symmetry import GroupElement
from ngbench.loading import GraphDataset

PARTS = {"predictions": "predict", "embeddings": "embed", "nodes": "embed_nodes"}
"""What may move, and what a method must offer for it."""

BEYOND_MEASURE = 1e300
"""How far what is no number any more has moved: JSON has no infinity."""


@dataclass(frozen=True)
class Outputs:
    """What a method gives for networks.

    Args:
        values: By part: rows ``[graphs, features]``, or for nodes a ``[nodes, channels]`` for each network.
        spreads: By part: root mean square of the distances from the mean over networks; for nodes from the mean over the
            nodes of the same group in networks of the same structure.
        refusals: By part: why the method gives none, although it has the means.
    """

    values: Mapping[str, Any]
    spreads: Mapping[str, float]
    refusals: Mapping[str, str]

    @classmethod
    def of(cls, method: Any, networks: GraphDataset) -> Outputs:
        """Asks a fitted method for all that it offers."""
        values, refusals = {}, {}
        for part, name in PARTS.items():
            if not hasattr(method, name):
                continue
            try:
                values[part] = given(method, part, networks)
            except NgbenchError as error:
                refusals[part] = f"{type(error).__name__}: {error}"
        graphs = graphs_of(networks)
        spreads = {part: spread_of_nodes(v, graphs) if part == "nodes" else spread_of_rows(v) for part, v in values.items()}
        return cls(values, spreads, refusals)


def given(method: Any, part: str, networks: GraphDataset) -> Any:
    """One part of what a method gives for networks, as in `Outputs.values`.

    Raises:
        MethodError: Node embeddings are not one for each node of each network.
    """
    found = getattr(method, PARTS[part])(networks)
    if part != "nodes":
        return np.asarray(found, dtype=np.float64).reshape(len(networks), -1)
    got = [len(nodes) for nodes in found]
    expected = [graph.topology.num_nodes for graph in graphs_of(networks)]
    if got != expected:
        wrong = next((pair for pair in zip(got, expected, strict=False) if pair[0] != pair[1]), (len(got), len(expected)))
        what = "nodes for a network" if len(got) == len(expected) else "networks"
        raise MethodError(
            f"embed_nodes of {method.info.name!r} gives {wrong[0]} {what}; expected {wrong[1]}, every node in canonical order"
        )
    return [np.asarray(nodes, dtype=np.float64) for nodes in found]


def spread_of_rows(rows: np.ndarray) -> float:
    """Root mean square distance of rows ``[graphs, features]`` from their mean, never below what rounding leaves."""
    return max(float(np.sqrt(np.square(rows - rows.mean(axis=0)).sum(axis=1).mean())), _floor(rows))


def spread_of_nodes(nodes: Sequence[np.ndarray], graphs: Sequence[NeuralGraph]) -> float:
    """Root mean square distance of nodes from the mean of their group, over the networks of each structure."""
    groups: dict[tuple[str, str], list[np.ndarray]] = {}
    for of_one, graph in zip(nodes, graphs, strict=True):
        for name, rows in _by_group(of_one, graph).items():
            groups.setdefault((graph.topology.structure, name), []).append(rows)
    stacked = [np.concatenate(rows) for rows in groups.values()]
    deviations = np.concatenate([rows - rows.mean(axis=0) for rows in stacked])
    return max(float(np.sqrt(np.square(deviations).sum(axis=1).mean())), _floor(np.concatenate(stacked)))


def _floor(values: np.ndarray) -> float:
    # where all networks get the same, what rounding leaves is no movement
    return 1e-10 * max(1.0, float(np.abs(values).max()))


def _by_group(nodes: np.ndarray, graph: NeuralGraph) -> dict[str, np.ndarray]:
    stops = np.cumsum([group.size for group in graph.topology.groups])[:-1]
    return {g.name: rows for g, rows in zip(graph.topology.groups, np.split(nodes, stops), strict=True)}


def movements(method: Any, reference: Outputs, acted: Acted) -> dict[str, np.ndarray]:
    """How far each part moves for each network, as a share of its spread, ``[graphs]``; of its nodes the one that moves most.

    Args:
        method: Fitted.
        reference: What it gave for the set that the networks were taken from, with values of the same type.
        acted: Networks and what acted on them.
    """
    found = {}
    for part, before in reference.values.items():
        after = given(method, part, acted.after)
        if part == "nodes":
            pairs = zip(after, acted.elements, graphs_of(acted.after), strict=True)
            back = [undone(nodes, element, graph) for nodes, element, graph in pairs]
            origin = [before[position] for position in acted.positions]
            moved = [np.linalg.norm(b - o, axis=1).max() for b, o in zip(back, origin, strict=True)]
        else:
            moved = np.linalg.norm(after - before[acted.positions], axis=1)
        shares = np.asarray(moved) / reference.spreads[part]
        found[part] = np.where(np.isfinite(shares), shares, BEYOND_MEASURE)
    return found


def undone(nodes: np.ndarray, element: GroupElement, graph: NeuralGraph) -> np.ndarray:
    """Nodes of an acted network ``[nodes, channels]`` in the order that they had before."""
    back = element.inverse().permutations
    rows = _by_group(nodes, graph)
    return np.concatenate([own[back[name].numpy()] if name in back else own for name, own in rows.items()])
