from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ngbench.errors import UnsupportedLayerError
from ngbench.graph import restore, trace
from ngbench.graph.trace import trace_program


def groups_of(graph):
    return groups_of_topology(graph.topology)


def groups_of_topology(topology):
    return [(group.name, group.size, group.role, group.layer) for group in topology.groups]


def blocks_of(graph):
    return [(block.name, block.source, block.target, block.operation, block.kernel) for block in graph.topology.blocks]


def test_an_mlp_has_a_group_for_each_layer_and_a_block_between(make):
    graph = make("mlp").graph
    assert groups_of(graph) == [("input", 3, "input", 0), ("0", 7, "hidden", 1), ("2", 5, "hidden", 2), ("4", 2, "output", 3)]
    assert blocks_of(graph) == [("0", "input", "0", "linear", ()), ("2", "0", "2", "linear", ()), ("4", "2", "4", "linear", ())]


def test_a_cnn_has_channels_as_nodes_and_kernels_on_its_edges(make):
    graph = make("conv2d_flatten").graph
    assert groups_of(graph) == [("input", 3, "input", 0), ("0", 5, "hidden", 1), ("4", 7, "hidden", 2), ("6", 6, "output", 3)]
    assert blocks_of(graph) == [
        ("0", "input", "0", "conv", (3, 3)),
        ("4", "0", "4", "linear", (2, 4)),
        ("6", "4", "6", "linear", ()),
    ]


def test_blocks_of_nested_modules_have_their_paths_as_names(make):
    assert [block.name for block in make("sequential_in_sequential").graph.topology.blocks] == ["0", "2.0", "2.1.1"]


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("bare_linear", [("input", 3, "input", 0), ("linear", 5, "output", 1)]),
        ("linear_at_each_position", [("input", 3, "input", 0), ("0", 7, "hidden", 1), ("2", 5, "output", 2)]),
        ("unbatched", [("input", 3, "input", 0), ("0", 7, "hidden", 1), ("2", 5, "output", 2)]),
        ("flatten_of_one_channel", [("input", 1, "input", 0), ("1", 7, "hidden", 1), ("3", 5, "output", 2)]),
        ("conv_after_unsqueeze", [("x", 1, "input", 0), ("a", 5, "hidden", 1), ("b", 7, "output", 2)]),
        ("two_heads", [("x", 3, "input", 0), ("a", 7, "hidden", 1), ("b", 5, "output", 2), ("c", 4, "output", 2)]),
        ("hidden_units_given_back", [("x", 3, "input", 0), ("a", 7, "output", 1), ("b", 5, "hidden", 2), ("c", 4, "output", 3)]),
        (
            "layer_called_twice",
            [("x", 3, "input", 0), ("a", 7, "hidden", 1), ("b", 7, "hidden", 2), ("b:2", 7, "hidden", 3), ("c", 5, "output", 4)],
        ),
    ],
)
def test_groups_and_roles_of_unusual_networks(make, name, groups):
    assert groups_of(make(name).graph) == groups


def test_each_input_has_its_own_group(make):
    graph = make("two_towers").graph
    assert [(group.name, group.size) for group in graph.topology.groups if group.role == "input"] == [("x", 3), ("others_0", 4)]
    assert [(block.source, block.target) for block in graph.topology.blocks] == [
        ("x", "a"),
        ("a", "b"),
        ("others_0", "c"),
        ("c", "d"),
    ]


def test_a_flatten_of_one_channel_is_one_node_with_the_grid_as_kernel(make):
    graph = make("flatten_of_one_channel").graph
    assert graph.topology.edge_block("1").kernel == (6, 4)
    assert graph.block("1").shape == (7, 1, 24)


def test_an_input_and_a_layer_of_one_name_are_told_apart():
    class Clash(nn.Module):
        def __init__(self):
            super().__init__()
            self.y, self.c = nn.Linear(3, 5), nn.Linear(4, 2)

        def forward(self, x, y):
            return self.y(x), self.c(y)

    graph = trace(Clash(), (torch.zeros(6, 3), torch.zeros(6, 4)))
    assert [(group.name, group.size) for group in graph.topology.groups] == [("x", 3), ("y", 5), ("y:2", 4), ("c", 2)]


def test_parameters_without_a_module_of_their_own_are_named_by_their_operation(function_module):
    weights = {"v": nn.Parameter(torch.randn(5, 3)), "w": nn.Parameter(torch.randn(2, 5))}
    module = function_module(lambda s, x: nn.functional.linear(nn.functional.linear(x, s.v).relu(), s.w), **weights)
    graph = trace(module, torch.zeros(4, 3))
    assert [block.name for block in graph.topology.blocks] == ["linear", "linear:2"]
    assert torch.equal(graph.block("linear:2")[..., 0], module.w)


def test_a_buffer_may_be_a_weight(function_module):
    module = function_module(lambda s, x: nn.functional.linear(x, s.w))
    module.register_buffer("w", torch.randn(5, 3))
    assert torch.equal(trace(module, torch.zeros(4, 3)).block("linear")[..., 0], module.w)


@pytest.mark.parametrize("num_graphs", [1, 3])
def test_the_topology_does_not_depend_on_how_many_graphs_the_example_has(network, num_graphs):
    inputs = tuple(x[:1].expand(num_graphs, *x.shape[1:]) if x.dim() > 1 else x for x in network.inputs)
    assert trace(network.module, inputs).topology == network.graph.topology


@pytest.mark.parametrize("name", ["mlp", "conv2d_flatten"])
def test_the_values_of_the_example_do_not_matter(make, name):
    network = make(name)
    inputs = tuple(torch.full_like(tensor, float("nan")) for tensor in network.inputs)
    assert trace(network.module, inputs).equal(network.graph)


def everything_of(module):
    """All that a user could see change in a module: values, types, gradients, flags, hooks, modes."""
    parameters = {
        path: (p.data_ptr(), p.detach().clone(), p.requires_grad, None if p.grad is None else p.grad.clone(), p._version)
        for path, p in module.named_parameters()
    }
    modules = {
        path: (type(m), m.training, list(m._forward_hooks), list(m._forward_pre_hooks), sorted(vars(m)))
        for path, m in module.named_modules()
    }
    return parameters, modules


def assert_same(before, after):
    assert before[1] == after[1]
    for path, (pointer, values, *rest) in before[0].items():
        other_pointer, other_values, *other_rest = after[0][path]
        assert pointer == other_pointer
        assert torch.equal(values, other_values)
        assert str(rest) == str(other_rest)


def test_tracing_leaves_module_inputs_and_generators_as_they_were(network):
    module, inputs = copy.deepcopy(network.module), tuple(tensor.clone() for tensor in network.inputs)
    for index, child in enumerate(module.modules()):
        child.training = index % 2 == 0
        child.register_forward_hook(lambda *_: None)
    first, *others = module.parameters()
    first.requires_grad_(False)
    for parameter in others:
        parameter.grad = torch.ones_like(parameter)
    before, random_state, grad_mode = everything_of(module), torch.get_rng_state(), torch.is_grad_enabled()
    trace(module, inputs)
    assert_same(before, everything_of(module))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.is_grad_enabled() is grad_mode
    assert all(map(torch.equal, inputs, network.inputs))


def test_modes_are_restored_when_tracing_fails():
    module = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(4), nn.Dropout())
    module[2].eval()
    for inputs in (torch.zeros(4, 6, 3), torch.zeros(4, 6)):
        with pytest.raises(UnsupportedLayerError):
            trace(module, inputs)
        assert [child.training for child in module.modules()] == [True, True, True, False]


def test_a_module_in_training_mode_has_the_graph_of_its_evaluation(make):
    network = make("dropouts")
    evaluated = network.graph
    network.module.train()
    assert trace(network.module, network.inputs).equal(evaluated)


def test_values_have_no_gradient_though_parameters_do(make):
    network = make("mlp")
    graph = network.graph
    assert all(parameter.requires_grad for parameter in network.module.parameters())
    assert not any(values.requires_grad for values in graph.slot_values)


def test_unused_parameters_are_named(function_module):
    module = function_module(lambda s, x: s.a(x), a=nn.Linear(3, 5), b=nn.Linear(5, 2))
    with pytest.raises(UnsupportedLayerError, match="'b.weight', 'b.bias' of the state dict do not reach the output"):
        trace(module, torch.zeros(4, 3))


def test_a_parameter_whose_result_is_thrown_away_is_unused(function_module):
    module = function_module(lambda s, x: (s.b(x), s.a(x))[1], a=nn.Linear(3, 5), b=nn.Linear(3, 2, bias=False))
    with pytest.raises(UnsupportedLayerError, match="'b.weight' of the state dict does not reach the output"):
        trace(module, torch.zeros(4, 3))


def test_one_parameter_under_two_names_is_shown_once_and_restored_under_both(check):
    shared = nn.Linear(5, 5)
    module = nn.Sequential(nn.Linear(3, 5), shared, nn.ReLU(), shared, nn.Linear(5, 2))
    topology = check(module, (4, 3), group="S_5")
    assert topology.tied == (("3.weight", "1.weight"), ("3.bias", "1.bias"))
    assert [block.name for block in topology.blocks] == ["0", "1", "3", "4"]
    assert topology.order == tuple(module.state_dict())
    assert topology.num_values == sum(parameter.numel() for parameter in module.parameters())


def test_one_bias_of_two_layers_makes_their_units_agree(check):
    first, second = nn.Linear(3, 5), nn.Linear(5, 5)
    second.bias = first.bias
    topology = check(nn.Sequential(first, nn.ReLU(), second, nn.Tanh(), nn.Linear(5, 2)), (4, 3), group="S_5")
    assert topology.tied == (("2.bias", "0.bias"),)
    assert [slot.owner for slot in topology.slots if slot.feature] == ["0", "4"]


def test_a_tied_parameter_of_which_only_the_second_name_is_read_is_restored_under_both(function_module, check):
    modules = {"a": nn.Linear(3, 5), "b": nn.Linear(3, 5), "c": nn.Linear(5, 2)}
    modules["a"].weight, modules["a"].bias = modules["b"].weight, modules["b"].bias
    topology = check(function_module(lambda s, x: s.c(torch.relu(s.b(x))), **modules), (4, 3), group="S_5")
    assert {path for path, _ in topology.parameters} | {path for path, _ in topology.tied} == {
        f"{layer}.{kind}" for layer in "abc" for kind in ("weight", "bias")
    }


def test_buffers_that_no_layer_reads_are_kept_beside_the_graph(function_module, check, make_graph):
    module = function_module(lambda s, x: s.b(torch.relu(s.n(s.a(x)))), a=nn.Linear(3, 5), n=nn.BatchNorm1d(5), b=nn.Linear(5, 2))
    module.register_buffer("seen", torch.tensor([7, 4]))
    module.n.num_batches_tracked += 13
    topology = check(module, (4, 3), group="S_5")
    assert topology.buffers == ("seen", "n.num_batches_tracked")
    assert topology.order == tuple(module.state_dict())
    restored = restore(make_graph(module, (4, 3)))
    assert restored["n.num_batches_tracked"] == 13
    assert restored["seen"].dtype == torch.int64


def test_in_place_writes_change_what_others_read_under_another_name(function_module, check):
    def forward(s, x):
        hidden = s.a(x)
        hidden.view(-1).relu_()
        return s.b(hidden)

    topology = check(function_module(forward, a=nn.Linear(3, 5), b=nn.Linear(5, 2)), (4, 3), group="S_5")
    assert [(group.name, group.activation) for group in topology.groups] == [("x", "none"), ("a", "relu"), ("b", "none")]


def test_the_result_of_an_in_place_operation_is_what_later_layers_read(function_module, check):
    def forward(s, x):
        hidden = s.a(x)
        nn.functional.relu_(hidden)
        return s.b(hidden)

    topology = check(function_module(forward, a=nn.Linear(3, 5), b=nn.Linear(5, 2)), (4, 3), group="S_5")
    assert [(group.name, group.activation) for group in topology.groups] == [("x", "none"), ("a", "relu"), ("b", "none")]


def test_integer_outputs_and_inputs_that_are_handed_on_are_no_output_nodes(function_module, check):
    module = function_module(
        lambda s, x: (x, s.b(torch.relu(s.a(x))), torch.ones(4, dtype=torch.int64), x.argmax(-1)),
        a=nn.Linear(3, 5),
        b=nn.Linear(5, 2),
    )
    topology = check(module, (4, 3), group="S_5")
    assert groups_of_topology(topology) == [("x", 3, "input", 0), ("a", 5, "hidden", 1), ("b", 2, "output", 2)]


def test_inputs_that_are_passed_by_name_have_groups(function_module):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 5), nn.Linear(4, 5)

        def forward(self, x, *, y):
            return self.a(x) * self.b(y)

    topology = trace(Sum(), (torch.zeros(2, 3),), {"y": torch.zeros(2, 4)}).topology
    assert [(g.name, g.size) for g in topology.groups if g.role == "input"] == [("x", 3), ("y", 4)]


def test_a_program_that_was_exported_before_has_the_graph_of_its_module(make):
    for name in ("mlp", "conv2d_flatten", "two_towers"):
        network = make(name)
        program = torch.export.export(network.module, network.inputs, strict=False)
        assert trace_program(program).equal(network.graph)


def test_a_layer_without_a_shape_is_refused(refuses):
    refuses(
        nn.Sequential(nn.LazyLinear(5), nn.Linear(5, 2)), (4, 3),
        match="parameter '0.weight' has no shape yet; run the module once on an example input, then trace it",
    )  # fmt: skip


def test_complex_parameters_are_refused(function_module, refuses):
    module = function_module(lambda s, x: (x.to(s.w.dtype) @ s.w).real, w=nn.Parameter(torch.zeros(3, 5, dtype=torch.complex64)))
    refuses(module, (4, 3), match=r"parameter 'w' holds complex numbers \(torch.complex64\); expected real ones")


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (nn.Identity(), r"output 'input' of shape \(4, 3\) is not the result of a layer"),
        (nn.ReLU(), r"output 'relu' of shape \(4, 3\) is not the result of a layer"),
        (nn.Flatten(0), r"output 'flatten' of shape \(12,\) is not the result of a layer"),
    ],
)
def test_an_output_that_no_layer_gives_is_refused(module, text):
    with pytest.raises(UnsupportedLayerError, match=text):
        trace(module, torch.zeros(4, 3))


def test_an_output_of_places_alone_is_refused(function_module, refuses):
    module = function_module(lambda s, x: nn.functional.adaptive_max_pool1d(s.a(x), 3, True)[1], a=nn.Conv1d(3, 5, 2))
    refuses(module, (4, 3, 9), match=r"output 'getitem_1' of shape \(4, 5, 3\) is not the result of a layer; expected an output")


def raising(error):
    def forward(self, x):
        raise error

    return forward


def branching(self, x):
    return self.a(x) if x.sum() > 0 else self.a(-x)


@pytest.mark.parametrize(
    ("forward", "inputs", "text"),
    [
        (raising(RuntimeError("no such mode 17")), torch.zeros(4, 3), r"shape \(4, 3\) \(no such mode 17\)"),
        (raising(KeyError("mask")), torch.zeros(4, 3), r"shape \(4, 3\) \('mask'\)"),
        (raising(AssertionError()), torch.zeros(4, 3), r"shape \(4, 3\) \(AssertionError\)"),
        (raising(ZeroDivisionError("by 0")), torch.zeros(4, 3), r"shape \(4, 3\) \(by 0\)"),
        (branching, torch.zeros(4, 3), r"shape \(4, 3\) \(Could not guard on data-dependent expression .*without data-dependent"),
        (lambda s, x: s.a(x), torch.zeros(4, 6), r"shape \(4, 6\) \(.*\[4, 6\] X \[3, 5\]"),
        (
            lambda s, x, *, y: s.a(x),
            (torch.zeros(4, 3), torch.zeros(2)),
            r"shape \(4, 3\), \(2,\) \(.*takes 2 positional arguments but 3",
        ),
        (lambda s, x, y: s.a(x), torch.zeros(4, 3), r"shape \(4, 3\) \(.*missing 1 required positional argument: 'y'"),
    ],
)
def test_a_module_that_does_not_run_is_refused_with_shapes_and_reason(function_module, forward, inputs, text):
    module = function_module(forward, a=nn.Linear(3, 5))
    with pytest.raises(UnsupportedLayerError, match=f"Function does not run under torch.export with inputs of {text}"):
        trace(module, inputs)
