from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from ngbench.graph import trace
from ngbench.graph.drawing.scene import MAX_SHOWN, make_scene

WIDE = 100.0


class Transformer(nn.Module):
    """Layers of attention and a feed-forward part, both residual."""

    def __init__(self, num_layers):
        super().__init__()
        self.inner = nn.ModuleDict({"embed": nn.Embedding(11, 6), "layers": nn.ModuleList(_Layer() for _ in range(num_layers))})
        self.head = nn.Linear(6, 3)

    def forward(self, ids):
        x = self.inner["embed"](ids)
        for layer in self.inner["layers"]:
            x = layer(x)
        return self.head(x)


class _Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(6), nn.MultiheadAttention(6, 2, batch_first=True)
        self.up, self.down = nn.Linear(6, 20), nn.Linear(20, 6)

    def forward(self, x):
        normed = self.norm(x)
        x = self.attention(normed, normed, normed, need_weights=False)[0] + x
        return self.down(torch.relu(self.up(x))) + x


class ResNet(nn.Module):
    """A residual block whose skip has a layer of its own."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 4, 3), _Block(), nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.block(torch.relu(self.stem(x))).mean((2, 3)))


class _Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn, self.conv2 = nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 3, padding=1)
        self.skip = nn.Conv2d(4, 5, 1)

    def forward(self, x):
        return torch.relu(self.conv2(torch.relu(self.bn(self.conv1(x)))) + self.skip(x))


class Recurrent(nn.Module):
    """A recurrent cell, whose state goes back into its gates."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.RNN(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.cell(x)[0])


@pytest.fixture(scope="module")
def topologies():
    torch.manual_seed(0)
    return {
        "mlp": trace(nn.Sequential(nn.Linear(2, 40), nn.ReLU(), nn.Linear(40, 3)), torch.zeros(1, 2)).topology,
        "transformer": trace(Transformer(3), torch.zeros(1, 5, dtype=torch.int64)).topology,
        "resnet": trace(ResNet(), torch.zeros(1, 3, 8, 8)).topology,
        "bare": trace(nn.Linear(3, 2), torch.zeros(1, 3)).topology,
    }


@pytest.mark.parametrize("style", ["nodes", "ribbons"])
@pytest.mark.parametrize("name", ["mlp", "transformer", "resnet", "bare"])
def test_every_group_and_block_is_drawn_once_and_groups_do_not_overlap(topologies, name, style):
    topology = topologies[name]
    scene = make_scene(topology, style=style, width=WIDE)
    assert list(scene.cells) == [group.name for group in topology.groups]
    assert [link.block.name for link in scene.links] == [block.name for block in topology.blocks]
    for first, second in itertools.combinations(scene.cells.values(), 2):
        if first.column == second.column:
            assert abs(first.y - second.y) > (first.height + second.height) / 2


def test_blocks_run_from_left_to_right(topologies):
    scene = make_scene(topologies["transformer"], style="ribbons", width=WIDE)
    for link in scene.links:
        assert scene.cells[link.block.source].column < scene.cells[link.block.target].column
        assert (link.columns[0], link.columns[-1]) == tuple(
            scene.cells[name].column for name in (link.block.source, link.block.target)
        )


def test_the_longest_way_is_straight_and_the_skip_stands_beside_it(topologies):
    scene = make_scene(topologies["resnet"], style="nodes", width=WIDE)
    assert {name for name, cell in scene.cells.items() if cell.y != 0} == {"block.skip"}
    assert [link.block.name for link in scene.links if link.is_arc] == []


def test_a_residual_is_an_arc_over_what_it_leaps(topologies):
    scene = make_scene(topologies["transformer"], style="ribbons", width=WIDE)
    arcs = [link for link in scene.links if link.is_arc]
    assert {link.block.operation for link in arcs} == {"residual"}
    assert len(arcs) == 2 * 3
    for link in arcs:
        under = [cell for cell in scene.cells.values() if link.columns[0] <= cell.column <= link.columns[1]]
        assert link.lane > max(cell.y + cell.height / 2 for cell in under)


def test_query_key_and_value_stand_in_this_order(topologies):
    scene = make_scene(topologies["transformer"], style="ribbons", width=WIDE)
    notes = {cell.note: cell.y for cell in scene.cells.values() if cell.group.layer <= 3 and cell.note}
    assert sorted(notes, key=lambda note: -notes[note]) == ["query", "key", "value"]


def test_each_layer_has_a_frame(topologies):
    scene = make_scene(topologies["transformer"], style="ribbons", width=WIDE)
    assert [(scope.title, scope.count) for scope in scene.scopes] == [(f"layers.{k}", 1) for k in range(3)]
    assert all(first.last < second.first for first, second in itertools.pairwise(scene.scopes))


def test_the_sum_at_the_end_of_a_module_stands_in_its_frame(topologies):
    scene = make_scene(topologies["resnet"], style="nodes", width=WIDE)
    total = next(cell for cell in scene.cells.values() if cell.title == "+")
    assert [(scope.title, scope.last) for scope in scene.scopes] == [("block", total.column)]


def test_layers_that_repeat_are_drawn_once_if_asked_for(topologies):
    scene = make_scene(topologies["transformer"], style="ribbons", width=WIDE, fold=True)
    assert [(scope.title, scope.count) for scope in scene.scopes] == [("layers.0…2", 3)]
    whole = make_scene(topologies["transformer"], style="ribbons", width=WIDE)
    num_outside = sum(not name.startswith("inner.layers") and cell.group.layer <= 1 for name, cell in whole.cells.items()) + 1
    assert len(whole.cells) - num_outside == 3 * (len(scene.cells) - num_outside)
    assert all(scene.cells[link.block.source].column < scene.cells[link.block.target].column for link in scene.links)


def test_a_wide_network_goes_on_in_further_rows(topologies):
    scene = make_scene(topologies["transformer"], style="ribbons", width=6.0)
    assert len(scene.rows) > 1
    assert [row.first for row in scene.rows[1:]] == [row.last for row in scene.rows[:-1]]
    assert (scene.rows[0].first, scene.rows[-1].last) == (0, max(cell.column for cell in scene.cells.values()))
    assert all(max(row.xs.values()) <= 6.0 for row in scene.rows)


def test_a_large_group_shows_its_first_and_last_nodes(topologies):
    cell = make_scene(topologies["mlp"], style="nodes", width=WIDE).cells["0"]
    assert len(cell.shown) < MAX_SHOWN
    assert (cell.shown[0], cell.shown[-1]) == (0, 39)
    ys = cell.node_ys()
    assert ys == sorted(ys, reverse=True)
    assert sum(ys[k] - ys[k + 1] > 1.5 * (ys[0] - ys[1]) for k in range(len(ys) - 1)) == 1


# torch.export says so of every recurrent module.
@pytest.mark.filterwarnings("ignore:The tensor attributes:UserWarning")
def test_recurrent_edges_go_back_as_an_arc():
    scene = make_scene(trace(Recurrent(), torch.zeros(2, 5, 3)).topology, style="nodes", width=WIDE)
    back = [link for link in scene.links if link.columns[0] > link.columns[-1]]
    assert back
    assert all(link.is_arc for link in back)
