from __future__ import annotations

import pytest
import torch
from torch import nn

SHAPE = (2, 3, 9)


def between(norm, *, units=6):
    """A convolution, a norm, an activation, the mean over positions, a linear layer."""
    forward = lambda s, x: s.c(torch.relu(s.n(s.a(x))).mean(-1))  # noqa: E731
    return forward, {"a": nn.Conv1d(3, units, 2), "n": norm, "c": nn.Linear(units, 7)}, SHAPE


def behind_linear(norm):
    return lambda s, x: s.b(torch.tanh(s.n(s.a(x)))), {"a": nn.Linear(3, 5), "n": norm, "b": nn.Linear(5, 2)}, (2, 6, 3)


LAYERS = {
    "batch": (*between(nn.BatchNorm1d(6)), "S_6"),
    "batch without scale": (*between(nn.BatchNorm1d(6, affine=False)), "S_6"),
    "batch of the input": (
        lambda s, x: s.b(torch.relu(s.a(s.n(x)))),
        {"n": nn.BatchNorm1d(3), "a": nn.Linear(3, 5), "b": nn.Linear(5, 2)},
        (4, 3),
        "S_5",
    ),
    "batch between transpositions": (
        lambda s, x: s.b(torch.tanh(s.n(s.a(x).transpose(1, 2)).transpose(1, 2))),
        {"a": nn.Linear(3, 5), "n": nn.BatchNorm1d(5), "b": nn.Linear(5, 2)},
        (4, 6, 3),
        "S_5",
    ),
    "instance": (*between(nn.InstanceNorm1d(6, affine=True)), "S_6"),
    "instance without scale": (*between(nn.InstanceNorm1d(6)), "S_6"),
    "instance with statistics": (*between(nn.InstanceNorm1d(6, affine=True, track_running_stats=True)), "S_6"),
    "layer": (*behind_linear(nn.LayerNorm(5)), "S_5"),
    "layer without shift": (*behind_linear(nn.LayerNorm(5, bias=False)), "S_5"),
    "layer without scale": (*behind_linear(nn.LayerNorm(5, elementwise_affine=False)), "S_5"),
    "layer over units and positions": (*between(nn.LayerNorm((6, 8))), "S_6"),
    "layer of each head": (
        lambda s, x: s.b(torch.tanh(s.n(s.a(x).unflatten(-1, (4, 5)))).flatten(1)),
        {"a": nn.Linear(3, 20), "n": nn.LayerNorm(5), "b": nn.Linear(20, 2)},
        (7, 3),
        "S_4 × S_5",
    ),
    "root mean square": (*behind_linear(nn.RMSNorm(5)), "S_5"),
    "groups": (*between(nn.GroupNorm(2, 6)), "(S_3 ≀ S_2)"),
    "one group": (*between(nn.GroupNorm(1, 6)), "S_6"),
    "groups of one": (*between(nn.GroupNorm(6, 6)), "S_6"),
    "groups without scale": (*between(nn.GroupNorm(2, 6, affine=False)), "(S_3 ≀ S_2)"),
    "groups within groups": (
        *between(nn.Sequential(nn.GroupNorm(2, 12), nn.GroupNorm(6, 12)), units=12),
        "((S_2 ≀ S_3) ≀ S_2)",
    ),
    "groups across groups": (*between(nn.Sequential(nn.GroupNorm(3, 12), nn.GroupNorm(2, 12)), units=12), "1"),
    "two norms of one layer": (
        lambda s, x: s.b(s.n(h := s.a(x)) + s.m(h)),
        {"a": nn.Linear(3, 5), "n": nn.BatchNorm1d(5), "m": nn.LayerNorm(5), "b": nn.Linear(5, 2)},
        (4, 3),
        "S_5",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_a_norm_obeys_the_laws(topology_of, name):
    topology_of(name)


def test_a_batch_norm_is_a_diagonal_into_a_group_with_shift_and_statistics(topology_of, blocks_of):
    topology = topology_of("batch")
    assert blocks_of(topology)["n"] == ("a", "n", "diagonal", "batch_norm", (), ())
    assert topology.edge_block("n").parameter.path == "n.weight"
    features = {feature.name: feature.parameter.path for feature in topology.group("n").features}
    assert features == {"bias": "n.bias", "running_mean": "n.running_mean", "running_var": "n.running_var"}
    assert (topology.group("a").activation, topology.group("n").activation) == ("none", "relu")
    assert topology.buffers == ("n.num_batches_tracked",)
    assert topology.order[2:7] == ("n.weight", "n.bias", "n.running_mean", "n.running_var", "n.num_batches_tracked")


def test_a_norm_with_statistics_only_has_a_structural_diagonal(topology_of, blocks_of):
    topology = topology_of("batch without scale")
    assert blocks_of(topology)["n"] == ("a", "n", "diagonal", "batch_norm", (), ())
    assert topology.edge_block("n").parameter is None
    assert [feature.name for feature in topology.group("n").features] == ["running_mean", "running_var"]


@pytest.mark.parametrize(
    ("name", "activation", "num_groups"),
    [
        ("instance without scale", "instance_norm|relu", 3),
        ("layer without scale", "layer_norm|tanh", 3),
        ("groups without scale", "group_norm|relu", 3),
    ],
)
def test_a_norm_without_parameters_is_part_of_the_activation(topology_of, name, activation, num_groups):
    topology = topology_of(name)
    assert len(topology.groups) == num_groups
    assert topology.group("a").activation == activation


def test_positions_beside_normalised_units_are_the_kernel_of_the_scale_and_the_shift_a_table(topology_of, groups_of, blocks_of):
    topology = topology_of("layer over units and positions")
    blocks = blocks_of(topology)
    assert blocks["n"] == ("a", "n", "diagonal", "layer_norm", (8,), ())
    assert groups_of(topology)["n.bias.positions"][:2] == (8, "input")
    assert blocks["n.bias"] == ("n.bias.positions", "n.bias", "dense", "positional", (), ())


def test_heads_that_are_normalised_each_by_itself_keep_their_place_beside_the_units(topology_of, groups_of, blocks_of):
    topology = topology_of("layer of each head")
    groups, blocks = groups_of(topology), blocks_of(topology)
    assert groups["a"] == (20, "hidden", "none", ("a.0", "a.1"))
    assert groups["n.entries"] == (5, "structural", "none", ("a.1",))
    assert groups["n"] == (5, "hidden", "tanh", ("a.1",))
    assert blocks["n.entries"] == ("a", "n.entries", "grouped", "entries", (), ("a.1",))
    assert blocks["b.entries"] == ("n", "b.entries", "grouped", "entries", (), ("a.1",))
    assert [(index.size, index.parents) for index in topology.indices] == [(4, ()), (5, ())]


def test_units_move_within_their_norm_group_and_groups_as_wholes(topology_of):
    indices = topology_of("groups within groups").indices
    assert [(i.name, i.size, i.parents) for i in indices] == [("a.0", 2, ()), ("a.1", 3, ("a.0",)), ("a.2", 2, ("a.0", "a.1"))]


def test_two_norms_of_one_layer_are_two_diagonals(topology_of, blocks_of):
    blocks = blocks_of(topology_of("two norms of one layer"))
    assert blocks["n"] == ("a", "n", "diagonal", "batch_norm", (), ())
    assert blocks["m"] == ("a", "m", "diagonal", "layer_norm", (), ())


def test_a_norm_of_positions_only_is_refused(refuses):
    module = nn.Sequential(nn.Conv1d(3, 6, 2), nn.Sequential(nn.LayerNorm(8)))
    refuses(module, SHAPE, match="module '1.0': 'layer_norm' normalises positions only; expected units on the normalised axes")


@pytest.mark.parametrize(
    ("num_groups", "group"), [(1, "S_4 × S_6"), (5, "(S_2 ≀ S_2) × (S_2 ≀ S_3)"), (2, "S_4"), (10, "S_4 × S_6")]
)
def test_groups_of_a_concatenation_sort_the_units_of_each_part(check, function_module, num_groups, group):
    modules = {"a": nn.Conv1d(3, 4, 1), "b": nn.Conv1d(3, 6, 1), "n": nn.GroupNorm(num_groups, 10), "c": nn.Conv1d(10, 2, 1)}
    module = function_module(lambda s, x: s.c(s.n(torch.cat([s.a(x), s.b(x)], 1))), **modules)
    # Groups of five reach from the first part into the second, which then stays.
    check(module, (3, 3, 7), group=group)
