"""Recorded steps and forward passes on a GPU give what they give when they are not recorded."""

import numpy as np
import pytest
import torch

from baselines.fitting import steps
from baselines.fitting.training import TrainingState, seeded
from baselines.ng_gnn import NGGNN
from ngbench.methods import Budget, RunContext
from ngbench.testing import ONE_STRUCTURE, PROBLEM, fake_dataset

CONFIG = NGGNN.Config(channels=16, num_layers=3, weight_noise=0.0, mixed=False)


def trained(*, may_record):
    """Losses and weights of ten steps, memory being used for other things between them."""
    networks = fake_dataset(ONE_STRUCTURE, num_graphs=48)
    with seeded(1):
        module = NGGNN(CONFIG).build(networks, num_outputs=1).to("cuda")
    stepper = steps.Stepper(TrainingState(module, CONFIG, run="a run"), PROBLEM, networks.to("cuda"))
    stepper.may_record = may_record
    rng, losses = np.random.default_rng(2), []
    for step in range(10):
        losses.append(stepper.step(rng.permutation(48)[: 16 - 3 * (step == 6)], rate=1e-3 * step))
        _ = [torch.full((size,), 7, device="cuda") for size in (3, 16, 48, 100)]
    assert (stepper.recorded is not None) == may_record
    return torch.stack(losses), torch.cat([parameter.flatten() for parameter in module.parameters()])


@pytest.mark.gpu
def test_recorded_steps_are_the_steps_that_are_not_recorded():
    for recorded, eager in zip(trained(may_record=True), trained(may_record=False), strict=True):
        torch.testing.assert_close(recorded, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_recorded_forward_passes_are_those_that_are_not_recorded():
    networks = fake_dataset(ONE_STRUCTURE, num_graphs=40)
    module = NGGNN(CONFIG).build(networks, num_outputs=1).to("cuda").eval()
    forward, rng = steps.Forward(module, networks), np.random.default_rng(0)
    for _ in range(8):
        positions = rng.permutation(40)[:12]
        with torch.no_grad():
            expected = module(networks.to("cuda").batch(positions))
        torch.testing.assert_close(forward(positions), expected, rtol=1e-4, atol=1e-6)
    assert forward.recorded


@pytest.mark.gpu
def test_a_method_is_measured_on_a_gpu_step_by_step():
    context = RunContext(seed=0, budget=Budget(max_epochs=1, num_candidates=1), device="cuda")
    networks, method = fake_dataset(ONE_STRUCTURE, num_graphs=24), NGGNN(CONFIG)
    steps_taken = method.steps(PROBLEM, networks, context, batch_size=8)
    assert [next(steps_taken) for _ in range(7)] == [8] * 7
    passes = method.forwards(networks, context, batch_size=8)
    assert [next(passes) for _ in range(7)] == [8] * 7
