"""The families of networks that recipes train, as plain torch modules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator

from ngbench.errors import UnknownNameError

if TYPE_CHECKING:
    import torch

# names of classes of torch.nn: recipes are listed without importing torch, which takes more than a second
ACTIVATIONS: Mapping[str, str] = MappingProxyType(
    {"relu": "ReLU", "leaky_relu": "LeakyReLU", "gelu": "GELU", "silu": "SiLU", "tanh": "Tanh", "sigmoid": "Sigmoid"}
)


class Cnn(BaseModel):
    """Square convolutions, each with activation and dropout, then global average pooling and a linear head.

    Args:
        family: Always ``"cnn"``.
        input_shape: Channels, height and width of an image.
        channels: Channels of each convolution.
        kernel_size: Height and width of every kernel.
        strides: Of each convolution.
        paddings: Zeros around the input of each convolution.
        num_classes: Outputs of the head.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: Literal["cnn"]
    input_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    channels: tuple[PositiveInt, ...]
    kernel_size: PositiveInt
    strides: tuple[PositiveInt, ...]
    paddings: tuple[int, ...]
    num_classes: PositiveInt

    @model_validator(mode="after")
    def _fits(self) -> Cnn:
        if not len(self.channels) == len(self.strides) == len(self.paddings):
            raise ValueError(
                f"channels, strides and paddings need one entry a convolution, got {len(self.channels)}, "
                f"{len(self.strides)} and {len(self.paddings)}"
            )
        for axis, size in zip(("height", "width"), self.input_shape[1:], strict=True):
            for index, (stride, padding) in enumerate(zip(self.strides, self.paddings, strict=True)):
                size = (size + 2 * padding - self.kernel_size) // stride + 1
                if size < 1:
                    raise ValueError(f"convolution {index} leaves no {axis} of the input {self.input_shape}")
        return self


def build(architecture: Cnn, activation: str, *, dropout: float = 0.0) -> torch.nn.Sequential:
    """A freshly initialised module of the architecture, in training mode.

    Args:
        architecture: What to build.
        activation: A name in `ACTIVATIONS`.
        dropout: Share of activations dropped after each convolution while training.

    Raises:
        UnknownNameError: The activation does not exist.
    """
    from torch import nn

    if activation not in ACTIVATIONS:
        raise UnknownNameError("activation", activation, ACTIVATIONS)
    layers: OrderedDict[str, torch.nn.Module] = OrderedDict()
    sources = architecture.input_shape[0]
    for index, (channels, stride, padding) in enumerate(
        zip(architecture.channels, architecture.strides, architecture.paddings, strict=True)
    ):
        layers[f"conv{index}"] = nn.Conv2d(sources, channels, architecture.kernel_size, stride=stride, padding=padding)
        layers[f"activation{index}"] = getattr(nn, ACTIVATIONS[activation])()
        layers[f"dropout{index}"] = nn.Dropout(dropout)
        sources = channels
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(sources, architecture.num_classes)
    return nn.Sequential(layers)


def example_input(architecture: Cnn) -> torch.Tensor:
    """One black image ``[1, channels, height, width]`` that the architecture's modules accept."""
    import torch

    return torch.zeros(1, *architecture.input_shape)
