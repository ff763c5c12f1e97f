from __future__ import annotations

import pytest
import torch

from ngbench.errors import GraphError
from ngbench.graph import EdgeBlock, NeuralGraph, NodeFeature, NodeGroup, ParameterView, Topology
from ngbench.graph.neural_graph import largest_kernel
from ngbench.graph.topology import Index
from ngbench.loading import GraphBatch, GraphBundle, GraphDataset
from ngbench.loading.batch import fit_kernel
from ngbench.testing import ALL_FAMILIES, ONE_STRUCTURE, SEVERAL_STRUCTURES, attention_topology, fake_graphs

NUM_GRAPHS = 11


def bundle_of(topology):
    graphs = fake_graphs([topology], num_graphs=NUM_GRAPHS)
    rows = torch.stack([graph.row() for graph in graphs])
    return graphs, GraphBundle((topology,), torch.zeros(NUM_GRAPHS, dtype=torch.int64), rows, torch.arange(NUM_GRAPHS))


def tied_topology():
    """Two layers of 4 units that share one weight, and a skip around the second; only the first has a bias."""
    bias = (NodeFeature("bias", ParameterView("bias")),)
    groups = (
        NodeGroup("input", 4, "input", "none", 0),
        NodeGroup("first", 4, "hidden", "relu", 1, bias, ("units",)),
        NodeGroup("second", 4, "output", "none", 2, (), ("units",)),
    )
    blocks = (
        EdgeBlock("first", "input", "first", "dense", "linear", parameter=ParameterView("weight")),
        EdgeBlock("second", "first", "second", "dense", "linear", parameter=ParameterView("weight")),
        EdgeBlock("skip", "first", "second", "diagonal", "identity"),
    )
    return Topology(groups, blocks, (("weight", (4, 4)), ("bias", (4,))), (Index("units", 4, fixed=True),))


TOPOLOGIES = {
    **dict(zip(("relu", "tanh", "deep", "mlp", "residual", "attention"), ALL_FAMILIES, strict=True)),
    "tied": tied_topology(),
}


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_blocks_and_node_features_are_those_of_each_network(topology):
    graphs, bundle = bundle_of(topology)
    assert len(bundle) == NUM_GRAPHS
    for block in topology.blocks:
        assert torch.equal(bundle.block(block.name), torch.stack([graph.block(block.name) for graph in graphs]))
    for group in topology.groups:
        for feature in ("bias", "running_mean", "running_var", "slope"):
            expected = torch.stack([graph.node_feature(group.name, feature) for graph in graphs])
            assert torch.equal(bundle.node_feature(group.name, feature), expected)


def test_slots_stand_in_canonical_order_with_their_shapes():
    _, bundle = bundle_of(ONE_STRUCTURE[0])
    shapes = {owner: tuple(values.shape) for owner, values in bundle.slots().items()}
    assert shapes == {
        ("conv0", "bias"): (11, 6),
        ("conv1", "bias"): (11, 4),
        ("head", "bias"): (11, 5),
        ("conv0", None): (11, 6, 1, 6),
        ("conv1", None): (11, 4, 6, 6),
        ("head", None): (11, 5, 4, 1),
    }
    assert torch.equal(torch.cat([values.flatten(1) for values in bundle.slots().values()], dim=1), bundle.values)


def test_blocks_features_and_slots_are_views_of_the_values():
    _, bundle = bundle_of(ONE_STRUCTURE[0])
    memory = bundle.values.untyped_storage().data_ptr()
    views = [bundle.block("conv1"), bundle.node_feature("head", "bias"), *bundle.slots().values()]
    assert all(view.untyped_storage().data_ptr() == memory for view in views)


def test_an_unknown_block_or_group_is_refused_by_name():
    _, bundle = bundle_of(ONE_STRUCTURE[0])
    with pytest.raises(GraphError, match="no block 'conv7' in this topology; expected one of conv0, conv1, head"):
        bundle.block("conv7")
    with pytest.raises(GraphError, match="no group 'conv7' in this topology; expected one of input, conv0, conv1, head"):
        bundle.node_feature("conv7", "bias")


def test_values_of_another_length_are_refused_by_slots():
    _, bundle = bundle_of(ONE_STRUCTURE[0])
    short = GraphBundle(bundle.variants, bundle.variant, bundle.values[:, 1:], bundle.index)
    with pytest.raises(GraphError, match=f"have {bundle.values.shape[1] - 1} values; expected {bundle.values.shape[1]}"):
        short.slots()


def test_another_dtype_is_given_to_the_values_only_and_to_a_new_batch():
    batch = GraphDataset.from_graphs(fake_graphs(SEVERAL_STRUCTURES, num_graphs=NUM_GRAPHS)).batch()
    moved = batch.to("cpu", torch.float64)
    assert len(moved) == len(batch) == NUM_GRAPHS
    for before, after in zip(batch.bundles, moved.bundles, strict=True):
        assert (before.values.dtype, after.values.dtype) == (torch.float32, torch.float64)
        assert torch.equal(after.values, before.values.double())
        assert after.variant.dtype == after.index.dtype == torch.int64
        assert torch.equal(after.variant, before.variant)
        assert torch.equal(after.index, before.index)
        assert after.variants == before.variants


def test_without_a_dtype_the_values_keep_theirs():
    _, bundle = bundle_of(ONE_STRUCTURE[0])
    assert bundle.to("cpu").values.dtype == torch.float32
    assert GraphBatch((bundle,)).to("meta").bundles[0].values.device.type == "meta"


def test_a_bundle_row_is_the_row_of_its_network():
    graphs, bundle = bundle_of(tied_topology())
    assert NeuralGraph.from_row(bundle.topology, bundle.values[7]).equal(graphs[7])


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES)
def test_edge_weights_and_node_features_are_those_of_the_flat_view_of_each_network(topology):
    graphs, bundle = bundle_of(topology)
    for position, graph in enumerate(graphs):
        data = graph.to_pyg()
        assert torch.equal(bundle.edge_weights(largest_kernel(topology))[:, position], data.edge_attr)
        assert torch.equal(bundle.node_features(data.feature_names)[:, position], data.x)


def test_a_feature_that_no_group_has_is_zero():
    _, bundle = bundle_of(attention_topology())
    features = bundle.node_features(("bias", "colour"))
    assert features.shape == (bundle.topology.num_nodes, NUM_GRAPHS, 2)
    assert features[..., 1].eq(0).all()
    assert features[..., 0].abs().max() > 0


def test_kernels_are_cut_or_padded_around_their_centre_on_each_axis_by_itself():
    values = torch.arange(15.0).view(1, 15)
    table = values.view(3, 5)
    assert torch.equal(fit_kernel(values, (3, 5), (3, 3)), table[:, 1:4].reshape(1, 9))
    assert torch.equal(fit_kernel(values, (3, 5), (2, 4)), table[:2, :4].reshape(1, 8))
    assert torch.equal(fit_kernel(values, (3, 5), (1, 7)), torch.nn.functional.pad(table[1:2], (1, 1)).reshape(1, 7))
    assert torch.equal(fit_kernel(values, (3, 5), (2, 3, 5)), torch.cat([values, torch.zeros(1, 15)], 1))


def test_of_axes_that_the_shape_lacks_the_centre_is_kept():
    values = torch.arange(30.0).view(1, 30)
    assert torch.equal(fit_kernel(values, (2, 3, 5), (5,)), values.view(2, 3, 5)[0, 1].view(1, 5))
    assert torch.equal(fit_kernel(values, (2, 3, 5), ()), values.view(2, 3, 5)[0, 1, 2].view(1, 1))
    assert fit_kernel(values, (2, 3, 5), (2, 3, 5)) is values


def test_a_batch_with_other_values_leaves_the_first_as_it_is():
    batch = GraphDataset.from_graphs(fake_graphs(ALL_FAMILIES, num_graphs=NUM_GRAPHS)).batch()
    before = [bundle.values.clone() for bundle in batch.bundles]
    for bundle, other, values in zip(batch.bundles, batch.map(lambda values: 2 * values).bundles, before, strict=True):
        assert torch.equal(bundle.values, values)
        assert torch.equal(other.values, 2 * values)
        assert (other.variants, other.index) == (bundle.variants, bundle.index)
