"""Classifiers of Deep-Align (Navon et al. 2024, arXiv:2310.13397), made for merging: one architecture, many seeds.

Layout: any folders of ``*.pth``; MLPs hold ``seq.{0,2,4,6}`` and under ``label`` what was measured of them, CNNs
``cnn.{0,2,4,7,9,12,14}`` and ``fc``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ngbench.errors import ForeignZooError
from ngbench.store.published.record import Architecture, Evaluation, PublishedNetwork, PublishedZoo, RemoteFile
from ngbench.store.published.restricted import find_all, number, read_tensors
from ngbench.zoo.columns import Column

_COLUMNS = (
    Column("test_loss", "measurement", "float", "cross-entropy in nats on the test images, as published; NaN where not given"),
)
_CNN_CHANNELS = (3, 16, 32, 32, 64, 64, 128, 128)
# after which convolutions, counted from 0, height and width are halved
_POOLED = (2, 4, 6)


@dataclass(frozen=True)
class AlignMlp:
    """Linear layers with ReLU between them, on the pixels in one row.

    Args:
        sizes: Inputs, units of each hidden layer, outputs.
    """

    sizes: tuple[int, ...]

    def module(self) -> nn.Module:
        """See `ngbench.store.published.Architecture`."""
        layers: list[nn.Module] = []
        for sources, targets in pairwise(self.sizes):
            layers += [nn.Linear(sources, targets), nn.ReLU()]
        return _Named(seq=nn.Sequential(*layers[:-1]))

    def example_input(self) -> tuple[Tensor, ...]:
        """See `ngbench.store.published.Architecture`."""
        return (torch.zeros(1, self.sizes[0]),)


@dataclass(frozen=True)
class AlignCnn:
    """Seven convolutions of 3 × 3 with ReLU, three times halved, and a linear head, on CIFAR-10."""

    def module(self) -> nn.Module:
        """See `ngbench.store.published.Architecture`."""
        layers: list[nn.Module] = []
        for index, (sources, targets) in enumerate(pairwise(_CNN_CHANNELS)):
            layers += [nn.Conv2d(sources, targets, 3, padding=1), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if index in _POOLED else []
        return _Named(cnn=nn.Sequential(*layers), flatten=nn.Flatten(), fc=nn.Linear(2048, 10))

    def example_input(self) -> tuple[Tensor, ...]:
        """See `ngbench.store.published.Architecture`."""
        return (torch.zeros(1, 3, 32, 32),)


class _Named(nn.Sequential):
    """Modules one after the other, each under its name."""

    def __init__(self, **modules: nn.Module) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)


def read(folder: Path, *, num_inputs: int | None) -> Iterator[PublishedNetwork]:
    """The networks in the order of their paths below the folder, each a run of its own.

    Args:
        folder: Where the files are.
        num_inputs: Inputs of the MLPs; None where the networks are CNNs.

    Raises:
        ForeignZooError: A file has another content than published.
    """
    for path in find_all(folder, "**/*.pth"):
        content = read_tensors(path)
        label = content.pop("label", {})
        loss = number(label.get("test_loss"), where=f"'test_loss' in {str(path)!r}") if isinstance(label, Mapping) else np.nan
        architecture = AlignCnn() if num_inputs is None else _mlp(content, num_inputs, path)
        name = path.relative_to(folder).with_suffix("").as_posix()
        yield PublishedNetwork(name, name, architecture, content, {"test_loss": loss})


def _mlp(content: Mapping[str, Any], num_inputs: int, path: Path) -> Architecture:
    weights = [content.get(f"seq.{index}.weight") for index in range(0, len(content), 2)]
    weights = [weight for weight in weights if isinstance(weight, np.ndarray) and weight.ndim == 2]
    sizes = (num_inputs, *(len(weight) for weight in weights))
    if 2 * len(weights) != len(content) or not weights or weights[0].shape[1] != num_inputs:
        raise ForeignZooError(
            f"{str(path)!r} holds {', '.join(content)}; expected an MLP of {num_inputs} inputs as seq.0, seq.2, ..."
        )
    return AlignMlp(sizes)


def _zoo(name: str, title: str, url: str, *, num_inputs: int | None, evaluation: Evaluation | None = None) -> PublishedZoo:
    return PublishedZoo(
        name,
        f"Deep-Align: {title}",
        "not stated by its authors: do not pass converted files on",
        "Navon et al. 2024, Equivariant Deep Weight Space Alignment, arXiv:2310.13397",
        "https://github.com/AvivNavon/deep-align",
        _COLUMNS,
        partial(read, num_inputs=num_inputs),
        files=(RemoteFile(f"{name}.zip", url),),
        evaluation=evaluation,
    )


_ROOT = "https://www.dropbox.com"
MNIST_MLP = _zoo(
    "deep-align-mnist-mlp",
    "MLPs on MNIST",
    f"{_ROOT}/s/sv85hrjswaspok4/mnist_classifiers.zip?dl=1",
    num_inputs=784,
    evaluation=Evaluation("ylecun/mnist", (0.1307,), (0.3081,), column="test_loss", measure="loss", image_shape=(1, 28, 28)),
)
CIFAR10_MLP = _zoo(
    "deep-align-cifar10-mlp", "MLPs on CIFAR-10", f"{_ROOT}/s/lxy11dgi8epn731/cifar10_mlps.zip?dl=1", num_inputs=3072
)
CIFAR10_CNN = _zoo(
    "deep-align-cifar10-cnn", "CNNs on CIFAR-10", f"{_ROOT}/scl/fi/gv8z6pvlj5t927opxx6w4/cifar10_cnns.zip?dl=1", num_inputs=None
)
