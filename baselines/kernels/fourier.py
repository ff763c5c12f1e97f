"""Fourier features and the linear layer that reads them as Triton kernels in which no feature reaches memory.

A weight has some 256 features, eight times what an edge has channels. The backward pass computes them again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from baselines.kernels.launches import FOURIER_LAUNCHES as LAUNCHES
from baselines.kernels.sums import sum_of_parts
from baselines.kernels.usable import is_usable

CHANNELS = (16, 32, 64)
MOST_INPUTS = 32
"""Numbers in a vector; the kernels go through them one by one."""


def _options(kernel: str, channels: int) -> dict[str, Any]:
    launch = LAUNCHES[kernel][channels]
    return {"ROWS": launch.rows, "CHUNK": launch.chunk, "num_warps": launch.num_warps}


def is_available(vectors: Tensor, channels: int) -> bool:
    """Whether `fourier_linear` can run on vectors ``[edges, graphs, inputs]``: without gradients to them, of few numbers."""
    return is_usable(vectors) and channels in CHANNELS and vectors.shape[-1] <= MOST_INPUTS and not vectors.requires_grad


def fourier_linear(
    vectors: Tensor, frequencies: Tensor, linear: nn.Linear, added: Tensor, *, dtype: torch.dtype, precision: str
) -> Tensor:
    """``linear([cos 2π v bᵀ, sin 2π v bᵀ]) + added``, ``[edges, graphs, channels]``.

    Args:
        vectors: v, ``[edges, graphs, inputs]``.
        frequencies: b, ``[frequencies, inputs]``.
        linear: From ``2 · frequencies`` to channels.
        added: One vector for each edge, ``[edges, channels]``.
        dtype: Of what is given back.
        precision: To what products round their operands: "ieee" (float32 as it is), "tf32x3" (nearly so), "tf32" or "bf16".
    """
    return FourierLinear.apply(vectors, frequencies, linear.weight, linear.bias, added, dtype, precision)


class FourierLinear(torch.autograd.Function):
    """See `fourier_linear`."""

    @staticmethod
    def forward(
        ctx: Any,
        vectors: Tensor,
        frequencies: Tensor,
        weight: Tensor,
        bias: Tensor,
        added: Tensor,
        dtype: torch.dtype,
        precision: str,
    ) -> Tensor:
        """One program for each tile of rows."""
        from baselines.kernels import fourier_kernels as kernels

        vectors, frequencies, weight, added = (tensor.contiguous() for tensor in (vectors, frequencies, weight, added))
        (num_edges, num_graphs, inputs), channels = vectors.shape, len(weight)
        out = vectors.new_empty(num_edges, num_graphs, channels, dtype=dtype)
        options = {"INPUTS": inputs, "CHANNELS": channels, "PRECISION": precision}
        num_rows, launch = num_edges * num_graphs, _options("forward", channels)
        with torch.cuda.device_of(vectors):
            kernels.forward[-(-num_rows // launch["ROWS"]),](
                vectors, frequencies, weight, bias, added, out, num_rows, num_graphs, len(frequencies), **options, **launch
            )
        ctx.save_for_backward(vectors, frequencies)
        ctx.options, ctx.dtypes = options, (weight.dtype, bias.dtype, added.dtype)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Of weight, bias and what is added."""
        from baselines.kernels import fourier_kernels as kernels

        vectors, frequencies = ctx.saved_tensors
        grad, num_rows, channels = grad.contiguous(), vectors.shape[0] * vectors.shape[1], grad.shape[2]
        num_programs = LAUNCHES["gradient_of_weight"][channels].num_programs
        launch = _options("gradient_of_weight", channels)
        partials = vectors.new_empty(num_programs, 2 * len(frequencies), channels, dtype=torch.float32)
        with torch.cuda.device_of(vectors):
            kernels.gradient_of_weight[num_programs, -(-len(frequencies) // launch["CHUNK"])](
                vectors, frequencies, grad, partials, num_rows, len(frequencies), **ctx.options, **launch
            )
        of_edges = grad.sum(1, dtype=torch.float32)
        grads = sum_of_parts(partials).T, of_edges.sum(0), of_edges
        return None, None, *(part.to(dtype) for part, dtype in zip(grads, ctx.dtypes, strict=True)), None, None
