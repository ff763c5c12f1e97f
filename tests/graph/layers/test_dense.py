from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

BATCH, TIME = 2, 4
IDS = torch.tensor([[1, 4, 2], [0, 3, 6]])


def parameter(*shape):
    return nn.Parameter(torch.zeros(shape))


def in_turn(s, x):
    """Layers a, b, c with activations between, then the mean over positions."""
    return s.d(torch.tanh(s.c(torch.relu(s.b(torch.relu(s.a(x)))))).mean(-1))


LAYERS = {
    "linear along positions": (
        lambda s, x: s.c(torch.tanh(s.b(torch.relu(s.a(x)).transpose(1, 2))).mean(-1)),
        {"a": nn.Linear(3, 5), "b": nn.Linear(TIME, 6), "c": nn.Linear(5, 7)},
        [(BATCH, TIME, 3)],
        "S_5 × S_6",
    ),
    "addmm with the weight the other way round": (
        lambda s, x: torch.addmm(s.v, torch.tanh(torch.addmm(s.b, x, s.w)), s.u),
        {"b": parameter(5), "w": parameter(3, 5), "v": parameter(4), "u": parameter(5, 4)},
        [(BATCH, 3)],
        "S_5",
    ),
    "a batch that became units": (
        lambda s, x: s.b(torch.relu(s.a(x)).view(2, 10)),
        {"a": nn.Linear(3, 5), "b": nn.Linear(10, 7)},
        [(4, 3)],
        "S_5",
    ),
    "convolution of groups that follow each other": (
        lambda s, x: s.c(torch.relu(s.b(torch.relu(s.a(x)))).mean(-1)),
        {"a": nn.Conv1d(3, 8, 2), "b": nn.Conv1d(8, 12, 3, groups=4), "c": nn.Linear(12, 7)},
        [(BATCH, 3, 9)],
        "((S_2 × S_3) ≀ S_4)",
    ),
    "convolution of groups that cut across each other": (
        in_turn,
        {"a": nn.Conv1d(5, 12, 2), "b": nn.Conv1d(12, 6, 3, groups=3), "c": nn.Conv1d(6, 8, 2, groups=2), "d": nn.Linear(8, 7)},
        [(BATCH, 5, 9)],
        "S_4^3 × S_4^2",
    ),
    "convolution of groups of the input": (
        lambda s, x: s.b(torch.relu(s.a(x))),
        {"a": nn.Conv1d(6, 8, 2, groups=2), "b": nn.Conv1d(8, 5, 1)},
        [(BATCH, 6, 9)],
        "S_4^2",
    ),
    "depthwise": (
        in_turn,
        {"a": nn.Conv1d(3, 5, 2), "b": nn.Conv1d(5, 5, 3, groups=5), "c": nn.Conv1d(5, 10, 2, groups=5), "d": nn.Linear(10, 7)},
        [(BATCH, 3, 9)],
        "(S_2 ≀ S_5)",
    ),
    "convolution of three axes": (
        lambda s, x: s.b(torch.relu(s.a(x)).flatten(1)),
        {"a": nn.Conv3d(2, 5, (1, 2, 3)), "b": nn.Linear(5 * 3 * 3 * 2, 7)},
        [(BATCH, 2, 3, 4, 4)],
        "S_5",
    ),
    "convolution without a batch": (
        lambda s, x: s.b(torch.relu(s.a(x))),
        {"a": nn.Conv1d(3, 5, 2), "b": nn.Conv1d(5, 4, 2)},
        [(3, 9)],
        "S_5",
    ),
    "transposed convolution": (
        lambda s, x: s.b(torch.relu(s.a(x))),
        {"a": nn.ConvTranspose2d(3, 5, (2, 3), stride=2, output_padding=1), "b": nn.ConvTranspose2d(5, 4, (1, 2))},
        [(BATCH, 3, 4, 3)],
        "S_5",
    ),
    "transposed convolution of groups": (
        lambda s, x: s.c(torch.tanh(s.b(torch.relu(s.a(x)))).mean(-1)),
        {"a": nn.Conv1d(3, 8, 2), "b": nn.ConvTranspose1d(8, 12, 3, groups=4), "c": nn.Linear(12, 7)},
        [(BATCH, 3, 9)],
        "((S_2 × S_3) ≀ S_4)",
    ),
    "transposed convolution of groups of the input": (
        lambda s, x: s.b(torch.tanh(s.a(x)).mean(-1)),
        {"a": nn.ConvTranspose1d(6, 8, 3, groups=2), "b": nn.Linear(8, 7)},
        [(BATCH, 6, 9)],
        "S_4^2",
    ),
    "weight normalisation": (
        lambda s, x: s.c(torch.tanh(s.b(torch.relu(s.a(x)))).mean(-1)),
        {"a": weight_norm(nn.Conv1d(3, 6, 2)), "b": weight_norm(nn.Conv1d(6, 8, 3, groups=2)), "c": weight_norm(nn.Linear(8, 5))},
        [(BATCH, 3, 9)],
        "((S_3 × S_4) ≀ S_2)",
    ),
    "bilinear layer of two towers": (
        lambda s, x, y: s.c(torch.tanh(s.b(torch.relu(s.a(x)), torch.tanh(s.d(y))))),
        {"a": nn.Linear(3, 5), "d": nn.Linear(2, 4), "b": nn.Bilinear(5, 4, 6), "c": nn.Linear(6, 7)},
        [(BATCH, 3), (BATCH, 2)],
        "S_5 × S_4 × S_6",
    ),
    "bilinear layer of units with themselves": (
        lambda s, x: s.b(*[torch.relu(s.a(x))] * 2),
        {"a": nn.Linear(3, 5), "b": nn.Bilinear(5, 5, 6)},
        [(BATCH, 3)],
        "S_5",
    ),
    "embedding": (
        lambda s, x: s.b(torch.tanh(s.a(x)).mean(1)),
        {"a": nn.Embedding(7, 5, padding_idx=0), "b": nn.Linear(5, 4)},
        [IDS],
        "S_5",
    ),
    "embedding whose rows are summed": (
        lambda s, x: s.b(torch.tanh(s.a(x))),
        {"a": nn.EmbeddingBag(7, 5, mode="sum"), "b": nn.Linear(5, 4)},
        [IDS],
        "S_5",
    ),
    "embedding that is the last layer too": (
        lambda s, x: F.linear(torch.tanh(s.b(s.a(x))), s.a.weight),
        {"a": nn.Embedding(7, 5), "b": nn.Linear(5, 5)},
        [IDS],
        "S_5",
    ),
    "weight on the left": (
        lambda s, x: s.v @ torch.relu(s.w @ x),
        {"w": parameter(5, 3), "v": parameter(4, 5)},
        [(3, 2)],
        "S_5",
    ),
    "weights of heads that are summed": (
        lambda s, x: torch.einsum("bho,ohc->bc", torch.tanh(torch.einsum("bi,hio->bho", x, s.w)), s.v),
        {"w": parameter(4, 3, 5), "v": parameter(5, 4, 6)},
        [(BATCH, 3)],
        "(S_5 ≀ S_4)",
    ),
    "weights of each head": (
        lambda s, x: torch.einsum("bho,hoc->bhc", torch.tanh(torch.einsum("bi,hio->bho", x, s.w)), s.v).flatten(1) @ s.u,
        {"w": parameter(4, 3, 5), "v": parameter(4, 5, 6), "u": parameter(24, 7)},
        [(BATCH, 3)],
        "((S_5 × S_6) ≀ S_4)",
    ),
    "weights of each position": (
        lambda s, x: torch.einsum("btd,tdk->bk", torch.tanh(s.a(x)), s.v),
        {"a": nn.Linear(3, 5), "v": parameter(TIME, 5, 6)},
        [(BATCH, TIME, 3)],
        "S_5",
    ),
    "positions": (
        lambda s, x: s.b(torch.tanh(s.a(x) + s.p)).mean(1),
        {"a": nn.Linear(3, 5), "p": parameter(1, TIME, 5), "b": nn.Linear(5, 6)},
        [(BATCH, TIME, 3)],
        "S_5",
    ),
    "positions of a longer table": (
        lambda s, x: s.b(torch.tanh(s.a(x) + s.p[:, :TIME])).mean(1),
        {"a": nn.Linear(3, 5), "p": parameter(1, TIME + 2, 5), "b": nn.Linear(5, 6)},
        [(BATCH, TIME, 3)],
        "S_5",
    ),
    "class token": (
        lambda s, x: torch.tanh(s.b(torch.tanh(torch.cat([s.t.expand(BATCH, 1, 5), s.a(x)], 1)))).mean(1) @ s.w,
        {"a": nn.Linear(3, 5), "t": parameter(1, 1, 5), "b": nn.Linear(5, 6), "w": parameter(6, 7)},
        [(BATCH, TIME, 3)],
        "S_5 × S_6",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_with_weights_obeys_the_laws(topology_of, name):
    topology_of(name)


def test_a_layer_along_positions_reads_a_structural_group_of_them(topology_of, groups_of, blocks_of):
    topology = topology_of("linear along positions")
    groups, blocks = groups_of(topology), blocks_of(topology)
    assert groups["b.entries"] == (TIME, "structural", "none", ("b.entries",))
    assert groups["b"] == (6, "hidden", "tanh", ())
    assert groups["mean"] == (5, "hidden", "none", ("a",))
    assert blocks["b.entries"] == ("a", "b.entries", "dense", "entries", (), ())
    assert blocks["b"] == ("b.entries", "b", "dense", "linear", (), ())
    assert blocks["mean"] == ("b", "mean", "dense", "mean", (), ())
    assert [(index.name, index.size, index.fixed) for index in topology.indices] == [("a", 5, False), ("b.entries", TIME, True)]


def test_groups_of_a_convolution_are_an_index_that_both_ends_share(topology_of, groups_of, blocks_of):
    topology = topology_of("convolution of groups that follow each other")
    assert groups_of(topology)["b"] == (12, "hidden", "relu", ("a.0", "b.1"))
    assert blocks_of(topology)["b"] == ("a", "b", "grouped", "conv", (3,), ("a.0",))
    assert topology.block_shape("b") == (12, 2, 3)
    assert [(i.name, i.size, i.parents) for i in topology.indices] == [
        ("a.0", 4, ()), ("a.1", 2, ("a.0",)), ("b.1", 3, ("a.0",)),
    ]  # fmt: skip


def test_a_depthwise_convolution_is_diagonal_and_one_with_a_multiplier_grouped(topology_of, blocks_of):
    blocks = blocks_of(topology_of("depthwise"))
    assert blocks["b"] == ("a", "b", "diagonal", "conv", (3,), ())
    assert blocks["c"] == ("b", "c", "grouped", "conv", (2,), ("a",))


def test_groups_that_cut_across_each_other_have_fixed_entries_between(topology_of, groups_of, blocks_of):
    topology = topology_of("convolution of groups that cut across each other")
    assert groups_of(topology)["c.entries"] == (6, "structural", "none", ("c.entries.0", "c.entries.1"))
    assert blocks_of(topology)["c.entries"] == ("b", "c.entries", "dense", "entries", (), ())
    assert blocks_of(topology)["c"] == ("c.entries", "c", "grouped", "conv", (2,), ("c.entries.0",))
    fixed = {index.name: index.fixed for index in topology.indices}
    assert fixed == {"a.0": True, "a.1": False, "b.1": True, "c.entries.0": True, "c.entries.1": True, "c.1": False}


def test_the_weight_of_a_transposed_convolution_is_shown_with_its_targets_first(make_graph):
    module = nn.Sequential(nn.Conv1d(3, 6, 2), nn.ConvTranspose1d(6, 8, 4, groups=2))
    graph = make_graph(module, (BATCH, 3, 9))
    weight = module[1].weight.detach()
    expected = torch.stack([weight[3 * (t // 4) : 3 * (t // 4) + 3, t % 4] for t in range(8)])
    assert torch.equal(graph.block("1"), expected)


def test_the_length_of_normalised_weights_is_a_feature_of_their_targets(make_graph):
    module = nn.Sequential(weight_norm(nn.Linear(3, 5)), nn.ReLU(), nn.Linear(5, 4))
    graph = make_graph(module, (BATCH, 3))
    name = "0.parametrizations.weight"
    assert torch.equal(graph.node_feature(name, "weight_norm"), module[0].parametrizations.weight.original0[:, 0])
    assert torch.equal(graph.block(name)[..., 0], module[0].parametrizations.weight.original1)


def test_a_bilinear_layer_reads_the_products_of_every_two_units(topology_of, groups_of, blocks_of):
    topology = topology_of("bilinear layer of two towers")
    assert groups_of(topology)["b.bilinear"] == (20, "hidden", "none", ("a", "d"))
    blocks = blocks_of(topology)
    assert blocks["b.bilinear"] == ("a", "b.bilinear", "grouped", "product", (), ("a",))
    assert blocks["b.bilinear:2"] == ("d", "b.bilinear", "grouped", "product", (), ("d",))
    assert blocks["b"] == ("b.bilinear", "b", "dense", "linear", (), ())


def test_an_embedding_has_an_input_node_for_each_entry_and_one_that_is_used_twice_has_two_blocks(
    topology_of, groups_of, blocks_of
):
    topology = topology_of("embedding that is the last layer too")
    groups, blocks = groups_of(topology), blocks_of(topology)
    assert groups["a.entries"] == (7, "input", "none", ("a.entries",))
    assert groups["a:2"] == (7, "output", "none", ("a.entries",))
    assert blocks["a"] == ("a.entries", "a", "dense", "embedding", (), ())
    assert blocks["a:2"] == ("b", "a:2", "dense", "linear", (), ())
    assert [slot.owner for slot in topology.slots] == ["b", "a", "b"]


def test_weights_of_each_head_share_the_heads(topology_of, groups_of, blocks_of):
    topology = topology_of("weights of each head")
    assert groups_of(topology)["linear:2"] == (24, "hidden", "none", ("linear.0", "linear:2.1"))
    assert blocks_of(topology)["linear:2"] == ("linear", "linear:2", "grouped", "linear", (), ("linear.0",))


def test_weights_of_each_position_have_these_as_their_kernel(make_graph, function_module):
    forward, modules, shapes, _ = LAYERS["weights of each position"]
    module = function_module(forward, **modules)
    graph = make_graph(module, *shapes)
    assert graph.topology.edge_block("linear").kernel == (TIME,)
    assert torch.equal(graph.block("linear"), module.v.detach().permute(2, 1, 0))


def test_a_table_of_positions_is_a_block_from_one_input_node_each(topology_of, groups_of, blocks_of):
    topology = topology_of("positions of a longer table")
    groups, blocks = groups_of(topology), blocks_of(topology)
    assert groups["p.positions"][:2] == (TIME + 2, "input")
    assert groups["p"] == (5, "hidden", "none", ("a",))
    assert blocks["p"] == ("p.positions", "p", "dense", "positional", (), ())
    assert groups["add"] == (5, "hidden", "tanh", ("a",))
    assert {blocks["add"][:4], blocks["add:2"][:4]} == {
        ("a", "add", "diagonal", "residual"), ("p", "add", "diagonal", "residual"),
    }  # fmt: skip


def test_a_weight_that_is_summed_over_by_itself_is_refused(function_module, refuses):
    module = function_module(lambda s, x: torch.einsum("bi,oij->bo", x, s.w), w=parameter(5, 3, 4))
    refuses(module, (BATCH, 3), match="the outermost module: 'w' is summed over by itself; expected a weight whose axes meet")


def test_weight_normalisation_along_another_axis_is_refused(refuses):
    module = nn.Sequential(weight_norm(nn.Linear(3, 5), dim=1), nn.Linear(5, 4))
    refuses(module, (BATCH, 3), match=r"module '0.*': weight normalisation along axis 1 is not supported; expected dim=0")


def test_weight_normalisation_of_a_transposed_convolution_is_refused(refuses):
    module = nn.Sequential(weight_norm(nn.ConvTranspose1d(3, 6, 2)), nn.Conv1d(6, 4, 3))
    refuses(
        module, (BATCH, 3, 9), match="module '0': weight normalisation of a transposed convolution is not supported; expected"
    )


def test_a_weight_computed_by_a_parametrization_is_refused_with_the_way_out(refuses):
    refuses(
        nn.Sequential(spectral_norm(nn.Linear(3, 5)), nn.Linear(5, 4)), (BATCH, 3),
        match=r"module '0\.parametrizations.*computes a weight from other parameters; expected plain .*remove_parametrizations",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("forward", "role", "operation"),
    [
        (lambda s, x: F.linear(x, s.b(s.a(x))), "weight", "linear"),
        (lambda s, x: F.linear(x, s.a.weight, s.a.bias * 2), "bias", "linear"),
        (lambda s, x: F.embedding(torch.tensor([1, 0]), s.a(x)), "table", "embedding"),
        (lambda s, x: F.conv1d(x[None], s.a(x)[None, :, :2]), "weight", "conv1d"),
    ],
)
def test_a_computed_weight_is_refused(function_module, refuses, forward, role, operation):
    module = function_module(forward, a=nn.Linear(3, 5), b=nn.Linear(5, 3))
    text = f"the {role} of '{operation}' is computed, not an entry of the state dict; expected a parameter as it is"
    refuses(module, (BATCH, 3), match=text)


@pytest.mark.parametrize(
    "forward",
    [
        lambda s, x: torch.bmm(x.transpose(0, 1), s.w).relu().sum(0) @ s.v,
        lambda s, x: (x.transpose(0, 1) @ s.w).relu().mean(0) @ s.v,
        lambda s, x: torch.einsum("bni,nio->bno", x, s.w).relu().mean(1) @ s.v,
    ],
)
def test_a_weight_for_each_position_of_an_input_leaves_the_positions_in_their_places(check, function_module, forward):
    weights = {"w": nn.Parameter(torch.randn(6, 4, 5)), "v": nn.Parameter(torch.randn(5, 2))}
    topology = check(function_module(forward, **weights), (3, 6, 4), group="S_5")
    assert [(index.size, index.fixed) for index in topology.indices_of(topology.blocks[0].target)] == [(6, True), (5, False)]
