"""Messages on neural graphs, block by block: which node hears which edges, and the operations between the two.

Nodes are ``[nodes, graphs, channels]`` and edges ``[edges, graphs, channels]``, in the canonical order of the topology. The
edges of a block are then one contiguous run, viewed as ``[targets, sources, graphs, channels]``: what a node receives is a
reduction over one axis, and as the graphs stand inside, it runs over long rows of memory. The gradients are written out:
autograd would pass over the edges three times as often.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ngbench.graph import Topology

SMALLEST_VARIANCE = 1e-5


@dataclass(frozen=True)
class Run:
    """The edges of one block and the nodes that they join, as runs of the edge and node axes."""

    edges: slice
    targets: slice
    sources: slice
    diagonal: bool

    def block(self, edges: Tensor) -> Tensor:
        """Its part of ``[edges, ...]`` as ``[targets, sources, ...]``; one source for each target where it is diagonal."""
        return _by_target(edges, self.edges, self.targets)

    def at_targets(self, nodes: Tensor) -> Tensor:
        """Target nodes of ``[nodes, ...]``, shaped to be added to the block."""
        return nodes[self.targets].unsqueeze(1)

    def at_sources(self, nodes: Tensor) -> Tensor:
        """Source nodes of ``[nodes, ...]``, shaped to be added to the block."""
        return nodes[self.sources].unsqueeze(1 if self.diagonal else 0)


Receivers = tuple[slice, tuple[slice, ...]]
"""A run of nodes of one in-degree, and the runs of edges that enter them, each in the order of the nodes."""


@dataclass(frozen=True)
class Wiring:
    """The edges of a topology: its blocks in canonical order, then, where asked for, the same blocks reversed."""

    runs: tuple[Run, ...]
    num_nodes: int
    num_edges: int

    @classmethod
    @lru_cache(maxsize=256)
    def of(cls, topology: Topology, reverse_edges: bool, /) -> Wiring:
        """The wiring of a topology."""
        nodes = {g.name: slice(topology.node_ptr[g.name], topology.node_ptr[g.name] + g.size) for g in topology.groups}
        runs, start = [], 0
        for is_reversed in (False, True)[: 1 + reverse_edges]:
            for block in topology.blocks:
                stop = start + math.prod(topology.block_shape(block.name)[:2])
                target, source = (block.source, block.target) if is_reversed else (block.target, block.source)
                runs.append(Run(slice(start, stop), nodes[target], nodes[source], block.pattern == "diagonal"))
                start = stop
        return cls(tuple(runs), topology.num_nodes, start)

    @cached_property
    def receivers(self) -> tuple[Receivers, ...]:
        """All nodes that edges enter; groups that follow one another with equal in-degree from one block each are one run."""
        incoming: dict[tuple[int, int], list[slice]] = {}
        for run in self.runs:
            incoming.setdefault((run.targets.start, run.targets.stop), []).append(run.edges)
        found: list[Receivers] = []
        for (start, stop), edges in sorted(incoming.items()):
            nodes, runs = slice(start, stop), tuple(edges)
            if found and _continues(found[-1], (nodes, runs)):
                before_nodes, (before_edges,) = found.pop()
                nodes, runs = slice(before_nodes.start, stop), (slice(before_edges.start, runs[0].stop),)
            found.append((nodes, runs))
        return tuple(found)

    @cached_property
    def degree(self) -> Tensor:
        """Number of edges that enter each node, float64 ``[nodes]``."""
        degree = torch.zeros(self.num_nodes, dtype=torch.float64)
        for run in self.runs:
            degree[run.targets] += _size(run.edges) / _size(run.targets)
        return degree


def _size(run: slice) -> int:
    return run.stop - run.start


def _by_target(edges: Tensor, run: slice, targets: slice) -> Tensor:
    return edges[run].unflatten(0, (_size(targets), -1))


def _continues(before: Receivers, after: Receivers) -> bool:
    if len(before[1]) > 1 or len(after[1]) > 1:
        return False
    (nodes, (edges,)), (next_nodes, (next_edges,)) = before, after
    adjacent = nodes.stop == next_nodes.start and edges.stop == next_edges.start
    return adjacent and _size(edges) * _size(next_nodes) == _size(next_edges) * _size(nodes)


class SumOfEnds(torch.autograd.Function):
    """For each edge the sum of a vector of its target and a vector of its source, ``[edges, graphs, channels]``."""

    @staticmethod
    def forward(ctx: Any, nodes: Tensor, wiring: Wiring) -> Tensor:
        """From ``[nodes, graphs, 2 channels]``: each node's vector as a target, then its vector as a source."""
        ctx.wiring = wiring
        at_target, at_source = nodes.chunk(2, -1)
        edges = at_target.new_empty(wiring.num_edges, *at_target.shape[1:])
        for run in wiring.runs:
            torch.add(run.at_targets(at_target), run.at_sources(at_source), out=run.block(edges))
        return edges

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Sums over the edges that a node ends."""
        grad_nodes = grad.new_zeros(ctx.wiring.num_nodes, grad.shape[1], 2 * grad.shape[2])
        at_target, at_source = grad_nodes.chunk(2, -1)
        for run in ctx.wiring.runs:
            block = run.block(grad)
            at_target[run.targets].add_(block.sum(1))
            at_source[run.sources].add_(block.sum(1 if run.diagonal else 0))
        return grad_nodes, None


class Aggregate(torch.autograd.Function):
    """Mean, min, max and standard deviation of the messages that each node receives, ``[nodes, graphs, 4 channels]``.

    The message of an edge is ``scale · ends + shift``. A node that receives none gets zeros, and so does the deviation where
    the variance is no more than `SMALLEST_VARIANCE`.
    """

    @staticmethod
    def forward(ctx: Any, film: Tensor, ends: Tensor, wiring: Wiring) -> Tensor:
        """From scale and shift ``[edges, graphs, 2 channels]`` and ends ``[edges, graphs, channels]``."""
        scale, shift = film.chunk(2, -1)
        messages = torch.addcmul(shift, scale, ends)
        out = messages.new_zeros(wiring.num_nodes, messages.shape[1], 4, messages.shape[2])
        for nodes, runs in wiring.receivers:
            block = _received(messages, nodes, runs)
            mean, least, most, deviation = out[nodes].unbind(2)
            torch.mean(block, 1, out=mean)
            torch.amin(block, 1, out=least)
            torch.amax(block, 1, out=most)
            variance = (block - mean.unsqueeze(1)).square_().mean(1)
            torch.sqrt(functional.threshold(variance, SMALLEST_VARIANCE, 0), out=deviation)
        ctx.save_for_backward(film, ends, messages, out)
        ctx.wiring = wiring
        return out.flatten(2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Extremes pass their gradient to the edges that attain them, in equal parts."""
        film, ends, messages, out = ctx.saved_tensors
        grad = grad.unflatten(2, (4, -1))
        grad_messages = torch.empty_like(messages)
        for nodes, runs in ctx.wiring.receivers:
            block, grad_block = _received(messages, nodes, runs), _received(grad_messages, nodes, runs)
            mean, least, most, deviation = out[nodes].unbind(2)
            grad_mean, grad_least, grad_most, grad_deviation = grad[nodes].unbind(2)
            # d deviation / d message = (message - mean) / (degree · deviation), and nothing where the deviation counts as zero
            variance = deviation.square().clamp_(min=SMALLEST_VARIANCE)
            slope = grad_deviation * deviation / variance.mul_(block.shape[1])
            base = torch.addcmul(grad_mean / block.shape[1], mean, slope, value=-1)
            torch.addcmul(base.unsqueeze(1), block, slope.unsqueeze(1), out=grad_block)
            for extreme, grad_extreme in ((least, grad_least), (most, grad_most)):
                attained = torch.eq(block, extreme.unsqueeze(1), out=torch.empty_like(block))
                grad_block.addcmul_(attained, (grad_extreme / attained.sum(1)).unsqueeze(1))
            if len(runs) > 1:
                parts = [_by_target(grad_messages, run, nodes) for run in runs]
                torch.split_with_sizes_copy(grad_block, [part.shape[1] for part in parts], 1, out=parts)
        scale = film.chunk(2, -1)[0]
        return torch.cat([grad_messages * ends, grad_messages], -1), grad_messages * scale, None


def _received(messages: Tensor, nodes: slice, runs: tuple[slice, ...]) -> Tensor:
    """All messages to some nodes, ``[targets, sources, graphs, channels]``; no copy where one run of edges enters them."""
    parts = [_by_target(messages, run, nodes) for run in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class Linear(nn.Linear):
    """`torch.nn.Linear` on ``[rows, graphs, channels]``, by the fastest kernel that torch has for it."""

    def forward(self, input: Tensor) -> Tensor:
        """``[rows, graphs, channels]`` to the same."""
        return product(input, self.weight, self.bias)


def product(vectors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``functional.linear`` on ``[rows, graphs, channels]``.

    On CPU torch multiplies float32 matrices with MKL, which is slow on processors of another maker, but convolves with oneDNN,
    which is not: as a convolution of 1×1, with rows for images and graphs for pixels, a product of these sizes takes 40 % of
    the time on an AMD EPYC.
    """
    # Below 16 images torch convolves on one thread without oneDNN.
    if (
        vectors.device.type == "cpu"
        and vectors.dtype == torch.float32
        and len(vectors) >= 16
        and torch.backends.mkldnn.is_available()
    ):
        return Convolution.apply(vectors, weight, bias)
    return functional.linear(vectors, weight, bias)


class Convolution(torch.autograd.Function):
    """A linear layer as a convolution of 1×1, on ``[rows, graphs, channels]``."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """``vectors @ weight.T + bias``."""
        ctx.save_for_backward(vectors, weight)
        return _as_vectors(functional.conv2d(_as_images(vectors), weight[:, :, None, None], bias))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Leaves the gradient of the bias to a sum, which takes a fifth of the time that the convolution takes for it."""
        vectors, weight = ctx.saved_tensors
        images, filters, wanted = _as_images(vectors), weight[:, :, None, None], [ctx.needs_input_grad[0], True, False]
        grad_images, grad_filters, _ = torch.ops.aten.convolution_backward(
            _as_images(grad), images, filters, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, wanted
        )
        return _as_vectors(grad_images) if wanted[0] else None, grad_filters[:, :, 0, 0], grad.sum((0, 1))


def _as_images(vectors: Tensor) -> Tensor:
    return vectors.transpose(1, 2).unsqueeze(2)


def _as_vectors(images: Tensor) -> Tensor:
    return images.squeeze(2).transpose(1, 2)
