"""flat-mlp: all weights as one vector, read by a multilayer perceptron; the control that does not know of any symmetry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from baselines.fitting.trained import TrainedMethod
from baselines.fitting.training import Training
from ngbench.graph import Topology
from ngbench.loading import GraphBatch, GraphDataset
from ngbench.loading.batch import VALUES_AT_ONCE
from ngbench.methods import MethodInfo


@dataclass(frozen=True)
class Config(Training):
    """Options of `FlatMLP`.

    Args:
        width: Units of a hidden layer.
        num_layers: Hidden layers.
        dropout: Share of units dropped after each hidden layer.
        clip: Largest distance from its median, in deviations, that a weight is taken to have.
        weight_noise: Standard deviation of the factors, around one, that each weight is multiplied by in training.

    Raises:
        ConfigError: A number is out of range.
    """

    epochs: int = 50
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    width: int = 256
    num_layers: int = 3
    dropout: float = 0.3
    clip: float = 10.0
    weight_noise: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("width", "clip")
        self.check_not_negative("num_layers", "weight_noise")
        self.check_share("dropout")


@dataclass(frozen=True)
class Survey:
    """What sizes a `FlatNetwork`.

    Args:
        variants: Topologies of the training networks; they differ in activations only.
    """

    variants: Annotated[tuple[Topology, ...], Field(min_length=1)]


class FlatNetwork(nn.Module):
    """Scales each position of the value row by itself, then a perceptron; the activations stand beside as one-hot numbers.

    Args:
        config: Sizes and options.
        variants: Topologies of the training networks; they differ in activations only.
        num_outputs: Numbers to predict for a network.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, config: Config, variants: Sequence[Topology], *, num_outputs: int):
        super().__init__()
        self.config = config
        self.register_buffer("centre", torch.zeros(variants[0].num_values))
        self.register_buffer("scale", torch.ones(variants[0].num_values))
        self.structure = variants[0].structure
        self.activations = tuple(sorted(set().union(*map(_activations, variants))))
        sizes = [variants[0].num_values + len(self.activations)] + [config.width] * config.num_layers
        hidden = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.GELU(), nn.Dropout(config.dropout))]
        self.layers, self.last = nn.Sequential(*hidden), nn.Linear(sizes[-1], num_outputs)

    def standardise(self, values: Tensor) -> None:
        """From now on subtracts the medians of training rows ``[graphs, values]`` and divides by their spread."""
        # Quantiles, since a few diverged networks would set every mean and deviation.
        low, median, high = (torch.from_numpy(np.quantile(values, q, axis=0)).float() for q in (0.16, 0.5, 0.84))
        self.centre.copy_(median)
        self.scale.copy_(torch.where(high > low, (high - low) / 2, torch.ones_like(median)))

    def forward(self, batch: GraphBatch) -> Tensor:
        """``[graphs, outputs]``, for a batch of one bundle."""
        return self.last(self.embed(batch))

    def embed(self, batch: GraphBatch) -> Tensor:
        """Units of the last hidden layer, ``[graphs, width]``, for a batch of one bundle."""
        (bundle,) = batch.bundles
        values = bundle.values
        if self.training and self.config.weight_noise:
            values = values * (1 + self.config.weight_noise * torch.randn_like(values))
        values = ((values - self.centre) / self.scale).clamp(-self.config.clip, self.config.clip)
        one_hot = _one_hot(bundle.variants, self.activations, values.device).to(values.dtype)
        return self.layers(torch.cat([values, one_hot[bundle.variant]], 1))[torch.argsort(bundle.index)]


@lru_cache
def _one_hot(variants: tuple[Topology, ...], activations: tuple[tuple[int, str], ...], device: torch.device) -> Tensor:
    """Which of some activations each topology has, bool ``[variants, activations]``."""
    return torch.tensor([[pair in _activations(variant) for pair in activations] for variant in variants], device=device)


def _activations(topology: Topology) -> set[tuple[int, str]]:
    """Position and activation of each group."""
    return {(position, group.activation) for position, group in enumerate(topology.groups)}


class FlatMLP(TrainedMethod):
    """The flattened weights of a network, in their given order, read by a multilayer perceptron.

    It is bound to one architecture, and to the order in which its neurons happen to stand.
    """

    info = MethodInfo(
        name="flat-mlp",
        title="Flat MLP",
        access="weights",
        invariant=False,
        any_architecture=False,
        paper="none: the plain use of a multilayer perceptron",
    )
    Config = Config
    Survey = Survey
    tuned: ClassVar = {
        "classification/digits-inr": {"weight_noise": "0.1", "sign_flips": "true"},
    }

    def survey(self, train: GraphDataset) -> Survey:
        """The architecture of the training networks.

        Raises:
            GraphError: The networks have several structures.
        """
        return Survey(train.one_structure(reader=self.info.name).variants)

    def module_for(self, survey: Survey, *, num_outputs: int) -> FlatNetwork:
        """A network of random weights for an architecture."""
        return FlatNetwork(self.config, survey.variants, num_outputs=num_outputs)

    def measure(self, module: FlatNetwork, train: GraphDataset) -> None:
        """Takes the median and the spread of each weight."""
        bundle = train.one_structure(reader=self.info.name)
        # of a zoo larger than memory as many networks, evenly spread, as are held at once
        step = -(-len(bundle) * bundle.topology.num_values // VALUES_AT_ONCE) if bundle.is_stored else 1
        module.standardise(bundle.values[::step])

    def predict(self, networks: GraphDataset) -> np.ndarray:
        """As `TrainedMethod.predict`.

        Raises:
            GraphError: The networks have another structure than those of training.
        """
        networks.one_structure(reader=self.info.name, structure=self.module.structure)
        return super().predict(networks)

    def embed(self, networks: GraphDataset) -> np.ndarray:
        """As `TrainedMethod.embed`.

        Raises:
            GraphError: The networks have another structure than those of training.
        """
        networks.one_structure(reader=self.info.name, structure=self.module.structure)
        return super().embed(networks)
