from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from baselines.matching import ActivationMatching, Naive
from ngbench.alignment import match
from ngbench.errors import ConfigError, MethodError
from ngbench.graph import Program, trace
from ngbench.loading import GraphDataset, KnownPrograms
from ngbench.methods import Budget, RunContext
from ngbench.testing import fake_dataset, mlp_topology
from ngbench.zoo.architectures import Cnn, Mlp, build, example_input

CONTEXT = RunContext(seed=3, budget=Budget(max_epochs=1, num_candidates=1))
IMAGE = (2, 5, 4)
ARCHITECTURES = (
    Mlp(family="mlp", input_shape=IMAGE, width=9, depth=2, norm="layer", num_classes=3),
    Cnn(family="cnn", input_shape=IMAGE, channels=(7, 6), kernel_size=3, strides=(1, 1), paddings=(1, 0), num_classes=3),
)


class ImagePrograms(KnownPrograms):
    """Programs that know random images."""

    def inputs(self, num_inputs, *, seed=0):
        return torch.rand(num_inputs, *IMAGE, generator=torch.Generator().manual_seed(seed))


def networks():
    torch.manual_seed(0)
    modules = [build(ARCHITECTURES[k % 2], "tanh").eval() for k in range(5)]
    programs = ImagePrograms(Program.of(build(a, "tanh"), example_input(a)) for a in ARCHITECTURES)
    graphs = [trace(module, torch.zeros(1, *IMAGE)) for module in modules]
    return GraphDataset.from_graphs(graphs, programs=programs), modules


def fitted(train, **settings):
    method = ActivationMatching(ActivationMatching.Config(**settings))
    method.fit(SimpleNamespace(kind="merging"), train, train, CONTEXT)
    return method


@torch.no_grad()
def test_an_embedding_is_what_nodes_give_for_the_images():
    dataset, modules = networks()
    method = fitted(dataset, num_images=8)
    embedded = method.embed_nodes(dataset)
    images = dataset.bundles[0].programs.inputs(8, seed=CONTEXT.seed)
    for module, nodes in zip(modules, embedded, strict=True):
        np.testing.assert_allclose(nodes[-3:], module(images).T, rtol=1e-4, atol=1e-5)
        assert nodes.shape[1] == 8
    assert [len(nodes) for nodes in embedded] == [2 + 4 * 9 + 3, 2 + 7 + 6 + 3] * 2 + [2 + 4 * 9 + 3]


def test_images_count_once_and_the_track_says_how_many_were_run():
    dataset, _ = networks()
    few = dataset.bundles[0].programs.inputs(3, seed=0)
    dataset.bundles[0].programs.inputs = lambda number, *, seed: few[torch.arange(number) % 3]
    method = fitted(dataset, num_images=8)
    np.testing.assert_array_equal(method.images, few)
    assert method.info.track == "probes-3"
    assert ActivationMatching.info.track == "probes-256"


def test_permuted_networks_are_matched_exactly():
    dataset, _ = networks()
    method, scrambled = fitted(dataset, num_images=40), dataset.scrambled(salt="a")
    topologies = [one.bundles[0].topology for one in each(dataset)]
    for topology, one, other in zip(topologies, method.embed_nodes(dataset), method.embed_nodes(scrambled), strict=True):
        found, starts = match(topology, one, other).permutations, topology.node_ptr
        whole = torch.cat([starts[g.name] + found.get(g.name, torch.arange(g.size)) for g in topology.groups])
        assert not np.allclose(other, one, atol=1e-5)
        np.testing.assert_allclose(other[whole], one, atol=1e-5)


def each(dataset):
    return [dataset.batch(np.array([place])) for place in range(len(dataset))]


def test_the_seed_decides_the_images():
    dataset, _ = networks()
    methods = [ActivationMatching(), ActivationMatching(), ActivationMatching()]
    for method, seed in zip(methods, (1, 1, 2), strict=True):
        method.fit(SimpleNamespace(kind="merging"), dataset, dataset, RunContext(seed=seed, budget=CONTEXT.budget))
    assert torch.equal(methods[0].images, methods[1].images)
    assert not torch.equal(methods[0].images, methods[2].images)


def test_naive_matching_is_the_identity_of_each_topology():
    dataset, _ = networks()
    found = Naive().match(dataset, dataset)
    for element, one in zip(found, each(dataset), strict=True):
        assert element.topology == one.bundles[0].topology
        assert not element.permutations


def test_networks_without_images_are_refused():
    dataset = fake_dataset((mlp_topology((4, 6, 3)),), num_graphs=3, seed=1)
    with pytest.raises(MethodError, match="activation-matching reads what nodes give for training images"):
        fitted(dataset)


def test_embedding_before_fitting_is_refused():
    with pytest.raises(MethodError, match="has drawn no images yet; expected fit before embed_nodes"):
        ActivationMatching().embed_nodes(networks()[0])


def test_no_images_are_refused():
    with pytest.raises(ConfigError, match="num_images of activation-matching is 0; expected 1 or more"):
        ActivationMatching(ActivationMatching.Config(num_images=0))
