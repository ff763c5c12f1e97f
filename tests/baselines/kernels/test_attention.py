"""The attention's programs, run by Triton's interpreter, against float64 autograd of the same mathematics; on a GPU likewise."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from baselines.kernels.attention import TILES, Tiles, applies, relational_attention

SMALL = Tiles(nodes=4, forward=(16, 1), backward_nodes=(16, 1), backward_pairs=(32, 1))


def reference(pairs: Tensor, queries: Tensor, keys: Tensor, values: Tensor, weight: Tensor, heads: int, mask: Tensor | None):
    split = (*queries.shape[:2], heads, -1)
    query, key, value = queries.view(split), keys.view(split), values.view(split)
    width = query.shape[-1]
    query_pair, key_pair, shift, scale = (pairs @ weight.T).view(*pairs.shape[:3], heads, 4, width).unbind(-2)
    logits = ((query[:, :, None] + query_pair) * (key[:, None] + key_pair)).sum(-1) / queries.shape[-1] ** 0.5
    if mask is not None:
        logits = logits.masked_fill(~mask[:, None, :, None], float("-inf"))
    return (logits.softmax(2)[..., None] * (value[:, None] * scale + shift)).sum(2).flatten(2)


def draw(*, graphs: int, nodes: int, channels: int, heads: int, width: int, device: str = "cpu") -> list[Tensor]:
    generator = torch.Generator().manual_seed(graphs * nodes)
    attention = heads * width
    shapes = [(graphs, nodes, nodes, channels), *[(graphs, nodes, attention)] * 3, (4 * attention, channels)]
    *tensors, weight = (torch.randn(shape, generator=generator) for shape in shapes)
    return [tensor.to(device).requires_grad_() for tensor in (*tensors, weight / channels**0.5)]


def results(function, tensors: list[Tensor]) -> list[Tensor]:
    """The output and the gradient of a weighted sum of it with respect to every tensor."""
    out = function(*tensors)
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).cos().view(out.shape).to(out)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), tensors)]


def compare(tensors: list[Tensor], heads: int, mask: Tensor | None, *, atol: float, **options) -> None:
    ours = results(lambda *given: relational_attention(*given, heads=heads, mask=mask, **options), tensors)
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    theirs = results(lambda *given: reference(*given, heads, mask), exact)
    for got, expected in zip(ours, theirs, strict=True):
        assert (got.double() - expected).abs().max() < atol * expected.abs().max()


@pytest.mark.parametrize(
    ("graphs", "nodes", "channels", "heads", "width", "masked"),
    [(2, 7, 16, 3, 16, False), (2, 19, 32, 1, 16, True), (1, 18, 64, 1, 32, False)],
)
def test_the_output_and_every_gradient_are_those_of_the_formula(graphs, nodes, channels, heads, width, masked):
    tensors = draw(graphs=graphs, nodes=nodes, channels=channels, heads=heads, width=width)
    mask = torch.arange(nodes) < torch.tensor([[nodes], [nodes - 5]]) if masked else None
    assert applies(tensors[0], tensors[1], heads=heads)
    compare(tensors, heads, mask, precision="ieee", tiles=SMALL, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("most_programs", [1, 1000])
def test_nothing_is_read_that_was_not_written(most_programs, poisoned_memory):
    tensors = draw(graphs=2, nodes=21, channels=16, heads=2, width=16)
    mask = torch.arange(21) < torch.tensor([[3], [18]])
    compare(tensors, 2, mask, precision="ieee", tiles=replace(SMALL, most_programs=most_programs), atol=1e-5)


@pytest.mark.parametrize(("nodes", "masked"), [(19, False), (18, True)])
def test_gradients_with_attended_nodes_across_are_those_of_the_formula(nodes, masked):
    tensors = draw(graphs=2, nodes=nodes, channels=32, heads=2, width=16)
    mask = torch.arange(nodes) < torch.tensor([[nodes], [nodes - 7]]) if masked else None
    tiles = replace(SMALL, backward_nodes=(16, 1), across=True, most_programs=20)
    compare(tensors, 2, mask, precision="ieee", tiles=tiles, atol=1e-5)


def test_pairs_in_bfloat16_give_results_in_bfloat16_and_gradients_in_the_dtype_of_each_tensor():
    *tensors, weight = (tensor.detach() for tensor in draw(graphs=1, nodes=5, channels=16, heads=2, width=16))
    tensors = [tensor.bfloat16().requires_grad_() for tensor in tensors] + [weight.requires_grad_()]
    ours = results(lambda *given: relational_attention(*given, heads=2, tiles=SMALL), tensors)
    assert [tensor.dtype for tensor in ours] == [torch.bfloat16] * 5 + [torch.float32]
    compare(tensors, 2, None, tiles=SMALL, atol=3e-2)


def test_under_autocast_pairs_in_float32_are_taken_as_bfloat16():
    tensors = [tensor.detach() for tensor in draw(graphs=1, nodes=3, channels=16, heads=2, width=16)]
    rounded = [tensor.bfloat16() for tensor in tensors[:4]]
    with torch.autocast("cpu", torch.bfloat16):
        out = relational_attention(*tensors, heads=2, tiles=SMALL)
    assert torch.equal(out, relational_attention(*rounded, tensors[4], heads=2, tiles=SMALL))


@pytest.mark.parametrize(("channels", "attention", "dtype"), [(24, 32, "float32"), (16, 40, "float32"), (16, 32, "float64")])
def test_other_sizes_and_formats_are_left_to_the_plain_path(channels, attention, dtype):
    pairs = torch.zeros(1, 3, 3, channels, dtype=getattr(torch, dtype))
    assert not applies(pairs, torch.zeros(1, 3, attention), heads=2)


def test_pairs_in_float64_stay_so_under_autocast_too():
    with torch.autocast("cpu", torch.bfloat16):
        assert applies(torch.zeros(1, 3, 3, 16), torch.zeros(1, 3, 32), heads=2)
        assert not applies(torch.zeros(1, 3, 3, 16, dtype=torch.float64), torch.zeros(1, 3, 32), heads=2)


def test_triton_is_not_loaded_before_it_is_needed():
    code = "import sys, baselines.kernels.attention, baselines.kernels.pairs; assert 'triton.language' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "atol"), [("tf32", 1e-2), ("bf16", 1e-1)])
@pytest.mark.parametrize(("nodes", "channels", "width", "masked"), [(67, 32, 16, False), (59, 64, 32, True)])
def test_on_a_gpu_too(nodes, channels, width, masked, precision, atol):
    tensors = draw(graphs=3, nodes=nodes, channels=channels, heads=8, width=width, device="cuda")
    mask = torch.arange(nodes, device="cuda") < torch.tensor([[nodes], [nodes - 5], [1]], device="cuda") if masked else None
    compare(tensors, 8, mask, precision=precision, atol=atol)


@pytest.mark.gpu
@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize(("precision", "atol"), [("tf32x3", 1e-4), ("bf16", 1e-1)])
def test_gradients_of_nodes_both_ways_on_a_gpu(across, precision, atol):
    tensors = draw(graphs=3, nodes=67, channels=32, heads=8, width=16, device="cuda")
    tiles = replace(TILES[32], backward_nodes=(16, 1) if across else (32, 2), across=across)
    compare(tensors, 8, None, precision=precision, tiles=tiles, atol=atol)


@pytest.mark.gpu
def test_two_runs_and_a_captured_one_give_the_same_bits(on_side_stream):
    tensors = draw(graphs=3, nodes=67, channels=32, heads=8, width=16, device="cuda")
    grad = torch.ones_like(tensors[1])

    def run() -> list[Tensor]:
        out = relational_attention(*tensors, heads=8)
        # a graph of gradients that lives on would tie the captured run to this stream
        return [out.detach(), *torch.autograd.grad(out, tensors, grad)]

    first, graph = on_side_stream(run), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    graph.replay()
    for again in (run(), captured):
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
