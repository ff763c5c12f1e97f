from __future__ import annotations

import hashlib
import os
import shutil

import pyarrow as pa
import pytest

from ngbench.errors import ChecksumError, StoreFormatError, StoreWriteError
from ngbench.store import open_zoo
from ngbench.store.hub import export_dataset, from_folder, import_dataset


def refused(exported, text, error=StoreFormatError):
    """The import ends in one sentence and leaves no file."""
    before = set(exported.parent.iterdir())
    with pytest.raises(error, match=text):
        import_dataset(exported, exported.parent / "back.h5")
    assert set(exported.parent.iterdir()) == before


def test_the_file_comes_back_byte_by_byte(exported, tiny_path, tmp_path):
    made = import_dataset(exported, tmp_path / "back.h5")
    assert made.path.read_bytes() == tiny_path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits-cnn", "digits-park", "digits-inr", "digits-mlp"])
def test_a_released_zoo_comes_back_with_its_hash(name, tmp_path):
    zoo = open_zoo(name)
    folder = export_dataset(zoo, tmp_path / "folder", shard_bytes=2**20)
    assert import_dataset(folder, tmp_path / "back.h5").sha256 == zoo.sha256


def test_a_zoo_with_a_further_split_comes_back(split_zoo, tmp_path):
    folder = export_dataset(split_zoo, tmp_path / "folder", shard_bytes=300)
    assert import_dataset(folder, tmp_path / "back.h5").sha256 == split_zoo.sha256


def test_small_batches_give_the_same_file(exported, tiny_zoo, tmp_path, monkeypatch):
    monkeypatch.setattr("ngbench.store.hub.from_folder._BATCH_BYTES", 300)
    told = []
    made = import_dataset(exported, tmp_path / "back.h5", progress=lambda done, total, text="": told.append(done))
    assert made.sha256 == tiny_zoo.sha256
    assert len(told) > 3
    assert told[-1] == len(made)


def test_the_file_has_the_name_of_the_zoo_where_none_is_given(exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert import_dataset(exported).path == tmp_path / "tiny-v3.h5"


def test_a_file_that_is_there_is_left_alone(exported, tmp_path):
    (tmp_path / "back.h5").write_text("mine")
    with pytest.raises(StoreWriteError, match=r"'.*back\.h5' is there already; expected a new file"):
        import_dataset(exported, tmp_path / "back.h5")
    assert (tmp_path / "back.h5").read_text() == "mine"


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(StoreFormatError, match=r"cannot read '.*ngbench\.json' \(No such file.*\); expected a folder that"):
        import_dataset(tmp_path, tmp_path / "back.h5")


def test_a_missing_file_is_named(exported):
    next((exported / "data").iterdir()).unlink()
    refused(exported, r"lacks file 'data/.*\.parquet', which its ngbench\.json names")


def test_a_file_of_another_size_is_refused(exported):
    path = exported / "topologies" / "topologies.parquet"
    size = path.stat().st_size
    os.truncate(path, size - 1)
    refused(exported, rf"topologies\.parquet' has {size - 1} bytes; expected {size}")


def test_a_flipped_bit_is_found(exported):
    path = next((exported / "data").iterdir())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    refused(exported, r"parquet' has sha256 [0-9a-f]{64}; expected [0-9a-f]{64}")


def test_a_link_out_of_the_folder_is_refused(exported, tmp_path):
    path = exported / "topologies" / "topologies.parquet"
    shutil.move(path, tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    refused(exported, r"topologies\.parquet' leads out of its folder, to '.*elsewhere'")


def test_what_is_no_parquet_is_refused(exported, edit_manifest, edit_table):
    path = edit_table(lambda table: table)
    path.write_bytes(b"P" * path.stat().st_size)
    edit_manifest(lambda manifest: _reseal(manifest, path))
    refused(exported, r"parquet' cannot be read as Parquet \(.*\); fetch the folder again")


def _reseal(manifest, path):
    for entry in manifest["files"]:
        if path.match(entry["path"]):
            entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda t: t.drop_columns(["width"]), r"lacks columns \['width'\] and has unknown columns \[\]"),
        (lambda t: t.append_column("more", t["row"]), r"lacks columns \[\] and has unknown columns \['more'\]"),
        (lambda t: replaced(t, "width", pa.array(["x"] * len(t))), r"column 'width' has type string; expected int64"),
        (lambda t: replaced(t, "values", t["values"].cast(pa.list_(pa.float64()))), "'values' has type list<.*double.*>; exp"),
        (lambda t: replaced(t, "width", pa.array([None, *t["width"].to_pylist()[1:]], pa.int64())), "'width' has empty cells"),
        (lambda t: replaced(t, "id", pa.array(["réseau-03"] * len(t))), r"network id 'réseau-03' stands twice"),
        (lambda t: replaced(t, "optimizer", no_text(len(t))), "'optimizer' holds what is no UTF-8"),
        (lambda t: t.slice(1), r"has \d+ rows; expected \d+"),
        (lambda t: replaced(t, "row", pa.array([99] * len(t))), "the numbers in column 'row' do not rise"),
        (lambda t: replaced(t, "row", pa.array(range(100, 100 + len(t)))), r"has row \d+ where row \d+ is due"),
        (lambda t: replaced(t, "topology", pa.array(["0f" * 32] * len(t))), "networks have topology '0f0f.*', which is not"),
        (lambda t: with_values(t, lambda v: v[:-1]), r"network 'réseau-\d+' has \d+ numbers in column 'values'; expected \d+"),
        (lambda t: with_values(t, lambda v: v * 3), r"column 'values' declares \d+ values in \d+ rows; expected at most \d+"),
        (lambda t: with_values(t, lambda v: [float("nan"), *v[1:]]), r"network 'réseau-\d+' has the value nan in parameter"),
        (lambda t: with_values(t, lambda v: [None, *v[1:]]), "column 'values' has empty cells"),
    ],
)  # fmt: skip
def test_a_forged_table_is_refused_in_one_sentence(exported, edit_table, edit, text):
    edit_table(edit)
    refused(exported, text, error=(StoreFormatError, StoreWriteError))


def no_text(length):
    return pa.array([b"sgd\xff"] * length).view(pa.string())


def replaced(table, name, column):
    return table.set_column(table.schema.get_field_index(name), name, column)


def with_values(table, change):
    return replaced(table, "values", pa.array([change(row) for row in table["values"].to_pylist()], pa.list_(pa.float32())))


def test_a_forged_number_is_found_by_the_hash_of_the_zoo_file(exported, edit_table):
    edit_table(lambda table: with_values(table, lambda values: [values[0] + 1, *values[1:]]))
    refused(exported, r"gives a zoo file with sha256 [0-9a-f]{64}; expected [0-9a-f]{64}", error=ChecksumError)


def test_a_footer_that_counts_more_rows_than_there_are_is_found(exported, tmp_path, monkeypatch):
    in_order = from_folder._in_order
    monkeypatch.setattr(from_folder, "_in_order", lambda *given, **options: [next(in_order(*given, **options)).slice(0, 4)])
    with pytest.raises(StoreFormatError, match="exported' has 4 networks; expected 17; fetch the folder again"):
        import_dataset(exported, tmp_path / "back.h5")


def test_a_row_group_that_declares_too_much_is_refused(exported, monkeypatch):
    monkeypatch.setattr("ngbench.store.hub.from_folder._MOST_ROW_GROUP_BYTES", 500)
    refused(exported, r"declares a row group of \d+ bytes; expected at most 500")


def test_a_topology_with_more_edges_than_any_file_has_room_for_is_refused(exported, monkeypatch):
    monkeypatch.setattr("ngbench.store.hub.from_folder._MOST_EDGES", 20)
    refused(exported, r"topology [0-9a-f]+ has \d+ nodes and \d+ edges; expected at most 20 together")


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda t: replaced(t, "json", pa.array(["{}"] * len(t))), r"row '[0-9a-f]+' holds no topology \(text is not the JSON"),
        (lambda t: replaced(t, "digest", pa.array(["ab"] * len(t))), r"topology has digest [0-9a-f]+; expected 'ab'"),
    ],
)
def test_a_forged_topology_is_refused(exported, edit_table, edit, text):
    edit_table(edit, folder="topologies")
    refused(exported, text)


def test_a_folder_without_topologies_is_refused(exported, edit_manifest):
    edit_manifest(lambda m: m.update(files=[entry for entry in m["files"] if not entry["path"].startswith("topologies")]))
    refused(exported, "has no topologies; expected at least one")
