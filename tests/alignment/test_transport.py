from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ngbench.alignment.transport import outgoing_masses, transport
from ngbench.errors import GraphError, UnsupportedLayerError
from ngbench.graph import NeuralGraph, restore, symmetry, trace
from ngbench.testing import attention_topology, mlp_topology, residual_topology

NUM_IMAGES, NUM_INPUTS, WIDTH, NUM_CLASSES = 11, 4, 6, 3


def mlp(width=WIDTH, *, second=5, seed=0):
    torch.manual_seed(seed)
    layers = nn.Linear(NUM_INPUTS, width), nn.ReLU(), nn.Linear(width, second), nn.ReLU(), nn.Linear(second, NUM_CLASSES)
    return nn.Sequential(*layers).double()


def images():
    return torch.randn(NUM_IMAGES, NUM_INPUTS, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def widened(module, *, unit, order):
    """The same function with a unit of the first layer split into two that share its outgoing weights, and units reordered."""
    wide = mlp(WIDTH + 1)
    state = {path: entry.clone() for path, entry in module.state_dict().items()}
    places = [*range(WIDTH), unit]
    outgoing = state["2.weight"].clone()
    outgoing[:, unit] /= 2
    state["0.weight"], state["0.bias"] = state["0.weight"][places][order], state["0.bias"][places][order]
    state["2.weight"] = outgoing[:, places][:, order]
    wide.load_state_dict(state)
    return wide


def activations(module):
    """What each node gives, ``[nodes, images]``."""
    shown = [images()]
    for layer in module:
        shown.append(layer(shown[-1]))
    kept = [shown[0], shown[2], shown[4], shown[5]]
    return torch.cat(kept, dim=1).T.detach().numpy()


def brought(wide, narrow, **options):
    graph = trace(wide, images()[:1])
    return transport(trace(narrow, images()[:1]).topology, graph, embeddings=(activations(narrow), activations(wide)), **options)


ORDER = [3, 6, 0, 5, 1, 4, 2]


def test_a_split_unit_is_put_together_again():
    narrow = mlp()
    wide = widened(narrow, unit=2, order=ORDER)
    assert torch.allclose(wide(images()), narrow(images()), atol=1e-12)
    masses = tuple(outgoing_masses(trace(module, images()[:1])) for module in (narrow, wide))
    back = restore(brought(wide, narrow, masses=masses))
    for path, entry in narrow.state_dict().items():
        assert torch.allclose(back[path], entry, atol=1e-9), path


def test_a_network_spread_over_more_units_computes_the_same_where_these_are_copies():
    narrow = mlp()
    wide = widened(narrow, unit=2, order=ORDER)
    masses = tuple(outgoing_masses(trace(module, images()[:1])) for module in (wide, narrow))
    spread = brought(narrow, wide, masses=masses)
    module = mlp(WIDTH + 1)
    module.load_state_dict(restore(spread))
    assert torch.allclose(module(images()), narrow(images()), atol=1e-9)


def test_even_masses_only_come_near_and_wrong_embeddings_do_not():
    narrow = mlp()
    wide = widened(narrow, unit=2, order=ORDER)
    right = brought(wide, narrow)
    rng = np.random.default_rng(0)
    graph = trace(wide, images()[:1])
    noise = [rng.normal(size=(topology.num_nodes, 5)) for topology in (right.topology, graph.topology)]
    wrong = transport(right.topology, graph, embeddings=(noise[0], noise[1]))
    target = trace(narrow, images()[:1]).row()
    distances = [float((found.row() - target).norm()) for found in (right, wrong)]
    assert 1e-3 < distances[0] < distances[1] / 2


def test_equal_widths_and_even_masses_give_the_matched_network():
    topology = residual_topology(5, num_inner=4)
    generator = torch.Generator().manual_seed(1)
    graph = NeuralGraph.from_row(topology, torch.randn(topology.num_values, generator=generator, dtype=torch.float64))
    element = symmetry.group(topology).sample(7)
    nodes = torch.randn(topology.num_nodes, 6, generator=generator, dtype=torch.float64)
    starts = topology.node_ptr
    label = [starts[g.name] + element.permutations.get(g.name, torch.arange(g.size)) for g in topology.groups]
    moved = nodes[torch.cat(label)]
    back = transport(topology, element.act(graph), embeddings=(nodes.numpy(), moved.numpy()))
    assert torch.allclose(back.row(), graph.row(), atol=1e-12)


def test_networks_of_different_depth_are_refused():
    graph = NeuralGraph.from_row(mlp_topology((4, 5, 3)), torch.zeros(4 * 5 + 5 + 5 * 3 + 3))
    with pytest.raises(GraphError, match=r"networks differ in groups \('linear1', 'linear2'\); expected one family"):
        transport(mlp_topology((4, 5, 6, 3)), graph, embeddings=(np.zeros((18, 2)), np.zeros((12, 2))))


def test_networks_of_different_activations_are_refused():
    graph = NeuralGraph.from_row(mlp_topology((4, 5, 3), activation="tanh"), torch.zeros(4 * 5 + 5 + 5 * 3 + 3))
    with pytest.raises(GraphError, match=r"networks differ in groups \('linear0'\); expected one family"):
        transport(mlp_topology((4, 7, 3)), graph, embeddings=(np.zeros((14, 2)), np.zeros((12, 2))))


def test_networks_of_different_classes_are_refused():
    graph = NeuralGraph.from_row(mlp_topology((4, 5, 3)), torch.zeros(4 * 5 + 5 + 5 * 3 + 3))
    with pytest.raises(GraphError, match="index 'linear1' does not move and has sizes 2 and 3; expected one size"):
        transport(mlp_topology((4, 7, 2)), graph, embeddings=(np.zeros((13, 2)), np.zeros((12, 2))))


def test_embeddings_of_other_numbers_of_nodes_are_refused():
    graph = NeuralGraph.from_row(mlp_topology((4, 5, 3)), torch.zeros(4 * 5 + 5 + 5 * 3 + 3))
    with pytest.raises(GraphError, match=r"shapes \(13, 2\) and \(12, 2\); expected \(14, channels\) and \(12, channels\)"):
        transport(mlp_topology((4, 7, 3)), graph, embeddings=(np.zeros((13, 2)), np.zeros((12, 2))))


def test_heads_are_refused():
    topology = attention_topology(4, num_heads=2, head_width=3)
    graph = NeuralGraph.from_row(topology, torch.zeros(topology.num_values))
    nodes = np.zeros((topology.num_nodes, 2))
    with pytest.raises(UnsupportedLayerError, match="block 'query-scores' joins units within heads, which are not transported"):
        transport(topology, graph, embeddings=(nodes, nodes))
