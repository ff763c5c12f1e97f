from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import h5py
import pytest

import ngbench
from ngbench.errors import ChecksumError, StoreFormatError, UnknownNameError
from ngbench.registry import Registry
from ngbench.store import RELEASED, ReleasedZoo, Zoo, open_zoo, released
from ngbench.zoo.recipe import load_recipe


@pytest.fixture
def registry(monkeypatch):
    registry = Registry("zoo")
    monkeypatch.setattr(released, "RELEASED", registry)
    return registry


@pytest.fixture
def shipped(tiny, tmp_path, monkeypatch, registry):
    """A zoo file that stands where shipped ones do, registered under the name tiny."""
    (tmp_path / "embedded").mkdir()
    path = tiny.write(tmp_path / "embedded" / "tiny-v3.h5")
    monkeypatch.setattr(released, "resources", SimpleNamespace(files=lambda package: tmp_path))
    registry.register("tiny", ReleasedZoo("tiny", "3", path.name, Zoo(path).sha256, path.stat().st_size))
    return path


@pytest.mark.parametrize("name", sorted(RELEASED))
def test_every_released_zoo_opens_under_its_name(name):
    zoo, entry = open_zoo(name), RELEASED[name]
    assert (zoo.name, zoo.version, zoo.sha256) == (name, entry.version, entry.sha256)
    assert entry.path.stat().st_size == entry.size_bytes


@pytest.mark.parametrize("name", sorted(RELEASED))
def test_the_recipe_of_a_released_zoo_is_the_text_in_its_file(name):
    text = json.dumps(load_recipe(name).model_dump(mode="json"), ensure_ascii=False)
    with h5py.File(RELEASED[name].path) as file:
        assert file.attrs["recipe"] == text


def test_a_released_zoo_opens_by_name(shipped):
    zoo = ngbench.open_zoo("tiny")
    assert zoo.path == shipped


def test_an_installed_file_that_is_not_the_released_one_is_refused(tiny, shipped):
    expected = Zoo(shipped).sha256
    tiny.ids[0] = "renamed"
    tiny.write(shipped)
    match = rf"is not zoo 'tiny' version 3 as it was released: it has sha256 {Zoo(shipped).sha256}, expected {expected}"
    with pytest.raises(ChecksumError, match=match):
        open_zoo("tiny")


def test_a_file_that_was_not_installed_is_named(shipped):
    shipped.unlink()
    with pytest.raises(StoreFormatError, match=r"no file at '.*embedded/tiny-v3\.h5'"):
        open_zoo("tiny")


def test_an_unknown_name_is_met_with_the_close_one(shipped):
    with pytest.raises(UnknownNameError, match="unknown zoo 'tinny': did you mean 'tiny'"):
        open_zoo("tinny")


@pytest.mark.parametrize("path", ["none.h5", "./none", "folder/none", Path("none")])
def test_what_looks_like_a_path_is_missed_as_a_file(path):
    with pytest.raises(
        StoreFormatError, match=r"no file at '.*none.*'; expected the path of a zoo file, or the name of a released zoo"
    ):
        open_zoo(path)


def test_files_open_by_path_of_either_type(tiny, tmp_path, monkeypatch):
    path = tiny.write(tmp_path / "plain")
    monkeypatch.chdir(tmp_path)
    assert open_zoo(path).sha256 == open_zoo(str(path)).sha256 == open_zoo("plain").sha256


def test_a_zoo_still_reads_when_the_working_folder_changes(tiny, tmp_path, monkeypatch):
    tiny.write(tmp_path / "a.h5")
    monkeypatch.chdir(tmp_path)
    zoo = open_zoo("a.h5")
    monkeypatch.chdir("/")
    assert len(zoo[:]) == 17
