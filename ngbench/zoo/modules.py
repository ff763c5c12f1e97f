"""The modules of each family; `ngbench.zoo.architectures.build` calls the function of the family's name."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ngbench.zoo.architectures import ACTIVATIONS, Cnn, Mlp, ParkCnn, Resnet, Siren, Transformer


def mlp(architecture: Mlp, activation: str, *, dropout: float) -> nn.Sequential:
    """See `Mlp`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    channels, height, width = architecture.input_shape
    sources, norms = channels * height * width, {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
    for index in range(architecture.depth):
        layers[f"linear{index}"] = nn.Linear(sources, architecture.width)
        if architecture.norm != "none":
            layers[f"norm{index}"] = norms[architecture.norm](architecture.width)
        layers[f"activation{index}"] = _activation(activation)
        layers[f"dropout{index}"] = nn.Dropout(dropout)
        sources = architecture.width
    layers["head"] = nn.Linear(sources, architecture.num_classes)
    return nn.Sequential(layers)


def cnn(architecture: Cnn, activation: str, *, dropout: float) -> nn.Sequential:
    """See `Cnn`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    sources, plain = architecture.input_shape[0], architecture.norm == "none"
    for index, (channels, stride, padding) in enumerate(
        zip(architecture.channels, architecture.strides, architecture.paddings, strict=True)
    ):
        layers[f"conv{index}"] = nn.Conv2d(
            sources, channels, architecture.kernel_size, stride=stride, padding=padding, bias=plain
        )
        if not plain:
            layers[f"norm{index}"] = nn.BatchNorm2d(channels)
        layers[f"activation{index}"] = _activation(activation)
        layers[f"dropout{index}"] = nn.Dropout(dropout)
        sources = channels
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(sources, architecture.num_classes)
    return nn.Sequential(layers)


def resnet(architecture: Resnet, activation: str, *, dropout: float) -> nn.Sequential:
    """See `Resnet`."""
    width, size = architecture.width, architecture.kernel_size
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(architecture.input_shape[0], width, size, padding=size // 2, bias=False)
    layers["norm"] = nn.BatchNorm2d(width)
    layers["activation"] = _activation(activation)
    for index in range(architecture.depth):
        layers[f"block{index}"] = ResidualBlock(width, size, activation, halves=index == 0)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["dropout"] = nn.Dropout(dropout)
    layers["head"] = nn.Linear(width, architecture.num_classes)
    return nn.Sequential(layers)


def transformer(architecture: Transformer, activation: str, *, dropout: float) -> nn.Sequential:
    """See `Transformer`."""
    width = architecture.width
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["patches"] = Patches(architecture)
    for index in range(architecture.depth):
        layers[f"block{index}"] = TransformerBlock(width, architecture.num_heads, activation)
    layers["norm"] = nn.LayerNorm(width)
    layers["pool"] = Pooling(architecture.pooling)
    layers["dropout"] = nn.Dropout(dropout)
    layers["head"] = nn.Linear(width, architecture.num_classes)
    return nn.Sequential(layers)


def park_cnn(architecture: ParkCnn, activation: str, *, dropout: float) -> nn.Sequential:
    """See `ParkCnn`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(body=SkippingConvolutions(architecture))
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["dropout"] = nn.Dropout(dropout)
    layers["head"] = nn.Linear(architecture.channels[-1], architecture.num_classes)
    return nn.Sequential(layers)


def siren(architecture: Siren, activation: str, *, dropout: float) -> nn.Sequential:
    """See `Siren`."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    sources = math.prod(architecture.input_shape)
    for index in range(architecture.depth):
        layers[f"linear{index}"] = nn.Linear(sources, architecture.width)
        layers[f"{activation}{index}"] = Sine(architecture.omega)
        sources = architecture.width
    layers["head"] = nn.Linear(sources, architecture.num_channels)
    return nn.Sequential(layers)


class Sine(nn.Module):
    """sin(omega · x) of each number x."""

    def __init__(self, omega: float):
        super().__init__()
        self.omega = omega

    def forward(self, hidden: Tensor) -> Tensor:
        """Keeps the shape."""
        return torch.sin(self.omega * hidden)


class ResidualBlock(nn.Module):
    """Two convolutions with batch norm, and what came in added before the last activation.

    Args:
        width: Channels.
        kernel_size: Odd.
        activation: A name in `ACTIVATIONS`.
        halves: Whether height and width are halved, the shortcut then being a convolution of 1 × 1 with batch norm.
    """

    def __init__(self, width: int, kernel_size: int, activation: str, *, halves: bool):
        super().__init__()
        stride, padding = (2 if halves else 1), kernel_size // 2
        self.conv1 = nn.Conv2d(width, width, kernel_size, stride=stride, padding=padding, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.activation1 = _activation(activation)
        self.conv2 = nn.Conv2d(width, width, kernel_size, padding=padding, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.Conv2d(width, width, 1, stride=stride, bias=False) if halves else None
        self.shortcut_norm = nn.BatchNorm2d(width) if halves else None
        self.activation2 = _activation(activation)

    def forward(self, images: Tensor) -> Tensor:
        """``[images, channels, height, width]`` to the same, or half the height and width."""
        hidden = self.norm2(self.conv2(self.activation1(self.norm1(self.conv1(images)))))
        if self.shortcut is not None and self.shortcut_norm is not None:
            images = self.shortcut_norm(self.shortcut(images))
        return self.activation2(images + hidden)


class SkippingConvolutions(nn.Module):
    """Convolutions with activations; what an earlier one gave may be added before the activation of a later one."""

    def __init__(self, architecture: ParkCnn):
        super().__init__()
        self.skips, sources = architecture.skips, architecture.input_shape[0]
        for index, (channels, size, activation) in enumerate(
            zip(architecture.channels, architecture.kernel_sizes, architecture.layer_activations, strict=True)
        ):
            self.add_module(f"conv{index}", nn.Conv2d(sources, channels, size, padding=size // 2))
            self.add_module(f"activation{index}", nn.Identity() if activation == "none" else _activation(activation))
            sources = channels

    def forward(self, images: Tensor) -> Tensor:
        """``[images, channels, height, width]`` to the same height and width."""
        return self.run(images, lambda name, layer, hidden: layer(hidden), axis=1)

    def run(self, hidden: Tensor, apply: Callable[[str, nn.Module, Tensor], Tensor], *, axis: int) -> Tensor:
        """The same for any form of activations.

        Args:
            hidden: What comes in.
            apply: Applies a layer, given its name.
            axis: Along which activations have their channels.
        """
        given: list[Tensor] = []
        for index, skip in enumerate(self.skips):
            conv, activation = f"conv{index}", f"activation{index}"
            hidden = apply(conv, getattr(self, conv), hidden)
            if skip >= 0:
                hidden = _add_shared(hidden, given[skip], axis=axis)
            hidden = apply(activation, getattr(self, activation), hidden)
            given.append(hidden)
        return hidden


def _add_shared(hidden: Tensor, earlier: Tensor, *, axis: int) -> Tensor:
    """Adds the first channels of what came earlier to the first channels, as many as both have."""
    count = min(hidden.shape[axis], earlier.shape[axis])
    added = hidden.narrow(axis, 0, count) + earlier.narrow(axis, 0, count)
    if count == hidden.shape[axis]:
        return added
    return torch.cat([added, hidden.narrow(axis, count, hidden.shape[axis] - count)], dim=axis)


class Patches(nn.Module):
    """Patches as tokens, their positions added; the class token, if there is one, comes first."""

    def __init__(self, architecture: Transformer):
        super().__init__()
        width, size, has_token = architecture.width, architecture.patch_size, architecture.pooling == "token"
        self.conv = nn.Conv2d(architecture.input_shape[0], width, size, stride=size)
        self.token = nn.Parameter(torch.zeros(1, 1, width)) if has_token else None
        self.positions = nn.Parameter(torch.zeros(1, architecture.num_patches + has_token, width))

    def forward(self, images: Tensor) -> Tensor:
        """``[images, channels, height, width]`` to ``[images, tokens, width]``."""
        tokens = self.conv(images).flatten(2).transpose(1, 2)
        if self.token is not None:
            tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1)
        return tokens + self.positions


class TransformerBlock(nn.Module):
    """Self-attention and an MLP of twice the width, each behind a layer norm and added to what came in."""

    def __init__(self, width: int, num_heads: int, activation: str):
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.activation = _activation(activation)
        self.contract = nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[images, tokens, width]`` to the same."""
        # [images, tokens, width], each of three, to [images, heads, tokens, width of a head]
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.query_key_value(self.norm1(tokens)).chunk(3, dim=-1)
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.output(mixed.transpose(1, 2).flatten(2))
        return tokens + self.contract(self.activation(self.expand(self.norm2(tokens))))


class Pooling(nn.Module):
    """One vector an image: the mean of its tokens, or the first token."""

    def __init__(self, pooling: str):
        super().__init__()
        self.pooling = pooling

    def forward(self, tokens: Tensor) -> Tensor:
        """``[images, tokens, width]`` to ``[images, width]``."""
        return tokens.mean(1) if self.pooling == "mean" else tokens[:, 0]


def _activation(name: str) -> nn.Module:
    return getattr(nn, ACTIVATIONS[name])()
