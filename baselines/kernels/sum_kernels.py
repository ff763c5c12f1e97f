"""The Triton side of `baselines.kernels.sums`; imported where its kernels run, since Triton is not everywhere."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sums_of_columns(rows, out, num_rows, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Of some columns every so many tiles of rows: one row of sums of each program, ``[programs, channels]``."""
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for first in tl.range(tl.program_id(0) * ROWS, num_rows, tl.num_programs(0) * ROWS, num_stages=1):
        row = first + tl.arange(0, ROWS)
        mask = (row < num_rows)[:, None] & (column < channels)[None, :]
        total += tl.load(rows + row.to(tl.int64)[:, None] * channels + column[None, :], mask=mask, other=0).to(tl.float32)
    at = out + tl.program_id(0) * channels + column
    tl.store(at, tl.sum(total, 0).to(out.dtype.element_ty), mask=column < channels)
