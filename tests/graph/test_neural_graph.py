from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from ngbench.errors import GraphError
from ngbench.graph import NeuralGraph, restore, trace
from ngbench.graph.neural_graph import edge_index, largest_kernel, pad_kernel


def pad_by_loop(kernel, to):
    """A kernel in the middle of a larger field of zeros; the spare row or column of an odd margin comes last."""
    kernel = np.asarray(kernel)
    field = np.zeros(to)
    for place in np.ndindex(*kernel.shape):
        field[tuple(i + (room - size) // 2 for i, room, size in zip(place, to, kernel.shape, strict=True))] = kernel[place]
    return field.ravel()


def edges_by_loop(layers, node_ptr, to):
    """Every edge of a chain of layers, from the module's weights alone.

    Each layer is ``(source group, target group, weight)`` with the weight as ``[targets, sources, *kernel]``.
    """
    sources, targets, attributes = [], [], []
    for source_group, target_group, weight in layers:
        for target in range(weight.shape[0]):
            for source in range(weight.shape[1]):
                sources.append(node_ptr[source_group] + source)
                targets.append(node_ptr[target_group] + target)
                kernel = np.asarray(weight[target, source])
                attributes.append(pad_by_loop(kernel.reshape((1,) * (len(to) - kernel.ndim) + kernel.shape), to))
    return np.array([sources, targets]), np.array(attributes)


def weights(network):
    return {path: entry.numpy() for path, entry in network.module.state_dict().items()}


def test_the_edge_table_of_an_mlp_agrees_with_a_loop_over_its_weights(make):
    network = make("mlp")
    w, data = weights(network), network.graph.to_pyg()
    node_ptr = {"x": 0, "0": 3, "2": 10, "4": 15}
    index, attributes = edges_by_loop(
        [("x", "0", w["0.weight"]), ("0", "2", w["2.weight"]), ("2", "4", w["4.weight"])], node_ptr, (1,)
    )
    assert np.array_equal(data.edge_index, index)
    assert np.array_equal(data.edge_attr, attributes)
    assert np.array_equal(data.x[:, 0], np.concatenate([np.zeros(3), w["0.bias"], w["2.bias"], w["4.bias"]]))
    assert data.feature_names == ["bias"]
    assert data.activations == ["none", "relu", "tanh", "none"]
    assert data.node_group.tolist() == [0] * 3 + [1] * 7 + [2] * 5 + [3] * 2
    assert data.edge_block.tolist() == [0] * 21 + [1] * 35 + [2] * 10
    assert data.num_nodes == 17
    assert data.validate()


def test_non_square_kernels_are_padded_centred_each_axis_by_itself(make):
    network = make("conv2d_of_non_square_kernels")
    w, data = weights(network), network.graph.to_pyg()
    names = ["0", "3", "6", "10"]
    assert [w[f"{name}.weight"].shape[2:] for name in names] == [(3, 1), (1, 5), (2, 3), ()]
    node_ptr = {"x": 0, "0": 3, "3": 8, "6": 15, "10": 21}
    layers = [(source, name, w[f"{name}.weight"]) for source, name in zip(["x", *names], names, strict=False)]
    index, attributes = edges_by_loop(layers, node_ptr, (3, 5))
    assert np.array_equal(data.edge_index, index)
    assert np.array_equal(data.edge_attr, attributes)
    column, row = data.edge_attr[0].view(3, 5), data.edge_attr[3 * 5].view(3, 5)
    assert (column != 0).tolist() == [[False, False, True, False, False]] * 3
    assert (row != 0).tolist() == [[False] * 5, [True] * 5, [False] * 5]


@pytest.mark.parametrize(
    ("name", "to_channels_first"),
    [
        ("flatten_channels_last", lambda w: w.reshape(7, 2, 4, 5).transpose(0, 3, 1, 2)),
        ("flatten_channels_between", lambda w: w.reshape(7, 2, 5, 4).transpose(0, 2, 1, 3)),
        ("flatten_of_a_transposed_grid", lambda w: w.reshape(7, 5, 4, 2)),
    ],
)
def test_the_kernel_of_a_linear_after_a_flatten_is_the_grid_of_its_channel(make, name, to_channels_first):
    network = make(name)
    w, graph = weights(network), network.graph
    linear = to_channels_first(w["b.weight"])
    assert graph.topology.edge_block("b").kernel == linear.shape[2:]
    assert np.array_equal(graph.block("b"), linear.reshape(7, 5, 8))
    index, attributes = edges_by_loop(
        [("x", "a", w["a.weight"]), ("a", "b", linear)], {"x": 0, "a": 3, "b": 8}, graph_kernel(linear)
    )
    data = graph.to_pyg()
    assert np.array_equal(data.edge_index, index)
    assert np.array_equal(data.edge_attr, attributes)


def graph_kernel(linear):
    return tuple(max(3, size) for size in linear.shape[2:])


def test_the_kernel_of_a_linear_after_channels_first_flatten_needs_no_reordering(make):
    network = make("conv2d_flatten")
    graph = network.graph
    assert graph.topology.edge_block("4").kernel == (2, 4)
    assert np.array_equal(graph.block("4"), weights(network)["4.weight"].reshape(7, 5, 8))


def test_a_grid_of_one_column_stays_a_column(make):
    network = make("adaptive_average_of_columns")
    graph = network.graph
    assert graph.topology.edge_block("4").kernel == (4, 1)
    padded = graph.to_pyg().edge_attr[15].view(4, 3)
    assert torch.equal(padded[:, 1], network.module[4].weight[0].reshape(5, 4)[0].detach())
    assert padded[:, [0, 2]].abs().sum() == 0


def test_edges_stand_target_major_and_blocks_are_slices_of_the_flat_table(network):
    graph = network.graph
    data, topology = graph.to_pyg(), graph.topology
    assert data.edge_index.shape == (2, topology.num_edges)
    assert data.x.shape[0] == topology.num_nodes
    kernel = largest_kernel(topology)
    for position, block in enumerate(topology.blocks):
        of_block = data.edge_block == position
        values, (num_targets, num_sources, _) = graph.block(block.name), topology.block_shape(block.name)
        assert torch.equal(data.edge_attr[of_block].view(num_targets, num_sources, -1), pad_kernel(values, block.kernel, kernel))
        source, target = data.edge_index[:, of_block]
        assert torch.equal(target, target.sort().values)
        first_source, first_target = topology.node_ptr[block.source], topology.node_ptr[block.target]
        assert torch.equal(target - first_target, torch.arange(num_targets).repeat_interleave(num_sources))
        if block.pattern == "dense":
            assert torch.equal(source - first_source, torch.arange(num_sources).repeat(num_targets))
        else:
            assert torch.equal(source - first_source, target - first_target)
            assert torch.equal(values, torch.ones(num_targets, 1, 1, dtype=values.dtype))


def test_restore_gives_the_state_dict_back_bit_for_bit_and_in_order(network):
    expected = network.module.state_dict()
    restored = restore(network.graph)
    assert list(restored) == list(expected)
    for path, entry in restored.items():
        assert torch.equal(entry, expected[path])
        assert entry.dtype == expected[path].dtype
        assert not entry.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_parameters_of_any_float_type_come_back_as_they_were(make, dtype):
    network = make("conv2d_flatten")
    network.module.to(dtype)
    graph = trace(network.module, network.inputs[0].to(dtype))
    assert graph.dtype == dtype
    assert graph.to_pyg().edge_attr.dtype == dtype
    assert all(torch.equal(entry, network.module.state_dict()[path]) for path, entry in restore(graph).items())


def test_values_are_views_of_the_parameters_and_restored_entries_too(make):
    network = make("conv2d_flatten")
    graph = network.graph
    pointers = {path: parameter.data_ptr() for path, parameter in network.module.named_parameters()}
    for slot, values in zip(graph.topology.slots, graph.slot_values, strict=True):
        assert values.data_ptr() == pointers[slot.parameter.path]
        assert not values.requires_grad
    assert {path: entry.data_ptr() for path, entry in restore(graph).items()} == pointers
    assert graph.block("0").data_ptr() == pointers["0.weight"]
    assert graph.node_feature("4", "bias").data_ptr() == pointers["4.bias"]


@pytest.mark.parametrize("name", ["flatten_channels_last", "flatten_of_a_transposed_grid"])
def test_a_reordered_flatten_is_a_view_too(make, name):
    network = make(name)
    assert network.graph.block("b").data_ptr() == network.module.b.weight.data_ptr()


def test_a_view_follows_the_parameter_that_it_shows(make):
    network = make("mlp")
    graph = trace(network.module, network.inputs)
    with torch.no_grad():
        network.module[2].weight[4, 6] = 123.0
    assert graph.block("2")[4, 6, 0] == 123.0


def test_a_weight_of_zero_keeps_its_edge(make):
    network = make("conv2d_flatten")
    before = trace(network.module, network.inputs)
    with torch.no_grad():
        network.module[0].weight.zero_()
        network.module[4].weight[3, 11] = 0.0
    after = trace(network.module, network.inputs)
    assert after.topology == before.topology
    assert torch.equal(after.to_pyg().edge_index, before.to_pyg().edge_index)
    assert after.to_pyg().edge_attr.shape == before.to_pyg().edge_attr.shape


def test_a_state_dict_on_a_known_topology_is_the_traced_graph(network):
    graph = network.graph
    state_dict = network.module.state_dict()
    again = NeuralGraph.from_state_dict(graph.topology, state_dict)
    assert again.equal(graph)
    assert again.equal(NeuralGraph(graph.topology, graph.slot_values))


@pytest.mark.parametrize("name", ["mlp", "conv1d", "conv2d_flatten", "flatten_channels_last", "layer_called_twice"])
def test_a_state_dict_on_a_known_topology_is_not_copied(make, name):
    network = make(name)
    state_dict = network.module.state_dict()
    graph = NeuralGraph.from_state_dict(network.graph.topology, state_dict)
    assert {values.data_ptr() for values in graph.slot_values} == {entry.data_ptr() for entry in state_dict.values()}


def test_a_row_and_the_graph_of_a_row_undo_each_other_without_a_copy(network):
    graph = network.graph
    row = graph.row()
    again = NeuralGraph.from_row(graph.topology, row)
    assert again.equal(graph)
    assert [values.data_ptr() for values in again.slot_values] == [row[slot.start :].data_ptr() for slot in graph.topology.slots]


def test_a_tied_parameter_is_seen_by_each_of_its_blocks(make):
    network = make("layer_called_twice")
    graph = network.graph
    assert [block.name for block in graph.topology.blocks] == ["a", "b", "b:2", "c"]
    assert torch.equal(graph.block("b"), graph.block("b:2"))
    assert torch.equal(graph.block("b:2")[..., 0], network.module.b.weight)
    assert torch.equal(graph.node_feature("b:2", "bias"), network.module.b.bias)


def test_a_tied_parameter_is_seen_in_the_layout_of_each_of_its_blocks(make):
    network = make("one_weight_in_two_layouts")
    graph = network.graph
    weight = network.module.b.weight.detach()
    assert torch.equal(graph.block("b"), weight.view(7, 5, 4))
    assert torch.equal(graph.block("b:2"), weight.view(7, 4, 5).transpose(1, 2))
    assert graph.row().numel() == sum(parameter.numel() for parameter in network.module.parameters())


def grouped_network(function_module):
    """Two convolutions of which the second stays within groups, a norm, one learned number, a mean and a linear layer."""
    modules = {
        "a": nn.Conv1d(3, 4, 2), "b": nn.Conv1d(4, 6, 3, groups=2), "n": nn.BatchNorm1d(6), "g": nn.Parameter(torch.zeros(1)),
        "c": nn.Linear(6, 5),
    }  # fmt: skip
    return function_module(lambda s, x: s.c((torch.relu(s.n(s.b(torch.relu(s.a(x))))) * s.g).mean(-1)), **modules)


def test_the_edge_table_of_a_grouped_block_agrees_with_a_loop_over_its_weights(function_module, make_graph):
    module = grouped_network(function_module)
    graph = make_graph(module, (2, 3, 9))
    data, topology = graph.to_pyg(), graph.topology
    place = [block.name for block in topology.blocks].index("b")
    index, attributes = data.edge_index[:, data.edge_block == place], data.edge_attr[data.edge_block == place]
    sources, targets, kernels = [], [], []
    for target in range(6):
        for source in range(2):
            sources.append(topology.node_ptr["a"] + 2 * (target // 3) + source)
            targets.append(topology.node_ptr["b"] + target)
            kernels.append(module.b.weight[target, source].tolist())
    assert index.tolist() == [sources, targets]
    assert attributes.tolist() == kernels
    assert data.edge_index.shape[1] == topology.num_edges
    assert data.validate()


def test_a_feature_that_all_nodes_share_stands_on_each(function_module, make_graph):
    module = grouped_network(function_module)
    graph = make_graph(module, (2, 3, 9))
    (value,) = module.g.tolist()
    assert graph.node_feature("g", "g").tolist() == [value] * 6
    data = graph.to_pyg()
    assert data.feature_names == ["bias", "g", "running_mean", "running_var"]
    start = graph.topology.node_ptr["g"]
    assert data.x[start : start + 6, 1].tolist() == [value] * 6
    assert data.x[:start, 1].eq(0).all()


def test_buffers_are_carried_beside_the_values_and_restored_in_their_place(function_module, make_graph):
    module = grouped_network(function_module)
    graph = make_graph(module, (2, 3, 9))
    module.n.num_batches_tracked += 7
    again = NeuralGraph.from_state_dict(graph.topology, module.state_dict())
    assert again.buffers["n.num_batches_tracked"] == 7
    assert list(restore(again)) == list(module.state_dict())
    assert again.equal(graph)
    row = NeuralGraph.from_row(graph.topology, graph.row())
    assert row.buffers == {}
    assert list(restore(row)) == [path for path in module.state_dict() if path != "n.num_batches_tracked"]


def test_a_state_dict_may_lack_buffers_but_no_parameter(function_module, make_graph):
    module = grouped_network(function_module)
    topology = make_graph(module, (2, 3, 9)).topology
    state_dict = {path: entry for path, entry in module.state_dict().items() if path != "n.num_batches_tracked"}
    assert NeuralGraph.from_state_dict(topology, state_dict).buffers == {}
    with pytest.raises(GraphError, match="state dict lacks 'n.running_var'; expected g, a.weight, a.bias, b.weight"):
        NeuralGraph.from_state_dict(topology, {path: entry for path, entry in state_dict.items() if path != "n.running_var"})


def test_an_entry_under_two_names_is_restored_under_both_from_a_row(make_graph):
    shared = nn.Linear(5, 5)
    module = nn.Sequential(nn.Linear(3, 5), shared, nn.ReLU(), shared)
    graph = make_graph(module, (2, 3))
    restored = restore(NeuralGraph.from_row(graph.topology, graph.row()))
    assert list(restored) == list(module.state_dict())
    assert all(torch.equal(entry, module.state_dict()[path]) for path, entry in restored.items())
    assert graph.row().numel() == sum(parameter.numel() for parameter in module.parameters())


def test_node_features_that_a_group_lacks_are_zeros(make):
    network = make("mlp")
    graph = network.graph
    assert torch.equal(graph.node_feature("input", "bias"), torch.zeros(3, dtype=torch.float64))
    assert torch.equal(graph.node_feature("2", "running_mean"), torch.zeros(5, dtype=torch.float64))


def test_names_that_do_not_exist_are_refused(make):
    network = make("mlp")
    graph = network.graph
    with pytest.raises(GraphError, match="no block '1' in this topology; expected one of 0, 2, 4"):
        graph.block("1")
    with pytest.raises(GraphError, match="no group '1' in this topology; expected one of input, 0, 2, 4"):
        graph.node_feature("1", "bias")


def test_graphs_are_equal_only_if_every_bit_is(make):
    network = make("mlp")
    graph = network.graph

    def changed(edit):
        row = graph.row()
        edit(row)
        return NeuralGraph.from_row(graph.topology, row)

    assert graph.equal(changed(lambda row: None))
    assert not graph.equal(changed(lambda row: row[13].mul_(1 + 2**-52)))
    zero, minus_zero, nan = (changed(lambda row, value=value: row[13].fill_(value)) for value in (0.0, -0.0, float("nan")))
    assert not zero.equal(minus_zero)
    assert nan.equal(changed(lambda row: row[13].fill_(float("nan"))))
    half = NeuralGraph.from_row(graph.topology, torch.zeros(80))
    assert not half.equal(NeuralGraph.from_row(graph.topology, torch.zeros(80, dtype=torch.float64)))
    other = trace(copy.deepcopy(network.module).append(nn.ReLU()), network.inputs)
    assert not graph.equal(other)


def test_values_that_do_not_fit_are_refused(make):
    network = make("mlp")
    graph = network.graph
    with pytest.raises(
        GraphError, match=r"values of shapes \[\(7,\), \(5,\), \(2,\)\] do not fit a topology; expected .*\(7, 3, 1\)"
    ):
        NeuralGraph(graph.topology, graph.slot_values[:3])
    with pytest.raises(GraphError, match="value rows have 79 values; expected 80"):
        NeuralGraph.from_row(graph.topology, torch.zeros(79))
    with pytest.raises(GraphError, match="state dict lacks '0.weight'"):
        NeuralGraph.from_state_dict(graph.topology, {})


def test_a_graph_prints_its_sizes(make):
    network = make("mlp")
    assert repr(network.graph) == "NeuralGraph(17 nodes in 4 groups, 66 edges in 3 blocks, 80 parameters)"


@pytest.mark.parametrize("kernel", [(3, 1), (1, 5), (2, 4), (1, 1), (3, 5), (2, 5)])
def test_padding_puts_a_kernel_in_the_middle(kernel):
    values = torch.randn(2, 4, kernel[0] * kernel[1], generator=torch.Generator().manual_seed(0))
    padded = pad_kernel(values, kernel, (3, 5))
    for place in np.ndindex(2, 4):
        assert np.array_equal(padded[place], pad_by_loop(values[place].view(kernel), (3, 5)).astype(np.float32))


def test_a_kernel_with_fewer_axes_is_padded_as_a_row_and_a_single_number_in_the_centre():
    assert pad_kernel(torch.tensor([1.0, 2.0, 3.0]), (3,), (3, 5)).view(3, 5).tolist() == [[0] * 5, [0, 1, 2, 3, 0], [0] * 5]
    assert pad_kernel(torch.tensor([7.0]), (), (3, 5)).nonzero().item() == 7


def test_a_kernel_of_full_size_is_not_copied():
    values = torch.randn(2, 15)
    assert pad_kernel(values, (3, 5), (3, 5)) is values


@pytest.mark.parametrize(
    ("kernel", "to", "text"),
    [
        ((3, 7), (5, 5), r"kernel \(3, 7\) does not fit into \(5, 5\)"),
        ((2, 2, 2), (4, 4), r"kernel \(2, 2, 2\) has 3 axes; expected at most 2"),
    ],
)
def test_a_kernel_that_does_not_fit_is_refused(kernel, to, text):
    with pytest.raises(GraphError, match=text):
        pad_kernel(torch.zeros(2, 3, int(np.prod(kernel))), kernel, to)


def test_the_largest_kernel_is_taken_axis_by_axis_over_all_topologies(make):
    topologies = {
        name: trace(make(name).module, make(name).inputs).topology for name in ("mlp", "conv1d", "conv2d_of_non_square_kernels")
    }
    assert largest_kernel(topologies["mlp"]) == ()
    assert largest_kernel(topologies["conv1d"]) == (4,)
    assert largest_kernel(*topologies.values()) == (3, 5)
    assert largest_kernel() == ()


def test_the_edge_index_of_a_topology_is_made_once(make):
    network = make("mlp")
    topology = network.graph.topology
    assert edge_index(topology) is edge_index(topology)
