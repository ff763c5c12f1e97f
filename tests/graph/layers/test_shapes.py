from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ngbench.graph import trace

BATCH = 4


def between(function, *, units=5, read=5):
    """Two linear layers with a function of the hidden units between."""
    forward = lambda s, x: s.b(function(torch.relu(s.a(x))))  # noqa: E731
    return forward, {"a": nn.Linear(3, units), "b": nn.Linear(read, 2)}, (BATCH, 3)


def over_positions(function, *, positions):
    """A convolution of eight positions, a function, a linear layer of all that is left."""
    forward = lambda s, x: s.b(function(torch.relu(s.a(x))).flatten(1))  # noqa: E731
    return forward, {"a": nn.Conv1d(3, 5, 2), "b": nn.Linear(5 * positions, 2)}, (BATCH, 3, 9)


def on_a_grid(function, *, channels=5, read=5):
    """Two convolutions of a grid with a function between, then the mean."""
    forward = lambda s, x: s.b(function(torch.relu(s.a(x)))).mean((2, 3))  # noqa: E731
    return forward, {"a": nn.Conv2d(3, channels, 2), "b": nn.Conv2d(read, 2, 2)}, (BATCH, 3, 5, 7)


def of_two(function, *, read=10):
    forward = lambda s, x: s.b(function(torch.relu(s.a(x)), torch.tanh(s.c(x))))  # noqa: E731
    return forward, {"a": nn.Linear(3, 5), "c": nn.Linear(3, 5), "b": nn.Linear(read, 2)}, (BATCH, 3)


def of_parts(cut, join, *, units, sizes):
    """A layer that is cut into parts, each read by a layer of its own, or together by one."""
    forward = lambda s, x: join(s, *cut(torch.relu(s.a(x))))  # noqa: E731
    readers = {name: nn.Linear(size, 4) for name, size in zip("bcd", sizes, strict=False)}
    return forward, {"a": nn.Linear(3, units), **readers}, (BATCH, 3)


def densely(s, x):
    hidden = torch.relu(s.a(x))
    return s.c(torch.cat([x, hidden, torch.relu(s.b(torch.cat([x, hidden], 1)))], 1))


LAYERS = {
    "a view that cuts units into heads": (
        lambda s, x: s.b(s.a(x).view(-1, 4, 5)).mean(1),
        {"a": nn.Linear(3, 20), "b": nn.Linear(5, 6)}, (BATCH, 3), "S_4 × S_5",
    ),
    "views that cut across each other": (*between(lambda h: h.view(-1, 6, 2).view(-1, 4, 3).mean(1), units=12, read=3), "1"),
    "a view across positions": (*over_positions(lambda h: h.reshape(-1, 8, 5), positions=8), "1"),
    "a view that joins graphs and positions": (
        lambda s, x: s.b(torch.relu(s.a(x)).reshape(-1, 5)).view(BATCH, 6, 2),
        {"a": nn.Linear(3, 5), "b": nn.Linear(5, 2)}, (BATCH, 6, 3), "S_5",
    ),
    "positions first": (*over_positions(lambda h: h.permute(2, 0, 1).transpose(0, 1), positions=8), "S_5"),
    "graphs last": (
        lambda s, x: (s.w @ torch.relu(s.a(x)).T).T,
        {"a": nn.Linear(3, 5), "w": nn.Parameter(torch.zeros(4, 5))}, (BATCH, 3), "S_5",
    ),
    "squeezed": (*over_positions(lambda h: h.mean(-1, keepdim=True).squeeze(-1).unsqueeze(2), positions=1), "S_5"),
    "units backwards": (*between(lambda h: h.flip(-1)), "1"),
    "units summed in turn": (*between(lambda h: torch.cumsum(h, -1)), "1"),
    "units rolled": (*between(lambda h: h.roll(2, -1)), "1"),
    "units pooled": (*between(lambda h: F.max_pool1d(h, 3, 1, 1)), "1"),
    "units padded and cut": (*between(lambda h: F.pad(h, (1, -1))), "1"),
    "units padded": (*between(lambda h: F.pad(h, (1, 2)), read=8), "1"),
    "channels padded": (
        lambda s, x: s.b(F.pad(s.a(x), (0, 0, 2, -2))).mean(-1),
        {"a": nn.Conv1d(3, 5, 2), "b": nn.Conv1d(5, 2, 2)}, (BATCH, 3, 9), "1",
    ),
    "positions backwards": (*over_positions(lambda h: h.flip(-1), positions=8), "S_5"),
    "positions summed in turn": (*over_positions(lambda h: h.cumsum(-1), positions=8), "S_5"),
    "positions rolled": (*over_positions(lambda h: h.roll(3, -1), positions=8), "S_5"),
    "positions padded": (*over_positions(lambda h: F.pad(h, (1, 2)), positions=11), "S_5"),
    "positions reflected": (*over_positions(lambda h: F.pad(h, (1, 2), mode="reflect"), positions=11), "S_5"),
    "positions interpolated": (*over_positions(lambda h: F.interpolate(h, size=6, mode="linear"), positions=6), "S_5"),
    "positions pooled by length": (*over_positions(lambda h: F.lp_pool1d(h, 2.0, 2), positions=4), "S_5"),
    "a grid made finer": (*on_a_grid(lambda h: F.interpolate(h, scale_factor=2)), "S_5"),
    "pixels made of channels": (*on_a_grid(lambda h: F.pixel_shuffle(h, 2), channels=20), "S_5"),
    "channels made of pixels": (*on_a_grid(lambda h: F.pixel_unshuffle(h, 2), read=20), "S_5"),
    "copies of positions": (
        lambda s, x: s.b(torch.relu(s.a(x)).unsqueeze(1).expand(-1, 6, -1)).mean(1),
        {"a": nn.Linear(3, 5), "b": nn.Linear(5, 2)}, (BATCH, 3), "S_5",
    ),
    "copies of units": (*between(lambda h: h.repeat(1, 2), read=10), "S_5"),
    "copies of each unit": (*between(lambda h: h.repeat_interleave(2, 1), read=10), "S_5"),
    "copies that meet units": (
        lambda s, x: s.b(torch.relu(s.a(x)).expand(-1, 5) * torch.tanh(s.c(x))),
        {"a": nn.Linear(3, 1), "c": nn.Linear(3, 5), "b": nn.Linear(5, 2)}, (BATCH, 3), "S_5",
    ),
    "some units": (*between(lambda h: h[:, 2:], units=7), "S_2 × S_5"),
    "every other unit": (*between(lambda h: h[:, ::2], units=7, read=4), "1"),
    "two slices": (
        *of_parts(lambda h: (h[:, :2], h[:, 2:]), lambda s, p, q: s.b(p) * s.c(q), units=7, sizes=(2, 5)), "S_2 × S_5",
    ),
    "slices that overlap": (
        *of_parts(lambda h: (h[:, :4], h[:, 2:]), lambda s, p, q: s.b(p) * s.c(q), units=7, sizes=(4, 5)),
        "S_2 × S_2 × S_3",
    ),
    "one unit beside all": (
        *of_parts(lambda h: (h, h[:, 2:3]), lambda s, p, q: s.b(p) * q, units=5, sizes=(5,)), "S_2 × S_2",
    ),
    "split": (*of_parts(lambda h: h.split([2, 5], 1), lambda s, p, q: s.b(p) + s.c(q), units=7, sizes=(2, 5)), "S_2 × S_5"),
    "three chunks that meet": (
        *of_parts(lambda h: h.chunk(3, -1), lambda s, p, q, r: s.b(torch.tanh(p) * q + r), units=15, sizes=(5,)), "S_5",
    ),
    "three parts of a view": (
        *of_parts(lambda h: h.view(-1, 3, 5).unbind(1), lambda s, p, q, r: s.b(torch.tanh(p) * q + r), units=15, sizes=(5,)),
        "S_5",
    ),
    "neighbours of a view": (
        *of_parts(lambda h: h.view(-1, 5, 2).unbind(-1), lambda s, p, q: s.b(torch.tanh(p) * q), units=10, sizes=(5,)), "S_5",
    ),
    "stack": (*of_two(lambda a, c: torch.stack([a, c], 1).flatten(1)), "S_5"),
    "cat of units": (*of_two(lambda a, c: torch.cat([a, c], 1)), "S_5 × S_5"),
    "cat of one layer with itself": (*between(lambda h: torch.cat([h, h], 1), read=10), "S_5"),
    "cat of two functions of one layer": (*between(lambda h: torch.cat([torch.tanh(h), h], 1), read=10), "S_5"),
    "cat of positions": (
        lambda s, x: s.b(torch.cat([torch.relu(s.a(x)), torch.tanh(s.c(x))], 2)).mean(-1),
        {"a": nn.Conv1d(3, 5, 2), "c": nn.Conv1d(3, 5, 4), "b": nn.Conv1d(5, 4, 3)}, (BATCH, 3, 9), "S_5",
    ),
    "cat of all before": (
        densely, {"a": nn.Linear(3, 5), "b": nn.Linear(8, 7), "c": nn.Linear(15, 4)}, (BATCH, 3), "S_5 × S_7",
    ),
    "cat with numbers": (*between(lambda h: torch.cat([h, torch.arange(1.0, 9, dtype=h.dtype).view(4, 2)], 1), read=7), "S_5"),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_what_moves_entries_obeys_the_laws(topology_of, name):
    topology_of(name)


@pytest.mark.parametrize(
    ("name", "entries"),
    [("units backwards", 5), ("units summed in turn", 5), ("units pooled", 5), ("units padded", 8), ("every other unit", 4)],
)
def test_what_mixes_units_in_their_order_fixes_them_and_fixed_entries_are_read(topology_of, groups_of, blocks_of, name, entries):
    topology = topology_of(name)
    assert groups_of(topology)["a"][3] == ("a",)
    assert groups_of(topology)["b.entries"] == (entries, "structural", "none", ("b.entries",))
    assert blocks_of(topology)["b.entries"] == ("a", "b.entries", "dense", "entries", (), ())
    assert [index.fixed for index in topology.indices] == [True, True]


def test_heads_of_a_view_are_an_index_beside_that_of_their_units(topology_of, groups_of, blocks_of):
    topology = topology_of("a view that cuts units into heads")
    assert groups_of(topology)["a"] == (20, "hidden", "none", ("a.0", "a.1"))
    assert blocks_of(topology)["b.entries"] == ("a", "b.entries", "grouped", "entries", (), ("a.1",))
    assert [(index.name, index.size, index.parents) for index in topology.indices[:2]] == [("a.0", 4, ()), ("a.1", 5, ())]


def test_pixels_that_were_channels_keep_their_places_beside_the_others(topology_of, groups_of):
    topology = topology_of("pixels made of channels")
    assert groups_of(topology)["a"][3] == ("a.0", "a.1", "a.2")
    assert [(index.size, index.fixed) for index in topology.indices] == [(5, False), (2, True), (2, True)]


def test_channels_that_were_pixels_are_a_kernel(topology_of):
    assert topology_of("channels made of pixels").edge_block("b").kernel == (2, 2, 2, 2)


def test_copies_of_units_are_a_kernel(make_graph, function_module):
    for name, axis in (("copies of units", 1), ("copies of each unit", 2)):
        forward, modules, shape, _ = LAYERS[name]
        module = function_module(forward, **modules)
        graph = make_graph(module, shape)
        weight = module.b.weight.detach()
        expected = weight.view(2, 2, 5).transpose(1, 2) if axis == 1 else weight.view(2, 5, 2)
        assert graph.topology.edge_block("b").kernel == (2,)
        assert torch.equal(graph.block("b"), expected)


def test_parts_of_a_layer_are_groups_with_views_of_its_parameters(make_graph, function_module):
    forward, modules, shape, _ = LAYERS["slices that overlap"]
    module = function_module(forward, **modules)
    graph = make_graph(module, shape)
    assert [g.name for g in graph.topology.groups] == ["x", "a[0]", "a[1]", "a[2]", "b", "c", "mul"]
    for name, (start, stop) in {"a[0]": (0, 2), "a[1]": (2, 4), "a[2]": (4, 7)}.items():
        assert torch.equal(graph.block(name)[..., 0], module.a.weight.detach()[start:stop])
        assert torch.equal(graph.node_feature(name, "bias"), module.a.bias.detach()[start:stop])
    assert torch.equal(graph.block("b[1]")[..., 0], module.b.weight.detach()[:, 2:])
    assert torch.equal(graph.block("c[1]")[..., 0], module.c.weight.detach()[:, 2:])


def test_interleaved_parts_of_a_layer_are_views_with_a_stride(make_graph, function_module):
    forward, modules, shape, _ = LAYERS["neighbours of a view"]
    module = function_module(forward, **modules)
    graph = make_graph(module, shape)
    for part in range(2):
        assert torch.equal(graph.block(f"a[{part}]")[..., 0], module.a.weight.detach()[part::2])
        assert torch.equal(graph.node_feature(f"a[{part}]", "bias"), module.a.bias.detach()[part::2])


def test_units_side_by_side_are_blocks_from_each_of_their_groups(topology_of, blocks_of):
    blocks = blocks_of(topology_of("cat of all before"))
    assert {name: block[:2] for name, block in blocks.items()} == {
        "a": ("x", "a"), "b[0]": ("x", "b"), "b[1]": ("a", "b"), "c[0]": ("x", "c"), "c[1]": ("a", "c"), "c[2]": ("b", "c"),
    }  # fmt: skip


def test_positions_side_by_side_make_the_units_of_all_parts_agree(topology_of, groups_of, blocks_of):
    topology = topology_of("cat of positions")
    assert groups_of(topology)["cat"] == (5, "hidden", "none", ("a",))
    assert blocks_of(topology)["cat"] == ("a", "cat", "diagonal", "join", (), ())
    assert blocks_of(topology)["cat:2"] == ("c", "cat", "diagonal", "join", (), ())


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


def test_pooling_over_positions_beside_units_is_not_refused(function_module):
    module = function_module(
        lambda s, x: s.b(F.pad(F.max_pool1d(s.a(x), 3, 1, 1), (1, 2, 0, 0))), a=nn.Conv1d(3, 5, 2), b=nn.Conv1d(5, 2, 2)
    )
    assert trace(module, torch.zeros(4, 3, 9)).topology.num_edges == 3 * 5 + 5 * 2


@pytest.mark.parametrize(
    ("forward", "modules", "shape", "group"),
    [
        (lambda s, x: s.b(s.a(x)), {"a": nn.Conv1d(3, 5, 2), "b": nn.Linear(8, 2)}, (BATCH, 3, 9), "1"),
        (lambda s, x: s.b(s.a(x).view(-1, 4, 5)), {"a": nn.Linear(3, 20), "b": nn.Linear(5, 6)}, (BATCH, 3), "S_5"),
    ],
)
def test_units_that_stand_as_positions_in_an_output_do_not_move(check, function_module, forward, modules, shape, group):
    check(function_module(forward, **modules), shape, group=group)


@pytest.mark.parametrize("moved", [lambda h: h.movedim(1, 2), lambda h: h.moveaxis((1, 2), (2, 1)), lambda h: h.swapdims(1, 2)])
def test_units_are_followed_however_axes_are_moved(check, function_module, moved):
    module = function_module(lambda s, x: s.b(moved(torch.relu(s.a(x)))), a=nn.Conv1d(3, 5, 2), b=nn.Linear(5, 4))
    check(module, (BATCH, 3, 9), group="S_5")
