from __future__ import annotations

import torch
from torch import nn

from ngbench.graph.layers import supported
from ngbench.graph.layers.rule import RULES

SHAPE = (4, 3)


def test_the_operations_that_are_supported_are_named_without_overload_or_doubles():
    assert len(set(supported())) == len(supported()) == len(RULES)
    assert {"linear", "conv1d", "conv2d", "relu", "adaptive_avg_pool2d", "dropout", "lstm", "einsum"} < set(supported())
    assert not any(name.endswith("_") for name in supported() if not name.startswith("_"))


def test_a_weight_that_the_state_dict_leaves_out_is_refused(function_module, refuses):
    module = function_module(lambda s, x: nn.functional.linear(x, s.w))
    module.register_buffer("w", torch.randn(5, 3), persistent=False)
    refuses(module, SHAPE, match="the weight of 'linear' is computed, not an entry of the state dict; expected a parameter")
