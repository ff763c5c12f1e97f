"""The Triton side of `baselines.kernels.attention`; imported where its kernels run, since Triton is not everywhere."""

from __future__ import annotations

import triton
import triton.language as tl

NUMBERS = ("num_graphs", "num_nodes", "num_chunks", "num_pairs", "rows")
"""Numbers of which no value, such as one or a multiple of 16, has a program of its own."""

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def product(left, right, OPERAND: tl.constexpr, PRECISION: tl.constexpr):
    """Matrix product of operands rounded to `OPERAND`, summed in float32."""
    return tl.dot(left.to(OPERAND), right.to(OPERAND), input_precision=PRECISION)


@triton.jit
def load_part(weight, head, PART: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, OPERAND: tl.constexpr):
    """One head's weights of the queries (0), keys (1), shifts (2) or scales (3) of pairs: [channels, width]."""
    channel = tl.arange(0, CHANNELS)
    column = tl.arange(0, WIDTH)
    return tl.load(weight + ((head * 4 + PART) * CHANNELS + channel[:, None]) * WIDTH + column[None, :]).to(OPERAND)


@triton.jit(do_not_specialize=NUMBERS)
def attention_forward(
    pairs,
    queries,
    keys,
    values,
    weight,
    mask,
    out,
    log_sums,
    num_nodes,
    scale,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    MASKED: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One head of `ROWS` attending nodes; every slot of a tile of columns keeps a softmax of its own until the end."""
    program = tl.program_id(0)
    head = program % HEADS
    num_chunks = tl.cdiv(num_nodes, ROWS)
    graph = program // HEADS // num_chunks
    first = (program // HEADS % num_chunks) * ROWS
    column = tl.arange(0, COLUMNS)
    channel = tl.arange(0, CHANNELS)
    inside = head * WIDTH + tl.arange(0, WIDTH)
    weight_q = load_part(weight, head, 0, CHANNELS, WIDTH, OPERAND)
    weight_k = load_part(weight, head, 1, CHANNELS, WIDTH, OPERAND)
    weight_shift = load_part(weight, head, 2, CHANNELS, WIDTH, OPERAND)
    weight_scale = load_part(weight, head, 3, CHANNELS, WIDTH, OPERAND)
    for i in range(first, tl.minimum(first + ROWS, num_nodes)):
        node = graph * num_nodes + i
        query = tl.load(queries + node * HEADS * WIDTH + inside).to(tl.float32)
        largest = tl.full([COLUMNS], -1e30, tl.float32)
        total = tl.zeros([COLUMNS], tl.float32)
        summed = tl.zeros([COLUMNS, WIDTH], tl.float32)
        for start in range(0, num_nodes, COLUMNS):
            j = start + column
            real = j < num_nodes
            other = graph * num_nodes + j
            at_node = other[:, None] * HEADS * WIDTH + inside[None, :]
            attended = real & (tl.load(mask + other, mask=real, other=0) != 0) if MASKED else real
            pair = tl.load(pairs + ((node * num_nodes + j) * CHANNELS)[:, None] + channel[None, :], mask=real[:, None], other=0.0)
            key = tl.load(keys + at_node, mask=real[:, None], other=0.0).to(tl.float32)
            value = tl.load(values + at_node, mask=real[:, None], other=0.0).to(tl.float32)
            query_pair = product(pair, weight_q, OPERAND, PRECISION) + query[None, :]
            key_pair = product(pair, weight_k, OPERAND, PRECISION) + key
            logit = tl.where(attended, tl.sum(query_pair * key_pair, 1) * (scale * LOG2_E), -1e30)
            value_pair = product(pair, weight_scale, OPERAND, PRECISION) * value + product(pair, weight_shift, OPERAND, PRECISION)
            raised = tl.maximum(largest, logit)
            fade = tl.exp2(largest - raised)
            share = tl.where(attended, tl.exp2(logit - raised), 0.0)
            total = total * fade + share
            summed = summed * fade[:, None] + share[:, None] * value_pair
            largest = raised
        top = tl.max(largest, 0)
        fade = tl.exp2(largest - top)
        total_all = tl.sum(total * fade, 0)
        result = tl.sum(summed * fade[:, None], 0) / total_all
        tl.store(out + node * HEADS * WIDTH + inside, result.to(out.dtype.element_ty))
        tl.store(log_sums + node * HEADS + head, top + tl.log2(total_all))


@triton.jit(do_not_specialize=("num_rows",))
def attention_deltas(grad_out, out, deltas, num_rows, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    """Of each head of each node the sum of gradient times result."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = row < num_rows
    at = row[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    grad = tl.load(grad_out + at, mask=real[:, None], other=0.0).to(tl.float32)
    result = tl.load(out + at, mask=real[:, None], other=0.0).to(tl.float32)
    tl.store(deltas + row, tl.sum(grad * result, 1), mask=real)


@triton.jit(do_not_specialize=NUMBERS)
def attention_backward_nodes(
    pairs,
    queries,
    keys,
    values,
    weight,
    mask,
    grad_out,
    log_sums,
    deltas,
    grad_queries,
    grad_keys,
    grad_values,
    grad_weight,
    num_graphs,
    num_nodes,
    num_chunks,
    rows,
    scale,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    MASKED: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One head of a tile of attended nodes, over a chunk of `rows` attending nodes.

    Gradients of queries are parts to be summed over tiles ``[tiles, graphs, nodes, attention]``, of keys and values over chunks
    ``[chunks, graphs, nodes, attention]``, of the weights over all ``[graphs * tiles * chunks, heads, 4, width, channels]``.
    """
    program = tl.program_id(0)
    head = program % HEADS
    group = program // HEADS
    chunk = group % num_chunks
    num_tiles = tl.cdiv(num_nodes, COLUMNS)
    tile = (group // num_chunks) % num_tiles
    graph = group // num_chunks // num_tiles
    channel = tl.arange(0, CHANNELS)
    width = tl.arange(0, WIDTH)
    inside = head * WIDTH + width
    weight_q = load_part(weight, head, 0, CHANNELS, WIDTH, OPERAND)
    weight_k = load_part(weight, head, 1, CHANNELS, WIDTH, OPERAND)
    weight_shift = load_part(weight, head, 2, CHANNELS, WIDTH, OPERAND)
    weight_scale = load_part(weight, head, 3, CHANNELS, WIDTH, OPERAND)
    j = tile * COLUMNS + tl.arange(0, COLUMNS)
    real = j < num_nodes
    other = graph * num_nodes + j
    at_node = other[:, None] * HEADS * WIDTH + inside[None, :]
    attended = real & (tl.load(mask + other, mask=real, other=0) != 0) if MASKED else real
    key = tl.load(keys + at_node, mask=real[:, None], other=0.0).to(tl.float32)
    value = tl.load(values + at_node, mask=real[:, None], other=0.0).to(tl.float32)
    grad_key = tl.zeros([COLUMNS, WIDTH], tl.float32)
    grad_value = tl.zeros([COLUMNS, WIDTH], tl.float32)
    grad_q = tl.zeros([CHANNELS, WIDTH], tl.float32)
    grad_k = tl.zeros([CHANNELS, WIDTH], tl.float32)
    grad_shift = tl.zeros([CHANNELS, WIDTH], tl.float32)
    grad_scale = tl.zeros([CHANNELS, WIDTH], tl.float32)
    for i in range(chunk * rows, tl.minimum(chunk * rows + rows, num_nodes)):
        node = graph * num_nodes + i
        query = tl.load(queries + node * HEADS * WIDTH + inside).to(tl.float32)
        grad = tl.load(grad_out + node * HEADS * WIDTH + inside).to(tl.float32)
        log_sum = tl.load(log_sums + node * HEADS + head)
        delta = tl.load(deltas + node * HEADS + head)
        pair = tl.load(pairs + ((node * num_nodes + j) * CHANNELS)[:, None] + channel[None, :], mask=real[:, None], other=0.0)
        query_pair = product(pair, weight_q, OPERAND, PRECISION) + query[None, :]
        key_pair = product(pair, weight_k, OPERAND, PRECISION) + key
        scale_pair = product(pair, weight_scale, OPERAND, PRECISION)
        shift_pair = product(pair, weight_shift, OPERAND, PRECISION)
        share = tl.where(attended, tl.exp2(tl.sum(query_pair * key_pair, 1) * (scale * LOG2_E) - log_sum), 0.0)
        grad_share = tl.sum((scale_pair * value + shift_pair) * grad[None, :], 1)
        grad_logit = (share * (grad_share - delta) * scale)[:, None]
        grad_query_pair = grad_logit * key_pair
        grad_key_pair = grad_logit * query_pair
        grad_shift_pair = share[:, None] * grad[None, :]
        grad_key += grad_key_pair
        grad_value += grad_shift_pair * scale_pair
        turned = tl.trans(pair.to(OPERAND))
        grad_q += product(turned, grad_query_pair, OPERAND, PRECISION)
        grad_k += product(turned, grad_key_pair, OPERAND, PRECISION)
        grad_shift += product(turned, grad_shift_pair, OPERAND, PRECISION)
        grad_scale += product(turned, grad_shift_pair * value, OPERAND, PRECISION)
        at_query = (tile * num_graphs * num_nodes + node) * HEADS * WIDTH + inside
        tl.store(grad_queries + at_query, tl.sum(grad_query_pair, 0))
    at_other = chunk * num_graphs * num_nodes * HEADS * WIDTH + at_node
    tl.store(grad_keys + at_other, grad_key, mask=real[:, None])
    tl.store(grad_values + at_other, grad_value, mask=real[:, None])
    base = grad_weight + (group * HEADS + head) * 4 * WIDTH * CHANNELS + width[None, :] * CHANNELS + channel[:, None]
    tl.store(base, grad_q)
    tl.store(base + WIDTH * CHANNELS, grad_k)
    tl.store(base + 2 * WIDTH * CHANNELS, grad_shift)
    tl.store(base + 3 * WIDTH * CHANNELS, grad_scale)


@triton.jit
def load_across(weight, head, PART: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr, OPERAND: tl.constexpr):
    """What `load_part` reads as [width, channels]."""
    channel = tl.arange(0, CHANNELS)
    column = tl.arange(0, WIDTH)
    return tl.load(weight + ((head * 4 + PART) * CHANNELS + channel[None, :]) * WIDTH + column[:, None]).to(OPERAND)


@triton.jit(do_not_specialize=NUMBERS)
def attention_backward_nodes_across(
    pairs,
    queries,
    keys,
    values,
    weight,
    mask,
    grad_out,
    log_sums,
    deltas,
    grad_queries,
    grad_keys,
    grad_values,
    grad_weight,
    num_graphs,
    num_nodes,
    num_chunks,
    rows,
    scale,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    COLUMNS: tl.constexpr,
    MASKED: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """As `attention_backward_nodes`, with the attended nodes across: what a product gives is an operand of the next as it stands.

    Of one warp nothing but the pairs passes through shared memory then.
    """
    program = tl.program_id(0)
    head = program % HEADS
    group = program // HEADS
    chunk = group % num_chunks
    num_tiles = tl.cdiv(num_nodes, COLUMNS)
    tile = (group // num_chunks) % num_tiles
    graph = group // num_chunks // num_tiles
    channel = tl.arange(0, CHANNELS)
    width = tl.arange(0, WIDTH)
    inside = head * WIDTH + width
    weight_q = load_across(weight, head, 0, CHANNELS, WIDTH, OPERAND)
    weight_k = load_across(weight, head, 1, CHANNELS, WIDTH, OPERAND)
    weight_shift = load_across(weight, head, 2, CHANNELS, WIDTH, OPERAND)
    weight_scale = load_across(weight, head, 3, CHANNELS, WIDTH, OPERAND)
    j = tile * COLUMNS + tl.arange(0, COLUMNS)
    real = j < num_nodes
    other = graph * num_nodes + j
    at_node = other[None, :] * HEADS * WIDTH + inside[:, None]
    attended = real & (tl.load(mask + other, mask=real, other=0) != 0) if MASKED else real
    key = tl.load(keys + at_node, mask=real[None, :], other=0.0).to(tl.float32)
    value = tl.load(values + at_node, mask=real[None, :], other=0.0).to(tl.float32)
    grad_key = tl.zeros([WIDTH, COLUMNS], tl.float32)
    grad_value = tl.zeros([WIDTH, COLUMNS], tl.float32)
    grad_q = tl.zeros([WIDTH, CHANNELS], tl.float32)
    grad_k = tl.zeros([WIDTH, CHANNELS], tl.float32)
    grad_shift = tl.zeros([WIDTH, CHANNELS], tl.float32)
    grad_scale = tl.zeros([WIDTH, CHANNELS], tl.float32)
    for i in range(chunk * rows, tl.minimum(chunk * rows + rows, num_nodes)):
        node = graph * num_nodes + i
        query = tl.load(queries + node * HEADS * WIDTH + inside).to(tl.float32)
        grad = tl.load(grad_out + node * HEADS * WIDTH + inside).to(tl.float32)
        log_sum = tl.load(log_sums + node * HEADS + head)
        delta = tl.load(deltas + node * HEADS + head)
        at_pair = ((node * num_nodes + j) * CHANNELS)[:, None] + channel[None, :]
        pair = tl.load(pairs + at_pair, mask=real[:, None], other=0.0).to(OPERAND)
        across = tl.trans(pair)
        query_pair = product(weight_q, across, OPERAND, PRECISION) + query[:, None]
        key_pair = product(weight_k, across, OPERAND, PRECISION) + key
        scale_pair = product(weight_scale, across, OPERAND, PRECISION)
        shift_pair = product(weight_shift, across, OPERAND, PRECISION)
        share = tl.where(attended, tl.exp2(tl.sum(query_pair * key_pair, 0) * (scale * LOG2_E) - log_sum), 0.0)
        grad_share = tl.sum((scale_pair * value + shift_pair) * grad[:, None], 0)
        grad_logit = (share * (grad_share - delta) * scale)[None, :]
        grad_query_pair = grad_logit * key_pair
        grad_key_pair = grad_logit * query_pair
        grad_shift_pair = share[None, :] * grad[:, None]
        grad_key += grad_key_pair
        grad_value += grad_shift_pair * scale_pair
        grad_q += product(grad_query_pair, pair, OPERAND, PRECISION)
        grad_k += product(grad_key_pair, pair, OPERAND, PRECISION)
        grad_shift += product(grad_shift_pair, pair, OPERAND, PRECISION)
        grad_scale += product(grad_shift_pair * value, pair, OPERAND, PRECISION)
        at_query = (tile * num_graphs * num_nodes + node) * HEADS * WIDTH + inside
        tl.store(grad_queries + at_query, tl.sum(grad_query_pair, 1))
    at_other = chunk * num_graphs * num_nodes * HEADS * WIDTH + at_node
    tl.store(grad_keys + at_other, grad_key, mask=real[None, :])
    tl.store(grad_values + at_other, grad_value, mask=real[None, :])
    base = grad_weight + (group * HEADS + head) * 4 * WIDTH * CHANNELS + width[:, None] * CHANNELS + channel[None, :]
    tl.store(base, grad_q)
    tl.store(base + WIDTH * CHANNELS, grad_k)
    tl.store(base + 2 * WIDTH * CHANNELS, grad_shift)
    tl.store(base + 3 * WIDTH * CHANNELS, grad_scale)


@triton.jit(do_not_specialize=NUMBERS)
def attention_backward_pairs(
    pairs,
    queries,
    keys,
    values,
    weight,
    mask,
    grad_out,
    log_sums,
    deltas,
    grad_pairs,
    num_pairs,
    num_nodes,
    scale,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    MASKED: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of `ROWS` pairs, summed over the heads."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = row < num_pairs
    node = row // num_nodes
    other = node // num_nodes * num_nodes + row % num_nodes
    attended = real & (tl.load(mask + other, mask=real, other=0) != 0) if MASKED else real
    at_pair = row[:, None] * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    pair = tl.load(pairs + at_pair, mask=real[:, None], other=0.0).to(OPERAND)
    grad_pair = tl.zeros([ROWS, CHANNELS], tl.float32)
    for head in range(HEADS):
        inside = head * WIDTH + tl.arange(0, WIDTH)
        at_node = node[:, None] * HEADS * WIDTH + inside[None, :]
        at_other = other[:, None] * HEADS * WIDTH + inside[None, :]
        weight_q = load_part(weight, head, 0, CHANNELS, WIDTH, OPERAND)
        weight_k = load_part(weight, head, 1, CHANNELS, WIDTH, OPERAND)
        weight_shift = load_part(weight, head, 2, CHANNELS, WIDTH, OPERAND)
        weight_scale = load_part(weight, head, 3, CHANNELS, WIDTH, OPERAND)
        query = tl.load(queries + at_node, mask=real[:, None], other=0.0).to(tl.float32)
        grad = tl.load(grad_out + at_node, mask=real[:, None], other=0.0).to(tl.float32)
        key = tl.load(keys + at_other, mask=real[:, None], other=0.0).to(tl.float32)
        value = tl.load(values + at_other, mask=real[:, None], other=0.0).to(tl.float32)
        log_sum = tl.load(log_sums + node * HEADS + head, mask=real, other=0.0)
        delta = tl.load(deltas + node * HEADS + head, mask=real, other=0.0)
        query_pair = product(pair, weight_q, OPERAND, PRECISION) + query
        key_pair = product(pair, weight_k, OPERAND, PRECISION) + key
        value_pair = product(pair, weight_scale, OPERAND, PRECISION) * value + product(pair, weight_shift, OPERAND, PRECISION)
        share = tl.where(attended, tl.exp2(tl.sum(query_pair * key_pair, 1) * (scale * LOG2_E) - log_sum), 0.0)
        grad_logit = (share * (tl.sum(value_pair * grad, 1) - delta) * scale)[:, None]
        grad_shift_pair = share[:, None] * grad
        grad_pair += product(grad_logit * key_pair, tl.trans(weight_q), OPERAND, PRECISION)
        grad_pair += product(grad_logit * query_pair, tl.trans(weight_k), OPERAND, PRECISION)
        grad_pair += product(grad_shift_pair, tl.trans(weight_shift), OPERAND, PRECISION)
        grad_pair += product(grad_shift_pair * value, tl.trans(weight_scale), OPERAND, PRECISION)
    tl.store(grad_pairs + at_pair, grad_pair.to(grad_pairs.dtype.element_ty), mask=real[:, None])
