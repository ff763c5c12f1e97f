"""The Triton side of `ngbench.zoo.convolution`; imported where its kernels run, since Triton is not everywhere.

A row is a place of an image, and rows count through ``[images, height, width]`` of one network. The inner axis of a product goes
through the taps of the kernel and, within a tap, through channels.
"""

from __future__ import annotations

import triton
import triton.language as tl

LARGEST = tl.constexpr(7.90531110763549805)
"""Of larger numbers `_tanh` is one in float32."""
SMALLEST = tl.constexpr(2.0**-126)
"""What a unit that stays gives in place of 0, so that 0 says dropped."""


@triton.jit
def _mixed(bits):
    """MurmurHash3's 32-bit finaliser, as in `ngbench.zoo.dropout`."""
    bits = bits.to(tl.uint32, bitcast=True)
    bits = (bits ^ (bits >> 16)) * 0x85EBCA6B
    bits = (bits ^ (bits >> 13)) * 0xC2B2AE35
    return bits ^ (bits >> 16)


@triton.jit
def _factors(thresholds, scales, keys, step, network, positions, key_stride, step_stride):
    """By what dropout multiplies the units at positions of a network: 0 or the network's scale."""
    key = tl.load(keys + network * key_stride + tl.load(step) * step_stride)
    halves = (_mixed((positions >> 1) + key) >> ((positions & 1) * 16).to(tl.uint32)) & 0xFFFF
    # the halves are signed numbers of 16 bits
    signed = (halves.to(tl.int32) ^ 0x8000) - 0x8000
    return tl.where(signed >= tl.load(thresholds + network).to(tl.int32), tl.load(scales + network), 0.0)


@triton.jit
def _tanh(values):
    """Eigen's rational approximation (`generic_fast_tanh_float`), which keeps the digits of small numbers."""
    # a NaN compares false and stays
    values = tl.where(tl.abs(values) > LARGEST, tl.where(values > 0, LARGEST, -LARGEST), values)
    square = values * values
    above = 2.00018790482477e-13 - 2.76076847742355e-16 * square
    above = -8.60467152213735e-11 + above * square
    above = 5.12229709037114e-08 + above * square
    above = 1.48572235717979e-05 + above * square
    above = 6.37261928875436e-04 + above * square
    above = 4.89352455891786e-03 + above * square
    below = 1.18534705686654e-04 + 1.19825839466702e-06 * square
    below = 2.26843463243900e-03 + below * square
    below = 4.89352518554385e-03 + below * square
    return values * above / below


@triton.jit
def _activated(values, ACTIVATION: tl.constexpr):
    """Of values; a NaN stays one."""
    if ACTIVATION == "relu":
        values = tl.where(values <= 0, 0.0, values)
    elif ACTIVATION == "leaky_relu":
        values = tl.where(values <= 0, 0.01 * values, values)
    elif ACTIVATION == "tanh":
        values = _tanh(values)
    elif ACTIVATION == "sigmoid":
        values = 1 / (1 + tl.exp(-values))
    return values


@triton.jit
def _before_activation(grads, values, scale, ACTIVATION: tl.constexpr, DROPS: tl.constexpr):
    """Gradients before activation and dropout, from those after them and from what they gave."""
    if DROPS:
        grads = tl.where(values == 0, 0.0, grads * scale)
        values = values * (1 / scale)
    if ACTIVATION == "relu":
        grads = tl.where(values <= 0, 0.0, grads)
    elif ACTIVATION == "leaky_relu":
        grads = tl.where(values <= 0, 0.01 * grads, grads)
    elif ACTIVATION == "tanh":
        grads = grads * (1 - values * values)
    elif ACTIVATION == "sigmoid":
        grads = grads * values * (1 - values)
    return grads


@triton.jit
def _patches(
    hidden, rows, numbers, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, SOURCES: tl.constexpr, OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr, KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr, STRIDE_DOWN: tl.constexpr,
    STRIDE_RIGHT: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr,
):  # fmt: skip
    """What stands under the kernel at some rows of the output, of taps and channels by their `numbers`: ``[rows, numbers]``."""
    image, place = rows // (OUT_HEIGHT * OUT_WIDTH), rows % (OUT_HEIGHT * OUT_WIDTH)
    down, right = place // OUT_WIDTH * STRIDE_DOWN - TOP, place % OUT_WIDTH * STRIDE_RIGHT - LEFT
    tap, source = numbers // SOURCES, numbers % SOURCES
    tap_down, tap_right = tap // KERNEL_WIDTH, tap % KERNEL_WIDTH
    mask = (tap < KERNEL_HEIGHT * KERNEL_WIDTH)[None, :]
    if TOP > 0 or LEFT > 0:
        high, wide = down[:, None] + tap_down[None, :], right[:, None] + tap_right[None, :]
        mask = mask & (high >= 0) & (high < HEIGHT) & (wide >= 0) & (wide < WIDTH)
    starts = ((image * HEIGHT + down) * WIDTH + right) * SOURCES
    offsets = (tap_down * WIDTH + tap_right) * SOURCES + source
    return tl.load(hidden + starts[:, None] + offsets[None, :], mask=mask, other=0)


@triton.jit
def forward(
    hidden, kernels, biases, out, thresholds, scales, keys, step, hidden_stride, bias_stride, key_stride, step_stride, num_rows,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, SOURCES: tl.constexpr, OUT_HEIGHT: tl.constexpr, OUT_WIDTH: tl.constexpr,
    TARGETS: tl.constexpr, KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr, STRIDE_DOWN: tl.constexpr,
    STRIDE_RIGHT: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, ACTIVATION: tl.constexpr, DROPS: tl.constexpr,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of rows of a network: out = dropout(activation(patches kernels + bias)); `kernels` ``[networks, taps · S, T]``."""
    size: tl.constexpr = KERNEL_HEIGHT * KERNEL_WIDTH * SOURCES
    network = tl.program_id(1).to(tl.int64)
    rows, columns = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in tl.range(0, size, CHUNK):
        numbers = first + tl.arange(0, CHUNK)
        patches = _patches(
            hidden + network * hidden_stride, tl.minimum(rows, num_rows - 1), numbers, HEIGHT, WIDTH, SOURCES, OUT_HEIGHT,
            OUT_WIDTH, KERNEL_HEIGHT, KERNEL_WIDTH, STRIDE_DOWN, STRIDE_RIGHT, TOP, LEFT,
        )  # fmt: skip
        at = kernels + network * (size * TARGETS) + numbers[:, None] * TARGETS + columns[None, :]
        weights = tl.load(at, mask=(numbers < size)[:, None] & (columns < TARGETS)[None, :], other=0)
        total = tl.dot(patches, weights, total, input_precision=PRECISION)
    total += tl.load(biases + network * bias_stride + columns, mask=columns < TARGETS, other=0)[None, :]
    total = _activated(total, ACTIVATION)
    positions = rows[:, None] * TARGETS + columns[None, :]
    if DROPS:
        # the gradient of relu is 0 where it gives 0, dropped or not
        if ACTIVATION != "relu":
            total = tl.where(total == 0, SMALLEST, total)
        total *= _factors(thresholds, scales, keys, step, network, positions, key_stride, step_stride)
    mask = (rows < num_rows)[:, None] & (columns < TARGETS)[None, :]
    tl.store(out + network * num_rows * TARGETS + positions, total, mask=mask)


@triton.jit
def gradients_of_weights(
    hidden, grads, out, grads_before, partials, scales, hidden_stride, num_rows, rows_a_part,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, SOURCES: tl.constexpr, OUT_HEIGHT: tl.constexpr, OUT_WIDTH: tl.constexpr,
    TARGETS: tl.constexpr, KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr, STRIDE_DOWN: tl.constexpr,
    STRIDE_RIGHT: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, ACTIVATION: tl.constexpr, DROPS: tl.constexpr,
    WRITES: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One chunk of the kernel over one part of the rows of one network: gradientsᵀ patches, ``[COLUMNS, CHUNK]``.

    After the last tap comes a one, for the gradient of the bias. The first chunk also writes the gradients before the activation.
    """
    size: tl.constexpr = KERNEL_HEIGHT * KERNEL_WIDTH * SOURCES
    network, part = tl.program_id(2).to(tl.int64), tl.program_id(1)
    numbers, columns = tl.arange(0, CHUNK), tl.arange(0, COLUMNS)
    # where there is one chunk its numbers are known in advance
    if size >= CHUNK:
        numbers += tl.program_id(0) * CHUNK
    stop = tl.minimum((part + 1) * rows_a_part, num_rows)
    at = network * num_rows * TARGETS
    scale = tl.load(scales + network) if DROPS else 1.0
    total = tl.zeros((COLUMNS, CHUNK), tl.float32)
    for first in tl.range(part * rows_a_part, stop, ROWS):
        rows = first + tl.arange(0, ROWS)
        positions = rows[:, None] * TARGETS + columns[None, :]
        mask = (rows < stop)[:, None] & (columns < TARGETS)[None, :]
        grad = tl.load(grads + at + positions, mask=mask, other=0)
        if ACTIVATION != "none" or DROPS:
            values = tl.load(out + at + positions, mask=mask, other=0)
            grad = _before_activation(grad, values, scale, ACTIVATION, DROPS)
        if WRITES:
            tl.store(grads_before + at + positions, grad, mask=mask & (tl.program_id(0) == 0))
        patches = _patches(
            hidden + network * hidden_stride, tl.minimum(rows, num_rows - 1), numbers, HEIGHT, WIDTH, SOURCES, OUT_HEIGHT,
            OUT_WIDTH, KERNEL_HEIGHT, KERNEL_WIDTH, STRIDE_DOWN, STRIDE_RIGHT, TOP, LEFT,
        )  # fmt: skip
        patches = tl.where((numbers == size)[None, :], 1.0, patches)
        total = tl.dot(tl.trans(grad), patches, total, input_precision=PRECISION)
    width = tl.num_programs(0) * CHUNK
    partials += (network * tl.num_programs(1) + part) * COLUMNS * width
    tl.store(partials + columns[:, None] * width + numbers[None, :], total)


@triton.jit
def sums_of_parts(partials, out, num_parts, num_values, PARTS: tl.constexpr, VALUES: tl.constexpr):
    """Some values of one network, summed over parts; in an order that `Tensor.sum` would choose by the number of networks."""
    network = tl.program_id(1).to(tl.int64)
    parts, values = tl.arange(0, PARTS), tl.program_id(0) * VALUES + tl.arange(0, VALUES)
    mask = (parts < num_parts)[:, None] & (values < num_values)[None, :]
    at = partials + (network * num_parts + parts[:, None]) * num_values + values[None, :]
    tl.store(out + network * num_values + values, tl.sum(tl.load(at, mask=mask, other=0), 0), mask=values < num_values)


@triton.jit
def gradient_of_input(
    grads, kernels, out, num_images,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, SOURCES: tl.constexpr, OUT_HEIGHT: tl.constexpr, OUT_WIDTH: tl.constexpr,
    TARGETS: tl.constexpr, KERNEL_HEIGHT: tl.constexpr, KERNEL_WIDTH: tl.constexpr, STRIDE_DOWN: tl.constexpr,
    STRIDE_RIGHT: tl.constexpr, TOP: tl.constexpr, LEFT: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
    CHUNK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of places of the input of one network; `kernels` ``[networks, taps, targets, sources]``.

    Places that agree modulo the stride see the same taps, every `STRIDE`-th one: `program_id(1)` counts through these classes.
    """
    network = tl.program_id(2).to(tl.int64)
    class_down, class_right = tl.program_id(1) // STRIDE_RIGHT, tl.program_id(1) % STRIDE_RIGHT
    places_down = (HEIGHT - class_down + STRIDE_DOWN - 1) // STRIDE_DOWN
    places_right = (WIDTH - class_right + STRIDE_RIGHT - 1) // STRIDE_RIGHT
    first_down, first_right = (class_down + TOP) % STRIDE_DOWN, (class_right + LEFT) % STRIDE_RIGHT
    taps_down = (KERNEL_HEIGHT - first_down + STRIDE_DOWN - 1) // STRIDE_DOWN
    taps_right = (KERNEL_WIDTH - first_right + STRIDE_RIGHT - 1) // STRIDE_RIGHT
    size = taps_down * taps_right * TARGETS
    rows, columns = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    image, place = rows // (places_down * places_right), rows % (places_down * places_right)
    down, right = place // places_right, place % places_right
    # where the first tap of the class takes its gradient from; later ones are further up and left
    high, wide = down + (class_down + TOP) // STRIDE_DOWN, right + (class_right + LEFT) // STRIDE_RIGHT
    starts = ((image * OUT_HEIGHT + high) * OUT_WIDTH + wide) * TARGETS
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in tl.range(0, size, CHUNK):
        numbers = first + tl.arange(0, CHUNK)
        tap, target = numbers // TARGETS, numbers % TARGETS
        up, left = tap // taps_right, tap % taps_right
        from_down, from_right = high[:, None] - up[None, :], wide[:, None] - left[None, :]
        mask = (image < num_images)[:, None] & (numbers < size)[None, :]
        mask = mask & (from_down >= 0) & (from_down < OUT_HEIGHT) & (from_right >= 0) & (from_right < OUT_WIDTH)
        offsets = target - (up * OUT_WIDTH + left) * TARGETS
        at = grads + network * num_images * (OUT_HEIGHT * OUT_WIDTH * TARGETS) + starts[:, None] + offsets[None, :]
        grad = tl.load(at, mask=mask, other=0)
        tap = (first_down + up * STRIDE_DOWN) * KERNEL_WIDTH + first_right + left * STRIDE_RIGHT
        at = kernels + network * (KERNEL_HEIGHT * KERNEL_WIDTH * TARGETS * SOURCES)
        at += ((tap * TARGETS + target) * SOURCES)[:, None] + columns[None, :]
        weights = tl.load(at, mask=(numbers < size)[:, None] & (columns < SOURCES)[None, :], other=0)
        total = tl.dot(grad, weights, total, input_precision=PRECISION)
    down, right = down * STRIDE_DOWN + class_down, right * STRIDE_RIGHT + class_right
    at = out + network * num_images * (HEIGHT * WIDTH * SOURCES)
    at += (((image * HEIGHT + down) * WIDTH + right) * SOURCES)[:, None] + columns[None, :]
    tl.store(at, total, mask=(image < num_images)[:, None] & (columns < SOURCES)[None, :])
