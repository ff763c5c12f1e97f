"""The update of all pairs of nodes in one pass over them: two residual blocks with layer norms, nothing between them stored.

The forward pass keeps nothing but what it was given. The backward pass computes each pair again, and writes four tensors as
large as the pairs, and two of as many hidden channels, for its own use. No gradient is summed by atomic additions: two runs give
the same bits.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from baselines.kernels.attention import operands
from baselines.kernels.launches import PAIR_TILES as TILES
from baselines.kernels.launches import PairTiles as Tiles
from baselines.kernels.sums import sum_of_parts
from baselines.kernels.usable import in_format, is_usable

MOST_HELD = 2**14
"""Bytes of a weight's matrix up to which a program keeps those of both blocks in shared memory."""


class PairWeights(NamedTuple):
    """The weights of an update, as `torch.nn.functional.linear` and `layer_norm` take them."""

    inner0: Tensor
    """``[hidden, 2 * channels]``, of a pair and its reverse."""
    outer0: Tensor
    """``[channels, hidden]``."""
    bias0: Tensor
    """``[channels]``; likewise the norms' weights and shifts."""
    norm0: Tensor
    shift0: Tensor
    inner1: Tensor
    """``[hidden, channels]``."""
    outer1: Tensor
    """``[channels, hidden]``."""
    bias1: Tensor
    norm1: Tensor
    shift1: Tensor


def applies(pairs: Tensor, sources: Tensor) -> bool:
    """Whether `update_pairs` takes these tensors; it needs Triton, a GPU and sizes that fill its tiles."""
    return (
        is_usable(pairs)
        and is_usable(in_format(pairs[:0])[0])
        and (pairs.shape[-1], 2) in TILES
        and sources.shape[-1] in (32, 64, 128)
        and 0 < pairs.shape[:3].numel() * max(pairs.shape[-1], sources.shape[-1]) < 2**31
    )


def update_pairs(
    pairs: Tensor,
    sources: Tensor,
    targets: Tensor,
    weights: PairWeights,
    *,
    dropout: float = 0.0,
    seeds: Tensor | None = None,
    precision: str = "tf32",
    tiles: Tiles | None = None,
) -> Tensor:
    """``y = norm0(e_ij + drop(outer0 gelu(inner0 [e_ij, e_ji] + s_i + t_j)))``, then ``norm1(y + drop(outer1 gelu(inner1 y)))``.

    Args:
        pairs: e, ``[graphs, nodes, nodes, channels]`` in float32 or bfloat16; i is on the second axis.
        sources: s, ``[graphs, nodes, hidden]``, with every bias of the first layer.
        targets: t, likewise.
        weights: Of both blocks; the outer layers have biases.
        dropout: Share of the outer layers' results that is set to zero; 0 when not training.
        seeds: ``[2]``, integers on the device of the pairs, one for each block: equal seeds drop the same. Needed for dropout. A
            captured graph reads them anew each time it runs.
        precision: Of products, as for `baselines.kernels.attention.relational_attention`.
        tiles: In place of those of `TILES`.

    Returns:
        The new pairs, in the shape and dtype of `pairs`.
    """
    tensors = [tensor.contiguous() for tensor in (*in_format(pairs, sources, targets), *weights)]
    tiles = tiles or TILES[pairs.shape[-1], tensors[0].element_size()]
    with torch.cuda.device_of(pairs):
        return _Update.apply(*tensors, seeds if dropout else None, dropout, precision, tiles)


def _kernels() -> Any:
    from baselines.kernels import pair_kernels

    return pair_kernels


class _Update(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *given: Any) -> Tensor:
        *tensors, seeds, dropout, precision, tiles = given
        pairs = tensors[0]
        out, num_pairs = torch.empty_like(pairs), pairs.shape[:3].numel()
        ctx.sizes = {"CHANNELS": pairs.shape[-1], "HIDDEN": tensors[1].shape[-1]}
        ctx.sizes |= {"num_stages": tiles.stages, **operands(pairs, precision)}
        size = pairs.shape[-1] * ctx.sizes["HIDDEN"] * pairs.element_size()
        ctx.blocks = {"DROPPED": seeds is not None, "HELD": size <= MOST_HELD}
        rows, warps = tiles.forward
        _kernels().pairs_forward[(_programs(num_pairs, rows, tiles),)](
            *(*tensors, pairs if seeds is None else seeds, out, num_pairs, pairs.shape[1], dropout),
            **{"ROWS": rows, "num_warps": warps, **ctx.blocks, **ctx.sizes},
        )
        ctx.dropout, ctx.tiles = dropout, tiles
        ctx.save_for_backward(*tensors, seeds)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, grad_out: Tensor
    ) -> tuple[Tensor | None, ...]:
        *tensors, seeds = ctx.saved_tensors
        weights = PairWeights(*tensors[3:])
        found, vectors = _grad_blocks((*tensors, tensors[0] if seeds is None else seeds), grad_out.contiguous(), ctx)
        outer0, inner1, outer1 = _grad_weights(found, weights, ctx)
        grad_pairs, inner0 = _grad_pairs(tensors[0], weights.inner0, found, ctx)
        grad_sources, grad_targets = _grad_ends(found.grad_hidden, tensors[1], ctx)
        of_weights = (inner0, outer0, *vectors[:3], inner1.T, outer1, *vectors[3:])
        grads = (grad_pairs, grad_sources, grad_targets, *of_weights)
        return *(grad.to(x.dtype) for grad, x in zip(grads, tensors, strict=True)), None, None, None, None


class _Found(NamedTuple):
    """What the backward pass through the blocks writes for each pair."""

    middle: Tensor
    """y, ``[graphs, nodes, nodes, channels]``."""
    active: Tensor
    """What the first outer layer takes, ``[graphs, nodes, nodes, hidden]``."""
    grad_sum: Tensor
    """Of what the first norm takes; as y, likewise those of the outer layers' results."""
    grad_first: Tensor
    grad_second: Tensor
    grad_hidden: Tensor
    """Of what the first GELU takes; as `active`."""


def _programs(num_pairs: int, rows: int, tiles: Tiles) -> int:
    return min(math.ceil(num_pairs / rows), tiles.programs)


def _grad_blocks(given: tuple[Tensor, ...], grad_out: Tensor, ctx: Any) -> tuple[_Found, Tensor]:
    """What `_Found` says, and the gradients of the six vectors."""
    pairs = given[0]
    num_pairs, hidden = pairs.shape[:3].numel(), given[1].shape[-1]
    rows, warps = ctx.tiles.blocks
    num_programs = _programs(num_pairs, rows, ctx.tiles)
    middle, grad_sum, grad_second = (torch.empty_like(pairs) for _ in range(3))
    grad_first = torch.empty_like(pairs) if ctx.blocks["DROPPED"] else grad_sum
    active, grad_hidden = (pairs.new_empty(*pairs.shape[:3], hidden) for _ in range(2))
    found = _Found(middle, active, grad_sum, grad_first, grad_second, grad_hidden)
    grad_vectors = torch.empty(num_programs, 6, pairs.shape[-1], dtype=torch.float32, device=pairs.device)
    _kernels().pairs_backward_blocks[(num_programs,)](
        *(*given, grad_out, *found, grad_vectors, num_pairs, pairs.shape[1], ctx.dropout),
        **{"ROWS": rows, "num_warps": warps, **ctx.blocks, **ctx.sizes},
    )
    return found, sum_of_parts(grad_vectors)


def _grad_weights(found: _Found, weights: PairWeights, ctx: Any) -> Tensor:
    """Gradients of the first outer layer, of the second inner one turned, and of the second outer one."""
    num_pairs, (channels, hidden) = found.middle.shape[:3].numel(), weights.outer1.shape
    rows, chunk, warps = ctx.tiles.weights
    num_programs = _programs(num_pairs, rows, ctx.tiles)
    grad_weights = torch.empty(num_programs, 3, channels, hidden, dtype=torch.float32, device=weights.outer1.device)
    _kernels().pairs_backward_weights[num_programs, hidden // chunk](
        *(found.middle, found.active, weights.inner1, weights.outer1, found.grad_first, found.grad_second),
        *(grad_weights, num_pairs),
        **{"ROWS": rows, "CHUNK": chunk, "num_warps": warps, **ctx.sizes},
    )
    return sum_of_parts(grad_weights)


def _grad_pairs(pairs: Tensor, inner0: Tensor, found: _Found, ctx: Any) -> tuple[Tensor, Tensor]:
    """Gradients of the pairs and of the first inner layer."""
    num_pairs, (channels, hidden) = pairs.shape[:3].numel(), (pairs.shape[-1], len(inner0))
    rows, warps = ctx.tiles.pairs
    num_programs = _programs(num_pairs, rows, ctx.tiles)
    grad_pairs = torch.empty_like(pairs)
    grad_weights = torch.empty(num_programs, 2 * channels, hidden, dtype=torch.float32, device=pairs.device)
    _kernels().pairs_backward_pairs[(num_programs,)](
        *(pairs, inner0, found.grad_sum, found.grad_hidden, grad_pairs, grad_weights, num_pairs, pairs.shape[1]),
        **{"ROWS": rows, "num_warps": warps, **ctx.sizes},
    )
    return grad_pairs, sum_of_parts(grad_weights).T


def _grad_ends(grad_hidden: Tensor, sources: Tensor, ctx: Any) -> tuple[Tensor, Tensor]:
    """Gradients of the sources and of the targets."""
    grad_sources, grad_targets = torch.empty_like(sources), torch.empty_like(sources)
    _kernels().pairs_backward_ends[(sources.shape[:2].numel(),)](
        *(grad_hidden, grad_sources, grad_targets, sources.shape[1]),
        ROWS=16,
        HIDDEN=ctx.sizes["HIDDEN"],
        num_warps=2,
    )
    return grad_sources, grad_targets
