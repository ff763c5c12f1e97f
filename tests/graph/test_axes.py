from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngbench.graph import axes as ax
from ngbench.graph.axes import Blank, Factor, Index
from ngbench.graph.draft import GroupDraft


def factor(size, **settings):
    return Factor(Index(size, **settings))


def axes_of(*sizes):
    """One axis of one movable factor each."""
    return tuple((factor(size),) for size in sizes)


def sizes(axes):
    return [[factor.size for factor in ax.flat(axis)] for axis in axes]


def classes(expr):
    """What the leaves of an expression run over."""
    return [leaf.index.find() for leaf in ax.leaves(expr)]


UNITS = GroupDraft("units", "hidden")


def unit(size):
    return Factor(Index(size), UNITS)


def test_an_index_that_becomes_another_stands_for_it():
    first, second, third = Index(5), Index(5), Index(5)
    first.become(second)
    second.become(third)
    assert first.find() is second.find() is third.find() is third
    assert third.tied


def test_an_index_that_becomes_itself_is_not_tied():
    index = Index(5)
    index.become(index)
    assert (index.find(), index.tied) == (index, False)


def test_an_open_index_does_not_tie_what_it_becomes():
    index = Index(5)
    Index(5, open=True).become(index)
    assert not index.tied


def test_what_a_pinned_index_becomes_is_pinned():
    free = Index(5)
    Index(5, pinned=True).become(free)
    assert free.fixed


def test_an_index_is_divided_into_parts_of_its_kind():
    index = Index(12, pinned=True)
    index.divide("product", (3, 4))
    assert [(part.size, part.pinned) for part in index.parts] == [(3, True), (4, True)]
    with pytest.raises(AssertionError, match="only a leaf can be divided"):
        index.divide("sum", (5, 7))


def test_an_index_made_of_others_has_their_product_or_sum_as_size():
    parts = [Index(3), Index(5)]
    assert (Index.of("product", parts).size, Index.of("sum", parts).size) == (15, 8)
    assert Index.of("sum", parts, joins=True).joined
    assert not Index.of("sum", parts).joined
    assert Index.of("product", [Index.of("sum", parts, joins=True), Index(2)]).joined


def test_an_index_is_fixed_if_all_its_parts_are():
    first, second = Index(3), Index(5)
    whole = Index.of("product", [first, second])
    first.pin()
    assert not whole.fixed
    second.pin()
    assert whole.fixed
    assert not whole.pinned


def test_pinning_reaches_all_parts():
    inner = Index.of("sum", [Index(2), Index(3)])
    Index.of("product", [inner, Index(4)]).pin()
    assert all(part.pinned for part in inner.parts)


def test_a_copy_has_the_form_and_is_free_of_the_original():
    index = Index.of("product", [Index(3), Index.of("sum", [Index(2), Index(4)])])
    copy = index.copy()
    assert (copy.form, copy.size, [part.size for part in copy.parts]) == ("product", 18, [3, 6])
    index.pin()
    assert not copy.fixed


@pytest.mark.parametrize("spoil", ["tied", "pinned", "joins"])
def test_what_is_tied_pinned_or_joined_has_no_copy(spoil):
    inner = Index(3)
    setattr(inner, spoil, True)
    assert Index.of("product", [inner, Index(2)]).copy() is None


def test_a_factor_that_stands_again_has_the_same_key_and_so_have_its_children():
    whole = unit(6)
    whole.index.divide("product", (2, 3))
    again = whole.again()
    assert again is not whole
    assert (again.key, again.index, again.draft) == (whole.key, whole.index, UNITS)
    assert [child.key for child in again.children()] == [child.key for child in whole.children()]
    assert all(a is not b for a, b in zip(again.children(), whole.children(), strict=True))


def test_another_occurrence_has_a_key_of_its_own():
    whole = unit(6)
    other = whole.mirrored(GroupDraft("other", "hidden"))
    assert other.index is whole.index
    assert other.key != whole.key


def test_children_are_the_same_objects_each_time_until_the_index_is_cut_otherwise():
    whole = factor(12)
    assert whole.children() == ()
    whole.index.divide("product", (3, 4))
    first = whole.children()
    assert whole.children() is first
    assert [child.parent for child in first] == [whole, whole]


def test_a_fixed_sum_that_nothing_cuts_counts_as_whole():
    whole = factor(7)
    whole.index.divide("sum", (2, 5))
    assert whole.form == "sum"
    ax.pin([whole])
    assert whole.form == "leaf"
    whole.index.cut = True
    assert whole.form == "sum"


def test_flat_multiplies_products_out_and_keeps_sums():
    product, total = factor(6), factor(5)
    product.index.divide("product", (2, 3))
    total.index.divide("sum", (1, 4))
    assert [f.size for f in ax.flat([product, total])] == [2, 3, 5]
    assert [f.size for f in ax.leaves([product, total])] == [2, 3, 1, 4]


def test_units_are_factors_of_a_group_and_joins_of_them():
    position, own = factor(3), unit(5)
    joined = ax.join([own, factor(2)])
    assert ax.units_in([position, own, joined]) == [own, joined]
    assert ax.units_in([ax.join([factor(2), factor(4)])]) == []


@pytest.mark.parametrize("order", [1, -1])
def test_equal_sizes_are_the_same_index_from_then_on(order):
    first, second = (factor(5),), (factor(5),)
    ax.unify(*[first, second][::order])
    assert classes(first) == classes(second)
    assert not first[0].index.fixed


def test_a_wide_factor_is_divided_where_the_other_side_says_so():
    wide, narrow = (factor(12),), (factor(3), factor(4))
    ax.unify(wide, narrow)
    assert sizes([wide]) == [[3, 4]]
    assert classes(wide) == classes(narrow)


def test_factors_of_one_entry_are_passed_over():
    first, second = (factor(1), factor(5), factor(1)), (factor(5),)
    ax.unify(first, second)
    assert classes(first)[1:2] == classes(second)


def test_sizes_that_cut_across_each_other_pin_both():
    first, second = (factor(6), factor(2)), (factor(4), factor(3))
    ax.unify(first, second)
    assert all(f.index.fixed for f in (*first, *second))


def test_sums_agree_piece_by_piece():
    first, second = factor(7), factor(7)
    first.index.divide("sum", (2, 5))
    second.index.divide("sum", (4, 3))
    ax.unify([first], [second])
    assert [leaf.size for leaf in ax.leaves([first])] == [leaf.size for leaf in ax.leaves([second])] == [2, 2, 3]
    assert classes([first]) == classes([second])


def test_a_sum_and_a_product_that_meet_are_pinned():
    first, second = factor(6), factor(6)
    first.index.divide("sum", (2, 4))
    second.index.divide("product", (2, 3))
    ax.unify([first], [second])
    assert first.index.fixed
    assert second.index.fixed


@given(data=st.data())
def test_unified_products_agree_in_any_grouping_that_does_not_cut_across(data):
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))

    def grouped():
        cuts = sorted(data.draw(st.sets(st.integers(1, len(shape) - 1)))) if len(shape) > 1 else []
        return tuple(factor(math.prod(shape[a:b])) for a, b in itertools.pairwise([0, *cuts, len(shape)]))

    first, second, fine = grouped(), grouped(), tuple(factor(size) for size in shape)
    ax.unify(fine, first)
    ax.unify(fine, second)
    ax.unify(first, second)
    wide = [index for index in classes(fine) if index.size > 1]
    assert [i for i in classes(first) if i.size > 1] == wide == [i for i in classes(second) if i.size > 1]
    assert not any(f.index.fixed for f in (*first, *second) if f.size > 1)


def test_taking_everything_cuts_nothing():
    whole = factor(7)
    assert ax.take([whole], 0, 7) == (whole,)
    assert whole.form == "leaf"


def test_taking_a_part_of_a_leaf_makes_it_a_sum():
    whole = factor(7)
    (part,) = ax.take([whole], 2, 5)
    assert [child.size for child in whole.children()] == [2, 3, 2]
    assert part is whole.children()[1]


def test_parts_that_overlap_are_cut_as_often_as_needed():
    whole = factor(7)
    (first,), (second,) = ax.take([whole], 0, 4), ax.take([whole], 2, 7)
    assert [leaf.size for leaf in ax.leaves([whole])] == [2, 2, 3]
    assert classes([first]) == classes([whole])[:2]
    assert classes([second]) == classes([whole])[1:]


def test_a_part_of_a_product_is_taken_from_its_first_factor():
    first, second = factor(6), factor(4)
    head, rest = ax.take([first, second], 8, 16)
    assert (head.size, rest) == (2, second)
    assert head.parent is first


@pytest.mark.parametrize(("start", "stop"), [(0, 3), (2, 8), (1, 5)])
def test_a_part_that_cuts_across_the_last_factor_cannot_be_taken(start, stop):
    assert ax.take([factor(6), factor(4)], start, stop) is None


def test_a_part_of_a_divided_product_cannot_be_taken():
    whole = factor(6)
    whole.index.divide("product", (2, 3))
    inner = Factor(Index.of("product", [whole.index]))
    assert ax.take([inner], 0, 2) is None


@given(data=st.data())
def test_any_parts_of_a_leaf_have_the_entries_that_they_name(data):
    whole, size = factor(9), 9
    ranges = data.draw(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 9)).filter(lambda r: r[0] < r[1]), max_size=4))
    parts = [ax.take([whole], start, stop) for start, stop in ranges]
    starts = list(itertools.accumulate([leaf.size for leaf in ax.leaves([whole])], initial=0))
    assert starts[-1] == size
    own = classes([whole])
    for (start, stop), part in zip(ranges, parts, strict=True):
        assert classes(part) == own[starts.index(start) : starts.index(stop)]


def test_a_join_keeps_the_factors_that_it_is_made_of():
    first, second = unit(3), unit(5)
    joined = ax.join([first, second])
    assert (joined.size, joined.index.joins, joined.draft) == (8, True, None)
    assert list(joined.children()) == [first, second]
    assert ax.take([joined], 3, 8) == (second,)
    assert ax.pieces([joined]) == [first, second]


def test_one_factor_for_an_expression_is_that_factor_or_a_product():
    first, second = factor(3), factor(5)
    assert ax.as_factor((first,)) is first
    whole = ax.as_factor((first, second))
    assert (whole.size, list(whole.children())) == (15, [first, second])


def test_a_flatten_joins_factors_slowest_first():
    axes = axes_of(2, 3, 5, 7)
    assert ax.reshaped(axes, (2, 105)) == (axes[0], axes[1] + axes[2] + axes[3])


def test_a_flatten_and_its_inverse_give_the_same_factors():
    axes = axes_of(2, 3, 5, 7)
    assert ax.reshaped(ax.reshaped(axes, (210,)), (2, 3, 5, 7)) == axes


def test_a_factor_is_divided_where_the_shape_says_so_and_keeps_what_stands_beside_it():
    axes = axes_of(2, 15, 7)
    split = ax.reshaped(axes, (2, 3, 5, 7))
    assert sizes(split) == [[2], [3], [5], [7]]
    assert (split[0], split[3]) == (axes[0], axes[2])
    assert split[1] + split[2] == axes[1][0].children()


def test_a_divided_factor_is_whole_again_after_the_inverse():
    axes = axes_of(2, 15, 7)
    back = ax.reshaped(ax.reshaped(axes, (2, 3, 5, 7)), (2, 15, 7))
    assert classes(back[1]) == classes(axes[1])


def test_sizes_that_do_not_divide_each_other_have_no_axes():
    assert ax.reshaped(axes_of(4, 6), (6, 4)) is None


def test_another_number_of_elements_has_no_axes():
    assert ax.reshaped(axes_of(2, 3), (2,)) is None
    assert ax.reshaped(axes_of(2, 3), (2, 6)) is None


def test_units_that_were_cut_into_unequal_parts_cannot_be_divided_but_positions_can():
    units, places = unit(6), factor(6)
    for whole in (units, places):
        whole.index.divide("sum", (2, 4))
    assert ax.reshaped(((units,),), (2, 3)) is None
    assert sizes(ax.reshaped(((places,),), (2, 3))) == [[2], [3]]


def test_new_axes_of_one_entry_are_blank_and_dropped_again():
    axes = axes_of(2, 5)
    unsqueezed = ax.reshaped(axes, (2, 1, 5))
    assert (unsqueezed[0], unsqueezed[2]) == axes
    assert isinstance(unsqueezed[1][0], Blank)
    assert ax.reshaped(unsqueezed, (2, 5)) == axes


def test_positions_of_one_entry_stay_beside_their_units():
    axes = axes_of(2, 5, 4, 1)
    assert ax.reshaped(axes, (2, 20)) == (axes[0], axes[1] + axes[2] + axes[3])


def test_a_squeezed_unit_of_one_entry_stays_in_the_last_axis():
    axes = axes_of(2, 1)
    assert ax.reshaped(axes, (2,)) == (axes[0] + axes[1],)


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=5), data=st.data())
def test_joining_any_neighbours_loses_and_invents_no_factor(shape, data):
    axes = axes_of(*shape)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(shape) - 1))) if len(shape) > 1 else [])
    joined = [math.prod(shape[start:stop]) for start, stop in zip([0, *cuts], [*cuts, len(shape)], strict=True)]
    result = ax.reshaped(axes, joined)
    assert [ax.size_of(axis) for axis in result] == joined
    wide = [axis[0] for axis in axes if axis[0].size > 1]
    assert [factor for axis in result for factor in axis if factor.size > 1] == wide


@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), data=st.data())
def test_a_view_and_the_view_back_run_over_the_same_indices(shape, data):
    axes = axes_of(*shape)
    divided = [part for size in shape for part in data.draw(st.sampled_from([(size,), (1, size), (size, 1)]))]
    there = ax.reshaped(axes, divided)
    back = ax.reshaped(there, shape)
    assert [i for axis in back for i in classes(axis) if i.size > 1] == [i for axis in axes for i in classes(axis) if i.size > 1]


def three_times_units():
    """Units of a layer viewed as three entries times five units."""
    whole = unit(15)
    entries, units = ax.reshaped(((whole,),), (3, 5))
    return whole, entries[0], units[0]


def test_chosen_entries_have_units_of_their_own():
    whole, entries, units = three_times_units()
    first, second = ax.chosen(entries, 0)[id(units)], ax.chosen(entries, 2)[id(units)]
    assert whole.form == "sum"
    assert (first, second) == (whole.children()[0], whole.children()[2])
    assert first.index.find() is not second.index.find()
    assert (first.size, first.draft) == (5, UNITS)


def test_entries_whose_units_are_tied_cannot_be_chosen_apart():
    _, entries, units = three_times_units()
    ax.unify([factor(5)], [units])
    assert units.index.tied
    assert ax.chosen(entries, 0) is None


def test_positions_cannot_be_spread():
    (entries,), _ = ax.reshaped(((factor(15),),), (3, 5))
    assert entries.spread() is None
    assert factor(3).spread() is None


def test_the_last_factor_of_a_product_has_nothing_to_spread():
    _, _, units = three_times_units()
    assert units.spread() is None


def test_each_entry_that_is_spread_keeps_what_its_units_consist_of():
    whole = unit(24)
    entries, units = ax.reshaped(((whole,),), (2, 12))
    ax.reshaped((units,), (3, 4))
    mapping = ax.chosen(entries[0], 1)
    assert [mapping[id(child)].size for child in units[0].children()] == [3, 4]
    assert [leaf.size for leaf in ax.leaves([whole])] == [3, 4, 3, 4]


def test_matched_pairs_leaves_of_equal_sizes_and_nothing_that_cuts_across():
    first, second = (factor(6), factor(1), factor(4)), (factor(6), factor(4))
    assert ax.matched(first, second) == [(first[0], second[0]), (first[2], second[1])]
    assert ax.matched(first, (factor(4), factor(6))) is None
    assert ax.matched((factor(24),), second) is None


def test_matched_occurrences_of_one_index_are_paired_leaf_by_leaf():
    whole = unit(7)
    other = whole.mirrored(GroupDraft("other", "hidden"))
    ax.take([whole], 2, 7)
    pairs = ax.matched((whole,), (other,))
    assert [(a.size, a.index is b.index, a.draft is b.draft) for a, b in pairs] == [(2, True, False), (5, True, False)]


def test_counterparts_are_given_for_every_part():
    whole = unit(6)
    whole.index.divide("product", (2, 3))
    other = whole.mirrored(UNITS)
    found = ax.counterparts(whole, other)
    assert found == {id(whole): other} | {id(a): b for a, b in zip(whole.children(), other.children(), strict=True)}


def test_claimed_positions_are_units_of_a_group():
    places = factor(6)
    places.index.divide("product", (2, 3))
    children = places.children()
    places.claim(UNITS)
    assert places.draft is UNITS
    assert all(child.draft is UNITS for child in children)


def test_positions_of_a_tensor_never_move():
    axes = ax.positions((2, 5))
    assert sizes(axes) == [[2], [5]]
    assert all(factor.index.fixed for axis in axes for factor in axis)
