from __future__ import annotations

import copy
import itertools
import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ngbench.graph import EdgeBlock, Index, NeuralGraph, NodeFeature, NodeGroup, ParameterView, Topology, symmetry, trace
from ngbench.graph.rescaling import solutions, unit_factors
from ngbench.graph.symmetry import GroupElement

SWITCHES = [{"scaling": True}, {"signs": True}, {"phases": True}, {"scaling": True, "signs": True, "phases": True}]


class Function(nn.Module):
    """A module whose forward pass is any function of itself and its inputs."""

    def __init__(self, forward, **modules):
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


def randomized(module, *, seed=3):
    """The module in float64 with parameters and running statistics redrawn, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    module.double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 4
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) / fan_in**0.5)
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand(buffer.shape, generator=generator, dtype=torch.float64) + 0.5)
    return module


def inputs_of(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def traced(module, inputs):
    with warnings.catch_warnings():
        # torch.export warns about the flat weights of recurrent layers.
        warnings.simplefilter("ignore", UserWarning)
        return trace(module, inputs)


def outputs_of(module, inputs, state_dict=None):
    module = copy.deepcopy(module)
    if state_dict is not None:
        module.load_state_dict(state_dict)
    with torch.no_grad():
        return module(inputs)


def difference(outputs, others):
    return float((outputs - others).abs().max() / outputs.abs().max())


def mlp(*activations):
    """Linear layers with activations between."""
    sizes = [*[3, 7, 5, 6][: len(activations) + 1], 2]
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    return nn.Sequential(*[part for pair in itertools.zip_longest(layers, activations) for part in pair if part is not None]), (
        4,
        3,
    )


def one_layer(activation):
    return Function(lambda s, x: s.b(activation(s.a(x))), a=nn.Linear(3, 7), b=nn.Linear(7, 2)), (4, 3)


def two_activations():
    def forward(self, x):
        hidden = self.a(x)
        return self.b(torch.relu(hidden)) + self.c(hidden.abs())

    return Function(forward, a=nn.Linear(3, 7), b=nn.Linear(7, 5), c=nn.Linear(7, 5)), (4, 3)


def cnn():
    layers = (
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 7, 2, bias=False), nn.BatchNorm2d(7),
        nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(28, 2),
    )  # fmt: skip
    return nn.Sequential(*layers), (4, 3, 8, 8)


def tanh_then_maximum():
    return nn.Sequential(nn.Conv1d(3, 5, 2), nn.Tanh(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(20, 2)), (4, 3, 9)


def tanh_then_average():
    return nn.Sequential(nn.Conv1d(3, 5, 2), nn.Tanh(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(20, 2)), (4, 3, 9)


def padded_by_a_number():
    return nn.Sequential(
        nn.Conv1d(3, 5, 2), nn.ReLU(), nn.ConstantPad1d(1, 0.5), nn.Conv1d(5, 7, 2), nn.ReLU(), nn.Flatten(), nn.Linear(63, 2)
    ), (4, 3, 9)


def residual_of_linear_units():
    def forward(self, x):
        stream = self.a(x)
        return self.d(stream + self.c(torch.relu(self.b(stream))))

    return Function(forward, a=nn.Linear(3, 5), b=nn.Linear(5, 7), c=nn.Linear(7, 5), d=nn.Linear(5, 2)), (4, 3)


def residual_before_layer_norm(norm=nn.LayerNorm):
    def forward(self, x):
        stream = self.a(x)
        stream = stream + self.c(torch.relu(self.b(self.n(stream))))
        return self.d(self.m(stream))

    modules = {"a": nn.Linear(3, 5), "n": norm(5), "b": nn.Linear(5, 7), "c": nn.Linear(7, 5), "m": norm(5), "d": nn.Linear(5, 2)}
    return Function(forward, **modules), (4, 3)


def residual_then_relu():
    def forward(self, x):
        stream = torch.relu(self.a(x))
        return self.d(torch.relu(stream + self.n(self.c(torch.relu(self.m(self.b(stream)))))).mean(-1))

    modules = {
        "a": nn.Conv1d(3, 5, 3),
        "b": nn.Conv1d(5, 7, 1),
        "m": nn.BatchNorm1d(7),
        "c": nn.Conv1d(7, 5, 1),
        "n": nn.BatchNorm1d(5),
    }
    return Function(forward, **modules, d=nn.Linear(5, 2)), (4, 3, 6)


def siren():
    return Function(
        lambda s, x: s.c(torch.sin(2.5 * s.b(torch.sin(30 * s.a(x))))), a=nn.Linear(3, 7), b=nn.Linear(7, 5), c=nn.Linear(5, 2)
    ), (4, 3)


def cosine_network():
    return Function(lambda s, x: s.b(torch.cos(s.a(x))), a=nn.Linear(3, 7), b=nn.Linear(7, 2)), (4, 3)


def sine_of_a_sum_over_positions():
    return Function(lambda s, x: s.b(torch.sin(s.a(x).sum(1))), a=nn.Linear(3, 7), b=nn.Linear(7, 2)), (4, 6, 3)


def sine_beside_one():
    return Function(lambda s, x: s.b(torch.sin(s.a(x)) + 1), a=nn.Linear(3, 7), b=nn.Linear(7, 2)), (4, 3)


def sine_given_back():
    return Function(lambda s, x: torch.sin(s.a(x)), a=nn.Linear(3, 7)), (4, 3)


def tied_autoencoder(activation):
    return Function(lambda s, x: F.linear(activation(s.a(x)), s.a.weight.t()), a=nn.Linear(3, 5)), (4, 3)


def layer_called_twice():
    return Function(
        lambda s, x: s.c(torch.relu(s.b(torch.relu(s.b(torch.relu(s.a(x))))))),
        a=nn.Linear(3, 7),
        b=nn.Linear(7, 7),
        c=nn.Linear(7, 2),
    ), (4, 3)


def norm_called_twice():
    def forward(self, x):
        return self.c(torch.relu(self.n(self.a(x))) - torch.relu(self.n(self.b(x))))

    return Function(forward, a=nn.Linear(3, 5), b=nn.Linear(3, 5), n=nn.BatchNorm1d(5), c=nn.Linear(5, 2)), (4, 3)


def batch_norm_of(**arguments):
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5, **arguments), nn.ReLU(), nn.Linear(5, 2)), (4, 3)


def batch_statistics():
    def forward(self, x):
        norm = self.n
        mean, variance = norm.running_mean.clone(), norm.running_var.clone()
        return self.b(
            torch.relu(F.batch_norm(self.a(x), mean, variance, norm.weight, norm.bias, training=True) + norm(self.a(x)))
        )

    return Function(forward, a=nn.Linear(3, 5), n=nn.BatchNorm1d(5), b=nn.Linear(5, 2)), (4, 3)


def gated(gate):
    return Function(lambda s, x: s.c(gate(s.a(x)) * s.b(x)), a=nn.Linear(3, 5), b=nn.Linear(3, 5), c=nn.Linear(5, 2)), (4, 3)


def recurrent(layer):
    return Function(lambda s, x: s.b(s.a(x)[0][:, -1]), a=layer(3, 5, batch_first=True), b=nn.Linear(5, 2)), (4, 6, 3)


def recurrent_from_a_start():
    def forward(self, x):
        hidden, cell = (layer(x[:, 0])[None] for layer in (self.i, self.j))
        return self.b(self.a(x, (hidden, cell))[0])

    modules = {"a": nn.LSTM(3, 5, batch_first=True), "i": nn.Linear(3, 5), "j": nn.Linear(3, 5), "b": nn.Linear(5, 2)}
    return Function(forward, **modules), (4, 6, 3)


class Attention(nn.Module):
    """Two heads, written out, with rotary positions or without."""

    def __init__(self, *, rotary=False):
        super().__init__()
        self.size, self.rotary = 4 if rotary else 3, rotary
        self.q, self.k, self.v = (nn.Linear(3, 2 * self.size) for _ in range(3))
        self.o = nn.Linear(2 * self.size, 2)

    def rotated(self, x):
        if not self.rotary:
            return x
        angles = torch.arange(10, dtype=torch.float64).view(1, 1, 5, 2)
        first, second = x.chunk(2, -1)
        return x * torch.cat([angles, angles], -1).cos() + torch.cat([-second, first], -1) * torch.cat([angles, angles], -1).sin()

    def forward(self, x):
        q, k, v = (layer(x).view(4, 5, 2, self.size).transpose(1, 2) for layer in (self.q, self.k, self.v))
        weights = torch.softmax(self.rotated(q) @ self.rotated(k).transpose(-1, -2) / 2, -1)
        return self.o((weights @ v).transpose(1, 2).reshape(4, 5, 2 * self.size))


def halves_together():
    def forward(self, x):
        hidden = self.a(x)
        first, second = hidden.chunk(2, -1)
        return self.b(hidden + 0.5 * torch.cat([second, first], -1))

    return Function(forward, a=nn.Linear(3, 6), b=nn.Linear(6, 2)), (4, 3)


def gram_matrix():
    def forward(self, x):
        hidden = self.a(x)
        return self.b((hidden @ hidden.transpose(1, 2)).flatten(1))

    return Function(forward, a=nn.Conv1d(3, 5, 1), b=nn.Linear(25, 2)), (4, 3, 6)


def concatenated():
    def forward(self, x):
        hidden = torch.relu(self.a(x))
        return self.c(torch.cat([hidden, torch.relu(self.b(hidden))], 1)).mean(-1)

    return Function(forward, a=nn.Conv1d(3, 5, 2), b=nn.Conv1d(5, 7, 1), c=nn.Conv1d(12, 2, 1)), (4, 3, 6)


class Scaled(nn.Module):
    """A branch that is scaled by one number, and a stream that is scaled by one each."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 2)
        self.number, self.scale = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(5))

    def forward(self, x):
        stream = self.a(x)
        return self.c((stream + self.number * self.b(torch.relu(stream))) * self.scale)


# Group with scales, with signs, with phases.
NETWORKS = {
    "relu": (lambda: mlp(nn.ReLU(), nn.ReLU()), "(ℝ₊ ≀ S_7) × (ℝ₊ ≀ S_5)", "S_7 × S_5", "S_7 × S_5"),
    "leaky_relu": (lambda: mlp(nn.LeakyReLU(0.1)), "(ℝ₊ ≀ S_7)", "S_7", "S_7"),
    "relu6": (lambda: mlp(nn.ReLU6()), "S_7", "S_7", "S_7"),
    "gelu": (lambda: mlp(nn.GELU(), nn.SiLU(), nn.Sigmoid()), "S_7 × S_5 × S_6", "S_7 × S_5 × S_6", "S_7 × S_5 × S_6"),
    "linear": (lambda: mlp(nn.Identity()), "(ℝ₊ ≀ S_7)", "({±1} ≀ S_7)", "S_7"),
    "tanh": (lambda: mlp(nn.Tanh(), nn.ReLU()), "S_7 × (ℝ₊ ≀ S_5)", "({±1} ≀ S_7) × S_5", "S_7 × S_5"),
    "hardtanh": (lambda: mlp(nn.Hardtanh(), nn.Hardtanh(-1, 2)), "S_7 × S_5", "({±1} ≀ S_7) × S_5", "S_7 × S_5"),
    "softsign": (
        lambda: mlp(nn.Softsign(), nn.Tanhshrink(), nn.Softshrink(0.25)),
        "S_7 × S_5 × S_6", "({±1} ≀ S_7) × ({±1} ≀ S_5) × ({±1} ≀ S_6)", "S_7 × S_5 × S_6",
    ),
    "one unit": (lambda: (nn.Sequential(nn.Linear(3, 1), nn.ReLU(), nn.Linear(1, 2)), (4, 3)), "ℝ₊", "1", "1"),
    "relu squared": (lambda: one_layer(lambda x: torch.relu(x) ** 2), "(ℝ₊ ≀ S_7)", "S_7", "S_7"),
    "square": (lambda: one_layer(torch.square), "(ℝ₊ ≀ S_7)", "({±1} ≀ S_7)", "S_7"),
    "two activations": (two_activations, "(ℝ₊ ≀ S_7)", "S_7", "S_7"),
    "cnn": (cnn, "(ℝ₊^2 ≀ S_5) × (ℝ₊^2 ≀ S_7)", "({±1} ≀ S_5) × ({±1} ≀ S_7)", "S_5 × S_7"),
    "tanh then maximum": (tanh_then_maximum, "S_5", "S_5", "S_5"),
    "tanh then average": (tanh_then_average, "S_5", "({±1} ≀ S_5)", "S_5"),
    "padded by a number": (padded_by_a_number, "S_5 × (ℝ₊ ≀ S_7)", "S_5 × S_7", "S_5 × S_7"),
    "residual of linear units": (residual_of_linear_units, "(ℝ₊ ≀ S_5) × (ℝ₊ ≀ S_7)", "({±1} ≀ S_5) × S_7", "S_5 × S_7"),
    "residual before layer norm": (residual_before_layer_norm, "(ℝ₊^2 ≀ S_5) × (ℝ₊ ≀ S_7)", "({±1}^2 ≀ S_5) × S_7", "S_5 × S_7"),
    "residual before rms norm": (
        lambda: residual_before_layer_norm(nn.RMSNorm), "(ℝ₊^2 ≀ S_5) × (ℝ₊ ≀ S_7)", "({±1}^3 ≀ S_5) × S_7", "S_5 × S_7",
    ),
    "residual then relu": (residual_then_relu, "(ℝ₊^2 ≀ S_5) × (ℝ₊^2 ≀ S_7)", "({±1} ≀ S_5) × ({±1} ≀ S_7)", "S_5 × S_7"),
    "siren": (siren, "S_7 × S_5", "({±1} ≀ S_7) × ({±1} ≀ S_5)", "(ℤ ≀ S_7) × (ℤ ≀ S_5)"),
    "cosine": (cosine_network, "S_7", "({±1} ≀ S_7)", "(ℤ ≀ S_7)"),
    "sine of a sum": (sine_of_a_sum_over_positions, "S_7", "({±1} ≀ S_7)", "S_7"),
    "sine beside one": (sine_beside_one, "S_7", "S_7", "(ℤ ≀ S_7)"),
    "sine given back": (sine_given_back, "1", "1", "ℤ^7"),
    "tied autoencoder": (lambda: tied_autoencoder(torch.tanh), "S_5", "({±1} ≀ S_5)", "S_5"),
    "tied relu autoencoder": (lambda: tied_autoencoder(torch.relu), "S_5", "S_5", "S_5"),
    "layer called twice": (layer_called_twice, "(ℝ₊ ≀ S_7)", "S_7", "S_7"),
    "batch norm alone": (lambda: batch_norm_of(affine=False), "(ℝ₊ ≀ S_5)", "S_5", "S_5"),
    "batch norm of the batch": (lambda: batch_norm_of(track_running_stats=False), "(ℝ₊ ≀ S_5)", "({±1} ≀ S_5)", "S_5"),
    "batch statistics beside running ones": (batch_statistics, "(ℝ₊ ≀ S_5)", "({±1} ≀ S_5)", "S_5"),
    "norm called twice": (norm_called_twice, "(ℝ₊^2 ≀ S_5)", "({±1} ≀ S_5)", "S_5"),
    "swiglu": (lambda: gated(F.silu), "(ℝ₊ ≀ S_5)", "({±1} ≀ S_5)", "S_5"),
    "bilinear": (lambda: gated(lambda x: x), "(ℝ₊^2 ≀ S_5)", "({±1}^2 ≀ S_5)", "S_5"),
    "lstm": (lambda: recurrent(nn.LSTM), "S_5", "({±1} ≀ S_5)", "S_5"),
    "lstm from a start": (recurrent_from_a_start, "S_5", "({±1} ≀ S_5)", "S_5"),
    "gru": (lambda: recurrent(nn.GRU), "S_5", "({±1} ≀ S_5)", "S_5"),
    "tanh rnn": (lambda: recurrent(nn.RNN), "S_5", "({±1} ≀ S_5)", "S_5"),
    "relu rnn": (lambda: recurrent(lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k)), "(ℝ₊ ≀ S_5)", "S_5", "S_5"),
    "attention": (
        lambda: (Attention(), (4, 5, 3)),
        "(((ℝ₊ ≀ S_3) × (ℝ₊ ≀ S_3)) ≀ S_2)", "((({±1} ≀ S_3) × ({±1} ≀ S_3)) ≀ S_2)", "((S_3 × S_3) ≀ S_2)",
    ),
    "rotary attention": (
        lambda: (Attention(rotary=True), (4, 5, 3)), "((ℝ₊ ≀ S_4) ≀ S_2)",
        "(({±1} ≀ S_4) ≀ S_2)", "(S_4 ≀ S_2)",
    ),
    "units and their halves": (halves_together, "S_3", "S_3", "S_3"),
    "matrix of units by units": (gram_matrix, "S_5", "S_5", "S_5"),
    "channels concatenated": (concatenated, "(ℝ₊ ≀ S_5) × (ℝ₊ ≀ S_7)", "S_5 × S_7", "S_5 × S_7"),
    "scaled": (lambda: (Scaled(), (4, 3)), "(ℝ₊^2 ≀ S_5)", "({±1} ≀ S_5)", "S_5"),
}  # fmt: skip


@pytest.fixture(scope="session", params=NETWORKS)
def case(request):
    """Module, inputs and graph, shared by all tests and not to be written to; and the groups with each switch."""
    make, *groups = NETWORKS[request.param]
    module, shape = make()
    module, inputs = randomized(module), inputs_of(*shape)
    return module, inputs, traced(module, inputs), groups


def test_the_group_with_each_switch_is_what_it_should_be(case):
    _, _, graph, groups = case
    assert [str(symmetry.group(graph.topology, **switch)) for switch in SWITCHES[:3]] == groups


@pytest.mark.parametrize("switch", SWITCHES, ids="-".join)
def test_a_rescaled_network_computes_the_same_function(case, switch):
    module, inputs, graph, _ = case
    group = symmetry.group(graph.topology, **switch)
    for seed in range(3):
        state_dict = group.sample(seed).act_state_dict(module.state_dict())
        assert difference(outputs_of(module, inputs), outputs_of(module, inputs, state_dict)) < 1e-10


def test_tracing_a_rescaled_network_gives_the_rescaled_graph(case):
    module, inputs, graph, _ = case
    element = symmetry.group(graph.topology, **SWITCHES[-1]).sample(1)
    acted = copy.deepcopy(module)
    acted.load_state_dict(element.act_state_dict(module.state_dict()))
    assert traced(acted, inputs).equal(element.act(graph))


def test_the_inverse_undoes_an_element_and_composition_is_acting_in_turn(case):
    _, _, graph, _ = case
    group = symmetry.group(graph.topology, **SWITCHES[-1])
    first, second = group.sample(1), group.sample(2)
    row = graph.row()
    close = {"rtol": 1e-12, "atol": 1e-11}
    torch.testing.assert_close(second.compose(first).act(graph).row(), second.act(first.act(graph)).row(), **close)
    torch.testing.assert_close(first.inverse().act(first.act(graph)).row(), row, **close)
    torch.testing.assert_close(first.act(first.inverse().act(graph)).row(), row, **close)
    torch.testing.assert_close(first.inverse().compose(first).act(graph).row(), row, **close)
    left, right = second.compose(first).inverse(), first.inverse().compose(second.inverse())
    torch.testing.assert_close(left.act(graph).row(), right.act(graph).row(), **close)


def test_signs_and_permutations_are_undone_exactly(case):
    _, _, graph, _ = case
    element = symmetry.group(graph.topology, signs=True).sample(4)
    assert element.inverse().act(element.act(graph)).equal(graph)


def test_scrambling_rows_is_acting_with_a_sample_on_each(case):
    topology = case[2].topology
    group = symmetry.group(topology, **SWITCHES[-1])
    rows, seeds = inputs_of(4, topology.num_values), [5, 0, 2**64 - 1, 5]
    before, scrambled = rows.clone(), group.scramble(rows, seeds)
    assert torch.equal(rows, before)
    for row, seed, expected in zip(rows, seeds, scrambled, strict=True):
        assert torch.equal(group.sample(seed).act(NeuralGraph.from_row(topology, row)).row(), expected)


def test_a_switch_leaves_what_another_draws_as_it_was(case):
    topology = case[2].topology
    whole = symmetry.group(topology, **SWITCHES[-1]).sample(9)
    for name, permutation in symmetry.group(topology).sample(9).permutations.items():
        assert torch.equal(whole.permutations[name], permutation)
    for name, scales in symmetry.group(topology, scaling=True).sample(9).scales.items():
        assert torch.equal(whole.scales[name].abs(), scales)


def test_without_switches_there_are_permutations_alone(case):
    topology = case[2].topology
    element = symmetry.group(topology).sample(9)
    assert not element.scales
    assert not element.shifts
    assert symmetry.group(topology).log_order < math.inf


CONTROLS = {
    "a scaled tanh unit": ("tanh", "0", 2.0),
    "a flipped relu unit": ("relu", "0", -1.0),
    "a flipped unit behind a maximum": ("tanh then maximum", "0", -1.0),
    "a scaled unit that is padded by a number": ("padded by a number", "0", 2.0),
    "a scaled unit before a batch norm of the batch": ("batch norm of the batch", "0", 2.0),
    "a scaled unit before batch statistics": ("batch statistics beside running ones", "a", 2.0),
    "a scaled unit before a layer norm": ("residual before layer norm", "c", 2.0),
    "a flipped unit behind a batch norm": ("cnn", "1", -1.0),
    "one member of a residual stream": ("residual of linear units", "a", 2.0),
    "a stream before a layer norm": ("residual before layer norm", "a", -1.0),
    "a flipped sine beside one": ("sine beside one", "a", -1.0),
    "one gate of an LSTM": ("lstm", "a_l0.gates[0]", -1.0),
    "the query units alone": ("attention", "q", 2.0),
    "a gate that is no linear unit": ("swiglu", "a", 2.0),
    "one layer of a tied pair": ("tied relu autoencoder", "a", 2.0),
    "one norm of two": ("norm called twice", "n", 2.0),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_a_factor_outside_the_group_changes_the_function(control):
    name, group, number = CONTROLS[control]
    module, shape = NETWORKS[name][0]()
    module, inputs = randomized(module), inputs_of(*shape)
    topology = traced(module, inputs).topology
    element = GroupElement(topology, {}, scales={group: torch.full((topology.group(group).size,), number, dtype=torch.float64)})
    assert difference(outputs_of(module, inputs), outputs_of(module, inputs, element.act_state_dict(module.state_dict()))) > 1e-3


def test_an_odd_shift_of_a_sine_that_keeps_its_sign_changes_the_function():
    module, shape = sine_beside_one()
    module, inputs = randomized(module), inputs_of(*shape)
    topology = traced(module, inputs).topology
    differences = []
    for number in (1, 2):
        element = GroupElement(topology, {}, shifts={"a": torch.full((7,), number)})
        differences.append(
            difference(outputs_of(module, inputs), outputs_of(module, inputs, element.act_state_dict(module.state_dict())))
        )
    assert differences[0] > 1e-3
    assert differences[1] < 1e-10


def test_a_scaled_and_permuted_mlp_is_that_of_the_textbook():
    module, _ = mlp(nn.ReLU())
    module = randomized(module)
    topology = trace(module, inputs_of(4, 3)).topology
    permutation, scales = np.array([3, 0, 6, 2, 1, 5, 4]), np.array([0.5, 2.0, 3.0, 0.25, 1.0, 7.0, 0.1])
    element = GroupElement(topology, {"0": torch.from_numpy(permutation)}, scales={"0": torch.from_numpy(scales)})
    acted = {path: entry.numpy() for path, entry in element.act_state_dict(module.state_dict()).items()}
    before = {path: entry.numpy() for path, entry in module.state_dict().items()}
    matrix = np.diag(scales) @ np.eye(7)[permutation]
    np.testing.assert_allclose(acted["0.weight"], matrix @ before["0.weight"], rtol=1e-14)
    np.testing.assert_allclose(acted["0.bias"], matrix @ before["0.bias"], rtol=1e-14)
    np.testing.assert_allclose(acted["2.weight"], before["2.weight"] @ np.linalg.inv(matrix), rtol=1e-14, atol=1e-15)
    assert np.array_equal(acted["2.bias"], before["2.bias"])


def test_a_shifted_sine_is_that_of_the_textbook():
    module, _ = siren()
    module = randomized(module)
    topology = trace(module, inputs_of(4, 3)).topology
    shifts = torch.tensor([1, 0, -2, 3, -1, 2, 0])
    acted = GroupElement(topology, {}, shifts={"a": shifts}).act_state_dict(module.state_dict())
    torch.testing.assert_close(acted["a.bias"], module.a.bias.detach() + math.pi / 30 * shifts.double(), rtol=1e-14, atol=0)
    torch.testing.assert_close(acted["b.weight"], module.b.weight.detach() * (-1.0) ** shifts, rtol=0, atol=0)
    assert torch.equal(acted["a.weight"], module.a.weight)


def test_a_square_divides_by_the_square_of_the_factor():
    topology = trace(randomized(NETWORKS["square"][0]()[0]), inputs_of(4, 3)).topology
    acted = GroupElement(topology, {}, scales={"a": torch.full((7,), -3.0, dtype=torch.float64)}).act(
        NeuralGraph.from_row(topology, torch.ones(topology.num_values))
    )
    assert torch.equal(acted.block("a"), torch.full((7, 3, 1), -3.0))
    torch.testing.assert_close(acted.block("b"), torch.full((2, 7, 1), 1 / 9))


def test_every_sign_adds_the_logarithm_of_two_and_every_scale_makes_the_group_infinite():
    topology = trace(mlp(nn.Tanh(), nn.ReLU())[0], torch.zeros(4, 3)).topology
    finite = math.lgamma(8) + math.lgamma(6)
    assert symmetry.group(topology, signs=True).log_order == pytest.approx(finite + 7 * math.log(2), abs=1e-12)
    assert symmetry.group(topology, scaling=True).log_order == math.inf
    assert symmetry.group(trace(siren()[0], torch.zeros(4, 3)).topology, phases=True).log_order == math.inf


def test_both_switches_of_linear_and_of_sine_units_print_as_one():
    linear, sine = trace(mlp(nn.Identity())[0], torch.zeros(4, 3)).topology, trace(siren()[0], torch.zeros(4, 3)).topology
    assert str(symmetry.group(linear, scaling=True, signs=True)) == "(ℝ* ≀ S_7)"
    assert str(symmetry.group(sine, signs=True, phases=True)) == "(D_∞ ≀ S_7) × (D_∞ ≀ S_5)"


def test_logarithms_of_scales_are_normal_with_half_a_deviation_and_signs_are_fair():
    topology = trace(mlp(nn.ReLU(), nn.Tanh())[0], torch.zeros(4, 3)).topology
    group = symmetry.group(topology, scaling=True, signs=True)
    elements = [group.sample(seed) for seed in range(1000)]
    logs = torch.stack([element.scales["0"] for element in elements]).log()
    signs = torch.stack([element.scales["2"] for element in elements])
    assert set(signs.flatten().tolist()) == {-1.0, 1.0}
    # Four standard errors.
    assert abs(float(signs.mean())) < 4 / math.sqrt(signs.numel())
    assert abs(float(logs.mean())) < 4 * 0.5 / math.sqrt(logs.numel())
    assert float(logs.std()) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(2 * logs.numel()))
    assert float((logs.abs() < 0.5).double().mean()) == pytest.approx(
        math.erf(1 / math.sqrt(2)), abs=4 * 0.5 / math.sqrt(logs.numel())
    )
    correlation = torch.corrcoef(torch.cat([logs, signs], dim=1).T) - torch.eye(12)
    assert float(correlation.abs().max()) < 4.5 / math.sqrt(1000)


def test_shifts_are_drawn_from_four_half_periods():
    group = symmetry.group(trace(siren()[0], torch.zeros(4, 3)).topology, phases=True)
    drawn = torch.stack([group.sample(seed).shifts["a"] for seed in range(400)])
    values, counts = drawn.unique(return_counts=True)
    assert values.tolist() == [-2, -1, 0, 1]
    assert float((counts / drawn.numel() - 0.25).abs().max()) < 4 * math.sqrt(3 / 16 / drawn.numel())


def hand_built(operation, *, pattern="diagonal", parameter=None, feature="bias", shared=False):
    """Relu units that an operation joins to units that a linear layer reads."""
    features = (NodeFeature(feature, ParameterView("f"), shared=shared),)
    groups = (
        NodeGroup("x", 3, "input", "none", 0), NodeGroup("a", 5, "hidden", "relu", 1, (), ("a",)),
        NodeGroup("b", 5, "hidden", "none", 2, features, ("a",)), NodeGroup("y", 2, "output", "none", 3),
    )  # fmt: skip
    blocks = (
        EdgeBlock("a", "x", "a", "dense", "linear", (), ParameterView("wa")),
        EdgeBlock("b", "a", "b", pattern, operation, (), parameter),
        EdgeBlock("y", "b", "y", "dense", "linear", (), ParameterView("wy")),
    )
    parameters = (("wa", (5, 3)), ("wy", (2, 5)), ("f", (1,) if shared else (5,)))
    return Topology(groups, blocks, parameters + ((("p", (5,)),) if parameter else ()), (Index("a", 5),))


def scaled_groups(topology):
    return [[name for name, _ in factor.exponents] for factor in unit_factors(topology, scaling=True, signs=False, phases=False)]


def test_what_an_operation_is_not_known_to_pass_on_has_no_factor():
    assert scaled_groups(hand_built("identity")) == [["a", "b"]]
    assert scaled_groups(hand_built("div")) == []
    assert scaled_groups(hand_built("div", parameter=ParameterView("p"))) == []
    assert scaled_groups(hand_built("scale", parameter=ParameterView("p"))) == [["a"], ["b"]]
    assert scaled_groups(hand_built("layer_norm", parameter=ParameterView("p"))) == [["b"]]
    assert scaled_groups(hand_built("identity", pattern="dense")) == []


def test_only_features_that_follow_a_factor_let_it_pass():
    assert scaled_groups(hand_built("identity", feature="slope")) == []
    assert scaled_groups(hand_built("add", feature="shift", shared=True)) == []
    assert scaled_groups(hand_built("mul", feature="alpha", shared=True)) == [["a", "b"]]


def test_solutions_span_the_null_space():
    generator = np.random.default_rng(2)
    unknowns = [("factor", str(k)) for k in range(9)]
    matrix = generator.integers(-2, 3, size=(6, 9)) * (generator.random((6, 9)) < 0.5)
    equations = [{unknown: Fraction(int(value)) for unknown, value in zip(unknowns, row, strict=True) if value} for row in matrix]
    basis = np.array(
        [[float(row.get(unknown, 0)) for unknown in unknowns] for _, row in solutions(unknowns, equations, modulo=None)]
    )
    np.testing.assert_allclose(matrix @ basis.T, 0, atol=1e-12)
    assert len(basis) == np.linalg.matrix_rank(basis) == 9 - np.linalg.matrix_rank(matrix)


def test_solutions_modulo_two_are_all_that_there_are():
    generator = np.random.default_rng(4)
    unknowns = [("factor", str(k)) for k in range(8)]
    matrix = generator.integers(0, 2, size=(5, 8))
    equations = [{unknown: Fraction(int(value)) for unknown, value in zip(unknowns, row, strict=True) if value} for row in matrix]
    basis = [[int(row.get(unknown, 0)) for unknown in unknowns] for _, row in solutions(unknowns, equations, modulo=2)]
    spanned = {tuple(np.array(choice) @ np.array(basis) % 2) for choice in itertools.product((0, 1), repeat=len(basis))}
    expected = {vector for vector in itertools.product((0, 1), repeat=8) if not (matrix @ np.array(vector) % 2).any()}
    assert spanned == expected
    assert len(spanned) == 2 ** len(basis)


ACTIVATIONS = [nn.ReLU, nn.Tanh, nn.GELU, nn.Identity, nn.Softsign, nn.ReLU6, lambda: nn.LeakyReLU(0.3)]


@st.composite
def random_networks(draw):
    """Layers in turn: linear, norm or activation, some of them within residual branches."""
    num_inputs, width = draw(st.integers(1, 3)), draw(st.integers(2, 5))
    layers, gates = [nn.Linear(num_inputs, width)], []
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["linear", "norm", "activation", "residual", "gate"]))
        gates.append(kind)
        inner = nn.Sequential(draw(st.sampled_from(ACTIVATIONS))(), nn.Linear(width, width, bias=draw(st.booleans())))
        norm = draw(st.sampled_from([nn.BatchNorm1d, nn.LayerNorm, nn.RMSNorm]))(width)
        layers.append({"norm": norm, "activation": inner[0], "linear": inner[1]}.get(kind, inner))
    layers.append(nn.Linear(width, 2))

    def forward(self, x):
        x = self.layers[0](x)
        for kind, layer in zip(gates, self.layers[1:-1], strict=True):
            x = x + layer(x) if kind == "residual" else layer(x) * x if kind == "gate" else layer(x)
        return self.layers[-1](x)

    return Function(forward, layers=nn.ModuleList(layers)), num_inputs


@settings(max_examples=40, deadline=None)
@given(network=random_networks(), seed=st.integers(0, 2**32 - 1))
def test_the_laws_hold_for_random_networks(network, seed):
    module, num_inputs = network
    module, inputs = randomized(module, seed=seed), inputs_of(4, num_inputs)
    graph = trace(module, inputs)
    group = symmetry.group(graph.topology, scaling=True, signs=True, phases=True)
    first, second = group.sample(seed), group.sample(seed + 1)
    state_dict = second.compose(first).act_state_dict(module.state_dict())
    torch.testing.assert_close(outputs_of(module, inputs, state_dict), outputs_of(module, inputs), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(second.compose(first).act(graph).row(), second.act(first.act(graph)).row(), rtol=1e-11, atol=1e-12)
