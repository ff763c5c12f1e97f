"""Stacked convolutions as Triton kernels, with the activation and the dropout that follow, in which no patch reaches memory.

With patches P, activation f and dropout d the kernels compute a = d(f(P W + b)). For the gradients they keep a alone: where it is
0 the unit was dropped, and f' follows from f. Sums over images go over parts whose number depends on the shapes of one network,
one after another, so that a network comes out the same, bit for bit, in every stack and every time.
"""

from __future__ import annotations

import importlib.util
import math
import os
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ngbench.zoo.dropout import Noise

MOST_CHANNELS = 64
PRECISION = "tf32x3"
"""To what products round their factors: three products of 10-bit factors are nearly one in float32."""


@dataclass(frozen=True)
class Launch:
    """How a kernel is cut into programs.

    Args:
        num_rows: Rows of a tile.
        chunk: Most of the taps times channels in a product; a power of two, at least 16.
        num_warps: Warps of a program.
        num_stages: Steps of the loop whose loads are under way together.
    """

    num_rows: int
    chunk: int
    num_warps: int
    num_stages: int


LAUNCHES = {
    "forward": Launch(64, 16, 2, 3),
    "gradient_of_input": Launch(64, 16, 2, 2),
    "gradients_of_weights": Launch(32, 64, 2, 1),
    "gradients_of_few_weights": Launch(32, 16, 1, 1),
}
"""For each kernel; few weights are those of up to 15 taps times channels."""

ROWS_A_PART, MOST_PARTS, VALUES = 1024, 128, 64
"""Least rows of a part of the sums over images, most parts, and how many sums a program adds up."""


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _programs() -> Any:
    from ngbench.zoo import convolution_kernels

    return convolution_kernels


def is_available(hidden: Tensor, kernels: Tensor) -> bool:
    """Whether `convolve` runs on these: float32 on CUDA with Triton there, few channels, indices within 31 bits.

    With ``NGBENCH_INTERPRET_KERNELS=1`` it also runs on a CPU, in Triton's interpreter, for tests.
    """
    on_device = hidden.is_cuda or os.environ.get("NGBENCH_INTERPRET_KERNELS") == "1"
    is_small = max(kernels.shape[1:3]) <= MOST_CHANNELS and hidden[0].numel() // hidden.shape[4] * MOST_CHANNELS < 2**31
    return on_device and is_small and hidden.dtype == kernels.dtype == torch.float32 and _has_triton()


def name_of(activation: nn.Module) -> str | None:
    """The name by which kernels know an activation, None where they have no such."""
    match activation:
        case nn.LeakyReLU(negative_slope=0.01):
            return "leaky_relu"
        case nn.ReLU():
            return "relu"
        case nn.Tanh():
            return "tanh"
        case nn.Sigmoid():
            return "sigmoid"
        case _:
            return None


@dataclass(frozen=True)
class _Shapes:
    """What a kernel is compiled for; names are those of its arguments in small letters."""

    height: int
    width: int
    sources: int
    out_height: int
    out_width: int
    targets: int
    kernel_height: int
    kernel_width: int
    stride_down: int
    stride_right: int
    top: int
    left: int

    @classmethod
    def of(cls, hidden: Tensor, kernels: Tensor, *, stride: tuple[int, int], padding: tuple[int, int]) -> _Shapes:
        (height, width, sources), (targets, _, taps_down, taps_right) = hidden.shape[2:], kernels.shape[1:]
        axes = zip((height, width), padding, (taps_down, taps_right), stride, strict=True)
        out_height, out_width = ((length + 2 * zeros - taps) // step + 1 for length, zeros, taps, step in axes)
        return cls(height, width, sources, out_height, out_width, targets, taps_down, taps_right, *stride, *padding)

    @property
    def size(self) -> int:
        """Taps times sources."""
        return self.kernel_height * self.kernel_width * self.sources

    @property
    def constants(self) -> dict[str, Any]:
        return {name.upper(): value for name, value in asdict(self).items()}


def convolve(
    hidden: Tensor,
    kernels: Tensor,
    biases: Tensor,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int],
    activation: str = "none",
    noise: Noise | None = None,
) -> Tensor:
    """Convolution, activation and dropout of a stack of networks.

    Args:
        hidden: ``[networks, images, height, width, sources]``.
        kernels: ``[networks, targets, sources, kernel height, kernel width]``.
        biases: ``[networks, targets]``.
        stride: Along height and width.
        padding: Zeros above and below, left and right.
        activation: A name that `name_of` gives, or ``"none"``.
        noise: Of the dropout; None to keep all units.

    Returns:
        ``[networks, images, out height, out width, targets]``.
    """
    return _Convolution.apply(
        hidden, kernels, biases, _Shapes.of(hidden, kernels, stride=stride, padding=padding), activation, noise
    )


class _Convolution(torch.autograd.Function):
    """See `convolve`."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, kernels: Tensor, biases: Tensor, shapes: _Shapes, activation: str, noise: Noise | None
    ) -> Tensor:
        """One program for each tile of rows of each network."""
        # images that all networks see are not copied for each
        hidden = hidden if hidden[0].is_contiguous() else hidden.contiguous()
        biases = biases if biases.stride(1) == 1 else biases.contiguous()
        num_networks, num_images = hidden.shape[:2]
        out = hidden.new_empty(num_networks, num_images, shapes.out_height, shapes.out_width, shapes.targets)
        num_rows, launch = num_images * shapes.out_height * shapes.out_width, LAUNCHES["forward"]
        options = {"ACTIVATION": activation, "DROPS": noise is not None, **shapes.constants, "PRECISION": PRECISION}
        with torch.cuda.device_of(hidden):
            _programs().forward[-(-num_rows // launch.num_rows), num_networks](
                hidden, kernels.permute(0, 3, 4, 2, 1).contiguous(), biases, out, *_tensors(noise, out), hidden.stride(0),
                biases.stride(0), *_strides(noise), num_rows, **options, COLUMNS=_padded(shapes.targets),
                ROWS=launch.num_rows, CHUNK=min(launch.chunk, _padded(shapes.size)), num_warps=launch.num_warps,
                num_stages=launch.num_stages,
            )  # fmt: skip
        ctx.save_for_backward(hidden, kernels, out)
        ctx.shapes, ctx.noise, ctx.options = shapes, noise, options
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Of hidden activations, where they need it, kernels and biases."""
        hidden, kernels, out = ctx.saved_tensors
        grads, needs_input = grads.contiguous(), ctx.needs_input_grad[0]
        writes = needs_input and (ctx.options["ACTIVATION"] != "none" or ctx.options["DROPS"])
        before = torch.empty_like(grads) if writes else grads
        with torch.cuda.device_of(hidden):
            of_kernels, of_biases = _gradients_of_weights(ctx, hidden, grads, out, before, writes=writes)
            of_hidden = _gradient_of_input(ctx, before, hidden, kernels) if needs_input else None
        return of_hidden, of_kernels, of_biases, None, None, None


def _gradients_of_weights(
    ctx: Any, hidden: Tensor, grads: Tensor, out: Tensor, before: Tensor, *, writes: bool
) -> tuple[Tensor, Tensor]:
    """Of kernels and biases; gradients before the activation are put into `before` where it `writes`."""
    shapes: _Shapes = ctx.shapes
    num_networks, num_rows = len(grads), grads[0].numel() // shapes.targets
    launch = LAUNCHES["gradients_of_few_weights" if shapes.size < 16 else "gradients_of_weights"]
    parts = min(MOST_PARTS, -(-num_rows // ROWS_A_PART))
    rows_a_part = -(-num_rows // (parts * launch.num_rows)) * launch.num_rows
    parts = -(-num_rows // rows_a_part)
    columns, chunk = _padded(shapes.targets), min(launch.chunk, _padded(shapes.size + 1))
    num_chunks = -(-(shapes.size + 1) // chunk)
    partials = grads.new_empty(num_networks, parts, columns, num_chunks * chunk)
    scales = out if ctx.noise is None else ctx.noise.scales
    _programs().gradients_of_weights[num_chunks, parts, num_networks](
        hidden, grads, out, before, partials, scales, hidden.stride(0), num_rows, rows_a_part, **ctx.options, WRITES=writes,
        COLUMNS=columns, ROWS=launch.num_rows, CHUNK=chunk, num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip
    sums, num_values = partials.new_empty(num_networks, columns, num_chunks * chunk), columns * num_chunks * chunk
    _programs().sums_of_parts[-(-num_values // VALUES), num_networks](
        partials, sums, parts, num_values, PARTS=_padded(parts), VALUES=VALUES
    )
    sums = sums[:, : shapes.targets]
    taps = sums[:, :, : shapes.size].unflatten(2, (shapes.kernel_height, shapes.kernel_width, shapes.sources))
    return taps.permute(0, 1, 4, 2, 3), sums[:, :, shapes.size]


def _gradient_of_input(ctx: Any, before: Tensor, hidden: Tensor, kernels: Tensor) -> Tensor:
    shapes: _Shapes = ctx.shapes
    out, (num_networks, num_images) = hidden.new_empty(hidden.shape), hidden.shape[:2]
    most_rows = num_images * math.prod(
        -(-length // step) for length, step in ((shapes.height, shapes.stride_down), (shapes.width, shapes.stride_right))
    )
    launch, num_classes = LAUNCHES["gradient_of_input"], shapes.stride_down * shapes.stride_right
    _programs().gradient_of_input[-(-most_rows // launch.num_rows), num_classes, num_networks](
        before, kernels.permute(0, 3, 4, 1, 2).contiguous(), out, num_images, **shapes.constants,
        COLUMNS=_padded(shapes.sources), ROWS=launch.num_rows, CHUNK=min(launch.chunk, _padded(shapes.targets)),
        PRECISION=PRECISION, num_warps=launch.num_warps, num_stages=launch.num_stages,
    )  # fmt: skip
    return out


def _padded(length: int) -> int:
    """The next power of two that a product takes."""
    return max(16, 1 << (length - 1).bit_length())


def _tensors(noise: Noise | None, stand_in: Tensor) -> tuple[Tensor, ...]:
    if noise is None:
        return (stand_in,) * 4
    return noise.thresholds, noise.scales, noise.keys, noise.step


def _strides(noise: Noise | None) -> tuple[int, int]:
    return (0, 0) if noise is None else (noise.keys.stride(0), noise.keys.stride(1))
