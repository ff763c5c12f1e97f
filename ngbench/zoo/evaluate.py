"""Accuracy and loss of many networks of one architecture at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import nn

from ngbench.zoo.stack import StackedModule, aligned_rows, unflatten

# networks a stack on a processor: their activations and dense kernels stay in the cache of a core, and more gain nothing on two
STACK_SIZE = 32
_IMAGES_A_CALL = 256
_IMAGES_A_CALL_ON_ACCELERATORS = 1024


def evaluate(
    module: nn.Module, parameters: Mapping[str, np.ndarray], *, images: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores networks on labelled images, without dropout.

    Args:
        module: The architecture with its activation; its own parameters are not used.
        parameters: ``[networks, *shape]`` by state-dict path.
        images: ``[images, channels, height, width]``.
        labels: int64 ``[images]``.

    Returns:
        Accuracy and mean cross-entropy in nats of each network, float64 ``[networks]``.
    """
    stacked = {path: torch.from_numpy(np.ascontiguousarray(values)) for path, values in parameters.items()}
    right, losses = score(module, stacked, images=images, labels=labels)
    return right.mean(axis=1), losses.mean(axis=1)


@torch.no_grad()
def score(
    module: nn.Module, parameters: Mapping[str, torch.Tensor], *, images: np.ndarray | torch.Tensor, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each network is right on each image, and its cross-entropy there, float64 ``[networks, images]``."""
    weights = torch.cat([values.flatten(1) for values in parameters.values()], dim=1)
    shapes = {path: tuple(values.shape[1:]) for path, values in parameters.items()}
    stack = StackedModule(module, STACK_SIZE, banded=weights.device.type == "cpu")
    images_a_call = _IMAGES_A_CALL if weights.device.type == "cpu" else _IMAGES_A_CALL_ON_ACCELERATORS
    pixels, targets = torch.as_tensor(images).to(weights), torch.from_numpy(labels).to(weights.device)
    right, losses = np.empty((len(weights), len(images))), np.empty((len(weights), len(images)))
    for first in range(0, len(weights), STACK_SIZE):
        networks = slice(first, first + STACK_SIZE)
        part = unflatten(aligned_rows(weights[networks]), shapes)
        count = min(STACK_SIZE, len(weights) - first)
        for start in range(0, len(images), images_a_call):
            chosen = slice(start, start + images_a_call)
            wanted = targets[chosen].expand(count, -1)
            # black images fill the last call up, so that every network's part of every product has the same alignment
            shown = nn.functional.pad(pixels[chosen], (0, 0, 0, 0, 0, 0, 0, -wanted.shape[1] % 16))
            logits = stack(part, shown.expand(count, *shown.shape))[:, : wanted.shape[1]]
            right[networks, chosen] = (logits.argmax(-1) == wanted).cpu().numpy()
            each = nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
            losses[networks, chosen] = each.view(wanted.shape).cpu().numpy()
    return right, losses


def round_to_16_bits(weights: torch.Tensor, kind: Literal["bfloat16", "float16", "none"]) -> torch.Tensor:
    """The nearest values that the 16-bit type can hold, in the dtype of `weights`; ``"none"`` leaves them alone."""
    return weights if kind == "none" else weights.to(getattr(torch, kind)).to(weights.dtype)
