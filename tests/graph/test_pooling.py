from __future__ import annotations

import pytest
import torch
from torch import nn

from ngbench.graph import trace
from ngbench.graph.layers.pooling import across_positions

KNOWN = [
    ("adaptive_avg_pool2d", {}, None),
    ("mean", {"dim": 1}, None),
    ("max_pool2d", {}, "max_pool"),
    ("adaptive_max_pool1d", {}, "max_pool"),
    ("lp_pool2d", {}, "lp_pool"),
    ("avg_pool2d", {"padding": [0, 0]}, None),
    ("avg_pool2d", {"padding": [1, 0]}, "sum"),
    ("avg_pool1d", {"divisor_override": 3}, "sum"),
    ("sum", {}, "sum"),
    ("cumsum", {}, "sum"),
    ("amax", {}, "amax"),
    ("max", {"dim": 1}, "max"),
    ("logsumexp", {}, "logsumexp"),
    ("pad", {"mode": "reflect"}, None),
    ("pad", {"mode": "constant", "value": None}, "pad"),
    ("constant_pad_nd", {"value": 0}, "pad"),
    ("constant_pad_nd", {"value": 0.5}, "constant_pad_nd(constant)"),
    ("masked_fill", {"value": 1}, "masked_fill(constant)"),
    ("batch_norm", {"training": False}, None),
    ("batch_norm", {"training": True}, "batch_statistics"),
    ("conv2d", {}, None),
]


@pytest.mark.parametrize(("name", "args", "expected"), KNOWN)
def test_what_is_not_an_average_over_positions_is_named(name, args, expected):
    assert across_positions(name, args) == expected


def test_units_beside_constants_are_named():
    assert across_positions("cat", {}) is None
    assert across_positions("cat", {}, beside_constants=True) == "cat"


@pytest.mark.parametrize(("activation", "expected"), [(nn.ReLU(), ()), (nn.Tanh(), ("max_pool",))])
def test_a_topology_tells_a_pooling_only_of_units_that_it_limits(activation, expected):
    module = nn.Sequential(nn.Conv1d(3, 5, 2), activation, nn.MaxPool1d(2), nn.Flatten(), nn.Linear(20, 2))
    topology = trace(module, torch.zeros(4, 3, 9)).topology
    assert topology.group("0").pooling == expected
    assert topology.group("input").pooling == ()
    average = nn.Sequential(*module[:2], nn.AvgPool1d(2), *module[3:])
    assert (trace(average, torch.zeros(4, 3, 9)).topology == topology) is (expected == ())
