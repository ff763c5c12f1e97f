"""Networks that methods are timed on, one record for each case."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ngbench.evaluation.speed.resnet50 import resnet50
from ngbench.graph import Topology, trace
from ngbench.loading import GraphBundle, GraphDataset
from ngbench.registry import Registry
from ngbench.store import open_zoo
from ngbench.tasks import TASKS
from ngbench.testing import cnn_topology, mlp_topology

NUM_BATCHES = 32
"""Batches that the networks of a case make; structures of a mixed zoo meet in as many ways."""

GROWTH_WIDTHS = {32: 64, 64: 32, 128: 16, 256: 4, 512: 2, 1024: 1}
"""Widths of the MLPs that show how cost grows, and their batch sizes: narrow networks alone would time what every step costs."""


@dataclass(frozen=True)
class Case:
    """Networks for methods to be timed on.

    Args:
        name: As it is typed.
        what: The networks, in a few words.
        batch_size: Networks in a step.
        make: Gives so many networks, with targets from 0 to 1; their values may be random, as speed does not depend on them.
        num_batches: Batches that are made.
        usual: Whether every method is timed on it without being asked to.
    """

    name: str
    what: str
    batch_size: int
    make: Callable[[int], GraphDataset]
    num_batches: int = NUM_BATCHES
    usual: bool = False

    def networks(self) -> GraphDataset:
        """The networks, whole batches of them."""
        return self.make(self.batch_size * self.num_batches)


def random_networks(topology: Topology, num_graphs: int) -> GraphDataset:
    """Networks with normal weights of the variance that keeps activations at theirs, and uniform targets.

    Args:
        topology: Of all of them.
        num_graphs: How many.
    """
    rng = np.random.default_rng(0)
    values = rng.standard_normal((num_graphs, topology.num_values), dtype=np.float32)
    for slot in topology.slots:
        values[:, slot.start : slot.stop] *= 0.1 if slot.feature is not None else 1 / math.sqrt(math.prod(slot.shape[1:]))
    first = torch.zeros(num_graphs, dtype=torch.int64)
    bundle = GraphBundle((topology,), first, torch.from_numpy(values), torch.arange(num_graphs))
    return GraphDataset(tuple(map(str, range(num_graphs))), (bundle,), rng.uniform(size=num_graphs), {})


def _of_zoo(name: str, num_graphs: int) -> GraphDataset:
    """Networks of the train split of a shipped zoo, in the order of the file."""
    zoo = open_zoo(name)
    return GraphDataset.from_zoo(zoo, zoo.split("train")[:num_graphs], target=TASKS["generalization"].asked(name).target)


def _resnet50(num_graphs: int) -> GraphDataset:
    graph = trace(resnet50().eval(), torch.zeros(1, 3, 64, 64))
    return GraphDataset.from_graphs([graph] * num_graphs, targets=np.linspace(0.25, 0.75, num_graphs))


SIREN, SMALL_CNN = mlp_topology((2, 32, 32, 1), activation="sine"), cnn_topology((1, 16, 16, 16), num_classes=10)

CASES: Registry[Case] = Registry("case")
for _case in (
    Case("inr", "SIREN 2-32-32-1, random weights", 128, partial(random_networks, SIREN), num_batches=4),
    Case("cnn", "CNN 1-16-16-16-10, kernels 3×3, random weights", 128, partial(random_networks, SMALL_CNN), num_batches=4),
    Case("wide", "MLP 2-256-256-3, random weights", 8, partial(random_networks, mlp_topology((2, 256, 256, 3))), num_batches=4),
    Case("digits-cnn", "zoo digits-cnn, one structure", 64, partial(_of_zoo, "digits-cnn"), usual=True),
    Case("digits-park", "zoo digits-park, 64 architectures", 32, partial(_of_zoo, "digits-park"), usual=True),
    Case("resnet50", "ResNet-50, traced, 25.6 million parameters", 1, _resnet50, num_batches=1),
    *(
        Case(
            f"width-{width}", f"MLP 2-{width}-{width}-3, random weights", size, partial(random_networks, topology), num_batches=2
        )
        for width, size in GROWTH_WIDTHS.items()
        for topology in [mlp_topology((2, width, width, 3))]
    ),
):
    CASES.register(_case.name, _case)
