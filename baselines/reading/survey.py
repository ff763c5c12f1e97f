"""What sizes a module that reads neural graphs, taken from the training networks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar, cast

import torch

from baselines.reading.encoding import Encoding, Vocabulary
from baselines.reading.probes import Kind, ProbeFeatures
from baselines.reading.reader import GraphReader
from ngbench.loading import GraphDataset, Normalization

C = TypeVar("C", bound=Encoding)


@dataclass(frozen=True)
class ProbeSizes:
    """What sizes `ProbeFeatures`.

    Args:
        kind: As of `ProbeFeatures`.
        num_probes: Probes.
        seed: As of `ProbeFeatures`.
        shapes: Of the networks' inputs, the batch left out.
    """

    kind: Kind
    num_probes: int
    seed: int
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class GraphSurvey:
    """What sizes a reader of neural graphs.

    Args:
        mixed: Whether it reads in terms that structures share: `Encoding.mixed`, decided.
        vocabulary: What the training networks consist of.
        normalization: Brings the weights and biases of each layer to one scale.
        probes: Inputs to the networks whose activations are read too; None for none.
    """

    mixed: bool
    vocabulary: Vocabulary
    normalization: Normalization
    probes: ProbeSizes | None

    @classmethod
    def of(cls, train: GraphDataset, config: Encoding) -> GraphSurvey:
        """The survey of the training networks, for a method of some options."""
        config = config.for_networks(train)
        probes = None
        if config.num_probes:
            shapes = tuple(sorted({shape for bundle in train.bundles for shape in bundle.input_shapes}))
            probes = ProbeSizes(cast(Kind, config.probes), config.num_probes, torch.initial_seed() % 2**31, shapes)
        return cls(bool(config.mixed), Vocabulary.of(train, config), Normalization.fit(train), probes)

    def parts(self, config: C) -> tuple[C, Vocabulary, Normalization, ProbeFeatures | None]:
        """Config with `mixed` decided, vocabulary, normalisation and probes that start at random."""
        sizes = self.probes
        probes = None if sizes is None else ProbeFeatures(sizes.kind, sizes.num_probes, seed=sizes.seed, shapes=sizes.shapes)
        return replace(config, mixed=self.mixed), self.vocabulary, self.normalization, probes


def measure_probes(module: GraphReader, train: GraphDataset) -> None:
    """Takes probes from the training networks' data where they are from data, and the usual size of activations on them."""
    if module.encoder.probes is not None:
        module.encoder.probes.measure(train)
