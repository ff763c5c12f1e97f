"""Pooling: each kind against its formula, graph by graph, in both readings."""

import numpy as np
import pytest
import torch

from baselines.reading import encoding
from baselines.reading.encoding import Encoder, Encoding, Vocabulary
from baselines.reading.pooling import POOLINGS, Pooling, check_outputs
from ngbench.errors import GraphError
from ngbench.loading import Normalization
from ngbench.testing import SEVERAL_STRUCTURES, fake_dataset, mlp_topology

CHANNELS, NUM_GRAPHS = 3, 9


def read(graphs_per_structure, monkeypatch):
    """Networks of several structures as they are read, and random nodes for each reading."""
    monkeypatch.setattr(encoding, "GRAPHS_PER_STRUCTURE", graphs_per_structure)
    networks = fake_dataset(SEVERAL_STRUCTURES, num_graphs=NUM_GRAPHS)
    vocabulary = Vocabulary.of(networks, Encoding(mixed=False))
    encoder = Encoder(Encoding(), vocabulary, Normalization.fit(networks), node_channels=2, edge_channels=2)
    readings = encoder.read(networks.batch())
    generator = torch.Generator().manual_seed(0)
    columns = [(reading.wiring.num_nodes, reading.features.shape[1], CHANNELS) for reading in readings]
    return vocabulary, readings, [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in columns]


def roles_of(reading):
    places = reading.places
    roles = torch.where(places.is_output, 2, torch.where(places.is_inner, 1, 0)).double()
    return reading.wiring.split(roles[:, None, None].expand(-1, reading.features.shape[1], 1))


def expected_of(kind, nodes, roles, pooling, vocabulary):
    """The formula for one graph, ``[nodes, channels]``."""
    if kind == "cat":
        outputs = nodes[roles[:, 0] == 2]
        return torch.cat([outputs, outputs.new_zeros(vocabulary.num_outputs - len(outputs), CHANNELS)]).flatten()
    parts = [nodes[roles[:, 0] == role] for role in (1, 2)] if pooling.apart else [nodes]

    def attended(part):
        return torch.softmax(pooling.score(part)[:, 0], 0) @ part

    how = {
        "mean": lambda part: part.mean(0),
        "sum": lambda part: part.sum(0) / vocabulary.mean_num_nodes,
        "max": lambda part: part.amax(0),
        "attention": attended,
    }[kind]
    return torch.cat([how(part) for part in parts])


@pytest.mark.parametrize("graphs_per_structure", [0, 100], ids=["bundles", "flat"])
@pytest.mark.parametrize("apart", [False, True], ids=["all", "apart"])
@pytest.mark.parametrize("kind", POOLINGS)
def test_each_kind_is_its_formula_for_each_graph(kind, apart, graphs_per_structure, monkeypatch):
    vocabulary, readings, nodes = read(graphs_per_structure, monkeypatch)
    torch.manual_seed(1)
    options = {"num_outputs": vocabulary.num_outputs, "mean_num_nodes": vocabulary.mean_num_nodes}
    pooling = Pooling(kind, CHANNELS, apart=apart, **options).double()
    for reading, values in zip(readings, nodes, strict=True):
        graphs, roles = reading.wiring.split(values), roles_of(reading)
        expected = torch.stack([expected_of(kind, *pair, pooling, vocabulary) for pair in zip(graphs, roles, strict=True)])
        assert expected.shape[1] == pooling.num_features
        torch.testing.assert_close(pooling(values, reading), expected)


def test_a_graph_without_inner_nodes_has_zeros_for_them(monkeypatch):
    networks = fake_dataset([mlp_topology((3, 4))], num_graphs=5)
    vocabulary = Vocabulary.of(networks, Encoding(mixed=True))
    encoder = Encoder(Encoding(mixed=True), vocabulary, Normalization.fit(networks), node_channels=2, edge_channels=2)
    (reading,) = encoder.read(networks.batch())
    nodes = torch.randn(7, 5, CHANNELS, generator=torch.Generator().manual_seed(0))
    for kind in ("mean", "sum", "max", "attention"):
        pooling = Pooling(kind, CHANNELS, num_outputs=4, apart=True, mean_num_nodes=7.0)
        inner, outputs = pooling(nodes, reading).detach().chunk(2, 1)
        np.testing.assert_array_equal(inner, 0)
        assert outputs.abs().min() > 0


def test_outputs_that_training_lacked_cannot_be_concatenated():
    check_outputs(fake_dataset([mlp_topology((2, 3))]).batch(), 3)
    with pytest.raises(GraphError, match="a network has 4 output nodes, .* expected at most 3, as in training"):
        check_outputs(fake_dataset([mlp_topology((2, 4))]).batch(), 3)


def test_the_largest_of_what_is_no_number_is_none(monkeypatch):
    networks = fake_dataset([mlp_topology((3, 4, 2))], num_graphs=2)
    config = Encoding(mixed=True)
    vocabulary = Vocabulary.of(networks, config)
    (reading,) = Encoder(config, vocabulary, Normalization.fit(networks), node_channels=2, edge_channels=2).read(networks.batch())
    nodes = torch.zeros(9, 2, 1)
    nodes[4, 0], nodes[5, 1] = torch.nan, torch.inf
    inner = Pooling("max", 1, num_outputs=2, apart=True, mean_num_nodes=9.0)(nodes, reading)[:, 0]
    assert inner[0].isnan()
    assert inner[1] == torch.inf
