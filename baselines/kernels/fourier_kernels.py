"""The Triton side of `baselines.kernels.fourier`; imported where its kernels run, since Triton is not everywhere."""

from __future__ import annotations

import math

import triton
import triton.language as tl

TURN = tl.constexpr(2 * math.pi)


@triton.jit
def _sine(turns):
    """Of angles in turns, by the Taylor series within a quarter of a turn; its rest is below float32's rounding."""
    turns -= tl.floor(turns + 0.5)
    turns = tl.where(tl.abs(turns) > 0.25, tl.where(turns > 0, 0.5, -0.5) - turns, turns)
    angles = turns * TURN
    square = angles * angles
    series = 1 - square * (1 / 110) * (1 - square * (1 / 156))
    series = 1 - square * (1 / 42) * (1 - square * (1 / 72) * series)
    return angles * (1 - square * (1 / 6) * (1 - square * (1 / 20) * series))


@triton.jit
def _turns(vectors, frequencies, rows, first, num_rows, num_frequencies, INPUTS: tl.constexpr, CHUNK: tl.constexpr):
    """Angles of some rows at some frequencies, in turns, ``[rows, CHUNK]``."""
    places = first + tl.arange(0, CHUNK)
    turns = tl.zeros((rows.shape[0], CHUNK), tl.float32)
    for column in tl.static_range(INPUTS):
        values = tl.load(vectors + rows * INPUTS + column, mask=rows < num_rows, other=0).to(tl.float32)
        factors = tl.load(frequencies + places * INPUTS + column, mask=places < num_frequencies, other=0).to(tl.float32)
        turns += values[:, None] * factors[None, :]
    return turns


@triton.jit
def _product(left, right, PRECISION: tl.constexpr):
    if PRECISION == "bf16":
        product = tl.dot(left.to(tl.bfloat16), right.to(tl.bfloat16))
    else:
        product = tl.dot(left, right, input_precision=PRECISION)
    return product


@triton.jit
def forward(
    vectors, frequencies, weight, bias, added, out, num_rows, num_graphs, num_frequencies,
    INPUTS: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of rows: out = [cos, sin] weightᵀ + bias + added."""
    rows = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    channels = tl.arange(0, CHANNELS)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    for first in tl.range(0, num_frequencies, CHUNK):
        turns = _turns(vectors, frequencies, rows, first, num_rows, num_frequencies, INPUTS, CHUNK)
        places = first + tl.arange(0, CHUNK)
        at = weight + channels[None, :] * (2 * num_frequencies) + places[:, None]
        inside = places[:, None] < num_frequencies
        total += _product(_sine(turns + 0.25), tl.load(at, mask=inside, other=0).to(tl.float32), PRECISION)
        total += _product(_sine(turns), tl.load(at + num_frequencies, mask=inside, other=0).to(tl.float32), PRECISION)
    of_edges = (rows // num_graphs)[:, None] * CHANNELS + channels[None, :]
    mask = (rows < num_rows)[:, None]
    total += tl.load(bias + channels).to(tl.float32)[None, :] + tl.load(added + of_edges, mask=mask, other=0).to(tl.float32)
    tl.store(out + rows[:, None] * CHANNELS + channels[None, :], total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def gradient_of_weight(
    vectors, frequencies, grad, partials, num_rows, num_frequencies,
    INPUTS: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Σ [cos, sin]ᵀ grad at one chunk of frequencies, over every so manyth tile, ``[programs, 2 frequencies, channels]``."""
    channels, first = tl.arange(0, CHANNELS), tl.program_id(1) * CHUNK
    of_cos, of_sin = tl.zeros((CHUNK, CHANNELS), tl.float32), tl.zeros((CHUNK, CHANNELS), tl.float32)
    for start in tl.range(tl.program_id(0) * ROWS, num_rows, tl.num_programs(0) * ROWS):
        rows = (start + tl.arange(0, ROWS)).to(tl.int64)
        turns = _turns(vectors, frequencies, rows, first, num_rows, num_frequencies, INPUTS, CHUNK)
        at = grad + rows[:, None] * CHANNELS + channels[None, :]
        grads = tl.load(at, mask=(rows < num_rows)[:, None], other=0).to(tl.float32)
        of_cos += _product(tl.trans(_sine(turns + 0.25)), grads, PRECISION)
        of_sin += _product(tl.trans(_sine(turns)), grads, PRECISION)
    places = first + tl.arange(0, CHUNK)
    out = partials + (tl.program_id(0) * 2 * num_frequencies + places[:, None]) * CHANNELS + channels[None, :]
    inside = places[:, None] < num_frequencies
    tl.store(out, of_cos, mask=inside)
    tl.store(out + num_frequencies * CHANNELS, of_sin, mask=inside)
