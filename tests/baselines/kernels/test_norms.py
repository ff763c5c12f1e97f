"""The norms against formulas in float64: in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from baselines.kernels.norms import applies_to_graphs, applies_to_rows, graph_norm_silu, sum_norm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(DEVICE)


def plain_graph_norm(nodes, weight, bias):
    centred = nodes - nodes.mean((0, 2), keepdim=True)
    deviation = centred.square().mean((0, 2), keepdim=True).sqrt()
    return functional.silu(centred * (weight / (deviation + 1e-5)) + bias)


def gradients(outputs, weights, given):
    return torch.autograd.grad(sum((out * w).sum() for out, w in zip(outputs, weights, strict=True)), given)


def largest_error(ours, theirs):
    return max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("num_nodes", "num_graphs", "channels"), [(7, 3, 16), (1, 5, 32), (69, 2, 128)])
def test_the_norm_of_a_graph_and_its_gradients_are_those_of_the_formula(num_nodes, num_graphs, channels):
    given = [drawn(num_nodes, num_graphs, channels) * 3 + 1, drawn(channels) + 2, drawn(channels)]
    weights = drawn(num_nodes + 1, num_graphs, channels)[1:]
    found = []
    for dtype, norm in (
        (torch.float32, lambda *x: graph_norm_silu(*x, eps=1e-5, dtype=torch.float32)),
        (torch.float64, plain_graph_norm),
    ):
        tensors = [tensor.to(dtype).requires_grad_() for tensor in given]
        out = norm(*tensors)
        found.append([out.detach(), *gradients([out], [weights.to(dtype)], tensors)])
    assert largest_error(*found) < 1e-5
    assert largest_error([found[0][0]], [functional.silu(found[1][0])]) > 0.01


def test_a_graph_of_equal_numbers_has_no_slope():
    nodes = torch.full((4, 2, 16), 0.5, device=DEVICE, requires_grad=True)
    weight, bias = drawn(16), drawn(16)
    out = graph_norm_silu(nodes, weight, bias, eps=1e-5, dtype=torch.float32)
    assert torch.allclose(out, functional.silu(bias).expand_as(out))
    assert torch.autograd.grad(out.sum(), nodes)[0].isfinite().all()


@pytest.mark.parametrize("read", ["both", "exact", "rounded"])
@pytest.mark.parametrize(("num_rows", "channels"), [((3, 7), 32), ((2, 8), 64), ((1, 1), 16)])
def test_the_norm_of_a_sum_and_its_gradients_are_those_of_torch(num_rows, channels, read):
    norm = nn.LayerNorm(channels, device=DEVICE)
    norm.weight.data, norm.bias.data = drawn(channels), drawn(channels + 1)[1:]
    given, weights = [drawn(*num_rows, channels), drawn(2, *num_rows, channels)[1]], drawn(3, *num_rows, channels)
    chosen = {"both": slice(0, 2), "exact": slice(0, 1), "rounded": slice(1, 2)}[read]
    tensors = [tensor.requires_grad_() for tensor in given]
    outs = sum_norm(*tensors, norm, dtype=torch.float32)
    ours = [*outs, *gradients(outs[chosen], weights[chosen], [*tensors, norm.weight, norm.bias])]
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    norm.double()
    out = norm(exact[0] + exact[1])
    theirs = [out, out, *gradients((out, out)[chosen], weights.double()[chosen], [*exact, norm.weight, norm.bias])]
    assert largest_error(ours, theirs) < 1e-5


def test_the_second_result_is_rounded_and_gradients_have_the_formats_of_what_was_given():
    norm, rows = nn.LayerNorm(16, device=DEVICE), drawn(5, 16).requires_grad_()
    changes = drawn(6, 16)[1:].bfloat16().requires_grad_()
    out, rounded = sum_norm(rows, changes, norm, dtype=torch.bfloat16)
    assert (out.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)
    assert torch.allclose(out, rounded.float(), rtol=1 / 128)
    grads = torch.autograd.grad(out.square().sum() + rounded.float().sum(), [rows, changes])
    assert [grad.dtype for grad in grads] == [torch.float32, torch.bfloat16]


def test_other_sizes_and_formats_are_left_to_the_plain_path():
    assert applies_to_graphs(drawn(5, 2, 32))
    assert not applies_to_graphs(drawn(5, 2, 24))
    assert not applies_to_graphs(drawn(5, 2, 32).double())
    assert not applies_to_graphs(torch.zeros(4097, 1, 16, device=DEVICE))
    assert not applies_to_rows(drawn(5, 32))
    with torch.autocast(DEVICE, torch.bfloat16):
        assert applies_to_rows(drawn(5, 32))
        assert not applies_to_rows(drawn(5, 24))


@pytest.mark.gpu
@pytest.mark.parametrize(("num_nodes", "num_graphs", "channels"), [(67, 128, 32), (67, 128, 64), (517, 8, 32), (59, 128, 256)])
def test_the_norm_of_a_graph_on_a_gpu_too(num_nodes, num_graphs, channels):
    test_the_norm_of_a_graph_and_its_gradients_are_those_of_the_formula(num_nodes, num_graphs, channels)


@pytest.mark.gpu
@pytest.mark.parametrize("channels", [64, 128])
def test_the_norm_of_a_sum_on_a_gpu_too(channels):
    test_the_norm_of_a_sum_and_its_gradients_are_those_of_torch((128, 67), channels, "both")
