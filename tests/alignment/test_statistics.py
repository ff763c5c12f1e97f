from __future__ import annotations

import pytest
import torch
from torch import nn

from ngbench.alignment import Moments, reestimated
from ngbench.graph import NeuralGraph, Program, restore, trace

HALF = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])


def merged(networks):
    """Means of two networks each, and the moments that their units should have."""
    own = Moments.of(networks.program, networks.rows, networks.images)
    ends = (Moments(own.mean[part], own.std[part]) for part in (slice(0, 2), slice(1, 3)))
    three = Moments.between(*ends, 3)
    goal = Moments(three.mean[1::3], three.std[1::3])
    return HALF.double() @ networks.rows, goal


def hooked(module, images):
    """What each submodule gives, ``[images, nodes, pixels]``."""
    found = {}
    handles = [
        child.register_forward_hook(
            lambda _, given, got, name=name: found.update(
                {name: got.detach().flatten(2) if got.dim() > 2 else got.detach()[..., None]}
            )
        )
        for name, child in module.named_modules()
    ]
    module(images)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize(("name", "layers"), [("mlp", ["linear0", "linear1"]), ("cnn", ["conv0", "conv1"])])
def test_sums_of_hidden_units_get_the_mean_moments_of_the_merged_networks(make_networks, name, layers):
    networks = make_networks(name)
    rows, goal = merged(networks)
    again = reestimated(networks.program, rows, networks.images, goal=goal)
    ends = [hooked(networks.module_of(row), networks.images) for row in networks.rows]
    for number, (one, other) in enumerate([(0, 1), (1, 2)]):
        before, after = (hooked(networks.module_of(found[number]), networks.images) for found in (rows, again))
        for layer in layers:
            sums = [ends[one][layer], ends[other][layer]]
            mean = sum(each.mean((0, 2)) for each in sums) / 2
            std = sum(each.std((0, 2), correction=0) for each in sums) / 2
            torch.testing.assert_close(after[layer].mean((0, 2)), mean, rtol=1e-8, atol=1e-9)
            torch.testing.assert_close(after[layer].std((0, 2), correction=0), std, rtol=1e-7, atol=1e-9)
            assert (before[layer].std((0, 2), correction=0) < std).all()


def test_only_weights_into_hidden_units_and_their_biases_are_touched(make_networks):
    networks = make_networks("mlp")
    rows, goal = merged(networks)
    again = reestimated(networks.program, rows, networks.images, goal=goal)
    state, before = (restore(NeuralGraph.from_row(networks.program.topology, found[0])) for found in (again, rows))
    changed = {path for path in state if not torch.equal(state[path], before[path])}
    assert changed == {"linear0.weight", "linear0.bias", "linear1.weight", "linear1.bias"}
    assert not torch.equal(again, rows)


def test_networks_that_have_their_goal_already_stay(networks):
    goal = Moments.of(networks.program, networks.rows, networks.images)
    again = networks.rows
    # batch norms of any statistics get their own, and then have them
    for _ in range(2):
        before, again = again, reestimated(networks.program, again, networks.images, goal=goal)
    torch.testing.assert_close(again, before, rtol=1e-8, atol=1e-8)


@torch.no_grad()
@pytest.mark.parametrize("name", ["mlp-batch", "resnet"])
def test_batch_norms_get_the_statistics_that_torch_gives_them_in_training(make_networks, name):
    networks = make_networks(name)
    rows, goal = merged(networks)
    again = reestimated(networks.program, rows, networks.images, goal=goal)
    for number, row in enumerate(rows):
        module = networks.module_of(row)
        norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
        for layer in norms:
            layer.momentum = 1.0
        sizes = {path: shown[:, 0].numel() for path, shown in hooked(module.train(), networks.images).items()}
        state = {**module.state_dict()}
        for path, layer in module.named_modules():
            if layer in norms:
                # torch divides by one less than the number of values
                state[f"{path}.running_var"] = layer.running_var * (sizes[path] - 1) / sizes[path]
        expected = NeuralGraph.from_state_dict(networks.program.topology, state).row()
        torch.testing.assert_close(again[number], expected, rtol=1e-9, atol=1e-10)


def test_a_unit_whose_sum_does_not_vary_is_only_shifted():
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        module[0].weight[1] = 0
    images = torch.rand(20, 4, dtype=torch.float64)
    program, row = Program.of(module, images[:1]), trace(module, images[:1]).row()[None]
    own = Moments.of(program, row, images)
    again = reestimated(program, row, images, goal=Moments(own.mean + 0.25, 2 * own.std))
    state = restore(NeuralGraph.from_row(program.topology, again[0]))
    assert torch.equal(state["0.weight"][1], torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(state["0.weight"][[0, 2]], 2 * module[0].weight.detach()[[0, 2]])
    torch.testing.assert_close(state["0.bias"][1], module[0].bias.detach()[1] + 0.25)
    assert torch.isfinite(again).all()


def test_a_layer_that_is_used_twice_is_left_alone():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.c(torch.relu(self.b(torch.relu(self.b(torch.relu(self.a(x)))))))

    module, images = Twice().double(), torch.rand(20, 4, dtype=torch.float64)
    program, row = Program.of(module, images[:1]), trace(module, images[:1]).row()[None]
    own = Moments.of(program, row, images)
    again = reestimated(program, row, images, goal=Moments(own.mean + 0.25, 2 * own.std))
    before, after = (restore(NeuralGraph.from_row(program.topology, found[0])) for found in (row, again))
    assert {path for path in after if not torch.equal(after[path], before[path])} == {"a.weight", "a.bias"}


def test_rows_that_are_given_stay_as_they_are(networks):
    rows, goal = merged(networks)
    before = rows.clone()
    reestimated(networks.program, rows, networks.images, goal=goal)
    assert torch.equal(rows, before)
