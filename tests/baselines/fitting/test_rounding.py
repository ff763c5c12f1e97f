"""Weights that are rounded together, against those that autocast rounds one by one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from baselines.fitting.rounding import in_dtype, rounded_weights


class Two(nn.Module):
    """Two linear layers with a norm between them, the second left as it is where that is asked for."""

    def __init__(self, *, keeps_second: bool = False):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3)
        self.unrounded = (self.second,) if keeps_second else ()

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.second(self.norm(self.first(vectors)))


def gradients(module: Two, *, together: bool) -> list[torch.Tensor]:
    vectors = torch.randn(11, 5, generator=torch.Generator().manual_seed(1))
    module.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        if together:
            with in_dtype(module, torch.bfloat16):
                loss = module(vectors).float().square().sum()
        else:
            loss = module(vectors).float().square().sum()
    loss.backward()
    return [loss.detach(), *(parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None)]


@pytest.mark.parametrize("keeps_second", [False, True])
def test_loss_and_gradients_have_the_bits_that_autocast_gives(keeps_second):
    torch.manual_seed(0)
    module = Two(keeps_second=keeps_second)
    found = [gradients(module, together=together) for together in (True, False)]
    assert [len(values) for values in found] == [7, 7]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*found, strict=True))
    assert all(grad.dtype == torch.float32 for grad in found[0])


def test_linear_layers_alone_are_rounded_save_those_that_are_named():
    module = Two(keeps_second=True)
    with in_dtype(module, torch.bfloat16):
        assert [part.weight.dtype for part in (module.first, module.norm, module.second)] == [
            torch.bfloat16, torch.float32, torch.float32,
        ]  # fmt: skip
        assert torch.equal(module.first.bias, nn.Parameter(module.first.bias))


def test_the_parameters_are_put_back_whatever_happens():
    module = Two()
    before = list(module.parameters())

    def fail():
        with in_dtype(module, torch.bfloat16):
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        fail()
    assert all(ours is theirs for ours, theirs in zip(module.parameters(), before, strict=True))


def test_without_cuda_or_autocast_nothing_changes():
    module = Two()
    with torch.autocast("cpu", torch.bfloat16), rounded_weights(module, torch.device("cpu")):
        assert module.first.weight.dtype == torch.float32
