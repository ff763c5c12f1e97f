"""Relational attention and the update of pairs against loops over single pairs, with masks, dropout and chunks."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch.nn import functional

from baselines.kernels.pairs import PairWeights
from baselines.reading import relational_attention as module
from baselines.reading.relational_attention import keep_at_random, relational_attention, update_pairs

GRAPHS, NODES, CHANNELS, HEADS, WIDTH, HIDDEN = 3, 5, 7, 2, 4, 11


@dataclass
class Operands:
    """What both operations are given."""

    pairs: torch.Tensor
    nodes: list[torch.Tensor]
    weight: torch.Tensor
    ends: list[torch.Tensor]
    weights: PairWeights

    @property
    def of_attention(self):
        return [self.pairs, *self.nodes, self.weight]

    @property
    def of_update(self):
        return [self.pairs, *self.ends, *self.weights]


def operands(*, graphs=GRAPHS, nodes=NODES, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return (torch.randn(shape, generator=generator, dtype=torch.float64) / 2).to(dtype).requires_grad_()

    blocks = [
        (drawn(HIDDEN, (2 - i) * CHANNELS), drawn(CHANNELS, HIDDEN), *(drawn(CHANNELS) for _ in range(3))) for i in range(2)
    ]
    return Operands(
        pairs=drawn(graphs, nodes, nodes, CHANNELS),
        nodes=[drawn(graphs, nodes, HEADS * WIDTH) for _ in range(3)],
        weight=drawn(HEADS * 4 * WIDTH, CHANNELS),
        ends=[drawn(graphs, nodes, HIDDEN) for _ in range(2)],
        weights=PairWeights(*blocks[0], *blocks[1]),
    )


def attention_by_loops(pairs, queries, keys, values, weight):
    """Of one graph, pair by pair."""
    num_nodes = len(pairs)
    rows = []
    for i in range(num_nodes):
        of_heads = []
        for head in range(HEADS):
            of_query, of_key, of_shift, of_scale = weight[head * 4 * WIDTH : (head + 1) * 4 * WIDTH].chunk(4)
            mine = slice(head * WIDTH, (head + 1) * WIDTH)
            logits, taken = [], []
            for j in range(num_nodes):
                e = pairs[i, j]
                logits.append((queries[i, mine] + of_query @ e) @ (keys[j, mine] + of_key @ e) / math.sqrt(HEADS * WIDTH))
                taken.append(values[j, mine] * (of_scale @ e) + of_shift @ e)
            shares = torch.stack(logits).exp()
            of_heads.append(sum(share * one for share, one in zip(shares / shares.sum(), taken, strict=True)))
        rows.append(torch.cat(of_heads))
    return torch.stack(rows)


def update_by_loops(pairs, sources, targets, weights, kept=None):
    """Of one graph, pair by pair; kept are factors ``[2, nodes, nodes, channels]``."""

    def norm(vector, weight, shift):
        centred = vector - vector.mean()
        return centred / (centred.square().mean() + 1e-5).sqrt() * weight + shift

    def gelu(vector):
        return vector * (1 + torch.erf(vector / math.sqrt(2))) / 2

    rows = []
    for i in range(len(pairs)):
        row = []
        for j in range(len(pairs)):
            factors = (1.0, 1.0) if kept is None else kept[:, i, j]
            hidden = weights.inner0 @ torch.cat([pairs[i, j], pairs[j, i]]) + sources[i] + targets[j]
            change = weights.outer0 @ gelu(hidden) + weights.bias0
            first = norm(pairs[i, j] + change * factors[0], weights.norm0, weights.shift0)
            change = weights.outer1 @ gelu(weights.inner1 @ first) + weights.bias1
            row.append(norm(first + change * factors[1], weights.norm1, weights.shift1))
        rows.append(torch.stack(row))
    return torch.stack(rows)


def assert_alike(found, expected, inputs, *, atol=1e-11, rtol=0.0):
    """Two results and all their gradients."""
    torch.testing.assert_close(found, expected, atol=atol, rtol=rtol)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(found.dtype)
    grads = [torch.autograd.grad((result * weights).sum(), inputs, retain_graph=True) for result in (found, expected)]
    for number, (mine, reference) in enumerate(zip(*grads, strict=True)):
        assert mine.abs().max() > 0, number
        torch.testing.assert_close(mine, reference, atol=atol, rtol=rtol)


def test_attention_and_its_gradients_are_those_of_loops_over_pairs():
    given = operands()
    found = relational_attention(*given.of_attention, heads=HEADS)
    expected = [
        attention_by_loops(*(tensor[graph] for tensor in given.of_attention[:4]), given.weight) for graph in range(GRAPHS)
    ]
    assert_alike(found, torch.stack(expected), given.of_attention)


def test_an_update_and_its_gradients_are_those_of_loops_over_pairs():
    given = operands(seed=1)
    found = update_pairs(given.pairs, *given.ends, given.weights)
    expected = [
        update_by_loops(given.pairs[graph], *(end[graph] for end in given.ends), given.weights) for graph in range(GRAPHS)
    ]
    assert_alike(found, torch.stack(expected), given.of_update)


def test_what_is_dropped_from_an_update_is_made_up_for():
    given = operands(seed=2)
    kept = torch.rand((2, *given.pairs.shape), generator=torch.Generator().manual_seed(3)) < 0.75
    found = update_pairs(given.pairs, *given.ends, given.weights, kept=kept, dropout=0.25)
    factors = kept.double() / 0.75
    expected = [
        update_by_loops(given.pairs[graph], *(end[graph] for end in given.ends), given.weights, factors[:, graph])
        for graph in range(GRAPHS)
    ]
    assert_alike(found, torch.stack(expected), given.of_update)


def test_the_share_that_is_dropped_is_as_asked_for():
    torch.manual_seed(0)
    kept = keep_at_random(torch.zeros(3, 41, 41, 16), 0.3)
    assert kept.shape == (2, 3, 41, 41, 16)
    assert kept.dtype == torch.bool
    assert abs(kept.double().mean() - 0.7) < 0.005
    assert not torch.equal(kept[0], kept[1])


def test_nodes_outside_the_mask_have_no_effect():
    given, padding = operands(seed=4), 4
    mask = torch.arange(NODES + padding).expand(GRAPHS, -1) < NODES
    padded = [functional.pad(given.pairs, (0, 0, 0, padding, 0, padding), value=0.5)]
    padded += [functional.pad(tensor, (0, 0, 0, padding), value=0.5) for tensor in given.nodes]
    found = relational_attention(*padded, given.weight, heads=HEADS, mask=mask)[:, :NODES]
    assert_alike(found, relational_attention(*given.of_attention, heads=HEADS), given.of_attention)
    without_mask = relational_attention(*padded, given.weight, heads=HEADS)[:, :NODES]
    assert (without_mask - found).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunks_give_what_all_graphs_give_at_once(dtype, monkeypatch):
    given = operands(graphs=7, nodes=17, dtype=dtype, seed=5)
    kept = keep_at_random(given.pairs, 0.2)
    results = []
    for floats in (2**30, 2 * 17**2 * HEADS * WIDTH, 1):
        monkeypatch.setitem(module.FLOATS_IN_CHUNK, "cpu", floats)
        attended = relational_attention(*given.of_attention, heads=HEADS, mask=torch.arange(17).expand(7, -1) < 16)
        updated = update_pairs(given.pairs, *given.ends, given.weights, kept=kept, dropout=0.2)
        grads = torch.autograd.grad(attended.square().sum() + updated.square().sum(), [*given.of_attention, *given.of_update[1:]])
        results.append([attended, updated, *grads])
    for chunked in results[1:]:
        for mine, whole in zip(chunked, results[0], strict=True):
            tolerance = (1e-12 if dtype == torch.float64 else 1e-5) * float(whole.detach().abs().max())
            torch.testing.assert_close(mine, whole, atol=tolerance, rtol=0)


def test_float32_gives_what_float64_gives():
    single, double = (operands(nodes=19, dtype=dtype, seed=6) for dtype in (torch.float32, torch.float64))
    results = []
    for given in (single, double):
        attended = relational_attention(*given.of_attention, heads=HEADS)
        updated = update_pairs(given.pairs, *given.ends, given.weights)
        inputs = [*given.of_attention, *given.of_update[1:]]
        results.append([attended, updated, *torch.autograd.grad(attended.square().sum() + updated.square().sum(), inputs)])
    for mine, exact in zip(*results, strict=True):
        torch.testing.assert_close(mine.double(), exact, atol=2e-5 * float(exact.detach().abs().max()), rtol=0)


def test_under_autocast_products_are_of_bfloat16_and_gradients_of_the_inputs_format():
    given = operands(nodes=19, dtype=torch.float32, seed=7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        attended = relational_attention(*given.of_attention, heads=HEADS)
        updated = update_pairs(given.pairs, *given.ends, given.weights)
    assert attended.dtype == updated.dtype == torch.bfloat16
    exact = [relational_attention(*given.of_attention, heads=HEADS), update_pairs(given.pairs, *given.ends, given.weights)]
    inputs = [*given.of_attention, *given.of_update[1:]]
    found = []
    for results in ([attended, updated], exact):
        loss = sum((result * torch.linspace(-1, 2, result.numel()).view(result.shape)).sum() for result in results)
        found.append([*results, *torch.autograd.grad(loss, inputs)])
    assert {grad.dtype for grad in found[0][2:]} == {torch.float32}
    for mine, reference in zip(*found, strict=True):
        assert (mine.float() - reference).norm() < 0.05 * reference.norm()


def test_permuted_nodes_give_permuted_results():
    given, order = operands(seed=8), torch.tensor([3, 0, 4, 1, 2])
    moved = given.pairs[:, order][:, :, order]
    attended = relational_attention(*given.of_attention, heads=HEADS)
    found = relational_attention(moved, *(tensor[:, order] for tensor in given.nodes), given.weight, heads=HEADS)
    torch.testing.assert_close(found, attended[:, order], atol=1e-12, rtol=0)
    updated = update_pairs(given.pairs, *given.ends, given.weights)
    found = update_pairs(moved, *(end[:, order] for end in given.ends), given.weights)
    torch.testing.assert_close(found, updated[:, order][:, :, order], atol=1e-12, rtol=0)
