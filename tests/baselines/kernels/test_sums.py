"""Sums of columns against float64: in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from baselines.kernels import sums
from baselines.kernels.sums import column_sums, sum_of_parts

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize(("num_rows", "channels"), [(70, 5), (8200, 66), (64, 130)])
def test_the_sums_are_those_in_float64(num_rows, channels, monkeypatch):
    monkeypatch.setattr(sums, "LEAST_ROWS", 1)
    rows = torch.randn(num_rows, channels, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    found = column_sums(rows)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), rows.double().sum(0), atol=1e-4)
    assert not torch.allclose(found.double(), rows[1:].double().sum(0), atol=1e-4)


def test_rows_in_bfloat16_are_summed_in_float32():
    rows = torch.full((1024 + 1, 3), 1.0, dtype=torch.bfloat16, device=DEVICE)
    assert column_sums(rows).tolist() == [1024.0] * 3


def test_few_rows_and_other_formats_are_left_to_torch():
    for rows in (torch.ones(7, 4, device=DEVICE), torch.ones(2000, 4, dtype=torch.float64, device=DEVICE).T):
        assert torch.equal(column_sums(rows), rows.sum(0))


@pytest.mark.parametrize("shape", [(70, 3, 5, 7), (16, 129), (3, 200)])
def test_the_sums_of_parts_are_those_in_float64(shape):
    parts = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    found = sum_of_parts(parts)
    assert found.shape == parts.shape[1:]
    assert torch.allclose(found.double(), parts.double().sum(0), atol=1e-5)
