from __future__ import annotations

import pytest
import torch
from torch import nn

from ngbench.graph.layers.rule import RULES

LAYERS = {"a": nn.Linear(3, 5), "b": nn.Linear(5, 2)}
SHAPE = (4, 3)


def test_an_unknown_operation_is_refused_with_its_place_and_the_nearest_names(function_module, refuses):
    inner = nn.Sequential(nn.Linear(3, 5), function_module(lambda s, x: torch.digamma(x)))
    text = (
        rf"cannot trace module '1\.1': operation 'digamma' is not supported; expected .*one of the {len(RULES)} in ngbench.graph"
    )
    refuses(nn.Sequential(nn.Linear(3, 3), inner), SHAPE, match=text)


def test_a_name_that_is_nearly_right_is_suggested(function_module, refuses):
    module = function_module(lambda s, x: s.b(torch.signbit(s.a(x)).to(x.dtype)), **LAYERS)
    refuses(module, SHAPE, match="operation 'signbit' is not supported; expected perhaps 'sign'.*; one of the")


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.rand_like, "rand_like"),
        (torch.bernoulli, "bernoulli"),
        (lambda x: x + torch.randn(4, 5), "randn"),
        (lambda x: nn.functional.dropout(x, 0.3, training=True) + x.new_empty(5).uniform_(), "uniform"),
    ],
)
def test_randomness_is_refused(function_module, refuses, function, name):
    module = function_module(lambda s, x: s.b(function(torch.sigmoid(s.a(x)))), **LAYERS)
    text = f"the outermost module: operation '{name}' draws random numbers; expected a forward pass without chance in evaluation"
    refuses(module, SHAPE, match=text)


def test_a_shape_that_depends_on_values_is_refused(function_module, refuses):
    module = function_module(lambda s, x: s.b(s.a(x)[s.a(x)[:, 0] > 0]), **LAYERS)
    refuses(module, SHAPE, match=r"the shape \(u0, .*\) of '.*' depends on the values of tensors; expected fixed shapes")
