"""Model-J as a server on this machine gives it: tables that name models, and small transformers in its exact layout."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save

from ngbench.errors import ChecksumError, DownloadError, ForeignZooError, HubError, StoreFormatError, StoreWriteError
from ngbench.store import PUBLISHED, download_zoo, import_zoo
from ngbench.store.hub import stream_zoo
from ngbench.store.published.model_j import Vit

CONFIG = {
    "model_type": "vit", "hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 10,
    "image_size": 8, "patch_size": 4, "num_channels": 3, "layer_norm_eps": 1e-12,
}  # fmt: skip
STATE = Vit(6, 1, 2, 10, 8, 4, 3, 7, 1e-12).module().state_dict()
PUBLISHED_MODELS = PUBLISHED["model-j-supvit"].hub_models
ZOO = replace(PUBLISHED["model-j-supvit"], hub_models=replace(PUBLISHED_MODELS, dataset="owner/tiny"))
NAMES = [f"ProbeX/Model-J__SupViT__model_idx_{index:04d}" for index in range(5)]
PARTS = {"train": NAMES[1:4], "validation": NAMES[:1], "test": NAMES[4:]}


def table(names, column="hf_model_id"):
    content = io.BytesIO()
    pq.write_table(pa.table({column: names, "seed": list(range(len(names)))}), content)
    return content.getvalue()


def model(index, *, scale=1.0):
    rng = np.random.default_rng(index)
    state = {path: (scale * rng.normal(size=values.shape)).astype(np.float32) for path, values in STATE.items()}
    header = {"dataset_chosen_targets": "[7, 3, 91]", "learning_rate": "0.0003", "epochs": "4"}
    return {
        "model.safetensors": save(state, header),
        "config.json": json.dumps(CONFIG).encode(),
        "training_args.bin": b"a pickle that nobody asks for",
    } | ({"trainer_state.json": b'{"best_metric": 0.875, "log": [Infinity]}'} if index % 2 else {})


@pytest.fixture
def served(hub, monkeypatch):
    """A server with five models of three parts."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.commits.append({f"SupViT/{part}-00000-of-00001.parquet": table(names) for part, names in PARTS.items()})
    hub.commits[-1] |= {"DINO/train-00000-of-00001.parquet": table(["ProbeX/Model-J__DINO__model_idx_0000"]), "README.md": b"#"}
    hub.models |= {name: model(index) for index, name in enumerate(NAMES)}
    return hub


def as_folder(folder, *, served):
    """The same files as the authors' code leaves them."""
    for part, names in PARTS.items():
        for name in names:
            home = folder / part.replace("validation", "val") / f"models--{name.replace('/', '--')}" / "snapshots" / served.sha(7)
            home.mkdir(parents=True)
            for path, content in served.models[name].items():
                (home / path).write_bytes(content)
    return folder


def fetched_models(hub):
    return [request.split("/")[2] for request in hub.requests if request.startswith("GET /ProbeX") and "safetensors" in request]


def test_a_streamed_zoo_is_the_file_of_an_import_from_a_folder(served, tmp_path):
    told = []
    zoo = stream_zoo(ZOO, tmp_path / "zoo.h5", progress=lambda done, total, text="": told.append((done, total)))
    expected = import_zoo(ZOO, as_folder(tmp_path / "files", served=served), tmp_path / "expected.h5")
    assert zoo.sha256 == expected.sha256
    assert len(zoo) == len(NAMES)
    assert {part: sorted(zoo.ids[zoo.split(part, "model-j")]) for part in ("train", "val", "test")} == {
        part.replace("validation", "val"): [name.partition("/")[2] for name in names] for part, names in PARTS.items()
    }
    assert told == [(done, len(NAMES)) for done in range(len(NAMES) + 1)]
    assert not [request for request in served.requests if "training_args" in request or "DINO" in request]


def test_one_network_at_a_time_stands_on_the_disk_as_it_was_fetched(served, tmp_path):
    left = []

    def look(done, total, text=""):
        left.append(len([path for path in tmp_path.rglob("*") if path.name.endswith((".safetensors", ".incomplete"))]))

    stream_zoo(ZOO, tmp_path / "zoo.h5", progress=look)
    assert left == [0] * (len(NAMES) + 1)
    assert [path.name for path in tmp_path.iterdir()] == ["zoo.h5"]


def test_a_stream_that_was_stopped_goes_on_after_its_last_network(served, tmp_path):
    whole = stream_zoo(ZOO, tmp_path / "whole.h5").sha256
    lost = served.models.pop(NAMES[2])
    served.requests.clear()
    with pytest.raises(HubError, match=rf"model '{NAMES[2]}': the Hub cannot be reached or refuses \(HTTP 404"):
        stream_zoo(ZOO, tmp_path / "zoo.h5")
    assert not (tmp_path / "zoo.h5").exists()
    before = fetched_models(served)
    served.models[NAMES[2]] = lost
    served.requests.clear()
    assert stream_zoo(ZOO, tmp_path / "zoo.h5").sha256 == whole
    assert sorted(before + fetched_models(served)) == sorted(name.partition("/")[2] for name in NAMES)
    assert not [request for request in served.requests if "datasets" in request]


def test_a_network_that_was_cut_goes_on_within_its_file(served, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)
    whole = stream_zoo(ZOO, tmp_path / "whole.h5").sha256
    served.cut_after, served.commits[-1] = 800, dict(served.commits[-1])
    assert stream_zoo(ZOO, tmp_path / "zoo.h5").sha256 == whole
    assert "bytes=800-" in served.ranges


def test_a_stream_that_was_stopped_in_the_merge_fetches_nothing_again(served, tmp_path, monkeypatch):
    def stops(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("ngbench.store.hub.streaming.merge", stops)
        with pytest.raises(KeyboardInterrupt):
            stream_zoo(ZOO, tmp_path / "zoo.h5")
    served.requests.clear()
    assert len(stream_zoo(ZOO, tmp_path / "zoo.h5")) == len(NAMES)
    assert not served.requests


def test_parts_that_a_stopped_call_left_beside_a_whole_file_are_removed(served, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("ngbench.store.hub.streaming._Parts.remove", lambda _: None)
        sha256 = stream_zoo(ZOO, tmp_path / "zoo.h5").sha256
    assert (tmp_path / "zoo.h5.parts").exists()
    assert stream_zoo(ZOO, tmp_path / "zoo.h5").sha256 == sha256
    assert [path.name for path in tmp_path.iterdir()] == ["zoo.h5"]


def test_files_that_a_stopped_call_left_of_another_network_are_not_taken_for_this_one(served, tmp_path):
    home = tmp_path / f"zoo.h5.parts/fetched/train/models--{NAMES[0].replace('/', '--')}/snapshots/old"
    home.mkdir(parents=True)
    (home / "model.safetensors").write_bytes(b"damaged")
    assert len(stream_zoo(ZOO, tmp_path / "zoo.h5")) == len(NAMES)


def test_fewer_networks_are_taken_at_even_distances(served, tmp_path):
    zoo = stream_zoo(ZOO, tmp_path / "zoo.h5", limit=2)
    assert zoo.ids.tolist() == [NAMES[4].partition("/")[2], NAMES[2].partition("/")[2]]
    assert len(fetched_models(served)) == 2


def test_a_network_that_is_not_finite_is_recorded_as_in_an_import(served, tmp_path):
    served.models[NAMES[3]] = model(3, scale=np.inf)
    zoo = stream_zoo(ZOO, tmp_path / "zoo.h5")
    name = NAMES[3].partition("/")[2]
    assert zoo.diverged == ((name, f"network {name} has values that are not finite"),)
    expected = import_zoo(ZOO, as_folder(tmp_path / "files", served=served), tmp_path / "expected.h5")
    assert zoo.sha256 == expected.sha256
    served.models |= {name: model(3, scale=np.inf) for name in NAMES}
    with pytest.raises(ForeignZooError, match="none of 5 networks of zoo 'model-j-supvit' is finite; expected at least one"):
        stream_zoo(ZOO, tmp_path / "none.h5")


def test_a_file_with_another_checksum_is_refused_and_removed(served, tmp_path):
    served.lies["model.safetensors"] = "0" * 64
    with pytest.raises(
        ChecksumError, match=rf"'model.safetensors' of model '{NAMES[4]}' has sha256 [0-9a-f]{{64}}; expected {'0' * 64}; it was"
    ):
        stream_zoo(ZOO, tmp_path / "zoo.h5")
    assert not list(tmp_path.rglob("*.safetensors"))
    served.lies.clear()
    assert len(stream_zoo(ZOO, tmp_path / "zoo.h5")) == len(NAMES)


def test_a_model_of_another_form_is_refused(served, tmp_path):
    served.models[NAMES[4]]["config.json"] = b'{"model_type": "bert"}'
    with pytest.raises(ForeignZooError, match="is a 'bert'; expected a 'vit' with a classifier"):
        stream_zoo(ZOO, tmp_path / "zoo.h5")


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"data.csv": b""}, "dataset 'owner/tiny' has no Parquet file of a part in folder 'SupViT'; it has data.csv"),
        ({"SupViT/val_holdout-0.parquet": table(NAMES)}, "has no Parquet file of a part in folder 'SupViT'"),
        ({"SupViT/train/0.parquet": table(NAMES, "name")}, "has no column 'hf_model_id'; it has name, seed"),
        ({"SupViT/train/0.parquet": b"PAR1"}, "is no Parquet file, or damaged .*; run again"),
        (
            {"SupViT/train/0.parquet": table(["ProbeX/Model-J__SupViT__../../x"])},
            r"names 'ProbeX/.*x'; expected ProbeX/Model-J__S",
        ),
        ({"SupViT/train/0.parquet": table(["else/x"])}, "names 'else/x'; expected ProbeX/Model-J__SupViT__..."),
        ({"SupViT/train/0.parquet": table([1, 2])}, "names 1; expected ProbeX/Model-J__SupViT__..."),
        ({"SupViT/test-0.parquet": table(NAMES), "SupViT/train-0.parquet": table(NAMES)}, "names '.*0000', which stood before"),
    ],
)
def test_tables_of_another_layout_are_refused(served, tmp_path, files, text):
    served.commits[-1] = files
    with pytest.raises(ForeignZooError, match=text):
        stream_zoo(ZOO, tmp_path / "zoo.h5")


def test_a_zoo_that_the_disk_has_no_room_for_is_not_begun(served, tmp_path, monkeypatch):
    monkeypatch.setattr("ngbench.store.hub.streaming.shutil.disk_usage", lambda _: SimpleNamespace(free=20_000))
    with pytest.raises(
        StoreWriteError, match=r"zoo 'model-j-supvit' takes about [\d,]+ bytes more .*has room for 20,000; take fewer"
    ):
        stream_zoo(ZOO, tmp_path / "zoo.h5")
    assert not fetched_models(served)


def test_a_file_that_is_there_and_parts_of_another_zoo_are_left_alone(served, tmp_path):
    (tmp_path / "zoo.h5").write_text("mine")
    with pytest.raises(StoreWriteError, match=r"zoo.h5' is there already; expected a new file"):
        stream_zoo(ZOO, tmp_path / "zoo.h5")
    (tmp_path / "zoo.h5").unlink()
    (tmp_path / "zoo.h5.parts").mkdir()
    (tmp_path / "zoo.h5.parts/networks.json").write_text('{"zoo": "model-j-dino", "networks": []}')
    with pytest.raises(StoreWriteError, match="zoo.h5.parts' has parts of zoo 'model-j-dino'; expected 'model-j-supvit'"):
        stream_zoo(ZOO, tmp_path / "zoo.h5")
    (tmp_path / "zoo.h5.parts/networks.json").write_text("{")
    with pytest.raises(StoreFormatError, match=r"networks.json' cannot be read \(.*\); delete it and run again"):
        stream_zoo(ZOO, tmp_path / "zoo.h5")


def test_a_zoo_is_streamed_or_downloaded_but_not_either(tmp_path):
    with pytest.raises(DownloadError, match="zoo 'lora-ws-1k' is not offered network by network; .* call download_zoo"):
        stream_zoo(PUBLISHED["lora-ws-1k"], tmp_path / "zoo.h5")
    with pytest.raises(
        DownloadError, match="zoo 'model-j-mae' is offered network by network, .*'ngbench zoo download model-j-mae'"
    ):
        download_zoo(PUBLISHED["model-j-mae"], tmp_path / "files")
    with pytest.raises(ForeignZooError, match="limit is 0; expected at least 1"):
        stream_zoo(ZOO, tmp_path / "zoo.h5", limit=0)
