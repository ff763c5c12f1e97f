from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ngbench.errors import ChecksumError, StoreFormatError
from ngbench.store import RELEASED, HeldOutOutputs, Zoo, held_out_path, open_zoo, released
from ngbench.store.seal import SEAL_BYTES


@pytest.fixture
def zoo_path(tiny, tmp_path):
    return tiny.write(tmp_path / "tiny.h5")


@pytest.fixture
def held(zoo_path):
    """Outputs of three networks for four inputs: two give three numbers each, one gives two."""
    rng = np.random.default_rng(1)
    outputs = tuple(rng.random((4, width), dtype=np.float32) for width in (3, 3, 2))
    return HeldOutOutputs(Zoo(zoo_path).sha256, rng.random((4, 1, 2, 2), dtype=np.float32), np.array([1, 4, 12]), outputs)


def test_what_was_written_beside_a_zoo_comes_back(zoo_path, held):
    assert Zoo(zoo_path).held_out is None
    held.write(held_out_path(zoo_path))
    found = Zoo(zoo_path).held_out
    assert found is not None
    np.testing.assert_array_equal(found.inputs, held.inputs)
    np.testing.assert_array_equal(found.rows, held.rows)
    for own, other in zip(found.outputs, held.outputs, strict=True):
        np.testing.assert_array_equal(own, other)


def test_outputs_come_in_the_order_asked_for_and_nan_behind_those_that_give_fewer(held):
    found = held.of_rows(np.array([12, 1]))
    assert found is not None
    assert found.shape == (2, 12)
    np.testing.assert_array_equal(found[1], held.outputs[0].ravel())
    np.testing.assert_array_equal(found[0, :8], held.outputs[2].ravel())
    assert np.isnan(found[0, 8:]).all()


@pytest.mark.parametrize("rows", [[1, 2], [16], []])
def test_networks_whose_outputs_are_not_held_have_none(held, rows):
    assert held.of_rows(np.array(rows, dtype=np.int64)) is None


def test_the_same_outputs_give_the_same_bytes(held, tmp_path):
    sums = [held.write(tmp_path / name) for name in ("a.h5", "b.h5")]
    assert sums[0] == sums[1]
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_outputs_of_another_zoo_are_refused(zoo_path, held):
    dataclasses.replace(held, zoo_sha256="0" * 64).write(held_out_path(zoo_path))
    with pytest.raises(StoreFormatError, match=r"holds outputs of the zoo with sha256 0{64}; expected .*tiny\.h5'; remove it"):
        _ = Zoo(zoo_path).held_out


@pytest.mark.parametrize(
    "change",
    [
        {"rows": np.array([4, 1, 12])},
        {"rows": np.array([1, 4, 17])},
        {"rows": np.array([-1, 4, 12])},
        {"inputs": np.zeros((5, 1), np.float32)},
        {"inputs": np.zeros((0, 1), np.float32)},
        {"outputs": (np.full((4, 3), np.nan, np.float32), np.zeros((4, 3)), np.zeros((4, 2)))},
        {"outputs": (np.zeros((0, 3)), np.zeros((4, 3)), np.zeros((4, 2)))},
    ],
)
def test_what_cannot_be_outputs_of_the_zoo_is_refused(zoo_path, held, change):
    dataclasses.replace(held, **change).write(held_out_path(zoo_path))
    with pytest.raises(StoreFormatError, match="are no outputs of networks of the zoo"):
        _ = Zoo(zoo_path).held_out


@pytest.mark.parametrize("place", [10, SEAL_BYTES + 100, -1])
def test_one_wrong_byte_is_found(zoo_path, held, place):
    held.write(held_out_path(zoo_path))
    content = bytearray(held_out_path(zoo_path).read_bytes())
    content[place] ^= 1
    held_out_path(zoo_path).write_bytes(content)
    with pytest.raises(StoreFormatError):
        _ = Zoo(zoo_path).held_out


def test_a_zoo_is_no_file_of_outputs(zoo_path, tiny):
    tiny.write(held_out_path(zoo_path))
    with pytest.raises(StoreFormatError, match="lacks dataset '/inputs'"):
        _ = Zoo(zoo_path).held_out


def test_released_outputs_are_those_that_ngbench_knows(monkeypatch):
    entry = RELEASED["digits-park"]
    held = open_zoo("digits-park").held_out
    assert held is not None
    assert held.inputs.shape == (242, 1, 8, 8)
    np.testing.assert_array_equal(held.rows, open_zoo("digits-park").split("test"))
    other = {"digits-park": dataclasses.replace(entry, outputs_sha256="1" * 64)}
    monkeypatch.setattr(released, "RELEASED", other)
    with pytest.raises(ChecksumError, match=r"digits-park-v1-outputs\.h5' has other outputs .* expected 1{64}; install ngbench"):
        open_zoo("digits-park")


def test_all_shipped_files_together_take_no_more_than_32_mb():
    folder = RELEASED["digits-park"].path.parent
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 32e6
