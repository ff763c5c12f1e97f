from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu

from ngbench.errors import MethodError
from ngbench.evaluation.audit import Plan
from ngbench.evaluation.audit.movement import Outputs, spread_of_rows
from ngbench.evaluation.audit.record import CLEAR, EXACT, MethodAudit, Shuffle, ZooAudit
from ngbench.evaluation.audit.wiring import auc, chance_auc, distances, labelled, shuffled, tell_apart
from ngbench.methods import Budget, RunContext
from ngbench.testing import ONE_STRUCTURE, SEVERAL_STRUCTURES, attention_topology, fake_dataset

CONTEXT = RunContext(seed=3, budget=Budget(max_epochs=1, num_candidates=1))


def blocks_of(networks):
    return [values for bundle in networks.bundles for (_, feature), values in bundle.slots().items() if feature is None]


def features_of(networks):
    return [values for bundle in networks.bundles for (_, feature), values in bundle.slots().items() if feature is not None]


@pytest.mark.parametrize("unit", ["weights", "edges"])
def test_a_shuffle_keeps_the_histogram_of_every_layer_of_every_network(unit):
    networks = fake_dataset((*SEVERAL_STRUCTURES, attention_topology()), num_graphs=11)
    other = shuffled(networks, unit, seed=5)
    for before, after in zip(blocks_of(networks), blocks_of(other), strict=True):
        assert torch.equal(before.flatten(1).sort(1).values, after.flatten(1).sort(1).values)
    assert all(torch.equal(before, after) for before, after in zip(features_of(networks), features_of(other), strict=True))
    assert not all(torch.equal(before, after) for before, after in zip(blocks_of(networks), blocks_of(other), strict=True))


def test_shuffled_edges_keep_their_kernels_and_shuffled_weights_do_not():
    networks = fake_dataset(ONE_STRUCTURE, num_graphs=4)

    def kernels(of):
        return {tuple(kernel) for kernel in blocks_of(of)[1].flatten(0, 2).tolist()}

    assert kernels(shuffled(networks, "edges", seed=0)) == kernels(networks)
    assert kernels(shuffled(networks, "weights", seed=0)) != kernels(networks)


def test_each_network_is_shuffled_in_its_own_order_and_the_same_way_each_time():
    networks = fake_dataset(ONE_STRUCTURE[:1], num_graphs=6)
    same = networks.bundles[0].values[:1].expand(6, -1).clone()
    networks.bundles[0].values.copy_(same)
    rows = shuffled(networks, "weights", seed=2).bundles[0].values
    assert len({tuple(row.tolist()) for row in rows}) == 6
    assert torch.equal(rows, shuffled(networks, "weights", seed=2).bundles[0].values)
    assert torch.equal(networks.bundles[0].values, same)


def test_originals_are_labelled_zero_and_shuffles_one():
    networks = fake_dataset(SEVERAL_STRUCTURES, num_graphs=9)
    both = labelled(networks, "edges", seed=1)
    assert both.ids[:9] == networks.ids
    assert both.ids[9] == f"{networks.ids[0]}-shuffled"
    assert both.targets.tolist() == [0.0] * 9 + [1.0] * 9
    assert np.array_equal(both.hyperparameters["init_scale"], np.tile(networks.hyperparameters["init_scale"], 2))


def test_the_auc_is_the_mann_whitney_statistic_with_ties():
    rng = np.random.default_rng(0)
    predictions, targets = rng.integers(0, 5, size=40).astype(float), rng.integers(0, 2, size=40).astype(float)
    positive, negative = predictions[targets == 1], predictions[targets == 0]
    expected = mannwhitneyu(positive, negative).statistic / len(positive) / len(negative)
    assert auc(predictions, targets) == pytest.approx(expected, abs=1e-12)


def test_guesses_stay_below_the_chance_level_as_often_as_it_says():
    rng, targets = np.random.default_rng(1), np.repeat([0.0, 1.0], 30)
    below = np.mean([auc(rng.random(60), targets) < chance_auc(30) for _ in range(1000)])
    assert below == pytest.approx(0.977, abs=0.012)


class Inhomogeneity:
    """Reads what a shuffle of any kind destroys in networks whose neurons differ: the spread of their norms."""

    def fit(self, problem, train, val, context):
        found = problem.metric(self._norms(train), train.targets)
        self.sign = 1 if found > 0.5 else -1

    def predict(self, networks):
        return self.sign * self._norms(networks)

    def _norms(self, networks):
        found = np.empty(len(networks))
        for bundle in networks.bundles:
            found[bundle.index.numpy()] = bundle.block("conv1").double().square().sum((2, 3)).std(1).numpy()
        return found


class Mean(Inhomogeneity):
    """Reads the mean of the weights, which no shuffle moves."""

    def _norms(self, networks):
        return np.array([float(b.values.double().sort(1).values[i].sum()) for b in networks.bundles for i in range(len(b))])


def uneven(num_graphs, seed):
    """Networks of one scale with neurons of very different norms."""
    networks = fake_dataset(ONE_STRUCTURE[:1], num_graphs=num_graphs, seed=seed)
    networks.bundles[0].values.normal_(generator=torch.Generator().manual_seed(seed))
    networks.bundles[0].slots()["conv1", None].mul_(torch.logspace(-1, 1, 4)[:, None, None])
    return networks


@pytest.mark.parametrize("unit", ["weights", "edges"])
def test_a_method_that_reads_the_wiring_tells_and_one_that_reads_a_histogram_cannot(unit):
    splits = uneven(20, 0), uneven(8, 1), uneven(17, 2)
    found = tell_apart(Inhomogeneity, splits, unit, context=CONTEXT, distances={})
    assert found.auc > 0.95
    assert (found.num_train, found.num_test, found.chance_auc) == (20, 17, chance_auc(17))
    assert tell_apart(Mean, splits, unit, context=CONTEXT, distances={}).auc == 0.5


def test_a_method_that_refuses_the_fit_has_no_auc():
    class Refusing(Inhomogeneity):
        def fit(self, problem, train, val, context):
            raise MethodError(f"no fit on {len(train)} networks")

    found = tell_apart(Refusing, (uneven(5, 0), uneven(3, 1), uneven(4, 2)), "edges", context=CONTEXT, distances={})
    assert (found.auc, found.refusal) == (None, "MethodError: no fit on 10 networks")


def test_the_distance_of_independent_networks_is_one():
    class Rows(Mean):
        def predict(self, networks):
            return np.random.default_rng(len(networks.ids[0]) + int(networks.targets is None)).normal(size=len(networks))

    networks = fake_dataset(ONE_STRUCTURE, num_graphs=4000)
    predictions = Rows().predict(networks)
    reference = Outputs({"predictions": predictions[:, None]}, {"predictions": spread_of_rows(predictions[:, None])}, {})
    found = distances(Rows(), reference, networks, "edges", seed=0)
    assert found["predictions"] == pytest.approx(1.0, abs=0.05)


def verdict(edges, weights, *, distance=1.0):
    shuffles = tuple(
        Shuffle(unit=unit, distances={"predictions": distance}, auc=a, chance_auc=0.57, num_train=9, num_test=8, refusal=None)
        for unit, a in (("edges", edges), ("weights", weights))
    )
    zoo = ZooAudit(
        zoo="a", zoo_version="1", zoo_sha256="b", num_networks=2, num_fit=3, refusal=None, proofs=(), absent=(), movements=(),
        part_refusals={}, shuffles=shuffles, duration_s=0.1,
    )  # fmt: skip
    return MethodAudit(
        method="m", title="M", access="weights", settings={}, claims_invariant=True, claims_any_architecture=True, zoos=(zoo,),
        acceptances=(),
    ).captures_topology  # fmt: skip


def test_verdicts_on_topology_follow_the_thresholds():
    assert verdict(CLEAR, 0.5) == "yes"
    assert verdict(CLEAR - 0.01, CLEAR) == "kernels only"
    assert verdict(0.5, 0.58) == "weakly"
    assert verdict(0.57, 0.5) == "not learned"
    assert verdict(0.5, 0.5, distance=EXACT) == "no"
    assert verdict(None, None) == "not measured"
    assert Plan().num_pairs > 0
