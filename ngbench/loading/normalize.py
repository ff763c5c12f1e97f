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
        """Statistics of the training networks: those of the median network, since a few diverged ones would set every scale.

        A layer's mean is the median over the networks of their means, its variance the median of their mean squared distances
        from it; a layer of constant values gets std 1.
        """
        by_structure = {}
        moments: dict[str, list[Tensor]] = {}
        for bundle in train.bundles:
            topology, values = bundle.topology, bundle.values.double()
            mean, std = torch.zeros(topology.num_values), torch.ones(topology.num_values)
            for slot in topology.slots:
                part = values[:, slot.start : slot.stop]
                rows = torch.stack([part.mean(1), part.square().mean(1)])
                mean[slot.start : slot.stop], std[slot.start : slot.stop] = _of_median_network(rows)
                moments.setdefault(_kind(topology, slot.owner, slot.feature), []).append(rows)
            by_structure[topology.structure] = (mean, std)
        pooled = {kind: _of_median_network(torch.cat(rows, 1)) for kind, rows in moments.items()}
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


def _of_median_network(moments: Tensor) -> tuple[float, float]:
    """Mean and std from each network's mean and mean square, ``[2, graphs]``."""
    means, squares = moments
    mean = means.median()
    variance = (squares - 2 * mean * means + mean.square()).median()
    return float(mean), float(variance.sqrt()) if variance > 0 else 1.0


def _kind(topology: Topology, owner: str, feature: str | None) -> str:
    return feature if feature is not None else topology.edge_block(owner).operation
