from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ngbench.graph import symmetry, trace
from ngbench.graph.listing import listing

NUM_LAYERS = 5


class Layer(nn.Module):
    """A residual layer of two linear maps."""

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 7), nn.Linear(7, 6)

    def forward(self, x):
        return self.down(torch.tanh(self.up(x))) + x


@pytest.fixture(scope="module")
def topology():
    layers = [Layer() for _ in range(NUM_LAYERS)]
    return trace(nn.Sequential(nn.Linear(3, 6), nn.Sequential(*layers), nn.Linear(6, 2)), torch.zeros(1, 3)).topology


def test_every_group_and_block_has_a_row(topology):
    rows = listing(topology, fold=False)
    assert [row.name for row in rows.groups] == [group.name for group in topology.groups]
    assert [row.name for row in rows.blocks] == [block.name for block in topology.blocks]
    for row, block in zip(rows.blocks, topology.blocks, strict=True):
        assert [rows.groups[k].name for k in (*row.sources, *row.targets)] == [block.source, block.target]
        assert row.num_edges == math.prod(topology.block_shape(block.name)[:2])


def test_layers_that_repeat_stand_in_one_row(topology):
    rows = listing(topology, fold=True)
    assert [(row.name, row.size, row.count) for row in rows.groups] == [
        ("input", 3, 1),
        ("0", 6, 1),
        (f"1.0…{NUM_LAYERS - 1}.up", 7, NUM_LAYERS),
        (f"1.0…{NUM_LAYERS - 1}.down", 6, NUM_LAYERS),
        ("2", 2, 1),
    ]
    assert rows.groups[2].layers == (2, 2 * NUM_LAYERS)
    up = next(row for row in rows.blocks if row.name.endswith("up"))
    assert (up.sources, up.targets, up.count) == ((1, 3), (2,), NUM_LAYERS)
    assert up.parameter == f"1.0…{NUM_LAYERS - 1}.up.weight"


@pytest.mark.parametrize("fold", [False, True])
def test_rows_times_copies_are_the_whole(topology, fold):
    rows = listing(topology, fold=fold)
    assert sum(row.size * row.count for row in rows.groups) == topology.num_nodes
    assert sum(row.num_edges * row.count for row in rows.blocks) == topology.num_edges
    assert sum(row.num_groups for row in rows.indices) == len(topology.groups)


def test_the_moving_indices_are_those_of_the_symmetry_group(topology):
    moving = [row for row in listing(topology, fold=False).indices if row.moves]
    assert sorted(row.size for row in moving) == sorted(symmetry.group(topology).sizes)
