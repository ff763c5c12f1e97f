"""Sums over many rows of few numbers, such as the gradients of biases.

Torch has one block of threads for these, which takes 7 to 20 microseconds. Here each of some programs sums every so many rows,
and one more sums what they found, in a fixed order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from baselines.kernels.usable import is_usable

LEAST_ROWS = 1024
"""Rows below which torch's own sum is no slower."""

LEAST_PARTS = 16
"""Parts below which torch's own sum is no slower."""

TILE = 64, 64
"""Rows and columns at once."""

TILE_OF_PARTS = 128, 32
"""The same where one program sums all rows."""


def column_sums(rows: Tensor) -> Tensor:
    """``rows.sum(0)`` of ``[rows, channels]``, summed in float32 where the kernels run."""
    rows = rows.contiguous()
    return _summed(rows) if is_usable(rows) and len(rows) >= LEAST_ROWS else rows.sum(0)


def sum_of_parts(parts: Tensor) -> Tensor:
    """``parts.sum(0)`` of what programs left, ``[programs, ...]`` in float32."""
    if len(parts) < LEAST_PARTS or not is_usable(parts):
        return parts.sum(0)
    rows = parts.flatten(1)
    with torch.cuda.device_of(rows):
        return _added_up(rows, 1, TILE_OF_PARTS, rows.dtype).view(parts.shape[1:])


def _kernels() -> Any:
    from baselines.kernels import sum_kernels

    return sum_kernels


def _summed(rows: Tensor) -> Tensor:
    num_programs = min(TILE_OF_PARTS[0], -(-len(rows) // TILE[0]))
    with torch.cuda.device_of(rows):
        partials = _added_up(rows, num_programs, TILE, torch.float32)
        return _added_up(partials, 1, TILE_OF_PARTS, rows.dtype).flatten()


def _added_up(rows: Tensor, num_programs: int, tile: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """What each program finds, ``[programs, channels]``."""
    num_rows, channels = rows.shape
    out = rows.new_empty(num_programs, channels, dtype=dtype)
    grid = num_programs, -(-channels // tile[1])
    _kernels().sums_of_columns[grid](rows, out, num_rows, channels, ROWS=tile[0], COLUMNS=tile[1])
    return out
