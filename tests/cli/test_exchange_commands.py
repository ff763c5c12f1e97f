"""``ngbench zoo export | import | download | push``, as a user types it."""

import io
import os
import zipfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ngbench.cli import main
from ngbench.store import Reevaluation, open_zoo
from ngbench.store.published.dws_inr import DwsInr


def ngbench(*arguments, exit_code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], terminal_width=200)
    assert result.exit_code == exit_code, result.output
    return result


def test_a_zoo_is_exported_as_a_dataset_folder_and_imported_again(small_zoo_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = ngbench("zoo", "export", small_zoo_path, "--to", tmp_path / "folder", "--shard-mb", "1")
    assert f"150 networks in {tmp_path / 'folder'}: datasets.load_dataset(" in result.stdout
    sha256 = open_zoo(small_zoo_path).sha256
    assert f"150 networks in {tmp_path / 'small-v1.h5'}, sha256 {sha256}" in ngbench("zoo", "import", "--from", "folder").stdout
    assert f"b.h5, sha256 {sha256}\n" in ngbench("zoo", "import", "--from", "folder", "--out", "b.h5").stdout


def test_a_data_card_beside_the_command_is_found(small_zoo_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_cards").mkdir()
    (tmp_path / "data_cards" / "small.md").write_text("# small\n\nBy hand.\n")
    ngbench("zoo", "export", small_zoo_path, "--to", "folder")
    assert "By hand." in (tmp_path / "folder" / "README.md").read_text()


def test_a_folder_that_is_no_dataset_of_ours_is_one_line(tmp_path):
    result = ngbench("zoo", "import", "--from", tmp_path, exit_code=2)
    assert result.stderr.splitlines()[-1].startswith(f"error: cannot read '{tmp_path}/ngbench.json' (No such file or directory)")


def test_push_and_download_refuse_what_is_no_name_of_a_dataset(small_zoo_path):
    assert "'small' is no name of a dataset" in ngbench("zoo", "push", small_zoo_path, "small", exit_code=2).stderr
    assert "'small' is no name of a dataset" in ngbench("zoo", "download", "hf://small", exit_code=2).stderr
    assert "address 's3://a/b' is none of a dataset" in ngbench("zoo", "download", "s3://a/b", exit_code=2).stderr


def test_options_of_published_zoos_are_refused_with_dataset_folders(tmp_path):
    assert "--limit is for published zoos" in ngbench("zoo", "import", "--from", tmp_path, "--limit", 3, exit_code=2).stderr
    for name in ("hf://a/b", "model-j-dino"):
        assert "--to is for published zoos" in ngbench("zoo", "download", name, "--to", tmp_path, exit_code=2).stderr
    for name in ("hf://a/b", "lora-ws-1k"):
        refused = ngbench("zoo", "download", name, "--limit", 3, exit_code=2).stderr
        assert "--limit is for zoos that are fetched network by network" in refused


def test_a_zoo_of_models_on_the_hub_is_streamed(small_zoo_path, tmp_path, monkeypatch):
    asked = {}

    def streamed(published, path, *, limit, progress):
        asked.update(name=published.name, path=path.name, limit=limit)
        return open_zoo(small_zoo_path)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ngbench.store.hub.stream_zoo", streamed)
    assert "150 networks in" in ngbench("zoo", "download", "model-j-dino", "--limit", 7).stdout
    assert asked == {"name": "model-j-dino", "path": "model-j-dino-v1.h5", "limit": 7}


def checkpoint(folder, name):
    path = folder / f"files/mnist-inrs/mnist_png_{name}/checkpoints/last.pth"
    path.parent.mkdir(parents=True)
    return path


def test_a_published_zoo_is_imported_told_and_listed(tmp_path):
    for name in ("training_7_12", "testing_2_3", "training_1_4"):
        torch.save(DwsInr().module().state_dict(), checkpoint(tmp_path, name))
    result = ngbench("zoo", "import", "dws-inr-mnist", "--from", tmp_path / "files", "--out", tmp_path / "zoo.h5")
    assert f"3 networks in {tmp_path / 'zoo.h5'}, sha256" in result.stdout
    assert "licence: not stated by its authors" in result.stdout
    assert "ok     unique ids: 3 ids of 3 runs" in ngbench("zoo", "verify", tmp_path / "zoo.h5").stdout
    assert "dws-inr-mnist" in ngbench("zoo", "list").stdout
    again = ngbench("zoo", "import", "dws-inr-mnist", "--from", tmp_path / "gone", "--out", tmp_path / "zoo.h5", exit_code=2)
    assert "zoo.h5' is there already; expected a new file: name another or remove it" in again.stderr


@pytest.mark.parametrize(("deviation", "said"), [(0.0, "0.0000 at most"), (0.25, "0.2500 at most")])
def test_how_far_what_is_recorded_is_off_is_said_where_images_are_at_hand(tmp_path, monkeypatch, deviation, said):
    places, recorded = [], np.array([0.5, 0.75])

    def found(zoo, published, architectures):
        places.append(os.environ["NGBENCH_IMAGES"])
        return Reevaluation("test_accuracy", np.arange(2), recorded, recorded + np.array([0, deviation]), 1000)

    monkeypatch.setattr("ngbench.store.importing.reevaluate", found)
    monkeypatch.setenv("NGBENCH_IMAGES", "")
    torch.save(DwsInr().module().state_dict(), checkpoint(tmp_path, "testing_2_3"))
    monkeypatch.chdir(tmp_path.parent)
    asked = ("dws-inr-mnist", "--from", tmp_path / "files", "--out", tmp_path / "zoo.h5", "--images", tmp_path.name)
    shown = ngbench("zoo", "import", *asked).stdout
    assert f"measured again: test_accuracy of 2 networks on 1,000 images is off by {deviation / 2:.4f} in the mean" in shown
    assert said in shown
    assert places == [str(tmp_path)]


def test_a_published_zoo_that_is_unknown_or_for_browsers_is_refused_in_one_line(tmp_path):
    result = ngbench("zoo", "import", "dws-inr-mnst", "--from", tmp_path, exit_code=2)
    assert "unknown published zoo 'dws-inr-mnst': did you mean 'dws-inr-mnist'" in result.stderr
    result = ngbench("zoo", "download", "nfn-siren-mnist", "--to", tmp_path / "files", exit_code=2)
    assert "is offered to browsers alone" in result.stderr


def test_a_published_zoo_is_downloaded_and_converted(tmp_path):
    """From files that are there already: downloads themselves are tested against a server."""
    folder = tmp_path / "files"
    folder.mkdir()
    with zipfile.ZipFile(folder / "mnist-inrs.zip", "w") as archive:
        content = io.BytesIO()
        torch.save(DwsInr().module().state_dict(), content)
        archive.writestr("mnist-inrs/mnist_png_testing_2_3/checkpoints/last.pth", content.getvalue())
    result = ngbench("zoo", "download", "dws-inr-mnist", "--to", folder, "--out", tmp_path / "zoo.h5")
    assert f"1 networks in {tmp_path / 'zoo.h5'}" in result.stdout
    again = ngbench("zoo", "download", "dws-inr-mnist", "--to", tmp_path / "new", "--out", tmp_path / "zoo.h5", exit_code=2)
    assert "zoo.h5' is there already; expected a new file: name another or remove it" in again.stderr
    assert not (tmp_path / "new").exists()
