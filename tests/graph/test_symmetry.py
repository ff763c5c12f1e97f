from __future__ import annotations

import copy
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ngbench.errors import GraphError
from ngbench.graph import EdgeBlock, NeuralGraph, NodeGroup, ParameterView, Topology, restore, symmetry, trace
from ngbench.graph.symmetry import GroupElement
from ngbench.graph.topology import Index
from ngbench.testing import attention_topology, residual_topology

SEED = 11


def difference(outputs, others):
    """Largest difference of two networks' outputs, relative to the largest output."""
    return float((outputs - others).abs().max() / outputs.abs().max())


def widest(topology, role):
    """Name of the widest group of a role."""
    return max((group for group in topology.groups if group.role == role), key=lambda group: group.size).name


def rotation(topology, *names):
    """An element outside the symmetry group, unless it has these groups: each one's nodes move on by one."""
    return GroupElement(topology, {name: torch.arange(topology.group(name).size).roll(1) for name in names})


def chain(*sizes):
    """A topology of dense blocks from group to group."""
    roles = ["input", *["hidden"] * (len(sizes) - 2), "output"]
    groups = tuple(NodeGroup(str(i), size, role, "relu", i) for i, (size, role) in enumerate(zip(sizes, roles, strict=True)))
    blocks = tuple(
        EdgeBlock(str(i), str(i - 1), str(i), "dense", "linear", (), ParameterView(f"{i}.weight")) for i in range(1, len(sizes))
    )
    return Topology(groups, blocks, tuple((f"{i}.weight", (sizes[i], sizes[i - 1])) for i in range(1, len(sizes))))


def test_the_group_is_the_product_of_symmetric_groups_that_it_should_be(network):
    group = symmetry.group(network.graph.topology)
    assert str(group) == network.group
    sizes = [int(factor.removeprefix("S_")) for factor in network.group.split(" × ") if factor != "1"]
    assert group.log_order == pytest.approx(math.log(math.prod(math.factorial(size) for size in sizes)), abs=1e-12)


def test_a_permuted_network_computes_the_same_function(network):
    element = symmetry.group(network.graph.topology).sample(SEED)
    state_dict = network.module.state_dict()
    permuted = element.act_state_dict(state_dict)
    moved = not all(torch.equal(permuted[path], state_dict[path]) for path in state_dict)
    assert moved is (network.group != "1")
    assert difference(network.outputs(), network.outputs(permuted)) < 1e-10


def test_a_permutation_of_outputs_changes_the_function(network):
    topology = network.graph.topology
    name = widest(topology, "output")
    if topology.group(name).size == 1:
        name = widest(topology, "input")
    outside = rotation(topology, name)
    assert difference(network.outputs(), network.outputs(outside.act_state_dict(network.module.state_dict()))) > 1e-3


def test_moving_the_targets_of_the_first_block_alone_changes_the_function(network):
    slots = zip(network.graph.topology.slots, network.graph.slot_values, strict=True)
    first = network.graph.topology.blocks[0].name
    slot_values = tuple(values.roll(1, 0) if (slot.owner, slot.feature) == (first, None) else values for slot, values in slots)
    state_dict = restore(NeuralGraph(network.graph.topology, slot_values))
    assert difference(network.outputs(), network.outputs(state_dict)) > 1e-3


def test_tracing_a_permuted_network_gives_the_permuted_graph(network):
    graph = network.graph
    element = symmetry.group(graph.topology).sample(SEED)
    permuted = copy.deepcopy(network.module)
    permuted.load_state_dict(element.act_state_dict(network.module.state_dict()))
    assert trace(permuted, network.inputs).equal(element.act(graph))
    assert element.act(graph).equal(graph) is (network.group == "1")


def test_the_table_of_a_permuted_graph_is_the_relabelled_table(network):
    graph = network.graph
    element = symmetry.group(graph.topology).sample(SEED)
    old, new = graph.to_pyg(), element.act(graph).to_pyg()
    label = torch.arange(graph.topology.num_nodes)
    for name, permutation in element.permutations.items():
        start = graph.topology.node_ptr[name]
        label[start : start + len(permutation)] = start + permutation
    attributes = dict(zip(edges(old), old.edge_attr, strict=True))
    assert len(attributes) == graph.topology.num_edges
    for (block, source, target), attribute in zip(edges(new), new.edge_attr, strict=True):
        assert torch.equal(attribute, attributes[block, int(label[source]), int(label[target])])
    assert torch.equal(new.x, old.x[label])


def edges(data):
    """Block, source and target of each edge."""
    return list(zip(data.edge_block.tolist(), *data.edge_index.tolist(), strict=True))


def test_hidden_units_joined_by_an_activation_permute_together(make):
    network = make("two_activations_of_one_layer")
    element = symmetry.group(network.graph.topology).sample(SEED)
    assert set(element.permutations) == {"a", "a:relu", "a:tanh"}
    assert torch.equal(element.permutations["a:relu"], element.permutations["a:tanh"])
    assert torch.equal(element.permutations["a:relu"], element.permutations["a"])


def test_groups_of_a_tied_parameter_permute_together_and_not_apart(make):
    network = make("layer_called_twice")
    graph = network.graph
    element = symmetry.group(graph.topology).sample(SEED)
    assert set(element.permutations) == {"a", "b", "b:2"}
    assert all(torch.equal(permutation, element.permutations["a"]) for permutation in element.permutations.values())
    apart = rotation(graph.topology, "a")
    assert difference(network.outputs(), network.outputs(apart.act_state_dict(network.module.state_dict()))) > 1e-3


def test_units_read_in_two_layouts_by_one_weight_do_not_permute(make):
    network = make("one_weight_in_two_layouts")
    topology = network.graph.topology
    assert symmetry.group(topology).indices == ()
    moved = rotation(topology, "a").act_state_dict(network.module.state_dict())
    assert difference(network.outputs(), network.outputs(moved)) > 1e-3


def test_a_hidden_group_joined_to_an_input_stays():
    groups = (
        NodeGroup("x", 3, "input", "none", 0, indices=("x",)),
        NodeGroup("same", 3, "hidden", "none", 1, indices=("x",)),
        NodeGroup("y", 2, "output", "none", 2),
    )
    blocks = (
        EdgeBlock("same", "x", "same", "diagonal", "identity"),
        EdgeBlock("y", "same", "y", "dense", "linear", (), ParameterView("w")),
    )
    assert str(symmetry.group(Topology(groups, blocks, (("w", (2, 3)),), (Index("x", 3, fixed=True),)))) == "1"
    assert str(symmetry.group(Topology(groups, blocks, (("w", (2, 3)),), (Index("x", 3),)))) == "S_3"


def test_an_element_is_told_by_how_its_indices_move(network):
    group = symmetry.group(network.graph.topology)
    element = group.sample(SEED)
    moves = group.moves({name: nodes.numpy() for name, nodes in element.permutations.items()})
    assert set(moves) == {index.name for index in group.indices}
    again = group.element(moves).permutations
    assert set(again) == set(element.permutations) == set(group.moving_groups)
    assert all(torch.equal(again[name], element.permutations[name]) for name in again)
    assert all((nodes == torch.arange(len(nodes))).all() for nodes in group.element({}).permutations.values())


def test_groups_that_move_by_themselves_are_told_from_symmetries():
    group = symmetry.group(residual_topology(5, num_inner=4))
    with pytest.raises(GraphError, match="group 'add' are permuted as no symmetry does"):
        group.moves({"add": np.array([1, 0, 2, 3, 4])})
    with pytest.raises(GraphError, match="group 'head' are permuted as no symmetry does"):
        group.moves({"head": np.array([1, 0, 2, 3, 4])})


def test_units_that_leave_their_head_are_told_from_symmetries():
    group = symmetry.group(attention_topology(4, num_heads=2, head_width=3))
    with pytest.raises(GraphError, match="group 'query' are permuted as no symmetry does"):
        group.moves({name: np.array([0, 1, 3, 2, 4, 5]) for name in ("query", "key")})


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        (np.array([0, 1, 1, 3]), "what is said of group 'norm' is no permutation of its 4 nodes"),
        (np.array([0, 1, 2, 4]), "what is said of group 'norm' is no permutation of its 4 nodes"),
        (np.arange(5), r"the permutation of group 'norm' is int64 \[5\]; expected integers \[4\]"),
        (np.arange(4.0), r"the permutation of group 'norm' is float64 \[4\]; expected integers \[4\]"),
    ],
)
def test_what_is_no_permutation_of_nodes_is_refused(nodes, text):
    with pytest.raises(GraphError, match=text):
        symmetry.group(residual_topology(5, num_inner=4)).moves({"norm": nodes})


def test_moves_that_are_no_permutations_of_an_index_are_refused():
    group = symmetry.group(residual_topology(5, num_inner=4))
    with pytest.raises(GraphError, match=r"move of index 'inner' has shape \(4,\) and type int64, and entries from 0 to 4"):
        group.element({"inner": np.array([0, 1, 2, 4])})
    with pytest.raises(GraphError, match="index 'head' does not move; expected one of stream, inner"):
        group.element({"head": np.arange(5)})


def test_the_inverse_undoes_an_element_and_composition_is_acting_in_turn(network):
    graph = network.graph
    group = symmetry.group(graph.topology)
    first, second = group.sample(1), group.sample(2)
    assert first.inverse().act(first.act(graph)).equal(graph)
    assert first.act(first.inverse().act(graph)).equal(graph)
    assert second.compose(first).act(graph).equal(second.act(first.act(graph)))
    assert first.inverse().compose(first).act(graph).equal(group.identity().act(graph))
    assert group.identity().act(graph).equal(graph)
    assert first.compose(group.identity()).act(graph).equal(first.act(graph))
    assert group.identity().compose(first).act(graph).equal(first.act(graph))


def test_composition_is_not_commutative_and_so_its_order_matters(make):
    network = make("mlp")
    graph = network.graph
    first, second = (symmetry.group(graph.topology).sample(seed) for seed in (1, 2))
    assert not first.compose(second).act(graph).equal(second.compose(first).act(graph))


def test_the_inverse_of_a_composition_is_the_composition_of_inverses_in_turn():
    group = symmetry.group(chain(3, 7, 5, 2))
    first, second = group.sample(1), group.sample(2)
    left, right = second.compose(first).inverse(), first.inverse().compose(second.inverse())
    assert all(torch.equal(left.permutations[name], right.permutations[name]) for name in ("1", "2"))


def test_acting_on_a_graph_and_on_a_state_dict_is_the_same(network):
    graph = network.graph
    element = symmetry.group(graph.topology).sample(SEED)
    state_dict = element.act_state_dict(network.module.state_dict())
    assert list(state_dict) == list(network.module.state_dict())
    assert NeuralGraph.from_state_dict(graph.topology, state_dict).equal(element.act(graph))


def test_acting_leaves_graph_and_state_dict_as_they_were_and_shares_no_memory(network):
    graph = network.graph
    before, state_dict = graph.row(), network.module.state_dict()
    element = symmetry.group(graph.topology).sample(SEED)
    acted, acted_state_dict = element.act(graph), element.act_state_dict(state_dict)
    for values in (*acted.slot_values, *acted_state_dict.values()):
        values.zero_()
    assert torch.equal(graph.row(), before)
    assert NeuralGraph.from_state_dict(graph.topology, network.module.state_dict()).equal(
        NeuralGraph.from_row(graph.topology, before)
    )


def test_scrambling_rows_is_acting_with_a_sample_on_each(network):
    topology = network.graph.topology
    group = symmetry.group(topology)
    rows = torch.randn(4, topology.num_values, generator=torch.Generator().manual_seed(3))
    before, seeds = rows.clone(), [5, 0, 2**64 - 1, 5]
    scrambled = group.scramble(rows, seeds)
    assert torch.equal(rows, before)
    for row, seed, expected in zip(rows, seeds, scrambled, strict=True):
        assert torch.equal(group.sample(seed).act(NeuralGraph.from_row(topology, row)).row(), expected)
    assert torch.equal(group.scramble(rows[1:2], np.array(seeds[1:2])), scrambled[1:2])
    assert group.scramble(rows[:0], []).shape == (0, topology.num_values)


def test_a_seed_gives_the_same_element_for_ever():
    element = symmetry.group(chain(2, 7, 5, 3)).sample(42)
    assert {name: permutation.tolist() for name, permutation in element.permutations.items()} == {
        "1": [0, 3, 2, 4, 5, 6, 1],
        "2": [4, 2, 3, 1, 0],
    }


def test_other_seeds_give_other_elements():
    group = symmetry.group(chain(2, 13, 11, 3))
    assert len({tuple(group.sample(seed).permutations["1"].tolist()) for seed in range(200)}) == 200


def test_samples_of_s3_are_uniform():
    num_samples, group = 6000, symmetry.group(chain(2, 3, 4))
    counts = Counter(tuple(group.sample(seed).permutations["1"].tolist()) for seed in range(num_samples))
    assert set(counts) == set(itertools.permutations(range(3)))
    # 20.5 is the 99.9 % quantile of chi-square with five degrees of freedom.
    assert sum((count - num_samples / 6) ** 2 / (num_samples / 6) for count in counts.values()) < 20.5


def test_the_factors_of_a_sample_are_independent():
    num_samples, group = 6000, symmetry.group(chain(4, 3, 2, 5))
    rows = torch.arange(group.topology.num_values).expand(num_samples, -1)
    counts = Counter(map(tuple, group.scramble(rows, range(num_samples)).tolist()))
    assert len(counts) == math.factorial(3) * math.factorial(2)
    # 31.3 is the 99.9 % quantile of chi-square with eleven degrees of freedom.
    assert sum((count - num_samples / 12) ** 2 / (num_samples / 12) for count in counts.values()) < 31.3


def test_numbers_of_seeds_and_networks_that_differ_are_refused():
    group = symmetry.group(chain(2, 7, 5))
    with pytest.raises(GraphError, match="got 3 seeds for 4 networks"):
        group.scramble(torch.zeros(4, 49), [1, 2, 3])


def test_rows_of_another_topology_are_refused():
    with pytest.raises(GraphError, match="value rows have 50 values; expected 49"):
        symmetry.group(chain(2, 7, 5)).scramble(torch.zeros(4, 50), range(4))


def test_an_element_of_another_topology_is_refused():
    one, other = chain(2, 7, 5), chain(2, 5, 7)
    graph = NeuralGraph.from_row(one, torch.zeros(one.num_values))
    with pytest.raises(GraphError, match=f"topology {other.digest[:12]} cannot act on a graph of {one.digest[:12]}"):
        symmetry.group(other).sample(0).act(graph)
    with pytest.raises(GraphError, match="elements of different topologies do not compose"):
        symmetry.group(one).sample(0).compose(symmetry.group(other).sample(0))
    with pytest.raises(GraphError, match=r"'1.weight' has shape \(7, 2\); expected \(5, 2\)"):
        symmetry.group(other).sample(0).act_state_dict({"1.weight": torch.zeros(7, 2), "2.weight": torch.zeros(5, 7)})


ACTIVATIONS = [nn.ReLU, nn.Tanh, nn.GELU, nn.Softplus, nn.Identity, lambda: nn.ReLU(inplace=True)]
SIZES = st.integers(1, 5)


@st.composite
def random_mlps(draw):
    sizes = draw(st.lists(SIZES, min_size=2, max_size=5))
    layers = []
    for num_sources, num_targets in itertools.pairwise(sizes):
        layers += [nn.Linear(num_sources, num_targets, bias=draw(st.booleans())), draw(st.sampled_from(ACTIVATIONS))()]
    return nn.Sequential(*layers[:-1]), (draw(st.integers(1, 3)), sizes[0])


@st.composite
def random_cnns(draw):
    num_axes, batch = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    convolution, pool = (nn.Conv1d, nn.AdaptiveAvgPool1d) if num_axes == 1 else (nn.Conv2d, nn.AdaptiveMaxPool2d)
    channels = draw(st.lists(SIZES, min_size=2, max_size=4))
    layers = []
    for num_sources, num_targets in itertools.pairwise(channels):
        kernel, stride, dilation = (tuple(draw(st.integers(1, 3)) for _ in range(num_axes)) for _ in range(3))
        padding = tuple(size - 1 for size in kernel)
        layers += [convolution(num_sources, num_targets, kernel, stride, padding, dilation), draw(st.sampled_from(ACTIVATIONS))()]
    grid = tuple(draw(st.integers(1, 3)) for _ in range(num_axes))
    layers += [pool(grid if num_axes == 2 else grid[0]), nn.Flatten(), nn.Linear(channels[-1] * math.prod(grid), draw(SIZES))]
    return nn.Sequential(*layers), (batch, channels[0], *(draw(st.integers(12, 15)) for _ in range(num_axes)))


@settings(max_examples=20)
@given(architecture=random_mlps() | random_cnns(), seed=st.integers(0, 2**64 - 1))
def test_both_laws_hold_for_random_architectures(architecture, seed):
    module, shape = architecture
    generator = torch.Generator().manual_seed(seed % 2**32)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    inputs = torch.randn(shape, generator=generator, dtype=torch.float64)
    graph = trace(module, inputs)
    element = symmetry.group(graph.topology).sample(seed)
    permuted = copy.deepcopy(module)
    permuted.load_state_dict(element.act_state_dict(module.state_dict()))
    torch.testing.assert_close(permuted(inputs), module(inputs), rtol=1e-10, atol=1e-10)
    assert trace(permuted, inputs).equal(element.act(graph))
    assert trace(module, inputs.new_zeros(4, *shape[1:])).topology == graph.topology
