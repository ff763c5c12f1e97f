import math

import pytest
import torch

from ngbench.zoo.optimizers import OPTIMIZERS, SCHEDULES, StackedOptimizer

NUM_STEPS = [23, 17, 11]
REFERENCES = {
    "sgd": lambda p, lr, decay: torch.optim.SGD(p, lr, weight_decay=decay),
    "momentum": lambda p, lr, decay: torch.optim.SGD(p, lr, momentum=0.9, weight_decay=decay),
    "rmsprop": lambda p, lr, decay: torch.optim.RMSprop(p, lr, weight_decay=decay),
    "adam": lambda p, lr, decay: torch.optim.Adam(p, lr, weight_decay=decay),
    "adamw": lambda p, lr, decay: torch.optim.AdamW(p, lr, weight_decay=decay),
}
RATE_SHARES = {
    "constant": lambda step, total: 1.0,
    "linear": lambda step, total: (total - step) / total,
    "cosine": lambda step, total: math.cos(math.pi * step / total / 2) ** 2,
}


def test_every_optimizer_and_schedule_has_a_reference():
    assert set(REFERENCES) == set(OPTIMIZERS)
    assert set(RATE_SHARES) == set(SCHEDULES)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_stack_of_different_rules_gives_what_torch_gives_each(optimizer, schedule):
    others = [name for name in OPTIMIZERS if name != optimizer]
    names = [others[0], optimizer, others[1]]
    chosen = [
        {"optimizer": name, "learning_rate": rate, "schedule": schedule, "weight_decay": decay}
        for name, rate, decay in zip(names, (0.02, 0.05, 0.01), (0.1, 0.3, 0.0), strict=True)
    ]
    generator = torch.Generator().manual_seed(6)
    start = torch.randn(3, 13, generator=generator).double()
    curvature = torch.rand(3, 13, generator=generator).double()
    weights = start.clone()
    stack = StackedOptimizer(chosen, NUM_STEPS, weights=weights)
    for step in range(max(NUM_STEPS)):
        active = sum(step < total for total in NUM_STEPS)
        stack.step(torch.tensor([step]), curvature[:active] * weights[:active].sin())
    for network, (one, total) in enumerate(zip(chosen, NUM_STEPS, strict=True)):
        parameter = torch.nn.Parameter(start[network].clone())
        reference = REFERENCES[one["optimizer"]]([parameter], one["learning_rate"], one["weight_decay"])
        for step in range(total):
            reference.param_groups[0]["lr"] = one["learning_rate"] * RATE_SHARES[schedule](step, total)
            parameter.grad = curvature[network] * parameter.detach().sin()
            reference.step()
        torch.testing.assert_close(weights[network], parameter.detach(), rtol=1e-11, atol=1e-12)
