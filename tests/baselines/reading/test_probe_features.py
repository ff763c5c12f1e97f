from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from baselines.reading.probes import ProbeFeatures
from ngbench.errors import ConfigError, GraphError, MethodError
from ngbench.graph import symmetry
from ngbench.graph.neural_graph import NeuralGraph
from ngbench.loading import GraphDataset
from ngbench.methods import MethodInfo
from ngbench.store import open_zoo
from ngbench.testing import SEVERAL_STRUCTURES, check_method, fake_dataset, mlp_topology

NUM_PROBES = 3
TRAIN = fake_dataset(SEVERAL_STRUCTURES, num_graphs=15)


@pytest.mark.parametrize("kind", ["learned", "random"])
def test_every_node_of_every_network_gets_a_finite_number_for_each_probe(kind):
    features = ProbeFeatures.fit(TRAIN, kind, NUM_PROBES)
    for bundle in TRAIN.bundles:
        found = features(bundle)
        assert found.shape == (bundle.topology.num_nodes, len(bundle), NUM_PROBES)
        assert found.isfinite().all()


def test_features_are_activations_by_the_usual_size_of_their_role():
    features = ProbeFeatures.fit(TRAIN, "random", NUM_PROBES)
    of_role: dict[str, list[torch.Tensor]] = {}
    for bundle in TRAIN.bundles:
        activations = bundle.activations(features.probes["x".join(map(str, bundle.input_shapes[0]))].detach())
        for group in bundle.topology.groups:
            start = bundle.topology.node_ptr[group.name]
            of_role.setdefault(group.role, []).append(activations[start : start + group.size])
    bundle = TRAIN.bundles[0]
    outputs = torch.cat([part.square().mean((0, 2)) for part in of_role["output"]])
    scale = outputs.sort().values[(len(outputs) - 1) // 2].sqrt()
    expected = torch.asinh(of_role["output"][0] / scale)
    torch.testing.assert_close(features(bundle)[-bundle.topology.groups[-1].size :], expected)


def test_permuted_networks_have_permuted_features():
    features, bundle = ProbeFeatures.fit(TRAIN, "random", NUM_PROBES).double(), TRAIN.bundles[1].to("cpu", torch.float64)
    element = symmetry.group(bundle.topology).sample(3)
    rows = torch.stack([element.act(NeuralGraph.from_row(bundle.topology, row)).row() for row in bundle.values])
    before, after = features(bundle), features(replace(bundle, values=rows))
    assert not torch.allclose(before, after)
    for group in bundle.topology.groups:
        own = slice(bundle.topology.node_ptr[group.name], bundle.topology.node_ptr[group.name] + group.size)
        permutation = element.permutations.get(group.name, torch.arange(group.size))
        torch.testing.assert_close(after[own], before[own][permutation])


def test_only_learned_probes_are_trained():
    for kind, learns in (("learned", True), ("random", False)):
        features = ProbeFeatures.fit(TRAIN, kind, NUM_PROBES)
        assert [probes.requires_grad for probes in features.probes.values()] == [learns] * 3
    features = ProbeFeatures.fit(TRAIN, "learned", NUM_PROBES)
    features(TRAIN.bundles[0]).square().sum().backward()
    key = "x".join(map(str, TRAIN.bundles[0].input_shapes[0]))
    assert features.probes[key].grad.abs().min() > 0
    assert all(probes.grad is None for name, probes in features.probes.items() if name != key)


def test_the_seed_decides_the_probes_also_of_inputs_that_training_lacked():
    unseen = fake_dataset([mlp_topology((12, 7, 5))], num_graphs=4).bundles[0]
    first, same, other = (ProbeFeatures.fit(TRAIN, "random", NUM_PROBES, seed=seed)(unseen) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.allclose(first, other)


def test_probes_from_data_are_the_inputs_and_learned_ones_may_start_there():
    train = fake_dataset(SEVERAL_STRUCTURES[-1:], num_graphs=6)
    inputs = torch.rand(NUM_PROBES, 9)
    for kind in ("data", "learned"):
        assert torch.equal(ProbeFeatures.fit(train, kind, NUM_PROBES, inputs=inputs).probes["9"].data, inputs)
    with pytest.raises(GraphError, match=r"inputs of shape \(3, 8\) are no probes; expected \(3, 9\)"):
        ProbeFeatures.fit(train, "data", NUM_PROBES, inputs=inputs[:, :8])
    with pytest.raises(GraphError, match="probes from data are drawn from what .* and these networks come from no zoo"):
        ProbeFeatures.fit(train, "data", NUM_PROBES)


def test_probes_from_data_are_drawn_from_the_inputs_that_a_zoo_was_trained_on():
    train = GraphDataset.from_zoo(open_zoo("digits-cnn"), np.arange(5))
    features = ProbeFeatures.fit(train, "data", NUM_PROBES, seed=4)
    assert torch.equal(features.probes["1x8x8"].data, train.bundles[0].programs.inputs(NUM_PROBES, seed=4))
    assert features(train.bundles[0]).shape == (train.bundles[0].topology.num_nodes, 5, NUM_PROBES)


def test_unknown_kinds_and_numbers_of_probes_are_refused():
    with pytest.raises(ConfigError, match="probes are 'drawn' and 3 in number; expected one of learned, random, data"):
        ProbeFeatures("drawn", 3)
    with pytest.raises(ConfigError, match="probes are 'random' and 0 in number"):
        ProbeFeatures("random", 0)


class MeanFeature:
    """Predicts from the mean probe feature of all nodes, which no permutation changes."""

    info = MethodInfo(
        "mean-feature", "Mean of probe features", "probes",
        invariant=True, any_architecture=True, paper="none", kinds=("regression",),
    )  # fmt: skip
    num_parameters = 1

    def fit(self, problem, train, val, context):
        self.features = ProbeFeatures.fit(train, "random", NUM_PROBES, seed=context.seed).double()

    @torch.no_grad()
    def predict(self, networks):
        means = np.empty(len(networks))
        for bundle in networks.bundles:
            means[bundle.index.numpy()] = self.features(bundle.to("cpu", torch.float64)).square().mean((0, 2)).numpy()
        return means


class FirstNode(MeanFeature):
    """The control: the feature of one hidden neuron moves with it."""

    @torch.no_grad()
    def predict(self, networks):
        found = np.empty(len(networks))
        for bundle in networks.bundles:
            first = bundle.topology.node_ptr[bundle.topology.groups[1].name]
            found[bundle.index.numpy()] = self.features(bundle.to("cpu", torch.float64))[first].mean(1).numpy()
        return found


def test_a_method_that_reads_probe_features_keeps_the_rules_and_one_that_reads_a_single_neuron_does_not():
    check_method(MeanFeature)
    with pytest.raises(
        MethodError, match="predictions of method 'mean-feature' move by up to .* when hidden neurons are permuted"
    ):
        check_method(FirstNode)


def test_a_network_that_gives_no_number_does_not_change_the_usual_sizes():
    (bundle,) = (networks := fake_dataset([mlp_topology((3, 5, 4))], num_graphs=9)).bundles
    values = bundle.values.clone()
    values[2] = torch.nan
    broken = replace(networks, bundles=(replace(bundle, values=values),))
    kept = torch.tensor([number for number in range(9) if number != 2])
    rest = replace(bundle, variant=bundle.variant[kept], values=bundle.values[kept], index=torch.arange(8))
    without = replace(networks, ids=networks.ids[:8], bundles=(rest,))
    found, expected = (ProbeFeatures.fit(train, "random", NUM_PROBES).scale for train in (broken, without))
    torch.testing.assert_close(found, expected)
