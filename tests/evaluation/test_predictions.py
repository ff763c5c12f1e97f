"""Predictions files: what is kept, and each kind of wrong row."""

import contextlib
import json
import pickle
import re

import numpy as np
import pytest

from ngbench.errors import PredictionsError
from ngbench.evaluation import Predictions

IDS = ("a", "b", "c", "d")


def predictions(ids=IDS, values=(0.1, 0.2, 0.3, 0.4), scrambled=((0.5, 0.6, 0.7, 0.8), (0.9, 0.3, 0.2, 0.1))):
    return Predictions(tuple(ids), np.array(values), np.array(scrambled), {"method": "mean", "seed": 3})


def test_a_saved_file_loads_as_it_was(tmp_path):
    predictions().save(tmp_path / "p.npz")
    loaded = Predictions.load(tmp_path / "p.npz")
    assert loaded.ids == IDS
    assert loaded.about == {"method": "mean", "seed": 3}
    np.testing.assert_array_equal(loaded.values, [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_array_equal(loaded.scrambled, [[0.5, 0.6, 0.7, 0.8], [0.9, 0.3, 0.2, 0.1]])
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz"]


def test_rows_are_aligned_by_id_whatever_their_order():
    values, scrambled = predictions().aligned(("d", "a", "c", "b"))
    np.testing.assert_array_equal(values, [0.4, 0.1, 0.3, 0.2])
    np.testing.assert_array_equal(scrambled, [[0.8, 0.5, 0.7, 0.6], [0.1, 0.9, 0.2, 0.3]])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (("a", "b", "c"), r"1 row is missing \(d\); expected each of the 4 rows of the test split once, got 3 rows"),
        (("a", "b", "c", "d", "e"), r"1 row is not in the test split \(e\).*got 5 rows"),
        (("a", "b", "c", "d", "b"), r"1 row is there more than once \(b\).*got 5 rows"),
        ((), r"4 rows are missing \(a, b, c, …\)"),
    ],
)
def test_missing_extra_and_double_rows_are_refused_by_name(ids, message):
    rows = np.linspace(0, 1, len(ids))
    with pytest.raises(PredictionsError, match=message):
        predictions(ids, rows, rows[np.newaxis]).aligned(IDS)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_refused_by_name(bad):
    with pytest.raises(PredictionsError, match=r"1 of the values are not finite \(c\) in the predictions of method 'mean'"):
        predictions(values=(0.1, 0.2, bad, 0.4)).aligned(IDS)
    with pytest.raises(PredictionsError, match=r"1 of the scrambled are not finite \(a\)"):
        predictions(scrambled=((0.1, 0.2, 0.3, 0.4), (bad, 0.2, 0.3, 0.4))).aligned(IDS)


def test_columns_of_another_shape_or_type_are_refused():
    with pytest.raises(
        PredictionsError, match=r"values of the predictions of method 'mean' .* shape \(3,\); expected numbers for 4"
    ):
        predictions(values=[0.1, 0.2, 0.3], scrambled=[[0.5, 0.6, 0.7]]).aligned(IDS)
    with pytest.raises(PredictionsError, match="have type <U1"):
        predictions(values=["x", "y", "z", "w"]).aligned(IDS)


@pytest.mark.parametrize("scrambled", [np.zeros(4), np.zeros((2, 3)), np.zeros((2, 4, 1)), np.zeros((0, 4))])
def test_scrambled_copies_of_another_shape_and_none_at_all_are_refused(scrambled):
    shape = re.escape(str(scrambled.shape))
    with pytest.raises(PredictionsError, match=rf"scrambled predictions have shape {shape}; expected copies of shape \(4,\)"):
        predictions(scrambled=scrambled).aligned(IDS)


def test_a_row_may_hold_several_numbers_of_which_one_that_is_not_finite_is_refused():
    values, scrambled = np.arange(12.0).reshape(4, 3), np.arange(24.0).reshape(2, 4, 3)
    aligned = predictions(values=values, scrambled=scrambled).aligned(("b", "a", "d", "c"))
    np.testing.assert_array_equal(aligned[0], values[[1, 0, 3, 2]])
    np.testing.assert_array_equal(aligned[1], scrambled[:, [1, 0, 3, 2]])
    scrambled[1, 2, 1] = np.nan
    with pytest.raises(PredictionsError, match=r"1 of the scrambled are not finite \(c\)"):
        predictions(values=values, scrambled=scrambled).aligned(IDS)


def test_a_missing_file_says_what_was_expected(tmp_path):
    with pytest.raises(PredictionsError, match=r"no predictions file .*gone\.npz"):
        Predictions.load(tmp_path / "gone.npz")


def test_a_file_that_is_no_npz_is_refused(tmp_path):
    (tmp_path / "p.npz").write_text("not an archive")
    with pytest.raises(PredictionsError, match=r"p\.npz cannot be read as predictions"):
        Predictions.load(tmp_path / "p.npz")


def test_a_file_with_a_damaged_member_is_refused(tmp_path):
    predictions(values=np.linspace(0, 1, 4)).save(tmp_path / "p.npz")
    whole = bytearray((tmp_path / "p.npz").read_bytes())
    for place in range(0, len(whole), 7):
        damaged = whole.copy()
        damaged[place] ^= 0xFF
        (tmp_path / "p.npz").write_bytes(damaged)
        # what is not found here is found by nothing that a file says of itself
        with contextlib.suppress(PredictionsError):
            Predictions.load(tmp_path / "p.npz")


def test_a_truncated_file_is_refused(tmp_path):
    predictions().save(tmp_path / "p.npz")
    whole = (tmp_path / "p.npz").read_bytes()
    for length in (1, 40, len(whole) // 2, len(whole) - 3):
        (tmp_path / "p.npz").write_bytes(whole[:length])
        with pytest.raises(PredictionsError, match="cannot be read as predictions"):
            Predictions.load(tmp_path / "p.npz")


def test_pickled_objects_are_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was executed",))

    about = np.array(json.dumps({"format_version": 2}))
    rows = np.zeros(1)
    np.savez(tmp_path / "p.npz", ids=np.array([Trap()], dtype=object), values=rows, scrambled=rows, about=about)
    with pytest.raises(PredictionsError, match="without pickled objects"):
        Predictions.load(tmp_path / "p.npz")
    (tmp_path / "q.npz").write_bytes(pickle.dumps({"ids": IDS}))
    with pytest.raises(PredictionsError, match="without pickled objects"):
        Predictions.load(tmp_path / "q.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": np.arange(4)}, r"ids in .* are of type int64"),
        ({"about": np.array(json.dumps({"format_version": 99}))}, "no format version 2"),
        ({"about": np.array("{")}, "cannot be read as predictions"),
        ({"scrambled": None}, "lacks scrambled"),
    ],
)
def test_a_file_with_other_contents_is_refused(tmp_path, change, message):
    arrays = {
        "ids": np.array(IDS),
        "values": np.zeros(4),
        "scrambled": np.zeros((3, 4)),
        "about": np.array(json.dumps({"format_version": 2})),
    }
    arrays = {name: array for name, array in {**arrays, **change}.items() if array is not None}
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(PredictionsError, match=message):
        Predictions.load(tmp_path / "p.npz")


def test_all_that_is_wrong_is_told_at_once():
    wrong = predictions(("a", "b", "b", "e"), (0.1, np.nan, 0.3, 0.4), np.full((2, 4), np.inf))
    faults = list(wrong.faults(IDS))
    parts = ("2 rows are missing", "1 row is not in", "1 row is there more", "1 of the values", *["4 of the scrambled"] * 2)
    assert [fault[: len(part)] for fault, part in zip(faults, parts, strict=True)] == list(parts)
    assert list(predictions().faults(IDS)) == []


def test_no_rows_at_all_are_told_as_missing_ones():
    (fault,) = predictions((), np.zeros(0), np.zeros((1, 0))).faults(IDS)
    assert fault.startswith("4 rows are missing (a, b, c, …)")
