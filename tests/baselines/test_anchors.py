"""Anchors of retrieval: chance, flat weights, and the functions themselves as embeddings that cosine ranks."""

import dataclasses

import numpy as np
import pytest

from baselines.anchors import FunctionalDistance
from ngbench.errors import GraphError
from ngbench.evaluation.blinding import in_order, shown
from ngbench.evaluation.functional import functional_distance
from ngbench.evaluation.networks import networks_of
from ngbench.loading import GraphDataset
from ngbench.methods import Budget, RunContext, make_method
from ngbench.metrics import METRICS
from ngbench.metrics.retrieval import RETRIEVAL_SCORES, cosine_similarity, relevance
from ngbench.store import generate, open_zoo
from ngbench.tasks import TASKS
from ngbench.testing import ONE_STRUCTURE, PROBLEMS, SEVERAL_STRUCTURES, fake_dataset, fake_graphs
from ngbench.zoo.recipe import load_recipe

NUM_NETWORKS = 13


def retrieval_scores(similarity, grades):
    """What each metric of rankings says of each query."""
    return {name: METRICS[name].of_rows(*METRICS[name].checked(similarity, grades)) for name in RETRIEVAL_SCORES}


def fitted(name, networks, *, seed=0):
    method = make_method(name)
    method.fit(PROBLEMS["retrieval"], networks, networks, RunContext(seed=seed, budget=Budget(max_epochs=1, num_candidates=1)))
    return method


@pytest.fixture(scope="module", params=["digits-park", "digits-inr"])
def functions(request, tmp_path_factory):
    """Networks, how far apart their functions are, and the cosines of their functional embeddings, mates on the diagonal."""
    if request.param == "digits-park":
        zoo = open_zoo("digits-park")
        rows, corpora = zoo.split("test"), zoo.metadata["corpus"]
        cheap = rows[zoo.metadata["family"][rows] == "mlp"]
        sizes = {"digits-parity": 5, "digits": 4, "digits-rotated": 5}
        rows = np.concatenate([cheap[corpora[cheap] == name][:size] for name, size in sizes.items()])
    else:
        zoo = generate(load_recipe("digits-inr"), tmp_path_factory.mktemp("inr") / "inr.h5", limit=18)
        rows = np.random.default_rng(4).permutation(18)
    networks = GraphDataset.from_zoo(zoo, rows)
    method = fitted("functional-distance", networks)
    twins = networks.scrambled(salt="mates")
    assert any((own.values != twin.values).any() for own, twin in zip(networks.bundles, twins.bundles, strict=True))
    # as results keep them
    own, mates = (method.embed(each).astype(np.float32) for each in (networks, twins))
    return functional_distance(zoo, rows, num_inputs=256), cosine_similarity(own, mates)


def test_the_anchor_reads_what_the_zoo_holds_as_the_truth_does_though_the_networks_cannot_be_run(tmp_path, monkeypatch):
    zoo = generate(load_recipe("digits-inr"), tmp_path / "inr.h5", limit=12)
    stored, info = zoo.functional("digits").astype(np.float64), FunctionalDistance.info
    monkeypatch.setattr(zoo, "info", dataclasses.replace(zoo.info, recipe=None))
    task = TASKS["retrieval"].asked(zoo.name)
    networks = networks_of(task, zoo, np.arange(12))
    found = []
    for each in (networks, networks.scrambled(salt="mates")):
        given, order = shown(each, info)
        found.append(in_order(fitted("functional-distance", networks).embed(given), order, method="functional-distance"))
    np.testing.assert_array_equal(found[0][:, :-1], stored)
    np.testing.assert_array_equal(*found)
    # another method learns no name by which it could look them up
    given, _ = shown(networks, dataclasses.replace(info, access="probes"))
    assert given.ids == tuple(map(str, range(12)))


def test_cosine_ranks_as_the_distance_of_functions_does(functions):
    distance, similarity = functions
    for query, own in enumerate(distance):
        others = np.flatnonzero(np.isfinite(own) & (np.arange(len(own)) != query))
        ranked = own[others[np.argsort(-similarity[query, others])]]
        # images that a zoo holds are rounded to float16, so that distances closer than that may stand either way
        assert (np.maximum.accumulate(ranked) - ranked).max() < 5e-5
        assert ranked[-1] > 1.1 * ranked[0]


def test_the_mate_is_at_rank_one_and_recall_of_the_near_is_full(functions):
    distance, similarity = functions
    found = retrieval_scores(similarity, relevance(np.zeros(len(distance)), distance, num_near=5))
    assert (found["mate_rank"] == 1).all()
    assert (found["recall_at_1"] == 1).all()
    assert (found["recall_at_10"] == 1).all()


def test_networks_of_different_numbers_of_outputs_are_at_right_angles(functions):
    distance, similarity = functions
    apart = np.isinf(distance)
    assert (similarity[apart] == 0).all()
    assert (similarity[~apart] > 0.99).all()
    assert apart.sum() in (0, 2 * 5 * 9)


def test_functions_of_fakes_are_not_known():
    networks = fake_dataset(num_graphs=NUM_NETWORKS)
    with pytest.raises(GraphError, match=f"{NUM_NETWORKS} networks are of no zoo that ngbench generated"):
        fitted("functional-distance", networks).embed(networks)


def test_flat_weights_are_the_canonical_values_of_each_network():
    networks = fake_dataset(num_graphs=NUM_NETWORKS, seed=2)
    found = fitted("flat-cosine", networks).embed(networks)
    rows = np.stack([graph.row().numpy() for graph in fake_graphs(num_graphs=NUM_NETWORKS, seed=2)])
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, rows)
    cosines = rows.astype(np.float64) @ rows.T / np.outer(*[np.linalg.norm(rows.astype(np.float64), axis=1)] * 2)
    similarity = cosine_similarity(found, found)
    np.testing.assert_allclose(similarity, cosines, atol=1e-12)


def test_flat_weights_move_where_neurons_are_permuted():
    networks = fake_dataset(num_graphs=NUM_NETWORKS, seed=2)
    method = fitted("flat-cosine", networks)
    similarity = cosine_similarity(method.embed(networks), method.embed(networks.scrambled(salt="mates")))
    assert (np.diagonal(similarity) < 0.999).all()


def test_flat_weights_of_several_structures_are_refused_in_training_and_afterwards():
    several, one = fake_dataset(SEVERAL_STRUCTURES, num_graphs=NUM_NETWORKS), fake_dataset(ONE_STRUCTURE, num_graphs=NUM_NETWORKS)
    other = fake_dataset(SEVERAL_STRUCTURES[-1:], num_graphs=NUM_NETWORKS)
    with pytest.raises(GraphError, match="flat-cosine"):
        fitted("flat-cosine", several)
    method = fitted("flat-cosine", one)
    for unread in (several, other):
        with pytest.raises(GraphError, match="flat-cosine"):
            method.embed(unread)


def test_random_embeddings_differ_between_calls_and_are_the_same_for_a_seed():
    networks = fake_dataset(num_graphs=NUM_NETWORKS)
    first, again, other = (fitted("random-embedding", networks, seed=seed) for seed in (3, 3, 4))
    drawn = [first.embed(networks), first.embed(networks)]
    assert drawn[0].shape == (NUM_NETWORKS, 16)
    assert np.abs(drawn[0] - drawn[1]).min() > 0
    np.testing.assert_array_equal(np.stack(drawn), np.stack([again.embed(networks), again.embed(networks)]))
    assert np.abs(drawn[0] - other.embed(networks)).min() > 0
