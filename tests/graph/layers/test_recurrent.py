from __future__ import annotations

import pytest
import torch
from torch import nn

BATCH, TIME = 2, 4


def read(layer, *, units=5, pick=lambda results: results[0].mean(1)):
    """A recurrent layer and a linear layer of something that it gives."""
    return lambda s, x: s.b(pick(s.r(x))), {"r": layer, "b": nn.Linear(units, 2)}, [(BATCH, TIME, 3)]


def started(s, x, y):
    return s.b(s.r(x, torch.tanh(s.a(y)).unsqueeze(0))[0].mean(1))


def started_by_a_parameter(s, x):
    return s.b(s.r(x, s.h.expand(1, BATCH, 5).contiguous())[0].mean(1))


def steps_of_lstm(s, x):
    hidden = cell = x.new_zeros(BATCH, 5)
    for time in range(TIME):
        hidden, cell = s.r(x[:, time], (hidden, cell))
    return s.b(hidden)


def steps(s, x):
    hidden = torch.tanh(s.a(x[:, 0]))
    for time in range(1, TIME):
        hidden = s.r(x[:, time], hidden)
    return s.b(hidden)


def steps_by_hand(s, x):
    hidden = x.new_zeros(BATCH, 5)
    for time in range(TIME):
        hidden = torch.tanh(s.a(x[:, time]) + s.u(hidden))
    return s.b(hidden)


ONCE = {"batch_first": True}
STEPS = {"a": nn.Linear(3, 5), "b": nn.Linear(5, 2)}
SEQUENCE = [(BATCH, TIME, 3)]

LAYERS = {
    "lstm": (*read(nn.LSTM(3, 5, **ONCE)), "S_5"),
    "lstm both ways twice": (*read(nn.LSTM(3, 5, 2, bidirectional=True, **ONCE), units=10), "S_5 × S_5 × S_5 × S_5"),
    "last states of two layers": (
        *read(nn.LSTM(3, 5, 2, **ONCE), units=10, pick=lambda results: results[1][0].transpose(0, 1).flatten(1)), "S_5",
    ),
    "state of one layer with the cell of another": (
        *read(nn.LSTM(3, 5, 2, **ONCE), pick=lambda results: results[1][0][-1] + results[1][1][0]), "S_5",
    ),
    "gru without biases": (*read(nn.GRU(3, 5, bias=False, **ONCE)), "S_5"),
    "two layers of gru": (*read(nn.GRU(3, 5, 2, **ONCE)), "S_5 × S_5"),
    "rnn with time first": (*read(nn.RNN(3, 5, nonlinearity="relu"), pick=lambda results: results[0].mean(0)), "S_5"),
    "gru of one sequence": (
        lambda s, x: s.b(s.r(x)[0].mean(0)), {"r": nn.GRU(3, 5), "b": nn.Linear(5, 2)}, [(TIME, 3)], "S_5",
    ),
    "gru that another layer starts": (
        started, {"a": nn.Linear(7, 5), "r": nn.GRU(3, 5, **ONCE), "b": nn.Linear(5, 2)}, [*SEQUENCE, (BATCH, 7)], "S_5",
    ),
    "gru that a parameter starts": (
        started_by_a_parameter,
        {"h": nn.Parameter(torch.zeros(1, 1, 5)), "r": nn.GRU(3, 5, **ONCE), "b": nn.Linear(5, 2)}, SEQUENCE, "S_5",
    ),
    "lstm step by step": (steps_of_lstm, {"r": nn.LSTMCell(3, 5), "b": nn.Linear(5, 2)}, SEQUENCE, "S_5"),
    "gru step by step": (steps, {"r": nn.GRUCell(3, 5), **STEPS}, SEQUENCE, "S_5"),
    "rnn step by step": (steps, {"r": nn.RNNCell(3, 5), **STEPS}, SEQUENCE, "S_5"),
    "rnn by hand": (steps_by_hand, {"u": nn.Linear(5, 5, bias=False), **STEPS}, SEQUENCE, "S_5"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_a_recurrent_layer_obeys_the_laws(topology_of, name):
    topology_of(name)


@pytest.mark.parametrize(("name", "kind", "num_gates"), [("lstm", "lstm", 4), ("two layers of gru", "gru", 3)])
def test_each_gate_is_a_group_that_agrees_with_the_state_which_comes_back(
    topology_of, groups_of, blocks_of, name, kind, num_gates
):
    topology = topology_of(name)
    groups, blocks = groups_of(topology), blocks_of(topology)
    for number in range(num_gates):
        gate = f"r_l0.gates[{number}]"
        assert groups[gate] == (5, "hidden", "gates", ("r_l0.gates[0]",))
        assert [feature.name for feature in topology.group(gate).features] == ["bias", "recurrent_bias"]
        assert blocks[f"r_l0.input[{number}]"] == ("x", gate, "dense", kind, (), ())
        assert blocks[f"r_l0.recurrent[{number}]"] == ("r_l0.state", gate, "dense", kind, (), ())
        assert blocks[f"r_l0.state[{number}]"] == (gate, "r_l0.state", "diagonal", kind, (), ())
    assert groups["r_l0.state"] == (5, "hidden", "none", ("r_l0.gates[0]",))
    assert topology.group("r_l0.state").layer == 2


def test_the_weights_of_a_gate_are_its_part_of_the_stacked_ones(make_graph, function_module):
    forward, modules, shapes, _ = LAYERS["lstm"]
    module = function_module(forward, **modules)
    graph = make_graph(module, *shapes)
    for number in range(4):
        rows = slice(5 * number, 5 * number + 5)
        assert torch.equal(graph.block(f"r_l0.input[{number}]")[..., 0], module.r.weight_ih_l0.detach()[rows])
        assert torch.equal(graph.block(f"r_l0.recurrent[{number}]")[..., 0], module.r.weight_hh_l0.detach()[rows])
        assert torch.equal(graph.node_feature(f"r_l0.gates[{number}]", "recurrent_bias"), module.r.bias_hh_l0.detach()[rows])


def test_the_next_layer_reads_both_directions(topology_of, blocks_of):
    blocks = blocks_of(topology_of("lstm both ways twice"))
    assert [blocks[f"r_l1.input[{number}]"][:2] for number in (2, 6)] == [
        ("r_l0.state", "r_l1.gates[2]"), ("r_l0_reverse.state", "r_l1.gates[2]"),
    ]  # fmt: skip
    sources = {source for name, (source, target, *_) in blocks.items() if target == "r_l1_reverse.gates[1]" and "input" in name}
    assert sources == {"r_l0.state", "r_l0_reverse.state"}


def test_a_computed_start_enters_the_state(topology_of, blocks_of):
    blocks = blocks_of(topology_of("gru that another layer starts"))
    assert ("a", "r_l0.state", "diagonal", "start", (), ()) in blocks.values()
    blocks = blocks_of(topology_of("gru that a parameter starts"))
    assert ("h", "r_l0.state", "diagonal", "start", (), ()) in blocks.values()


def test_each_step_has_groups_of_its_own_on_the_same_weights(topology_of, groups_of, blocks_of):
    topology = topology_of("lstm step by step")
    groups, blocks = groups_of(topology), blocks_of(topology)
    assert [name for name in groups if "state" in name and "cell" not in name] == [
        "r.state",
        "r.state:2",
        "r.state:3",
        "r.state:4",
    ]
    assert groups["r.state:cell"] == (5, "hidden", "cell", ("r.gates[0]",))
    assert blocks["r.state:2"] == ("r.state:cell", "r.state:2", "diagonal", "lstm", (), ())
    assert {topology.edge_block(name).parameter.path for name in ("r.input[0]", "r.input[0]:4")} == {"r.weight_ih"}


def test_projections_are_refused(function_module, refuses):
    forward, modules, shapes = read(nn.LSTM(3, 5, proj_size=2, **ONCE), units=2)
    text = "module 'r': 'lstm' with projections is not supported; expected proj_size=0"
    refuses(function_module(forward, **modules), *shapes, match=text)


@pytest.mark.parametrize(("start", "group"), [(torch.ones, "S_6"), (lambda *shape: torch.arange(6.0).expand(shape), "1")])
def test_units_that_start_from_different_numbers_keep_their_places(check, function_module, start, group):
    modules = {"r": nn.GRU(3, 6, batch_first=True), "b": nn.Linear(6, 2)}
    module = function_module(lambda s, x: s.b(s.r(x, start(1, 2, 6).to(x.dtype))[0]), **modules)
    check(module, (2, 4, 3), group=group)
