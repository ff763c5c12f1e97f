"""What networks a method was fitted on, and whether another is like them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from ngbench.graph import NeuralGraph, Topology
from ngbench.graph.topology import Slot
from ngbench.loading import GraphDataset
from ngbench.loading.batch import HIDDEN, GraphBundle

TAILS = (0.005, 0.995)
"""Quantiles of the training networks between which a usual one lies."""

FACTOR = 1.5
"""A layer is unlike those of training that is so many times as large as the upper quantile, or as small as the lower."""

_MOST_NAMED = 3


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Ranges(_Record):
    """How large the numbers of a layer are in the training networks, from the lower to the upper of `TAILS`.

    Attributes:
        size: Root mean square.
        largest: Largest magnitude.
    """

    size: tuple[float, float]
    largest: tuple[float, float]


class Structure(_Record):
    """One structure of training networks.

    Attributes:
        topology: JSON of one that has it, where all training networks have; None otherwise, since what reads several structures
            knows none by its names.
        hidden: Groups whose activation methods were not told, by number.
        slots: Ranges of each slot.
    """

    topology: str | None
    hidden: tuple[int, ...]
    slots: tuple[Ranges, ...]


class Domain(_Record):
    """The networks that a method was fitted on.

    A network is outside if its structure or an activation never occurred in training, or if a layer's root mean square or
    largest magnitude lies more than `FACTOR` times above the upper or below the lower of `TAILS` of the training networks: for a
    structure of training of the same layer, otherwise of all layers of its kind, weights then counted times the root of their
    target's fan-in. Structures are the same whatever their modules are called.

    Attributes:
        structures: By `shape_digest`.
        kinds: Ranges of all layers of an operation, at a fan-in of one, or of a node feature.
        activations: Of the nodes.
    """

    structures: dict[str, Structure]
    kinds: dict[str, Ranges]
    activations: tuple[str, ...]

    @classmethod
    def of(cls, train: GraphDataset) -> Domain:
        """The domain of training networks."""
        structures: dict[str, Structure] = {}
        kinds: dict[str, list[np.ndarray]] = {}
        for bundle in train.bundles:
            topology = bundle.topology
            sizes = list(bundle.measured(_sizes_of_slots).numpy())
            for slot, own in zip(topology.slots, sizes, strict=True):
                kinds.setdefault(_kind(topology, slot), []).append(own * _scale(slot))
            structures[shape_digest(topology)] = Structure(
                topology=topology.to_json() if len(train.bundles) == 1 else None,
                hidden=tuple(number for number, group in enumerate(topology.groups) if group.activation == HIDDEN),
                slots=tuple(map(_ranges, sizes)),
            )
        names = {group.activation for bundle in train.bundles for variant in bundle.variants for group in variant.groups}
        of_kinds = {kind: _ranges(np.concatenate(parts, axis=1)) for kind, parts in kinds.items()}
        return cls(structures=structures, kinds=of_kinds, activations=tuple(sorted(names)))

    def in_words_of_training(self, graph: NeuralGraph) -> NeuralGraph:
        """The same network under the names that the layers of training have, if all had its structure.

        Activations that methods were asked for are withheld, as they were in training.
        """
        structure, own = self.structures.get(shape_digest(graph.topology)), graph.topology
        if structure is not None:
            hidden = structure.hidden
        else:
            inner = [number for number, group in enumerate(own.groups) if group.role == "hidden" and group.activation != "none"]
            hidden = inner if HIDDEN in self.activations else ()
        known = own if structure is None or structure.topology is None else _topology(structure.topology)
        groups = tuple(
            dataclasses.replace(named, activation=HIDDEN if number in hidden else group.activation, pooling=group.pooling)
            for number, (named, group) in enumerate(zip(known.groups, own.groups, strict=True))
        )
        return NeuralGraph.from_row(dataclasses.replace(known, groups=groups), graph.row())

    def objections(self, graph: NeuralGraph) -> tuple[str, ...]:
        """Why a network is outside, a clause for each reason; none where it is not."""
        topology, row = graph.topology, graph.row()[None]
        structure = self.structures.get(shape_digest(topology))
        reasons = []
        if structure is None:
            reasons.append(f"its structure was never seen in training, which had {_count(len(self.structures), 'other')}")
        unknown = () if HIDDEN in self.activations else sorted({g.activation for g in topology.groups} - set(self.activations))
        if unknown:
            reasons.append(f"activation {', '.join(unknown)} was never seen in training")
        foreign = sorted({_kind(topology, slot) for slot in topology.slots} - set(self.kinds))
        if foreign:
            reasons.append(f"no layer of training had {', '.join(foreign).replace('_', ' ')}")
        unusual = [text for number in range(len(topology.slots)) if (text := self._unusual(topology, number, row, structure))]
        more = [f"{len(unusual) - _MOST_NAMED} more layers"] if len(unusual) > _MOST_NAMED else []
        return (*reasons, *unusual[:_MOST_NAMED], *more)

    def _unusual(self, topology: Topology, number: int, row: Tensor, structure: Structure | None) -> str:
        """What is unusual about the sizes of a slot; empty for nothing."""
        slot = topology.slots[number]
        if structure is not None:
            ranges, unit = structure.slots[number], 1.0
        else:
            ranges, unit = self.kinds.get(_kind(topology, slot)), _scale(slot)
        if ranges is None:
            return ""
        (size,), (largest,) = _sizes(row, slot) * unit
        checks = (("root mean square", size, ranges.size), ("largest magnitude", largest, ranges.largest))
        at = "" if unit == 1.0 else " at a fan-in of one"
        for what, value, (low, high) in checks:
            if not low / FACTOR <= value <= high * FACTOR:
                return f"{slot.parameter.path} has {what} {value:.3g}{at}, in training {low:.3g} to {high:.3g}"
        return ""


def _sizes(values: Tensor, slot: Slot) -> np.ndarray:
    """Root mean square and largest magnitude of a slot, float64 ``[2, graphs]``."""
    part = values[:, slot.start : slot.stop].double()
    return np.stack([part.square().mean(1).sqrt().cpu().numpy(), part.abs().amax(1).cpu().numpy()])


def _sizes_of_slots(bundle: GraphBundle) -> Tensor:
    """Sizes of all slots, float64 ``[slots, 2, graphs]``."""
    return torch.from_numpy(np.stack([_sizes(bundle.values, slot) for slot in bundle.topology.slots]))


def _ranges(sizes: np.ndarray) -> Ranges:
    """The ranges of sizes ``[2, layers]``."""
    (low_size, low_largest), (high_size, high_largest) = np.quantile(sizes, TAILS, axis=1).tolist()
    return Ranges(size=(low_size, high_size), largest=(low_largest, high_largest))


def _kind(topology: Topology, slot: Slot) -> str:
    return slot.feature if slot.feature is not None else topology.edge_block(slot.owner).operation


def _scale(slot: Slot) -> float:
    """What brings the weights of a block to a fan-in of one; one for a node feature."""
    return 1.0 if slot.feature is not None else math.sqrt(math.prod(slot.shape[1:]))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


@lru_cache(maxsize=256)
def _topology(text: str) -> Topology:
    return Topology.from_json(text)


@lru_cache(maxsize=4096)
def shape_digest(topology: Topology) -> str:
    """Hexadecimal sha256 of a topology without its names, activations and pooling: what a canonical value row means."""
    group_of = {group.name: number for number, group in enumerate(topology.groups)}
    numbers = {name: number for number, name in enumerate(_index_names(topology))}
    slot_of = {slot.parameter.region: number for number, slot in reversed(list(enumerate(topology.slots)))}
    sizes = {index.name: index for group in topology.groups for index in topology.indices_of(group.name)}
    groups = []
    for g in topology.groups:
        features = [[f.name, f.shared, slot_of[f.parameter.region]] for f in g.features]
        groups.append([g.size, g.role, g.layer, features, [numbers[index.name] for index in topology.indices_of(g.name)]])
    blocks = [
        [
            group_of[b.source], group_of[b.target], b.pattern, b.operation, b.kernel,
            None if b.parameter is None else [slot_of[b.parameter.region], (b.name, None) in topology.slot_index],
            [numbers[name] for name in b.shared],
        ]
        for b in topology.blocks
    ]  # fmt: skip
    indices = [[sizes[name].size, [numbers[parent] for parent in sizes[name].parents], sizes[name].fixed] for name in numbers]
    return hashlib.sha256(json.dumps([groups, blocks, indices]).encode()).hexdigest()


def _index_names(topology: Topology) -> Sequence[str]:
    """Names of all indices in the order in which groups run over them; parents before what lies within them."""

    def each() -> Iterator[str]:
        for group in topology.groups:
            for index in topology.indices_of(group.name):
                yield from index.parents
                yield index.name

    return tuple(dict.fromkeys(each()))
