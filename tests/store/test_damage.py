from __future__ import annotations

import json

import h5py
import numpy as np
import pytest

from ngbench.errors import StoreFormatError
from ngbench.store import Zoo, verify
from ngbench.store.seal import SEAL_BYTES

DAMAGED = r"corrupt|is not an ngbench zoo|truncated|bytes after its end|upgrade ngbench"
REGIONS = ("seal", "structures of HDF5", "topologies", "models", "values", "metadata", "splits", "diverged")


@pytest.fixture
def regions(tiny_path):
    """The bytes ``[start, stop)`` of each region of a zoo file: all that belongs to no array are structures of HDF5."""
    spans = {name: [] for name in REGIONS}
    spans["seal"].append((0, SEAL_BYTES))

    def place(name, dataset):
        if isinstance(dataset, h5py.Dataset):
            region = name.split("/")[0]
            if dataset.chunks is None:
                spans[region].append((dataset.id.get_offset(), dataset.id.get_offset() + dataset.nbytes))
            else:
                chunks = [dataset.id.get_chunk_info(number) for number in range(dataset.id.get_num_chunks())]
                spans[region] += [(chunk.byte_offset, chunk.byte_offset + chunk.size) for chunk in chunks]

    with h5py.File(tiny_path) as file:
        file.visititems(place)
    covered = sorted(span for of_region in spans.values() for span in of_region)
    for (_, stop), (start, _) in zip(covered, [*covered[1:], (tiny_path.stat().st_size, None)], strict=True):
        if stop < start:
            spans["structures of HDF5"].append((stop, start))
    return {name: np.concatenate([np.arange(*span) for span in of_region]) for name, of_region in spans.items()}


def flip(path, position, bit):
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))


def test_the_regions_are_the_whole_file(regions, tiny_path):
    assert all(len(positions) for positions in regions.values())
    every = np.sort(np.concatenate(list(regions.values())))
    assert np.array_equal(every, np.arange(tiny_path.stat().st_size))


@pytest.mark.parametrize("region", REGIONS)
def test_a_flipped_bit_in_any_region_is_refused_when_the_file_is_opened(regions, tiny_path, region):
    rng = np.random.default_rng(13)
    positions = rng.choice(regions[region], min(40, len(regions[region])), replace=False)
    for position, bit in zip(positions, rng.integers(8, size=len(positions)), strict=True):
        flip(tiny_path, int(position), int(bit))
        with pytest.raises(StoreFormatError, match=DAMAGED):
            Zoo(tiny_path)
        flip(tiny_path, int(position), int(bit))
    Zoo(tiny_path)


@pytest.mark.parametrize("region", REGIONS)
def test_in_a_file_too_large_to_be_hashed_when_opened_only_flipped_values_wait_for_verification(
    tiny, tmp_path, monkeypatch, region
):
    path = tiny.write(tmp_path / "large.h5", compressed=False)
    monkeypatch.setattr("ngbench.store.reader.HASHED_AT_OPEN_BYTES", 0)
    index_bytes = json.loads(path.read_bytes()[:SEAL_BYTES])["index_bytes"]
    with h5py.File(path) as file:
        assert file["values"].id.get_offset() == SEAL_BYTES + index_bytes
        start = {"seal": 40, "structures of HDF5": SEAL_BYTES + 20}.get(region)
        if start is None:
            found = []
            file.visititems(lambda name, item: found.append(item) if name.startswith(region) else None)
            contiguous = next(item for item in found if isinstance(item, h5py.Dataset) and item.chunks is None)
            start = contiguous.id.get_offset() + contiguous.nbytes // 2
    flip(path, start, 3)
    if region != "values":
        with pytest.raises(StoreFormatError, match=DAMAGED):
            Zoo(path)
    else:
        (check,) = verify(Zoo(path))
        assert not check.passed
        assert "is corrupt: its content has sha256" in check.detail


@pytest.mark.parametrize("region", REGIONS)
def test_a_file_cut_off_in_any_region_is_refused(regions, tiny_path, region):
    data, positions = tiny_path.read_bytes(), regions[region]
    for kept in {int(positions[0]), int(positions[len(positions) // 2]), int(positions[-1])}:
        tiny_path.write_bytes(data[:kept])
        with pytest.raises(StoreFormatError, match=r"truncated|is not an ngbench zoo"):
            Zoo(tiny_path)


def test_a_file_cut_off_after_it_was_opened_is_told(tiny_path):
    zoo = Zoo(tiny_path)
    data = tiny_path.read_bytes()
    tiny_path.write_bytes(data[:-5])
    with pytest.raises(StoreFormatError, match=f"truncated: expected {len(data)} bytes, got {len(data) - 5}"):
        zoo.values([0, 1])
