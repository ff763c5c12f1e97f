from __future__ import annotations

import pytest

from ngbench.errors import StoreFormatError
from ngbench.store.hub.manifest import MANIFEST, part_index, read_manifest


def test_parts_are_numbered_as_in_a_zoo_file():
    assert [part_index(part) for part in ("train", "val", "test", None)] == [0, 1, 2, -1]


def test_the_manifest_says_what_the_zoo_is(exported, tiny_zoo):
    manifest = read_manifest(exported)
    assert manifest.info == tiny_zoo.info
    assert manifest.sha256 == tiny_zoo.sha256
    assert [entry.column for entry in manifest.columns] == list(tiny_zoo.columns.values())
    assert (manifest.num_networks, manifest.num_values) == (len(tiny_zoo), tiny_zoo.num_values.sum())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": "other"}, r"format: .*'ngbench-dataset', got 'other'"),
        ({"format_version": 2}, r"format_version: .*, got '2'"),
        ({"surprise": 1}, r"surprise: Extra inputs are not permitted, got '1'"),
        ({"name": "../../etc/zoo"}, r"name: String should match pattern .*, got '../../etc/zoo'"),
        ({"version": "/1"}, r"version: .*, got '/1'"),
        ({"sha256": "abc"}, r"sha256: .*, got 'abc'"),
        ({"num_networks": 2**50}, rf"num_networks: .*, got '{2**50}'"),
        ({"num_networks": 18}, r"the files have 17 networks; expected num_networks, 18"),
        ({"num_values": -1}, r"num_values: .*, got '-1'"),
        ({"columns": "width"}, r"columns: .*, got 'width'"),
        ({"splits": ["default"]}, r"split 'default' stands twice"),
        ({"splits": ["more"]}, r"names the parts of splits \['default'\]; expected \['default', 'more'\]"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(exported, edit_manifest, change, text):
    edit_manifest(lambda manifest: manifest.update(change))
    with pytest.raises(StoreFormatError, match=text):
        read_manifest(exported)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../secret.parquet",
        "data/../../secret.parquet",
        "data/../x.parquet",
        "data/.x.parquet",
        "data\\x.parquet",
        "data/a/b.parquet",
        "data/x.h5",
        "data/x.parquet\n",
        "data/*.parquet",
        "hf://x/y.parquet",
    ],
)
def test_a_path_that_could_lead_elsewhere_is_refused(exported, edit_manifest, path):
    edit_manifest(lambda manifest: manifest["files"][0].update(path=path))
    with pytest.raises(StoreFormatError, match=r"files\.0\.path: String should match pattern"):
        read_manifest(exported)


def test_a_manifest_that_is_no_json_is_refused(exported):
    (exported / MANIFEST).write_bytes(b"\xff{")
    with pytest.raises(StoreFormatError, match=r"ngbench\.json': the text: Invalid JSON"):
        read_manifest(exported)


def test_a_manifest_of_endless_length_is_refused(exported, monkeypatch):
    monkeypatch.setattr("ngbench.store.hub.manifest._MOST_BYTES", 100)
    with pytest.raises(StoreFormatError, match=r"ngbench\.json' has more than 100 bytes; expected less"):
        read_manifest(exported)
