"""Per-layer normalisation of weights and biases: statistics that no permutation of neurons changes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ngbench.graph import Topology
from ngbench.loading.batch import GraphBatch
from ngbench.loading.dataset import GraphDataset


@dataclass(frozen=True)
class Normalization:
    """One mean and one standard deviation for each layer's weights, and one for each layer's biases.

    Fitted on the training split only. A structure that it was not fitted on takes the statistics pooled over the
    fitted ones, by operation for weights (``"conv"``, ``"linear"``) and by name for node features (``"bias"``).

    Args:
        by_structure: Mean and std ``[values]`` for each fitted structure.
        pooled: Mean and std for each operation or feature name.
    """

    by_structure: dict[str, tuple[Tensor, Tensor]]
    pooled: dict[str, tuple[float, float]]

    @classmethod
    def fit(cls, train: GraphDataset) -> Normalization:
        """Statistics of the training networks; a layer of constant values gets std 1."""
        by_structure = {}
        sums: dict[str, Tensor] = {}
        for bundle in train.bundles:
            topology, values = bundle.topology, bundle.values.double()
            mean, std = torch.zeros(topology.num_values), torch.ones(topology.num_values)
            for slot in topology.slots:
                part = values[:, slot.start : slot.stop]
                mean[slot.start : slot.stop] = part.mean()
                std[slot.start : slot.stop] = _positive(part.std(correction=0))
                moments = torch.stack([torch.tensor(float(part.numel())).double(), part.sum(), part.square().sum()])
                kind = _kind(topology, slot.owner, slot.feature)
                sums[kind] = sums.get(kind, torch.zeros(3).double()) + moments
            by_structure[topology.structure] = (mean, std)
        pooled = {}
        for kind, (count, total, squares) in sums.items():
            mean = total / count
            pooled[kind] = (float(mean), float(_positive((squares / count - mean.square()).clamp(min=0).sqrt())))
        return cls(by_structure, pooled)

    def __call__(self, batch: GraphBatch) -> GraphBatch:
        """The batch with normalised values; the one given is left as it is."""
        bundles = []
        for bundle in batch.bundles:
            mean, std = self._statistics(bundle.topology)
            values = (bundle.values - mean.to(bundle.values)) / std.to(bundle.values)
            bundles.append(replace(bundle, values=values))
        return GraphBatch(tuple(bundles))

    def _statistics(self, topology: Topology) -> tuple[Tensor, Tensor]:
        if topology.structure not in self.by_structure:
            mean, std = torch.zeros(topology.num_values), torch.ones(topology.num_values)
            for slot in topology.slots:
                kind = _kind(topology, slot.owner, slot.feature)
                mean[slot.start : slot.stop], std[slot.start : slot.stop] = self.pooled.get(kind, (0.0, 1.0))
            self.by_structure[topology.structure] = (mean, std)
        return self.by_structure[topology.structure]


def _positive(std: Tensor) -> Tensor:
    return torch.where(std > 0, std, torch.ones_like(std))


def _kind(topology: Topology, owner: str, feature: str | None) -> str:
    return feature if feature is not None else topology.edge_block(owner).operation
