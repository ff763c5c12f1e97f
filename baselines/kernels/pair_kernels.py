"""The Triton side of `baselines.kernels.pairs`; imported where its kernels run, since Triton is not everywhere.

Names as there: u and z are what the two norms take, y what the first gives. A program reads the weights once and goes through
tiles of pairs with them.
"""

# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false
# Pyright takes functions of Triton for such as never return, or give tuples.

from __future__ import annotations

import os

import triton
import triton.language as tl

from baselines.kernels.attention_kernels import NUMBERS, product

EPSILON = tl.constexpr(1e-5)
LOG2_E = tl.constexpr(1.4426950408889634)
HALF_ROOT = tl.constexpr(0.7071067811865476)
DENSITY_AT_ZERO = tl.constexpr(0.3989422804014327)
HAS_TANH = tl.constexpr(os.environ.get("TRITON_INTERPRET") != "1")
"""Whether the machine has a tanh of its own; the interpreter has not."""


@triton.jit
def gelu(x, OPERAND: tl.constexpr):
    """GELU and its slope, by an erf good to 1.5e-7 (Abramowitz and Stegun, 7.1.26).

    Where bfloat16 rounds it anyway by tanh, good to 5e-4 (Hendrycks and Gimpel, Gaussian Error Linear Units, 2016).
    """
    if tl.bfloat16 == OPERAND and HAS_TANH:
        square = x * x
        inside = [x * (square * 0.0356774081 + 0.7978845608)]
        tanh = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", inside, tl.float32, is_pure=True, pack=1)
        share = 0.5 + 0.5 * tanh
        slope = share + x * (0.5 - 0.5 * tanh * tanh) * (0.7978845608 + 0.1070322243 * square)
    else:
        bell = tl.exp2(x * x * (-0.5 * LOG2_E))
        t = 1.0 / (1.0 + 0.3275911 * HALF_ROOT * tl.abs(x))
        tail = t * (0.127414796 + t * (-0.142248368 + t * (0.7107068705 + t * (-0.7265760135 + t * 0.5307027145)))) * bell
        share = tl.where(x >= 0, 1.0 - tail, tail)
        slope = share + x * (DENSITY_AT_ZERO * bell)
    return x * share, slope


@triton.jit
def standardise(x, CHANNELS: tl.constexpr):
    """Rows less their mean, over their standard deviation; and one over it."""
    centred = x - (tl.sum(x, 1) / CHANNELS)[:, None]
    scale = tl.rsqrt(tl.sum(centred * centred, 1) / CHANNELS + EPSILON)
    return centred * scale[:, None], scale


@triton.jit
def standardise_backward(grad, standard, scale, CHANNELS: tl.constexpr):
    """Gradient of what `standardise` took, from that of what it gave."""
    mean = tl.sum(grad, 1) / CHANNELS
    slope = tl.sum(grad * standard, 1) / CHANNELS
    return (grad - mean[:, None] - standard * slope[:, None]) * scale[:, None]


@triton.jit
def scramble(x):
    """A bijection of 32-bit numbers that looks random (lowbias32; C. Wellons, Prospecting for Hash Functions, 2018)."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def factors(row, key, dropout, CHANNELS: tl.constexpr, DROPPED: tl.constexpr):
    """Factors of dropout of pairs, 0 or 1 / (1 - dropout), from the numbers of their channels among all and a scrambled seed."""
    index = row[:, None] * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    if DROPPED:
        drawn = (scramble(index.to(tl.uint32) ^ key) >> 1).to(tl.int32)
        factor = tl.where(drawn >= tl.full([1, 1], dropout * 2147483648.0, tl.float32).to(tl.int32), 1.0 / (1.0 - dropout), 0.0)
    else:
        factor = tl.full([1, 1], 1.0, tl.float32)
    return factor


@triton.jit
def scrambled_seed(seed, DROPPED: tl.constexpr):
    """A seed whose bits are all as good as random."""
    return scramble(tl.load(seed).to(tl.uint32)) if DROPPED else 0


@triton.jit
def load_turned(weight, stride, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, OPERAND: tl.constexpr):
    """A linear layer's weights ``[outputs, inputs]`` as ``[inputs, outputs]``."""
    return tl.load(weight + tl.arange(0, OUTPUTS)[None, :] * stride + tl.arange(0, INPUTS)[:, None]).to(OPERAND)


@triton.jit
def load_rows(table, row, real, stride, CHANNELS: tl.constexpr):
    """Rows of a table, zeros where they are not real."""
    return tl.load(table + row[:, None] * stride + tl.arange(0, CHANNELS)[None, :], mask=real[:, None], other=0.0)


@triton.jit
def store_rows(table, row, real, rows, CHANNELS: tl.constexpr):
    """Writes what `load_rows` reads."""
    at = row[:, None] * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    tl.store(table + at, rows.to(table.dtype.element_ty), mask=real[:, None])


@triton.jit
def pair_of(row, num_nodes):
    """Of a pair's number: its source among all nodes, its target among all nodes, the number of its reverse."""
    source = row // num_nodes
    first = source // num_nodes * num_nodes
    target = first + row % num_nodes
    return source, target, target * num_nodes + source - first


@triton.jit
def load_blocks(
    inner0,
    outer0,
    bias0,
    inner1,
    outer1,
    bias1,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    HELD: tl.constexpr,
    OPERAND: tl.constexpr,
):
    """The weights that `first_block` and `second_block` take; where they are not held, where they are."""
    channel = tl.arange(0, CHANNELS)
    if HELD:
        first = (
            load_turned(inner0, 2 * CHANNELS, CHANNELS, HIDDEN, OPERAND),
            load_turned(inner0 + CHANNELS, 2 * CHANNELS, CHANNELS, HIDDEN, OPERAND),
            load_turned(outer0, HIDDEN, HIDDEN, CHANNELS, OPERAND),
            tl.load(bias0 + channel),
        )
        second = (
            load_turned(inner1, CHANNELS, CHANNELS, HIDDEN, OPERAND),
            load_turned(outer1, HIDDEN, HIDDEN, CHANNELS, OPERAND),
            tl.load(bias1 + channel),
        )
    else:
        first = (inner0, inner0 + CHANNELS, outer0, tl.load(bias0 + channel))
        second = (inner1, outer1, tl.load(bias1 + channel))
    return first, second


@triton.jit
def held(weight, stride, INPUTS: tl.constexpr, OUTPUTS: tl.constexpr, HELD: tl.constexpr, OPERAND: tl.constexpr):
    """A layer of `load_blocks`, ``[inputs, outputs]``."""
    return weight if HELD else load_turned(weight, stride, INPUTS, OUTPUTS, OPERAND)


@triton.jit
def first_block(
    row,
    real,
    pairs,
    sources,
    targets,
    weights,
    key,
    num_nodes,
    dropout,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    DROPPED: tl.constexpr,
    HELD: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Of pairs GELU and its slope, what the first norm makes before weight and shift, one over the deviation, dropout's factors.

    ``weights`` are those of the pair, of its reverse, of the outer layer, and its bias.
    """
    weight, weight_reverse, outer, bias = weights
    source, target, opposite = pair_of(row, num_nodes)
    pair = load_rows(pairs, row, real, CHANNELS, CHANNELS)
    reverse = load_rows(pairs, opposite, real, CHANNELS, CHANNELS)
    x = load_rows(sources, source, real, HIDDEN, HIDDEN).to(tl.float32)
    x += load_rows(targets, target, real, HIDDEN, HIDDEN).to(tl.float32)
    x += product(pair, held(weight, 2 * CHANNELS, CHANNELS, HIDDEN, HELD, OPERAND), OPERAND, PRECISION)
    x += product(reverse, held(weight_reverse, 2 * CHANNELS, CHANNELS, HIDDEN, HELD, OPERAND), OPERAND, PRECISION)
    active, slope = gelu(x, OPERAND)
    factor = factors(row, key, dropout, CHANNELS, DROPPED)
    added = product(active, held(outer, HIDDEN, HIDDEN, CHANNELS, HELD, OPERAND), OPERAND, PRECISION) + bias[None, :]
    standard, scale = standardise(pair.to(tl.float32) + added * factor, CHANNELS)
    return active, slope, standard, scale, factor


@triton.jit
def second_block(
    y,
    row,
    weights,
    key,
    dropout,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    DROPPED: tl.constexpr,
    HELD: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """As `first_block`, of the second norm; ``weights`` are those of the inner and outer layers, and the bias."""
    inner, outer, bias = weights
    active, slope = gelu(product(y, held(inner, CHANNELS, CHANNELS, HIDDEN, HELD, OPERAND), OPERAND, PRECISION), OPERAND)
    factor = factors(row, key, dropout, CHANNELS, DROPPED)
    added = product(active, held(outer, HIDDEN, HIDDEN, CHANNELS, HELD, OPERAND), OPERAND, PRECISION) + bias[None, :]
    standard, scale = standardise(y + added * factor, CHANNELS)
    return slope, standard, scale, factor


@triton.jit(do_not_specialize=NUMBERS)
def pairs_forward(
    pairs,
    sources,
    targets,
    inner0,
    outer0,
    bias0,
    norm0,
    shift0,
    inner1,
    outer1,
    bias1,
    norm1,
    shift1,
    seeds,
    out,
    num_pairs,
    num_nodes,
    dropout,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    DROPPED: tl.constexpr,
    HELD: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The update of pairs, in tiles of `ROWS`."""
    channel = tl.arange(0, CHANNELS)
    first, second = load_blocks(inner0, outer0, bias0, inner1, outer1, bias1, CHANNELS, HIDDEN, HELD, OPERAND)
    weight0, weight1 = tl.load(norm0 + channel)[None, :], tl.load(norm1 + channel)[None, :]
    added0, added1 = tl.load(shift0 + channel)[None, :], tl.load(shift1 + channel)[None, :]
    key0, key1 = scrambled_seed(seeds, DROPPED), scrambled_seed(seeds + 1, DROPPED)
    for start in range(tl.program_id(0) * ROWS, num_pairs, tl.num_programs(0) * ROWS):
        row = start + tl.arange(0, ROWS)
        real = row < num_pairs
        _active, _slope, standard0, _scale, _factor = first_block(
            *(row, real, pairs, sources, targets, first, key0, num_nodes, dropout),
            *(CHANNELS, HIDDEN, DROPPED, HELD, OPERAND, PRECISION),
        )
        y = standard0 * weight0 + added0
        _slope1, standard1, _scale1, _factor1 = second_block(
            y, row, second, key1, dropout, CHANNELS, HIDDEN, DROPPED, HELD, OPERAND, PRECISION
        )
        store_rows(out, row, real, standard1 * weight1 + added1, CHANNELS)


@triton.jit(do_not_specialize=NUMBERS)
def pairs_backward_blocks(
    pairs,
    sources,
    targets,
    inner0,
    outer0,
    bias0,
    norm0,
    shift0,
    inner1,
    outer1,
    bias1,
    norm1,
    shift1,
    seeds,
    grad_out,
    middle,
    active_first,
    grad_sum,
    grad_first,
    grad_second,
    grad_hidden,
    grad_vectors,
    num_pairs,
    num_nodes,
    dropout,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    DROPPED: tl.constexpr,
    HELD: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Back through both blocks, in tiles of `ROWS` pairs.

    Writes y, what the first outer layer took, and the gradients of u, of both outer layers' results, and of what the first GELU
    took; ``grad_vectors`` is ``[programs, 6, channels]``: bias0, norm0, shift0, bias1, norm1, shift1.
    """
    channel = tl.arange(0, CHANNELS)
    first, second = load_blocks(inner0, outer0, bias0, inner1, outer1, bias1, CHANNELS, HIDDEN, HELD, OPERAND)
    weight0, weight1 = tl.load(norm0 + channel)[None, :], tl.load(norm1 + channel)[None, :]
    added0 = tl.load(shift0 + channel)[None, :]
    key0, key1 = scrambled_seed(seeds, DROPPED), scrambled_seed(seeds + 1, DROPPED)
    none = tl.zeros([CHANNELS], tl.float32)
    grad_bias0, grad_norm0, grad_shift0, grad_bias1, grad_norm1, grad_shift1 = none, none, none, none, none, none
    for start in range(tl.program_id(0) * ROWS, num_pairs, tl.num_programs(0) * ROWS):
        row = start + tl.arange(0, ROWS)
        real = row < num_pairs
        active0, slope0, standard0, scale0, factor0 = first_block(
            *(row, real, pairs, sources, targets, first, key0, num_nodes, dropout),
            *(CHANNELS, HIDDEN, DROPPED, HELD, OPERAND, PRECISION),
        )
        store_rows(active_first, row, real, active0, HIDDEN)
        y = standard0 * weight0 + added0
        store_rows(middle, row, real, y, CHANNELS)
        slope1, standard1, scale1, factor1 = second_block(
            y, row, second, key1, dropout, CHANNELS, HIDDEN, DROPPED, HELD, OPERAND, PRECISION
        )
        grad = load_rows(grad_out, row, real, CHANNELS, CHANNELS).to(tl.float32)
        grad_norm1 += tl.sum(grad * standard1, 0)
        grad_shift1 += tl.sum(grad, 0)
        grad = standardise_backward(grad * weight1, standard1, scale1, CHANNELS)
        grad_added = grad * factor1
        grad_bias1 += tl.sum(grad_added, 0)
        store_rows(grad_second, row, real, grad_added, CHANNELS)
        of_hidden = (
            product(grad_added, tl.trans(held(second[1], HIDDEN, HIDDEN, CHANNELS, HELD, OPERAND)), OPERAND, PRECISION) * slope1
        )
        grad += product(of_hidden, tl.trans(held(second[0], CHANNELS, CHANNELS, HIDDEN, HELD, OPERAND)), OPERAND, PRECISION)
        grad_norm0 += tl.sum(grad * standard0, 0)
        grad_shift0 += tl.sum(grad, 0)
        grad = standardise_backward(grad * weight0, standard0, scale0, CHANNELS)
        store_rows(grad_sum, row, real, grad, CHANNELS)
        grad_added = grad * factor0
        grad_bias0 += tl.sum(grad_added, 0)
        if DROPPED:
            store_rows(grad_first, row, real, grad_added, CHANNELS)
        of_hidden = (
            product(grad_added, tl.trans(held(first[2], HIDDEN, HIDDEN, CHANNELS, HELD, OPERAND)), OPERAND, PRECISION) * slope0
        )
        store_rows(grad_hidden, row, real, of_hidden, HIDDEN)
    vectors = grad_vectors + tl.program_id(0) * 6 * CHANNELS + channel
    tl.store(vectors, grad_bias0)
    tl.store(vectors + CHANNELS, grad_norm0)
    tl.store(vectors + 2 * CHANNELS, grad_shift0)
    tl.store(vectors + 3 * CHANNELS, grad_bias1)
    tl.store(vectors + 4 * CHANNELS, grad_norm1)
    tl.store(vectors + 5 * CHANNELS, grad_shift1)


@triton.jit(do_not_specialize=NUMBERS)
def pairs_backward_pairs(
    pairs,
    inner0,
    grad_sum,
    grad_hidden,
    grad_pairs,
    grad_weights,
    num_pairs,
    num_nodes,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of pairs, which enter their own update and that of their reverse, and of the weights with which they enter.

    ``grad_weights`` is ``[programs, 2, channels, hidden]``, to be summed.
    """
    weight = tl.trans(load_turned(inner0, 2 * CHANNELS, CHANNELS, HIDDEN, OPERAND))
    weight_reverse = tl.trans(load_turned(inner0 + CHANNELS, 2 * CHANNELS, CHANNELS, HIDDEN, OPERAND))
    grad_weight = tl.zeros([CHANNELS, HIDDEN], tl.float32)
    grad_reverse = tl.zeros([CHANNELS, HIDDEN], tl.float32)
    for start in range(tl.program_id(0) * ROWS, num_pairs, tl.num_programs(0) * ROWS):
        row = start + tl.arange(0, ROWS)
        real = row < num_pairs
        _source, _target, opposite = pair_of(row, num_nodes)
        turned = tl.trans(load_rows(pairs, row, real, CHANNELS, CHANNELS))
        own = load_rows(grad_hidden, row, real, HIDDEN, HIDDEN)
        other = load_rows(grad_hidden, opposite, real, HIDDEN, HIDDEN)
        grad = load_rows(grad_sum, row, real, CHANNELS, CHANNELS).to(tl.float32)
        grad += product(own, weight, OPERAND, PRECISION)
        grad += product(other, weight_reverse, OPERAND, PRECISION)
        store_rows(grad_pairs, row, real, grad, CHANNELS)
        grad_weight += product(turned, own, OPERAND, PRECISION)
        grad_reverse += product(turned, other, OPERAND, PRECISION)
    at = tl.arange(0, CHANNELS)[:, None] * HIDDEN + tl.arange(0, HIDDEN)[None, :]
    at += tl.program_id(0) * 2 * CHANNELS * HIDDEN
    tl.store(grad_weights + at, grad_weight)
    tl.store(grad_weights + CHANNELS * HIDDEN + at, grad_reverse)


@triton.jit(do_not_specialize=NUMBERS)
def pairs_backward_weights(
    middle,
    active_first,
    inner1,
    outer1,
    grad_first,
    grad_second,
    grad_weights,
    num_pairs,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    CHUNK: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of the first outer layer and of the second block's layers, in `CHUNK` hidden channels.

    ``grad_weights`` is ``[programs, 3, channels, hidden]``, to be summed: first outer, second inner turned, second outer.
    """
    hidden = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    channel = tl.arange(0, CHANNELS)
    weight = load_turned(inner1 + tl.program_id(1) * CHUNK * CHANNELS, CHANNELS, CHANNELS, CHUNK, OPERAND)
    outer = tl.trans(load_turned(outer1 + tl.program_id(1) * CHUNK, HIDDEN, CHUNK, CHANNELS, OPERAND))
    grad_outer0 = tl.zeros([CHANNELS, CHUNK], tl.float32)
    grad_inner = tl.zeros([CHANNELS, CHUNK], tl.float32)
    grad_outer = tl.zeros([CHANNELS, CHUNK], tl.float32)
    for start in range(tl.program_id(0) * ROWS, num_pairs, tl.num_programs(0) * ROWS):
        row = start + tl.arange(0, ROWS)
        real = row < num_pairs
        y = load_rows(middle, row, real, CHANNELS, CHANNELS)
        grad = load_rows(grad_second, row, real, CHANNELS, CHANNELS)
        turned = tl.trans(load_rows(grad_first, row, real, CHANNELS, CHANNELS))
        active0 = load_rows(active_first + tl.program_id(1) * CHUNK, row, real, HIDDEN, CHUNK)
        active, slope = gelu(product(y, weight, OPERAND, PRECISION), OPERAND)
        grad_hidden = product(grad, outer, OPERAND, PRECISION) * slope
        grad_outer0 += product(turned, active0, OPERAND, PRECISION)
        grad_inner += product(tl.trans(y), grad_hidden, OPERAND, PRECISION)
        grad_outer += product(tl.trans(grad), active, OPERAND, PRECISION)
    at = channel[:, None] * HIDDEN + hidden[None, :] + tl.program_id(0) * 3 * CHANNELS * HIDDEN
    tl.store(grad_weights + at, grad_outer0)
    tl.store(grad_weights + CHANNELS * HIDDEN + at, grad_inner)
    tl.store(grad_weights + 2 * CHANNELS * HIDDEN + at, grad_outer)


@triton.jit(do_not_specialize=NUMBERS)
def pairs_backward_ends(grad_hidden, grad_sources, grad_targets, num_nodes, ROWS: tl.constexpr, HIDDEN: tl.constexpr):
    """Gradients of one node as source and as target, the sums over the pairs in which it is that."""
    node = tl.program_id(0)
    first = node // num_nodes * num_nodes
    hidden = tl.arange(0, HIDDEN)
    grad_source = tl.zeros([ROWS, HIDDEN], tl.float32)
    grad_target = tl.zeros([ROWS, HIDDEN], tl.float32)
    for start in range(0, num_nodes, ROWS):
        other = start + tl.arange(0, ROWS)
        real = other < num_nodes
        grad_source += load_rows(grad_hidden, node * num_nodes + other, real, HIDDEN, HIDDEN).to(tl.float32)
        grad_target += load_rows(grad_hidden, (first + other) * num_nodes + node - first, real, HIDDEN, HIDDEN).to(tl.float32)
    at = node * HIDDEN + hidden
    tl.store(grad_sources + at, tl.sum(grad_source, 0).to(grad_sources.dtype.element_ty))
    tl.store(grad_targets + at, tl.sum(grad_target, 0).to(grad_targets.dtype.element_ty))
