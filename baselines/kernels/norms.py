"""Norms with what stands before or after them as Triton kernels: each is one pass forward and one backward.

Written out in torch the norm of a graph and its SiLU are some fifty short kernels. Nothing is added atomically, so that two runs
give the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from baselines.kernels.sums import sum_of_parts
from baselines.kernels.usable import is_usable

CHANNELS = (16, 32, 64, 128, 256)

MOST_NODES = 4096
"""Nodes of a graph for which one program is enough."""

NUMBERS_IN_TILE = 8192
"""Of a graph, that its program goes through at a time."""

ROWS, NUM_PROGRAMS = 16, 528
"""Rows of a tile of `sum_norm`, and the most programs of its backward pass."""


def applies_to_graphs(nodes: Tensor) -> bool:
    """Whether `graph_norm_silu` takes nodes ``[nodes, graphs, channels]`` of networks of one structure."""
    return is_usable(nodes) and nodes.shape[2] in CHANNELS and 0 < nodes.shape[0] <= MOST_NODES and nodes.shape[1] > 0


def applies_to_rows(rows: Tensor) -> bool:
    """Whether `sum_norm` takes rows ``[..., channels]``; it is for mixed precision."""
    return is_usable(rows) and torch.is_autocast_enabled(rows.device.type) and rows.shape[-1] in CHANNELS and rows.numel() > 0


def graph_norm_silu(nodes: Tensor, weight: Tensor, bias: Tensor, *, eps: float, dtype: torch.dtype) -> Tensor:
    """``silu((nodes - mean) / (deviation + eps) * weight + bias)``, mean and deviation over all of one graph.

    Args:
        nodes: ``[nodes, graphs, channels]``.
        weight: ``[channels]``.
        bias: ``[channels]``.
        eps: Added to the deviation.
        dtype: Of what is given back.
    """
    return _GraphNorm.apply(nodes.contiguous(), weight, bias, eps, dtype)


def sum_norm(rows: Tensor, changes: Tensor, norm: nn.LayerNorm, *, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """``norm(rows + changes)`` in float32, and rounded to a dtype.

    Args:
        rows: ``[..., channels]``.
        changes: ``[..., channels]``.
        norm: Over the channels, with weight and bias.
        dtype: Of the second result.
    """
    with torch.cuda.device_of(rows):
        return _SumNorm.apply(rows.contiguous(), changes.contiguous(), norm.weight, norm.bias, norm.eps, dtype)


def _kernels() -> Any:
    from baselines.kernels import norm_kernels

    return norm_kernels


class _GraphNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, nodes: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        num_nodes, num_graphs, channels = nodes.shape
        out, moments = torch.empty_like(nodes, dtype=dtype), nodes.new_empty(num_graphs, 2, dtype=torch.float32)
        rows = min(1 << (num_nodes - 1).bit_length(), NUMBERS_IN_TILE // channels)
        ctx.numbers, ctx.options = (
            (num_nodes, num_graphs, eps),
            {"CHANNELS": channels, "ROWS": rows, "num_warps": 8, "num_stages": 1},
        )
        with torch.cuda.device_of(nodes):
            _kernels().graph_norm_forward[num_graphs,](nodes, weight, bias, out, moments, *ctx.numbers, **ctx.options)
        ctx.save_for_backward(nodes, weight, bias, moments)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        nodes, weight, bias, moments = ctx.saved_tensors
        grad_nodes, grad_out = torch.empty_like(nodes), grad_out.contiguous()
        partials = nodes.new_empty(nodes.shape[1], 2, nodes.shape[2], dtype=torch.float32)
        with torch.cuda.device_of(nodes):
            _kernels().graph_norm_backward[nodes.shape[1],](
                nodes, weight, bias, moments, grad_out, grad_nodes, partials, *ctx.numbers, **ctx.options
            )
        of_weight, of_bias = sum_of_parts(partials).to(weight.dtype)
        return grad_nodes, of_weight, of_bias, None, None


class _SumNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, changes: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        out, rounded = torch.empty_like(rows, dtype=torch.float32), torch.empty_like(rows, dtype=dtype)
        num_rows, ctx.eps = rows.shape[:-1].numel(), eps
        _kernels().sum_norm_forward[-(-num_rows // ROWS),](
            rows, changes, weight, bias, out, rounded, num_rows, eps, CHANNELS=rows.shape[-1], ROWS=ROWS, num_stages=1
        )
        ctx.save_for_backward(rows, changes, weight)
        ctx.set_materialize_grads(False)
        return out, rounded

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_out: Tensor | None, grad_rounded: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        rows, changes, weight = ctx.saved_tensors
        grad_out, grad_rounded = (None if grad is None else grad.contiguous() for grad in (grad_out, grad_rounded))
        num_rows, channels = rows.shape[:-1].numel(), rows.shape[-1]
        grad_rows, grad_changes = torch.empty_like(rows), torch.empty_like(changes)
        partials = rows.new_empty(min(NUM_PROGRAMS, -(-num_rows // ROWS)), 2, channels, dtype=torch.float32)
        with torch.cuda.device_of(rows):
            _kernels().sum_norm_backward[len(partials),](
                *(rows, changes, weight, grad_out, grad_rounded, grad_rows, grad_changes, partials, num_rows, ctx.eps),
                CHANNELS=channels,
                ROWS=ROWS,
                num_stages=1,
            )
        of_weight, of_bias = sum_of_parts(partials).to(weight.dtype)
        return grad_rows, grad_changes, of_weight, of_bias, None, None
