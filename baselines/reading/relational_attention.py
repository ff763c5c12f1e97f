"""Attention between all pairs of nodes, and the update of the pairs (Diao and Loynd, ICLR 2023), in little memory.

A pair has a vector that enters queries, keys and values, so that a layer wants some twenty numbers for each that a pair has.
Only the pairs themselves are kept, and of small tables the sums in their update. What is computed from them exists for a few
graphs at a time, and again in the backward pass: on a CPU it stays in the caches. The gradients are written out, for autograd
would pass over all of it three times as often.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from baselines.kernels.pairs import PairWeights
from baselines.reading.message_passing import product_alone, product_gradients

FLOATS_IN_CHUNK = {"cpu": 2**19, "cuda": 2**27}
"""Floats of the largest tensor, at most, that the graphs of a chunk have between them; one graph may have more."""

FLOATS_KEPT = 2**22
"""Floats of pairs up to which an update keeps the sums of its blocks and what stands between them, three times as many."""

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
    pairs, *rest = _in_one_format(pairs, queries, keys, values, weight)
    with torch.autocast(pairs.device.type, enabled=False):
        *of_nodes, weight = rest
        queries, keys, values = (_by_head(tensor, heads) for tensor in of_nodes)
        of_queries, of_keys, of_shifts, of_scales = weight.unflatten(0, (heads, 4, -1)).unbind(1)
        queries, of_queries = (tensor / math.sqrt(weight.shape[0] / 4) for tensor in (queries, of_queries))
        # (q + Q e) · (k + K e) = e · (form e + K'q + Q'k) + q · k, whose brackets have no product of pairs but one
        form = of_queries.transpose(1, 2) @ of_keys
        form = ((form + form.transpose(1, 2)) / 2).flatten(0, 1)
        at_ends = [torch.einsum("gnhw,hwc->gnhc", *given).flatten(2) for given in ((queries, of_keys), (keys, of_queries))]
        logits = torch.einsum("gihw,gjhw->ghij", queries, keys)
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None, None], -math.inf)
        scaled, seen = _Attention.apply(pairs, *at_ends, logits, values.flatten(2), form, of_scales.flatten(0, 1))
        # a sum of shifts is the shift of a sum, which is one for each node and head
        return scaled + torch.einsum("gihc,hwc->gihw", seen, of_shifts).flatten(2)


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
        keeps = torch.is_grad_enabled() and pairs.numel() <= FLOATS_KEPT
        return _Update.apply(keeps, kept, 1 / (1 - dropout), *tensors)


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
    return product_alone(pairs.flatten(0, 1), weight, bias).unflatten(0, pairs.shape[:2])


def _linear_gradients(grad: Tensor, pairs: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    grad_pairs, grad_weight = product_gradients(grad.flatten(0, 1), pairs.flatten(0, 1), weight)
    return grad_pairs.unflatten(0, pairs.shape[:2]), grad_weight


class _Attention(torch.autograd.Function):
    """Of `relational_attention` what has a value for each pair; the shares of attention are kept for the backward pass.

    Gives ``sum over j of share_ij * v_j * (S e_ij)``, ``[graphs, nodes, attention]``, and ``sum over j of share_ij e_ij``,
    ``[graphs, nodes, heads, channels]``, where the shares are the softmax of ``e_ij · (form e_ij + a_i + b_j) + logit_ij``.
    """

    @staticmethod
    def forward(ctx: Any, pairs: Tensor, *given: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """From e, a and b ``[graphs, nodes, heads * channels]``, logits ``[graphs, heads, nodes, nodes]``, v, form, S."""
        attending, attended, logits, values, form, scales = given
        heads = logits.shape[1]
        out, shares = torch.empty_like(values), pairs.new_empty(*pairs.shape[:3], heads)
        seen = pairs.new_empty(*pairs.shape[:2], heads, pairs.shape[3])
        for some in _chunks(pairs, max(len(form), len(scales))):
            factors = _linear(pairs[some], form).add_(attending[some].unsqueeze(2)).add_(attended[some].unsqueeze(1))
            sums = _sum_by_head(factors.mul_(_for_heads(pairs[some], heads)), heads)
            shares[some] = (sums.permute(0, 3, 1, 2) + logits[some]).softmax(-1).permute(0, 2, 3, 1)
            scaled = _linear(pairs[some], scales).mul_(values[some].unsqueeze(1))
            out[some] = _by_head(scaled, heads).mul_(shares[some].unsqueeze(-1)).flatten(3).sum(2)
            seen[some] = shares[some].transpose(2, 3) @ pairs[some]
        ctx.save_for_backward(pairs, attending, attended, values, form, scales, shares)
        return out, seen

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_seen: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        pairs, *of_nodes, form, scales, shares = ctx.saved_tensors
        attending, attended, values = of_nodes
        grads = [torch.empty_like(tensor) for tensor in (pairs, attending, attended, shares, values)]
        sums = [_zero_sum(form), _zero_sum(scales)]
        for some in _chunks(pairs, max(len(form), len(scales))):
            given = grad[some], grad_seen[some], pairs[some], attending[some], attended[some], values[some]
            _collect(_attention_gradients(*given, form, scales, shares[some]), grads, sums, some)
        grad_pairs, grad_attending, grad_attended, slopes, grad_values = grads
        grad_form, grad_scales = (total.to(form.dtype) for total in sums)
        return grad_pairs, grad_attending, grad_attended, slopes.permute(0, 3, 1, 2), grad_values, grad_form, grad_scales


def _by_head(tensor: Tensor, heads: int) -> Tensor:
    return tensor.unflatten(-1, (heads, -1))


def _for_heads(pairs: Tensor, heads: int) -> Tensor:
    """The pairs once for each head, ``[graphs, nodes, nodes, heads * channels]``."""
    return torch.cat([pairs] * heads, -1)


def _sum_by_head(rows: Tensor, heads: int) -> Tensor:
    """Sums over the channels of a head, ``[..., heads]``, as products: torch's sum takes twice as long for rows so short."""
    width = rows.shape[-1] // heads
    return torch.mv(rows.view(-1, width), rows.new_ones(width)).view(*rows.shape[:-1], heads)


def _attention_gradients(
    grad: Tensor,
    grad_seen: Tensor,
    pairs: Tensor,
    attending: Tensor,
    attended: Tensor,
    values: Tensor,
    form: Tensor,
    scales: Tensor,
    shares: Tensor,
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of pairs, of what stands at either end, of logits ``[graphs, nodes, nodes, heads]``, values, form and scales."""
    heads, factors = shares.shape[-1], shares.unsqueeze(-1)
    scaled, both = _linear(pairs, scales), grad.unsqueeze(2) * values.unsqueeze(1)
    of_shares = _sum_by_head(scaled * both, heads)
    of_shares.flatten(0, 1).baddbmm_(pairs.flatten(0, 1), grad_seen.flatten(0, 1).transpose(1, 2))
    _by_head(scaled, heads).mul_(factors)
    grad_values = scaled.mul_(grad.unsqueeze(2)).sum(1)
    _by_head(both, heads).mul_(factors)
    grad_pairs, grad_scales = _linear_gradients(both, pairs, scales)

    weighted = of_shares.mul_(shares)
    slopes = torch.addcmul(weighted, shares, weighted.sum(2, keepdim=True), value=-1)
    sloped = _for_heads(pairs, heads)
    _by_head(sloped, heads).mul_(slopes.unsqueeze(-1))
    through, grad_form = _linear_gradients(sloped, pairs, form)
    of_rows = torch.cat([grad_seen, _by_head(attending, heads)], 2)
    grad_pairs.flatten(0, 1).baddbmm_(torch.cat([shares, slopes], -1).flatten(0, 1), of_rows.flatten(0, 1))
    grad_pairs.add_(through, alpha=2)
    grad_pairs.add_((slopes.transpose(1, 2) @ _by_head(attended, heads)).transpose(1, 2))
    return [grad_pairs, sloped.sum(2), sloped.sum(1), slopes, grad_values], [grad_form, grad_scales]


class _Update(torch.autograd.Function):
    """`update_pairs`; where it is to be kept what the blocks computed, and otherwise only what they were given."""

    @staticmethod
    def forward(ctx: Any, keeps: bool, kept: Tensor | None, factor: float, pairs: Tensor, *given: Tensor) -> Tensor:
        ctx.save_for_backward(kept, pairs, *given)
        ctx.factor, ctx.blocks = factor, []
        out = torch.empty_like(pairs)
        for some in _Update.chunks(pairs, *given):
            blocks = _Update.blocks(some, factor, kept, pairs, *given, out=out)
            if keeps:
                ctx.blocks.append(blocks)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, pairs, *given = ctx.saved_tensors
        sources, targets, *weights = given
        grads = [torch.empty_like(tensor) for tensor in (pairs, sources, targets)]
        sums = [_zero_sum(weight) for weight in weights]
        kept = iter(ctx.blocks)
        for some in _Update.chunks(pairs, *given):
            blocks = next(kept, None) or _Update.blocks(some, ctx.factor, *ctx.saved_tensors, out=None)
            _collect(blocks.gradients(grad[some]), grads, sums, some)
        ctx.blocks = []
        return None, None, None, *grads, *(total.to(weight.dtype) for total, weight in zip(sums, weights, strict=True))

    @staticmethod
    def chunks(pairs: Tensor, *given: Tensor) -> Iterator[slice]:
        """A few graphs at a time."""
        return _chunks(pairs, 2 * given[0].shape[-1])

    @staticmethod
    def blocks(some: slice, factor: float, kept: Tensor | None, pairs: Tensor, *given: Tensor, out: Tensor | None) -> _Blocks:
        """The blocks of some graphs; the new pairs are written where there is room for them."""
        sources, targets, *weights = given
        factors = None if kept is None else kept[:, some].to(pairs.dtype).mul_(factor)
        room = None if out is None else out[some]
        return _Blocks(pairs[some], sources[some], targets[some], PairWeights(*weights), factors, out=room)


class _Blocks:
    """Both blocks of `update_pairs` for some graphs, with what their gradients need.

    Args:
        pairs: As in `update_pairs`; likewise `sources`, `targets` and `weights`.
        sources: See `pairs`.
        targets: See `pairs`.
        weights: See `pairs`.
        kept: Factors of what the two outer layers give, ``[2, graphs, nodes, nodes, channels]``; None for ones.
        out: Where the new pairs are written; None for nowhere.
    """

    def __init__(
        self, pairs: Tensor, sources: Tensor, targets: Tensor, weights: PairWeights, kept: Tensor | None, *, out: Tensor | None
    ):
        self.pairs, self.sources, self.targets, self.weights = pairs, sources, targets, weights
        self.middle = torch.empty_like(pairs)
        hidden = self._first_hidden(_both_ways(pairs))
        self.first = _Block(pairs, hidden, weights[1:5], None if kept is None else kept[0], out=self.middle)
        hidden = _linear(self.middle, weights.inner1)
        self.second = _Block(self.middle, hidden, weights[6:], None if kept is None else kept[1], out=out)

    def _first_hidden(self, both: Tensor) -> Tensor:
        return _linear(both, self.weights.inner0).add_(self.sources.unsqueeze(2)).add_(self.targets.unsqueeze(1))

    def gradients(self, grad: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Gradients of pairs, sources and targets, and of the weights."""
        channels, both = self.pairs.shape[-1], _both_ways(self.pairs)
        grad, grad_hidden, of_second = self.second.gradients(grad, _linear(self.middle, self.weights.inner1))
        grad_middle, of_inner1 = _linear_gradients(grad_hidden, self.middle, self.weights.inner1)
        grad, grad_hidden, of_first = self.first.gradients(grad_middle.add_(grad), self._first_hidden(both))
        through, of_inner0 = _linear_gradients(grad_hidden, both, self.weights.inner0)
        grad_pairs = grad.add_(through[..., :channels]).add_(through[..., channels:].transpose(1, 2))
        of_graphs = [grad_pairs, grad_hidden.sum(2), grad_hidden.sum(1)]
        return of_graphs, [of_inner0, *of_first, of_inner1, *of_second]


def _both_ways(pairs: Tensor) -> Tensor:
    """Each pair beside its reverse, ``[graphs, nodes, nodes, 2 channels]``."""
    return torch.cat([pairs, pairs.transpose(1, 2)], -1)


class _Block:
    """``norm(pairs + kept * outer(gelu(hidden)))``.

    Args:
        pairs: ``[graphs, nodes, nodes, channels]``.
        hidden: ``[graphs, nodes, nodes, hidden]``.
        weights: Outer weight and bias, weight and shift of the norm.
        kept: Factors, in the shape of `pairs`; None for ones.
        out: Where the result is written, in the shape of `pairs`; None for nowhere.
    """

    def __init__(self, pairs: Tensor, hidden: Tensor, weights: tuple[Tensor, ...], kept: Tensor | None, *, out: Tensor | None):
        self.weights, self.kept = weights, kept
        outer, bias, norm, shift = weights
        change = _linear(functional.gelu(hidden), outer, bias)
        # On a CPU torch adds up the gradients of norms in their own format, which bfloat16 is too short for.
        self.norm, self.shift = _wide(norm), _wide(shift)
        centred = _wide((change if kept is None else change.mul_(kept)).add_(pairs))
        # the means as products: torch's own norm takes twice as long for rows as short as these
        self.centred = centred.sub_(_mean(centred))
        self.rstd = _mean(self.centred.square()).add_(EPSILON).rsqrt_()
        if out is not None:
            torch.addcmul(self.shift, self.centred * self.rstd, self.norm, out=out)

    def gradients(self, grad: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Gradients of pairs, hidden and weights."""
        mean, wanted = torch.zeros_like(self.rstd), [True, True, True]
        grad_sum, grad_norm, grad_shift = torch.ops.aten.native_layer_norm_backward(
            _wide(grad), self.centred, grad.shape[-1:], mean, self.rstd, self.norm, self.shift, wanted
        )
        grad_sum = grad_sum.to(grad.dtype)
        grad_change = grad_sum if self.kept is None else grad_sum * self.kept
        grad_active, grad_outer = _linear_gradients(grad_change, functional.gelu(hidden), self.weights[0])
        grad_hidden = torch.ops.aten.gelu_backward(grad_active, hidden)
        return grad_sum, grad_hidden, [grad_outer, grad_change.sum((0, 1, 2)), grad_norm, grad_shift]


def _mean(rows: Tensor) -> Tensor:
    """Mean over the channels, ``[..., 1]``."""
    channels = rows.shape[-1]
    return torch.mv(rows.view(-1, channels), rows.new_full((channels,), 1 / channels)).view(*rows.shape[:-1], 1)


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
