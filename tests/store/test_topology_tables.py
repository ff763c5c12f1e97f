from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from torch import nn, zeros

from ngbench.graph import EdgeBlock, NodeFeature, NodeGroup, ParameterView, Topology, trace
from ngbench.store import Zoo, ZooInfo, ZooWriter
from ngbench.store.topology_tables import read_topology, write_topology


@pytest.fixture
def tables(tmp_path):
    """Writes a topology and reads its tables back."""

    def read(topology):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            write_topology(file, topology)
            assert read_topology(file, topology.digest) == topology
            folder = file[f"topologies/{topology.digest}"]
            return {name: folder[name][()] for name in folder}, folder.attrs["features"]

    return read


def test_a_linear_network_can_be_run_from_the_tables_alone(tables):
    module = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    graph = trace(module, zeros(1, 3))
    found, features = tables(graph.topology)
    assert features == "bias"
    values = graph.row().numpy().astype(np.float64)
    inputs = np.array([0.3, -0.7, 1.1])
    units = np.concatenate([inputs, np.zeros(7)])
    for group in (1, 2):
        for node in np.flatnonzero(found["node_group"] == group):
            edges = np.flatnonzero(found["edge_index"][1] == node)
            sources = found["edge_index"][0, edges]
            units[node] = values[found["node_value"][node, 0]] + values[found["edge_value"][edges]] @ units[sources]
            if group == 1:
                units[node] = max(units[node], 0)
    with torch.no_grad():
        expected = module(torch.tensor(inputs, dtype=torch.float32)[None])[0]
    assert np.allclose(units[-2:], expected, atol=1e-6)


def test_an_edge_of_a_convolution_points_at_its_kernel(tables):
    module = nn.Sequential(nn.Conv2d(2, 4, (3, 1)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 7))
    graph = trace(module, zeros(1, 2, 8, 6))
    found, _ = tables(graph.topology)
    (edge,) = np.flatnonzero((found["edge_index"][0] == 1) & (found["edge_index"][1] == 2 + 3))
    start = found["edge_value"][edge]
    assert torch.equal(graph.row()[start : start + 3], module[0].weight.detach()[3, 1, :, 0])


def test_structural_edges_and_nodes_without_a_feature_have_no_value(tables):
    groups = (
        NodeGroup("a", 3, "input", "none", 0),
        NodeGroup("b", 3, "output", "none", 1, (NodeFeature("bias", ParameterView("b")),)),
    )
    blocks = (
        EdgeBlock("skip", "a", "b", "diagonal", "identity"),
        EdgeBlock("dense", "a", "b", "dense", "linear", (), ParameterView("w")),
    )
    found, _ = tables(Topology(groups, blocks, (("w", (3, 3)), ("b", (3,)))))
    assert found["node_value"][:, 0].tolist() == [-1, -1, -1, 0, 1, 2]
    assert found["edge_value"].tolist() == [-1, -1, -1, *range(3, 12)]
    assert found["edge_block"].tolist() == [0] * 3 + [1] * 9


def test_a_tied_parameter_is_pointed_at_from_both_of_its_blocks(tables):
    groups = (
        NodeGroup("a", 2, "input", "none", 0),
        NodeGroup("b", 3, "hidden", "none", 1),
        NodeGroup("c", 2, "output", "none", 2),
    )
    transposed = ParameterView("w", split=(3, 2), order=(1, 0))
    blocks = (
        EdgeBlock("in", "a", "b", "dense", "linear", (), ParameterView("w")),
        EdgeBlock("out", "b", "c", "dense", "linear", (), transposed),
    )
    found, _ = tables(Topology(groups, blocks, (("w", (3, 2)),)))
    assert found["edge_value"].tolist() == [0, 1, 2, 3, 4, 5, 0, 2, 4, 1, 3, 5]


def test_a_topology_longer_than_an_attribute_may_be_is_stored(tmp_path):
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(300)))
    topology = trace(module, zeros(1, 2)).topology
    assert len(topology.to_json()) > 2**16
    with ZooWriter(tmp_path / "a.h5", ZooInfo("deep", "1", "t", "l", "c")) as writer:
        writer.append(topology, np.zeros((1, topology.num_values), np.float32), ids=["a"])
    assert Zoo(tmp_path / "a.h5")[0].topology == topology
