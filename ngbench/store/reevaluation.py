"""Runs some networks of a published zoo on the images that they were tested on, and says how far what is recorded is off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ngbench.errors import ForeignZooError
from ngbench.graph import restore
from ngbench.store.published import Architecture, Evaluation, PublishedZoo
from ngbench.store.reader import Zoo
from ngbench.zoo.hub_images import HubImages, folder_of, load_hub_images

NUM_NETWORKS = 16
"""Networks that an import runs again."""

_IMAGES_AT_ONCE = 500


@dataclass(frozen=True)
class Reevaluation:
    """What is recorded of some networks of a zoo, and what they do here.

    Args:
        column: What was measured.
        rows: Which networks, int64 ``[networks]``.
        recorded: As published, float64 ``[networks]``.
        measured: Here, likewise.
        num_images: Test images.
    """

    column: str
    rows: np.ndarray
    recorded: np.ndarray
    measured: np.ndarray
    num_images: int

    @property
    def largest(self) -> float:
        """The largest deviation."""
        return float(np.abs(self.measured - self.recorded).max())

    @property
    def mean(self) -> float:
        """The mean of the deviations' sizes."""
        return float(np.abs(self.measured - self.recorded).mean())

    def __str__(self) -> str:
        return (
            f"{self.column} of {len(self.rows)} networks on {self.num_images:,} images is off by {self.mean:.4f} in the mean "
            f"and by {self.largest:.4f} at most"
        )


@torch.no_grad()
def reevaluate(
    zoo: Zoo, published: PublishedZoo, architectures: Sequence[Architecture], *, num_networks: int = NUM_NETWORKS, seed: int = 0
) -> Reevaluation | None:
    """Measures networks of a zoo again, drawn at random, on the images that they were tested on.

    Args:
        zoo: The zoo.
        published: What it was made of.
        architectures: How each of its networks is built, ``[networks]``.
        num_networks: How many are measured, at most.
        seed: Of the draw.

    Returns:
        None where it is not known how they were tested, where the images are not in a local folder (`NGBENCH_IMAGES`), or where
        nothing is recorded.

    Raises:
        ImagesError: The images cannot be read.
        ForeignZooError: A network takes images of another shape.
    """
    evaluation = published.evaluation
    if evaluation is None or folder_of(evaluation.hub) is None:
        return None
    values = zoo.metadata[evaluation.column]
    known = np.flatnonzero(np.isfinite(values))
    if not len(known):
        return None
    rows = np.sort(np.random.default_rng(seed).choice(known, min(num_networks, len(known)), replace=False))
    measured, num_images = [], 0
    for row in rows.tolist():
        module, inputs, labels = _network(zoo, row, architectures[row], evaluation)
        measured.append(_measure(module, inputs, labels, evaluation))
        num_images = len(labels)
    return Reevaluation(evaluation.column, rows, values[rows], np.array(measured), num_images)


def _network(zoo: Zoo, row: int, architecture: Architecture, evaluation: Evaluation) -> tuple[nn.Module, Tensor, Tensor]:
    """A network of the zoo with the images and labels that it was tested on."""
    (example,) = architecture.example_input()
    shape = evaluation.image_shape or tuple(example.shape[1:])
    channels, height, width = shape
    source = HubImages(
        hub=evaluation.hub,
        size=(height, width),
        color="grey" if channels == 1 else "rgb",
        mean=evaluation.mean,
        std=evaluation.std,
    )
    images, labels = load_hub_images(source)["test"]
    inputs = images.reshape(len(images), *example.shape[1:]) if images[0].size == example[0].numel() else images
    if inputs.shape[1:] != example.shape[1:]:
        raise ForeignZooError(
            f"network {str(zoo.ids[row])!r} takes inputs of shape {tuple(example.shape[1:])}; the images of "
            f"{evaluation.hub!r} have {images.shape[1:]}; fetch its files again"
        )
    module = architecture.module().eval()
    # counters of batches are no part of a graph, and decide nothing here
    module.load_state_dict({**module.state_dict(), **restore(zoo[row])})
    return module, torch.tensor(inputs), torch.tensor(labels)


def _measure(module: nn.Module, inputs: Tensor, labels: Tensor, evaluation: Evaluation) -> float:
    logits = torch.cat([module(some) for some in inputs.split(_IMAGES_AT_ONCE)])
    if evaluation.measure == "accuracy":
        return float((logits.argmax(1) == labels).double().mean())
    return float(nn.functional.cross_entropy(logits.double(), labels))
