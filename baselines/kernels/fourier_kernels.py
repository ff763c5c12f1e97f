"""The Triton side of `baselines.kernels.fourier`; imported where its kernels run, since Triton is not everywhere."""

from __future__ import annotations

import math
import os

import triton
import triton.language as tl

TURN = tl.constexpr(2 * math.pi)

HAS_SINE = tl.constexpr(os.environ.get("TRITON_INTERPRET") != "1")
"""Whether the machine has a sine of its own; the interpreter has not."""


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
def _waves(turns, PRECISION: tl.constexpr):
    """Cosine and sine of angles in turns; for products in bfloat16 by instructions that are exact to 20 bits near zero."""
    if PRECISION == "bf16" and HAS_SINE:
        angles = [(turns - tl.floor(turns + 0.5)) * TURN]
        cosine = tl.inline_asm_elementwise("cos.approx.ftz.f32 $0, $1;", "=f,f", angles, tl.float32, is_pure=True, pack=1)
        sine = tl.inline_asm_elementwise("sin.approx.ftz.f32 $0, $1;", "=f,f", angles, tl.float32, is_pure=True, pack=1)
    else:
        cosine, sine = _sine(turns + 0.25), _sine(turns)
    return cosine, sine


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
def _turned(rows, PRECISION: tl.constexpr):
    """Rows as columns, rounded before they pass through shared memory."""
    if PRECISION == "bf16":
        rows = rows.to(tl.bfloat16)
    return tl.trans(rows)


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
        cosine, sine = _waves(turns, PRECISION)
        total += _product(cosine, tl.load(at, mask=inside, other=0).to(tl.float32), PRECISION)
        total += _product(sine, tl.load(at + num_frequencies, mask=inside, other=0).to(tl.float32), PRECISION)
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
        cosine, sine = _waves(turns, PRECISION)
        of_cos += _product(_turned(cosine, PRECISION), grads, PRECISION)
        of_sin += _product(_turned(sine, PRECISION), grads, PRECISION)
    places = first + tl.arange(0, CHUNK)
    out = partials + (tl.program_id(0) * 2 * num_frequencies + places[:, None]) * CHANNELS + channels[None, :]
    inside = places[:, None] < num_frequencies
    tl.store(out, of_cos, mask=inside)
    tl.store(out + num_frequencies * CHANNELS, of_sin, mask=inside)
