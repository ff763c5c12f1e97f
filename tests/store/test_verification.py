from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ngbench.evaluation.functional import measured_outputs
from ngbench.graph import symmetry
from ngbench.loading import ZooPrograms
from ngbench.registry import Registry
from ngbench.store import ReleasedZoo, Zoo, generate, held_out_path, released, verify
from ngbench.store.splits import PARTS, assign

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def generated(recipe, tmp_path_factory):
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    path = generate(recipe, tmp_path_factory.mktemp("generated") / "a.h5").path
    torch.set_num_threads(num_threads)
    return path.read_bytes()


@pytest.fixture
def path(generated, tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(generated)
    return path


def failed(zoo):
    return {check.name: check.detail for check in verify(zoo) if not check.passed}


def test_a_generated_zoo_passes_every_check(path):
    checks = verify(Zoo(path))
    assert all(check.passed for check in checks)
    assert [check.name for check in checks] == [
        "checksum",
        "finite values",
        "unique ids",
        "split default: by run",
        "split default: by orbit",
        "split default: by rule",
        "recorded columns",
        "recorded accuracy",
    ]
    num_values = 5 * (2 * 9 + 2 + 3 * 2 * 9 + 3 + 10 * 3 + 10)
    assert checks[1].detail == f"{num_values} values of 5 networks"
    assert checks[-1].detail == "5 networks evaluated on 30 test images"


def test_a_zoo_that_was_not_generated_has_no_accuracy_to_check(tiny_zoo):
    assert not failed(tiny_zoo)
    assert "recorded accuracy" not in {check.name for check in verify(tiny_zoo)}


def test_damage_in_a_file_that_is_not_hashed_when_opened_is_found(path, monkeypatch):
    zoo = Zoo(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    (check,) = verify(zoo)
    assert (check.name, check.passed) == ("checksum", False)
    assert f"expected {zoo.sha256}" in check.detail


def test_a_released_file_is_held_against_its_registered_sum(path, monkeypatch):
    registry = Registry("zoo")
    monkeypatch.setattr("ngbench.store.verification.RELEASED", registry)
    monkeypatch.setattr(released, "resources", SimpleNamespace(files=lambda package: path.parent.parent))
    zoo = Zoo(path)
    assert verify(zoo)[0].detail == f"sha256 {zoo.sha256}, not a released file"
    registry.register("moment", ReleasedZoo("moment", "2", path.name, zoo.sha256, path.stat().st_size))
    assert verify(zoo)[0].detail.endswith("as released under the name moment version 2")


def test_a_file_in_the_place_of_a_released_one_must_be_it(path, monkeypatch):
    (path.parent / "embedded").mkdir()
    path = path.rename(path.parent / "embedded" / "a.h5")
    registry = Registry("zoo")
    monkeypatch.setattr("ngbench.store.verification.RELEASED", registry)
    monkeypatch.setattr(released, "resources", SimpleNamespace(files=lambda package: path.parent.parent))
    registry.register("moment", ReleasedZoo("moment", "2", "a.h5", "00", 1))
    assert failed(Zoo(path)) == {"checksum": f"sha256 {Zoo(path).sha256}; expected 00, as released under the name moment"}


def edit_values(row, change):
    def edit(file):
        start, stop = file["models/value_ptr"][row : row + 2]
        file["values"][start:stop] = change(file["values"][start:stop])

    return edit


def test_values_that_are_not_finite_are_found(path, seal_again):
    zoo = Zoo(seal_again(path, edit_values(2, lambda values: np.where(np.arange(len(values)) == 4, np.nan, values))))
    assert failed(zoo)["finite values"] == f"network {str(zoo.ids[2])!r} has values that are not finite; 1 networks have such"


def test_an_id_that_stands_twice_is_found(path, seal_again):
    def edit(file):
        file["models/id"][1] = file["models/id"][0]

    assert failed(Zoo(seal_again(path, edit))) == {"unique ids": "network id 'moment-00000' stands 2 times"}


def test_a_network_in_no_part_is_found(path, seal_again):
    def edit(file):
        file["splits/default"][3] = 3

    assert failed(Zoo(seal_again(path, edit)))["split default: by run"] == "1 networks stand in none of train, val, test"


def test_a_network_outside_its_part_is_found(path, seal_again):
    before = Zoo(path)
    got, want = ("val", "train") if before.parts()[1] == 0 else ("train", str(PARTS[before.parts()[1]]))

    def edit(file):
        file["splits/default"][1] = PARTS.index(got)

    found = failed(Zoo(seal_again(path, edit)))
    message = f"network 'moment-00001' stands in {got}; expected {want}; 1 networks stand wrong"
    assert found == {"split default: by rule": message}


@pytest.mark.parametrize(("column", "value"), [("learning_rate", 0.11), ("epochs", 8), ("optimizer", "ada"), ("seed", 5)])
def test_a_recorded_hyperparameter_that_the_recipe_did_not_give_is_found(path, seal_again, column, value):
    expected = Zoo(path).metadata[column][2].item()

    def edit(file):
        file[f"metadata/{column}"][2] = value

    message = f"network {str(Zoo(path).ids[2])!r} has {column} {value!r}; expected {expected!r} by its recipe"
    assert failed(Zoo(seal_again(path, edit))) == {"recorded columns": message}


def test_a_run_torn_between_two_parts_is_found(tiny_path, seal_again):
    before = Zoo(tiny_path)
    row = 2 * int(np.flatnonzero(assign("tiny", before.run_ids[::2]) == 0)[0])

    def edit(file):
        file["splits/default"][row + 1] = 2

    zoo = Zoo(seal_again(tiny_path, edit))
    a, b = map(str, zoo.ids[[row, row + 1]])
    assert failed(zoo) == {
        "split default: by run": f"network {b!r} of test and network {a!r} of train belong together; 1 networks are torn so"
    }


def torn_pair(run_ids):
    """Two rows, of the first eleven, in different parts."""
    parts = assign("tiny", run_ids)[:11]
    return 0, int(np.flatnonzero(parts != parts[0])[0])


@pytest.mark.parametrize("transform", ["equal", "permuted", "sign"])
def test_an_orbit_torn_between_two_parts_is_found(tiny, tmp_path, transform):
    # Enough runs that some fall into another part than the first.
    tiny.run_ids = [f"run-{index}" for index in range(17)]
    first, mate = torn_pair(tiny.run_ids)
    tiny.topologies[mate] = tiny.topologies[first]
    zoo = Zoo(tiny.write(tmp_path / "before.h5"))
    assert not failed(zoo)
    graph = zoo[first]
    if transform == "permuted":
        graph = symmetry.group(graph.topology).sample(4).act(graph)
        assert not graph.equal(zoo[first])
    sign = -1 if transform == "sign" else 1
    tiny.mlp_rows[mate] = sign * graph.row().numpy()
    found = failed(Zoo(tiny.write(tmp_path / "after.h5")))
    assert list(found) == ["split default: by orbit"]
    assert f"{tiny.ids[mate]!r} of" in found["split default: by orbit"]
    assert f"{tiny.ids[first]!r} of" in found["split default: by orbit"]


def test_a_network_that_does_not_do_what_is_recorded_is_found(path, seal_again):
    before = Zoo(path).metadata["test_accuracy"][1]

    def edit(file):
        file["metadata/test_accuracy"][1] += 1 / 30

    found = failed(Zoo(seal_again(path, edit)))
    assert found == {
        "recorded accuracy": f"network 'moment-00001' has test accuracy {before:.4f}; recorded is {before + 1 / 30:.4f}"
    }


def test_swapped_networks_are_found_by_their_accuracy(path, seal_again):
    zoo = Zoo(path)
    activations, accuracies = zoo.metadata["activation"], zoo.metadata["test_accuracy"]
    pairs = [(i, j) for i in range(5) for j in range(i) if activations[i] == activations[j] and accuracies[i] != accuracies[j]]
    a, b = pairs[0]
    values = zoo.values([a, b])

    def edit(file):
        edit_values(a, lambda _: values[1])(file)
        edit_values(b, lambda _: values[0])(file)

    assert "recorded accuracy" in failed(Zoo(seal_again(path, edit)))


def test_a_recipe_that_cannot_be_read_is_told(path, seal_again):
    def edit(file):
        file.attrs["recipe"] = '{"name": "moment"}'

    assert "cannot be read: key 'version': Field required" in failed(Zoo(seal_again(path, edit)))["recorded accuracy"]


def test_a_recipe_of_another_architecture_is_told(path, seal_again):
    def edit(file):
        file.attrs["recipe"] = file.attrs["recipe"].replace('"channels": [2, 3]', '"channels": [2, 5]')

    found = failed(Zoo(seal_again(path, edit)))["recorded accuracy"]
    assert "network 'moment-00000' has parameters" in found
    assert "'conv1.weight': (3, 2, 3, 3)" in found
    assert "'conv1.weight': (5, 2, 3, 3)" in found


@pytest.fixture(scope="module")
def mixed(mixed_recipe, tmp_path_factory):
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    path = generate(mixed_recipe, tmp_path_factory.mktemp("mixed") / "a.h5").path
    torch.set_num_threads(num_threads)
    return path.read_bytes()


@pytest.fixture
def mixed_path(mixed, tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(mixed)
    return path


def test_a_zoo_of_several_families_passes_every_check(mixed_path):
    checks = {check.name: check for check in verify(Zoo(mixed_path))}
    assert all(check.passed for check in checks.values())
    for split in ("default", "narrow-to-wide", "family-held-out"):
        assert {f"split {split}: by {way}" for way in ("run", "orbit", "rule")} <= set(checks)
    assert "test 2, none" in checks["split family-held-out: by run"].detail
    assert checks["recorded columns"].detail == "22 columns of 12 networks are what the recipe says"
    assert checks["recorded accuracy"].detail == "12 networks evaluated on 30 test images"


def test_a_network_that_is_fitted_on_though_it_is_held_out_is_found(mixed_path, seal_again):
    row = int(np.flatnonzero(Zoo(mixed_path).metadata["family"] == "transformer")[0])

    def edit(file):
        file["splits/family-held-out"][row] = 0

    found = failed(Zoo(seal_again(mixed_path, edit)))
    message = f"network {str(Zoo(mixed_path).ids[row])!r} stands in train; expected test; 1 networks stand wrong"
    assert found == {"split family-held-out: by rule": message}


def test_a_split_that_the_recipe_does_not_have_is_found(mixed_path, seal_again):
    def edit(file):
        file.move("splits/family-held-out", "splits/other")

    found = failed(Zoo(seal_again(mixed_path, edit)))
    assert found == {
        "split other: by rule": "the recipe has no split of this name; expected one of default, narrow-to-wide, family-held-out"
    }


def test_running_statistics_are_part_of_what_is_evaluated(mixed_path, seal_again):
    zoo = Zoo(mixed_path)
    rows = np.flatnonzero(zoo.metadata["family"] == "resnet").tolist()
    slots = [slot for slot in zoo[rows[0]].topology.slots if slot.parameter.path.endswith("running_mean")]

    def edit(file):
        for row in rows:
            start = int(file["models/value_ptr"][row])
            for slot in slots:
                file["values"][start + slot.start : start + slot.stop] = 3.0

    assert "has test accuracy" in failed(Zoo(seal_again(mixed_path, edit)))["recorded accuracy"]


def test_a_missing_column_is_told(path, seal_again):
    def edit(file):
        del file["metadata/test_accuracy"]

    assert "unknown metadata column of zoo 'moment' 'test_accuracy'" in failed(Zoo(seal_again(path, edit)))["recorded accuracy"]


def test_the_sample_is_as_large_as_asked_for_and_seeded(path):
    zoo = Zoo(path)
    assert verify(zoo, sample=2, seed=1)[-1].detail == "2 networks evaluated on 30 test images"


@pytest.fixture
def inr_path(inr_zoo, tmp_path):
    path = tmp_path / "glance.h5"
    path.write_bytes(inr_zoo.path.read_bytes())
    return path


def test_a_zoo_of_representations_passes_every_check(inr_path):
    checks = {check.name: check for check in verify(Zoo(inr_path))}
    assert all(check.passed for check in checks.values())
    assert "split default: by image_index" in checks
    assert checks["recorded error"].detail == "33 networks rendered at 64 points"


def test_an_image_that_stands_in_two_parts_is_found(inr_path, seal_again):
    def edit(file):
        file["splits/default"][4] = (file["splits/default"][4] + 1) % 3

    found = failed(Zoo(seal_again(inr_path, edit)))
    assert "network 'glance-00004' of " in found["split default: by image_index"]
    assert "belong together; 1 networks are torn so" in found["split default: by image_index"]


def test_a_split_by_another_column_than_the_recipe_s_is_found(inr_path, seal_again):
    def edit(file):
        file["splits/default"].attrs["by"] = "label"

    found = failed(Zoo(seal_again(inr_path, edit)))
    assert found["split default: by rule"] == "the split is by label; expected by image_index"


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("metadata/loss", lambda loss: loss * 1.3, "has a root mean squared error of .*; recorded is"),
        ("metadata/psnr", lambda psnr: psnr + 0.1, "has psnr .* dB; expected that of its loss"),
        (
            "functional/digits",
            lambda outputs: outputs + 0.01,
            r"renders values that are up to 0\.01\d* away from",
        ),
        ("metadata/label", lambda label: 9 - label, "has label .*; expected . by its recipe"),
    ],
)
def test_what_is_recorded_of_a_representation_but_not_so_is_found(inr_path, seal_again, name, change, fault):
    def edit(file):
        values = file[name][()]
        values[5] = change(values[5])
        file[name][()] = values

    (detail,) = failed(Zoo(seal_again(inr_path, edit))).values()
    assert re.match(f"network 'glance-00005' {fault}", detail)


@pytest.fixture
def measured(path, monkeypatch):
    """What all networks give for held-out images; the zoo is too small for a test part."""
    monkeypatch.setattr(Zoo, "split", lambda zoo, part: np.arange(len(zoo)))
    return measured_outputs(Zoo(path), num_inputs=8)


def test_outputs_beside_a_zoo_that_its_networks_do_not_give_are_found(path, measured):
    measured.write(held_out_path(path))
    assert not failed(Zoo(path))
    others = tuple(np.roll(own, 1, axis=0) for own in measured.outputs)
    dataclasses.replace(measured, outputs=others).write(held_out_path(path))
    found = failed(Zoo(path))
    assert [*found] == ["outputs on held-out inputs"]
    assert "gives other outputs than those in" in found["outputs on held-out inputs"]


def test_outputs_for_training_images_are_found(path, measured):
    seen = ZooPrograms(Zoo(path)).inputs(1, part="train").numpy()
    inputs = np.concatenate([seen, measured.inputs[1:]])
    dataclasses.replace(measured, inputs=inputs).write(held_out_path(path))
    told = {"outputs on held-out inputs": f"1 of {len(inputs)} inputs are training images; expected held-out ones"}
    assert failed(Zoo(path)) == told
