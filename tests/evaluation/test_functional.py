from __future__ import annotations

import numpy as np
import pytest
import torch

from ngbench.errors import GraphError, SplitError
from ngbench.evaluation import functional
from ngbench.evaluation.functional import comparable_outputs, functional_distance, measured_outputs, outputs
from ngbench.loading import GraphDataset, ZooPrograms
from ngbench.metrics.retrieval import relevance
from ngbench.store import generate, open_zoo
from ngbench.testing import SEVERAL_STRUCTURES, fake_dataset
from ngbench.zoo.images import load_images
from ngbench.zoo.recipe import load_recipe, parse_recipe


@pytest.fixture(scope="module")
def park():
    """Some test networks of the shipped zoo of many architectures: three of each of two corpora and of one with two classes."""
    zoo = open_zoo("digits-park")
    rows, corpora = zoo.split("test"), zoo.metadata["corpus"]
    cheap = rows[zoo.metadata["family"][rows] == "mlp"]
    return zoo, np.concatenate([cheap[corpora[cheap] == corpus][:3] for corpus in ("digits-parity", "digits", "digits-rotated")])


def test_outputs_give_the_accuracies_that_the_zoo_has_recorded(park):
    zoo, rows = park
    members = rows[zoo.metadata["corpus"][rows] == "digits-rotated"]
    images = ZooPrograms(zoo).labelled("test", corpus="digits-rotated")[0]
    labels = load_images(parse_recipe(zoo.info.recipe, source="the zoo").images, "digits-rotated").test_labels
    networks = GraphDataset.from_zoo(zoo, members)
    assert images.shape == (500, 1, 8, 8)
    for bundle in networks.bundles:
        found = outputs(bundle, images).argmax(dim=-1).numpy()
        recorded = zoo.metadata["test_accuracy"][members[bundle.index.numpy()]]
        np.testing.assert_allclose((found == labels).mean(axis=1), recorded, atol=1e-9)


def test_distance_is_the_root_mean_squared_difference_of_probabilities_for_images_that_no_network_was_trained_on(park):
    zoo, rows = park
    found = functional_distance(zoo, rows, num_inputs=256)
    images = ZooPrograms(zoo).inputs(256, part="test").unique(dim=0)
    assert 128 < len(images) < 256
    trained_on = {image.numpy().tobytes() for image in ZooPrograms(zoo).inputs(5000)}
    assert not trained_on & {image.numpy().tobytes() for image in images}
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, found.T)
    given = {}
    for bundle in GraphDataset.from_zoo(zoo, rows).bundles:
        given |= dict(zip(bundle.index.tolist(), outputs(bundle, images).softmax(-1).numpy(), strict=True))
    for i, own in given.items():
        for j, other in given.items():
            expected = np.sqrt(np.square(own - other).mean()) if own.shape == other.shape else np.inf
            assert found[i, j] == pytest.approx(expected, abs=1e-6)
    assert np.isinf(found[0, 4])
    assert 0.01 < found[3, 6] < 1


def test_fits_of_an_image_are_nearest_to_each_other_by_the_images_that_the_zoo_holds(tmp_path):
    zoo = generate(load_recipe("digits-inr"), tmp_path / "inr.h5", limit=18)
    rows = np.random.default_rng(3).permutation(18)
    found, images = functional_distance(zoo, rows, num_inputs=256), zoo.metadata["image_index"][rows]
    rendered = zoo.functional("digits")[rows].astype(np.float64)
    expected = np.sqrt(np.square(rendered[:, np.newaxis] - rendered).mean(axis=-1))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    grades = relevance(np.zeros(18), found, num_near=5)
    np.testing.assert_array_equal(grades >= 2, images[:, np.newaxis] == images)


def test_images_that_a_zoo_does_not_hold_are_rendered(tmp_path, monkeypatch):
    zoo = generate(load_recipe("digits-inr"), tmp_path / "inr.h5", limit=7)
    stored = functional_distance(zoo, np.arange(7), num_inputs=256)
    monkeypatch.setattr(zoo, "functional_names", ())
    np.testing.assert_allclose(functional_distance(zoo, np.arange(7), num_inputs=256), stored, atol=2e-3)


def test_each_place_of_an_image_counts_once(tmp_path, monkeypatch):
    zoo, seen = generate(load_recipe("digits-inr"), tmp_path / "inr.h5", limit=7), []
    monkeypatch.setattr(zoo, "functional_names", ())
    given = functional.outputs
    monkeypatch.setattr(functional, "outputs", lambda bundle, inputs: seen.append(inputs) or given(bundle, inputs))
    functional_distance(zoo, np.arange(7), num_inputs=256)
    assert [inputs.shape for inputs in seen] == [(64, 2)]


def test_all_outputs_that_a_zoo_holds_are_compared_of_networks_that_have_the_same_ones(tmp_path, monkeypatch):
    zoo = generate(load_recipe("digits-inr"), tmp_path / "inr.h5", limit=6)
    rng = np.random.default_rng(5)
    stored = {"here": rng.normal(size=(6, 4)).astype(np.float16), "there": rng.normal(size=(6, 3)).astype(np.float16)}
    stored["there"][4:] = np.nan
    monkeypatch.setattr(zoo, "functional_names", tuple(stored))
    monkeypatch.setattr(zoo, "functional", stored.__getitem__)
    found = functional_distance(zoo, np.arange(6), num_inputs=256)
    both = np.concatenate([stored["here"], stored["there"]], axis=1).astype(np.float64)
    assert found[0, 3] == pytest.approx(np.sqrt(np.square(both[0] - both[3]).mean()), rel=1e-6)
    assert found[4, 5] == pytest.approx(np.sqrt(np.square(both[4, :4] - both[5, :4]).mean()), rel=1e-6)
    assert np.isinf(found[0, 4])
    # one network without any, and all are run
    stored["here"][5] = np.nan
    assert np.isfinite(functional_distance(zoo, np.arange(6), num_inputs=256)).all()


def test_programs_without_the_test_part_tell_no_stored_output(tmp_path):
    zoo = generate(load_recipe("digits-inr"), tmp_path / "inr.h5", limit=3)
    with pytest.raises(SplitError, match="no part 'test' here; expected one of train, val"):
        ZooPrograms(zoo, ("train", "val")).stored_outputs(zoo.ids[:2])
    with pytest.raises(GraphError, match="has no network 'elsewhere'"):
        ZooPrograms(zoo).stored_outputs(["elsewhere"])


def test_the_outputs_beside_a_zoo_are_those_of_its_networks(park, monkeypatch):
    zoo, rows = park
    networks = GraphDataset.from_zoo(zoo, rows)
    held = comparable_outputs(networks, 256)
    ran = []
    monkeypatch.setattr(functional, "outputs", lambda *given: ran.append(given) or outputs(*given))
    comparable_outputs(networks, 256)
    assert not ran
    monkeypatch.setattr(zoo, "held_out", None)
    again = comparable_outputs(networks, 256)
    assert len(ran) == len(networks.bundles)
    for (own, given), (other, expected) in zip(held, sorted(again, key=lambda kind: kind[1].shape[1]), strict=True):
        np.testing.assert_array_equal(np.sort(own), np.sort(other))
        np.testing.assert_allclose(given[np.argsort(own)], expected[np.argsort(other)], atol=1e-5)
        assert np.abs(given - np.roll(expected, 1, axis=0)).max() > 0.01


def test_networks_of_which_no_outputs_are_held_are_run(park):
    zoo, rows = park
    other = zoo.split("train")[:1]
    assert np.isfinite(functional_distance(zoo, np.concatenate([rows[:1], other]), num_inputs=16)[1, 1])


def test_measured_outputs_are_those_that_ship():
    zoo = open_zoo("digits-park")
    few = zoo.split("test")[:6]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "split", lambda part: few)
        measured = measured_outputs(zoo, num_inputs=256)
    assert zoo.held_out is not None
    assert measured.zoo_sha256 == zoo.sha256
    np.testing.assert_array_equal(measured.inputs, zoo.held_out.inputs)
    np.testing.assert_array_equal(measured.rows, few)
    for own, held in zip(measured.outputs, zoo.held_out.outputs, strict=False):
        np.testing.assert_allclose(own, held, atol=1e-5)
        np.testing.assert_allclose(own.sum(axis=1), 1, atol=1e-5)


def test_a_network_with_its_hidden_units_permuted_gives_the_same(park, monkeypatch):
    zoo, rows = park
    monkeypatch.setattr(zoo, "held_out", None)
    networks = GraphDataset.from_zoo(zoo, rows)
    for (own, given), (other, again) in zip(
        comparable_outputs(networks, 256), comparable_outputs(networks.scrambled(salt="mates"), 256), strict=True
    ):
        np.testing.assert_array_equal(own, other)
        np.testing.assert_allclose(given, again, atol=1e-6)
        assert np.abs(given[0] - given[1]).max() > 0.01


def test_networks_of_a_zoo_without_recipe_are_refused(small_zoo_path):
    with pytest.raises(GraphError, match="holds no recipe"):
        functional_distance(open_zoo(small_zoo_path), np.arange(4), num_inputs=256)


def test_networks_of_no_zoo_are_refused():
    with pytest.raises(GraphError, match="6 networks are of no zoo that ngbench generated"):
        comparable_outputs(fake_dataset(SEVERAL_STRUCTURES, num_graphs=6), 256)


def test_more_networks_than_pass_at_once_stand_in_their_order():
    networks = fake_dataset(SEVERAL_STRUCTURES[:1], num_graphs=150)
    (bundle,) = networks.bundles
    inputs = torch.randn(3, *bundle.input_shapes[0], generator=torch.Generator().manual_seed(1))
    found = outputs(bundle, inputs)
    alone = torch.cat([outputs(bundle.rows(torch.tensor([row])), inputs) for row in (0, 70, 149)])
    torch.testing.assert_close(found[[0, 70, 149]], alone, atol=1e-5, rtol=1e-4)
