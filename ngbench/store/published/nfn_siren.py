"""SIRENs of Neural Functional Networks (Zhou et al. 2023, arXiv:2302.14040): a 2-32-32-C representation of each image.

Layout: ``randinit_smaller_{label}s/net{image}.pth``, and from further initial weights, of training images alone,
``randinit_smaller_aug{copy}_{label}s/net{image}.pth``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ngbench.errors import ForeignZooError
from ngbench.store.published.record import Part, PublishedNetwork, PublishedZoo
from ngbench.store.published.restricted import find_all, read_tensors
from ngbench.zoo.columns import Column
from ngbench.zoo.modules import Sine

REFERENCE = "nfn-index"
_DIRECTORY = re.compile(r"randinit_smaller_(?:aug(\d+)_)?(\d+)s")
_FILE = re.compile(r"net(\d+)\.pth")
# where validation and test begin among the images of both halves of the corpus
_VAL_FROM, _TEST_FROM = 45_000, 50_000
_COLUMNS = (
    Column("image_index", "identity", "int", "position of the image in the training and then the test images", low=0),
    Column("fit_index", "identity", "int", "number of the fit among those of its image; those from 1 are augmentation", low=0),
    Column("label", "identity", "int", "class of the image", low=0),
)


@dataclass(frozen=True)
class NfnSiren:
    """sin(30 · layer) twice and a linear layer: the values in [-1, 1] at row and column, both in [-1, 1].

    Args:
        num_channels: Values of a pixel.
    """

    num_channels: int

    def module(self) -> nn.Module:
        """See `ngbench.store.published.Architecture`."""
        return _Siren(self.num_channels)

    def example_input(self) -> tuple[Tensor, ...]:
        """See `ngbench.store.published.Architecture`."""
        return (torch.zeros(1, 2),)


class _Siren(nn.Module):
    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(_SineLayer(2, 32), _SineLayer(32, 32), nn.Linear(32, num_channels))

    def forward(self, points: Tensor) -> Tensor:
        """``[points, 2]`` to ``[points, channels]``."""
        return self.net(points)


class _SineLayer(nn.Module):
    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_inputs, num_outputs)
        self.sine = Sine(30.0)

    def forward(self, hidden: Tensor) -> Tensor:
        """``[points, inputs]`` to ``[points, outputs]``."""
        return self.sine(self.linear(hidden))


def read(folder: Path, *, num_channels: int) -> Iterator[PublishedNetwork]:
    """The networks in the order of their paths; all fits of an image have one run id.

    Raises:
        ForeignZooError: A file has another name or content than published.
    """
    for path in find_all(folder, "**/*.pth"):
        directory, file = _DIRECTORY.fullmatch(path.parts[-2]), _FILE.fullmatch(path.name)
        if directory is None or file is None:
            raise ForeignZooError(
                f"{str(path)!r} has another name than published; expected randinit_smaller_<label>s/net<image>.pth"
            )
        image, copy = int(file[1]), 0 if directory[1] is None else int(directory[1]) + 1
        part: Part = "train" if image < _VAL_FROM else "val" if image < _TEST_FROM else "test"
        metadata = {"image_index": image, "fit_index": copy, "label": int(directory[2])}
        # Their readers train on augmented copies and test on the originals alone.
        parts: dict[str, Part] = {REFERENCE: part} if copy == 0 or part == "train" else {}
        run_id = f"image-{image:05d}"
        yield PublishedNetwork(f"{run_id}/{copy}", run_id, NfnSiren(num_channels), read_tensors(path), metadata, parts)


def _zoo(name: str, corpus: str, num_channels: int) -> PublishedZoo:
    return PublishedZoo(
        name,
        f"NFN: a SIREN 2-32-32-{num_channels} for each image of {corpus}, and augmented copies",
        "not stated by its authors: do not pass converted files on",
        "Zhou et al. 2023, Permutation Equivariant Neural Functionals, arXiv:2302.14040",
        "https://drive.google.com/drive/folders/15CdOTPWHqDcS4SwbIdm100rXkTYZPcC5",
        _COLUMNS,
        partial(read, num_channels=num_channels),
        references=(REFERENCE,),
    )


MNIST = _zoo("nfn-siren-mnist", "MNIST", 1)
FASHION_MNIST = _zoo("nfn-siren-fashion-mnist", "Fashion-MNIST", 1)
CIFAR10 = _zoo("nfn-siren-cifar10", "CIFAR-10", 3)
