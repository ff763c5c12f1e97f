from __future__ import annotations

import pytest
import torch

from ngbench.alignment import match, mean_of, merge, merge_many
from ngbench.errors import GraphError
from ngbench.graph import NeuralGraph, symmetry
from ngbench.testing import mlp_topology, residual_topology

TOPOLOGY = residual_topology(5, num_inner=4)


def graphs(number, *, topology=TOPOLOGY):
    generator = torch.Generator().manual_seed(6)
    rows = torch.randn(number, topology.num_values, generator=generator, dtype=torch.float64)
    return [NeuralGraph.from_row(topology, row) for row in rows]


def by_biases(first, second):
    """Matches nodes by numbers on them, of which groups without have none: those share an index with others."""
    return match(first.topology, *(embedded(graph) for graph in (first, second)))


def embedded(graph):
    names = ("bias", "running_mean", "running_var")
    topology = graph.topology
    nodes = [torch.stack([graph.node_feature(group.name, name) for name in names], 1) for group in topology.groups]
    return torch.cat(nodes).numpy()


def test_the_mean_of_permuted_copies_is_the_first_network_again():
    (graph,) = graphs(1)
    copies = [graph, *(symmetry.group(TOPOLOGY).sample(seed).act(graph) for seed in range(4))]
    torch.testing.assert_close(merge(copies, by_biases).row(), graph.row())
    assert not torch.allclose(mean_of(copies).row(), graph.row())


def test_networks_matched_in_turn_end_as_one_of_the_orbit():
    (graph,) = graphs(1)
    copies = [symmetry.group(TOPOLOGY).sample(seed).act(graph) for seed in range(4)]
    found = merge_many(copies, by_biases, seed=3)
    torch.testing.assert_close(by_biases(graph, found).act(found).row(), graph.row())


def test_networks_matched_in_turn_are_nearer_to_their_mean_than_networks_as_they_stand():
    several = graphs(5)

    def spread(found):
        aligned = [torch.from_numpy(embedded(by_biases(found, graph).act(graph))) for graph in several]
        return float(sum((nodes - torch.from_numpy(embedded(found))).square().sum() for nodes in aligned))

    assert spread(merge_many(several, by_biases)) < 0.8 * spread(mean_of(several))


def test_one_network_is_its_own_mean():
    (graph,) = graphs(1)
    for found in (mean_of([graph]), merge([graph], by_biases), merge_many([graph], by_biases)):
        assert found.equal(graph)


def test_buffers_are_those_of_the_first():
    first, second = graphs(2)
    first.buffers["norm.num_batches_tracked"] = torch.tensor(7)
    assert merge([first, second], by_biases).buffers == first.buffers


def test_no_networks_and_networks_of_two_topologies_have_no_mean():
    with pytest.raises(GraphError, match="0 networks of topologies none have no mean"):
        merge([], by_biases)
    other = mlp_topology((3, 4, 2))
    with pytest.raises(GraphError, match=rf"2 networks of topologies .*{other.digest[:12]}.* have no mean; expected one or more"):
        mean_of([*graphs(1), *graphs(1, topology=other)])
