from __future__ import annotations

import math
import re

import pytest
import torch
from torch.nn import functional as F

from ngbench.graph.homogeneity import limiting, pooled_response, response

FUNCTIONS = {
    "none": lambda x: x,
    "relu": F.relu,
    "relu|pow(2)": lambda x: F.relu(x) ** 2,
    "leaky_relu(0.01)": F.leaky_relu,
    "leaky_relu(1e-05)": lambda x: F.leaky_relu(x, 1e-05),
    "relu6": F.relu6,
    "threshold(0,0)": lambda x: F.threshold(x, 0, 0),
    "threshold(0.1,0)": lambda x: F.threshold(x, 0.1, 0),
    "clamp_min(0)": lambda x: x.clamp_min(0),
    "clamp(0,None)": lambda x: x.clamp(0, None),
    "clamp(-1,1)": lambda x: x.clamp(-1, 1),
    "clamp(-1,2)": lambda x: x.clamp(-1, 2),
    "hardtanh(-0.5,0.5)": lambda x: F.hardtanh(x, -0.5, 0.5),
    "abs": torch.abs,
    "abs|sqrt": lambda x: x.abs().sqrt(),
    "square": torch.square,
    "pow(3)": lambda x: x**3,
    "reciprocal": torch.reciprocal,
    "sign": torch.sign,
    "neg": torch.neg,
    "tanh": torch.tanh,
    "tanh|mul(1.5)": lambda x: 1.5 * x.tanh(),
    "tanh|add(1)": lambda x: x.tanh() + 1,
    "add(1)|relu": lambda x: F.relu(x + 1),
    "mul(-2)|relu": lambda x: F.relu(-2 * x),
    "div(4)|tanh": lambda x: torch.tanh(x / 4),
    "erf": torch.erf,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "hardshrink(0.5)": F.hardshrink,
    "softshrink(0.5)": F.softshrink,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "exp": torch.exp,
    "abs|exp": lambda x: x.abs().exp(),
    "pow(2)|neg|exp": lambda x: (-(x**2)).exp(),
    "(x*sigmoid)": lambda x: x * x.sigmoid(),
    "(tanh+abs)": lambda x: x.tanh() + x.abs(),
    "(x*relu)": lambda x: x * x.relu(),
    "(x/abs|add(1))": lambda x: x / (x.abs() + 1),
    "(tanh*tanh|mul(2))": lambda x: 2 * x.tanh() ** 2,
    "(x+relu)": lambda x: x + x.relu(),
    "(x-tanh)": lambda x: x - x.tanh(),
    "(tanh/x)": lambda x: x.tanh() / x,
    "(x max mul(0.1))": lambda x: torch.maximum(x, 0.1 * x),
    "(x+relu+mul(2))": lambda x: 3 * x + x.relu(),
    "(abs|add(1)^square)": lambda x: (x.abs() + 1) ** x.square(),
    "atan": torch.atan,
    "asinh": torch.asinh,
    "cosh": torch.cosh,
    "sine(1)": torch.sin,
    "sine(30)": lambda x: torch.sin(30 * x),
    "mul(3)|sine(2)|mul(-2)": lambda x: -2 * torch.sin(6 * x),
    "cos": torch.cos,
    "cos|add(1)": lambda x: x.cos() + 1,
    "add(1)|sin": lambda x: torch.sin(x + 1),
    "sin|pow(2)": lambda x: x.sin() ** 2,
    "sin|exp": lambda x: x.sin().exp(),
}


def points():
    return torch.cat([torch.linspace(-3.1, -0.05, 59), torch.linspace(0.07, 2.9, 61)]).double()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_degree_of_an_activation_is_that_of_the_function(name):
    function, x = FUNCTIONS[name], points()
    values, scaled = function(x), function(2.5 * x)
    alive = values.abs() > 1e-9
    degrees = (scaled[alive] / values[alive]).abs().log() / math.log(2.5)
    homogeneous = bool((scaled[~alive].abs() < 1e-9).all()) and float((degrees - degrees[0]).abs().max()) < 1e-9
    expected = round(float(degrees[0]), 9) if homogeneous else None
    assert response(name).degree == expected


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_parity_of_an_activation_is_that_of_the_function(name):
    function, x = FUNCTIONS[name], points()
    even, odd = (torch.allclose(function(-x), sign * function(x), rtol=0, atol=1e-12) for sign in (1, -1))
    assert response(name).parity == (0 if even else 1 if odd else None)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if re.search("(sine?|cos)(?!h)", name.replace("asinh", ""))])
def test_a_shift_by_half_a_period_changes_the_sign_of_the_function_as_told(name):
    function, x, found = FUNCTIONS[name], points(), response(name)
    assert found.half_period is not None
    torch.testing.assert_close(function(x + 2 * found.half_period), function(x), rtol=0, atol=1e-12)
    flips = [
        flip for flip in (0, 1) if torch.allclose(function(x + found.half_period), (-1) ** flip * function(x), rtol=0, atol=1e-12)
    ]
    assert [found.flip] == (flips or [None])


@pytest.mark.parametrize(
    "name",
    [
        "softmax",
        "softmax(positions)",
        "mean",
        "gates",
        "layer_norm",
        "join(relu,tanh)",
        "(x^relu)",
        "mul(2,floor)",
        "add(constant)",
    ],
)
def test_what_is_not_a_known_function_of_each_unit_answers_to_nothing(name):
    found = response(name)
    assert (found.degree, found.parity, found.half_period) == (None, None, None)


def test_a_number_that_its_name_may_have_rounded_tells_no_period_and_no_degree():
    assert response("sine(6.2831)").half_period is not None
    assert response("sine(6.28319)").half_period is None
    assert response("sine(6.28319)").parity == 1
    assert response("pow(0.333333)").degree is None


def test_units_side_by_side_answer_as_both_functions_do():
    assert response("join(x,relu)").degree == 1
    assert response("join(x,tanh)").parity == 1
    assert response("join(relu,pow(2))").degree is None


def test_units_that_are_mixed_answer_to_nothing():
    rotation = "(mul(constant)+join(neg,x)|mul(constant))"
    assert response(rotation).degree == 1
    assert pooled_response(rotation, ("mixed",)).degree is None
    assert limiting(rotation, ["mixed"]) == ("mixed",)


def test_pooling_limits_what_units_answer_to():
    assert pooled_response("tanh", ("max_pool",)).parity is None
    assert pooled_response("relu", ("max_pool",)).degree == 1
    assert pooled_response("abs", ("max_pool",)).parity is None
    assert pooled_response("sine(30)", ("sum",)).half_period is None
    assert pooled_response("sine(30)", ("sum",)).parity == 1
    assert pooled_response("relu", ("logsumexp",)).degree is None


def test_only_poolings_that_limit_an_activation_are_told():
    names = ["sum", "max_pool", "logsumexp", "pad"]
    assert limiting("relu", names) == ("logsumexp",)
    assert limiting("tanh", names) == ("logsumexp", "max_pool")
    assert limiting("sine(30)", names) == ("logsumexp", "max_pool", "pad", "sum")
    assert limiting("gelu", names) == ()
