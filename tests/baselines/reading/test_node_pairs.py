"""Tables of pairs: every edge where its nodes say, the rest as absent, and back again."""

from dataclasses import replace

import pytest
import torch

from baselines.reading import encoding, node_pairs
from baselines.reading.encoding import Encoder, Encoding, Vocabulary
from baselines.reading.node_pairs import NodePairs
from ngbench.graph.neural_graph import edge_index
from ngbench.loading import Normalization
from ngbench.testing import ALL_FAMILIES, fake_dataset, mlp_topology

NUM_GRAPHS, CHANNELS = 11, 3


def read(topologies, *, reverse_edges=False):
    networks, config = fake_dataset(topologies, num_graphs=NUM_GRAPHS), Encoding(reverse_edges=reverse_edges, mixed=False)
    encoder = Encoder(
        config, Vocabulary.of(networks, config), Normalization.fit(networks), node_channels=2, edge_channels=CHANNELS
    )
    return networks, encoder.double().eval(), encoder.read(networks.batch().to("cpu", torch.float64))


@pytest.mark.parametrize("reverse_edges", [False, True], ids=["one-way", "both-ways"])
@pytest.mark.parametrize("graphs_per_structure", [0, 100], ids=["bundles", "flat"])
@torch.no_grad()
def test_every_edge_stands_at_its_source_and_target(graphs_per_structure, reverse_edges, monkeypatch):
    monkeypatch.setattr(encoding, "GRAPHS_PER_STRUCTURE", graphs_per_structure)
    networks, encoder, readings = read(ALL_FAMILIES, reverse_edges=reverse_edges)
    absent = encoder.absent_edge()
    found = {}
    for reading in readings:
        places = NodePairs.of(reading)
        nodes, edges = encoder(reading)
        tables = places.spread(nodes, edges, absent)
        torch.testing.assert_close(
            places.collect([table for table, _, _ in tables], nodes)[: places_of(reading)], nodes[: places_of(reading)]
        )
        by_size = [(*row, None) for table, pairs, mask in tables if mask is None for row in zip(table, pairs, strict=True)]
        by_size += [row for table, pairs, mask in tables if mask is not None for row in zip(table, pairs, mask, strict=True)]
        sizes = reading.wiring.nodes_of_graph if by_size[0][2] is not None else torch.zeros(len(by_size))
        for graph, row in zip(sizes.argsort(stable=True).tolist(), by_size, strict=True):
            found[int(reading.index[graph])] = row
    for bundle in networks.bundles:
        sources, targets = edge_index(bundle.topology)
        alone = read_alone(encoder, bundle)
        for row, index in enumerate(bundle.index.tolist()):
            _, pairs, mask = found[index]
            size = bundle.topology.num_nodes
            assert mask is None or mask.sum() == size
            expected = absent.repeat(size, size, 1)
            expected[sources, targets] = alone[: len(sources), row]
            if reverse_edges:
                order = encoding.reversal(bundle.topology)
                expected[targets[order], sources[order]] = alone[len(sources) :, row]
            torch.testing.assert_close(pairs[:size, :size], expected)


def places_of(reading):
    """Number of nodes without padding."""
    return getattr(reading.wiring, "num_real_nodes", reading.wiring.num_nodes)


def read_alone(encoder, bundle):
    """Its edges in canonical order, ``[edges, graphs, channels]``."""
    vocabulary, config = encoder.vocabulary, encoder.config
    normalized = encoder.normalization(encoding.GraphBatch((bundle.to("cpu", torch.float64),)))
    (bundle,) = normalized.map(lambda values: values.clamp(-config.clip, config.clip)).bundles
    return encoder(encoding.Reading.side_by_side(bundle, vocabulary, reverse_edges=config.reverse_edges))[1]


@torch.no_grad()
def test_what_edges_between_the_same_nodes_add_is_summed():
    _, encoder, (reading,) = read([mlp_topology((2, 3))])
    places, absent = NodePairs.of(reading), encoder.absent_edge()
    nodes, edges = encoder(reading)
    twice = replace(places, edges=places.edges.repeat(2))
    ((_, once, _),) = places.spread(nodes, edges, absent)
    ((_, found, _),) = twice.spread(nodes, torch.cat([edges, 2 * edges]), absent)
    has_edge = torch.zeros(5, 5, dtype=torch.bool)
    has_edge[:2, 2:] = True
    torch.testing.assert_close(found[:, has_edge], 3 * once[:, has_edge] - absent)
    torch.testing.assert_close(found[:, ~has_edge], absent.expand_as(found[:, ~has_edge]))


def test_graphs_of_similar_sizes_share_a_table():
    assert node_pairs._shapes([10, 10, 11, 12, 13, 15, 30, 36, 37]) == ((4, 12), (2, 15), (2, 36), (1, 37))
    assert node_pairs._shapes([5]) == ((1, 5),)


def test_an_absent_edge_is_read_as_one_of_weight_zero():
    for config in (Encoding(mixed=True, reverse_edges=True), Encoding(encoding="fourier", mixed=False)):
        networks = fake_dataset([mlp_topology((2, 3))], num_graphs=2)
        encoder = Encoder(config, Vocabulary.of(networks, config), lambda batch: batch, node_channels=2, edge_channels=CHANNELS)
        (reading,) = encoder.read(networks.batch().map(torch.zeros_like))
        edges = encoder(reading)[1]
        torch.testing.assert_close(encoder.absent_edge(), edges[0, 0])
