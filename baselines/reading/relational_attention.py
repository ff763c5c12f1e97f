"""Attention between all pairs of nodes, and the update of the pairs (Diao and Loynd, ICLR 2023), in little memory.

A pair has a vector that enters queries, keys and values, so that a layer wants some twenty numbers for each that a pair has.
Only the pairs themselves are kept. What is computed from them exists for a few graphs at a time, and again in the backward pass:
on a CPU it stays in the caches. The gradients are written out, for autograd would pass over all of it three times as often.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from baselines.kernels.pairs import PairWeights
from baselines.reading.message_passing import product, product_gradients

FLOATS_IN_CHUNK = {"cpu": 2**19, "cuda": 2**27}
"""Floats of the largest tensor, at most, that the graphs of a chunk have between them; one graph may have more."""

EPSILON = 1e-5
"""Added to the variance in a norm."""


def relational_attention(
    pairs: Tensor, queries: Tensor, keys: Tensor, values: Tensor, weight: Tensor, *, heads: int, mask: Tensor | None = None
) -> Tensor:
    """Per head: ``softmax over j of (q_i + Q e_ij) · (k_j + K e_ij) / sqrt(attention)``, of ``v_j * (S e_ij) + T e_ij``.

    Args:
        pairs: e, ``[graphs, nodes, nodes, channels]``; the attending node i is on the second axis.
        queries: ``[graphs, nodes, attention]``, channels ordered by head; likewise `keys` and `values`.
        keys: See `queries`.
        values: See `queries`.
        weight: ``[heads * 4 * width, channels]``: for each head Q, K, T (shifts), S (scales).
        heads: Number of heads, of ``width = attention / heads`` channels each.
        mask: ``[graphs, nodes]``, true for nodes that may be attended; at least one in each graph. None for all.

    Returns:
        ``[graphs, nodes, attention]``.
    """
    tensors = _in_one_format(pairs, queries, keys, values, weight)
    with torch.autocast(pairs.device.type, enabled=False):
        return _Attention.apply(*tensors, heads, mask)


def update_pairs(
    pairs: Tensor, sources: Tensor, targets: Tensor, weights: PairWeights, *, kept: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """``y = norm0(e_ij + drop(outer0 gelu(inner0 [e_ij, e_ji] + s_i + t_j)))``, then ``norm1(y + drop(outer1 gelu(inner1 y)))``.

    Args:
        pairs: e, ``[graphs, nodes, nodes, channels]``; i is on the second axis.
        sources: s, ``[graphs, nodes, hidden]``, with every bias of the first layer.
        targets: t, likewise.
        weights: Of both blocks; the outer layers have biases.
        kept: What is not dropped, bool ``[2, graphs, nodes, nodes, channels]``, of each block; None for everything.
        dropout: Share that is dropped, for which what is kept makes up.

    Returns:
        The new pairs, in the shape of `pairs`.
    """
    tensors = _in_one_format(pairs, sources, targets, *weights)
    with torch.autocast(pairs.device.type, enabled=False):
        return _Update.apply(kept, 1 / (1 - dropout), *tensors)


def keep_at_random(pairs: Tensor, dropout: float) -> Tensor:
    """What `update_pairs` keeps of the pairs when a share, to sixteen bits, is dropped.

    The bits of long integers take a third of the time that `torch.Tensor.bernoulli_` takes on a CPU.
    """
    shape = (2, *pairs.shape)
    bits = torch.empty(-(-math.prod(shape) // 4), dtype=torch.int64, device=pairs.device).random_(-(2**63), None)
    return bits.view(torch.int16)[: math.prod(shape)].view(shape) >= round(dropout * 2**16) - 2**15


def _in_one_format(*tensors: Tensor) -> list[Tensor]:
    """Tensors in the number format that autocast asked for around, and otherwise in that of the first."""
    device = tensors[0].device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensors[0].dtype
    return [tensor.to(dtype) for tensor in tensors]


def _chunks(pairs: Tensor, channels: int) -> Iterator[slice]:
    """Graphs to be computed at once, whose pairs have tensors of so many channels."""
    size = max(1, FLOATS_IN_CHUNK.get(pairs.device.type, 2**27) // (pairs.shape[1] * pairs.shape[2] * channels))
    for start in range(0, len(pairs), size):
        yield slice(start, start + size)


def _linear(pairs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return product(pairs.flatten(0, 1), weight, bias).unflatten(0, pairs.shape[:2])


def _linear_gradients(grad: Tensor, pairs: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    grad_pairs, grad_weight = product_gradients(grad.flatten(0, 1), pairs.flatten(0, 1), weight)
    return grad_pairs.unflatten(0, pairs.shape[:2]), grad_weight


class _Attention(torch.autograd.Function):
    """`relational_attention`; the shares of attention are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, pairs: Tensor, queries: Tensor, keys: Tensor, values: Tensor, weight: Tensor, *rest: Any) -> Tensor:
        heads, mask = rest
        parts = _parts(weight, heads)
        out, shares = torch.empty_like(values), pairs.new_empty(len(pairs), heads, *pairs.shape[1:3])
        for some in _chunks(pairs, values.shape[-1]):
            is_seen = None if mask is None else mask[some]
            shares[some] = _shares(pairs[some], queries[some], keys[some], parts, heads=heads, mask=is_seen)
            out[some] = _attended(pairs[some], values[some], parts, shares[some])
        ctx.save_for_backward(pairs, queries, keys, values, weight, shares)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pairs, queries, keys, values, weight, shares = ctx.saved_tensors
        parts = _parts(weight, shares.shape[1])
        grads = [torch.empty_like(tensor) for tensor in (pairs, queries, keys, values)]
        sums = [_zero_sum(part) for part in parts]
        for some in _chunks(pairs, values.shape[-1]):
            nodes = queries[some], keys[some], values[some]
            _collect(_attention_gradients(grad[some], pairs[some], *nodes, parts, shares[some]), grads, sums, some)
        grad_weight = torch.stack([_by_head(part, shares.shape[1], axis=0) for part in sums], 1)
        return (*grads, grad_weight.view(weight.shape).to(weight.dtype), None, None)


def _parts(weight: Tensor, heads: int) -> list[Tensor]:
    """What makes queries, keys, shifts and scales of pairs, each ``[attention, channels]``."""
    return [part.flatten(0, 1) for part in weight.unflatten(0, (heads, 4, -1)).unbind(1)]


def _by_head(tensor: Tensor, heads: int, *, axis: int = -1) -> Tensor:
    return tensor.unflatten(axis, (heads, -1))


def _for_channels(of_pairs: Tensor) -> Tensor:
    """``[graphs, heads, nodes, nodes]`` as ``[graphs, nodes, nodes, heads, 1]``, in memory too."""
    return of_pairs.permute(0, 2, 3, 1).contiguous().unsqueeze(-1)


def _queries_and_keys(pairs: Tensor, queries: Tensor, keys: Tensor, parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Of each pair, ``[graphs, nodes, nodes, attention]``."""
    return _linear(pairs, parts[0]).add_(queries.unsqueeze(2)), _linear(pairs, parts[1]).add_(keys.unsqueeze(1))


def _shares(pairs: Tensor, queries: Tensor, keys: Tensor, parts: list[Tensor], *, heads: int, mask: Tensor | None) -> Tensor:
    """What share of each node's attention every node gets, ``[graphs, heads, nodes, nodes]``."""
    of_queries, of_keys = _queries_and_keys(pairs, queries, keys, parts)
    logits = _by_head(of_queries.mul_(of_keys), heads).sum(-1).permute(0, 3, 1, 2) / math.sqrt(queries.shape[-1])
    return (logits if mask is None else logits.masked_fill(~mask[:, None, None], -math.inf)).softmax(-1)


def _attended(pairs: Tensor, values: Tensor, parts: list[Tensor], shares: Tensor) -> Tensor:
    """What each node gets, ``[graphs, nodes, attention]``."""
    heads = shares.shape[1]
    scaled = _linear(pairs, parts[3]).mul_(values.unsqueeze(1))
    _by_head(scaled, heads).mul_(_for_channels(shares))
    # A sum of shifts is the shift of a sum, which is one for each node and head.
    shifts = torch.einsum("gihc,hwc->gihw", shares.transpose(1, 2) @ pairs, _by_head(parts[2], heads, axis=0))
    return scaled.sum(2).add_(shifts.flatten(2))


def _attention_gradients(
    grad: Tensor, pairs: Tensor, queries: Tensor, keys: Tensor, values: Tensor, parts: list[Tensor], shares: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of pairs, queries, keys and values, and of the four parts of the weight."""
    heads, factors = shares.shape[1], _for_channels(shares)
    shift, by_head = _by_head(parts[2], heads, axis=0), _by_head(grad, heads)
    grad_seen = torch.einsum("gihw,hwc->gihc", by_head, shift)
    grad_shift = torch.einsum("gihw,gihc->hwc", by_head, shares.transpose(1, 2) @ pairs).flatten(0, 1)

    carried = _linear(pairs, parts[3]).mul_(grad.unsqueeze(2))
    grad_shares = _by_head(carried * values.unsqueeze(1), heads).sum(-1).permute(0, 3, 1, 2)
    grad_shares = grad_shares + (grad_seen @ pairs.transpose(2, 3)).transpose(1, 2)
    _by_head(carried, heads).mul_(factors)
    grad_values = carried.sum(1)
    grad_scaled = torch.mul(values.unsqueeze(1), grad.unsqueeze(2), out=carried)
    _by_head(grad_scaled, heads).mul_(factors)
    grad_pairs, grad_scale = _linear_gradients(grad_scaled, pairs, parts[3])
    grad_pairs += factors.squeeze(-1) @ grad_seen

    weighted = grad_shares.mul_(shares)
    slope = torch.addcmul(weighted, shares, weighted.sum(-1, keepdim=True), value=-1)
    slope = _for_channels(slope.div_(math.sqrt(queries.shape[-1])))
    grad_keys, grad_queries = _queries_and_keys(pairs, queries, keys, parts)
    of_weights = []
    for part, of_part in ((parts[0], grad_queries), (parts[1], grad_keys)):
        _by_head(of_part, heads).mul_(slope)
        of_pairs, of_weight = _linear_gradients(of_part, pairs, part)
        grad_pairs += of_pairs
        of_weights.append(of_weight)
    return [grad_pairs, grad_queries.sum(2), grad_keys.sum(1), grad_values], [*of_weights, grad_shift, grad_scale]


class _Update(torch.autograd.Function):
    """`update_pairs`; only what it was given is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, kept: Tensor | None, factor: float, pairs: Tensor, *given: Tensor) -> Tensor:
        ctx.save_for_backward(kept, pairs, *given)
        ctx.factor = factor
        out = torch.empty_like(pairs)
        for some, blocks in _Update.chunks(ctx.factor, kept, pairs, *given):
            out[some] = blocks.second.out
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, pairs, sources, targets, *weights = ctx.saved_tensors
        grads = [torch.empty_like(tensor) for tensor in (pairs, sources, targets)]
        sums = [_zero_sum(weight) for weight in weights]
        for some, blocks in _Update.chunks(ctx.factor, *ctx.saved_tensors):
            _collect(blocks.gradients(grad[some]), grads, sums, some)
        return None, None, *grads, *(total.to(weight.dtype) for total, weight in zip(sums, weights, strict=True))

    @staticmethod
    def chunks(factor: float, kept: Tensor | None, pairs: Tensor, *given: Tensor) -> Iterator[tuple[slice, _Blocks]]:
        """A few graphs at a time."""
        sources, targets, *weights = given
        for some in _chunks(pairs, 2 * sources.shape[-1]):
            factors = None if kept is None else kept[:, some].to(pairs.dtype).mul_(factor)
            yield some, _Blocks(pairs[some], sources[some], targets[some], PairWeights(*weights), factors)


class _Blocks:
    """Both blocks of `update_pairs` for some graphs, with what their gradients need.

    Args:
        pairs: As in `update_pairs`; likewise `sources`, `targets` and `weights`.
        sources: See `pairs`.
        targets: See `pairs`.
        weights: See `pairs`.
        kept: Factors of what the two outer layers give, ``[2, graphs, nodes, nodes, channels]``; None for ones.
    """

    def __init__(self, pairs: Tensor, sources: Tensor, targets: Tensor, weights: PairWeights, kept: Tensor | None):
        self.pairs, self.weights = pairs, weights
        self.of_both_ways = torch.cat(weights.inner0.chunk(2, 1))
        own, opposite = _linear(pairs, self.of_both_ways).chunk(2, -1)
        hidden = (own + opposite.transpose(1, 2)).add_(sources.unsqueeze(2)).add_(targets.unsqueeze(1))
        self.first = _Block(pairs, hidden, weights[1:5], None if kept is None else kept[0])
        hidden = _linear(self.first.out, weights.inner1)
        self.second = _Block(self.first.out, hidden, weights[6:], None if kept is None else kept[1])

    def gradients(self, grad: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Gradients of pairs, sources and targets, and of the weights."""
        grad, grad_hidden, of_second = self.second.gradients(grad)
        through_second, of_inner1 = _linear_gradients(grad_hidden, self.first.out, self.weights.inner1)
        grad_pairs, grad_hidden, of_first = self.first.gradients(grad + through_second)
        grad_both = grad_hidden.new_empty(*grad_hidden.shape[:3], 2, grad_hidden.shape[3])
        grad_both[..., 0, :], grad_both[..., 1, :] = grad_hidden, grad_hidden.transpose(1, 2)
        through_first, of_both_ways = _linear_gradients(grad_both.flatten(3), self.pairs, self.of_both_ways)
        of_inner0 = torch.cat(of_both_ways.chunk(2), 1)
        of_graphs = [grad_pairs + through_first, grad_hidden.sum(2), grad_hidden.sum(1)]
        return of_graphs, [of_inner0, *of_first, of_inner1, *of_second]


class _Block:
    """``norm(pairs + kept * outer(gelu(hidden)))``.

    Args:
        pairs: ``[graphs, nodes, nodes, channels]``.
        hidden: ``[graphs, nodes, nodes, hidden]``.
        weights: Outer weight and bias, weight and shift of the norm.
        kept: Factors, in the shape of `pairs`; None for ones.
    """

    def __init__(self, pairs: Tensor, hidden: Tensor, weights: tuple[Tensor, ...], kept: Tensor | None):
        self.hidden, self.weights, self.kept = hidden, weights, kept
        outer, bias, norm, shift = weights
        self.active = functional.gelu(hidden)
        change = _linear(self.active, outer, bias)
        # On a CPU torch adds up the gradients of norms in their own format, which bfloat16 is too short for.
        self.sum = _wide((change if kept is None else change.mul_(kept)).add_(pairs))
        self.norm, self.shift = _wide(norm), _wide(shift)
        out, self.mean, self.rstd = torch.native_layer_norm(self.sum, pairs.shape[-1:], self.norm, self.shift, EPSILON)
        self.out = out.to(pairs.dtype)

    def gradients(self, grad: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Gradients of pairs, hidden and weights."""
        grad_sum, grad_norm, grad_shift = torch.ops.aten.native_layer_norm_backward(
            _wide(grad), self.sum, grad.shape[-1:], self.mean, self.rstd, self.norm, self.shift, [True, True, True]
        )
        grad_sum = grad_sum.to(grad.dtype)
        grad_change = grad_sum if self.kept is None else grad_sum * self.kept
        grad_active, grad_outer = _linear_gradients(grad_change, self.active, self.weights[0])
        grad_hidden = torch.ops.aten.gelu_backward(grad_active, self.hidden)
        return grad_sum, grad_hidden, [grad_outer, grad_change.sum((0, 1, 2)), grad_norm, grad_shift]


def _wide(tensor: Tensor) -> Tensor:
    """In float32 at least."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _zero_sum(of: Tensor) -> Tensor:
    """Where the gradients of chunks are added up."""
    return torch.zeros_like(_wide(of))


def _collect(found: tuple[list[Tensor], list[Tensor]], grads: list[Tensor], sums: list[Tensor], some: slice) -> None:
    """Puts the gradients of some graphs in their places, and adds those of weights to their sums."""
    for whole, part in zip(grads, found[0], strict=True):
        whole[some] = part
    for total, part in zip(sums, found[1], strict=True):
        total += part
