"""The families of networks that recipes train, as plain torch modules."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from ngbench.errors import UnknownNameError

if TYPE_CHECKING:
    import torch

# names of classes of torch.nn: recipes are listed without importing torch, which takes more than a second
ACTIVATIONS: Mapping[str, str] = MappingProxyType(
    {"relu": "ReLU", "leaky_relu": "LeakyReLU", "gelu": "GELU", "silu": "SiLU", "tanh": "Tanh", "sigmoid": "Sigmoid"}
)
NORMS = ("none", "batch", "layer")
MIXED = "mixed"
"""Stands for the activation of a network whose layers have different ones, which its architecture names."""


class _Architecture(BaseModel, frozen=True):
    model_config = ConfigDict(extra="forbid")

    @property
    def activations(self) -> tuple[str, ...]:
        """Names of the activations that it can be built with."""
        return tuple(ACTIVATIONS)


class Mlp(_Architecture, frozen=True):
    """Linear layers of one width, each with norm, activation and dropout, then a linear head.

    Args:
        family: Always ``"mlp"``.
        input_shape: Channels, height and width of an image.
        width: Units of each hidden layer.
        depth: Hidden layers.
        norm: After each hidden linear layer.
        num_classes: Outputs of the head.
    """

    family: Literal["mlp"]
    input_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    width: PositiveInt
    depth: PositiveInt
    norm: Literal["none", "batch", "layer"]
    num_classes: PositiveInt

    @property
    def kernel_size(self) -> int:
        """0: there are no kernels."""
        return 0


class Cnn(_Architecture, frozen=True):
    """Square convolutions, each with norm, activation and dropout, then global average pooling and a linear head.

    Args:
        family: Always ``"cnn"``.
        input_shape: Channels, height and width of an image.
        channels: Channels of each convolution.
        kernel_size: Height and width of every kernel.
        strides: Of each convolution.
        paddings: Zeros around the input of each convolution.
        num_classes: Outputs of the head.
        norm: After each convolution, which has no bias then.
    """

    family: Literal["cnn"]
    input_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    channels: tuple[PositiveInt, ...]
    kernel_size: PositiveInt
    strides: tuple[PositiveInt, ...]
    paddings: tuple[int, ...]
    num_classes: PositiveInt
    norm: Literal["none", "batch"] = "none"

    @property
    def width(self) -> int:
        """Channels of the widest convolution."""
        return max(self.channels)

    @property
    def depth(self) -> int:
        """Convolutions."""
        return len(self.channels)

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

    @model_serializer(mode="wrap")
    def _as_first_released(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # digits-cnn v1 holds its recipe as text, from before there were norms
        content = handler(self)
        return content if self.norm != "none" else {key: value for key, value in content.items() if key != "norm"}


class Resnet(_Architecture, frozen=True):
    """A convolution and residual blocks of two, all of one width and with batch norm, then global average pooling and a head.

    The first block halves height and width, and its shortcut is a convolution of 1 × 1; the others add their input as it is
    (He et al. 2016, arXiv:1512.03385, Fig. 2 and Section 3.3 B).

    Args:
        family: Always ``"resnet"``.
        input_shape: Channels, height and width of an image.
        width: Channels of every convolution.
        depth: Residual blocks.
        kernel_size: Height and width of the kernels, odd.
        num_classes: Outputs of the head.
    """

    family: Literal["resnet"]
    input_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    width: PositiveInt
    depth: PositiveInt
    kernel_size: PositiveInt
    num_classes: PositiveInt

    @property
    def norm(self) -> str:
        """Batch norm, always."""
        return "batch"

    @model_validator(mode="after")
    def _odd(self) -> Resnet:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"a residual block keeps height and width, which takes an odd kernel_size, got {self.kernel_size}")
        return self


class Transformer(_Architecture, frozen=True):
    """A transformer on square patches, with layer norm before attention and MLP and learned positions.

    Dosovitskiy et al. 2021, arXiv:2010.11929, Section 3.1; the MLP of a block has twice the width.

    Args:
        family: Always ``"transformer"``.
        input_shape: Channels, height and width of an image.
        width: Channels of a token.
        depth: Blocks.
        num_heads: Heads of attention, which share the width.
        patch_size: Height and width of a patch.
        pooling: What the head reads: the mean of all tokens, or a class token.
        num_classes: Outputs of the head.
    """

    family: Literal["transformer"]
    input_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    width: PositiveInt
    depth: PositiveInt
    num_heads: PositiveInt
    patch_size: PositiveInt
    pooling: Literal["mean", "token"]
    num_classes: PositiveInt

    @property
    def norm(self) -> str:
        """Layer norm, always."""
        return "layer"

    @property
    def kernel_size(self) -> int:
        """The patches are read by a convolution."""
        return self.patch_size

    @property
    def num_patches(self) -> int:
        """Tokens, without the class token."""
        return (self.input_shape[1] // self.patch_size) * (self.input_shape[2] // self.patch_size)

    @model_validator(mode="after")
    def _divides(self) -> Transformer:
        if self.width % self.num_heads:
            raise ValueError(f"num_heads must divide width, got {self.num_heads} heads for width {self.width}")
        if any(size % self.patch_size for size in self.input_shape[1:]):
            raise ValueError(f"patch_size must divide height and width of the input {self.input_shape}, got {self.patch_size}")
        return self


class ParkCnn(_Architecture, frozen=True):
    """Square convolutions of different sizes that keep height and width, then global average pooling and a linear head.

    What comes out of an earlier layer may be added to a later one before its activation, in as many first channels as both have
    (the CNN Wild Park of Kofinas et al., ICLR 2024, arXiv:2403.12143).

    Args:
        family: Always ``"park_cnn"``.
        input_shape: Channels, height and width of an image.
        channels: Channels of each convolution.
        kernel_sizes: Height and width of the kernels of each convolution, odd.
        layer_activations: Name of each layer's activation, or ``"none"``.
        skips: For each layer which one is added to it, at least two before it; -1 for none.
        num_classes: Outputs of the head.
    """

    family: Literal["park_cnn"]
    input_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    kernel_sizes: tuple[PositiveInt, ...]
    layer_activations: tuple[str, ...]
    skips: tuple[int, ...]
    num_classes: PositiveInt

    @property
    def activations(self) -> tuple[str, ...]:
        """Its own alone."""
        return (MIXED,)

    @property
    def width(self) -> int:
        """Channels of the widest convolution."""
        return max(self.channels)

    @property
    def depth(self) -> int:
        """Convolutions."""
        return len(self.channels)

    @property
    def kernel_size(self) -> int:
        """Height and width of the largest kernels."""
        return max(self.kernel_sizes)

    @property
    def norm(self) -> str:
        """There is none."""
        return "none"

    @model_validator(mode="after")
    def _fits(self) -> ParkCnn:
        lengths = {len(self.channels), len(self.kernel_sizes), len(self.layer_activations), len(self.skips)}
        if len(lengths) > 1:
            raise ValueError(f"channels, kernel_sizes, layer_activations and skips need one entry a layer, got {sorted(lengths)}")
        if any(size % 2 == 0 for size in self.kernel_sizes):
            raise ValueError(f"kernel_sizes: expected odd ones, which keep height and width, got {self.kernel_sizes}")
        unknown = set(self.layer_activations) - {*ACTIVATIONS, "none"}
        if unknown:
            raise ValueError(f"layer_activations: expected {', '.join(ACTIVATIONS)} or none, got {', '.join(sorted(unknown))}")
        if any(not -1 <= skip < max(0, layer - 1) for layer, skip in enumerate(self.skips)):
            raise ValueError(f"skips: expected -1 or a layer at least two before each, got {self.skips}")
        return self


class Siren(_Architecture, frozen=True):
    """Linear layers of one width, each followed by sin(omega · x), then a linear head: an implicit neural representation.

    Sitzmann et al. 2020, arXiv:2006.09661. It maps the two coordinates of a point to the image's values there.

    Args:
        family: Always ``"siren"``.
        width: Units of each hidden layer.
        depth: Hidden layers.
        omega: Factor in each sine, the first layer's included.
        num_channels: Values of a pixel.
    """

    family: Literal["siren"]
    width: PositiveInt
    depth: PositiveInt
    omega: PositiveFloat
    num_channels: PositiveInt

    @property
    def activations(self) -> tuple[str, ...]:
        """Sines alone."""
        return ("sine",)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Two coordinates: along the height, then along the width."""
        return (2,)


ClassifierArchitecture = Annotated[Mlp | Cnn | Resnet | Transformer | ParkCnn, Field(discriminator="family")]
Architecture = Mlp | Cnn | Resnet | Transformer | ParkCnn | Siren
FAMILIES = ("mlp", "cnn", "resnet", "transformer", "park_cnn")


def build(architecture: Architecture, activation: str, *, dropout: float = 0.0) -> torch.nn.Sequential:
    """A freshly initialised module of the architecture, in training mode.

    Args:
        architecture: What to build.
        activation: One of the architecture's `activations`.
        dropout: Share of activations dropped while training: after each hidden layer of an MLP or CNN, before the head of other
            classifiers; a Siren has none.

    Raises:
        UnknownNameError: The architecture does not have the activation.
    """
    from ngbench.zoo import modules

    if activation not in architecture.activations:
        raise UnknownNameError("activation", activation, architecture.activations)
    return getattr(modules, architecture.family)(architecture, activation, dropout=dropout)


def example_input(architecture: Architecture) -> torch.Tensor:
    """One input of zeros ``[1, *input shape]`` that the architecture's modules accept."""
    import torch

    return torch.zeros(1, *architecture.input_shape)


@cache
def num_parameters(architecture: Architecture) -> int:
    """Trained numbers of a network, running statistics not counted."""
    return sum(parameter.numel() for parameter in build(architecture, architecture.activations[0]).parameters())
