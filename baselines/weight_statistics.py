"""Statistics of each layer's weights and biases, read by gradient boosting."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch

from baselines.boosting import Table, fit_best, predict
from ngbench.graph import Topology
from ngbench.graph.topology import Slot
from ngbench.loading import GraphDataset
from ngbench.methods import MethodInfo, Problem, RunContext

Layer = tuple[int, str]
"""Place of a layer, 1 for the first and -1, -2, … from the last, and ``"weight"`` or a node feature such as ``"bias"``."""

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
NUM_STATISTICS = 2 + len(QUANTILES)


class WeightStatistics:
    """Mean, variance and five quantiles of each layer's weights and of its biases, then gradient boosting.

    Unterthiner et al. 2020, "Predicting Neural Network Accuracy from Weights" (arXiv:2002.11448); later papers call it
    StatNN. Networks of different depth meet as in the paper: in the first layer, and from the last layer backward. Differs
    from the paper in keeping all layers where it keeps four; what a network lacks is missing.
    """

    info = MethodInfo(
        name="weight-statistics",
        title="Weight statistics",
        access="weights",
        invariant=True,
        any_architecture=True,
        paper="Unterthiner et al. 2020, arXiv:2002.11448",
    )
    # trees have splits and leaves, no parameters
    num_parameters = 0

    def fit(self, problem: Problem, train: GraphDataset, val: GraphDataset, context: RunContext) -> None:
        """Compares candidates by the validation metric and keeps the best."""
        self.layers = sorted({layer for bundle in train.bundles for layer in layers_of(bundle.topology)})
        train_table, val_table = (Table.of(statistics(split, self.layers), split) for split in (train, val))
        self.model = fit_best(problem, train_table, val=val_table, context=context)

    def predict(self, networks: GraphDataset) -> np.ndarray:
        """One prediction for each network, float64 ``[graphs]``."""
        return predict(self.model, statistics(networks, self.layers))


def statistics(networks: GraphDataset, layers: list[Layer]) -> np.ndarray:
    """Mean, variance, minimum, quartiles and maximum of each layer's values, float64 ``[graphs, layers * 7]``.

    NaN where a network lacks a layer. Equal bit for bit for networks that differ by a permutation: a rounding error would be
    enough to cross a split of a tree.
    """
    features = np.full((len(networks), len(layers), NUM_STATISTICS), np.nan)
    for bundle in networks.bundles:
        slots_by_layer = layers_of(bundle.topology)
        for column, layer in enumerate(layers):
            if layer in slots_by_layer:
                values = torch.cat([bundle.values[:, slot.start : slot.stop] for slot in slots_by_layer[layer]], dim=1)
                features[bundle.index.numpy(), column] = _summary(values.numpy())
    return features.reshape(len(networks), -1)


def layers_of(topology: Topology) -> dict[Layer, list[Slot]]:
    """The slots of each layer, weights and node features apart; blocks that enter one depth together are one layer."""
    slots = defaultdict(list)
    deepest = max(group.layer for group in topology.groups)
    for slot in topology.slots:
        depth = topology.group(topology.edge_block(slot.owner).target if slot.feature is None else slot.owner).layer
        slots[1 if depth == 1 < deepest else depth - deepest - 1, slot.feature or "weight"].append(slot)
    return dict(slots)


def _summary(values: np.ndarray) -> np.ndarray:
    """Mean, variance and quantiles of each row, ``[graphs, values] -> [graphs, 7]``."""
    # sorted first, so that the order of a row's values does not even change how sums round
    ordered = np.sort(values, axis=1).astype(np.float64)
    positions = np.array(QUANTILES) * (ordered.shape[1] - 1)
    below, above = np.floor(positions).astype(int), np.ceil(positions).astype(int)
    quantiles = ordered[:, below] + (positions - below) * (ordered[:, above] - ordered[:, below])
    # numpy sums each contiguous row by itself, in an order that only the row's length decides
    return np.column_stack([ordered.mean(axis=1), ordered.var(axis=1), quantiles])
