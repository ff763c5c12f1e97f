"""The programs of the update of pairs, run by Triton's interpreter, against float64 autograd of the same mathematics."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear

pytest.importorskip("triton")

from baselines.kernels.pairs import PairWeights, Tiles, applies, update_pairs

SMALL = Tiles(forward=(64, 1), blocks=(32, 1), pairs=(16, 1), weights=(16, 16, 1), programs=3)


def scramble(x: Tensor) -> Tensor:
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) % 2**32
    return x ^ (x >> 16)


def kept(shape: torch.Size, seed: int, dropout: float) -> Tensor:
    drawn = scramble(torch.arange(shape.numel()) ^ scramble(torch.tensor(seed)))
    return ((drawn >> 1) >= int(torch.tensor(dropout, dtype=torch.float32) * 2**31)).view(shape) / (1 - dropout)


def reference(pairs: Tensor, sources: Tensor, targets: Tensor, *weights: Tensor, dropout: float, seeds: Tensor | None) -> Tensor:
    w = PairWeights(*weights)
    given = [] if seeds is None else seeds.tolist()
    factors = [kept(pairs.shape, seed, dropout).to(pairs) for seed in given] or [torch.ones(()).to(pairs)] * 2
    x = linear(torch.cat([pairs, pairs.transpose(1, 2)], -1), w.inner0) + sources[:, :, None] + targets[:, None]
    y = layer_norm(pairs + factors[0] * linear(gelu(x), w.outer0, w.bias0), pairs.shape[-1:], w.norm0, w.shift0)
    return layer_norm(y + factors[1] * linear(gelu(linear(y, w.inner1)), w.outer1, w.bias1), pairs.shape[-1:], w.norm1, w.shift1)


def draw(*, graphs: int, nodes: int, channels: int, hidden: int, device: str = "cpu") -> list[Tensor]:
    generator = torch.Generator().manual_seed(graphs * nodes)
    block = [(channels, hidden), *[(channels,)] * 3]
    shapes = [(graphs, nodes, nodes, channels), *[(graphs, nodes, hidden)] * 2, (hidden, 2 * channels), *block]
    shapes += [(hidden, channels), *block]
    tensors = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
    return [(tensor / tensor.shape[-1] ** 0.5 if tensor.ndim == 2 else tensor).requires_grad_() for tensor in tensors]


def results(function, tensors: list[Tensor]) -> list[Tensor]:
    """The output and the gradient of a weighted sum of it with respect to every tensor."""
    out = function(*tensors)
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).mul(50).cos().view(out.shape).to(out)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), tensors)]


def compare(tensors: list[Tensor], *, dropout: float, seeds: Tensor | None, atol: float, **options) -> None:
    def ours(pairs: Tensor, sources: Tensor, targets: Tensor, *weights: Tensor) -> Tensor:
        return update_pairs(pairs, sources, targets, PairWeights(*weights), dropout=dropout, seeds=seeds, **options)

    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    theirs = results(lambda *given: reference(*given, dropout=dropout, seeds=seeds), exact)
    for got, expected in zip(results(ours, tensors), theirs, strict=True):
        assert (got.double() - expected).abs().max() < atol * expected.abs().max()


@pytest.mark.parametrize(
    ("graphs", "nodes", "channels", "hidden", "dropout"), [(2, 7, 16, 32, 0.3), (1, 17, 32, 64, 0.0), (2, 3, 64, 32, 0.5)]
)
def test_the_new_pairs_and_every_gradient_are_those_of_the_formula(graphs, nodes, channels, hidden, dropout):
    tensors = draw(graphs=graphs, nodes=nodes, channels=channels, hidden=hidden)
    seeds = torch.tensor([5, 2**31 - 3]) if dropout else None
    assert applies(tensors[0], tensors[1])
    compare(tensors, dropout=dropout, seeds=seeds, precision="ieee", tiles=SMALL, atol=1e-5)


@pytest.mark.parametrize("programs", [1, 100])
def test_nothing_is_read_that_was_not_written_with_fewer_programs_than_tiles_or_more(programs, poisoned_memory):
    assert torch.empty(1).isnan()
    tensors = draw(graphs=2, nodes=5, channels=16, hidden=64)
    tiles = replace(SMALL, programs=programs)
    compare(tensors, dropout=0.3, seeds=torch.tensor([5, 6]), precision="ieee", tiles=tiles, atol=1e-5)
    compare(tensors, dropout=0.0, seeds=None, precision="ieee", tiles=tiles, atol=1e-5)


def test_pairs_in_bfloat16_give_results_in_bfloat16():
    tensors = [tensor.detach() for tensor in draw(graphs=1, nodes=5, channels=16, hidden=32)]
    pairs, sources, targets = (tensor.bfloat16() for tensor in tensors[:3])
    out = update_pairs(pairs, sources, targets, PairWeights(*tensors[3:]), tiles=SMALL)
    exact = [tensor.double() for tensor in (pairs, sources, targets, *tensors[3:])]
    expected = reference(*exact, dropout=0.0, seeds=None)
    assert out.dtype == torch.bfloat16
    assert (out.double() - expected).abs().max() < 2e-2 * expected.abs().max()


def test_another_seed_drops_something_else_and_the_same_share():
    pairs, sources, targets, *weights = (tensor.detach() for tensor in draw(graphs=1, nodes=13, channels=16, hidden=32))
    outs = [
        update_pairs(pairs, sources, targets, PairWeights(*weights), dropout=0.25, seeds=torch.tensor(seeds), tiles=SMALL)
        for seeds in ([1, 2], [1, 2], [3, 2], [1, 4])
    ]
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
    assert not torch.equal(outs[0], outs[3])
    shares = [(kept(torch.Size([2**16]), seed, 0.25) > 0).double().mean() for seed in (1, 2, 3)]
    assert all(abs(share - 0.75) < 0.01 for share in shares)


@pytest.mark.parametrize(("channels", "hidden", "dtype"), [(24, 64, "float32"), (16, 40, "float32"), (16, 32, "float64")])
def test_other_sizes_and_formats_are_left_to_the_plain_path(channels, hidden, dtype):
    assert not applies(torch.zeros(1, 3, 3, channels, dtype=getattr(torch, dtype)), torch.zeros(1, 3, hidden))


def test_pairs_in_float64_stay_so_under_autocast_too():
    with torch.autocast("cpu", torch.bfloat16):
        assert applies(torch.zeros(1, 3, 3, 16), torch.zeros(1, 3, 32))
        assert not applies(torch.zeros(1, 3, 3, 16, dtype=torch.float64), torch.zeros(1, 3, 32))


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "atol"), [("tf32", 1e-2), ("bf16", 1e-1)])
@pytest.mark.parametrize(("nodes", "channels", "hidden", "dropout"), [(67, 32, 64, 0.2), (59, 64, 128, 0.0)])
def test_on_a_gpu_too(nodes, channels, hidden, dropout, precision, atol):
    tensors = draw(graphs=3, nodes=nodes, channels=channels, hidden=hidden, device="cuda")
    seeds = torch.tensor([5, 2**31 - 3], device="cuda") if dropout else None
    compare(tensors, dropout=dropout, seeds=seeds, precision=precision, atol=atol)


@pytest.mark.gpu
def test_a_captured_run_reads_the_seeds_anew(on_side_stream):
    tensors = draw(graphs=3, nodes=67, channels=32, hidden=64, device="cuda")
    seeds, graph = torch.tensor([5, 6], device="cuda"), torch.cuda.CUDAGraph()

    def run() -> list[Tensor]:
        out = update_pairs(*tensors[:3], PairWeights(*tensors[3:]), dropout=0.2, seeds=seeds)
        # a graph of gradients that lives on would tie the captured run to this stream
        return [out.detach(), *torch.autograd.grad(out, tensors, torch.ones_like(out))]

    first = on_side_stream(run)
    with torch.cuda.graph(graph):
        captured = run()
    for value in (5, 7):
        seeds[0] = value
        graph.replay()
        assert all(torch.equal(a, b) for a, b in zip(run(), captured, strict=True))
    assert not torch.equal(first[0], captured[0])
