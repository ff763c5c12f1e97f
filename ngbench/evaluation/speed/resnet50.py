"""ResNet-50, a network of the size that people train: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016."""

from __future__ import annotations

from torch import Tensor, nn

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Inner channels, blocks and stride of each stage (Table 1)."""

EXPANSION = 4
"""Channels of the residual stream for each inner one."""


class Bottleneck(nn.Module):
    """Convolutions of 1×1, 3×3 and 1×1 with batch norm, and what came in added before the last ReLU.

    Differs from the paper in that the convolution of 3×3 has the stride, as in nearly all later code.

    Args:
        sources: Channels that come in.
        channels: Inner channels.
        stride: By which height and width are divided.
    """

    def __init__(self, sources: int, channels: int, *, stride: int):
        super().__init__()
        self.residual = nn.Sequential(
            *_convolution(sources, channels, 1), nn.ReLU(), *_convolution(channels, channels, 3, stride=stride), nn.ReLU(),
            *_convolution(channels, EXPANSION * channels, 1),
        )  # fmt: skip
        changes = stride > 1 or sources != EXPANSION * channels
        shortcut = _convolution(sources, EXPANSION * channels, 1, stride=stride) if changes else ()
        self.shortcut = nn.Sequential(*shortcut)
        self.activation = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        """``[images, sources, height, width]`` to ``[images, 4 channels, height / stride, width / stride]``."""
        return self.activation(self.shortcut(images) + self.residual(images))


def resnet50(num_classes: int = 1000) -> nn.Sequential:
    """With 1,000 classes 25,557,032 parameters.

    Args:
        num_classes: Units of the head.
    """
    layers: list[nn.Module] = [*_convolution(3, 64, 7, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
    sources = 64
    for channels, num_blocks, stride in STAGES:
        for index in range(num_blocks):
            layers.append(Bottleneck(sources, channels, stride=1 if index else stride))
            sources = EXPANSION * channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(sources, num_classes))


def _convolution(sources: int, channels: int, size: int, *, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(sources, channels, size, stride=stride, padding=size // 2, bias=False), nn.BatchNorm2d(channels)
