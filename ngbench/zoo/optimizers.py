"""Update rules as numbers, so that networks with different optimisers are updated together.

Every rule is the same few operations on stacked ``[networks, parameters]`` arrays with coefficients ``[networks, 1]``:

    g = gradient + coupled_decay * w;  m = momentum * m + gradient_share * g;  v = square_decay * v + (1 - square_decay) * g²
    w = (1 - decoupled_decay) * w - step_size * m / (root_scale * sqrt(v) + offset)

The results are those of ``torch.optim`` with its default constants.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

EPSILON = 1e-8


@dataclass(frozen=True)
class UpdateRule:
    """The constants of one optimiser.

    Args:
        momentum: Decay of the running gradient.
        gradient_share: Weight of the new gradient in the running one.
        square_decay: Decay of the running squared gradient; None if the rule does not divide by it.
        corrects_bias: Whether both running means are divided by the sum of their weights (Kingma and Ba 2015, alg. 1).
        decouples_decay: Whether weight decay shrinks the weights apart from the gradient (Loshchilov and Hutter 2019).
    """

    momentum: float = 0.0
    gradient_share: float = 1.0
    square_decay: float | None = None
    corrects_bias: bool = False
    decouples_decay: bool = False


OPTIMIZERS: Mapping[str, UpdateRule] = MappingProxyType(
    {
        "sgd": UpdateRule(),
        "momentum": UpdateRule(momentum=0.9),
        "rmsprop": UpdateRule(square_decay=0.99),
        "adam": UpdateRule(momentum=0.9, gradient_share=0.1, square_decay=0.999, corrects_bias=True),
        "adamw": UpdateRule(momentum=0.9, gradient_share=0.1, square_decay=0.999, corrects_bias=True, decouples_decay=True),
    }
)

SCHEDULES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = MappingProxyType(
    {
        "constant": np.ones_like,
        "linear": lambda done: 1 - done,
        "cosine": lambda done: (1 + np.cos(math.pi * done)) / 2,
    }
)


class StackedOptimizer:
    """Updates a stack of networks, each by its own rule, rate and schedule.

    Args:
        hyperparameters: Of each network: ``optimizer``, ``learning_rate``, ``schedule`` and ``weight_decay``.
        num_steps: Steps that each network will take, descending.
        weights: Stacked parameters ``[networks, parameters]``; `step` edits them in place.
    """

    def __init__(self, hyperparameters: Sequence[Mapping[str, Any]], num_steps: Sequence[int], *, weights: torch.Tensor):
        rules = [OPTIMIZERS[h["optimizer"]] for h in hyperparameters]
        decay = np.array([h["weight_decay"] for h in hyperparameters])
        decoupled = np.array([rule.decouples_decay for rule in rules])
        steps = np.arange(max(num_steps))
        rates = np.stack(
            [
                h["learning_rate"] * SCHEDULES[h["schedule"]](np.minimum(steps / n, 1))
                for h, n in zip(hyperparameters, num_steps, strict=True)
            ],
            axis=1,
        )
        momentum = np.array([rule.momentum for rule in rules])
        square_decay = np.array([rule.square_decay or 0.0 for rule in rules])
        divides = np.array([rule.square_decay is not None for rule in rules])
        corrects = np.array([rule.corrects_bias for rule in rules])
        taken = steps[:, None] + 1
        mean_weight = np.where(corrects, 1 - momentum**taken, 1.0)
        square_weight = np.where(corrects, 1 - square_decay**taken, 1.0)

        def stacked(values: np.ndarray) -> torch.Tensor:
            return weights.new_tensor(values).unsqueeze(-1)

        self._weights, self._mean, self._square = weights, weights.new_zeros(weights.shape), weights.new_zeros(weights.shape)
        self._momentum = stacked(momentum)
        self._gradient_share = stacked(np.array([rule.gradient_share for rule in rules]))
        self._square_decay, self._square_share = stacked(square_decay), stacked(np.where(divides, 1 - square_decay, 0.0))
        self._coupled_decay = stacked(np.where(decoupled, 0.0, decay))
        self._kept = stacked(1 - rates * np.where(decoupled, decay, 0.0))
        self._negative_step_size = stacked(-rates / mean_weight)
        self._root_scale = stacked(np.where(divides, 1 / np.sqrt(square_weight), 0.0))
        self._offset = stacked(np.where(divides, EPSILON, 1.0))

    def step(self, index: torch.Tensor, gradients: torch.Tensor) -> None:
        """Takes one step of the first networks of the stack.

        Args:
            index: How many steps these networks have taken, int64 ``[1]`` on their device.
            gradients: ``[active networks, parameters]``; overwritten.
        """
        active = len(gradients)
        weights, mean, square = self._weights[:active], self._mean[:active], self._square[:active]
        gradients.addcmul_(weights, self._coupled_decay[:active])
        mean.mul_(self._momentum[:active]).addcmul_(gradients, self._gradient_share[:active])
        square.mul_(self._square_decay[:active]).addcmul_(gradients.square_(), self._square_share[:active])
        root_scale, kept, negative_step_size = (
            each.index_select(0, index)[0, :active] for each in (self._root_scale, self._kept, self._negative_step_size)
        )
        divisor = square.sqrt().mul_(root_scale).add_(self._offset[:active])
        weights.mul_(kept)
        weights.addcmul_(divisor.reciprocal_().mul_(mean), negative_step_size)
