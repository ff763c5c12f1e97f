from __future__ import annotations

import hashlib
import json

import h5py
import numpy as np
import pytest

from ngbench.errors import StoreFormatError
from ngbench.store.reader import Zoo
from ngbench.store.seal import SEAL_BYTES, Seal, check_content, read_seal


def test_the_seal_is_one_line_of_json_that_a_stranger_can_check(tiny_path):
    data = tiny_path.read_bytes()
    line = json.loads(data[:SEAL_BYTES])
    assert data[:SEAL_BYTES].count(b"\n") == 1
    assert data[SEAL_BYTES - 1 :].startswith(b"\n\x89HDF")
    index_bytes = line["index_bytes"]
    with h5py.File(tiny_path) as file:
        mapped = file["values"].chunks is None
        assert index_bytes == (file["values"].id.get_offset() if mapped else len(data)) - SEAL_BYTES
    assert line == {
        "format": "ngbench-zoo",
        "format_version": 1,
        "size_bytes": len(data) - SEAL_BYTES,
        "sha256": hashlib.sha256(data[SEAL_BYTES:]).hexdigest(),
        "index_bytes": index_bytes,
        "index_sha256": hashlib.sha256(data[SEAL_BYTES : SEAL_BYTES + index_bytes] + line["sha256"].encode()).hexdigest(),
    }


def test_any_flipped_byte_is_refused(tiny_path):
    data = tiny_path.read_bytes()
    rng = np.random.default_rng(7)
    # The line of the seal and the superblock of HDF5 in full, the padding between them, and anywhere.
    line, superblock = np.arange(320), SEAL_BYTES + np.arange(64)
    for position in np.concatenate(
        [line, superblock, rng.integers(320, SEAL_BYTES, 30), rng.integers(SEAL_BYTES, len(data), 150)]
    ):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        tiny_path.write_bytes(damaged)
        with pytest.raises(
            StoreFormatError, match=r"corrupt|is not an ngbench zoo|truncated|bytes after its end|upgrade ngbench"
        ):
            Zoo(tiny_path)
    tiny_path.write_bytes(data)
    Zoo(tiny_path)


@pytest.mark.parametrize("kept", [25, 511, 512, 600, -1])
def test_a_truncated_file_is_told_with_its_sizes(tiny_path, kept):
    data = tiny_path.read_bytes()
    tiny_path.write_bytes(data[:kept])
    size = len(data[:kept])
    expected = "at least 512" if size < SEAL_BYTES else str(len(data))
    match = (
        "is not an ngbench zoo"
        if size < 42
        else rf"tiny\.h5' is truncated: expected {expected} bytes, got {size}; fetch it again"
    )
    with pytest.raises(StoreFormatError, match=match):
        read_seal(tiny_path)


def test_bytes_after_the_end_are_told_with_the_sizes(tiny_path):
    size = tiny_path.stat().st_size
    with tiny_path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(StoreFormatError, match=rf"has bytes after its end: expected {size} bytes, got {size + 4}"):
        read_seal(tiny_path)


def test_changed_content_is_told_with_both_sums(tiny_path):
    seal = read_seal(tiny_path)
    data = bytearray(tiny_path.read_bytes())
    data[-3] ^= 1
    tiny_path.write_bytes(data)
    got = hashlib.sha256(data[SEAL_BYTES:]).hexdigest()
    with pytest.raises(StoreFormatError, match=f"is corrupt: its content has sha256 {got}, expected {seal.sha256}"):
        check_content(tiny_path, seal)


def test_a_damaged_seal_is_told_as_such(tiny_path):
    data = bytearray(tiny_path.read_bytes())
    data[400] = ord("x")
    tiny_path.write_bytes(data)
    with pytest.raises(StoreFormatError, match="is corrupt: its seal, the first 512 bytes, is damaged"):
        read_seal(tiny_path)


def test_a_newer_format_asks_for_an_upgrade(tiny_path):
    data = tiny_path.read_bytes()
    newer = b'{"format":"ngbench-zoo","format_version":12,"other":true}'.ljust(SEAL_BYTES)
    tiny_path.write_bytes(newer + data[SEAL_BYTES:])
    with pytest.raises(StoreFormatError, match=r"has zoo format version 12, this ngbench reads up to 1; upgrade ngbench"):
        Zoo(tiny_path)


def foreign_hdf5(path):
    with h5py.File(path, "w") as file:
        file["values"] = [1.0]


def unsealed(path):
    with h5py.File(path, "w", userblock_size=SEAL_BYTES) as file:
        file["values"] = [1.0]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (foreign_hdf5, "it is an HDF5 file without the seal of a zoo"),
        (unsealed, "it was never finished and has no seal"),
        (lambda path: path.write_text("id,accuracy\n"), r"it begins with b'id,accuracy\\n'"),
        (lambda path: path.write_bytes(b""), "it is empty"),
    ],
    ids=["hdf5", "unfinished", "text", "empty"],
)
def test_a_foreign_file_is_told_apart(tmp_path, make, reason):
    make(tmp_path / "other.h5")
    with pytest.raises(StoreFormatError, match=rf"other\.h5' is not an ngbench zoo: {reason}; expected a file that begins with"):
        Zoo(tmp_path / "other.h5")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StoreFormatError, match=r"no file at '.*none\.h5'; expected the path of a zoo file"):
        Zoo(tmp_path / "none.h5")


def test_a_folder_is_no_zoo(tmp_path):
    with pytest.raises(StoreFormatError, match=r"cannot read '.*' \(Is a directory\)"):
        Zoo(tmp_path)


def test_a_seal_keeps_its_numbers():
    line = Seal(1234567890123, "ab" * 32, 45678, "cd" * 32).to_bytes()
    assert len(line) == SEAL_BYTES
    assert (json.loads(line)["size_bytes"], json.loads(line)["index_bytes"]) == (1234567890123, 45678)
