from __future__ import annotations

import pytest

from ngbench.errors import HubError, StoreFormatError, StoreWriteError
from ngbench.store.hub import download, push

# The client hands the bytes of a file to its HTTP library in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")


def test_a_zoo_that_was_pushed_comes_back_with_its_hash(hub, tiny_zoo, tmp_path):
    address = push(tiny_zoo, "owner/tiny", private=True)
    assert address == f"{hub.url}/datasets/owner/tiny/commit/{hub.sha(1)}"
    assert {"README.md", "croissant.json", "ngbench.json", "topologies/topologies.parquet"} <= set(hub.files)
    assert download("hf://owner/tiny", tmp_path / "back.h5").sha256 == tiny_zoo.sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.h5", "tiny.h5"]


def test_a_push_replaces_the_tables_that_were_there(hub, tiny_zoo, split_zoo):
    push(split_zoo, "owner/tiny")
    push(tiny_zoo, "owner/tiny")
    before, after = ({name for name in files if name.startswith("data/")} for files in hub.commits)
    assert not before & after


def test_an_older_revision_can_be_named(hub, tiny_zoo, split_zoo, tmp_path):
    push(split_zoo, "owner/tiny")
    push(tiny_zoo, "owner/tiny")
    assert download(f"hf://owner/tiny@{hub.sha(1)}", tmp_path / "back.h5").sha256 == split_zoo.sha256


def test_only_files_that_the_manifest_names_are_fetched(hub, tiny_zoo, tmp_path):
    push(tiny_zoo, "owner/tiny")
    hub.commits[-1]["data/more.parquet"] = b"PAR1"
    download("hf://owner/tiny", tmp_path / "back.h5")
    assert not [request for request in hub.requests if "more.parquet" in request or "README" in request]


def test_a_download_that_was_cut_goes_on_where_it_ended(hub, tiny_zoo, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)
    push(tiny_zoo, "owner/tiny")
    hub.cut_after = 800
    assert download("hf://owner/tiny", tmp_path / "back.h5").sha256 == tiny_zoo.sha256
    assert "bytes=800-" in hub.ranges


def test_files_that_were_fetched_before_an_interruption_are_not_fetched_again(hub, tiny_zoo, tmp_path):
    push(tiny_zoo, "owner/tiny")
    last = hub.commits[-1].pop("diverged/diverged.parquet")
    with pytest.raises(HubError, match=r"HTTP 404, "):
        download("hf://owner/tiny", tmp_path / "back.h5")
    hub.commits[-1]["diverged/diverged.parquet"] = last
    hub.requests.clear()
    assert download("hf://owner/tiny", tmp_path / "back.h5").sha256 == tiny_zoo.sha256
    got = [request.rpartition("/")[2] for request in hub.requests if request.startswith("GET /datasets")]
    assert got == ["diverged.parquet"]


def test_a_file_that_changed_on_the_way_is_refused_and_kept_for_a_look(hub, tiny_zoo, tmp_path):
    push(tiny_zoo, "owner/tiny")
    path = "topologies/topologies.parquet"
    hub.commits[-1][path] = hub.files[path][:-1] + b"?"
    with pytest.raises(StoreFormatError, match=r"topologies\.parquet' has sha256 [0-9a-f]{64}; expected [0-9a-f]{64}"):
        download("hf://owner/tiny", tmp_path / "back.h5")
    assert not (tmp_path / "back.h5").exists()


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_hub_that_refuses_is_one_sentence(hub, tiny_zoo, tmp_path, status):
    hub.refuses = status
    with pytest.raises(HubError, match=rf"dataset 'owner/tiny': the Hub cannot be reached or refuses \(HTTP {status}, "):
        download("hf://owner/tiny", tmp_path / "back.h5")
    with pytest.raises(HubError, match=rf"refuses \(HTTP {status}, "):
        push(tiny_zoo, "owner/tiny")


def test_a_hub_that_takes_no_tables_is_one_sentence(hub, tiny_zoo):
    hub.full = True
    with pytest.raises(HubError, match=r"dataset 'owner/tiny': .*Error while uploading '.*\.parquet' to the Hub.*507"):
        push(tiny_zoo, "owner/tiny")
    assert not hub.commits


def test_a_dataset_that_is_not_there_is_one_sentence(hub, tmp_path):
    with pytest.raises(HubError, match=r"dataset 'owner/tiny': the Hub cannot be reached or refuses \(HTTP 404"):
        download("hf://owner/tiny", tmp_path / "back.h5")


def test_a_dataset_of_others_is_told_from_a_zoo(hub, tmp_path):
    hub.commits.append({"README.md": b"# else"})
    with pytest.raises(HubError, match=r"dataset 'owner/tiny': .*ngbench\.json"):
        download("hf://owner/tiny", tmp_path / "back.h5")


def test_an_endpoint_that_nobody_serves_is_one_sentence(monkeypatch, tiny_zoo, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(HubError, match=r"dataset 'owner/tiny': the Hub cannot be reached or refuses \(.*refused"):
        download("hf://owner/tiny", tmp_path / "back.h5")


def test_a_dataset_that_declares_more_than_the_disk_holds_is_not_fetched(hub, tiny_zoo, tmp_path):
    push(tiny_zoo, "owner/tiny")
    num_values = str(tiny_zoo.num_values.sum()).encode()
    manifest = hub.files["ngbench.json"]
    hub.files["ngbench.json"] = manifest.replace(b'"num_values": ' + num_values, b'"num_values": ' + str(2**60).encode())
    with pytest.raises(StoreWriteError, match=r"the dataset declares \d+ bytes of tables and values; '.*' has room for \d+"):
        download("hf://owner/tiny", tmp_path / "back.h5")
    assert not [request for request in hub.requests if request.startswith("GET") and request.endswith(".parquet")]


def test_a_file_that_is_there_is_left_alone(hub, tmp_path):
    (tmp_path / "back.h5").write_text("mine")
    with pytest.raises(StoreWriteError, match=r"'.*back\.h5' is there already; expected a new file"):
        download("hf://owner/tiny", tmp_path / "back.h5")
    assert not hub.requests


@pytest.mark.parametrize("address", ["owner/tiny", "hf://owner/tiny@../x", "hf://owner", "hf://a/b/c", "hf://../tiny"])
def test_what_is_no_address_of_a_dataset_is_refused(address, tmp_path):
    with pytest.raises(HubError, match=r"is none of a dataset; expected|is no name of a dataset; expected owner/name"):
        download(address, tmp_path / "back.h5")


def test_what_is_no_name_of_a_dataset_is_not_pushed_to(tiny_zoo):
    with pytest.raises(HubError, match=r"'tiny' is no name of a dataset; expected owner/name"):
        push(tiny_zoo, "tiny")
