"""Points, lines and cells stand where their numbers say."""

import re

import numpy as np
import pytest

from ngbench.evaluation.report.chart import Axis, Chart, Mark, Matrix, Plot

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 300, 200, 50, 10, 5, 45


def plot(low=0.0, high=2.0):
    margins = {"left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}
    return Plot(Axis("across", low, high), Axis("up", -1, 1), width=WIDTH, height=HEIGHT, **margins)


def numbers(path):
    return [float(text) for text in re.findall(r"-?\d+(?:\.\d+)?", path)]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.03, 0.97), (12.2, 12.9), (0, 1e-6), (-4000, 90_000), (2, 8)])
def test_ticks_are_three_to_seven_round_numbers_within_the_axis(low, high):
    axis = Axis.exact("x", low, high)
    values = np.array([value for value, _ in axis.ticks])
    assert 3 <= len(values) <= 7
    assert ((low - 1e-9 * abs(low) <= values) & (values <= high * (1 + 1e-9))).all()
    assert [float(text) for _, text in axis.ticks] == pytest.approx(values, abs=1e-9 * (high - low))
    steps = np.diff(values)
    mantissa = steps[0] / 10 ** np.floor(np.log10(steps[0] * 1.0001))
    assert min(abs(mantissa - round_) for round_ in (1, 2, 5)) < 1e-3


def test_an_axis_around_equal_numbers_has_a_width():
    axis = Axis.around("x", 3.0, 3.0)
    assert axis.low < 3.0 < axis.high


def test_equal_lengths_of_a_logarithmic_axis_are_equal_ratios():
    axis = Axis.powers("x", -6, 2)
    assert axis.share(np.array([1e-6, 1e-2, 1e2])) == pytest.approx([0, 0.5, 1])
    assert (dict(axis.ticks)[1.0], dict(axis.ticks)[1e-6]) == ("1", "1e-6")


def test_points_stand_in_proportion_between_the_margins():
    path = plot().dots(np.array([0.0, 1.0, 2.0]), np.array([-1.0, 0.0, 1.0]))
    middle = ((LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2)
    expected = [LEFT, HEIGHT - BOTTOM, 0, *middle, 0, WIDTH - RIGHT, TOP, 0]
    assert numbers(path) == pytest.approx(expected, abs=0.05)


def test_points_outside_are_left_out_and_equal_ones_drawn_once():
    x = np.array([1.0, 1.0, 1.00001, 2.5, 1.0])
    y = np.array([0.0, 0.0, 0.0, 0.0, 1.5])
    assert plot().dots(x, y).count("M") == 1


def test_bars_stand_on_the_ground():
    path = plot().rectangles(np.array([0.0]), np.array([1.0]), np.array([0.0]))
    ground, middle = HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    assert numbers(path) == pytest.approx([LEFT, ground, middle, (LEFT + WIDTH - RIGHT) / 2, ground], abs=0.05)


def test_series_differ_in_colour_and_shape_or_pattern():
    x = np.array([0.5, 1.0])
    dots = [Mark.dots(plot(), x, x - 1, label=str(k), place=k) for k in range(21)]
    assert len({(mark.style, mark.shape) for mark in dots}) == 21
    lines = [Mark.line(plot(), x, x - 1, label=str(k), place=k) for k in range(28)]
    assert len({(mark.style, mark.dash) for mark in lines}) == 28


def test_the_legend_names_each_label_once():
    marks = tuple(Mark("M0 0H1", "guide", label) for label in ("limit", "limit", None))
    assert [mark.label for mark in Chart("title", plot(), marks).legend] == ["limit"]


def test_cells_of_a_matrix_are_as_full_as_their_share_of_the_row():
    matrix = Matrix("title", np.array([[3, 1], [0, 7]]), ("cat", "dog"), "animal")
    found = {(box.text, float(box.share), box.is_full, box.is_right, box.title) for box in matrix.boxes}
    assert found == {
        ("3", 0.75, True, True, "3 of 4 of cat named cat"),
        ("1", 0.25, False, False, "1 of 4 of cat named dog"),
        ("7", 1.0, True, True, "7 of 7 of dog named dog"),
    }
    assert matrix.diagonal == ["0", f"{matrix.side:g}"]
    corners = {box.text: (float(box.x), float(box.y)) for box in matrix.boxes}
    assert corners == {"3": (0, 0), "1": (matrix.side, 0), "7": (matrix.side, matrix.side)}


def test_a_matrix_of_many_classes_fits_the_picture():
    classes = tuple(f"class number {k}" for k in range(30))
    matrix = Matrix("title", np.eye(30, dtype=int), classes, "kind")
    assert matrix.margin + 30 * matrix.side <= 340
    assert {box.text for box in matrix.boxes} == {""}
