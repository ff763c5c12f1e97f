"""Fourier features and the layer that reads them against the formula in float64: interpreted where there is no GPU."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

pytest.importorskip("triton")

from baselines.kernels.fourier import fourier_linear

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def errors(*, precision: str, edges: int = 5, graphs: int = 3, inputs: int = 2, frequencies: int = 9, channels: int = 16):
    """The largest error of the result and of each gradient, by the largest number of each."""
    torch.manual_seed(edges)
    vectors, b = torch.randn(edges, graphs, inputs, device=DEVICE), torch.randn(frequencies, inputs, device=DEVICE) * 3
    layer, added = nn.Linear(2 * frequencies, channels, device=DEVICE), torch.randn(edges, channels, device=DEVICE)
    weights, found = torch.randn(edges, graphs, channels, device=DEVICE), []
    for dtype in (torch.float32, torch.float64):
        layer, given = layer.to(dtype), added.to(dtype).requires_grad_()
        if dtype == torch.float32:
            out = fourier_linear(vectors, b, layer, given, dtype=dtype, precision=precision)
        else:
            angles = 2 * math.pi * vectors.double() @ b.double().T
            out = layer(torch.cat([angles.cos(), angles.sin()], -1)) + given.unsqueeze(1)
        grads = torch.autograd.grad((out * weights.to(dtype)).sum(), [layer.weight, layer.bias, given])
        found.append([out.detach(), *grads])
    return [((ours.double() - theirs).abs().max() / theirs.abs().max()).item() for ours, theirs in zip(*found, strict=True)]


@pytest.mark.parametrize(("inputs", "frequencies", "channels"), [(2, 9, 16), (1, 33, 32)])
def test_the_result_and_the_gradients_are_those_of_the_formula(inputs, frequencies, channels):
    assert max(errors(precision="ieee", inputs=inputs, frequencies=frequencies, channels=channels)) < 2e-5


def test_products_in_bfloat16_stay_near_and_differ():
    assert 1e-5 < max(errors(precision="bf16")) < 0.03


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "largest"), [("tf32x3", 1e-4), ("bf16", 0.03)])
@pytest.mark.parametrize("channels", [16, 32, 64])
def test_on_a_gpu_too(channels, precision, largest):
    found = errors(precision=precision, edges=301, graphs=7, inputs=1, frequencies=128, channels=channels)
    assert max(found) < largest, found
