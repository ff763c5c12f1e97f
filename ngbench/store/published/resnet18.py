"""ResNet-18 for small images, under the state-dict paths of torchvision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Resnet18:
    """He et al. 2016 (arXiv:1512.03385) with a first convolution of 3 × 3 and stride 1, and no pooling behind it.

    Args:
        num_channels: Of an image.
        num_classes: Outputs of the head.
    """

    num_channels: int
    num_classes: int

    def module(self) -> nn.Module:
        """See `ngbench.store.published.Architecture`."""
        return _Resnet(self)

    def example_input(self) -> tuple[Tensor, ...]:
        """See `ngbench.store.published.Architecture`."""
        return (torch.zeros(1, self.num_channels, 32, 32),)


class _Resnet(nn.Module):
    def __init__(self, architecture: Resnet18) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(architecture.num_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(_Block(64, 64, 1), _Block(64, 64, 1))
        self.layer2 = nn.Sequential(_Block(64, 128, 2), _Block(128, 128, 1))
        self.layer3 = nn.Sequential(_Block(128, 256, 2), _Block(256, 256, 1))
        self.layer4 = nn.Sequential(_Block(256, 512, 2), _Block(512, 512, 1))
        self.fc = nn.Linear(512, architecture.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """``[images, channels, height, width]`` to ``[images, classes]``."""
        hidden = torch.relu(self.bn1(self.conv1(images)))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            hidden = layer(hidden)
        return self.fc(hidden.mean((2, 3)))


class _Block(nn.Module):
    def __init__(self, sources: int, targets: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(sources, targets, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(targets)
        self.conv2 = nn.Conv2d(targets, targets, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(targets)
        self.downsample = None
        if stride > 1:
            self.downsample = nn.Sequential(nn.Conv2d(sources, targets, 1, stride=stride, bias=False), nn.BatchNorm2d(targets))

    def forward(self, images: Tensor) -> Tensor:
        """``[images, sources, height, width]`` to ``[images, targets, height / stride, width / stride]``."""
        hidden = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(images)))))
        return torch.relu(hidden + (images if self.downsample is None else self.downsample(images)))
