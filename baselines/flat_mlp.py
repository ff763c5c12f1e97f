"""flat-mlp: all weights as one vector, read by a multilayer perceptron; the control that does not know of any symmetry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from baselines import training
from baselines.training import Training
from ngbench.errors import GraphError, MethodError
from ngbench.graph import Topology
from ngbench.loading import GraphBatch, GraphDataset
from ngbench.methods import MethodInfo, Problem, RunContext


@dataclass(frozen=True)
class Config(Training):
    """Options of `FlatMLP`.

    Args:
        width: Units of a hidden layer.
        num_layers: Hidden layers.
        dropout: Share of units dropped after each hidden layer.
        clip: Largest distance from its median, in deviations, that a weight is taken to have.
        weight_noise: Standard deviation of the factors, around one, that each weight is multiplied by in training.
    """

    epochs: int = 50
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    width: int = 256
    num_layers: int = 3
    dropout: float = 0.3
    clip: float = 10.0
    weight_noise: float = 0.5


class FlatNetwork(nn.Module):
    """Scales each position of the value row by itself, then a perceptron; the activations stand beside as one-hot numbers.

    Args:
        config: Sizes and options.
        values: Training rows ``[graphs, values]``.
        variants: Topologies of the training networks; they differ in activations only.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, config: Config, values: Tensor, variants: Sequence[Topology]):
        super().__init__()
        self.config = config
        # Quantiles, since a few diverged networks would set every mean and deviation.
        low, median, high = (torch.from_numpy(np.quantile(values, q, axis=0)).float() for q in (0.16, 0.5, 0.84))
        self.register_buffer("centre", median)
        self.register_buffer("scale", torch.where(high > low, (high - low) / 2, torch.ones_like(median)))
        self.activations = sorted(set().union(*map(_activations, variants)))
        sizes = [values.shape[1] + len(self.activations)] + [config.width] * config.num_layers
        hidden = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.GELU(), nn.Dropout(config.dropout))]
        self.layers = nn.Sequential(*hidden, nn.Linear(sizes[-1], 1))

    def forward(self, batch: GraphBatch) -> Tensor:
        """``[graphs, 1]``, for a batch of one bundle."""
        (bundle,) = batch.bundles
        values = bundle.values
        if self.training and self.config.weight_noise:
            values = values * (1 + self.config.weight_noise * torch.randn_like(values))
        values = ((values - self.centre) / self.scale).clamp(-self.config.clip, self.config.clip)
        one_hot = torch.tensor([[pair in _activations(variant) for pair in self.activations] for variant in bundle.variants])
        return self.layers(torch.cat([values, one_hot.to(values)[bundle.variant]], 1))[torch.argsort(bundle.index)]


def _activations(topology: Topology) -> set[tuple[int, str]]:
    """Position and activation of each group."""
    return {(position, group.activation) for position, group in enumerate(topology.groups)}


class FlatMLP:
    """The flattened weights of a network, in their given order, read by a multilayer perceptron.

    It is bound to one architecture, and to the order in which its neurons happen to stand.

    Args:
        config: Options.
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

    def __init__(self, config: Config | None = None):
        self.config = config or Config()
        self._fitted: tuple[FlatNetwork, Problem, str] | None = None

    def fit(self, problem: Problem, train: GraphDataset, val: GraphDataset, context: RunContext) -> None:
        """Trains on `train`, keeps the epoch that is best on `val`.

        Raises:
            GraphError: The networks have several structures.
        """
        bundle = train.one_structure(reader="flat-mlp")
        with training.seeded(context.seed):
            module = FlatNetwork(self.config, bundle.values, bundle.variants)
        training.train(module, settings=self.config, problem=problem, train=train, val=val, context=context)
        self._fitted = module, problem, bundle.topology.structure

    @property
    def num_parameters(self) -> int:
        """Number of learned numbers."""
        return sum(parameter.numel() for parameter in self._needed()[0].parameters())

    def predict(self, networks: GraphDataset) -> np.ndarray:
        """One prediction for each network, float64 ``[graphs]``.

        Raises:
            GraphError: The networks have another structure than those of training.
        """
        module, problem, structure = self._needed()
        if networks.one_structure(reader="flat-mlp").topology.structure != structure:
            raise GraphError(
                "flat-mlp was asked for another architecture than it was fitted on; expected the same: "
                "use a method that reads any, such as ng-gnn"
            )
        module = training.in_float64(module)
        return training.predict(module, networks, problem=problem, num_threads=self.config.num_threads)

    def _needed(self) -> tuple[FlatNetwork, Problem, str]:
        if self._fitted is None:
            raise MethodError("flat-mlp has not been fitted; expected a call of fit before predict")
        return self._fitted
