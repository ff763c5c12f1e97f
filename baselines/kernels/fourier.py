"""Fourier features and the linear layer that reads them as Triton kernels in which no feature reaches memory.

A weight has some 256 features, eight times what an edge has channels. The backward pass computes them again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from baselines.kernels.usable import is_usable

CHANNELS = (16, 32, 64)
MOST_INPUTS = 32
"""Numbers in a vector; the kernels go through them one by one."""

ROWS, CHUNK, NUM_PROGRAMS = 64, 32, 256
"""Rows of a tile, frequencies at once, and parts into which rows are cut for the gradient of the weight."""


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
        options = {"INPUTS": inputs, "CHANNELS": channels, "ROWS": ROWS, "CHUNK": CHUNK, "PRECISION": precision}
        num_rows = num_edges * num_graphs
        with torch.cuda.device_of(vectors):
            kernels.forward[-(-num_rows // ROWS),](
                vectors, frequencies, weight, bias, added, out, num_rows, num_graphs, len(frequencies), **options
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
        grad, num_rows = grad.contiguous(), vectors.shape[0] * vectors.shape[1]
        partials = vectors.new_empty(NUM_PROGRAMS, 2 * len(frequencies), grad.shape[2], dtype=torch.float32)
        with torch.cuda.device_of(vectors):
            kernels.gradient_of_weight[NUM_PROGRAMS, -(-len(frequencies) // CHUNK)](
                vectors, frequencies, grad, partials, num_rows, len(frequencies), **ctx.options
            )
        of_edges = grad.sum(1, dtype=torch.float32)
        grads = partials.sum(0).T, of_edges.sum(0), of_edges
        return None, None, *(part.to(dtype) for part, dtype in zip(grads, ctx.dtypes, strict=True)), None, None
