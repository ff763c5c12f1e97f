"""Networks of one split as a method sees them: values, ids, and whatever columns the task hands out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ngbench.errors import GraphError
from ngbench.graph import NeuralGraph, Topology, symmetry
from ngbench.loading.batch import GraphBatch, GraphBundle
from ngbench.loading.probes import PARTS, Part, Programs, ZooPrograms
from ngbench.loading.stored import ScrambledRows, StoredValues, ZooRows

if TYPE_CHECKING:
    from ngbench.store import Zoo

LOADED_BYTES = 4 * 2**30
"""Values of a zoo up to this size are loaded when a dataset is made; more stay in their file."""


@dataclass(frozen=True)
class GraphDataset:
    """Networks with their ids; immutable.

    Args:
        ids: Id of each network, ``[graphs]``.
        bundles: The networks by structure; a bundle's `index` is the position in `ids`, and they are put in its order.
        targets: What the task asks for, ``[graphs]`` or ``[graphs, outputs]``; None where the task keeps it to itself.
        hyperparameters: Recipe columns by name, ``[graphs]`` each.
    """

    ids: tuple[str, ...]
    bundles: tuple[GraphBundle, ...]
    targets: np.ndarray | None
    hyperparameters: Mapping[str, np.ndarray]

    def __post_init__(self) -> None:
        object.__setattr__(self, "bundles", tuple(map(_in_order, self.bundles)))

    @classmethod
    def from_zoo(
        cls, zoo: Zoo, rows: np.ndarray, *, target: str | None = None, parts: Sequence[Part] = PARTS, loaded: bool | None = None
    ) -> GraphDataset:
        """Some networks of a zoo.

        Args:
            zoo: An open zoo.
            rows: Which networks, int64 ``[graphs]``.
            target: Metadata column that becomes `targets`; None leaves them out.
            parts: Of the corpora, whose inputs the networks' programs give.
            loaded: Whether all values are read now. Otherwise each batch reads its own, so that a zoo may be larger than
                memory, if its values are stored uncompressed; None to read them now up to `LOADED_BYTES`.
        """
        structures: dict[str, list[int]] = {}
        for index, topology in enumerate(zoo.topologies):
            structures.setdefault(topology.structure, []).append(index)
        topology_index, programs = zoo.topology_index[rows], ZooPrograms(zoo, parts)
        if loaded is None:
            num_values = np.array([topology.num_values for topology in zoo.topologies])
            loaded = 4 * int(num_values[topology_index].sum()) <= LOADED_BYTES
        bundles = []
        for members in structures.values():
            positions = np.flatnonzero(np.isin(topology_index, members))
            if len(positions):
                bundles.append(
                    GraphBundle(
                        variants=tuple(zoo.topologies[index] for index in members),
                        variant=torch.from_numpy(np.searchsorted(members, topology_index[positions])),
                        values=_values(ZooRows(zoo, rows[positions]), zoo.topologies[members[0]], loaded=loaded),
                        index=torch.from_numpy(positions),
                        programs=programs,
                    )
                )
        names = [name for name, column in zoo.columns.items() if column.role == "hyperparameter"]
        return cls(
            ids=tuple(zoo.ids[rows].tolist()),
            bundles=tuple(bundles),
            targets=None if target is None else zoo.metadata[target][rows],
            hyperparameters={name: zoo.metadata[name][rows] for name in names},
        )

    @classmethod
    def from_graphs(
        cls,
        graphs: Sequence[NeuralGraph],
        *,
        ids: Sequence[str] | None = None,
        targets: np.ndarray | None = None,
        programs: Programs | None = None,
    ) -> GraphDataset:
        """Networks that are in no zoo, for example just traced.

        Args:
            graphs: The networks.
            ids: Their ids; None for their positions.
            targets: As of the dataset.
            programs: What runs them on inputs, for example `KnownPrograms`; None where no method asks for it.
        """
        by_structure: dict[str, list[int]] = {}
        for position, graph in enumerate(graphs):
            by_structure.setdefault(graph.topology.structure, []).append(position)
        bundles = []
        for positions in by_structure.values():
            variants = list(dict.fromkeys(graphs[position].topology for position in positions))
            bundles.append(
                GraphBundle(
                    variants=tuple(variants),
                    variant=torch.tensor([variants.index(graphs[position].topology) for position in positions]),
                    values=torch.stack([graphs[position].row() for position in positions]),
                    index=torch.tensor(positions),
                    programs=programs,
                )
            )
        return cls(tuple(ids) if ids is not None else tuple(str(i) for i in range(len(graphs))), tuple(bundles), targets, {})

    def __len__(self) -> int:
        return len(self.ids)

    def without_targets(self) -> GraphDataset:
        """The same networks with the targets withheld."""
        return replace(self, targets=None)

    def without_activations(self) -> GraphDataset:
        """The same values on topologies that do not tell which activation a network has, where networks of a structure differ.

        Such networks cannot be run.
        """
        return replace(self, bundles=tuple(bundle.without_activations() for bundle in self.bundles))

    def to(self, device: torch.device | str) -> GraphDataset:
        """The same networks on another device."""
        return replace(self, bundles=tuple(bundle.to(device) for bundle in self.bundles))

    def batch(self, positions: np.ndarray | None = None) -> GraphBatch:
        """Some networks, or all, as one batch; a bundle's `index` is then the position in `positions`.

        Args:
            positions: int64 ``[graphs]``.
        """
        if positions is None:
            return GraphBatch(self.bundles)
        wanted = torch.as_tensor(positions)
        if len(self.bundles) == 1:
            bundle = self.bundles[0]
            rows, index = wanted.to(bundle.values.device), torch.arange(len(wanted), device=bundle.values.device)
            return GraphBatch((replace(bundle.rows(rows), index=index),))
        owner, place = (found[wanted] for found in self._whereabouts)
        picked = []
        for number in owner.unique().tolist():
            bundle, index = self.bundles[number], torch.nonzero(owner == number).flatten()
            device = bundle.values.device
            picked.append(replace(bundle.rows(place[index].to(device)), index=index.to(device)))
        return GraphBatch(tuple(picked))

    @cached_property
    def _whereabouts(self) -> tuple[Tensor, Tensor]:
        """Number of each network's bundle, and its row there, int64 ``[graphs]``."""
        owner, place = torch.empty(2, len(self), dtype=torch.int64)
        for number, bundle in enumerate(self.bundles):
            index = bundle.index.cpu()
            owner[index], place[index] = number, torch.arange(len(bundle))
        return owner, place

    def batches(self, size: int, *, rng: np.random.Generator | None = None) -> Iterator[tuple[np.ndarray, GraphBatch]]:
        """All networks once, in batches, with their positions ``[graphs]``; shuffled where a generator is given."""
        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        for start in range(0, len(order), size):
            positions = order[start : start + size]
            yield positions, self.batch(positions)

    def scrambled(self, *, salt: str) -> GraphDataset:
        """Every network replaced by a random equivalent one, drawn from the hash of salt and id: the same for everyone."""
        seeds = np.array([scramble_seed(salt, id) for id in self.ids], dtype=np.uint64)
        return replace(self, bundles=tuple(_scrambled(bundle, seeds[bundle.index.numpy()]) for bundle in self.bundles))

    def one_structure(self, *, reader: str, structure: str | None = None) -> GraphBundle:
        """The only bundle, its networks in the order of `ids`, for a reader that is bound to one architecture.

        Args:
            reader: Who asks, for the error text.
            structure: The structure that it must be; None for any.

        Raises:
            GraphError: The networks have more than one structure, or another one.
        """
        if len(self.bundles) != 1:
            raise GraphError(
                f"{reader} reads networks of one architecture; got {len(self.bundles)}: "
                "use a method that reads any, such as ng-gnn"
            )
        bundle = self.bundles[0]
        if structure is not None and bundle.topology.structure != structure:
            raise GraphError(
                f"{reader} was asked for another architecture than it was fitted on; expected the same: "
                "use a method that reads any, such as ng-gnn"
            )
        return bundle


def _in_order(bundle: GraphBundle) -> GraphBundle:
    """A bundle whose networks stand in the order of their `index`."""
    if bool((bundle.index.diff() > 0).all()):
        return bundle
    return bundle.rows(torch.argsort(bundle.index))


def _values(read: ZooRows, topology: Topology, *, loaded: bool) -> Tensor:
    num_graphs = len(read.chosen)
    return read(np.arange(num_graphs)) if loaded else StoredValues(read, (num_graphs, topology.num_values))


def _scrambled(bundle: GraphBundle, seeds: np.ndarray) -> GraphBundle:
    """A bundle whose networks are replaced by equivalent ones, when they are read where their values are stored."""
    values = bundle.values
    if isinstance(values, StoredValues):
        read = ScrambledRows(values.read, bundle.topology, seeds)
        return replace(bundle, values=StoredValues(read, (len(bundle), bundle.topology.num_values), values.device))
    return replace(bundle, values=symmetry.group(bundle.topology).scramble(values, seeds))


def scramble_seed(salt: str, network_id: str) -> int:
    """Seed of the symmetry element by which `GraphDataset.scrambled` moves a network."""
    return int.from_bytes(hashlib.sha256(f"{salt}/{network_id}".encode()).digest()[:8], "little")
