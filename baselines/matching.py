"""Networks matched without learning: as they stand, and by what their nodes give for images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from ngbench.errors import ConfigError, MethodError
from ngbench.graph import symmetry
from ngbench.graph.symmetry import GroupElement
from ngbench.loading import GraphDataset
from ngbench.methods import MethodInfo, Problem, RunContext

_GRAPHS_A_CALL = 64


class Naive:
    """Leaves all nodes where they are, so that merging averages weights as they stand."""

    info = MethodInfo(
        name="naive",
        title="Naive averaging",
        access="none",
        invariant=False,
        any_architecture=True,
        paper="none: the identity",
    )
    num_parameters = 0

    def fit(self, problem: Problem, train: GraphDataset, val: GraphDataset, context: RunContext) -> None:
        """Does nothing."""

    def match(self, first: GraphDataset, second: GraphDataset) -> list[GroupElement]:
        """The identity for each pair of networks."""
        found: dict[int, GroupElement] = {}
        for bundle in first.bundles:
            identities = [symmetry.group(topology).identity() for topology in bundle.variants]
            found |= {place: identities[v] for place, v in zip(bundle.index.tolist(), bundle.variant.tolist(), strict=True)}
        return [found[place] for place in range(len(first))]


class ActivationMatching:
    """A node's embedding is what it gives for training images, averaged over positions.

    Matched by inner products: Ainsworth et al. 2023, arXiv:2209.04836, Section 3.1, where each position of a convolution is an
    image of its own.

    Args:
        config: See `Config`.

    Raises:
        ConfigError: No image is asked for.
        MethodError: On `fit`, if no images are known that the networks were trained on; on `embed_nodes`, before `fit`.
    """

    @dataclass(frozen=True)
    class Config:
        """How nodes are embedded.

        Args:
            num_images: Training images, or as many as there are different ones.
        """

        num_images: int = 256

    info = MethodInfo(
        name="activation-matching",
        title="Activation matching",
        access="probes",
        invariant=True,
        any_architecture=True,
        paper="Ainsworth et al. 2023, arXiv:2209.04836",
        num_probes=Config.num_images,
    )
    num_parameters = 0

    def __init__(self, config: Config | None = None):
        self.config = config or self.Config()
        if self.config.num_images < 1:
            raise ConfigError(f"num_images of activation-matching is {self.config.num_images}; expected 1 or more")
        self.info = replace(self.info, num_probes=self.config.num_images)
        self.images: torch.Tensor | None = None

    def fit(self, problem: Problem, train: GraphDataset, val: GraphDataset, context: RunContext) -> None:
        """Draws images that the networks were trained on."""
        inputs = getattr(train.bundles[0].programs, "inputs", None)
        if inputs is None:
            raise MethodError(
                "activation-matching reads what nodes give for training images, and these networks come from no zoo that knows "
                "them; expected a zoo that ngbench generated"
            )
        drawn = inputs(self.config.num_images, seed=context.seed)
        _, first = np.unique(drawn.flatten(1).numpy(), axis=0, return_index=True)
        self.images = drawn[np.sort(first)]
        self.info = replace(self.info, num_probes=len(first))

    @torch.no_grad()
    def embed_nodes(self, networks: GraphDataset) -> list[np.ndarray]:
        """For each network what its nodes give, float32 ``[nodes, images]``."""
        if self.images is None:
            raise MethodError("activation-matching has drawn no images yet; expected fit before embed_nodes")
        found: dict[int, np.ndarray] = {}
        for positions, batch in networks.batches(_GRAPHS_A_CALL):
            for bundle in batch.bundles:
                given = bundle.activations(self.images.to(bundle.values)).cpu().numpy()
                found |= {int(positions[place]): given[:, k] for k, place in enumerate(bundle.index.tolist())}
        return [found[place] for place in range(len(networks))]
