"""deepset is invariant in every family, its nodes move with the neurons, and it is bound to one architecture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from baselines.deepset import DeepSet
from ngbench.errors import ConfigError, GraphError, MethodError
from ngbench.graph import symmetry
from ngbench.loading import GraphDataset
from ngbench.methods import Budget, RunContext
from ngbench.metrics import KENDALL_TAU
from ngbench.testing import (
    ALL_FAMILIES,
    ONE_STRUCTURE,
    PROBLEM,
    SEVERAL_STRUCTURES,
    check_method,
    fake_dataset,
    fake_graphs,
    residual_topology,
)

CONTEXT = RunContext(seed=5, budget=Budget(max_epochs=12, num_candidates=1))
SMALL = DeepSet.Config(channels=6, num_layers=2, head_width=16, epochs=12, learning_rate=1e-2)


@pytest.fixture(scope="module")
def fitted():
    method = DeepSet(SMALL)
    method.fit(PROBLEM, fake_dataset(num_graphs=160, seed=1), fake_dataset(num_graphs=40, seed=2), CONTEXT)
    return method


def untrained(networks, **options):
    method = DeepSet(replace(SMALL, **options))
    torch.manual_seed(0)
    method._module, method._problem = method.build(networks, num_outputs=1), PROBLEM
    return method


def test_it_keeps_the_rules_of_methods():
    check_method(lambda: DeepSet(SMALL))


def test_it_learns_what_the_scale_of_the_weights_tells(fitted):
    test = fake_dataset(num_graphs=80, seed=3)
    assert KENDALL_TAU(fitted.predict(test.without_targets()), test.targets) > 0.5


@pytest.mark.parametrize("options", [{}, {"residual": False, "norm": False, "pooling": "mean"}], ids=["default", "paper"])
@pytest.mark.parametrize("topology", ALL_FAMILIES, ids=lambda topology: topology.blocks[-1].name + str(len(topology.blocks)))
def test_predictions_and_embeddings_are_invariant_in_every_family(topology, options):
    networks = fake_dataset([topology], num_graphs=7)
    method, scrambled = untrained(networks, **options), networks.scrambled(salt="any")
    assert np.ptp(method.predict(networks)) > 1e-4
    np.testing.assert_allclose(method.predict(scrambled), method.predict(networks), rtol=0, atol=1e-12)
    np.testing.assert_allclose(method.embed(scrambled), method.embed(networks), rtol=0, atol=1e-11)


@pytest.mark.parametrize("topology", ALL_FAMILIES, ids=lambda topology: topology.blocks[-1].name + str(len(topology.blocks)))
def test_nodes_permute_as_the_neurons_do(topology):
    graphs = fake_graphs([topology], num_graphs=4)
    method = untrained(GraphDataset.from_graphs(graphs))
    element = symmetry.group(topology).sample(3)
    before = method.embed_nodes(GraphDataset.from_graphs(graphs))
    after = method.embed_nodes(GraphDataset.from_graphs([element.act(graph) for graph in graphs]))
    places = torch.cat(
        [element.permutations.get(g.name, torch.arange(g.size)) + topology.node_ptr[g.name] for g in topology.groups]
    )
    assert not torch.equal(places, torch.arange(topology.num_nodes))
    for one, other in zip(before, after, strict=True):
        assert one.shape == (topology.num_nodes, SMALL.channels)
        np.testing.assert_allclose(other, one[places.numpy()], rtol=0, atol=1e-12)


def test_nodes_of_one_group_differ():
    networks = fake_dataset([residual_topology()], num_graphs=3)
    nodes = untrained(networks).embed_nodes(networks)[0]
    for group in residual_topology().groups[1:-1]:
        start = residual_topology().node_ptr[group.name]
        assert np.ptp(nodes[start : start + group.size], axis=0).max() > 1e-3


def test_it_refuses_several_structures_and_one_that_it_was_not_fitted_on(fitted):
    with pytest.raises(GraphError, match="deepset reads networks of one architecture; got 3"):
        DeepSet(SMALL).fit(PROBLEM, fake_dataset(SEVERAL_STRUCTURES), fake_dataset(SEVERAL_STRUCTURES), CONTEXT)
    for other in (fake_dataset(SEVERAL_STRUCTURES[2:3]), fake_dataset(SEVERAL_STRUCTURES)):
        for read in (fitted.predict, fitted.embed, fitted.embed_nodes):
            with pytest.raises(GraphError, match="deepset was asked for another architecture than it was fitted on"):
                read(other)


def test_it_must_be_fitted_first():
    with pytest.raises(MethodError, match="deepset has not been fitted"):
        DeepSet().predict(fake_dataset())


def test_options_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="pooling is 'sum'; expected 'mean' or 'mean_max'"):
        DeepSet.Config(pooling="sum")
    with pytest.raises(ConfigError, match="num_layers is 0"):
        DeepSet.Config(num_layers=0)
    with pytest.raises(ConfigError, match=r"weight_noise is -0\.5; expected a number from 0 upward"):
        DeepSet.Config(weight_noise=-0.5)


def test_the_activation_is_read_whatever_the_order_of_the_topologies(fitted):
    test = fake_dataset(num_graphs=37, seed=3)
    (bundle,) = test.bundles
    other = replace(bundle, variant=1 - bundle.variant)
    reordered = replace(bundle, variants=bundle.variants[::-1], variant=1 - bundle.variant)
    of_other, of_reordered = (fitted.predict(replace(test, bundles=(changed,))) for changed in (other, reordered))
    assert np.abs(of_other - fitted.predict(test)).min() > 0
    np.testing.assert_array_equal(of_reordered, fitted.predict(test))


def test_an_activation_that_training_lacked_has_no_embedding():
    networks = fake_dataset(ONE_STRUCTURE[:1], num_graphs=5)
    method, unknown = untrained(networks), fake_dataset(ONE_STRUCTURE[1:], num_graphs=5)
    known_before, unknown_before = method.predict(networks), method.predict(unknown)
    with torch.no_grad():
        method.module.activation[method.module.activations.index("relu")] += 1.0
    np.testing.assert_array_equal(method.predict(unknown), unknown_before)
    assert np.abs(method.predict(networks) - known_before).min() > 0


def test_noise_falls_on_the_weights_in_training_only():
    networks = fake_dataset(num_graphs=9)
    module = untrained(networks, dropout=0.0).module
    batch = networks.batch()
    assert not torch.equal(module.train()(batch), module(batch))
    assert torch.equal(module.eval()(batch), module(batch))


def test_parameters_are_counted_by_the_pairs_of_fields_that_each_index_joins():
    networks = fake_dataset(num_graphs=9)
    channels, method = SMALL.channels, untrained(networks)
    # fields: biases [conv0], [conv1], []; weights [conv0], [conv1, conv0], [conv1] with 6, 6 and 5 numbers at an entry
    lift = sum((numbers + 1) * channels for numbers in (1, 1, 5, 6, 6, 5))
    layer = (6 * 6 + 3 * 3 + 3 * 3 + 1) * channels**2 + 6 * channels
    norm, activations = 2 * channels, 3 * channels
    head = (6 * 2 * channels + 1) * 16 + 17 * 16 + 17
    assert method.num_parameters == lift + 2 * (layer + norm) + activations + head
