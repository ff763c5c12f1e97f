"""Per-layer normalisation of weights and node features: statistics that no permutation of neurons changes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ngbench.graph import Topology
from ngbench.graph.topology import Slot
from ngbench.loading.batch import GraphBatch, GraphBundle
from ngbench.loading.dataset import GraphDataset

LOGARITHMIC = ("running_var",)
"""Node features that are positive and of any order of magnitude: their logarithms are normalised."""

SMALLEST_VARIANCE = 1e-5
"""Added to a running variance before its logarithm is taken, as batch norm adds it before it divides."""


MOST_PLACED = 2**26
"""Values, at most, whose means and standard deviations are kept on devices, unless one network has more: 512 MiB in float32."""


@dataclass(frozen=True)
class Normalization:
    """One mean and one standard deviation for the weights of each layer, and one for each of its node features.

    Running variances enter as logarithms; running means, scales and biases as they are. Fitted on the training split only.

    Fitted on networks of one structure, each layer has its own. Fitted on several, and for a structure that it was not fitted
    on, all layers of a kind share theirs: weights of one operation (``"conv"``, ``"linear"``, ``"batch_norm"``), and node
    features of one name (``"bias"``). Weights then count times the root of their target's fan-in, so that layers of one
    initialisation agree whatever their widths, and narrow and wide networks enter a method alike. On an operation or feature
    that training lacked nothing is changed.

    Args:
        by_structure: Mean and std of each slot of a structure, in their order.
        by_kind: Mean and std for each operation, at a fan-in of one, and for each feature name.
    """

    by_structure: dict[str, tuple[tuple[float, float], ...]]
    by_kind: dict[str, tuple[float, float]]

    def __getstate__(self) -> dict[str, Any]:
        # what was placed is left out of copies and pickles, which place it anew
        return {name: value for name, value in vars(self).items() if name != "_placed"}

    @classmethod
    def fit(cls, train: GraphDataset) -> Normalization:
        """Statistics of the training networks: those of the median network, since a few diverged ones would set every scale.

        A layer's mean is the median over the networks of their means, its variance the median of their mean squared distances
        from it; a layer of constant values gets std 1. Of a kind it is the median over networks and layers.
        """
        by_structure = {}
        moments: dict[str, list[Tensor]] = {}
        for bundle in train.bundles:
            topology, of_slots = bundle.topology, []
            for slot, rows in zip(topology.slots, bundle.measured(_moments), strict=True):
                of_slots.append(_of_median_network(rows))
                unit = torch.tensor([[1.0], [_scale(slot)]], dtype=torch.float64) * _scale(slot)
                moments.setdefault(_kind(topology, slot), []).append(rows * unit)
            by_structure[topology.structure] = tuple(of_slots)
        by_kind = {kind: _of_median_network(torch.cat(rows, 1)) for kind, rows in moments.items()}
        return cls(by_structure if len(by_structure) == 1 else {}, by_kind)

    def __call__(self, batch: GraphBatch) -> GraphBatch:
        """The batch with normalised values; the one given is left as it is."""
        bundles = []
        for bundle in batch.bundles:
            mean, std = self._statistics(bundle.topology, bundle.values)
            values = (_with_logarithms(bundle.topology, bundle.values) - mean) / std
            bundles.append(replace(bundle, values=values))
        return GraphBatch(tuple(bundles))

    @cached_property
    def _placed(self) -> dict[tuple[str, torch.device, torch.dtype], tuple[Tensor, Tensor]]:
        return {}

    def _statistics(self, topology: Topology, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std ``[values]`` on the device and in the format of some values, where they stay for the next batch.

        Those that have stayed longest make room for new ones.
        """
        key = topology.structure, like.device, like.dtype
        if key not in self._placed:
            mean, std = self._of_structure(topology)
            while self._placed and sum(len(kept) for kept, _ in self._placed.values()) + len(mean) > MOST_PLACED:
                del self._placed[next(iter(self._placed))]
            self._placed[key] = mean.to(like), std.to(like)
        return self._placed[key]

    def _of_structure(self, topology: Topology) -> tuple[Tensor, Tensor]:
        mean, std = torch.zeros(topology.num_values), torch.ones(topology.num_values)
        of_slots = self.by_structure.get(topology.structure)
        for number, slot in enumerate(topology.slots):
            if of_slots is not None:
                mean[slot.start : slot.stop], std[slot.start : slot.stop] = of_slots[number]
            elif _kind(topology, slot) in self.by_kind:
                of_kind = torch.tensor(self.by_kind[_kind(topology, slot)]) / _scale(slot)
                mean[slot.start : slot.stop], std[slot.start : slot.stop] = of_kind
        return mean, std


def _moments(bundle: GraphBundle) -> Tensor:
    """Mean and mean square of each slot's values in each network, float64 ``[slots, 2, graphs]``."""
    values = _with_logarithms(bundle.topology, bundle.values.double())
    parts = [values[:, slot.start : slot.stop] for slot in bundle.topology.slots]
    return torch.stack([torch.stack([part.mean(1), part.square().mean(1)]) for part in parts])


def _with_logarithms(topology: Topology, values: Tensor) -> Tensor:
    """Values ``[graphs, values]`` with the logarithms of what is `LOGARITHMIC`; the ones given are left as they are."""
    slots = [slot for slot in topology.slots if slot.feature in LOGARITHMIC]
    values = values.clone() if slots else values
    for slot in slots:
        part = values[:, slot.start : slot.stop]
        part.clamp_(min=0).add_(SMALLEST_VARIANCE).log_()
    return values


def _of_median_network(moments: Tensor) -> tuple[float, float]:
    """Mean and std from each network's mean and mean square, ``[2, graphs]``."""
    means, squares = moments
    mean = means.median()
    variance = (squares - 2 * mean * means + mean.square()).median()
    return float(mean), float(variance.sqrt()) if variance > 0 else 1.0


def _kind(topology: Topology, slot: Slot) -> str:
    return slot.feature if slot.feature is not None else topology.edge_block(slot.owner).operation


def _scale(slot: Slot) -> float:
    """What brings the weights of a block to a fan-in of one; one for a node feature."""
    return 1.0 if slot.feature is not None else math.sqrt(math.prod(slot.shape[1:]))
