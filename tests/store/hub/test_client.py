"""The Hub's client as downloads of published zoos use it."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ngbench.errors import HubError, StoreWriteError
from ngbench.store import PUBLISHED, download_zoo, import_zoo
from ngbench.store.download import CHECKSUMS
from ngbench.store.hub.client import commit_of, hub_errors

ADAPTER = {"layer.lora.down.weight": [[1.0, 2.0, 3.0]], "layer.lora.up.weight": [[4.0], [5.0]]}
ZOO = replace(PUBLISHED["lora-ws-1k"], hub_dataset="owner/tiny")


def table(*labels):
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([ADAPTER | {"category_label": label} for label in labels]), content)
    return content.getvalue()


def test_the_tables_of_a_published_dataset_are_downloaded_once(hub, tmp_path):
    hub.commits.append({"data/b.parquet": table("cat", "dog"), "data/a.parquet": table("ship"), "README.md": b"#"})
    told = []
    stages = lambda label: lambda done, total, text="": told.append((label, done, total, text))  # noqa: E731
    folder = download_zoo(ZOO, tmp_path / "files", stages=stages)
    assert import_zoo(ZOO, folder, tmp_path / "zoo.h5").metadata["label"].tolist() == ["ship", "cat", "dog"]
    label = "downloading owner/tiny"
    assert told == [(label, 1, 2, "data/a.parquet"), (label, 2, 2, "data/b.parquet")]
    hub.requests.clear()
    download_zoo(ZOO, tmp_path / "files")
    assert not [request for request in hub.requests if request.startswith("GET /datasets")]


def test_a_dataset_is_fetched_as_it_stood_at_the_first_call(hub, tmp_path):
    hub.commits.append({"data/a.parquet": table("ship")})
    download_zoo(ZOO, tmp_path)
    hub.commits.append({"data/a.parquet": table("cat"), "data/b.parquet": table("dog")})
    download_zoo(ZOO, tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()} == {"a.parquet": table("ship")}
    assert json.loads((tmp_path / CHECKSUMS).read_text()) == {"owner/tiny@revision": hub.sha(1)}


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_published_dataset_that_the_hub_does_not_give_is_an_error_of_the_hub(hub, tmp_path, status):
    hub.refuses = status
    with pytest.raises(HubError, match=rf"dataset 'owner/tiny': the Hub cannot be reached or refuses \(HTTP {status}, "):
        download_zoo(ZOO, tmp_path / "files")


def test_a_hub_that_nobody_serves_is_an_error_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(HubError, match=r"dataset 'owner/tiny': the Hub cannot be reached or refuses \(.*refused"):
        download_zoo(ZOO, tmp_path / "files")


def test_a_folder_that_cannot_be_written_is_told(hub, tmp_path):
    hub.commits.append({"data/a.parquet": table("ship")})
    (tmp_path / "files").write_text("a file")
    with pytest.raises(StoreWriteError, match=r"cannot write '.*files/data/a.parquet'"):
        commit_of("owner/tiny").fetch("data/a.parquet", tmp_path / "files")


def test_faults_that_are_not_of_the_hub_pass_as_they_are():
    with pytest.raises(RuntimeError, match="a fault of ours"), hub_errors("owner/tiny"):
        raise RuntimeError("a fault of ours")
