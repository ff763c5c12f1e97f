from __future__ import annotations

import pytest
import torch
from torch import nn

from baselines.message_passing import SMALLEST_VARIANCE, Aggregate, Linear, SumOfEnds, Wiring, product
from ngbench.graph import EdgeBlock, NodeGroup, ParameterView, Topology
from ngbench.graph.neural_graph import edge_index
from ngbench.testing import SEVERAL_STRUCTURES, cnn_topology

NUM_GRAPHS, CHANNELS = 3, 2


def residual_topology():
    """Two dense layers with a shortcut of ones: dense and diagonal edges enter one group."""
    sizes = (3, 4, 4, 2)
    groups = tuple(
        NodeGroup(f"g{i}", size, ("input", "hidden", "hidden", "output")[i], "relu", i) for i, size in enumerate(sizes)
    )
    blocks, parameters = [], []
    for i in (1, 2, 3):
        blocks.append(EdgeBlock(f"b{i}", f"g{i - 1}", f"g{i}", "dense", "linear", (), ParameterView(f"w{i}")))
        parameters.append((f"w{i}", (sizes[i], sizes[i - 1])))
    return Topology(groups, (*blocks, EdgeBlock("shortcut", "g1", "g2", "diagonal", "identity")), tuple(parameters))


TOPOLOGIES = {
    "residual": residual_topology(),
    "equal-degrees": cnn_topology((1, 4, 4), num_classes=5, kernel=(2, 2)),
    **{f"structure-{i}": topology for i, topology in enumerate(SEVERAL_STRUCTURES[1:])},
}


def ends_of_edges(topology, *, reverse_edges):
    """Source and target of each edge from the flat edge table, an independent path."""
    source, target = edge_index(topology)
    if not reverse_edges:
        return source, target
    positions, reversed_, start = torch.arange(len(source)), [], 0
    for block in topology.blocks:
        num_targets, num_sources, _ = topology.block_shape(block.name)
        stop = start + num_targets * num_sources
        reversed_.append(positions[start:stop].view(num_targets, num_sources).T.flatten())
        start = stop
    order = torch.cat(reversed_)
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
    assert len(Wiring.of(residual_topology(), False).receivers) == 3


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


def test_a_product_of_inputs_without_gradient_trains_its_weights():
    weight = torch.ones(2, 3, requires_grad=True)
    product(torch.ones(20, 4, 3), weight, torch.zeros(2)).sum().backward()
    torch.testing.assert_close(weight.grad, torch.full((2, 3), 80.0))
