from __future__ import annotations

import os

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import List, Value, load_dataset

from ngbench.errors import CardError, StoreWriteError
from ngbench.store import Zoo, ZooInfo, ZooWriter
from ngbench.store.hub import export_dataset, import_dataset
from ngbench.store.hub.manifest import read_manifest
from ngbench.zoo.columns import Column


def test_load_dataset_opens_the_folder_with_typed_columns(exported, tiny_zoo, tmp_path):
    opened = load_dataset(str(exported), cache_dir=str(tmp_path / "cache"))
    features = opened["train"].features
    assert features["row"] == Value("int64")
    assert features["optimizer"] == Value("string")
    assert features["width"] == Value("int64")
    assert features["test_accuracy"] == Value("float64")
    assert features["values"] == List(Value("float32"))
    for part in opened:
        rows = tiny_zoo.split(part)
        assert opened[part]["id"][:] == tiny_zoo.ids[rows].tolist()
        for row, values in zip(rows, opened[part].with_format("numpy")["values"][:], strict=True):
            assert values.tobytes() == tiny_zoo.values([row])[0].tobytes()


def test_streaming_gives_the_same_rows_as_loading(exported, tiny_zoo):
    streamed = load_dataset(str(exported), split="test", streaming=True)
    assert streamed.features["values"] == List(Value("float32"))
    assert [row["id"] for row in streamed] == tiny_zoo.ids[tiny_zoo.split("test")].tolist()


def test_each_split_is_a_configuration_with_its_parts(split_zoo, tmp_path):
    folder = export_dataset(split_zoo, tmp_path / "folder")
    for name in split_zoo.splits:
        opened = load_dataset(str(folder), name, cache_dir=str(tmp_path / "cache"))
        for part in ("train", "val", "test"):
            assert sorted(opened[part]["row"][:]) == split_zoo.split(part, name).tolist()


def test_topologies_and_diverged_runs_are_configurations(exported, tiny_zoo, tmp_path):
    topologies = load_dataset(str(exported), "topologies", split="train", cache_dir=str(tmp_path / "cache"))
    assert topologies["json"][:] == [topology.to_json() for topology in tiny_zoo.topologies]
    assert topologies["num_networks"][:] == np.bincount(tiny_zoo.topology_index).tolist()
    diverged = load_dataset(str(exported), "diverged", split="train", cache_dir=str(tmp_path / "cache"))
    assert [tuple(row.values()) for row in diverged] == list(tiny_zoo.diverged)


def test_no_network_stands_in_two_files(split_zoo, tmp_path):
    folder = export_dataset(split_zoo, tmp_path / "folder", shard_bytes=1)
    rows = np.concatenate([pq.read_table(path, columns=["row"])["row"] for path in sorted((folder / "data").iterdir())])
    assert sorted(rows) == list(range(len(split_zoo)))


def test_shards_hold_so_many_bytes_and_progress_is_told(tiny_zoo, tmp_path, monkeypatch):
    monkeypatch.setattr("ngbench.store.hub.to_folder._ROW_GROUP_BYTES", 150)
    told = []
    folder = export_dataset(
        tiny_zoo, tmp_path / "folder", shard_bytes=400, progress=lambda done, total, text="": told.append((done, total))
    )
    for entry in read_manifest(folder).networks:
        table = pq.read_table(folder / entry.path)
        assert len(table) == 1 or 4 * sum(map(len, table["values"].to_pylist())) <= 400
        assert entry.num_rows == len(table)
    assert told[-1] == (len(tiny_zoo), len(tiny_zoo))
    assert len(told) > len(read_manifest(folder).networks)


def test_no_more_is_read_of_metadata_and_outputs_than_a_row_group_needs(tiny, tmp_path, monkeypatch):
    num_networks, num_outputs, piece_bytes, group_bytes = 300, 51, 4096, 6000
    monkeypatch.setattr("ngbench.store.arrays.PIECE_BYTES", piece_bytes)
    monkeypatch.setattr("ngbench.store.hub.to_folder._ROW_GROUP_BYTES", group_bytes)
    rng = np.random.default_rng(4)
    with ZooWriter(tmp_path / "a.h5", tiny.info, columns=[Column("note", "identity", "str", "a long text")]) as writer:
        rows = rng.normal(size=(num_networks, tiny.topologies[-1].num_values)).astype(np.float32)
        notes = [f"{index:>200}" for index in range(num_networks)]
        outputs = rng.normal(size=(num_networks, num_outputs)).astype(np.float16)
        ids = [f"network-{index:03d}" for index in range(num_networks)]
        writer.append(tiny.topologies[-1], rows, ids=ids, metadata={"note": notes}, functional={"digits": outputs})
    (tmp_path / "card.md").write_text("# tiny\n\nBy hand.\n")
    read, zoo, reads = h5py.Dataset.__getitem__, Zoo(tmp_path / "a.h5"), {"/metadata/note": [], "/functional/digits": []}

    def spied(dataset, key, **options):
        found = read(dataset, key, **options)
        reads.setdefault(dataset.name, []).append(found.nbytes)
        return found

    monkeypatch.setattr(h5py.Dataset, "__getitem__", spied)
    folder = export_dataset(zoo, tmp_path / "folder", card=tmp_path / "card.md")
    for name, whole_bytes in (("/metadata/note", 200 * num_networks), ("/functional/digits", 2 * num_outputs * num_networks)):
        assert 0 < max(reads[name]) <= piece_bytes < whole_bytes / 5
    # the control: what reads a column as a whole is seen
    zoo.functional("digits")
    assert max(reads["/functional/digits"]) == outputs.nbytes
    network_bytes = 4 * rows.shape[1] + 2 * num_outputs
    for path in (folder / "data").iterdir():
        groups = pq.ParquetFile(path).metadata
        assert max(groups.row_group(index).num_rows for index in range(groups.num_row_groups)) <= group_bytes // network_bytes
    assert import_dataset(folder, tmp_path / "b.h5").sha256 == zoo.sha256


def test_columns_whose_names_are_taken_get_a_prefix(tiny, tmp_path):
    columns = [Column(name, "identity", "int", "a number") for name in ("row", "values", "metadata_row", "plain")]
    with ZooWriter(tmp_path / "a.h5", tiny.info, columns=columns) as writer:
        metadata = {column.name: np.arange(6) + place for place, column in enumerate(columns)}
        writer.append(tiny.topologies[-1], tiny.cnn_rows, ids=tiny.ids[:6], metadata=metadata)
    zoo = Zoo(tmp_path / "a.h5")
    folder = export_dataset(zoo, tmp_path / "folder")
    names = pq.read_schema(next((folder / "data").iterdir())).names
    assert names == [
        "row", "id", "run_id", "topology", "metadata_row", "metadata_values", "metadata_metadata_row", "plain", "values",
    ]  # fmt: skip
    assert import_dataset(folder, tmp_path / "b.h5").sha256 == zoo.sha256


def test_a_folder_that_holds_something_is_left_alone(tiny_zoo, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    with pytest.raises(StoreWriteError, match=r"'.*folder' is there already; expected a new or empty folder"):
        export_dataset(tiny_zoo, tmp_path / "folder")
    assert os.listdir(tmp_path / "folder") == ["mine.txt"]


def test_an_export_that_fails_leaves_nothing(tiny_zoo, tmp_path):
    before = set(tmp_path.iterdir())
    with pytest.raises(CardError, match=r"cannot read data card '.*none\.md'"):
        export_dataset(tiny_zoo, tmp_path / "folder", card=tmp_path / "none.md")
    assert set(tmp_path.iterdir()) == before


def test_a_zoo_whose_name_is_no_file_name_is_refused(tiny, tmp_path):
    tiny.info = ZooInfo("../tiny", "3", "Tiny zoo", "CC0-1.0", "nobody")
    with pytest.raises(StoreWriteError, match=r"zoo '../tiny' cannot be a dataset: name: .* got '../tiny'"):
        export_dataset(Zoo(tiny.write(tmp_path / "a.h5")), tmp_path / "folder")
