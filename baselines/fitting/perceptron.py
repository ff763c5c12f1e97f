"""A multilayer perceptron on a table of features: standardised, with what is missing filled in and flagged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from baselines.fitting import training
from baselines.fitting.tables import Table
from baselines.fitting.training import Training
from ngbench.methods import Problem, RunContext


@dataclass(frozen=True)
class Config(Training):
    """Options of `Perceptron`.

    The defaults are the best by validation τ of fifteen on the statistics of `digits-cnn`.

    Args:
        width: Units of a hidden layer.
        num_layers: Hidden layers.
        dropout: Share of units dropped after each hidden layer.
        clip: Largest distance from its median, in deviations, that a feature is taken to have.

    Raises:
        ConfigError: A number is out of range.
    """

    epochs: int = 60
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    width: int = 256
    num_layers: int = 3
    dropout: float = 0.3
    clip: float = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("width", "clip")
        self.check_not_negative("num_layers")
        self.check_share("dropout")


class Perceptron(nn.Module):
    """Standardises each feature, fills in medians, flags what was missing, and reads all by a multilayer perceptron.

    Args:
        config: Sizes and options.
        features: Those of training, float64 ``[graphs, features]``; NaN where one is missing.
        num_outputs: Numbers to predict for a network.
        flagged: Features that are flagged where they are missing; None for those that training networks miss.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, config: Config, features: np.ndarray, *, num_outputs: int, flagged: Sequence[int] | None = None):
        super().__init__()
        self.clip = config.clip
        # Quantiles, since a few diverged networks would set every mean and deviation.
        low, median, high = (np.zeros(features.shape[1]) for _ in range(3))
        is_known = ~np.isnan(features).all(axis=0)
        low[is_known], median[is_known], high[is_known] = np.nanquantile(features[:, is_known], (0.16, 0.5, 0.84), axis=0)
        self.register_buffer("centre", torch.from_numpy(median))
        self.register_buffer("scale", torch.from_numpy(np.where(high > low, (high - low) / 2, 1.0)))
        self.flagged = np.flatnonzero(np.isnan(features).any(axis=0)).tolist() if flagged is None else list(flagged)
        sizes = [features.shape[1] + len(self.flagged)] + [config.width] * config.num_layers
        hidden = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.GELU(), nn.Dropout(config.dropout))]
        self.layers = nn.Sequential(*hidden)
        self.last = nn.Linear(sizes[-1], num_outputs)

    def forward(self, features: Tensor) -> Tensor:
        """``[graphs, features]`` to ``[graphs, outputs]``."""
        is_missing = features.isnan()
        standardised = ((features - self.centre) / self.scale).clamp(-self.clip, self.clip).masked_fill(is_missing, 0)
        inputs = torch.cat([standardised, is_missing[:, self.flagged]], 1).to(self.last.weight.dtype)
        return self.last(self.layers(inputs))


def fit(problem: Problem, train: Table, *, config: Config, val: Table, context: RunContext) -> Perceptron:
    """A perceptron trained on one table and selected on another.

    Args:
        problem: What the targets are, and the metric that selects.
        train: What it learns from.
        config: Sizes and options.
        val: What it is selected on.
        context: Gives seed, budget, device and progress.
    """
    with training.seeded(context.seed):
        module = Perceptron(config, train.features, num_outputs=problem.num_outputs)
    training.train(module, settings=config, problem=problem, train=train, val=val, context=context)
    return module


def predict(module: Perceptron, features: np.ndarray, *, problem: Problem, num_threads: int = 1) -> np.ndarray:
    """Predictions for rows ``[graphs, features]``, float64 ``[graphs]`` or ``[graphs, classes]``."""
    return training.predict(training.in_float64(module), Table(features, None), problem=problem, num_threads=num_threads)
