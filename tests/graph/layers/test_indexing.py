from __future__ import annotations

import pytest
import torch
from torch import nn

BATCH = 4


def between(function, *, units=5, read=5):
    """Two linear layers with a function of the hidden units between."""
    forward = lambda s, x: s.b(function(torch.relu(s.a(x))))  # noqa: E731
    return forward, {"a": nn.Linear(3, units), "b": nn.Linear(read, 2)}, [(BATCH, 3)]


def over_positions(function, *, positions=8):
    """A convolution of eight positions, a function, a linear layer of all that is left."""
    forward = lambda s, x: s.b(function(torch.relu(s.a(x))).flatten(1))  # noqa: E731
    return forward, {"a": nn.Conv1d(3, 5, 2), "b": nn.Linear(5 * positions, 2)}, [(BATCH, 3, 9)]


def of_three(function):
    forward = lambda s, x: s.b(function(s.a(x), s.c(x), s.d(x)))  # noqa: E731
    return forward, {name: nn.Linear(3, 5) for name in "acd"} | {"b": nn.Linear(5, 2)}, [(BATCH, 3)]


def double_one_position(h):
    h = h.clone()
    h[:, :, 2] = h[:, :, 5] * 2
    return h


def overwrite_units(h):
    h = h.clone()
    h[:, 1:3] = 0.0
    return h


PLACES = torch.tensor([3, 0, 2])
ROWS = torch.tensor([1, 0])

LAYERS = {
    "places of units": (*between(lambda h: h[:, torch.tensor([3, 0, 2, 2])], read=4), "1"),
    "places of positions": (*over_positions(lambda h: h[:, :, PLACES], positions=3), "S_5"),
    "places of graphs and positions": (*over_positions(lambda h: h[ROWS, :, PLACES[1:]], positions=1), "S_5"),
    "gathered positions": (*over_positions(lambda h: h.gather(2, PLACES.expand(BATCH, 5, 3)), positions=3), "S_5"),
    "selected positions": (*over_positions(lambda h: h.index_select(2, PLACES), positions=3), "S_5"),
    "units gathered by an input": (
        lambda s, x, places: s.b(torch.relu(s.a(x)).gather(1, places)),
        {"a": nn.Linear(3, 5), "b": nn.Linear(4, 2)}, [(BATCH, 3), torch.tensor([[0, 3, 4, 1]] * BATCH)], "1",
    ),
    "a triangle of positions": (
        lambda s, x: s.b(torch.relu(s.a(x)).tril()).mean((2, 3)),
        {"a": nn.Conv2d(3, 5, 2), "b": nn.Conv2d(5, 4, 2)}, [(BATCH, 3, 4, 6)], "S_5",
    ),
    "a triangle of graphs and units": (*between(torch.tril), "1"),
    "a diagonal": (
        lambda s, x: s.b(torch.relu(s.a(x)).diagonal(0, 2, 3)).mean(-1),
        {"a": nn.Conv2d(3, 5, 2), "b": nn.Conv1d(5, 4, 2)}, [(BATCH, 3, 4, 6)], "S_5",
    ),
    "one position over another": (*over_positions(double_one_position), "S_5"),
    "numbers over some units": (*between(overwrite_units), "1"),
    "positions added up in places": (
        *over_positions(
            lambda h: torch.zeros(BATCH, 5, 6, dtype=h.dtype).scatter_add(2, (torch.arange(8) % 6).expand(BATCH, 5, 8), h),
            positions=6,
        ),
        "S_5",
    ),
    "a mask of the units' own": (*between(lambda h: h.masked_fill(h < 0.3, -1.0)), "S_5"),
    "a mask that differs": (*between(lambda h: h.masked_fill(torch.tensor([True, False, False, True, False]), -1.0)), "1"),
    "a mask of positions": (*over_positions(lambda h: h.masked_fill(torch.arange(8) > 5, 0.0)), "S_5"),
    "a choice by one layer of two others": (*of_three(lambda a, c, d: torch.where(a > 0, c, d)), "S_5"),
    "interpolation": (*of_three(lambda a, c, d: torch.lerp(a, c, 0.3) * d), "S_5"),
    "product and sum": (*of_three(torch.addcmul), "S_5"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_what_chooses_by_an_index_obeys_the_laws(topology_of, name):
    topology_of(name)


@pytest.mark.parametrize("name", ["places of units", "units gathered by an input"])
def test_units_that_are_chosen_by_their_place_are_fixed_and_read_as_entries(topology_of, groups_of, blocks_of, name):
    topology = topology_of(name)
    assert groups_of(topology)["b.entries"] == (4, "structural", "none", ("b.entries",))
    assert blocks_of(topology)["b.entries"] == ("a", "b.entries", "dense", "entries", (), ())
    assert [(index.name, index.size, index.fixed) for index in topology.indices] == [("a", 5, True), ("b.entries", 4, True)]


def test_chosen_positions_are_a_shorter_kernel(topology_of):
    assert topology_of("places of positions").edge_block("b").kernel == (3,)
    assert topology_of("places of graphs and positions").edge_block("b").kernel == ()


def test_a_choice_reads_the_condition_behind_a_diagonal(topology_of, groups_of, blocks_of):
    topology = topology_of("a choice by one layer of two others")
    assert groups_of(topology)["a"] == (5, "hidden", "gt(0)", ("a",))
    assert groups_of(topology)["where"] == (5, "hidden", "none", ("a",))
    sources = [(block[0], block[2]) for block in blocks_of(topology).values() if block[1] == "where"]
    assert sources == [("a", "diagonal"), ("c", "diagonal"), ("d", "diagonal")]


def test_a_number_over_some_positions_leaves_the_units_free(check, function_module):
    def overwrite(h):
        h = h.clone()
        h[:, :, torch.tensor([1, 4])] = 0.5
        return h

    forward, modules, shapes = over_positions(overwrite)
    check(function_module(forward, **modules), *shapes, group="S_5")


def test_units_whose_place_is_looked_up_in_a_table_do_not_move(check, function_module):
    modules = {"a": nn.Linear(3, 5), "e": nn.Embedding(5, 4), "b": nn.Linear(5, 4)}
    module = function_module(lambda s, x: s.b(h := torch.relu(s.a(x))) + s.e(h.argmax(-1)), **modules)
    check(module, (BATCH, 3), group="1")
