from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from baselines.deepset import DeepSet
from baselines.fitting import steps
from baselines.fitting.alignment import (
    NOISE_OF_SCORE,
    Alignment,
    log_soft_permutations,
    matched_groups,
    noisy_copy,
    recovery,
    similarities,
    soften,
)
from baselines.ng_gnn import NGGNN, Config
from baselines.ng_t import NGT
from ngbench.alignment import assign, match
from ngbench.errors import ConfigError, GraphError
from ngbench.graph import NeuralGraph, symmetry
from ngbench.graph.symmetry import GroupElement
from ngbench.loading import GraphDataset
from ngbench.methods import Budget, Problem, RunContext
from ngbench.store import open_zoo
from ngbench.tasks import TASKS
from ngbench.testing import attention_topology, cnn_topology, fake_dataset, mlp_topology, residual_topology

MLP = mlp_topology((7, 6, 5, 3))
MERGING = Problem(kind="merging", metric=None, higher_is_better=True)


class Sums(nn.Module):
    """A node's embedding is its bias, the sum of what enters it and that of what leaves it, times a weight each."""

    def __init__(self, weights=(1.0, 1.0, 1.0)):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))

    def embed_nodes(self, batch):
        found = {}
        for bundle in batch.bundles:
            parts = []
            for group in bundle.topology.groups:
                entering = bundle.values.new_zeros(len(bundle), group.size)
                leaving = entering.clone()
                for block in bundle.topology.blocks:
                    weights = bundle.block(block.name)
                    entering = entering + weights.sum((2, 3)) if block.target == group.name else entering
                    leaving = leaving + weights.sum((1, 3)) if block.source == group.name else leaving
                parts.append(torch.stack([bundle.node_feature(group.name, "bias"), entering, leaving], 2))
            nodes = torch.cat(parts, 1) * self.weights
            found |= dict(zip(bundle.index.tolist(), nodes, strict=True))
        return [found[position] for position in range(len(batch))]


@pytest.fixture(scope="module")
def trained():
    """A few trained networks that know their images."""
    zoo = open_zoo("digits-cnn")
    return GraphDataset.from_zoo(zoo, np.flatnonzero(zoo.metadata["test_accuracy"] > 0.9)[:8])


def test_groups_that_move_alike_are_matched_together():
    found = {matched.groups: matched.index for matched in matched_groups(residual_topology())}
    assert found == {("stem", "conv1", "add"): "stream", ("conv0", "norm"): "inner"}
    of_heads = {matched.groups: matched.index for matched in matched_groups(attention_topology())}
    assert of_heads[("query", "key")] is None
    assert of_heads[("patch", "add")] == "stream"


def test_similarities_are_those_by_which_the_evaluator_matches():
    topology = residual_topology(6, num_inner=5)
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, topology.num_nodes, 3, 4, generator=generator)
    found = [similarities(topology, matched, first, second) for matched in matched_groups(topology)]
    for number in range(3):
        gains = {
            matched.groups[0]: similarity[number].numpy()
            for matched, similarity in zip(matched_groups(topology), found, strict=True)
        }
        mine = assign(topology, gains).permutations
        theirs = match(topology, first[:, number].numpy(), second[:, number].numpy()).permutations
        assert all(torch.equal(mine[name], own) for name, own in theirs.items())


def test_equal_nodes_have_similarity_one_on_average():
    nodes = 3 * torch.randn(MLP.num_nodes, 4, 9, generator=torch.Generator().manual_seed(2)) + 5
    found = similarities(MLP, matched_groups(MLP)[0], nodes, nodes)
    torch.testing.assert_close(found.diagonal(dim1=1, dim2=2).mean(1), torch.ones(4))


def test_soft_permutations_are_nearly_doubly_stochastic_and_near_a_clear_permutation():
    permutation = torch.tensor([2, 0, 3, 1])
    clear = torch.eye(4)[permutation][None]
    torch.testing.assert_close(log_soft_permutations(3 * clear).exp(), clear, atol=1e-6, rtol=0)
    vague = log_soft_permutations(torch.rand(5, 6, 6, generator=torch.Generator().manual_seed(3))).exp()
    torch.testing.assert_close(vague.sum(1), torch.ones(5, 6))
    torch.testing.assert_close(vague.sum(2), torch.ones(5, 6), atol=0.1, rtol=0)


@pytest.mark.parametrize("topology", [MLP, cnn_topology((1, 6, 4), num_classes=5), residual_topology()])
def test_values_moved_by_hard_permutations_are_those_of_the_group_element(topology):
    rows = torch.randn(3, topology.num_values, generator=torch.Generator().manual_seed(4))
    elements = [symmetry.group(topology).sample(seed) for seed in range(3)]
    names = elements[0].permutations
    matrices = {
        name: torch.stack([torch.eye(topology.group(name).size)[element.permutations[name]] for element in elements])
        for name in names
    }
    expected = [element.act(NeuralGraph.from_row(topology, row)).row() for element, row in zip(elements, rows, strict=True)]
    torch.testing.assert_close(soften(topology, matrices, rows), torch.stack(expected))


def test_a_copy_is_noisy_and_permuted_as_it_says():
    (bundle,) = fake_dataset((MLP,), num_graphs=9, seed=1).bundles
    torch.manual_seed(0)
    for strength in (0.0, 0.5):
        copy, permutations = noisy_copy(bundle, strength=strength, is_fixed=True)
        for number in range(9):
            element = GroupElement(MLP, {name: own[number] for name, own in permutations.items()})
            back = element.inverse().act(NeuralGraph.from_row(MLP, copy.values[number])).row()
            for slot in MLP.slots[-3:]:
                own, noisy = (row[slot.start : slot.stop] for row in (bundle.values[number], back))
                assert float((noisy - own).std() / own.std()) == pytest.approx(strength, rel=0.4, abs=1e-6)
    assert len(torch.unique(permutations["linear0"], dim=0)) > 5


def test_running_statistics_get_no_noise():
    (bundle,) = fake_dataset((residual_topology(),), num_graphs=20, seed=1).bundles
    copy, permutations = noisy_copy(bundle, strength=5.0)
    for name in ("running_mean", "running_var"):
        expected = bundle.node_feature("norm", name).gather(1, permutations["norm"])
        torch.testing.assert_close(copy.node_feature("norm", name), expected)
    assert float((copy.block("stem") - bundle.block("stem")).abs().max()) > 1


def test_embeddings_that_tell_nodes_apart_find_copies_again_and_constant_ones_do_not():
    networks = fake_dataset((MLP, residual_topology(7)), num_graphs=12, seed=3)
    random = torch.get_rng_state()
    assert recovery(Sums(), networks, noise=0.0, seed=0) > 0.9
    assert recovery(Sums((0.0, 0.0, 0.0)), networks, noise=0.0, seed=0) < 0.4
    assert recovery(Sums(), networks, noise=1.0, seed=0) < recovery(Sums(), networks, noise=0.1, seed=0)
    assert torch.equal(torch.get_rng_state(), random)


def test_the_loss_is_lower_for_embeddings_that_find_copies_again(trained):
    torch.manual_seed(1)
    for barrier_weight in (0.0, 1.0):
        objective = Alignment(trained, barrier_weight=barrier_weight)
        good, bad = (
            float(objective.loss(Sums(w), trained.batch(), torch.arange(8)).detach()) for w in ((1.0, 1, 1), (0.0, 0, 0))
        )
        assert good < bad


def test_both_losses_reach_the_module(trained):
    gradients = []
    for barrier_weight in (0.0, 100.0):
        torch.manual_seed(2)
        module = Sums((1.0, 0.5, 0.5))
        Alignment(trained, barrier_weight=barrier_weight).loss(module, trained.batch(), torch.arange(8)).backward()
        gradients.append(module.weights.grad)
    assert gradients[0].abs().min() > 0
    assert (gradients[1] - gradients[0]).abs().min() > 0


def test_networks_with_other_activations_have_none_between_them(trained):
    bundle = trained.bundles[0]
    one = replace(bundle, variant=torch.zeros_like(bundle.variant))
    mixed = replace(bundle, variant=torch.arange(len(bundle)) % 2)
    objective = Alignment(trained, barrier_weight=1.0)
    nodes = torch.stack(Sums().embed_nodes(trained.batch()), 1)
    corpora = ["digits"] * len(bundle)
    assert float(objective.between(one, nodes, corpora=corpora).detach()) > 0
    assert float(objective.between(mixed, nodes, corpora=corpora).detach()) == 0


@pytest.fixture(scope="module")
def several():
    """Two trained perceptrons of one structure on each of two corpora, and one on a third."""
    zoo = open_zoo("digits-park")
    corpora, activations = zoo.metadata["corpus"], zoo.metadata["activation"]
    for index in np.unique(zoo.topology_index[zoo.metadata["family"] == "mlp"]):
        own = np.flatnonzero((zoo.topology_index == index) & (zoo.metadata["test_accuracy"] > 0.5))
        rows = [own[corpora[own] == name] for name in ("digits", "digits-rotated", "digits-inverted")]
        if min(map(len, rows)) > 1 and len(set(activations[own])) == 1:
            return GraphDataset.from_zoo(zoo, np.array([rows[0][0], rows[1][0], rows[0][1], rows[1][1], rows[2][0]]))
    raise AssertionError("the zoo has no such networks")


def test_networks_are_mixed_within_a_corpus_and_run_on_its_images(several, monkeypatch):
    objective = Alignment(several, barrier_weight=1.0)
    names = ["digits", "digits-rotated", "digits", "digits-rotated", "digits-inverted"]
    assert objective.corpora == names
    programs, seen = several.bundles[0].programs, []
    for name in set(names):
        images, labels = programs.labelled("train", 1024, corpus=name)
        assert torch.equal(objective.images[name][0], images)
        assert torch.equal(objective.images[name][1], labels)
    monkeypatch.setattr(
        objective, "_between", lambda bundle, own, images, labels: seen.append((bundle.index.tolist(), images)) or own.sum()
    )
    order = torch.tensor([4, 1, 0, 3, 2])
    objective.loss(Sums(), several.batch(order.numpy()), order)
    assert [index for index, _ in seen] == [[1, 3], [2, 4]]
    assert torch.equal(seen[0][1], objective.images["digits-rotated"][0])
    assert torch.equal(seen[1][1], objective.images["digits"][0])


def test_networks_do_worse_on_the_images_of_another_corpus(several):
    objective = Alignment(several, barrier_weight=1.0)
    bundle = several.bundles[0].rows(torch.tensor([0, 2]))
    # a network and itself: between them it is the same network
    twice = replace(bundle, values=bundle.values[:1].repeat(2, 1))
    nodes = 1e3 * torch.stack(Sums().embed_nodes(GraphDataset.batch(several)), 1)[:, [0, 0]]
    torch.manual_seed(3)
    own, other = (float(objective.between(twice, nodes, corpora=[name] * 2).detach()) for name in ("digits", "digits-rotated"))
    assert own < other - 0.5


def test_a_method_with_embeddings_of_nodes_learns_to_match():
    topology = mlp_topology((4, 16, 14, 3))
    train, val, test = (fake_dataset((topology,), num_graphs=num, seed=seed) for seed, num in enumerate((48, 16, 15)))
    context = RunContext(seed=1, budget=Budget(max_epochs=20, num_candidates=1))
    config = Config(epochs=12, channels=16, num_layers=2, weight_noise=0.0, reverse_edges=True, barrier_weight=0.0)
    scores = []
    for learning_rate in (1e-9, 8e-3):
        method = NGGNN(replace(config, learning_rate=learning_rate))
        method.fit(MERGING, train, val, context)
        scores.append(recovery(method.module.eval(), test, noise=0.3, seed=5))
    nodes = method.embed_nodes(test)
    assert [part.shape for part in nodes] == [(topology.num_nodes, 16)] * 15
    assert scores[0] < 0.97
    assert scores[1] > 0.99


@pytest.mark.parametrize("method", [DeepSet(DeepSet.Config(epochs=1)), NGT(NGT.Config(epochs=1, barrier_weight=0.0))])
def test_other_methods_with_embeddings_of_nodes_are_trained_alike(method, trained):
    method.fit(MERGING, trained, trained, RunContext(seed=1, budget=Budget(max_epochs=1, num_candidates=1)))
    assert {len(nodes) for nodes in method.embed_nodes(trained)} == {trained.bundles[0].topology.num_nodes}


def test_networks_stay_in_pairs_however_large_they_are(trained, monkeypatch):
    monkeypatch.setitem(steps.FLOATS_AT_ONCE, "cpu", 1)
    sizes = []
    method = NGGNN(Config(channels=4, num_layers=1, edge_updates=False))
    stepper = method.stepper(MERGING, trained, RunContext(seed=1, budget=Budget(max_epochs=1, num_candidates=1)))
    backward = stepper.backward
    monkeypatch.setattr(stepper, "backward", lambda batch, *rest: sizes.append(len(batch)) or backward(batch, *rest))
    stepper.step(np.arange(6), rate=1e-3)
    assert sizes == [2, 2, 2]


def test_networks_without_images_have_no_loss_between_them():
    with pytest.raises(GraphError, match="these are of no such zoo; expected networks of one, or barrier_weight 0"):
        Alignment(fake_dataset((MLP,)), barrier_weight=1.0)


def test_networks_with_heads_have_no_loss_between_them():
    zoo = open_zoo("digits-park")
    rows = np.flatnonzero(zoo.metadata["family"] == "transformer")[:3]
    with pytest.raises(GraphError, match="runs over several indices .* expected networks of layers and residual streams"):
        Alignment(GraphDataset.from_zoo(zoo, rows), barrier_weight=1.0)


def test_a_barrier_weight_below_zero_is_refused():
    with pytest.raises(ConfigError, match=r"barrier_weight is -1; expected a number from 0 upward"):
        Config(barrier_weight=-1)


def test_epochs_are_chosen_by_what_the_task_says():
    assert TASKS["merging"].selection == f"recovery_{NOISE_OF_SCORE:g}"
