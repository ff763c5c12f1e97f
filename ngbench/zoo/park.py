"""Draws architectures like those of the CNN Wild Park."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from ngbench.zoo.architectures import ParkCnn

_Several = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class ParkSampler(BaseModel):
    """Draws the architectures of a zoo, each layer by itself, every choice with the same chance.

    As the authors' sampler does (github.com/mkofinas/neural-graphs, `cnn_sampler.py`): each layer but the first may have one skip
    into it, from any layer before the last one, or none.

    Args:
        num_architectures: How many; run i is built as number i modulo this, so that runs of one architecture train together.
        seed: With an architecture's number it decides the architecture.
        input_shape: Channels, height and width of an image.
        num_classes: Outputs.
        depths: Numbers of convolutions.
        channels: Channels of a convolution.
        kernel_sizes: Height and width of kernels.
        activations: Names of activations, or ``"none"``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_architectures: PositiveInt
    seed: NonNegativeInt
    input_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    num_classes: PositiveInt
    depths: _Several
    channels: _Several
    kernel_sizes: _Several
    activations: Annotated[tuple[str, ...], Field(min_length=1)]

    def __hash__(self) -> int:
        # type checkers do not see the one that pydantic makes
        return hash((self.num_architectures, self.seed))

    def architecture(self, index: int) -> ParkCnn:
        """The architecture of a number."""
        rng = np.random.default_rng([self.seed, index])
        depth = int(rng.choice(self.depths))
        skips = [-1, *(int(rng.integers(-1, layer)) for layer in range(depth - 1))]
        return ParkCnn(
            family="park_cnn",
            input_shape=self.input_shape,
            channels=tuple(rng.choice(self.channels, depth).tolist()),
            kernel_sizes=tuple(rng.choice(self.kernel_sizes, depth).tolist()),
            layer_activations=tuple(rng.choice(self.activations, depth).tolist()),
            skips=tuple(skips),
            num_classes=self.num_classes,
        )


@lru_cache(maxsize=8)
def sampled(sampler: ParkSampler) -> tuple[ParkCnn, ...]:
    """All architectures of a sampler, in their order."""
    return tuple(sampler.architecture(number) for number in range(sampler.num_architectures))
