"""The Triton side of `baselines.kernels.norms`; imported where its kernels run, since Triton is not everywhere."""

# pyright: reportGeneralTypeIssues=false
# Pyright takes functions of Triton for such as never return.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _total(tile):
    return tl.sum(tl.sum(tile, 0), 0)


@triton.jit
def _places(first, graph, num_nodes, num_graphs, CHANNELS: tl.constexpr, ROWS: tl.constexpr):
    """Where some nodes of a graph stand in ``[nodes, graphs, channels]``, and whether there are so many."""
    node = first + tl.arange(0, ROWS)
    places = (node.to(tl.int64) * num_graphs + graph)[:, None] * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    return places, (node < num_nodes)[:, None]


@triton.jit
def _centred(nodes, mean, places, inside):
    return tl.where(inside, tl.load(nodes + places, mask=inside, other=0).to(tl.float32) - mean, 0)


@triton.jit
def graph_norm_forward(
    nodes, weight, bias, out, moments, num_nodes, num_graphs, eps, CHANNELS: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """One graph: its mean and deviation go to `moments`."""
    graph, channels = tl.program_id(0), tl.arange(0, CHANNELS)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    for first in range(0, num_nodes, ROWS):
        places, inside = _places(first, graph, num_nodes, num_graphs, CHANNELS, ROWS)
        total += _centred(nodes, 0.0, places, inside)
    mean = _total(total) / (num_nodes * CHANNELS)
    squares = tl.zeros((ROWS, CHANNELS), tl.float32)
    for first in range(0, num_nodes, ROWS):
        places, inside = _places(first, graph, num_nodes, num_graphs, CHANNELS, ROWS)
        centred = _centred(nodes, mean, places, inside)
        squares += centred * centred
    deviation = tl.sqrt(_total(squares) / (num_nodes * CHANNELS))
    factor = tl.load(weight + channels).to(tl.float32)[None, :] / (deviation + eps)
    shift = tl.load(bias + channels).to(tl.float32)[None, :]
    for first in range(0, num_nodes, ROWS):
        places, inside = _places(first, graph, num_nodes, num_graphs, CHANNELS, ROWS)
        normed = _centred(nodes, mean, places, inside) * factor + shift
        tl.store(out + places, (normed * tl.sigmoid(normed)).to(out.dtype.element_ty), mask=inside)
    tl.store(moments + 2 * graph, mean)
    tl.store(moments + 2 * graph + 1, deviation)


@triton.jit
def _through_silu(nodes, grad_out, mean, factor, shift, places, inside):
    """Centred nodes, and the gradient of what the SiLU takes."""
    centred = _centred(nodes, mean, places, inside)
    normed = centred * factor + shift
    gate = tl.sigmoid(normed)
    grad = tl.load(grad_out + places, mask=inside, other=0).to(tl.float32)
    return centred, grad * (gate + normed * gate * (1 - gate))


@triton.jit
def graph_norm_backward(
    nodes, weight, bias, moments, grad_out, grad_nodes, partials, num_nodes, num_graphs, eps, CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """One graph: gradients of its nodes, and its part of those of weight and bias, ``[graphs, 2, channels]``."""
    graph, channels = tl.program_id(0), tl.arange(0, CHANNELS)
    mean, deviation = tl.load(moments + 2 * graph), tl.load(moments + 2 * graph + 1)
    scale = 1 / (deviation + eps)
    weights = tl.load(weight + channels).to(tl.float32)
    factor, shift = (weights * scale)[None, :], tl.load(bias + channels).to(tl.float32)[None, :]
    products, grads = tl.zeros((ROWS, CHANNELS), tl.float32), tl.zeros((ROWS, CHANNELS), tl.float32)
    for first in range(0, num_nodes, ROWS):
        places, inside = _places(first, graph, num_nodes, num_graphs, CHANNELS, ROWS)
        centred, grad = _through_silu(nodes, grad_out, mean, factor, shift, places, inside)
        products += grad * centred
        grads += grad
    of_weight, of_bias = tl.sum(products, 0) * scale, tl.sum(grads, 0)
    tl.store(partials + 2 * graph * CHANNELS + channels, of_weight)
    tl.store(partials + (2 * graph + 1) * CHANNELS + channels, of_bias)
    size = num_nodes * CHANNELS
    # of a graph whose numbers are all equal nothing is centred, and no slope is there to divide by its deviation
    slope = tl.sum(of_weight * weights, 0) * scale / (size * tl.where(deviation > 0, deviation, 1.0))
    level = tl.sum(of_bias * weights, 0) * scale / size
    for first in range(0, num_nodes, ROWS):
        places, inside = _places(first, graph, num_nodes, num_graphs, CHANNELS, ROWS)
        centred, grad = _through_silu(nodes, grad_out, mean, factor, shift, places, inside)
        grad = grad * factor - centred * slope - level
        tl.store(grad_nodes + places, grad.to(grad_nodes.dtype.element_ty), mask=inside)


@triton.jit
def _standard(rows, changes, places, inside, eps, CHANNELS: tl.constexpr):
    """Rows of the sum less their mean, over their deviation; and one over it."""
    row = tl.load(rows + places, mask=inside, other=0).to(tl.float32)
    row += tl.load(changes + places, mask=inside, other=0).to(tl.float32)
    centred = row - (tl.sum(row, 1) / CHANNELS)[:, None]
    scale = tl.rsqrt(tl.sum(centred * centred, 1) / CHANNELS + eps)[:, None]
    return centred * scale, scale


@triton.jit
def sum_norm_forward(
    rows, changes, weight, bias, out, rounded, num_rows, eps, CHANNELS: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """`ROWS` rows."""
    channels = tl.arange(0, CHANNELS)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    places, inside = row.to(tl.int64)[:, None] * CHANNELS + channels[None, :], (row < num_rows)[:, None]
    standard, _scale = _standard(rows, changes, places, inside, eps, CHANNELS)
    normed = standard * tl.load(weight + channels).to(tl.float32)[None, :] + tl.load(bias + channels).to(tl.float32)[None, :]
    tl.store(out + places, normed.to(out.dtype.element_ty), mask=inside)
    tl.store(rounded + places, normed.to(rounded.dtype.element_ty), mask=inside)


@triton.jit
def sum_norm_backward(
    rows, changes, weight, grad_out, grad_rounded, grad_rows, grad_changes, partials, num_rows, eps, CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Every so many tiles of rows; parts of the gradients of weight and bias, ``[programs, 2, channels]``."""
    channels = tl.arange(0, CHANNELS)
    weights = tl.load(weight + channels).to(tl.float32)[None, :]
    of_weight, of_bias = tl.zeros((ROWS, CHANNELS), tl.float32), tl.zeros((ROWS, CHANNELS), tl.float32)
    for first in range(tl.program_id(0) * ROWS, num_rows, tl.num_programs(0) * ROWS):
        row = first + tl.arange(0, ROWS)
        places, inside = row.to(tl.int64)[:, None] * CHANNELS + channels[None, :], (row < num_rows)[:, None]
        standard, scale = _standard(rows, changes, places, inside, eps, CHANNELS)
        grad = tl.zeros((ROWS, CHANNELS), tl.float32)
        if grad_out is not None:
            grad += tl.load(grad_out + places, mask=inside, other=0).to(tl.float32)
        if grad_rounded is not None:
            grad += tl.load(grad_rounded + places, mask=inside, other=0).to(tl.float32)
        of_weight += grad * standard
        of_bias += grad
        grad *= weights
        grad -= (tl.sum(grad, 1) / CHANNELS)[:, None] + standard * (tl.sum(grad * standard, 1) / CHANNELS)[:, None]
        grad *= scale
        tl.store(grad_rows + places, grad.to(grad_rows.dtype.element_ty), mask=inside)
        tl.store(grad_changes + places, grad.to(grad_changes.dtype.element_ty), mask=inside)
    at = partials + 2 * tl.program_id(0) * CHANNELS + channels
    tl.store(at, tl.sum(of_weight, 0))
    tl.store(at + CHANNELS, tl.sum(of_bias, 0))
