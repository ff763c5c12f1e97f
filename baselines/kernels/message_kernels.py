"""The Triton side of `baselines.kernels.messages`; imported where its kernels run, since Triton is not everywhere.

A tile has ``SLOTS · GRAPHS`` rows: `SLOTS` edges that enter one target, each in `GRAPHS` graphs. The tensors are those of
`messages.FusedMessages`, contiguous; products round their operands to `PRECISION` and all sums are float32.
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

HAS_TANH = tl.constexpr(os.environ.get("TRITON_INTERPRET") != "1")
"""Whether the machine has a tanh of its own; the interpreter has not."""


@triton.jit
def _product(left, right, PRECISION: tl.constexpr):
    if PRECISION == "bf16":
        product = tl.dot(left.to(tl.bfloat16), right.to(tl.bfloat16))
    else:
        product = tl.dot(left.to(tl.float32), right.to(tl.float32), input_precision=PRECISION)
    return product


@triton.jit
def _outer(left, right, PRECISION: tl.constexpr):
    """Sum over the rows of the outer products of two tables."""
    if PRECISION == "bf16":
        left = left.to(tl.bfloat16)
    return _product(tl.trans(left), right, PRECISION)


@triton.jit
def _matrix(start, CHANNELS: tl.constexpr, PRECISION: tl.constexpr):
    channels = tl.arange(0, CHANNELS)
    matrix = tl.load(start + channels[:, None] * CHANNELS + channels[None, :])
    return matrix.to(tl.bfloat16) if PRECISION == "bf16" else matrix.to(tl.float32)


@triton.jit
def _bias(start, CHANNELS: tl.constexpr):
    return tl.load(start + tl.arange(0, CHANNELS)).to(tl.float32)[None, :]


@triton.jit
def _gate(values, PRECISION: tl.constexpr):
    """The sigmoid; for products in bfloat16 by an instruction that is exact to 11 bits."""
    if PRECISION == "bf16" and HAS_TANH:
        halves = values * 0.5
        tangents = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [halves], dtype=tl.float32, is_pure=True, pack=1)
        gate = tangents * 0.5 + 0.5  # pyright: ignore[reportOperatorIssue]
    else:
        gate = tl.sigmoid(values)
    return gate


@triton.jit
def _rows(start, rows, WIDTH: tl.constexpr, PART: tl.constexpr, CHANNELS: tl.constexpr):
    """Of rows of `WIDTH` vectors the one numbered `PART`."""
    channels = tl.arange(0, CHANNELS)
    return tl.load(start + PART * CHANNELS + (rows[:, None] * (WIDTH * CHANNELS) + channels[None, :]))


@triton.jit
def _store(start, rows, mask, values, WIDTH: tl.constexpr, PART: tl.constexpr, CHANNELS: tl.constexpr):
    channels = tl.arange(0, CHANNELS)
    places = start + PART * CHANNELS + (rows[:, None] * (WIDTH * CHANNELS) + channels[None, :])
    tl.store(places, values.to(start.dtype.element_ty), mask=mask[:, None])


@triton.jit
def _named(table, places, stop):
    """What `table` names at some places, the last for those beyond it, so that all that is read exists."""
    return tl.load(table + tl.maximum(tl.minimum(places, stop - 1), 0))


@triton.jit
def _row_of(named, graphs, num_graphs, INDEX: tl.constexpr):
    return named.to(INDEX) * num_graphs + graphs


@triton.jit
def _edge_rows(table, places, stop, graphs, num_graphs, INDEX: tl.constexpr):
    """Rows of what `table` names at some places."""
    return _row_of(_named(table, places, stop), graphs, num_graphs, INDEX)


@triton.jit
def _slots(SLOTS: tl.constexpr, GRAPHS: tl.constexpr):
    """The slot of each row; one number where there is one slot, so that addresses are computed once for all rows."""
    return 0 if SLOTS == 1 else tl.arange(0, SLOTS * GRAPHS) // GRAPHS


@triton.jit
def _sum_of_slots(rows, SLOTS: tl.constexpr, GRAPHS: tl.constexpr, CHANNELS: tl.constexpr):
    return rows if SLOTS == 1 else tl.sum(tl.reshape(rows, (SLOTS, GRAPHS, CHANNELS)), 0)


@triton.jit
def _first_extreme(extreme, at, SLOTS: tl.constexpr, GRAPHS: tl.constexpr, CHANNELS: tl.constexpr):
    """The least of all slots and where it first stands."""
    if SLOTS > 1:
        extremes = tl.reshape(extreme, (SLOTS, GRAPHS, CHANNELS))
        extreme = tl.min(extremes, 0)
        at = tl.min(tl.where(extremes == extreme[None], tl.reshape(at, (SLOTS, GRAPHS, CHANNELS)), 2147483647), 0)
    return extreme, at


@triton.jit
def aggregate(
    edges, ends, in_weight, in_bias, out_weight, out_bias, film_weight, film_bias, entering_ptr, entering, sources, new_edges,
    received, extremes_at, num_graphs, smallest_variance, CHANNELS: tl.constexpr, ENDS: tl.constexpr, RESIDUAL: tl.constexpr,
    PRECISION: tl.constexpr, SLOTS: tl.constexpr, GRAPHS: tl.constexpr, PREFETCH: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """One target and one tile of graphs: its edges are updated, and what they bring is aggregated as it comes.

    Writes `new_edges`; `received`, float32; and `extremes_at`, where in `entering` least and largest message stand.
    """
    SENDS: tl.constexpr = ENDS // 2
    target, graphs = tl.program_id(0).to(INDEX), tl.program_id(1) * GRAPHS + tl.arange(0, SLOTS * GRAPHS) % GRAPHS
    is_graph, graphs, slots = graphs < num_graphs, tl.minimum(graphs, num_graphs - 1), _slots(SLOTS, GRAPHS)
    start, stop = tl.load(entering_ptr + target), tl.load(entering_ptr + target + 1)
    scaling = _matrix(film_weight, CHANNELS, PRECISION)
    shifting = _matrix(film_weight + CHANNELS * CHANNELS, CHANNELS, PRECISION)
    target_rows = target * num_graphs + graphs
    if ENDS == 4:
        weight_in, weight_out = _matrix(in_weight, CHANNELS, PRECISION), _matrix(out_weight, CHANNELS, PRECISION)
    mean = tl.zeros((SLOTS * GRAPHS, CHANNELS), tl.float32)
    squares = tl.zeros((SLOTS * GRAPHS, CHANNELS), tl.float32)
    least = tl.full((SLOTS * GRAPHS, CHANNELS), float("inf"), tl.float32)
    negated = tl.full((SLOTS * GRAPHS, CHANNELS), float("inf"), tl.float32)
    least_at = tl.zeros((SLOTS * GRAPHS, CHANNELS), tl.int32)
    most_at = tl.zeros((SLOTS * GRAPHS, CHANNELS), tl.int32)
    rows = _edge_rows(entering, start + slots, stop, graphs, num_graphs, INDEX)
    source_rows = _edge_rows(sources, start + slots, stop, graphs, num_graphs, INDEX)
    edge, of_source = _rows(edges, rows, 1, 0, CHANNELS), _rows(ends, source_rows, ENDS, ENDS // 2, CHANNELS)
    # the next edges are read before these are computed with, and which they are yet earlier, so that memory is never idle
    ahead = SLOTS if PREFETCH else 0
    next_named, next_source = _named(entering, start + ahead + slots, stop), _named(sources, start + ahead + slots, stop)
    for step in tl.range(start, stop, SLOTS, num_stages=1):
        next_rows, next_source_rows = (
            _row_of(next_named, graphs, num_graphs, INDEX),
            _row_of(next_source, graphs, num_graphs, INDEX),
        )
        next_edge = _rows(edges, next_rows, 1, 0, CHANNELS)
        next_of_source = _rows(ends, next_source_rows, ENDS, ENDS // 2, CHANNELS)
        next_places = step + ahead + SLOTS + slots
        next_named, next_source = _named(entering, next_places, stop), _named(sources, next_places, stop)
        if not PREFETCH:
            rows, source_rows, edge, of_source = next_rows, next_source_rows, next_edge, next_of_source
        # before anything is written, since no load may pass a store
        sent = _rows(ends, source_rows, ENDS, ENDS - 1, CHANNELS) if ENDS == 4 else of_source
        at_target = _rows(ends, target_rows, ENDS, SENDS - 1, CHANNELS)
        places = step + slots
        if ENDS == 4:
            # read again from the cache for each edge, since it does not fit in the registers
            inner = _rows(ends, target_rows, 4, 0, CHANNELS).to(tl.float32) + of_source.to(tl.float32)
            inner += _bias(in_bias, CHANNELS)
            inner += _product(edge, tl.trans(weight_in), PRECISION)
            updated = _product(inner * _gate(inner, PRECISION), tl.trans(weight_out), PRECISION) + _bias(out_bias, CHANNELS)
            if RESIDUAL:
                updated += edge.to(tl.float32)
            # messages read what is stored, so that the backward pass sees the same
            edge = updated.to(new_edges.dtype.element_ty)
            _store(new_edges, rows, is_graph & (places < stop), edge, 1, 0, CHANNELS)
        scale = _product(edge, tl.trans(scaling), PRECISION) + _bias(film_bias, CHANNELS)
        sum_of_ends = at_target.to(tl.float32) + sent.to(tl.float32)
        message = _product(edge, tl.trans(shifting), PRECISION) + _bias(film_bias + CHANNELS, CHANNELS) + scale * sum_of_ends
        # Welford, Technometrics 1962: no difference of large squares
        is_edge = tl.expand_dims(places + tl.zeros_like(graphs), 1) < stop
        distance = tl.where(is_edge, message - mean, 0)
        share = 1 / ((step - start) // SLOTS + 1).to(tl.float32)
        mean += distance * share
        squares += distance * distance * (1 - share)
        at = tl.broadcast_to(tl.expand_dims(tl.minimum(places, stop - 1) + tl.zeros_like(graphs), 1), mean.shape)
        is_less, is_more = message < least, -message < negated
        least, least_at = tl.where(is_less, message, least), tl.where(is_less, at, least_at)
        negated, most_at = tl.where(is_more, -message, negated), tl.where(is_more, at, most_at)
        rows, source_rows, edge, of_source = next_rows, next_source_rows, next_edge, next_of_source
    degree = stop - start
    if SLOTS > 1:
        counts = (tl.maximum(degree - tl.arange(0, SLOTS) + SLOTS - 1, 0) // SLOTS).to(tl.float32)[:, None, None]
        means = tl.reshape(mean, (SLOTS, GRAPHS, CHANNELS))
        mean = tl.sum(means * counts, 0) / tl.maximum(degree, 1)
        between = (means - mean[None]) * (means - mean[None]) * counts
        squares = tl.sum(tl.reshape(squares, (SLOTS, GRAPHS, CHANNELS)) + between, 0)
    least, least_at = _first_extreme(least, least_at, SLOTS, GRAPHS, CHANNELS)
    negated, most_at = _first_extreme(negated, most_at, SLOTS, GRAPHS, CHANNELS)
    variance = squares / tl.maximum(degree, 1)
    deviation = tl.where(variance > smallest_variance, tl.sqrt(variance), 0)
    graphs = tl.program_id(1) * GRAPHS + tl.arange(0, GRAPHS)
    rows, mask = target * num_graphs + graphs, graphs < num_graphs
    _store(received, rows, mask, mean, 4, 0, CHANNELS)
    _store(received, rows, mask, tl.where(degree > 0, least, 0), 4, 1, CHANNELS)
    _store(received, rows, mask, tl.where(degree > 0, -negated, 0), 4, 2, CHANNELS)
    _store(received, rows, mask, deviation, 4, 3, CHANNELS)
    _store(extremes_at, rows, mask, least_at, 2, 0, CHANNELS)
    _store(extremes_at, rows, mask, most_at, 2, 1, CHANNELS)


@triton.jit
def gradients_of_moments(
    received, grad_received, entering_ptr, moments, num_rows, num_graphs, CHANNELS: tl.constexpr, ROWS: tl.constexpr
):
    """A tile of nodes in graphs: `moments`, float32, with which a message m has the gradient first + second · m."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    mask, rows = rows < num_rows, tl.minimum(rows, num_rows - 1)
    nodes = rows // num_graphs
    per_edge = 1 / tl.maximum(tl.load(entering_ptr + nodes + 1) - tl.load(entering_ptr + nodes), 1).to(tl.float32)[:, None]
    deviation = _rows(received, rows, 4, 3, CHANNELS)
    slope = _rows(grad_received, rows, 4, 3, CHANNELS).to(tl.float32) * per_edge
    slope = tl.where(deviation > 0, slope / tl.where(deviation > 0, deviation, 1), 0)
    constant = _rows(grad_received, rows, 4, 0, CHANNELS).to(tl.float32) * per_edge
    constant -= slope * _rows(received, rows, 4, 0, CHANNELS)
    _store(moments, rows, mask, constant, 2, 0, CHANNELS)
    _store(moments, rows, mask, slope, 2, 1, CHANNELS)


@triton.jit
def _sums_of_products(grad, inputs, PRECISION: tl.constexpr):
    """Over some rows, zeros where there is none: of a layer the gradients of weight, and of bias in each of 16 columns."""
    ones = tl.full((inputs.shape[0], 16), 1.0, tl.float32)
    return _outer(grad, inputs, PRECISION), _outer(grad, ones, PRECISION)


@triton.jit
def _store_sums(partials, weight, bias, PART: tl.constexpr, CHANNELS: tl.constexpr):
    """The sums of this program, weight and below it bias, to the matrix numbered `PART`."""
    channels = tl.arange(0, CHANNELS)
    program = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)).to(tl.int64)
    start = partials + (program * 2 + PART) * ((CHANNELS + 1) * CHANNELS)
    tl.store(start + channels[:, None] * CHANNELS + channels[None, :], weight)
    tl.store(start + CHANNELS * CHANNELS + channels, tl.sum(bias, 1) / 16)


@triton.jit
def gradients_of_messages(
    new_edges, ends, film_weight, film_bias, entering_ptr, entering, sources, moments, extremes_at, grad_received,
    grad_new_edges, grad_edges, grad_ends, grad_sent, grad_film, partials, num_graphs, CHANNELS: tl.constexpr,
    ENDS: tl.constexpr, SUMS: tl.constexpr, PRECISION: tl.constexpr, SLOTS: tl.constexpr, GRAPHS: tl.constexpr,
    PREFETCH: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """One target and one tile of graphs, edge by edge as in `aggregate`, from what is received back to the new edges.

    Writes to `grad_edges` the gradient of the new edges, to `grad_sent` that of the source's message part, and to `grad_ends` the
    sum of that, which is that of the target's. Those of scale and shift go to `grad_film`, or with `SUMS` this program's part of
    the gradients of their weights to `partials`.
    """
    SENDS: tl.constexpr = ENDS // 2
    target, graphs = tl.program_id(0).to(INDEX), tl.program_id(1) * GRAPHS + tl.arange(0, SLOTS * GRAPHS) % GRAPHS
    is_graph, graphs, slots = graphs < num_graphs, tl.minimum(graphs, num_graphs - 1), _slots(SLOTS, GRAPHS)
    start, stop = tl.load(entering_ptr + target), tl.load(entering_ptr + target + 1)
    scaling = _matrix(film_weight, CHANNELS, PRECISION)
    shifting = _matrix(film_weight + CHANNELS * CHANNELS, CHANNELS, PRECISION)
    target_rows = target * num_graphs + graphs
    grad_at_target = tl.zeros((SLOTS * GRAPHS, CHANNELS), tl.float32)
    if SUMS:
        of_scaling, of_shifting = tl.zeros((CHANNELS, CHANNELS), tl.float32), tl.zeros((CHANNELS, CHANNELS), tl.float32)
        of_scale, of_shift = tl.zeros((CHANNELS, 16), tl.float32), tl.zeros((CHANNELS, 16), tl.float32)
    rows = _edge_rows(entering, start + slots, stop, graphs, num_graphs, INDEX)
    source_rows = _edge_rows(sources, start + slots, stop, graphs, num_graphs, INDEX)
    new_edge, of_source = _rows(new_edges, rows, 1, 0, CHANNELS), _rows(ends, source_rows, ENDS, ENDS - 1, CHANNELS)
    ahead = SLOTS if PREFETCH else 0
    next_named, next_source = _named(entering, start + ahead + slots, stop), _named(sources, start + ahead + slots, stop)
    for step in tl.range(start, stop, SLOTS, num_stages=1):
        next_rows, source_rows = _row_of(next_named, graphs, num_graphs, INDEX), _row_of(next_source, graphs, num_graphs, INDEX)
        next_edge = _rows(new_edges, next_rows, 1, 0, CHANNELS)
        next_of_source = _rows(ends, source_rows, ENDS, ENDS - 1, CHANNELS)
        next_places = step + ahead + SLOTS + slots
        next_named, next_source = _named(entering, next_places, stop), _named(sources, next_places, stop)
        if not PREFETCH:
            rows, new_edge, of_source = next_rows, next_edge, next_of_source
        if grad_new_edges is not None:
            # before anything is written, since no load may pass a store
            grad_from_after = _rows(grad_new_edges, rows, 1, 0, CHANNELS)
        places = step + slots
        mask = is_graph & (places < stop)
        # what is the same for all edges is read again from the cache each time, since it does not fit in the registers
        sum_of_ends = _rows(ends, target_rows, ENDS, SENDS - 1, CHANNELS).to(tl.float32) + of_source.to(tl.float32)
        scale = _product(new_edge, tl.trans(scaling), PRECISION) + _bias(film_bias, CHANNELS)
        message = _product(new_edge, tl.trans(shifting), PRECISION) + _bias(film_bias + CHANNELS, CHANNELS) + scale * sum_of_ends
        grad = _rows(moments, target_rows, 2, 0, CHANNELS)
        at = tl.expand_dims(places + tl.zeros_like(graphs), 1)
        is_least = at == _rows(extremes_at, target_rows, 2, 0, CHANNELS)
        grad += tl.where(is_least, _rows(grad_received, target_rows, 4, 1, CHANNELS).to(tl.float32), 0)
        is_most = at == _rows(extremes_at, target_rows, 2, 1, CHANNELS)
        grad += tl.where(is_most, _rows(grad_received, target_rows, 4, 2, CHANNELS).to(tl.float32), 0)
        grad += _rows(moments, target_rows, 2, 1, CHANNELS) * message
        grad = tl.where(mask[:, None], grad, 0)
        sent = grad * scale
        grad_at_target += sent
        grad_scale = grad * sum_of_ends
        grad_edge = _product(grad_scale, scaling, PRECISION) + _product(grad, shifting, PRECISION)
        if grad_new_edges is not None:
            grad_edge += grad_from_after.to(tl.float32)
        _store(grad_sent, rows, mask, sent, SENDS, SENDS - 1, CHANNELS)
        if SUMS:
            weight, bias = _sums_of_products(grad_scale, new_edge, PRECISION)
            of_scaling, of_scale = of_scaling + weight, of_scale + bias
            weight, bias = _sums_of_products(grad, new_edge, PRECISION)
            of_shifting, of_shift = of_shifting + weight, of_shift + bias
        else:
            _store(grad_film, rows, mask, grad_scale, 2, 0, CHANNELS)
            _store(grad_film, rows, mask, grad, 2, 1, CHANNELS)
        _store(grad_edges, rows, mask, grad_edge, 1, 0, CHANNELS)
        rows, new_edge, of_source = next_rows, next_edge, next_of_source
    graphs = tl.program_id(1) * GRAPHS + tl.arange(0, GRAPHS)
    grad_at_target = _sum_of_slots(grad_at_target, SLOTS, GRAPHS, CHANNELS)
    _store(grad_ends, target * num_graphs + graphs, graphs < num_graphs, grad_at_target, ENDS, SENDS - 1, CHANNELS)
    if SUMS:
        _store_sums(partials, of_scaling, of_scale, 0, CHANNELS)
        _store_sums(partials, of_shifting, of_shift, 1, CHANNELS)


@triton.jit
def gradients_of_update(
    edges, ends, in_weight, in_bias, out_weight, entering_ptr, entering, sources, grad_new_edges, grad_edges, grad_ends,
    grad_sent, hidden, partials, num_graphs, CHANNELS: tl.constexpr, RESIDUAL: tl.constexpr, SUMS: tl.constexpr,
    PRECISION: tl.constexpr, SLOTS: tl.constexpr, GRAPHS: tl.constexpr, PREFETCH: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """As `gradients_of_messages`, from the new edges back to the edges; without `SUMS` writes to `hidden` what the SiLU gives."""
    target, graphs = tl.program_id(0).to(INDEX), tl.program_id(1) * GRAPHS + tl.arange(0, SLOTS * GRAPHS) % GRAPHS
    is_graph, graphs, slots = graphs < num_graphs, tl.minimum(graphs, num_graphs - 1), _slots(SLOTS, GRAPHS)
    start, stop = tl.load(entering_ptr + target), tl.load(entering_ptr + target + 1)
    weight_in, weight_out = _matrix(in_weight, CHANNELS, PRECISION), _matrix(out_weight, CHANNELS, PRECISION)
    target_rows = target * num_graphs + graphs
    grad_of_update = tl.zeros((SLOTS * GRAPHS, CHANNELS), tl.float32)
    if SUMS:
        of_weight_in, of_weight_out = tl.zeros((CHANNELS, CHANNELS), tl.float32), tl.zeros((CHANNELS, CHANNELS), tl.float32)
        of_bias_in, of_bias_out = tl.zeros((CHANNELS, 16), tl.float32), tl.zeros((CHANNELS, 16), tl.float32)
    rows = _edge_rows(entering, start + slots, stop, graphs, num_graphs, INDEX)
    source_rows = _edge_rows(sources, start + slots, stop, graphs, num_graphs, INDEX)
    edge, of_source = _rows(edges, rows, 1, 0, CHANNELS), _rows(ends, source_rows, 4, 2, CHANNELS)
    grad_edge = _rows(grad_new_edges, rows, 1, 0, CHANNELS)
    ahead = SLOTS if PREFETCH else 0
    next_named, next_source = _named(entering, start + ahead + slots, stop), _named(sources, start + ahead + slots, stop)
    for step in tl.range(start, stop, SLOTS, num_stages=1):
        next_rows, source_rows = _row_of(next_named, graphs, num_graphs, INDEX), _row_of(next_source, graphs, num_graphs, INDEX)
        next_edge, next_of_source = _rows(edges, next_rows, 1, 0, CHANNELS), _rows(ends, source_rows, 4, 2, CHANNELS)
        next_grad_edge = _rows(grad_new_edges, next_rows, 1, 0, CHANNELS)
        next_places = step + ahead + SLOTS + slots
        next_named, next_source = _named(entering, next_places, stop), _named(sources, next_places, stop)
        if not PREFETCH:
            rows, edge, of_source, grad_edge = next_rows, next_edge, next_of_source, next_grad_edge
        places = step + slots
        mask = is_graph & (places < stop)
        inner = _rows(ends, target_rows, 4, 0, CHANNELS).to(tl.float32) + of_source.to(tl.float32) + _bias(in_bias, CHANNELS)
        inner += _product(edge, tl.trans(weight_in), PRECISION)
        gate = _gate(inner, PRECISION)
        grad_inner = _product(grad_edge, weight_out, PRECISION) * (gate + inner * gate * (1 - gate))
        grad_inner = tl.where(mask[:, None], grad_inner, 0)
        grad_of_update += grad_inner
        grad_old = _product(grad_inner, weight_in, PRECISION)
        if RESIDUAL:
            grad_old += grad_edge.to(tl.float32)
        if SUMS:
            weight, bias = _sums_of_products(grad_inner, edge, PRECISION)
            of_weight_in, of_bias_in = of_weight_in + weight, of_bias_in + bias
            grad_edge = tl.where(mask[:, None], grad_edge, 0)
            weight, bias = _sums_of_products(grad_edge, inner * gate, PRECISION)
            of_weight_out, of_bias_out = of_weight_out + weight, of_bias_out + bias
        else:
            _store(hidden, rows, mask, inner * gate, 1, 0, CHANNELS)
        _store(grad_sent, rows, mask, grad_inner, 2, 0, CHANNELS)
        _store(grad_edges, rows, mask, grad_old, 1, 0, CHANNELS)
        rows, edge, of_source, grad_edge = next_rows, next_edge, next_of_source, next_grad_edge
    graphs = tl.program_id(1) * GRAPHS + tl.arange(0, GRAPHS)
    grad_of_update = _sum_of_slots(grad_of_update, SLOTS, GRAPHS, CHANNELS)
    _store(grad_ends, target * num_graphs + graphs, graphs < num_graphs, grad_of_update, 4, 0, CHANNELS)
    if SUMS:
        _store_sums(partials, of_weight_in, of_bias_in, 0, CHANNELS)
        _store_sums(partials, of_weight_out, of_bias_out, 1, CHANNELS)


@triton.jit
def gradients_of_weights(
    left, right, partials, num_rows, STRIDE: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, PART: tl.constexpr,
    PRECISION: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Every so many tiles of rows: sums of the outer products of `WIDTH` columns of `left`, gradients, and of `right`, inputs.

    Writes `partials` from the matrix numbered `PART` on, for each `CHANNELS` columns a weight and below it the bias.
    """
    columns, channels = tl.arange(0, WIDTH), tl.arange(0, CHANNELS)
    ones = tl.full((16, ROWS), 1.0, tl.float32)
    weight = tl.zeros((WIDTH, CHANNELS), tl.float32)
    bias = tl.zeros((16, WIDTH), tl.float32)
    for first in tl.range(tl.program_id(0) * ROWS, num_rows, tl.num_programs(0) * ROWS):
        rows = first + tl.arange(0, ROWS)
        mask, rows = (rows < num_rows)[:, None], rows.to(tl.int64)[:, None]
        grad = tl.load(left + (rows * STRIDE + columns[None, :]), mask=mask, other=0)
        vector = tl.load(right + (rows * CHANNELS + channels[None, :]), mask=mask, other=0)
        weight += _outer(grad, vector, PRECISION)
        bias += _product(ones, grad, PRECISION)
    size: tl.constexpr = (CHANNELS + 1) * CHANNELS
    partials += tl.program_id(0) * 2 * size
    starts = (PART + columns // CHANNELS) * size
    tl.store(partials + (starts + columns % CHANNELS * CHANNELS)[:, None] + channels[None, :], weight)
    tl.store(partials + starts + CHANNELS * CHANNELS + columns % CHANNELS, tl.sum(bias, 0) / 16)


@triton.jit
def sums_by_source(
    grad_sent, leaving_ptr, leaving, grad_ends, num_graphs, WIDTH: tl.constexpr, SLOTS: tl.constexpr, GRAPHS: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """One source and one tile of graphs: writes the source's half of `grad_ends`, rows of ``2 · WIDTH``."""
    source, graphs = tl.program_id(0).to(INDEX), tl.program_id(1) * GRAPHS + tl.arange(0, SLOTS * GRAPHS) % GRAPHS
    graphs, slots = tl.minimum(graphs, num_graphs - 1), _slots(SLOTS, GRAPHS)
    start, stop = tl.load(leaving_ptr + source), tl.load(leaving_ptr + source + 1)
    total = tl.zeros((SLOTS * GRAPHS, WIDTH), tl.float32)
    for step in tl.range(start, stop, SLOTS):
        places = step + slots
        sent = _rows(grad_sent, _edge_rows(leaving, places, stop, graphs, num_graphs, INDEX), 1, 0, WIDTH).to(tl.float32)
        total += tl.where(tl.expand_dims(places + tl.zeros_like(graphs), 1) < stop, sent, 0)
    total = _sum_of_slots(total, SLOTS, GRAPHS, WIDTH)
    graphs = tl.program_id(1) * GRAPHS + tl.arange(0, GRAPHS)
    _store(grad_ends, source * num_graphs + graphs, graphs < num_graphs, total, 2, 1, WIDTH)
