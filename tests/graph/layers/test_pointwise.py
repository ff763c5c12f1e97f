from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ngbench.graph import symmetry, trace

BATCH = 4


def parameter(*shape):
    return nn.Parameter(torch.zeros(shape))


def between(function, *, units=5, read=5, **modules):
    """Two linear layers with a function of the module and the hidden units between."""
    forward = lambda s, x: s.b(function(s, s.a(x)))  # noqa: E731
    return forward, {"a": nn.Linear(3, units), "b": nn.Linear(read, 2), **modules}, (BATCH, 3)


def of_two(function):
    """A function of two linear layers, read by a third."""
    forward = lambda s, x: s.b(function(s.a(x), s.c(x)))  # noqa: E731
    return forward, {"a": nn.Linear(3, 5), "c": nn.Linear(3, 5), "b": nn.Linear(5, 2)}, (BATCH, 3)


def branches(function):
    """A layer, and a branch of two more that comes back to its units."""
    forward = lambda s, x: s.d(function(h := s.a(x), s.c(torch.relu(s.b(h)))))  # noqa: E731
    modules = {"a": nn.Linear(3, 5), "b": nn.Linear(5, 7), "c": nn.Linear(7, 5), "d": nn.Linear(5, 2)}
    return forward, modules, (BATCH, 3)


LAYERS = {
    "a slope for each unit": (*between(lambda s, h: s.p(h), p=nn.PReLU(5)), "S_5"),
    "one slope": (*between(lambda s, h: s.p(h), p=nn.PReLU()), "S_5"),
    "one slope of a single unit": (*between(lambda s, h: s.p(h), p=nn.PReLU(), units=1, read=1), "1"),
    "gated linear unit": (*between(lambda s, h: F.glu(h, -1), units=10), "S_5"),
    "gated positions": (
        lambda s, x: s.b(F.glu(s.a(x), 2).mean(-1)),
        {"a": nn.Conv1d(3, 5, 2), "b": nn.Linear(5, 2)},
        (BATCH, 3, 9),
        "S_5",
    ),
    "gate of two layers": (*of_two(lambda a, c: F.silu(a) * c), "S_5"),
    "quotient": (*of_two(lambda a, c: a / (1 + torch.exp(c))), "S_5"),
    "maximum": (*of_two(torch.maximum), "S_5"),
    "residual": (*branches(lambda h, y: h + y), "S_5 × S_7"),
    "residual that comes second": (*branches(lambda h, y: y + h), "S_5 × S_7"),
    "difference": (*branches(lambda h, y: h - y), "S_5 × S_7"),
    "difference the other way round": (*branches(lambda h, y: y - h), "S_5 × S_7"),
    "product with itself": (*between(lambda s, h: h * torch.sigmoid(h)), "S_5"),
    "sum of two calls": (lambda s, x: s.b(s.a(x) + s.a(x)), {"a": nn.Linear(3, 5), "b": nn.Linear(5, 2)}, (BATCH, 3), "S_5"),
    "two calls through different functions": (
        lambda s, x: s.b(s.a(x) * torch.sigmoid(s.a(x))), {"a": nn.Linear(3, 5), "b": nn.Linear(5, 2)}, (BATCH, 3), "S_5",
    ),
    "late bias": (
        lambda s, x: s.b(torch.relu(s.a(x) + s.v)),
        {"a": nn.Linear(3, 5, bias=False), "v": parameter(5), "b": nn.Linear(5, 2)}, (BATCH, 3), "S_5",
    ),
    "scale": (*between(lambda s, h: torch.relu(h) * s.g, g=parameter(5)), "S_5"),
    "scale that divides": (*between(lambda s, h: torch.relu(h) / s.g, g=parameter(5)), "S_5"),
    "shift": (*between(lambda s, h: torch.relu(h) - s.g, g=parameter(5)), "S_5"),
    "one number": (*between(lambda s, h: torch.relu(h) * s.g, g=parameter(1)), "S_5"),
    "one number without an axis": (*between(lambda s, h: torch.relu(h) + s.g, g=parameter()), "S_5"),
    "largest of units and parameters": (*between(lambda s, h: torch.maximum(h, s.g), g=parameter(5)), "S_5"),
    "a constant that differs": (*between(lambda s, h: torch.relu(h) * torch.arange(1.0, 6, dtype=h.dtype)), "1"),
    "a constant that does not": (*between(lambda s, h: torch.relu(h) * torch.full((5,), 2.0, dtype=h.dtype)), "S_5"),
    "softmax over units": (*between(lambda s, h: torch.softmax(h, 1)), "S_5"),
    "softmax over graphs": (*between(lambda s, h: F.log_softmax(h, dim=0)), "S_5"),
    "share of the sum": (*between(lambda s, h: h.exp() / h.exp().sum(-1, keepdim=True)), "S_5"),
    "unit length": (*between(lambda s, h: F.normalize(h, dim=-1)), "S_5"),
    "standard units": (*between(lambda s, h: (h - h.mean(-1, keepdim=True)) / (h.var(-1, keepdim=True) + 1).sqrt()), "S_5"),
    "largest of each piece": (*between(lambda s, h: h.unflatten(-1, (5, 4)).amax(-1), units=20), "(S_4 ≀ S_5)"),
    "largest over the pieces": (*between(lambda s, h: h.unflatten(-1, (4, 5)).logsumexp(1), units=20), "(S_4 ≀ S_5)"),
    "the largest three": (*between(lambda s, h: h.topk(3, -1)[0], units=7, read=3), "S_7"),
    "in order of size": (*between(lambda s, h: h.sort(-1)[0]), "S_5"),
    "sum of all units": (lambda s, x: torch.relu(s.a(x)).sum(-1), {"a": nn.Linear(3, 5)}, (BATCH, 3), "S_5"),
    "mean of everything": (lambda s, x: torch.relu(s.a(x)).mean(), {"a": nn.Linear(3, 5)}, (BATCH, 3), "S_5"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_an_element_wise_operation_obeys_the_laws(topology_of, name):
    topology_of(name)


@pytest.mark.parametrize(
    ("name", "shared"), [("a slope for each unit", False), ("one slope", True), ("one slope of a single unit", False)]
)
def test_slopes_are_features_behind_a_diagonal(topology_of, blocks_of, name, shared):
    topology = topology_of(name)
    (feature,) = topology.group("p").features
    assert (feature.parameter.path, feature.shared) == ("p.weight", shared)
    assert blocks_of(topology)["p"][3:] == ("prelu", (), ())
    assert topology.edge_block("p").parameter is None


def test_both_halves_of_a_gated_unit_are_groups_that_move_together(topology_of, groups_of, blocks_of):
    topology = topology_of("gated linear unit")
    groups, blocks = groups_of(topology), blocks_of(topology)
    assert groups["a[0]"] == (5, "hidden", "none", ("a[0]",))
    assert groups["a[1]"] == (5, "hidden", "sigmoid", ("a[0]",))
    assert blocks["glu"] == ("a[0]", "glu", "diagonal", "product", (), ())
    assert blocks["glu:2"] == ("a[1]", "glu", "diagonal", "product", (), ())
    assert [topology.edge_block(name).parameter.bounds[0] for name in ("a[0]", "a[1]")] == [(0, 5), (5, 10)]


@pytest.mark.parametrize("name", ["residual", "residual that comes second"])
def test_a_sum_joins_the_group_of_its_branch_in_either_order(topology_of, groups_of, blocks_of, name):
    topology = topology_of(name)
    assert list(groups_of(topology)) == ["x", "a", "b", "c", "d"]
    assert blocks_of(topology)["c:2"] == ("a", "c", "diagonal", "residual", (), ())


def test_a_bias_that_is_added_later_is_the_bias_of_its_layer(topology_of, groups_of):
    topology = topology_of("late bias")
    assert list(groups_of(topology)) == ["x", "a", "b"]
    assert [(feature.name, feature.parameter.path) for feature in topology.group("a").features] == [("bias", "v")]


@pytest.mark.parametrize(
    ("name", "operation", "on_edges"), [("scale", "scale", True), ("scale that divides", "div", True), ("shift", "sub", False)]
)
def test_a_number_for_each_unit_is_a_diagonal_or_a_bias_behind_one(topology_of, groups_of, blocks_of, name, operation, on_edges):
    topology = topology_of(name)
    assert groups_of(topology)["g"] == (5, "hidden", "none", ("a",))
    assert blocks_of(topology)["g"] == ("a", "g", "diagonal", operation, (), ())
    assert (topology.edge_block("g").parameter is not None) is on_edges
    assert [feature.name for feature in topology.group("g").features] == ([] if on_edges else ["bias"])


def test_one_learned_number_is_shared_by_its_nodes(topology_of):
    for name in ("one number", "one number without an axis"):
        (feature,) = topology_of(name).group("g").features
        assert (feature.name, feature.shared) == ("g", True)


@pytest.mark.parametrize(
    ("name", "index", "shared"), [("largest of each piece", "a.0", "amax"), ("largest over the pieces", "a.1", "logsumexp")]
)
def test_a_reduction_over_some_units_keeps_the_others(topology_of, groups_of, blocks_of, name, index, shared):
    topology = topology_of(name)
    assert groups_of(topology)[shared] == (5, "hidden", "none", (index,))
    assert blocks_of(topology)[shared] == ("a", shared, "grouped", shared, (), (index,))
    assert topology.block_shape(shared) == (5, 4, 1)


def test_units_in_order_of_size_are_fixed_entries(topology_of, groups_of, blocks_of):
    topology = topology_of("the largest three")
    assert groups_of(topology)["b.entries"] == (3, "structural", "none", ("b.entries",))
    assert blocks_of(topology)["b.entries"] == ("a", "b.entries", "dense", "entries", (), ())
    assert topology.group("a").pooling == ("topk",)


def test_a_sum_over_all_units_is_one_node(topology_of, groups_of, blocks_of):
    topology = topology_of("sum of all units")
    assert groups_of(topology)["sum"] == (1, "output", "none", ())
    assert blocks_of(topology)["sum"] == ("a", "sum", "dense", "output", (), ())


def hidden_activation(function_module, function):
    """Id of the activation between two linear layers."""
    module = function_module(lambda self, x: self.b(function(self.a(x))), a=nn.Linear(3, 5), b=nn.Linear(5, 2))
    graph = trace(module, torch.zeros(4, 3))
    assert [group.name for group in graph.topology.groups] == ["x", "a", "b"]
    return graph.topology.group("a").activation


def gelu_by_tanh(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_by_erf(x):
    return 0.5 * x * (1 + torch.erf(x * (1 / math.sqrt(2))))


def root_mean_square(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("relu", nn.ReLU()), ("relu", nn.ReLU(inplace=True)), ("relu", torch.relu), ("relu", F.relu), ("relu", torch.relu_),
        ("relu6", nn.ReLU6()), ("relu6", F.relu6), ("relu6", nn.Hardtanh(0, 6)), ("relu6", nn.ReLU6(inplace=True)),
        ("gelu", nn.GELU()), ("gelu", F.gelu), ("gelu(tanh)", nn.GELU("tanh")),
        ("gelu", gelu_by_erf), ("gelu(tanh)", gelu_by_tanh), ("gelu(sigmoid)", lambda x: x * torch.sigmoid(1.702 * x)),
        ("silu", nn.SiLU()), ("silu", F.silu), ("silu", nn.SiLU(inplace=True)), ("silu", lambda x: x * torch.sigmoid(x)),
        ("rms_norm", root_mean_square), ("(tanh*x)", lambda x: torch.tanh(x) * x), ("(x+x)", lambda x: x + x),
        ("tanh", nn.Tanh()), ("tanh", torch.tanh), ("tanh", torch.tanh_),
        ("sigmoid", nn.Sigmoid()), ("sigmoid", F.sigmoid), ("sigmoid", torch.sigmoid_),
        ("leaky_relu(0.01)", nn.LeakyReLU()), ("leaky_relu(0.2)", nn.LeakyReLU(0.2, inplace=True)),
        ("leaky_relu(0.3)", lambda x: F.leaky_relu(x, 0.3)),
        ("elu", nn.ELU()), ("elu(0.5)", nn.ELU(0.5)), ("elu(0.5)", nn.ELU(0.5, inplace=True)),
        ("celu", nn.CELU()),
        ("celu(2)", nn.CELU(2.0, inplace=True)), ("selu", nn.SELU()), ("selu", nn.SELU(inplace=True)),
        ("mish", nn.Mish()), ("mish", nn.Mish(inplace=True)), ("hardswish", nn.Hardswish()), ("hardsigmoid", nn.Hardsigmoid()),
        ("softplus", nn.Softplus()),
        ("softplus(2)", nn.Softplus(beta=2)), ("hardtanh(-1,1)", nn.Hardtanh()),
        ("log_sigmoid", nn.LogSigmoid()),
        ("softmax", nn.Softmax(-1)), ("softmax", nn.Softmax(1)), ("log_softmax", lambda x: F.log_softmax(x, dim=1)),
        ("softmax(positions)", nn.Softmax(0)),
        ("sine(1)", torch.sin), ("sine(30)", lambda x: torch.sin(30 * x)), ("sine(30)", lambda x: (30.0 * x).sin()),
        ("sine(2.5)", lambda x: torch.sin(x * 2.5)),
        ("cos", torch.cos), ("square", torch.square), ("pow(3)", lambda x: x**3), ("abs", torch.abs), ("neg", lambda x: -x),
        ("rsub(3)", lambda x: 3 - x), ("reciprocal|mul(2)", lambda x: 2 / x),
        ("clamp(0,1)", lambda x: x.clamp(0, 1)), ("clamp(0,None)", lambda x: x.clamp(min=0)),
        ("mul(2)|add(1)", lambda x: 2 * x + 1), ("mul(2)|add(1)", lambda x: x.mul_(2).add_(1)),
        ("sub(3)|div(4)", lambda x: (x - 3) / 4),
        ("add(6)", lambda x: torch.add(x, 3, alpha=2)), ("div(4,floor)", lambda x: torch.div(x, 4, rounding_mode="floor")),
        ("relu|tanh", lambda x: torch.tanh(torch.relu(x))), ("mul(3)|add(1)|sine(1)", lambda x: torch.sin(3 * x + 1)),
        ("relu|sine(4)", lambda x: torch.sin(4 * torch.relu(x))),
        ("none", nn.Identity()), ("none", nn.Dropout()), ("none", lambda x: x.clone().contiguous().float()),
        ("relu", lambda x: torch.relu(x.float())),
        ("tanh", nn.Sequential(nn.Dropout(), nn.Tanh(), nn.Dropout(inplace=True))),
    ],
)  # fmt: skip
def test_an_activation_has_one_id_however_it_is_written(function_module, activation, function):
    assert hidden_activation(function_module, function) == activation


def test_a_power_of_units_and_a_power_to_units_have_two_ids(function_module):
    assert hidden_activation(function_module, lambda x: x**2) == "pow(2)"
    assert hidden_activation(function_module, lambda x: 2**x) != "pow(2)"


def test_scalar_affine_of_input_and_output_belongs_to_their_groups(function_module):
    module = function_module(lambda self, x: self.a(x * 2 - 1) * 0.5 + 0.5, a=nn.Linear(3, 5))
    groups = trace(module, torch.zeros(4, 3)).topology.groups
    assert [(group.role, group.activation) for group in groups] == [("input", "mul(2)|sub(1)"), ("output", "mul(0.5)|add(0.5)")]


def test_an_operation_read_by_two_has_a_group_of_its_own_behind_a_diagonal(make):
    topology = make("two_activations_of_one_layer").graph.topology
    diagonals = [
        (block.name, block.source, block.target, block.operation, block.parameter)
        for block in topology.blocks
        if block.pattern == "diagonal"
    ]
    assert diagonals == [("a:relu", "a", "a:relu", "identity", None), ("a:tanh", "a", "a:tanh", "identity", None)]
    assert [topology.group(name).activation for name in ("a", "a:relu", "a:tanh")] == ["none", "relu", "tanh"]
    assert [topology.group(name).layer for name in ("x", "a", "a:relu", "b")] == [0, 1, 2, 3]


def test_the_common_beginning_of_several_activations_stays_on_the_layer(function_module, check, groups_of):
    def forward(s, x):
        hidden = torch.relu(s.a(x) * 3)
        return s.b(torch.tanh(hidden)), s.c(torch.sin(hidden)), s.d(hidden)

    modules = {"a": nn.Linear(3, 7), "b": nn.Linear(7, 5), "c": nn.Linear(7, 4), "d": nn.Linear(7, 2)}
    topology = check(function_module(forward, **modules), (BATCH, 3), group="S_7")
    activations = {name: group[2] for name, group in groups_of(topology).items() if group[1] == "hidden"}
    assert activations == {"a": "mul(3)|relu", "a:tanh": "tanh", "a:sine(1)": "sine(1)"}
    assert {block.name: block.source for block in topology.blocks}["d"] == "a"


def test_an_activation_read_beside_the_units_themselves_is_a_group_behind_a_diagonal(
    function_module, check, groups_of, blocks_of
):
    modules = {"a": nn.Linear(3, 5), "b": nn.Linear(5, 4), "c": nn.Linear(5, 2)}
    topology = check(function_module(lambda s, x: (s.b(h := s.a(x)), s.c(torch.relu(h))), **modules), (BATCH, 3), group="S_5")
    groups, blocks = groups_of(topology), blocks_of(topology)
    assert (groups["a"], groups["a:relu"]) == ((5, "hidden", "none", ("a",)), (5, "hidden", "relu", ("a",)))
    assert blocks["a:relu"] == ("a", "a:relu", "diagonal", "identity", (), ())
    assert (blocks["b"][0], blocks["c"][0]) == ("a", "a:relu")


def test_an_activation_behind_pooling_that_others_do_not_read_has_a_group_of_its_own(function_module):
    def forward(self, x):
        hidden = torch.relu(self.a(x))
        return self.c(torch.tanh(hidden.mean(-1))), self.b(hidden.flatten(1))

    modules = {"a": nn.Conv1d(3, 5, 2), "b": nn.Linear(5 * 8, 7), "c": nn.Linear(5, 2)}
    topology = trace(function_module(forward, **modules), torch.zeros(4, 3, 9)).topology
    activations = [(group.name, group.activation) for group in topology.groups]
    assert sorted(activations) == [("a", "relu"), ("a:tanh", "tanh"), ("b", "none"), ("c", "none"), ("x", "none")]
    assert (topology.edge_block("b").source, topology.edge_block("c").source) == ("a", "a:tanh")


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda a, c: a.sub(c, alpha=2), "'sub' of two tensors with alpha=2; expected a plain sum or quotient"),
        (lambda a, c: torch.div(a, c, rounding_mode="floor"), "'div' of two tensors with alpha=1,floor; expected a plain sum"),
        (lambda a, c: a.clamp(max=c.mean()), "'clamp' with a computed argument is not supported; expected a number"),
    ],
)
def test_functions_of_two_tensors_that_have_no_id_are_refused(function_module, refuses, function, text):
    forward, modules, shape = of_two(function)
    refuses(function_module(forward, **modules), shape, match=f"cannot trace the outermost module: {text}")


def test_a_unit_whose_place_an_output_names_does_not_move(function_module, make_graph):
    modules = {"a": nn.Linear(3, 5), "b": nn.Linear(5, 2)}
    for name in ("argmax", "argmin", "argsort"):
        module = function_module(lambda s, x, name=name: (s.b(h := torch.relu(s.a(x))), getattr(h, name)(-1)), **modules)
        assert str(symmetry.group(make_graph(module, (BATCH, 3)).topology)) == "1"


@pytest.mark.parametrize(
    ("between", "units", "group"),
    [
        (lambda h: h + h.sum(-1, keepdim=True), 6, "S_6"),
        (lambda h: h - h.amax(-1, keepdim=True), 6, "S_6"),
        (lambda h: h / (1 + h.abs().sum(-1, keepdim=True)), 6, "S_6"),
        (lambda h: h * h[:, :1], 6, "S_5"),
        (lambda h: h + h[:, torch.tensor([1, 0, 2, 5, 4, 3])], 6, "1"),
        (lambda h: h[:, 1:] - h[:, :-1], 5, None),
        (lambda h: (h[:, :, None] * h[:, None]).tril().flatten(1), 36, "1"),
        (lambda h: h + h.view(-1, 2, 3).transpose(1, 2).flatten(1), 6, None),
    ],
)
def test_units_that_meet_others_or_a_statistic_of_all_have_no_factor_of_their_own(function_module, between, units, group):
    torch.manual_seed(0)
    module = function_module(lambda s, x: s.b(between(torch.relu(s.a(x)))), a=nn.Linear(3, 6), b=nn.Linear(units, 2)).double()
    inputs, state_dict = torch.randn(4, 3, dtype=torch.float64), {k: v.clone() for k, v in module.state_dict().items()}
    found = symmetry.group(trace(module, inputs).topology, scaling=True, signs=True)
    assert group is None or str(found) == group
    before = module(inputs)
    for seed in range(3):
        module.load_state_dict(found.sample(seed).act_state_dict(state_dict))
        torch.testing.assert_close(module(inputs), before, rtol=1e-10, atol=1e-10)
