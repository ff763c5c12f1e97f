"""What training minimises for a kind of problem, and how the outputs of a module become predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ngbench.errors import MethodError
from ngbench.methods import Problem

if TYPE_CHECKING:
    from baselines.fitting.training import Examples


class Objective(ABC):
    """What training minimises, and the score by which an epoch is selected.

    Attributes:
        may_record: Whether a loss may be recorded as a CUDA graph: it draws nothing at random and asks nothing of the device.
        num_readings: Networks that the module reads for each one in a batch.
        least_at_once: Networks that a loss wants to have together, whatever memory they take.
    """

    may_record = True
    num_readings = 1
    least_at_once = 1

    @abstractmethod
    def loss(self, module: nn.Module, batch: Any, index: Tensor) -> Tensor:
        """The summed loss of a batch of training networks whose positions are ``index``."""

    @abstractmethod
    def score(self, module: nn.Module, val: Any, *, predicted: Callable[[], np.ndarray]) -> float:
        """What a module is worth on the validation networks.

        Args:
            module: Trained so far.
            val: The networks.
            predicted: Gives the predictions for them.
        """


class Answers(Objective):
    """The loss of a problem with targets, and its predictions.

    Args:
        problem: What the targets are.
        targets: Of the networks to learn from, ``[graphs]``; None where only predictions are asked for.
        device: Where the loss is computed.
    """

    def __init__(self, problem: Problem, targets: np.ndarray | None = None, device: torch.device | str = "cpu"):
        self.problem = problem
        self.targets = None if targets is None else self.prepared(np.asarray(targets)).to(device)

    @abstractmethod
    def prepared(self, targets: np.ndarray) -> Tensor:
        """Targets as the loss takes them, ``[graphs]``."""

    @abstractmethod
    def of_outputs(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The summed loss of outputs ``[graphs, outputs]``."""

    @abstractmethod
    def predictions(self, outputs: Tensor) -> Tensor:
        """What outputs ``[graphs, outputs]`` say, float64."""

    def loss(self, module: nn.Module, batch: Any, index: Tensor) -> Tensor:
        """See `Objective`."""
        assert self.targets is not None
        return self.of_outputs(module(batch).float(), self.targets[index])

    def score(self, module: nn.Module, val: Any, *, predicted: Callable[[], np.ndarray]) -> float:
        """The problem's metric."""
        return float(self.problem.metric(predicted(), val.targets))


class Regression(Answers):
    """Cross-entropy of the targets as shares of the problem's bounds, so that no prediction can leave them."""

    def prepared(self, targets: np.ndarray) -> Tensor:
        """Shares, float32."""
        low, high = self.problem.bounds
        return torch.as_tensor((targets - low) / (high - low), dtype=torch.float32)

    def of_outputs(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Binary cross-entropy in nats."""
        return functional.binary_cross_entropy_with_logits(outputs.squeeze(1), targets, reduction="sum")

    def predictions(self, outputs: Tensor) -> Tensor:
        """Numbers within the bounds, ``[graphs]``."""
        low, high = self.problem.bounds
        return low + (high - low) * torch.sigmoid(outputs.squeeze(1)).double()


class Classification(Answers):
    """Cross-entropy of the classes."""

    def prepared(self, targets: np.ndarray) -> Tensor:
        """Numbers of classes, int64."""
        return torch.as_tensor(targets, dtype=torch.int64)

    def of_outputs(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats."""
        return functional.cross_entropy(outputs, targets, reduction="sum")

    def predictions(self, outputs: Tensor) -> Tensor:
        """Probabilities, ``[graphs, classes]``."""
        return torch.softmax(outputs.double(), dim=1)


OBJECTIVES: dict[str, type[Answers]] = {
    "regression": Regression,
    "classification": Classification,
    # embeddings are those of a classifier of the grade that is labelled
    "retrieval": Classification,
}


def objective(problem: Problem, train: Examples | None = None, device: torch.device | str = "cpu") -> Answers:
    """The objective of a problem's kind.

    Raises:
        MethodError: There is none for this kind.
    """
    if problem.kind not in OBJECTIVES:
        raise MethodError(f"problems of kind {problem.kind!r} cannot be trained on; expected one of {', '.join(OBJECTIVES)}")
    return OBJECTIVES[problem.kind](problem, None if train is None else train.targets, device)
