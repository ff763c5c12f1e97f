from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from ngbench.errors import RecipeError, TrainingError
from ngbench.graph import restore
from ngbench.store import Zoo, generate
from ngbench.zoo.fit import fit
from ngbench.zoo.recipe import ClassifierRecipe
from ngbench.zoo.train import train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """The zoo of a generation that nothing interrupted."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    zoo = generate(recipe, tmp_path_factory.mktemp("whole") / "a.h5", shard_size=3)
    torch.set_num_threads(num_threads)
    return zoo


def test_the_zoo_holds_what_was_trained(recipe, whole):
    trained = train(recipe, range(7))
    assert whole.ids.tolist() == whole.run_ids.tolist() == trained.metadata["run_id"].tolist()
    assert [run_id for run_id, _ in whole.diverged] == ["moment-00003", "moment-00004"]
    assert whole.diverged == trained.diverged
    assert set(whole.columns) == set(trained.metadata) - {"run_id"}
    for name in whole.columns:
        assert (whole.metadata[name] == trained.metadata[name]).all()
    for row in range(len(whole)):
        state_dict = restore(whole[row])
        assert all(np.array_equal(state_dict[path].numpy(), values[row]) for path, values in trained.parameters.items())


def test_the_zoo_knows_its_recipe(recipe, whole):
    assert ClassifierRecipe.model_validate(whole.info.recipe) == recipe
    assert (whole.name, whole.version, whole.info.title) == ("moment", "2", "CNNs trained for a moment")


def test_networks_of_each_activation_have_their_topology(whole):
    for graph, activation in zip(whole, whole.metadata["activation"], strict=True):
        assert {group.activation for group in graph.topology.groups if group.role == "hidden"} == {activation}


def test_only_the_zoo_file_is_left(whole):
    assert os.listdir(whole.path.parent) == ["a.h5"]


@pytest.mark.parametrize("shard_size", [1, 2, 100])
def test_the_file_does_not_depend_on_the_size_of_parts(recipe, whole, tmp_path, shard_size):
    assert generate(recipe, tmp_path / "b.h5", shard_size=shard_size).sha256 == whole.sha256


class StopAt:
    """A progress that interrupts when it is called for the n-th time."""

    def __init__(self, call):
        self.calls_left = call

    def __call__(self, done, total, text=""):
        self.calls_left -= 1
        if self.calls_left == 0:
            raise KeyboardInterrupt


def test_interrupted_anywhere_it_ends_with_the_same_file(recipe, whole, tmp_path):
    path, num_interruptions = tmp_path / "a.h5", 0
    calls = []
    generate(recipe, tmp_path / "count.h5", shard_size=3, progress=lambda done, total, text="": calls.append((done, total)))
    for call in range(1, len(calls) + 1):
        try:
            generate(recipe, path, shard_size=3, progress=StopAt(call))
        except KeyboardInterrupt:
            num_interruptions += 1
            assert not path.exists()
    # Finished parts are not trained again, so a late stop is not reached: the last call may end it.
    assert num_interruptions >= 3
    assert generate(recipe, path, shard_size=3).sha256 == whole.sha256


def test_finished_parts_are_not_trained_again(recipe, tmp_path, monkeypatch):
    trained = []

    def recorded(recipe, runs, **options):
        trained.append(runs)
        return train(recipe, runs, **options)

    monkeypatch.setattr("ngbench.store.generation.train", recorded)
    calls = []

    def stop_in_the_last_part(done, total, text=""):
        calls.append(done)
        if text == "1 of 3 parts to do":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(recipe, tmp_path / "a.h5", shard_size=3, progress=stop_in_the_last_part)
    generate(recipe, tmp_path / "a.h5", shard_size=3)
    assert trained == [range(3), range(3, 6), range(6, 7)]


@pytest.mark.slow
def test_the_file_does_not_depend_on_the_number_of_workers(recipe, tmp_path):
    one = generate(recipe, tmp_path / "one.h5", shard_size=3)
    two = generate(recipe, tmp_path / "two.h5", shard_size=3, num_workers=2)
    assert two.sha256 == one.sha256


def test_progress_rises_to_the_total(recipe, tmp_path):
    calls = []
    generate(recipe, tmp_path / "a.h5", shard_size=3, progress=lambda done, total, text="": calls.append((done, total)))
    done, totals = zip(*calls, strict=True)
    assert list(done) == sorted(done)
    assert set(totals) == {done[-1]}


KILLED = """
import os, pathlib, signal, sys
import torch
from ngbench.store import generate
from ngbench.zoo.recipe import ClassifierRecipe

torch.set_num_threads(1)
recipe, out, call = ClassifierRecipe.model_validate_json(sys.argv[1]), sys.argv[2], int(sys.argv[3])
fsync = os.fsync

def killing(descriptor):
    global call
    call -= 1
    if call == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(descriptor)

os.fsync = killing
generate(recipe, out, shard_size=3)
"""


@pytest.mark.slow
@pytest.mark.parametrize("write", [2, 4], ids=["a part", "the zoo"])
def test_killed_while_it_writes_it_ends_with_the_same_file(recipe, whole, tmp_path, write):
    path = tmp_path / "a.h5"
    finished = subprocess.run([sys.executable, "-c", KILLED, recipe.model_dump_json(), str(path), str(write)])
    assert finished.returncode == -9
    assert not path.exists()
    assert len(list(tmp_path.glob("a.h5.parts/shard-*.npz"))) == write - 1
    assert generate(recipe, path, shard_size=3).sha256 == whole.sha256


def test_a_file_that_stands_is_opened_and_its_parts_are_removed(recipe, whole, tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(whole.path.read_bytes())
    (tmp_path / "a.h5.parts").mkdir()
    assert generate(recipe, path, shard_size=3).sha256 == whole.sha256
    assert os.listdir(tmp_path) == ["a.h5"]


def test_a_file_of_another_recipe_is_not_overwritten(recipe, whole, tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(whole.path.read_bytes())
    match = r"a\.h5' already holds zoo 'moment' version 2 of another recipe; expected recipe 'moment' version 3 with 7 runs"
    with pytest.raises(RecipeError, match=match):
        generate(recipe.model_copy(update={"version": "3"}), path)
    assert Zoo(path).sha256 == whole.sha256


def test_a_limit_trains_the_first_runs_only(recipe, whole, tmp_path):
    zoo = generate(recipe, tmp_path / "a.h5", limit=2)
    assert zoo.ids.tolist() == whole.ids[:2].tolist()
    assert (zoo.values(slice(None)) == whole.values([0, 1])).all()
    assert zoo.info.recipe["num_runs"] == 2


def test_a_limit_above_all_runs_trains_all(recipe, whole, tmp_path):
    assert generate(recipe, tmp_path / "a.h5", limit=1000).sha256 == whole.sha256


@pytest.mark.parametrize("name", ["limit", "shard_size"])
def test_numbers_below_one_are_refused(recipe, tmp_path, name):
    with pytest.raises(RecipeError, match=f"{name} is 0; expected at least 1"):
        generate(recipe, tmp_path / "a.h5", **{name: 0})


def test_a_recipe_whose_runs_all_diverge_gives_no_file(recipe, tmp_path):
    rate = recipe.hyperparameters["learning_rate"].model_copy(update={"values": (1e6, 1e6)})
    activation = recipe.hyperparameters["activation"].model_copy(update={"values": ("relu", "relu")})
    wild = recipe.model_copy(
        update={"num_runs": 2, "hyperparameters": {**recipe.hyperparameters, "learning_rate": rate, "activation": activation}}
    )
    with pytest.raises(TrainingError, match="all 2 runs of recipe 'moment' diverged, moment-00000 because its weights"):
        generate(wild, tmp_path / "a.h5")
    assert not (tmp_path / "a.h5").exists()


@pytest.fixture(scope="module")
def whole_mixed(mixed_recipe, tmp_path_factory):
    """The zoo of several families of a generation that nothing interrupted."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    zoo = generate(mixed_recipe, tmp_path_factory.mktemp("whole") / "a.h5")
    torch.set_num_threads(num_threads)
    return zoo


def test_a_zoo_of_several_families_holds_what_was_trained_one_architecture_after_the_other(mixed_recipe, whole_mixed):
    order = [index for first in range(5) for index in range(first, 12, 5)]
    assert whole_mixed.metadata["run_index"].tolist() == order
    assert whole_mixed.columns == {
        c.name: replace(whole_mixed.columns[c.name]) for c in mixed_recipe.columns if c.name != "run_id"
    }
    row = 0
    for first in range(5):
        trained = train(mixed_recipe, range(first, 12, 5))
        for place in range(len(trained)):
            state_dict = restore(whole_mixed[row])
            assert set(state_dict) == set(trained.parameters)
            assert all(np.array_equal(state_dict[path].numpy(), values[place]) for path, values in trained.parameters.items())
            assert all(whole_mixed.metadata[name][row] == trained.metadata[name][place] for name in whole_mixed.columns)
            row += 1
    assert row == len(whole_mixed) == 12


def test_a_zoo_of_several_families_has_their_running_statistics(whole_mixed):
    by_family = dict(zip(whole_mixed.metadata["family"].tolist(), whole_mixed, strict=True))
    assert "block0.norm2.running_var" in restore(by_family["resnet"])
    assert (restore(by_family["resnet"])["block0.norm2.running_var"] > 0).all()
    assert "norm1.running_mean" in restore(by_family["mlp"])
    assert not any("running" in path for path in restore(by_family["transformer"]))


@pytest.mark.slow
def test_a_zoo_of_several_families_depends_on_neither_parts_nor_workers(mixed_recipe, whole_mixed, tmp_path):
    assert generate(mixed_recipe, tmp_path / "b.h5", shard_size=1).sha256 == whole_mixed.sha256
    assert generate(mixed_recipe, tmp_path / "c.h5", num_workers=2).sha256 == whole_mixed.sha256


def test_a_zoo_of_several_families_goes_on_where_it_was_interrupted(mixed_recipe, whole_mixed, tmp_path):
    for call in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            generate(mixed_recipe, tmp_path / "a.h5", progress=StopAt(call))
    assert generate(mixed_recipe, tmp_path / "a.h5").sha256 == whole_mixed.sha256


def test_a_limit_below_the_number_of_architectures_takes_the_first(mixed_recipe, tmp_path):
    zoo = generate(mixed_recipe, tmp_path / "a.h5", limit=3)
    assert zoo.metadata["family"].tolist() == ["mlp", "resnet", "transformer"]


def test_fits_of_one_image_stand_in_one_part(inr_zoo):
    parts, images = inr_zoo.parts(), inr_zoo.metadata["image_index"]
    assert inr_zoo.split_by == "image_index"
    assert len(set(zip(images.tolist(), parts.tolist(), strict=True))) == len(set(images.tolist())) == 11
    assert len(set(parts.tolist())) > 1


def test_a_zoo_of_representations_holds_the_images_that_its_networks_render(inr_recipe, inr_zoo):
    fitted = fit(inr_recipe, range(33))
    assert inr_zoo.functional_names == ("digits",)
    assert np.array_equal(inr_zoo.functional("digits"), fitted.functional["digits"])
    assert {group.activation for group in inr_zoo[0].topology.groups} == {"none", "sine(20)"}


def test_an_interrupted_generation_of_representations_ends_with_the_same_file(inr_recipe, inr_zoo, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        generate(inr_recipe, tmp_path / "b.h5", shard_size=8, progress=StopAt(7))
    assert len(os.listdir(tmp_path / "b.h5.parts")) in range(1, 5)
    assert generate(inr_recipe, tmp_path / "b.h5", shard_size=8).sha256 == inr_zoo.sha256
