"""Random signs of units: the function of each network stays, its weights do not, and only odd activations have any."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from baselines.fitting import sign_flips, steps
from baselines.fitting.sign_flips import flipped
from baselines.fitting.training import TrainingState, seeded
from baselines.ng_gnn import NGGNN
from ngbench.graph import NeuralGraph, Program
from ngbench.loading import GraphDataset
from ngbench.testing import ONE_STRUCTURE, PROBLEM, fake_dataset


class Function(nn.Module):
    """A function without weights."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Residual(nn.Module):
    """A stream that two tanh branches read and write, with batch norms and a depthwise convolution."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.inner, self.outer = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 6, 1)
        self.alone, self.head = nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Linear(6, 5)

    def forward(self, x):
        x = torch.tanh(self.norm(self.first(x)))
        x = x + self.outer(torch.tanh(self.inner(x)))
        return self.head(torch.tanh(self.alone(x)).mean((2, 3)))


def perceptron(function):
    return nn.Sequential(nn.Linear(3, 7), Function(function), nn.Linear(7, 5), Function(function), nn.Linear(5, 2))


def networks_of(module, *shape, num_graphs=6):
    """Networks with random values and what runs them, in float64."""
    program = Program.of(module.eval(), torch.zeros(1, *shape))
    topology, rng = program.topology, np.random.default_rng(0)
    rows = torch.from_numpy(rng.normal(scale=0.4, size=(num_graphs, topology.num_values)))
    for slot in topology.slots:
        if slot.feature == "running_var":
            rows[:, slot.start : slot.stop] = rows[:, slot.start : slot.stop].exp()
    graphs = [NeuralGraph.from_row(topology, row) for row in rows]
    dataset = GraphDataset.from_graphs(graphs, programs=lambda topology: program)
    return dataset.batch(np.arange(num_graphs)).to("cpu", torch.float64)


def outputs(bundle, inputs):
    start = bundle.topology.node_ptr[bundle.topology.groups[-1].name]
    return bundle.activations(inputs)[start:]


def change(before, after, inputs):
    """Largest distance of the outputs of networks."""
    return float((outputs(after.bundles[0], inputs) - outputs(before.bundles[0], inputs)).abs().max())


def inputs_of(*shape):
    return torch.randn(11, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "function", [torch.tanh, lambda x: torch.sin(30 * x), torch.cos, torch.erf], ids=["tanh", "sine", "cosine", "erf"]
)
def test_the_function_of_a_perceptron_stays_as_it_is(function):
    before = networks_of(perceptron(function), 3)
    after = flipped(before)
    assert change(before, after, inputs_of(3)) < 1e-12
    moved = before.bundles[0].values != after.bundles[0].values
    assert moved.any(1).all()
    assert 0.3 < moved.double().mean() < 0.7
    assert torch.equal(before.bundles[0].values.abs(), after.bundles[0].values.abs())


def test_the_function_of_a_residual_network_with_norms_and_grouped_edges_stays_as_it_is():
    before = networks_of(Residual(), 2, 4, 4)
    after = flipped(before)
    assert change(before, after, inputs_of(2, 4, 4)) < 1e-12
    moved = {slot.owner for slot in before.bundles[0].topology.slots if moved_slot(before, after, slot)}
    assert len(moved) >= 6


def moved_slot(before, after, slot):
    own = slice(slot.start, slot.stop)
    return not torch.equal(before.bundles[0].values[:, own], after.bundles[0].values[:, own])


def test_signs_that_do_not_leave_a_unit_change_the_function(monkeypatch):
    monkeypatch.setattr(sign_flips, "_is_odd", lambda topology: torch.zeros(topology.num_nodes + 1, dtype=torch.bool))
    sign_flips.FlipTables.of.cache_clear()
    before = networks_of(perceptron(torch.tanh), 3)
    assert change(before, flipped(before), inputs_of(3)) > 0.1
    sign_flips.FlipTables.of.cache_clear()


def test_of_networks_of_one_structure_those_alone_move_whose_activation_is_odd():
    batch = fake_dataset(ONE_STRUCTURE, num_graphs=9).batch(np.arange(9))
    (before,), (after,) = batch.bundles, flipped(batch).bundles
    is_tanh = torch.tensor([before.variants[number].groups[1].activation == "tanh" for number in before.variant.tolist()])
    assert 0 < is_tanh.sum() < 9
    assert torch.equal((before.values != after.values).any(1), is_tanh)


def test_each_network_and_each_call_has_signs_of_its_own():
    before = networks_of(perceptron(torch.tanh), 3, num_graphs=8)
    with seeded(3):
        signs = [torch.sign(flipped(before).bundles[0].values * before.bundles[0].values) for _ in range(2)]
    assert len(torch.unique(torch.cat(signs), dim=0)) == 16


@pytest.mark.parametrize("sign_flips", [False, True])
def test_training_flips_signs_where_it_is_told_to(monkeypatch, sign_flips):
    calls = []
    monkeypatch.setattr(steps, "flipped", lambda batch: calls.append(len(batch)) or batch)
    networks = fake_dataset(ONE_STRUCTURE, num_graphs=6)
    config = NGGNN.Config(channels=3, num_layers=2, sign_flips=sign_flips)
    state = TrainingState(NGGNN(config).build(networks, num_outputs=1), config, run="")
    steps.Stepper(state, PROBLEM, networks).step(np.arange(5), rate=1e-3)
    assert calls == [5] * sign_flips
