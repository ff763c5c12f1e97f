from __future__ import annotations

import os

import numpy as np
import pytest

from ngbench.errors import RecipeError, StoreFormatError, StoreWriteError
from ngbench.store.shards import Shards
from ngbench.zoo.trained import TrainedNetworks


@pytest.fixture
def shards(recipe, tmp_path):
    shards = Shards(tmp_path / "a.h5.parts", recipe, 3)
    shards.open()
    return shards


@pytest.fixture
def trained(recipe):
    parameters = {"conv0.weight": np.arange(24, dtype=np.float32).reshape(2, 2, 2, 3)}
    metadata = {"run_id": np.array(["run-é", "run-1"]), "seed": np.array([2**62, 1]), "test_accuracy": np.array([0.25, 0.5])}
    return TrainedNetworks(recipe.architecture, parameters, metadata, (("run-9", "losses are not finite"),))


def test_parts_cover_all_runs_once(shards):
    assert shards.runs == [range(3), range(3, 6), range(6, 7)]


def test_a_part_comes_back_as_it_was(shards, trained):
    assert not shards.finished(1)
    shards.save(1, trained)
    assert shards.finished(1)
    loaded = shards.load(1)
    assert loaded.diverged == trained.diverged
    assert loaded.architecture == trained.architecture
    for kind in ("parameters", "metadata"):
        before, after = getattr(trained, kind), getattr(loaded, kind)
        assert list(before) == list(after)
        assert all(before[name].dtype == after[name].dtype and (before[name] == after[name]).all() for name in before)


def test_a_part_in_which_every_run_diverged_comes_back(shards, recipe):
    nothing = TrainedNetworks(
        recipe.architecture, {"w": np.zeros((0, 4), np.float32)}, {"run_id": np.zeros(0, "U1")}, (("a", "b"),)
    )
    shards.save(0, nothing)
    assert len(shards.load(0)) == 0


def test_a_part_without_a_diverged_run_comes_back(shards, recipe, trained):
    shards.save(0, TrainedNetworks(recipe.architecture, trained.parameters, trained.metadata, ()))
    assert shards.load(0).diverged == ()


@pytest.mark.parametrize("change", [{"seed": 36}, {"num_runs": 8}, {"rounding": "none"}])
def test_parts_of_another_recipe_are_refused(shards, trained, recipe, change):
    shards.save(1, trained)
    other = Shards(shards.folder, recipe.model_copy(update=change), 3)
    num_runs = change.get("num_runs", 7)
    match = (
        r"shard-00001\.npz' is of another generation \(identity \w{12}; expected \w{12}, "
        rf"recipe 'moment' with {num_runs} runs, 3 a part\)"
    )
    with pytest.raises(RecipeError, match=match):
        other.open()


def test_parts_of_another_size_are_refused(shards, trained, recipe):
    shards.save(1, trained)
    with pytest.raises(RecipeError, match="with 7 runs, 4 a part"):
        Shards(shards.folder, recipe, 4).open()


def test_a_recipe_may_be_reworded_between_two_parts(shards, trained, recipe):
    shards.save(1, trained)
    reworded = recipe.model_copy(update={"title": "other", "description": "other", "licence": "MIT", "citation": "other"})
    Shards(shards.folder, reworded, 3).open()


def test_a_part_that_cannot_be_read_is_named(shards, trained):
    shards.save(1, trained)
    path = shards.folder / "shard-00001.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(
        StoreFormatError, match=r"part '.*shard-00001\.npz' cannot be read \(.*\); delete it to train its runs again"
    ):
        shards.open()


def test_half_written_parts_are_no_parts(shards, trained):
    (shards.folder / "shard-00001.npz.partial-77").write_bytes(b"half")
    shards.open()
    assert not shards.finished(1)


def test_a_folder_that_cannot_be_made_is_named(recipe, tmp_path):
    with pytest.raises(StoreWriteError, match=r"cannot write '.*none/a\.parts' \(No such file"):
        Shards(tmp_path / "none" / "a.parts", recipe, 3).open()


def test_removing_leaves_nothing(shards, trained, tmp_path):
    shards.save(0, trained)
    shards.remove()
    assert os.listdir(tmp_path) == []
