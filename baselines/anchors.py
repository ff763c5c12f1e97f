"""Embeddings without training, between which every method of retrieval lies: chance, flat weights, the functions themselves."""

from __future__ import annotations

import numpy as np

from ngbench.evaluation.functional import comparable_outputs
from ngbench.loading import GraphDataset
from ngbench.methods import MethodInfo, Problem, RunContext
from ngbench.tasks import TASKS, RetrievalPlan

RADIUS = 300.0
"""Of the sphere that outputs are lifted to, in units of their largest norm: flat, and not so large that the rounding to float32,
in which results keep embeddings, changes an order that is not nearly a tie."""


class RandomEmbedding:
    """A direction drawn for each network each time that it is asked: the floor."""

    info = MethodInfo(
        name="random-embedding",
        title="Random embedding",
        access="none",
        invariant=False,
        any_architecture=True,
        paper="none: chance",
        kinds=("retrieval",),
    )
    num_parameters = 0
    num_features = 16

    def fit(self, problem: Problem, train: GraphDataset, val: GraphDataset, context: RunContext) -> None:
        """Seeds the draws."""
        self.rng = np.random.default_rng(context.seed)

    def embed(self, networks: GraphDataset) -> np.ndarray:
        """Normal numbers, float64 ``[graphs, features]``."""
        return self.rng.standard_normal((len(networks), self.num_features))


class FlatCosine:
    """All weights and biases as one vector: networks are near whose parameters point the same way."""

    info = MethodInfo(
        name="flat-cosine",
        title="Flat weights",
        access="weights",
        invariant=False,
        any_architecture=False,
        paper="none: the plain cosine of parameters",
        kinds=("retrieval",),
    )
    num_parameters = 0

    def fit(self, problem: Problem, train: GraphDataset, val: GraphDataset, context: RunContext) -> None:
        """Checks that all have one architecture.

        Raises:
            GraphError: They have several.
        """
        self.structure = train.one_structure(reader=self.info.name).topology.structure

    def embed(self, networks: GraphDataset) -> np.ndarray:
        """Canonical value rows, float64 ``[graphs, values]``.

        Raises:
            GraphError: The networks have another structure than those of training.
        """
        bundle = networks.one_structure(reader=self.info.name, structure=self.structure)
        return bundle.values.double().numpy()


class FunctionalDistance:
    """What the networks give for the inputs that relevance is measured on: the ceiling.

    Cosine ranks by distance where all vectors lie on a sphere, the better the larger it is, so outputs are lifted to a large
    one. Networks whose functions cannot be compared stand at right angles.
    """

    info = MethodInfo(
        name="functional-distance",
        title="Functional distance",
        access="truth",
        invariant=True,
        any_architecture=True,
        paper="none: the truth that retrieval is measured against",
        kinds=("retrieval",),
    )
    num_parameters = 0

    def fit(self, problem: Problem, train: GraphDataset, val: GraphDataset, context: RunContext) -> None:
        """Learns nothing."""

    def embed(self, networks: GraphDataset) -> np.ndarray:
        """Lifted outputs, float64 ``[graphs, features]``.

        Raises:
            GraphError: Only the values of the networks are known.
        """
        parts = comparable_outputs(networks, TASKS["retrieval"].plan(RetrievalPlan).num_inputs)
        lifted = np.zeros((len(networks), sum(outputs.shape[1] + 1 for _, outputs in parts)))
        start = 0
        for positions, outputs in parts:
            squares = np.square(outputs).sum(axis=1)
            radius = RADIUS * np.sqrt(squares.max())
            stop = start + outputs.shape[1]
            lifted[positions, start:stop], lifted[positions, stop] = outputs, np.sqrt(radius**2 - squares)
            start = stop + 1
        return lifted
