"""Plans of optimal transport as whole numbers, against the plans that POT gives."""

from __future__ import annotations

import numpy as np
import ot
import pytest

from ngbench.alignment.couplings import codes_of, plans_of, row_length
from ngbench.errors import GraphError

WIDTHS = {"first": (2, 3), "second": (4, 1)}
GOOD = [0, 1, 4, 5, 0, 1, 2, 3]
"""Of 2 and 3 units the plan [[2, 1, 0], [0, 1, 2]] / 6; four units to one."""


def even(num_units):
    return np.full(num_units, 1 / num_units)


@pytest.mark.parametrize("sizes", [(1, 1), (1, 7), (5, 7), (6, 9), (8, 8), (12, 4), (13, 31), (24, 36)])
@pytest.mark.parametrize("has_ties", [False, True])
def test_a_plan_comes_back_from_the_pairs_that_it_joins(sizes, has_ties):
    rng, widths = np.random.default_rng(sum(sizes)), {"units": sizes}
    for _ in range(20):
        cost = rng.integers(0, 3, size=sizes).astype(float) if has_ties else rng.normal(size=sizes) ** 2
        plan = ot.emd(even(sizes[0]), even(sizes[1]), cost)
        codes = codes_of({"units": plan}, widths)
        assert (codes.shape, codes.dtype) == ((row_length(widths),), np.int64)
        np.testing.assert_allclose(plans_of(codes, widths)["units"], plan, rtol=0, atol=1e-14)


def test_indices_stand_one_after_the_other():
    found = plans_of(np.array(GOOD), WIDTHS)
    np.testing.assert_array_equal(found["first"] * 6, [[2, 1, 0], [0, 1, 2]])
    np.testing.assert_array_equal(found["second"], np.full((4, 1), 0.25))
    assert codes_of(found, WIDTHS).tolist() == GOOD


def test_equal_widths_are_matched_one_to_one_with_padding_behind():
    codes = codes_of({"units": np.eye(3)[[2, 0, 1]] / 3}, {"units": (3, 3)})
    assert codes.tolist() == [2, 3, 7, -1, -1]
    np.testing.assert_allclose(plans_of(codes, {"units": (3, 3)})["units"], np.eye(3)[[2, 0, 1]] / 3)


RANGE = "what is said of index 'first' are no rising numbers from 0 to 5, the codes of pairs of its 2 and 3 units"
MASSES = "the pairs of index 'first' bring no even masses of 2 and 3 units together"


@pytest.mark.parametrize(
    ("codes", "text"),
    [
        ([0, 1, 4, 6], RANGE),
        ([0, 1, 4, 10**15], RANGE),
        ([-2, 1, 4, 5], RANGE),
        ([0, 0, 4, 5], RANGE),
        ([1, 0, 4, 5], RANGE),
        ([0, -1, 4, 5], RANGE),
        ([0, 1, 3, 4], "the pairs of index 'first' form a ring; expected a forest"),
        # unit 2 of the second gets nothing, and a plan of too little
        ([0, 1, 4, -1], MASSES),
        ([-1, -1, -1, -1], MASSES),
        # the first unit would have to send more than it has
        ([0, 1, 2, 5], MASSES),
    ],
)
def test_codes_that_say_no_plan_are_refused(codes, text):
    with pytest.raises(GraphError, match=text):
        plans_of(np.array([*codes, *GOOD[4:]]), WIDTHS)


def test_what_is_accepted_of_two_and_three_units_are_the_corners_alone():
    """All 4 of 6 pairs and fewer, against plans by a solver of linear equations."""
    wanted = set()
    rows = np.array(
        [[code // 3 == i for code in range(6)] for i in range(2)] + [[code % 3 == j for code in range(6)] for j in range(3)]
    )
    accepted = set()
    for mask in range(2**6):
        codes = [code for code in range(6) if mask >> code & 1]
        if len(codes) > 4:
            continue
        own = rows[:, codes].astype(float)
        flows, _, rank, _ = np.linalg.lstsq(own, np.array([3, 3, 2, 2, 2]), rcond=None)
        if rank == len(codes) and np.allclose(own @ flows, [3, 3, 2, 2, 2]) and (flows > 1e-9).all():
            wanted.add(mask)
        try:
            plans_of(np.pad(np.array(codes, dtype=np.int64), (0, 4 - len(codes)), constant_values=-1), {"units": (2, 3)})
            accepted.add(mask)
        except GraphError:
            continue
    assert accepted == wanted
    assert len(wanted) == 6
