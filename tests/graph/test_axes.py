from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from ngbench.graph.axes import Factor, fresh, refactor


def sizes(axes):
    return [[factor.size for factor in axis] for axis in axes]


def test_fresh_axes_have_one_factor_each_and_no_two_are_the_same():
    first, second = fresh((3, 5)), fresh((3, 5))
    assert sizes(first) == [[3], [5]]
    assert first[0][0] != second[0][0]
    assert first[0][0] == first[0][0]


def test_a_flatten_joins_factors_slowest_first():
    axes = fresh((2, 3, 5, 7))
    assert refactor(axes, (2, 105), keep=[]) == (axes[0], axes[1] + axes[2] + axes[3])


def test_a_flatten_and_its_inverse_give_the_same_factors():
    axes = fresh((2, 3, 5, 7))
    assert refactor(refactor(axes, (210,), keep=[]), (2, 3, 5, 7), keep=[]) == axes


def test_a_factor_is_split_where_the_shape_says_so_and_keeps_what_stands_beside_it():
    axes = fresh((2, 15, 7))
    split = refactor(axes, (2, 3, 5, 7), keep=[])
    assert sizes(split) == [[2], [3], [5], [7]]
    assert split[0] == axes[0]
    assert split[3] == axes[2]


def test_a_factor_to_keep_is_not_split():
    axes = fresh((2, 15, 7))
    assert refactor(axes, (2, 3, 5, 7), keep=[axes[1][0]]) is None
    assert refactor(axes, (2, 3, 35), keep=[axes[1][0]]) is None


def test_sizes_that_do_not_divide_each_other_have_no_axes():
    assert refactor(fresh((4, 6)), (6, 4), keep=[]) is None


def test_another_number_of_elements_has_no_axes():
    assert refactor(fresh((2, 3)), (2,), keep=[]) is None


def test_new_axes_of_size_one_are_new_factors():
    axes = fresh((2, 5))
    unsqueezed = refactor(axes, (2, 1, 5), keep=[])
    assert sizes(unsqueezed) == [[2], [1], [5]]
    assert (unsqueezed[0], unsqueezed[2]) == axes


def test_a_batch_of_one_does_not_move_a_channel_of_one_to_another_axis():
    batch, channel, height, width = (axis[0] for axis in fresh((1, 1, 6, 4)))
    axes = ((batch,), (channel,), (height,), (width,))
    assert refactor(axes, (1, 24), keep=[channel]) == ((batch,), (channel, height, width))


def test_positions_of_size_one_stay_beside_their_units():
    axes = fresh((2, 5, 4, 1))
    assert refactor(axes, (2, 20), keep=[axes[1][0]]) == (axes[0], axes[1] + axes[2] + axes[3])


def test_a_squeezed_unit_of_size_one_stays_in_the_last_axis():
    axes = fresh((2, 1))
    assert refactor(axes, (2,), keep=[axes[1][0]]) == (axes[0] + axes[1],)


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=5), data=st.data())
def test_joining_any_neighbours_loses_and_invents_no_factor(shape, data):
    axes = fresh(shape)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(shape) - 1))) if len(shape) > 1 else [])
    joined = [math.prod(shape[start:stop]) for start, stop in zip([0, *cuts], [*cuts, len(shape)], strict=True)]
    result = refactor(axes, joined, keep=[axis[0] for axis in axes])
    assert [math.prod(factor.size for factor in axis) for axis in result] == joined
    flat = [factor for axis in result for factor in axis]
    wide = [axis[0] for axis in axes if axis[0].size > 1]
    assert [factor for factor in flat if factor.size > 1] == wide
    assert isinstance(flat[0], Factor)
