from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

NUM_TOKENS, NUM_EXPERTS = 6, 4


@torch.library.custom_op("ngbench_tests::grouped_mm_fallback", mutates_args=())
def grouped_mm(tokens: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Tokens, sorted by expert, times the weight of each one's expert; `offsets` are the ends of the experts' tokens."""
    experts = torch.searchsorted(offsets, torch.arange(len(tokens), dtype=offsets.dtype), right=True)
    return torch.einsum("ti,tio->to", tokens, weight[experts])


@grouped_mm.register_fake
def _(tokens, weight, offsets):
    return tokens.new_empty(len(tokens), weight.shape[2])


def parameter(*shape):
    return nn.Parameter(torch.zeros(shape))


def routed(s, x):
    """Each token goes to its two best experts, sorted so that an expert's tokens stand together, as transformers does it."""
    weights, experts = s.g(x).softmax(-1).topk(2, -1)
    sorted_experts, order = experts.reshape(-1).sort()
    offsets = torch.histc(sorted_experts.float(), NUM_EXPERTS, 0, NUM_EXPERTS - 1).cumsum(0, dtype=torch.int32)
    hidden = torch.relu(grouped_mm(x[order // 2], s.w, offsets))
    outputs = grouped_mm(hidden, s.v, offsets) * weights.reshape(-1)[order].unsqueeze(-1)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    return outputs[back].view(NUM_TOKENS, 2, 7).sum(1)


def weighted(s, x):
    """All experts, weighted by the router."""
    hidden = torch.relu(torch.einsum("bi,eih->beh", x, s.w))
    return torch.einsum("be,beo->bo", s.g(x).softmax(-1), torch.einsum("beh,eho->beo", hidden, s.v))


def best_two(s, x):
    """All experts, those weighted by zero that are not among the two best."""
    shares = s.g(x).softmax(-1)
    best, places = shares.topk(2, -1)
    shares = torch.zeros_like(shares).scatter(1, places, best)
    hidden = torch.relu(torch.einsum("bi,eih->beh", x, s.w))
    return torch.einsum("be,beo->bo", shares, torch.einsum("beh,eho->beo", hidden, s.v))


def separate(s, x):
    """Experts that are modules of their own."""
    outputs = torch.stack([expert(x) for expert in s.experts], 1)
    return (s.g(x).softmax(-1).unsqueeze(-1) * outputs).sum(1)


STACKED = {"g": nn.Linear(3, NUM_EXPERTS), "w": parameter(NUM_EXPERTS, 3, 5), "v": parameter(NUM_EXPERTS, 5, 7)}
SEPARATE = {
    "g": nn.Linear(3, 2),
    "experts": nn.ModuleList([nn.Sequential(nn.Linear(3, units), nn.ReLU(), nn.Linear(units, 7)) for units in (5, 6)]),
}

LAYERS = {
    "the two best experts of each token": (routed, STACKED, "(S_5 ≀ S_4)"),
    "all experts": (weighted, STACKED, "(S_5 ≀ S_4)"),
    "the two best experts": (best_two, STACKED, "S_5^4"),
    "experts that are modules": (separate, SEPARATE, "S_5 × S_6"),
}


@pytest.fixture(scope="module")
def topology_of(check, function_module):
    """The topology of an entry of the table, whose laws hold."""

    @cache
    def topology_of(name):
        forward, modules, group = LAYERS[name]
        return check(function_module(forward, **modules), (NUM_TOKENS, 3), group=group)

    return topology_of


@pytest.mark.parametrize("name", LAYERS)
def test_a_mixture_of_experts_obeys_the_laws(topology_of, name):
    topology_of(name)


def test_units_of_stacked_experts_share_the_experts_with_the_router(topology_of, groups_of, blocks_of):
    topology = topology_of("the two best experts of each token")
    groups, blocks = groups_of(topology), blocks_of(topology)
    assert groups["g"][3] == groups["w"][3][:1] == groups["v"][3][:1] == ("g",)
    assert groups["w"][0] == NUM_EXPERTS * 5
    assert blocks["v"] == ("w", "v", "grouped", "experts", (), ("g",))
    assert topology.block_shape("v") == (NUM_EXPERTS * 7, 5, 1)


def test_a_computed_weight_of_experts_is_refused(function_module, refuses):
    def forward(s, x):
        offsets = torch.tensor([1, 3, 5, 6], dtype=torch.int32)
        return grouped_mm(x, s.w * s.g(x).sum(), offsets)

    text = (
        "the outermost module: 'grouped_mm_fallback' with a computed weight is not supported; expected a parameter of three axes"
    )
    refuses(function_module(forward, g=STACKED["g"], w=STACKED["w"]), (NUM_TOKENS, 3), match=text)
