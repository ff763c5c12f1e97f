from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from baselines.reading.message_passing import (
    FLAT_ROWS,
    SMALLEST_VARIANCE,
    Aggregate,
    AggregateOfEdges,
    FlatWiring,
    Linear,
    LinearOfSiLU,
    LinearWithSums,
    SumOfEnds,
    Wiring,
    _copied,
    _in_larger_images,
    on_device,
    product,
    reversal,
)
from ngbench.graph.neural_graph import edge_index
from ngbench.testing import SEVERAL_STRUCTURES, attention_topology, cnn_topology, residual_topology

NUM_GRAPHS, CHANNELS = 3, 2


TOPOLOGIES = {
    "residual": residual_topology(),
    "attention": attention_topology(),
    "equal-degrees": cnn_topology((1, 4, 4), num_classes=5, kernel=(2, 2)),
    **{f"structure-{i}": topology for i, topology in enumerate(SEVERAL_STRUCTURES[1:])},
}


def ends_of_edges(topology, *, reverse_edges):
    """Source and target of each edge from the flat edge table, an independent path."""
    source, target = edge_index(topology)
    if not reverse_edges:
        return source, target
    blocks, start = [], 0
    for block in topology.blocks:
        num_targets, num_sources, _ = topology.block_shape(block.name)
        stop = start + num_targets * num_sources
        blocks += sorted(range(start, stop), key=lambda edge: (int(source[edge]), int(target[edge])))
        start = stop
    order = torch.tensor(blocks)
    return torch.cat([source, target[order]]), torch.cat([target, source[order]])


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("reverse_edges", [False, True], ids=["forward", "both-ways"])
@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_each_edge_gets_its_own_target_and_source(topology, reverse_edges):
    wiring = Wiring.of(topology, reverse_edges)
    nodes = random(topology.num_nodes, NUM_GRAPHS, 2 * CHANNELS)
    source, target = ends_of_edges(topology, reverse_edges=reverse_edges)
    expected = nodes[target, :, :CHANNELS] + nodes[source, :, CHANNELS:]
    torch.testing.assert_close(SumOfEnds.apply(nodes, wiring), expected)


@pytest.mark.parametrize("reverse_edges", [False, True], ids=["forward", "both-ways"])
@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_each_node_aggregates_all_edges_that_enter_it_and_no_others(topology, reverse_edges):
    wiring = Wiring.of(topology, reverse_edges)
    film, ends = random(wiring.num_edges, NUM_GRAPHS, 2 * CHANNELS), random(wiring.num_edges, NUM_GRAPHS, CHANNELS, seed=1)
    messages = film[..., :CHANNELS] * ends + film[..., CHANNELS:]
    received = Aggregate.apply(film, ends, wiring).unflatten(-1, (4, CHANNELS))
    _, target = ends_of_edges(topology, reverse_edges=reverse_edges)
    for node in range(topology.num_nodes):
        mine = messages[target == node]
        assert len(mine) == wiring.degree[node]
        if len(mine) == 0:
            assert received[node].eq(0).all()
            continue
        deviation = mine.std(0, correction=0)
        expected = [mine.mean(0), mine.amin(0), mine.amax(0), deviation.where(deviation**2 > SMALLEST_VARIANCE, 0)]
        torch.testing.assert_close(received[node], torch.stack(expected, 1))


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_the_gradients_are_those_of_finite_differences(topology):
    wiring = Wiring.of(topology, True)
    film = random(wiring.num_edges, 2, 2 * CHANNELS).requires_grad_()
    ends = random(wiring.num_edges, 2, CHANNELS, seed=1).requires_grad_()
    nodes = random(topology.num_nodes, 2, 2 * CHANNELS, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda f, e: Aggregate.apply(f, e, wiring), (film, ends), fast_mode=True)
    assert torch.autograd.gradcheck(lambda n: SumOfEnds.apply(n, wiring), (nodes,), fast_mode=True)


def test_equal_messages_share_the_gradient_of_their_maximum_and_have_no_deviation():
    topology = cnn_topology((5,), num_classes=2)
    wiring = Wiring.of(topology, False)
    film = torch.ones(wiring.num_edges, 1, 2, dtype=torch.float64, requires_grad=True)
    ends = torch.ones(wiring.num_edges, 1, 1, dtype=torch.float64)
    received = Aggregate.apply(film, ends, wiring)
    torch.testing.assert_close(received[5:, 0], torch.tensor([[2.0, 2.0, 2.0, 0.0]] * 2, dtype=torch.float64))
    received.sum().backward()
    assert film.grad is not None
    torch.testing.assert_close(film.grad, torch.full_like(film.grad, 3 / 5))


def test_groups_of_equal_degree_that_follow_one_another_are_aggregated_as_one():
    assert len(Wiring.of(cnn_topology((1, 4, 4, 4), num_classes=5), False).receivers) == 2
    assert len(Wiring.of(cnn_topology((1, 4, 3, 2), num_classes=5), False).receivers) == 4
    assert len(Wiring.of(residual_topology(num_channels=4, num_inner=3), False).receivers) == 6


@pytest.mark.parametrize("rows", [1, 15, 16, 37])
def test_the_convolution_is_the_linear_layer(rows):
    layer, plain = Linear(7, 5), nn.Linear(7, 5)
    plain.load_state_dict(layer.state_dict())
    vectors = random(rows, 3, 7).float()
    ours, theirs = vectors.clone().requires_grad_(), vectors.clone().requires_grad_()
    for module, inputs in ((layer, ours), (plain, theirs)):
        (module(inputs) * random(rows, 3, 5, seed=1).float()).sum().backward()
    torch.testing.assert_close(layer(vectors), plain(vectors), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)
    for mine, other in zip(layer.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "images"),
    [((96, 7), (16, 42)), ((64, 16), (16, 64)), ((59, 8), (59, 8)), ((320, 32), (80, 128)), ((32, 200), (32, 200))],
)
def test_vectors_are_convolved_in_images_of_up_to_128_pixels_with_the_same_result(shape, images):
    vectors, layer = random(*shape, 7).float(), Linear(7, 5)
    assert _in_larger_images(vectors).shape == (*images, 7)
    found = layer(vectors)
    assert found.shape == (*shape, 5)
    torch.testing.assert_close(found, nn.functional.linear(vectors, layer.weight, layer.bias), rtol=1e-5, atol=1e-6)
    wide = random(*shape, 14).float()[..., :7]
    assert _in_larger_images(wide) is wide
    torch.testing.assert_close(layer(wide), layer(wide.contiguous()), rtol=1e-5, atol=1e-6)


def test_a_product_of_inputs_without_gradient_trains_its_weights():
    weight = torch.ones(2, 3, requires_grad=True)
    product(torch.ones(20, 4, 3), weight, torch.zeros(2)).sum().backward()
    torch.testing.assert_close(weight.grad, torch.full((2, 3), 80.0))


COPIES = 3, 1, 2, 1, 1, 2


def flat_ends(*, reverse_edges):
    """A flat wiring of all topologies, with source and target of each edge in its order, from the flat edge tables."""
    structures = list(zip(TOPOLOGIES.values(), COPIES, strict=True))
    wiring = FlatWiring.of(structures, reverse_edges=reverse_edges)
    sources, targets, first = [], [], 0
    for topology, count in structures:
        for _ in range(count):
            source, target = ends_of_edges(topology, reverse_edges=reverse_edges)
            sources.append(source + first)
            targets.append(target + first)
            first += topology.num_nodes
    place = torch.empty(first, dtype=torch.int64)
    place[wiring.nodes[:first]] = torch.arange(first)
    edges = wiring.edges[: wiring.num_real_edges]
    return wiring, place[torch.cat(sources)[edges]], place[torch.cat(targets)[edges]]


both_ways = pytest.mark.parametrize("reverse_edges", [False, True], ids=["forward", "both-ways"])


@both_ways
def test_in_a_flat_graph_too_each_edge_gets_its_own_target_and_source(reverse_edges):
    wiring, source, target = flat_ends(reverse_edges=reverse_edges)
    assert sorted(wiring.edges[: len(source)].tolist()) == list(range(len(source)))
    assert sorted(wiring.nodes[: wiring.num_real_nodes].tolist()) == list(range(wiring.num_real_nodes))
    nodes = random(wiring.num_nodes, 1, 2 * CHANNELS)
    expected = nodes[target, :, :CHANNELS] + nodes[source, :, CHANNELS:]
    torch.testing.assert_close(SumOfEnds.apply(nodes, wiring)[: len(source)], expected)


@both_ways
def test_in_a_flat_graph_too_each_node_aggregates_all_edges_that_enter_it_and_no_others(reverse_edges):
    wiring, _, target = flat_ends(reverse_edges=reverse_edges)
    film, ends = random(wiring.num_edges, 1, 2 * CHANNELS), random(wiring.num_edges, 1, CHANNELS, seed=1)
    messages = (film[..., :CHANNELS] * ends + film[..., CHANNELS:])[: len(target)]
    received = Aggregate.apply(film, ends, wiring).unflatten(-1, (4, CHANNELS))
    for node in range(wiring.num_nodes):
        mine = messages[target == node]
        assert len(mine) == wiring.degree[node]
        if len(mine) == 0:
            assert received[node].eq(0).all()
            continue
        deviation = mine.std(0, correction=0)
        expected = [mine.mean(0), mine.amin(0), mine.amax(0), deviation.where(deviation**2 > SMALLEST_VARIANCE, 0)]
        torch.testing.assert_close(received[node], torch.stack(expected, 1))


def test_the_gradients_in_a_flat_graph_are_those_of_finite_differences():
    wiring, _, _ = flat_ends(reverse_edges=True)
    film = random(wiring.num_edges, 1, 2 * CHANNELS).requires_grad_()
    ends = random(wiring.num_edges, 1, CHANNELS, seed=1).requires_grad_()
    nodes = random(wiring.num_nodes, 1, 2 * CHANNELS, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda f, e: Aggregate.apply(f, e, wiring), (film, ends), fast_mode=True)
    real = wiring.num_real_edges
    assert torch.autograd.gradcheck(lambda n: SumOfEnds.apply(n, wiring)[:real], (nodes,), fast_mode=True)


def test_a_flat_graph_is_padded_to_whole_rows():
    wiring, source, _ = flat_ends(reverse_edges=False)
    assert wiring.num_nodes % FLAT_ROWS == wiring.num_edges % FLAT_ROWS == 0
    assert wiring.num_real_edges == len(source) < wiring.num_edges
    assert wiring.num_real_nodes < wiring.num_nodes


def test_what_a_flat_graph_sums_and_picks_for_each_graph_is_of_its_own_nodes():
    structures = list(zip(TOPOLOGIES.values(), COPIES, strict=True))
    flat = FlatWiring.of(structures, reverse_edges=False)
    whole = random(sum(topology.num_nodes * count for topology, count in structures), CHANNELS)
    nodes, graphs = whole[flat.nodes].unsqueeze(1), whole.split(flat.nodes_of_graph.tolist())
    torch.testing.assert_close(flat.sum(nodes), torch.stack([mine.sum(0) for mine in graphs]))
    torch.testing.assert_close(flat.max(nodes), torch.stack([mine.amax(0) for mine in graphs]))
    assert flat.num_nodes_of_graph(nodes).flatten().tolist() == [len(mine) for mine in graphs]
    spread = torch.cat([mine.mean(0).expand_as(mine) for mine in graphs])[flat.nodes[: len(whole)]]
    means = flat.sum(nodes) / flat.num_nodes_of_graph(nodes)
    torch.testing.assert_close(flat.spread(means)[: len(whole), 0], spread)
    chosen = flat.places_of(torch.tensor([[3, 1, 1000]]).expand(len(graphs), 3))
    torch.testing.assert_close(nodes[chosen[:, :2], 0], torch.stack([mine[[3, 1]] for mine in graphs]))
    assert (chosen[:, 2] == flat.num_nodes).all()
    assert all(torch.equal(mine, other) for mine, other in zip(flat.split(nodes), graphs, strict=True))


def test_nodes_of_one_structure_are_summed_and_split_graph_by_graph():
    topology = residual_topology()
    wiring, nodes = Wiring.of(topology, False), random(topology.num_nodes, NUM_GRAPHS, CHANNELS)
    torch.testing.assert_close(wiring.sum(nodes), nodes.sum(0))
    torch.testing.assert_close(wiring.max(nodes), nodes.amax(0))
    assert wiring.num_nodes_of_graph(nodes) == topology.num_nodes
    torch.testing.assert_close(nodes + wiring.spread(nodes[0]), nodes + nodes[0])
    assert all(torch.equal(mine, nodes[:, graph]) for graph, mine in enumerate(wiring.split(nodes)))


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_reversed_edges_stand_block_by_block_sorted_by_what_was_their_source(topology):
    _, target = edge_index(topology)
    both_source, _ = ends_of_edges(topology, reverse_edges=True)
    assert torch.equal(target[reversal(topology)], both_source[topology.num_edges :])


def test_what_a_flat_graph_sums_and_spreads_has_the_gradients_of_finite_differences_and_none_for_the_padding():
    wiring, _, _ = flat_ends(reverse_edges=False)
    nodes = random(wiring.num_nodes, 1, CHANNELS).requires_grad_()
    graphs = random(len(wiring.nodes_of_graph), CHANNELS, seed=1).requires_grad_()
    real = wiring.num_real_nodes
    assert torch.autograd.gradcheck(wiring.sum, (nodes,), fast_mode=True)
    assert torch.autograd.gradcheck(lambda g: wiring.spread(g)[:real], (graphs,), fast_mode=True)
    (grad,) = torch.autograd.grad(wiring.sum(nodes).sum(), nodes)
    assert (grad[:real] == 1).all()
    assert (grad[real:] == 0).all()


def test_a_sum_has_the_same_bits_whatever_graphs_stand_beside():
    structures = list(TOPOLOGIES.values())
    wiring = FlatWiring.of([(topology, 1) for topology in structures], reverse_edges=False)
    whole = torch.randn(sum(topology.num_nodes for topology in structures), 3, generator=torch.Generator().manual_seed(0))
    together = wiring.sum(whole[wiring.nodes].unsqueeze(1))
    for row, topology, mine in zip(together, structures, whole.split([t.num_nodes for t in structures]), strict=True):
        alone = FlatWiring.of([(topology, 1)], reverse_edges=False)
        assert torch.equal(alone.sum(mine[alone.nodes].unsqueeze(1))[0], row)


def test_tables_of_parts_are_not_kept():
    wiring, before = Wiring.of(cnn_topology((1, 6, 4), num_classes=5), True), _copied.cache_info()
    device = torch.device("meta")
    for _ in range(2):
        for _, _, part in wiring.parts(5, device):
            tables = [run.sources_of_target for run in part.runs if run.sources_of_target is not None]
            assert all(on_device(table, device) is table for table in tables)
    # one for each of the two convolutions and for each reversed
    assert _copied.cache_info().currsize - before.currsize <= 4


def both_ways_back(ours, theirs, given):
    """Results of two functions and their gradients, for the same random gradient of the result."""
    found = []
    for function in (ours, theirs):
        tensors = [tensor.detach().clone().requires_grad_() for tensor in given]
        out = function(*tensors)
        weights = torch.linspace(-2, 3, out.numel(), dtype=out.dtype).cos().view(out.shape)
        found.append([out.detach(), *torch.autograd.grad((out * weights).sum(), tensors)])
    return found


def test_a_linear_layer_with_sums_is_that_of_torch():
    torch.manual_seed(0)
    given = [torch.randn(shape, dtype=torch.float64) for shape in ((5, 3, 7), (4, 7), (4,))]
    found = both_ways_back(LinearWithSums.apply, functional.linear, given)
    assert all(torch.allclose(*pair, rtol=1e-12, atol=1e-12) for pair in zip(*found, strict=True))


def test_a_linear_layer_that_keeps_what_its_silu_takes_is_that_of_torch():
    torch.manual_seed(0)
    given = [torch.randn(shape, dtype=torch.float64) for shape in ((5, 3, 7), (4, 7), (4,))]
    found = both_ways_back(LinearOfSiLU.apply, lambda x, *layer: functional.linear(functional.silu(x), *layer), given)
    assert all(torch.allclose(*pair, rtol=1e-12, atol=1e-12) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("reverse_edges", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_an_aggregate_that_computes_scales_and_shifts_again_is_the_aggregate(flat, reverse_edges):
    torch.manual_seed(0)
    topology, graphs, channels = residual_topology(), 1 if flat else 3, 5
    wiring = FlatWiring.of([(topology, 2)], reverse_edges=reverse_edges) if flat else Wiring.of(topology, reverse_edges)
    shapes = [(wiring.num_edges, graphs, channels)] * 2 + [(2 * channels, channels), (2 * channels,)]
    given = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    ours, theirs = both_ways_back(
        lambda *tensors: AggregateOfEdges.apply(*tensors, wiring),
        lambda edges, ends, *layer: Aggregate.apply(functional.linear(edges, *layer), ends, wiring),
        given,
    )
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-12) for a, b in zip(ours, theirs, strict=True))
