"""What networks between two others lose: loss and accuracy along the straight line of their weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ngbench.graph import Program

_CELLS = 2**15
"""Networks times images of one call, so that what all nodes give stays small."""


@dataclass(frozen=True)
class LabelledImages:
    """Inputs of networks that classify.

    Args:
        images: float32 ``[images, *input shape]``.
        labels: int64 ``[images]``.
    """

    images: Tensor
    labels: Tensor


def points(num_points: int) -> Tensor:
    """Where the networks of a line stand, from 0, the first network, to 1, the second, float64 ``[points]``."""
    return torch.linspace(0, 1, num_points, dtype=torch.float64)


def line(first: Tensor, second: Tensor, num_points: int) -> Tensor:
    """The networks between pairs of others, value rows ``[pairs, points, values]``.

    Args:
        first: Value rows ``[pairs, values]``.
        second: Value rows ``[pairs, values]`` on the same topology, brought to the first's nodes before.
        num_points: Both ends among them.
    """
    share = points(num_points).to(first)[:, None]
    return (1 - share) * first[:, None] + share * second[:, None]


@dataclass(frozen=True)
class Curves:
    """Losses and accuracies of the networks of lines.

    Args:
        loss: Mean cross-entropy in nats, float64 ``[pairs, points]``, of an odd number of points.
        accuracy: Share of images that are classified right, float64 ``[pairs, points]``.
    """

    loss: np.ndarray
    accuracy: np.ndarray

    @property
    def excess(self) -> np.ndarray:
        """Loss above the straight line between the losses of both ends, ``[pairs, points]``."""
        share = points(self.loss.shape[1]).numpy()
        return self.loss - ((1 - share) * self.loss[:, :1] + share * self.loss[:, -1:])

    @property
    def barrier(self) -> np.ndarray:
        """The largest excess, in nats, ``[pairs]``; 0 where no network between is worse.

        Frankle et al. 2020, arXiv:1912.05671, Section 2; Entezari et al. 2022, arXiv:2110.06296, Definition 2.1, from which it
        differs in that the loss is one of test images.
        """
        return self.excess.max(axis=1)

    @property
    def barrier_area(self) -> np.ndarray:
        """The excess averaged over the line by the trapezoidal rule, in nats, ``[pairs]``; negative where it is below."""
        return np.trapezoid(self.excess, dx=1 / (self.loss.shape[1] - 1), axis=1)

    @property
    def midpoint_accuracy(self) -> np.ndarray:
        """Accuracy of the network half way, ``[pairs]``."""
        return self.accuracy[:, self.accuracy.shape[1] // 2]

    @property
    def endpoint_accuracy(self) -> np.ndarray:
        """Mean accuracy of both ends, ``[pairs]``."""
        return (self.accuracy[:, 0] + self.accuracy[:, -1]) / 2


def curves(program: Program, rows: Tensor, data: LabelledImages) -> Curves:
    """Losses and accuracies of lines.

    Args:
        program: Of the networks.
        rows: ``[pairs, points, values]``, as `line` gives them.
        data: What they are scored on.
    """
    loss, accuracy = scores(program, rows.flatten(0, 1), data)
    return Curves(loss.reshape(rows.shape[:2]), accuracy.reshape(rows.shape[:2]))


@torch.no_grad()
def scores(program: Program, rows: Tensor, data: LabelledImages) -> tuple[np.ndarray, np.ndarray]:
    """Mean cross-entropy in nats and accuracy of each network, float64 ``[graphs]`` each.

    Args:
        program: Of the networks.
        rows: Value rows ``[graphs, values]``.
        data: What they are scored on.
    """
    num_images, losses, right = len(data.labels), [], []
    for part in rows.split(max(1, _CELLS // num_images)):
        logits = torch.cat([program.outputs(part, images) for images in data.images.to(part).split(_CELLS)], dim=1)
        wanted = data.labels.expand(len(part), -1)
        each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
        losses.append(each.double().view(len(part), num_images).mean(1))
        right.append((logits.argmax(-1) == wanted).double().mean(1))
    return torch.cat(losses).numpy(), torch.cat(right).numpy()
