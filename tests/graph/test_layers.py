from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ngbench.errors import UnsupportedLayerError
from ngbench.graph import trace
from ngbench.graph.layers import supported


def hidden_activation(function_module, function):
    """Id of the activation between two linear layers."""
    module = function_module(lambda self, x: self.b(function(self.a(x))), a=nn.Linear(3, 5), b=nn.Linear(5, 2))
    graph = trace(module, torch.zeros(4, 3))
    assert [group.name for group in graph.topology.groups] == ["x", "a", "b"]
    return graph.topology.group("a").activation


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("relu", nn.ReLU()), ("relu", nn.ReLU(inplace=True)), ("relu", torch.relu), ("relu", F.relu), ("relu", torch.relu_),
        ("relu6", nn.ReLU6()), ("relu6", F.relu6), ("relu6", nn.Hardtanh(0, 6)), ("relu6", nn.ReLU6(inplace=True)),
        ("gelu", nn.GELU()), ("gelu", F.gelu), ("gelu(tanh)", nn.GELU("tanh")),
        ("silu", nn.SiLU()), ("silu", F.silu), ("silu", nn.SiLU(inplace=True)),
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
        ("sine(1)", torch.sin), ("sine(30)", lambda x: torch.sin(30 * x)), ("sine(30)", lambda x: (30.0 * x).sin()),
        ("sine(2.5)", lambda x: torch.sin(x * 2.5)),
        ("cos", torch.cos), ("square", torch.square), ("pow(3)", lambda x: x**3), ("abs", torch.abs), ("neg", lambda x: -x),
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


def test_scalar_affine_of_input_and_output_belongs_to_their_groups(function_module):
    module = function_module(lambda self, x: self.a(x * 2 - 1) * 0.5 + 0.5, a=nn.Linear(3, 5))
    groups = trace(module, torch.zeros(4, 3)).topology.groups
    assert [(group.role, group.activation) for group in groups] == [("input", "mul(2)|sub(1)"), ("output", "mul(0.5)|add(0.5)")]


@pytest.mark.parametrize(
    "between",
    [
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.adaptive_max_pool2d(x, (2, 3)),
        lambda x: x.mean((2, 3), keepdim=True),
        lambda x: x.flatten(2),
        lambda x: x.transpose(1, 3).permute(0, 3, 1, 2).clone(),
    ],
)
def test_pooling_or_views_between_a_layer_and_its_activation_change_neither(function_module, between):
    def forward(self, x):
        return self.b(torch.tanh(between(self.a(x))).flatten(2).mean(-1))

    module = function_module(forward, a=nn.Conv2d(3, 5, 3), b=nn.Linear(5, 2))
    topology = trace(module, torch.zeros(4, 3, 8, 6)).topology
    assert [(group.name, group.activation) for group in topology.groups] == [("x", "none"), ("a", "tanh"), ("b", "none")]


def test_an_operation_read_by_two_has_a_group_of_its_own_behind_a_diagonal(make):
    topology = make("two_activations_of_one_layer").graph.topology
    diagonals = [
        (block.source, block.target, block.operation, block.parameter) for block in topology.blocks if block.pattern == "diagonal"
    ]
    assert diagonals == [("a", "relu", "identity", None), ("a", "tanh", "identity", None)]
    assert [topology.group(name).activation for name in ("a", "relu", "tanh")] == ["none", "relu", "tanh"]
    assert [topology.group(name).layer for name in ("x", "a", "relu", "b")] == [0, 1, 2, 3]


def test_the_result_of_an_in_place_operation_is_what_later_layers_read(function_module):
    def forward(self, x):
        hidden = self.a(x)
        F.relu_(hidden)
        return self.b(hidden)

    topology = trace(function_module(forward, a=nn.Linear(3, 5), b=nn.Linear(5, 2)), torch.zeros(4, 3)).topology
    assert [(group.name, group.activation) for group in topology.groups] == [("x", "none"), ("a", "relu"), ("b", "none")]


def test_the_operations_that_stand_in_the_error_text_have_no_doubles():
    assert len(set(supported())) == len(supported())
    assert {"linear", "conv1d", "conv2d", "relu", "adaptive_avg_pool2d", "dropout"} < set(supported())
    assert not any(name.endswith("_") for name in supported())


LINEAR_5 = {"a": nn.Linear(3, 5), "b": nn.Linear(5, 2)}
CONV_5 = {"a": nn.Conv1d(3, 5, 2), "b": nn.Conv1d(5, 2, 2)}
LINEAR_INPUT, CONV_INPUT = torch.zeros(4, 3), torch.zeros(4, 3, 9)


@pytest.mark.parametrize(
    ("forward", "modules", "text"),
    [
        (
            lambda s, x: s.b(torch.cumsum(s.a(x), -1)),
            LINEAR_5,
            "outermost module: operation 'cumsum' is not supported; expected one of .*conv2d",
        ),
        (lambda s, x: s.b(s.a(x) + s.a(x)), LINEAR_5, "'add' of two tensors is not supported"),
        (lambda s, x: s.b(s.a(x) * torch.sigmoid(s.a(x))), LINEAR_5, "'mul' of two tensors is not supported"),
        (lambda s, x: s.b(2 ** s.a(x)), LINEAR_5, "'pow' of a parameter or constant is not supported"),
        (lambda s, x: s.a(x).max(-1).values, CONV_5, "operation 'max' is not supported"),
        (lambda s, x: s.a(x).sum(-1), LINEAR_5, "'sum' reduces over the units of a group; expected a reduction over pos"),
        (lambda s, x: s.a(x).mean(), LINEAR_5, "'mean' reduces over the units of a group"),
        (lambda s, x: s.b(F.max_pool1d(s.a(x), 3, 1, 1)), LINEAR_5, "'max_pool1d' changes axis 1, which runs over units"),
        (lambda s, x: s.b(F.pad(s.a(x), (1, -1))), LINEAR_5, "'pad' changes axis 1, which runs over units"),
        (lambda s, x: s.b(F.pad(s.a(x), (0, 0, 2, -2))), CONV_5, "'pad' changes axis 1, which runs over units"),
        (lambda s, x: s.b(F.softmax(s.a(x), dim=2)), CONV_5, "'softmax' over axis 2, which is not the units of one group"),
        (lambda s, x: s.b(F.log_softmax(s.a(x), dim=0)), LINEAR_5, "'log_softmax' over axis 0, which is not the units"),
        (lambda s, x: F.softmax(s.a(x).flatten(1), dim=1), CONV_5, "'softmax' over axis 1, which is not the units of one"),
        (
            lambda s, x: s.b(s.a(x).unsqueeze(1)),
            {"a": nn.Linear(3, 5), "b": nn.Conv1d(1, 2, 2)},
            "module 'b': axis 1 of a convolution's",
        ),
        (
            lambda s, x: s.b(s.a(x).transpose(1, 2)),
            {"a": nn.Conv1d(3, 5, 2), "b": nn.Conv1d(8, 2, 2)},
            "module 'b': axis 1 of a conv",
        ),
        (
            lambda s, x: s.b(s.a(x)),
            {"a": nn.Conv1d(3, 5, 2), "b": nn.Linear(8, 2)},
            "module 'b': a linear layer reads an axis of 8 entries",
        ),
        (
            lambda s, x: s.b(s.a(x).view(4, 5, 2)),
            {"a": nn.Linear(3, 10), "b": nn.Linear(2, 6)},
            r"view to shape \(4, 5, 2\) cuts the units",
        ),
        (lambda s, x: s.b(s.a(x)[:, :5]), {"a": nn.Linear(3, 10), "b": nn.Linear(5, 6)}, "operation 'slice' is not supported"),
        (
            lambda s, x: s.b(torch.cat([s.a(x), s.a(x)], 1)),
            {"a": nn.Linear(3, 5), "b": nn.Linear(10, 6)},
            "operation 'cat' is not supported",
        ),
        (
            lambda s, x: F.linear(x, s.a.weight.t().contiguous().t()),
            {"a": nn.Linear(3, 5, bias=False)},
            "'t' of a parameter or constant",
        ),
        (lambda s, x: F.linear(x, s.a.weight, s.a.bias * 2), {"a": nn.Linear(3, 5)}, "'mul' of a parameter or constant"),
        (lambda s, x: F.linear(s.a.weight, s.b.weight), LINEAR_5 | {"b": nn.Linear(3, 6)}, "'linear' of a parameter or constant"),
        (
            lambda s, x: F.linear(x, s.b(s.a(x))),
            LINEAR_5 | {"b": nn.Linear(5, 3)},
            "the weight of 'linear' is no entry of the state dict",
        ),
        (
            lambda s, x: F.adaptive_max_pool1d(s.a(x), 3, True)[1],
            {"a": nn.Conv1d(3, 5, 2)},
            "the indices of a maximum are not supported",
        ),
    ],
)
def test_what_a_graph_cannot_express_is_refused_with_place_and_operation(function_module, forward, modules, text):
    with pytest.raises(UnsupportedLayerError, match=text):
        trace(function_module(forward, **modules), LINEAR_INPUT if isinstance(modules["a"], nn.Linear) else CONV_INPUT)


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (nn.Conv1d(6, 4, 2, groups=2), "module '1.0': a convolution of 2 groups is not supported; expected groups=1"),
        (nn.Conv1d(6, 6, 2, groups=6), "module '1.0': a convolution of 6 groups is not supported; expected groups=1"),
        (
            nn.BatchNorm1d(6),
            "module '1.0': operation 'batch_norm' is not supported; expected one of .*adaptive_avg_pool1d.*, conv2d, .*tanh",
        ),
        (nn.LayerNorm(8), "module '1.0': operation 'layer_norm' is not supported"),
        (nn.GroupNorm(2, 6), "module '1.0': operation 'group_norm' is not supported"),
        (nn.ConvTranspose1d(6, 4, 2), "module '1.0': operation 'conv_transpose1d' is not supported"),
        (nn.PReLU(), "module '1.0': operation 'prelu' is not supported"),
        (
            nn.Softmax(-1),
            "module '1.0': 'softmax' over axis -1, which is not the units of one group; expected 'softmax' over units",
        ),
        (nn.GLU(1), "module '1.0': operation 'glu' is not supported"),
        (nn.Linear(8, 4), "module '1.0': a linear layer reads an axis of 8 entries that runs over the units of 0 groups"),
    ],
)
def test_an_unsupported_layer_is_named_by_its_path_in_the_module(layer, text):
    with pytest.raises(UnsupportedLayerError, match=f"cannot trace {text}"):
        trace(nn.Sequential(nn.Conv1d(3, 6, 2), nn.Sequential(layer)), CONV_INPUT)


def test_an_in_place_change_of_memory_that_others_read_is_refused(function_module):
    def forward(self, x):
        hidden = self.a(x)
        hidden.view(-1).relu_()
        return self.b(hidden)

    with pytest.raises(UnsupportedLayerError, match="in-place 'relu' changes memory under another operation's result"):
        trace(function_module(forward, **LINEAR_5), LINEAR_INPUT)


def test_pooling_over_positions_beside_units_is_not_refused(function_module):
    module = function_module(lambda s, x: s.b(F.pad(F.max_pool1d(s.a(x), 3, 1, 1), (1, 2, 0, 0))), **CONV_5)
    assert trace(module, CONV_INPUT).topology.num_edges == 3 * 5 + 5 * 2


def test_an_activation_behind_pooling_that_others_do_not_read_has_a_group_of_its_own(function_module):
    def forward(self, x):
        hidden = torch.relu(self.a(x))
        return self.c(torch.tanh(hidden.mean(-1))), self.b(hidden.flatten(1))

    modules = {"a": nn.Conv1d(3, 5, 2), "b": nn.Linear(5 * 8, 7), "c": nn.Linear(5, 2)}
    topology = trace(function_module(forward, **modules), CONV_INPUT).topology
    activations = [(group.name, group.activation) for group in topology.groups]
    assert sorted(activations) == [("a", "relu"), ("b", "none"), ("c", "none"), ("tanh", "tanh"), ("x", "none")]
    assert (topology.edge_block("b").source, topology.edge_block("c").source) == ("a", "tanh")
