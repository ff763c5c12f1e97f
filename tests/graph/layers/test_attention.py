from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

BATCH, TIME = 2, 4


def heads(tensor, num):
    return tensor.unflatten(-1, (num, -1)).transpose(1, 2)


def joined(tensor):
    return tensor.transpose(1, 2).flatten(2)


def by_module(s, x):
    hidden = s.a(x)
    return s.b(s.m(hidden, hidden, hidden)[0]).mean(1)


def across(s, x, keys, values):
    return s.b(s.m(torch.relu(s.a(x)), keys, values)[0]).mean(1)


def by_one_operation(s, x):
    q, k, v = heads(s.q(x), 6), heads(s.k(x), 3), heads(s.v(x), 3)
    return s.o(joined(F.scaled_dot_product_attention(q, k, v, enable_gqa=True))).mean(1)


def by_hand(s, x):
    q, k, v = (heads(part, 3) for part in s.qkv(x).chunk(3, -1))
    mask = torch.full((TIME, TIME), -9.0, dtype=x.dtype).triu(1)
    return s.o(joined(torch.softmax(q @ k.transpose(-1, -2) * 0.5 + mask, -1) @ v)).mean(1)


def by_einsum(s, x):
    q, k, v = (torch.einsum("bti,ihd->bthd", x, w) for w in (s.q, s.k, s.v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", scores, v).flatten(2).mean(1) @ s.o


def talking(s, x):
    q, k, v = (heads(part, 3) for part in s.qkv(x).chunk(3, -1))
    scores = torch.einsum("hg,bgqk->bhqk", s.t, q @ k.transpose(-1, -2)).softmax(-1)
    return s.o(joined(scores @ v)).mean(1)


def with_learned_mask(s, x):
    q, k, v = (heads(part, 3) for part in s.qkv(x).chunk(3, -1))
    return s.o(joined(F.scaled_dot_product_attention(q, k, v, attn_mask=s.r))).mean(1)


def with_mask_of_each_head(s, x):
    q, k, v = (heads(part, 3) for part in s.qkv(x).chunk(3, -1))
    mask = torch.arange(1.0, 4, dtype=x.dtype)[:, None, None] * torch.arange(0.0, TIME, dtype=x.dtype)
    return s.o(joined(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))).mean(1)


def parameter(*shape):
    return nn.Parameter(torch.zeros(shape))


def multihead(**settings):
    return {"a": nn.Linear(3, 8), "m": nn.MultiheadAttention(8, 2, batch_first=True, **settings), "b": nn.Linear(8, 5)}


FUSED = {"qkv": nn.Linear(5, 3 * 6), "o": nn.Linear(6, 7)}
SEQUENCE = [(BATCH, TIME, 3)]
WIDER = [(BATCH, TIME, 5)]

LAYERS = {
    "module": (by_module, multihead(), SEQUENCE, "S_8 × ((S_4 × S_4) ≀ S_2) × S_8"),
    "module without biases": (by_module, multihead(bias=False), SEQUENCE, "S_8 × ((S_4 × S_4) ≀ S_2) × S_8"),
    "module with a learned key": (by_module, multihead(add_bias_kv=True), SEQUENCE, "S_8 × ((S_4 × S_4) ≀ S_2) × S_8"),
    "module of three inputs": (
        across,
        multihead(kdim=5, vdim=7),
        [*SEQUENCE, (BATCH, 6, 5), (BATCH, 6, 7)],
        "S_8 × ((S_4 × S_4) ≀ S_2) × S_8",
    ),
    "keys that several queries share": (
        by_one_operation,
        {"q": nn.Linear(3, 12), "k": nn.Linear(3, 6), "v": nn.Linear(3, 15), "o": nn.Linear(30, 4)},
        SEQUENCE,
        "((S_2 × S_2 × S_5) ≀ S_3)",
    ),
    "by hand": (by_hand, FUSED, WIDER, "((S_2 × S_2) ≀ S_3)"),
    "by einsum": (
        by_einsum,
        {"q": parameter(3, 4, 5), "k": parameter(3, 4, 5), "v": parameter(3, 4, 6), "o": parameter(24, 7)},
        SEQUENCE,
        "((S_5 × S_6) ≀ S_4)",
    ),
    "heads that talk": (talking, {**FUSED, "t": parameter(3, 3)}, WIDER, "(S_2 ≀ S_3) × (S_2 ≀ S_3)"),
    "a learned mask of each head": (with_learned_mask, {**FUSED, "r": parameter(3, TIME, TIME)}, WIDER, "S_2^3 × S_2^3"),
    "a constant mask of each head": (with_mask_of_each_head, FUSED, WIDER, "S_2^3 × S_2^3"),
    "products of two layers": (
        lambda s, x: s.o(torch.einsum("bi,bj->bij", torch.relu(s.a(x)), torch.tanh(s.c(x))).flatten(1)),
        {"a": nn.Linear(3, 5), "c": nn.Linear(3, 4), "o": nn.Linear(20, 2)},
        [(BATCH, 3)],
        "S_5 × S_4",
    ),
    "products of a layer with itself": (
        lambda s, x: s.o(torch.einsum("bti,btj->bij", h := torch.relu(s.a(x)), h).flatten(1)),
        {"a": nn.Linear(3, 5), "o": nn.Linear(25, 2)},
        SEQUENCE,
        "S_5",
    ),
    "scores that are read": (
        lambda s, x: s.o(torch.bmm(torch.relu(s.a(x)), torch.tanh(s.c(x)).transpose(1, 2)).mean(1)),
        {"a": nn.Linear(3, 5), "c": nn.Linear(3, 5), "o": nn.Linear(TIME, 2)},
        SEQUENCE,
        "S_5",
    ),
    "a product that is added": (
        lambda s, x: s.o(torch.baddbmm(s.c(x), x @ x.transpose(1, 2), s.a(x))).mean(1),
        {"a": nn.Linear(3, 5), "c": nn.Linear(3, 5), "o": nn.Linear(5, 2)},
        SEQUENCE,
        "S_5",
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_an_attention_obeys_the_laws(topology_of, name):
    topology_of(name)


def test_query_and_key_units_enter_one_structural_node_a_head_which_enters_its_values(topology_of, groups_of, blocks_of):
    topology = topology_of("by hand")
    groups, blocks = groups_of(topology), blocks_of(topology)
    assert [groups[f"qkv[{part}]"][3] for part in range(3)] == [
        ("qkv[0].0", "qkv[0].1"), ("qkv[0].0", "qkv[0].1"), ("qkv[0].0", "qkv[2].1"),
    ]  # fmt: skip
    assert groups["matmul"] == (3, "structural", "mul(0.5)|add(constant)|softmax(positions)", ("qkv[0].0",))
    assert groups["matmul:2"] == (6, "structural", "none", ("qkv[0].0", "qkv[2].1"))
    assert blocks["matmul"] == ("qkv[0]", "matmul", "grouped", "matmul", (), ("qkv[0].0",))
    assert blocks["matmul:2"] == ("qkv[1]", "matmul", "grouped", "matmul", (), ("qkv[0].0",))
    assert blocks["matmul:2:2"] == ("matmul", "matmul:2", "grouped", "matmul", (), ("qkv[0].0",))
    assert blocks["matmul:2:3"] == ("qkv[2]", "matmul:2", "diagonal", "matmul", (), ())


def test_fused_queries_keys_and_values_are_three_views_of_one_weight(make_graph, function_module):
    forward, modules, shapes, _ = LAYERS["by hand"]
    module = function_module(forward, **modules)
    graph = make_graph(module, *shapes)
    for part, weight in enumerate(module.qkv.weight.detach().chunk(3)):
        assert torch.equal(graph.block(f"qkv[{part}]")[..., 0], weight)


def test_heads_that_share_keys_move_in_groups(topology_of, groups_of, blocks_of):
    topology = topology_of("keys that several queries share")
    groups, blocks = groups_of(topology), blocks_of(topology)
    name = "attention"
    assert [groups[key][::3] for key in "qkv"] == [(12, ("q.0", "q.1", "q.2")), (6, ("q.0", "q.2")), (15, ("q.0", "v.1"))]
    assert groups[name] == (6, "structural", "softmax(positions)", ("q.0", "q.1"))
    assert groups[f"{name}:2"] == (30, "structural", "none", ("q.0", "q.1", "v.1"))
    assert blocks[name] == ("q", name, "grouped", "attention", (), ("q.0", "q.1"))
    assert blocks[f"{name}:2"] == ("k", name, "grouped", "attention", (), ("q.0",))
    assert topology.block_shape(f"{name}:2") == (6, 2, 1)
    parents = {index.name: index.parents for index in topology.indices}
    assert parents == {"q.0": (), "q.1": ("q.0",), "q.2": ("q.0",), "v.1": ("q.0",)}


def test_a_mask_that_differs_between_heads_fixes_them(topology_of):
    for name in ("a learned mask of each head", "a constant mask of each head"):
        fixed = {index.name: index.fixed for index in topology_of(name).indices}
        assert fixed["qkv[0].0"] is True
        assert fixed["qkv[0].1"] is fixed["qkv[2].1"] is False


def test_products_of_two_layers_are_a_group_of_both_indices(topology_of, groups_of, blocks_of):
    topology = topology_of("products of two layers")
    assert groups_of(topology)["einsum"] == (20, "hidden", "none", ("a", "c"))
    assert blocks_of(topology)["einsum"] == ("a", "einsum", "grouped", "einsum", (), ("a",))
    assert blocks_of(topology)["einsum:2"] == ("c", "einsum", "grouped", "einsum", (), ("c",))
    assert groups_of(topology_of("products of a layer with itself"))["einsum"] == (25, "hidden", "none", ("a", "a"))


@pytest.mark.parametrize(
    ("equation", "function"),
    [
        ("bi,ij,bj->b", lambda s, x: torch.einsum("bi,ij,bj->b", h := s.a(x)[:, 0], s.w, h)),
        ("btt->bt", lambda s, x: torch.einsum("btt->bt", s.a(x))),
        ("bti,oi", lambda s, x: torch.einsum("bti,oi", s.a(x), s.w)),
        (r"...i,oi->...o", lambda s, x: torch.einsum("...i,oi->...o", s.a(x), s.w)),
    ],
)
def test_products_of_three_tensors_traces_and_open_results_are_refused(function_module, refuses, equation, function):
    module = function_module(function, a=nn.Linear(3, TIME), w=parameter(TIME, TIME))
    text = (
        f"the outermost module: einsum '{equation}' is not supported; expected two tensors, an explicit result, each letter once"
    )
    refuses(module, *SEQUENCE, match=text.replace(".", r"\."))


def test_products_of_a_layer_with_itself_are_read_from_all_units_since_either_place_may_be_meant(topology_of, blocks_of):
    topology = topology_of("products of a layer with itself")
    for name in ("einsum", "einsum:2"):
        assert blocks_of(topology)[name] == ("a", "einsum", "dense", "einsum", (), ())
        assert topology.block_shape(name) == (25, 5, 1)
