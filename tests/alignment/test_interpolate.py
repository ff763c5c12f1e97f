from __future__ import annotations

import numpy as np
import pytest
import torch

from ngbench.alignment import Curves, LabelledImages, curves, line, match, scores
from ngbench.graph import NeuralGraph, symmetry

NUM_POINTS = 25


@torch.no_grad()
def test_scores_are_those_of_each_module_by_itself(networks):
    loss, accuracy = scores(networks.program, networks.rows, LabelledImages(networks.images, networks.labels))
    for number, row in enumerate(networks.rows):
        logits = networks.module_of(row)(networks.images)
        expected = torch.nn.functional.cross_entropy(logits, networks.labels)
        assert loss[number] == pytest.approx(float(expected), rel=1e-9)
        assert accuracy[number] == float((logits.argmax(1) == networks.labels).double().mean())


@torch.no_grad()
def test_scores_of_many_networks_do_not_depend_on_how_they_are_split_into_calls(make_networks, monkeypatch):
    networks = make_networks("mlp")
    data, rows = LabelledImages(networks.images, networks.labels), networks.rows.repeat(4, 1)
    whole = scores(networks.program, rows, data)
    monkeypatch.setattr("ngbench.alignment.interpolate._CELLS", 50)
    for part, expected in zip(scores(networks.program, rows, data), whole, strict=True):
        np.testing.assert_allclose(part, expected, rtol=1e-12)


def test_a_line_goes_from_one_network_to_the_other_in_even_steps(make_networks):
    rows = make_networks("mlp").rows
    found = line(rows[:2], rows[1:], NUM_POINTS)
    assert found.shape == (2, NUM_POINTS, rows.shape[1])
    assert torch.equal(found[:, 0], rows[:2])
    assert torch.equal(found[:, -1], rows[1:])
    torch.testing.assert_close(found[:, NUM_POINTS // 2], (rows[:2] + rows[1:]) / 2)
    torch.testing.assert_close(found.diff(dim=1), ((rows[1:] - rows[:2]) / (NUM_POINTS - 1))[:, None].expand(-1, 24, -1))


def test_the_barrier_of_a_parabola_is_its_height_above_the_line_of_its_ends():
    share = np.linspace(0, 1, NUM_POINTS)
    bump = share * (1 - share)
    loss = np.stack([0.3 + 0.2 * share + 4 * 0.7 * bump, 1 - 0.5 * share, 0.2 - 0.4 * bump])
    found = Curves(loss, np.stack([1 - share, share, 0.9 - bump]))
    np.testing.assert_allclose(found.barrier, [0.7, 0, 0], atol=1e-12)
    # the trapezoidal rule on 24 intervals misses (b - a)³ f'' / (12 · 24²) of 2/3
    np.testing.assert_allclose(
        found.barrier_area, [0.7 * (2 / 3 - 8 / (12 * 24**2)), 0, -0.1 * (2 / 3 - 8 / (12 * 24**2))], atol=1e-12
    )
    np.testing.assert_allclose(found.midpoint_accuracy, [0.5, 0.5, 0.65])
    np.testing.assert_allclose(found.endpoint_accuracy, [0.5, 0.5, 0.9])


@torch.no_grad()
def test_the_line_from_a_network_to_its_matched_twin_is_flat_and_to_its_twin_is_not(networks):
    topology, first = networks.program.topology, networks.rows[:1]
    twin = symmetry.group(topology).sample(4).act(NeuralGraph.from_row(topology, first[0]))
    rows = torch.stack([first[0], twin.row()])
    given = networks.program.activations(rows, networks.images).transpose(0, 1)
    embedded = [torch.cat([nodes, weights_of(topology, row)], 1).numpy() for nodes, row in zip(given, rows, strict=True)]
    found = match(topology, *embedded)
    data = LabelledImages(networks.images, networks.labels)
    flat = curves(networks.program, line(first, found.act(twin).row()[None], NUM_POINTS), data)
    np.testing.assert_allclose(flat.loss, np.broadcast_to(flat.loss[:, :1], (1, NUM_POINTS)), rtol=1e-9)
    assert np.abs(curves(networks.program, line(first, twin.row()[None], NUM_POINTS), data).excess).max() > 1e-3


def weights_of(topology, row):
    """Sums of squares of what enters and what leaves each node, ``[nodes, 2]``, for nodes that no tensor shows."""
    graph = NeuralGraph.from_row(topology, row)
    found = torch.zeros(topology.num_nodes, 2, dtype=row.dtype)
    for block in topology.blocks:
        start, squares = topology.node_ptr[block.target], graph.block(block.name).square().sum(2)
        found[start : start + len(squares), 0] += squares.sum(1)
        sources = torch.from_numpy(topology.block_sources(block.name).copy()) + topology.node_ptr[block.source]
        found[:, 1].index_add_(0, sources.flatten(), squares.flatten())
    return found
