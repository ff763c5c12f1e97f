from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ngbench.errors import GraphError, SplitError, UnknownNameError
from ngbench.graph import Program, restore, trace
from ngbench.loading import GraphDataset, KnownPrograms, ZooPrograms
from ngbench.store import generate, open_zoo
from ngbench.testing import ALL_FAMILIES, ONE_STRUCTURE, SEVERAL_STRUCTURES, fake_dataset, fake_graphs
from ngbench.zoo.architectures import build
from ngbench.zoo.images import load_images
from ngbench.zoo.recipe import load_recipe, parse_recipe
from ngbench.zoo.run import Run

NUM_PROBES = 3


@pytest.fixture(scope="module")
def park():
    """The shipped zoo of four families."""
    return open_zoo("digits-park")


@pytest.fixture(scope="module")
def rows(park):
    """Three networks of one small architecture of each family."""
    of_run = park.metadata["run_index"] % 64
    return np.sort(np.concatenate([np.flatnonzero(of_run == index)[:3] for index in (1, 19, 32, 48)]))


def probes_of(shape, num=NUM_PROBES):
    return torch.randn(num, *shape, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_outputs_of_a_zoo_s_networks_are_those_of_the_modules_that_its_recipe_builds(park, rows):
    dataset, probes = GraphDataset.from_zoo(park, rows), probes_of((1, 8, 8))
    seen, recipe = 0, parse_recipe(park.info.recipe, source="park")
    for bundle in dataset.bundles:
        assert bundle.input_shapes == ((1, 8, 8),)
        activations = bundle.activations(probes)
        assert activations.shape == (bundle.topology.num_nodes, len(bundle), NUM_PROBES)
        for column, row in enumerate(rows[bundle.index]):
            run = Run.of(recipe, int(park.metadata["run_index"][row]))
            module = build(run.architecture, run.hyperparameters["activation"]).eval()
            module.load_state_dict(restore(park[row]), strict=False)
            expected = module(probes).T
            torch.testing.assert_close(activations[-run.architecture.num_classes :, column], expected, rtol=1e-4, atol=1e-5)
            seen += 1
    assert seen == 12
    assert any(len(bundle.variant.unique()) > 1 for bundle in dataset.bundles)


@torch.no_grad()
def test_a_batch_and_a_scrambled_set_keep_their_programs(park, rows):
    dataset, probes = GraphDataset.from_zoo(park, rows), probes_of((1, 8, 8))
    whole = {int(i): b.activations(probes)[:, k] for b in dataset.bundles for k, i in enumerate(b.index)}
    positions = np.array([7, 0, 3])
    for bundle in dataset.batch(positions).bundles:
        activations = bundle.activations(probes)
        for column, place in enumerate(bundle.index.tolist()):
            torch.testing.assert_close(activations[:, column], whole[int(positions[place])])
    for bundle in dataset.scrambled(salt="some").bundles:
        activations = bundle.activations(probes).sort(0).values
        expected = torch.stack([whole[int(i)] for i in bundle.index], 1).sort(0).values
        torch.testing.assert_close(activations, expected, rtol=1e-4, atol=1e-5)


def test_programs_of_a_zoo_are_shared_by_structures_that_differ_in_activations(park, rows):
    programs, topologies = ZooPrograms(park), {graph.topology for graph in park[rows]}
    built = {topology.structure: programs(topology) for topology in topologies}
    for topology in topologies:
        program = programs(topology)
        assert program.topology == topology
        assert program is programs(topology)
        assert program._taps.keys() == built[topology.structure]._taps.keys()
    assert len(built) < len(topologies)


def test_a_dataset_with_programs_travels_between_processes(park, rows):
    dataset, probes = GraphDataset.from_zoo(park, rows[:4]), probes_of((1, 8, 8))
    again = pickle.loads(pickle.dumps(dataset))
    for before, after in zip(dataset.bundles, again.bundles, strict=True):
        assert torch.equal(before.activations(probes), after.activations(probes))


def test_inputs_of_a_zoo_of_classifiers_come_from_all_its_corpora_and_from_training_alone(park, rows):
    spec = parse_recipe(park.info.recipe, source="park").images
    images = ZooPrograms(park).inputs(7, seed=1)
    assert (images.shape, images.dtype) == ((7, 1, 8, 8), torch.float32)
    for place, image in enumerate(images):
        corpus = spec.corpora[place % 5]
        train = torch.from_numpy(load_images(spec, corpus).train_images)
        assert (train == image).flatten(1).all(1).any()
    assert torch.equal(images, ZooPrograms(park).inputs(7, seed=1))
    assert not torch.equal(images, ZooPrograms(park).inputs(7, seed=2))


def test_a_topology_that_a_zoo_lacks_is_refused(park):
    digest = ONE_STRUCTURE[0].digest[:12]
    with pytest.raises(GraphError, match=f"zoo 'digits-park' has no networks of topology {digest}; expected one of its own"):
        ZooPrograms(park)(ONE_STRUCTURE[0])


def test_a_zoo_without_a_recipe_is_refused_when_it_is_probed():
    programs = ZooPrograms(SimpleNamespace(name="imported", info=SimpleNamespace(recipe=None), metadata={}))
    with pytest.raises(GraphError, match="zoo 'imported' holds no recipe, so its networks cannot be run on probes"):
        programs(ONE_STRUCTURE[0])


def test_traced_networks_are_probed_with_the_programs_given_for_them():
    modules = [nn.Sequential(nn.Linear(3, 7), act, nn.Linear(7, 5)) for act in (nn.ReLU(), nn.Tanh(), nn.ReLU())]
    programs = KnownPrograms([Program.of(modules[0], torch.zeros(1, 3))])
    dataset = GraphDataset.from_graphs([trace(module, torch.zeros(1, 3)) for module in modules], programs=programs)
    probes = probes_of((3,))
    activations = dataset.bundles[0].activations(probes)
    for column, module in enumerate(modules):
        torch.testing.assert_close(activations[-5:, column], module(probes).T)
    other = trace(nn.Linear(3, 4), torch.zeros(1, 3)).topology
    with pytest.raises(
        GraphError, match=f"no program of the 1 given runs networks of topology {other.digest[:12]} with 16 values"
    ):
        programs(other)


def test_networks_of_which_only_values_are_known_are_refused():
    bundle = GraphDataset.from_graphs(fake_graphs(ONE_STRUCTURE, num_graphs=5)).bundles[0]
    with pytest.raises(GraphError, match=f"5 networks with {bundle.topology.num_values} values each cannot be run on inputs"):
        bundle.activations(probes_of((1, 5, 4)))


def test_fakes_that_are_chains_of_layers_have_programs():
    for bundle in fake_dataset(SEVERAL_STRUCTURES, num_graphs=9).bundles:
        activations = bundle.activations(probes_of(bundle.input_shapes[0]))
        assert activations.shape == (bundle.topology.num_nodes, len(bundle), NUM_PROBES)
        assert activations.isfinite().all()
    with pytest.raises(GraphError, match="no module is known of fake networks with groups input, stem, conv0, norm"):
        fake_dataset(ALL_FAMILIES[-2:], num_graphs=2).bundles[0].input_shapes  # noqa: B018 - the property raises


@pytest.fixture(scope="module")
def inrs(inr_recipe, tmp_path_factory):
    """Representations of eleven images."""
    return generate(inr_recipe, tmp_path_factory.mktemp("inr") / "glance.h5")


def test_representations_run_on_the_places_of_pixels_and_give_their_images(inrs):
    places, values = ZooPrograms(inrs).labelled("test")
    assert (places.shape, values.shape) == ((64, 2), (1797, 64, 1))
    (bundle,) = GraphDataset.from_zoo(inrs, np.arange(len(inrs))).bundles
    outputs = bundle.activations(places)[-1]
    np.testing.assert_allclose(outputs, inrs.functional("digits"), atol=1e-3)
    errors = (outputs - values[inrs.metadata["image_index"], :, 0]).square().mean(1)
    np.testing.assert_allclose(errors, inrs.metadata["loss"], rtol=1e-4)


def test_inputs_of_representations_are_places_of_pixels(inrs):
    programs = ZooPrograms(inrs)
    inputs, places = programs.inputs(9, seed=2), programs.labelled("train")[0]
    assert len({tuple(place) for place in inputs.tolist()}) == 9
    assert all((places == place).all(1).any() for place in inputs)
    some, values = programs.labelled("train", 5, seed=3)
    rows = [int((places == place).all(1).nonzero().item()) for place in some]
    assert torch.equal(values, programs.labelled("val")[1][:, rows])


@pytest.mark.parametrize(("part", "size"), [("train", 1000), ("val", 297), ("test", 500)])
def test_labelled_inputs_of_classifiers_are_a_part_of_a_corpus(park, part, size):
    programs, spec = ZooPrograms(park), load_recipe("digits-park").images
    images, labels = programs.labelled(part, corpus="digits-parity")
    splits = load_images(spec, "digits-parity")
    assert len(images) == len(labels) == size
    assert np.array_equal(images, getattr(splits, f"{part}_images"))
    assert np.array_equal(labels, getattr(splits, f"{part}_labels"))
    some, classes = programs.labelled(part, 30, seed=1, corpus="digits-parity")
    rows = [int((images == image).flatten(1).all(1).nonzero()[0]) for image in some]
    assert torch.equal(labels[rows], classes)
    assert len(set(rows)) == 30


def test_labelled_inputs_that_a_zoo_lacks_are_refused(park):
    with pytest.raises(UnknownNameError, match="unknown corpus of zoo 'digits-park' 'digit': did you mean 'digits'"):
        ZooPrograms(park).labelled("train", corpus="digit")
    with pytest.raises(SplitError, match="corpora have no part 'exam' here; expected one of train, val, test"):
        ZooPrograms(park).labelled("exam")
