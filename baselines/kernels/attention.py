"""Attention over all pairs of nodes in which each pair has its own queries, keys, scales and shifts, without storing these.

The pairs' products with the weights exist tile by tile, in registers. The backward pass makes them again; from the forward pass
it keeps the result and, for each node and head, the logarithm of the softmax's sum (Dao et al., FlashAttention, NeurIPS 2022). No
gradient is summed by atomic additions: two runs give the same bits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from baselines.kernels.launches import ATTENTION_TILES as TILES
from baselines.kernels.launches import AttentionTiles as Tiles
from baselines.kernels.sums import sum_of_parts
from baselines.kernels.usable import in_format, is_usable

DELTAS_AT_ONCE = 64
"""Heads of nodes in a tile of the sums of gradients times results."""

WIDTHS = (16, 32)
"""Channels that a head may have."""


def applies(pairs: Tensor, queries: Tensor, *, heads: int) -> bool:
    """Whether `relational_attention` takes these tensors; it needs Triton, a GPU and sizes that fill its tiles."""
    return (
        is_usable(pairs)
        and is_usable(in_format(pairs[:0])[0])
        and pairs.shape[-1] in TILES
        and queries.shape[-1] in [heads * width for width in WIDTHS]
        and 0 < pairs.numel() < 2**31
    )


def relational_attention(
    pairs: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    weight: Tensor,
    *,
    heads: int,
    mask: Tensor | None = None,
    precision: str = "tf32",
    tiles: Tiles | None = None,
) -> Tensor:
    """Per head: ``softmax over j of (q_i + Q e_ij) · (k_j + K e_ij) / sqrt(attention)``, of ``v_j * (S e_ij) + T e_ij``.

    Args:
        pairs: e, ``[graphs, nodes, nodes, channels]`` in float32 or bfloat16; the attending node i is on the second axis.
        queries: ``[graphs, nodes, attention]``, channels ordered by head; likewise `keys` and `values`.
        keys: See `queries`.
        values: See `queries`.
        weight: ``[heads * 4 * width, channels]``: for each head Q, K, T (shifts), S (scales).
        heads: Number of heads, of ``width = attention / heads`` channels each.
        mask: ``[graphs, nodes]``, true for nodes that may be attended; at least one in each graph.
        precision: Of products in float32: ``"tf32"``, ``"tf32x3"``, ``"ieee"``, or ``"bf16"``, which rounds their operands. Pairs
            in bfloat16 are multiplied as they are. Sums are in float32. ``"ieee"`` is slow: it leaves the tensor cores idle.
        tiles: In place of those of `TILES`.

    Returns:
        ``[graphs, nodes, attention]`` in the dtype of `values`.
    """
    if mask is not None:
        mask = mask.contiguous().view(torch.uint8)
    tiles = tiles or TILES[pairs.shape[-1]]
    of_graphs = [tensor.contiguous() for tensor in in_format(pairs, queries, keys, values)]
    with torch.cuda.device_of(pairs):
        return _Attention.apply(*of_graphs, weight.contiguous(), mask, heads, precision, tiles)


def operands(tensor: Tensor, precision: str) -> dict[str, Any]:
    """What the programs are told of the operands of products: the type they are rounded to, and Triton's word for the rest."""
    import triton.language as tl

    rounded = tensor.dtype == torch.bfloat16 or precision == "bf16"
    return {"OPERAND": tl.bfloat16 if rounded else tl.float32, "PRECISION": "tf32" if precision == "bf16" else precision}


def _kernels() -> Any:
    from baselines.kernels import attention_kernels

    return attention_kernels


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pairs, queries, keys, values, weight, mask, heads, precision, tiles) -> Tensor:  # noqa: ANN001
        num_graphs, num_nodes, _, channels = pairs.shape
        out = torch.empty_like(values)
        log_sums = torch.empty(num_graphs, num_nodes, heads, dtype=torch.float32, device=pairs.device)
        ctx.sizes = {"HEADS": heads, "WIDTH": values.shape[-1] // heads, "CHANNELS": channels, "MASKED": mask is not None}
        ctx.sizes |= {"num_stages": tiles.stages, **operands(pairs, precision)}
        rounded = torch.bfloat16 if pairs.dtype == torch.bfloat16 or precision == "bf16" else torch.float32
        turned = weight.view(heads, 4, -1, channels).transpose(2, 3).to(rounded).contiguous()
        columns, warps = tiles.forward
        _kernels().attention_forward[(num_graphs * math.ceil(num_nodes / tiles.nodes) * heads,)](
            *(pairs, queries, keys, values, turned, pairs if mask is None else mask, out, log_sums),
            *(num_nodes, values.shape[-1] ** -0.5),
            ROWS=tiles.nodes,
            COLUMNS=columns,
            **ctx.sizes,
            num_warps=warps,
        )
        ctx.tiles, ctx.weight_format = tiles, (weight.shape, weight.dtype)
        ctx.save_for_backward(pairs, queries, keys, values, turned, mask, out, log_sums)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_out: Tensor
    ) -> tuple[Tensor | None, ...]:
        *inputs, mask, out, log_sums = ctx.saved_tensors
        grad_out = grad_out.contiguous()
        deltas = torch.empty_like(log_sums)
        _kernels().attention_deltas[(math.ceil(deltas.numel() / DELTAS_AT_ONCE),)](
            grad_out, out, deltas, deltas.numel(), WIDTH=ctx.sizes["WIDTH"], ROWS=DELTAS_AT_ONCE
        )
        given = (*inputs, inputs[0] if mask is None else mask, grad_out, log_sums, deltas)
        grad_pairs = _grad_pairs(given, ctx.tiles, ctx.sizes) if ctx.needs_input_grad[0] else None
        *of_nodes, of_weight = _grad_nodes(given, ctx.tiles, ctx.sizes)
        shape, dtype = ctx.weight_format
        of_nodes = [grad.to(x.dtype) for grad, x in zip(of_nodes, inputs[1:4], strict=True)]
        return grad_pairs, *of_nodes, of_weight.view(shape).to(dtype), None, None, None, None


def _grad_pairs(given: tuple[Tensor, ...], tiles: Tiles, sizes: dict[str, Any]) -> Tensor:
    pairs, values = given[0], given[3]
    num_pairs = pairs.shape[:3].numel()
    grad_pairs = torch.empty_like(pairs)
    rows, warps = tiles.backward_pairs
    _kernels().attention_backward_pairs[(math.ceil(num_pairs / rows),)](
        *given, grad_pairs, num_pairs, pairs.shape[1], values.shape[-1] ** -0.5, ROWS=rows, **sizes, num_warps=warps
    )
    return grad_pairs


def _grad_nodes(given: tuple[Tensor, ...], tiles: Tiles, sizes: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the queries, keys, values and weights."""
    values, weight = given[3], given[4]
    num_graphs, num_nodes, attention = values.shape
    columns, warps = tiles.backward_nodes
    num_tiles = math.ceil(num_nodes / columns)
    num_groups = num_graphs * num_tiles
    rows = math.ceil(num_nodes / min(math.ceil(tiles.most_programs / (num_groups * sizes["HEADS"])), math.ceil(num_nodes / 16)))
    num_chunks = math.ceil(num_nodes / rows)
    grad_queries = torch.empty(num_tiles, *values.shape, dtype=torch.float32, device=values.device)
    grad_keys = torch.empty(num_chunks, *values.shape, dtype=torch.float32, device=values.device)
    grad_values = torch.empty_like(grad_keys)
    grad_weight = torch.empty(num_groups * num_chunks, *weight.shape, dtype=torch.float32, device=values.device)
    kernels = _kernels()
    program = kernels.attention_backward_nodes_across if tiles.across else kernels.attention_backward_nodes
    program[(num_groups * num_chunks * sizes["HEADS"],)](
        *(*given, grad_queries, grad_keys, grad_values, grad_weight),
        *(num_graphs, num_nodes, num_chunks, rows, attention**-0.5),
        COLUMNS=columns,
        **sizes,
        num_warps=warps,
    )
    return _summed(grad_queries), _summed(grad_keys), _summed(grad_values), sum_of_parts(grad_weight)


def _summed(parts: Tensor) -> Tensor:
    """The sum over the first axis; one part is no work."""
    return parts[0] if len(parts) == 1 else parts.sum(0)
