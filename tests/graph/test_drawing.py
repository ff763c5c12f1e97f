from __future__ import annotations

import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from torch import nn

from ngbench.errors import PictureError
from ngbench.graph import trace
from ngbench.graph.drawing import check_path, draw
from ngbench.graph.drawing.marks import BLUE, VERMILLION


@pytest.fixture(scope="module")
def small():
    """An MLP whose first layer has known weights: the first is largest, the second negative, the third zero."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 2))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[4.0], [-2.0], [0.0]]))
    return trace(module, torch.zeros(1, 1))


@pytest.fixture(scope="module")
def large():
    return trace(nn.Sequential(nn.Conv2d(3, 64, 5), nn.ReLU(), nn.Conv2d(64, 48, 3)), torch.zeros(1, 3, 9, 9))


def lines_of(figure):
    """The drawn edges of each bundle."""
    return [found for found in figure.axes[0].collections if isinstance(found, LineCollection)]


def texts_of(figure):
    legend = figure.axes[0].get_legend()
    return [text.get_text() for text in (*figure.axes[0].texts, *legend.get_texts())]


def test_edges_are_coloured_by_sign_and_drawn_by_weight(small):
    bundle = lines_of(draw(small))[0]
    colours = [to_hex(colour).upper() for colour in bundle.get_colors()]
    assert colours == [BLUE, VERMILLION, BLUE]
    widths, strengths = list(bundle.get_linewidths()), list(bundle.get_colors()[:, 3])
    # The weakest is drawn first, under the others; a weight of zero is still an edge.
    assert widths == sorted(widths)
    assert strengths == sorted(strengths)
    assert strengths[0] > 0
    assert [round(width, 3) for width in widths] == [0.35, 0.975, 1.6]


def test_a_topology_has_no_weights_to_show(small):
    figure = draw(small.topology)
    assert "weight > 0" not in texts_of(figure)
    assert "weight > 0" in texts_of(draw(small))


def test_groups_are_labelled_with_name_size_and_activation(small):
    texts = texts_of(draw(small))
    assert [texts.count(text) for text in ("input", "0", "2", "tanh", "linear")] == [2, 1, 2, 1, 2]


def test_large_networks_have_ribbons_with_shapes(large):
    texts = texts_of(draw(large))
    assert {"64 × 3\n5×5", "48 × 64\n3×3", "conv"} <= set(texts)


def test_the_style_can_be_chosen(small, large):
    assert "2 × 3" in texts_of(draw(small, style="ribbons"))
    assert "conv 5×5" in texts_of(draw(large, style="nodes"))


@pytest.mark.parametrize("ending", ["svg", "pdf", "png", "SVG"])
def test_the_same_graph_gives_the_same_file(small, tmp_path, ending):
    paths = [tmp_path / f"{name}.{ending}" for name in ("first", "second")]
    for path in paths:
        draw(small, path)
    contents = [path.read_bytes() for path in paths]
    assert contents[0] == contents[1]
    assert contents[0].startswith({"s": b"<?xml", "p": b"%PDF" if ending == "pdf" else b"\x89PNG"}[ending[0].lower()])


def test_another_weight_gives_another_file(small, tmp_path):
    draw(small, tmp_path / "first.svg")
    torch.manual_seed(1)
    other = trace(nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 2)), torch.zeros(1, 1))
    draw(other, tmp_path / "second.svg")
    assert (tmp_path / "first.svg").read_bytes() != (tmp_path / "second.svg").read_bytes()


def test_a_graph_is_unchanged_by_its_picture(small):
    before = small.row()
    draw(small)
    assert torch.equal(small.row(), before)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("picture.gif", "picture '.*picture.gif' ends with '.gif'; expected one of .svg, .pdf, .png"),
        ("picture", "picture '.*picture' ends with ''; expected one of .svg, .pdf, .png"),
        ("gone/picture.svg", "picture '.*picture.svg' cannot be written: there is no folder '.*gone'; make it first"),
        ("folder.svg", "picture '.*folder.svg' cannot be written: expected a file in a folder that you may write to"),
    ],
)
def test_a_path_that_is_no_picture_is_refused(small, tmp_path, path, message):
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(PictureError, match=message):
        check_path(tmp_path / path)
    with pytest.raises(PictureError, match=message):
        draw(small, tmp_path / path)
