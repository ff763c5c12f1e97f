from __future__ import annotations

import itertools
import math
from functools import partial

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity as sklearn_cosine

from ngbench.errors import PredictionsError
from ngbench.metrics import METRICS, retrieval
from ngbench.metrics.retrieval import RETRIEVAL_SCORES, cosine_similarity

relevance = partial(retrieval.relevance, num_near=5)

NUM_GRAPHS, NUM_FEATURES, NUM_CLASSES = 53, 7, 4
GALLERIES = st.integers(1, 6).flatmap(
    lambda size: st.tuples(
        st.lists(st.integers(0, 2), min_size=size, max_size=size),
        st.lists(st.integers(0, 2), min_size=size, max_size=size),
        st.integers(0, size - 1),
    )
)


def retrieval_scores(similarity, grades):
    """What each metric of rankings says of each query."""
    return {name: METRICS[name].of_rows(*METRICS[name].checked(similarity, grades)) for name in RETRIEVAL_SCORES}


def zoo(seed, *, num_graphs=NUM_GRAPHS):
    """Embeddings, labels and a distance of functions; the first two networks share a function."""
    rng = np.random.default_rng(seed)
    functions = rng.normal(size=(num_graphs, 3))
    functions[1] = functions[0]
    distance = np.abs(functions[:, np.newaxis] - functions).sum(axis=-1).astype(np.float32)
    return rng.normal(size=(num_graphs, NUM_FEATURES)), rng.integers(NUM_CLASSES, size=num_graphs), distance


def of_one_order(grades):
    """Every score of one gallery without ties, by the definitions."""
    others = [grade for grade in grades if grade != 3]
    hits = [rank for rank, grade in enumerate(others, start=1) if grade >= 1]
    near = [rank for rank, grade in enumerate(others, start=1) if grade >= 2]
    gains = [2**grade - 1 for grade in grades]
    gain = sum(gain / math.log2(1 + rank) for rank, gain in enumerate(gains, start=1))
    best = sum(gain / math.log2(1 + rank) for rank, gain in enumerate(sorted(gains, reverse=True), start=1))
    return {
        "map": np.mean([count / rank for count, rank in enumerate(hits, start=1)]) if hits else math.nan,
        **{
            f"recall_at_{k}": sum(rank <= k for rank in near) / min(k, len(near)) if near else math.nan for k in (1, 10)
        },
        "ndcg": gain / best,
        "mate_rank": grades.index(3) + 1,
    }  # fmt: skip


def over_all_orders(similarity, grades):
    """The mean of every score over all orders of the gallery that do not contradict the similarity."""
    found = [
        of_one_order([grades[entry] for entry in order])
        for order in itertools.permutations(range(len(grades)))
        if all(similarity[a] >= similarity[b] for a, b in itertools.pairwise(order))
    ]
    return {name: np.mean([scores[name] for scores in found]) for name in found[0]}


@given(gallery=GALLERIES)
def test_scores_are_their_mean_over_all_orders_of_tied_entries(gallery):
    similarity, grades, mate = gallery
    grades[mate] = 3
    found = retrieval_scores(np.array([similarity], dtype=float), [grades])
    for name, expected in over_all_orders(similarity, grades).items():
        assert found[name][0] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_average_precision_and_ndcg_equal_sklearn():
    embeddings, labels, distance = zoo(seed=0)
    grades = relevance(labels, distance)
    # rounded so far that many entries are tied, for which sklearn too takes the mean gain
    similarity = np.round(cosine_similarity(embeddings, embeddings + 0.5), 1)
    found = retrieval_scores(similarity, grades)
    untied = retrieval_scores(cosine_similarity(embeddings, embeddings + 0.5), grades)
    for query in range(NUM_GRAPHS):
        gains = 2.0 ** grades[query] - 1
        expected = sklearn.metrics.ndcg_score([gains], [similarity[query]])
        assert found["ndcg"][query] == pytest.approx(expected, rel=1e-12)
        others = np.arange(NUM_GRAPHS) != query
        scores = cosine_similarity(embeddings, embeddings + 0.5)[query, others]
        expected = sklearn.metrics.average_precision_score(grades[query, others] > 0, scores)
        assert untied["map"][query] == pytest.approx(expected, rel=1e-12)


def test_scores_of_one_gallery_computed_by_hand():
    # In order: near, mate, none, related, near. Without the mate the hits are first, third and fourth of four.
    found = retrieval_scores([[0.9, 0.8, 0.7, 0.6, 0.5]], [[2, 3, 0, 1, 2]])
    gain = 3 + 7 / math.log2(3) + 0 + 1 / math.log2(5) + 3 / math.log2(6)
    best = 7 + 3 / math.log2(3) + 3 / math.log2(4) + 1 / math.log2(5)
    expected = {
        "map": (1 / 1 + 2 / 3 + 3 / 4) / 3, "recall_at_1": 1.0, "recall_at_10": 1.0, "ndcg": gain / best, "mate_rank": 2.0,
    }  # fmt: skip
    assert {name: scores[0] for name, scores in found.items()} == pytest.approx(expected)


@pytest.mark.parametrize("name", list(RETRIEVAL_SCORES))
def test_a_constant_embedding_scores_as_the_mean_of_random_ones(name):
    _, labels, distance = zoo(seed=1)
    grades, rng = relevance(labels, distance), np.random.default_rng(2)
    constant = np.full((NUM_GRAPHS, NUM_FEATURES), 0.1)
    found = retrieval_scores(cosine_similarity(constant, constant), grades)[name].mean()
    random = [retrieval_scores(rng.normal(size=grades.shape), grades)[name].mean() for _ in range(300)]
    assert found == pytest.approx(np.mean(random), abs=4 * np.std(random) / np.sqrt(300))


@pytest.mark.parametrize("name", list(RETRIEVAL_SCORES))
def test_the_order_of_networks_does_not_matter_even_where_all_are_tied(name):
    embeddings, labels, distance = zoo(seed=3)
    order = np.random.default_rng(4).permutation(NUM_GRAPHS)
    for own in (embeddings, np.round(embeddings), np.zeros_like(embeddings)):
        plain = retrieval_scores(cosine_similarity(own, own), relevance(labels, distance))
        own, names, apart = own[order], labels[order], distance[np.ix_(order, order)]
        moved = retrieval_scores(cosine_similarity(own, own), relevance(names, apart))
        np.testing.assert_allclose(moved[name], plain[name][order], rtol=1e-9)


def test_ranking_by_functional_distance_finds_mate_and_near_networks_first():
    _, labels, distance = zoo(seed=5)
    found = retrieval_scores(-distance, relevance(labels, distance))
    assert (found["recall_at_1"] == 1).all()
    assert (found["recall_at_10"] == 1).all()
    # the first two have the same function, which nothing tells from their mates
    assert found["mate_rank"].tolist() == [1.5, 1.5] + [1.0] * (NUM_GRAPHS - 2)


def test_infinitely_far_networks_are_never_near_and_rank_last_together():
    _, labels, distance = zoo(seed=6)
    distance[labels[:, np.newaxis] != labels] = np.inf
    grades = relevance(labels, distance)
    assert (grades[labels[:, np.newaxis] != labels] == 0).all()
    found = retrieval_scores(-distance, grades)
    assert found["map"] == pytest.approx(np.ones(NUM_GRAPHS))
    assert found["ndcg"] == pytest.approx(np.ones(NUM_GRAPHS), abs=0.1)


@pytest.mark.parametrize("num_queries", [1, 10, 1000])
def test_queries_ranked_at_once_do_not_change_scores(monkeypatch, num_queries):
    embeddings, labels, distance = zoo(seed=7)
    similarity, grades = cosine_similarity(embeddings, -embeddings), relevance(labels, distance)
    expected = retrieval_scores(similarity, grades)
    monkeypatch.setattr(retrieval, "_QUERIES_AT_ONCE", num_queries)
    for name, scores in retrieval_scores(similarity, grades).items():
        np.testing.assert_array_equal(scores, expected[name])


@pytest.mark.parametrize("name", list(RETRIEVAL_SCORES))
def test_the_registered_metric_is_the_mean_of_the_queries_that_have_a_score(name):
    embeddings, labels, distance = zoo(seed=8)
    distance[:] = np.inf
    labels[5] = NUM_CLASSES
    similarity, grades = cosine_similarity(embeddings, embeddings), relevance(labels, distance)
    scores = retrieval_scores(similarity, grades)[name]
    if name.startswith("recall"):
        assert np.isnan(scores).all()
        assert METRICS[name](similarity, grades) == 0.0 == METRICS[name].undefined
    else:
        assert np.isnan(scores).tolist() == [name == "map" and query == 5 for query in range(NUM_GRAPHS)]
        assert METRICS[name](similarity, grades) == pytest.approx(np.nanmean(scores), rel=1e-14)


def test_grades_are_mate_near_and_related_by_their_definitions():
    _, labels, distance = (part[1:] for part in zoo(seed=9))
    distance = distance[:, 1:]
    for num_near in (1, 5, 100):
        grades = relevance(labels, distance, num_near=num_near)
        for query in range(len(labels)):
            others = np.delete(np.arange(len(labels)), query)
            nearest = set(others[np.argsort(distance[query, others])][:num_near])
            expected = [2 if i in nearest else int(labels[i] == labels[query]) for i in range(len(labels))]
            expected[query] = 3
            assert grades[query].tolist() == expected


def test_equally_far_networks_are_near_together():
    distance = np.array([[0, 1, 2, 2, 3], [1, 0, 2, 2, 2], [2, 2, 0, 9, 9], [2, 2, 9, 0, 9], [3, 2, 9, 9, 0]], dtype=np.float32)
    grades = relevance(list("abcde"), distance, num_near=2)
    assert grades.tolist() == [[3, 2, 2, 2, 0], [2, 3, 2, 2, 2], [2, 2, 3, 0, 0], [2, 2, 0, 3, 0], [2, 2, 0, 0, 3]]


def test_grades_depend_only_on_the_order_of_distances_and_inputs_stay_as_they_are():
    _, labels, distance = zoo(seed=10)
    before = distance.copy()
    np.testing.assert_array_equal(relevance(labels, distance), relevance(labels, np.exp(distance.astype(np.float64)) - 1))
    np.testing.assert_array_equal(distance, before)


def test_the_similarity_is_the_cosine_to_others_and_to_the_own_mate():
    embeddings, _, _ = zoo(seed=11)
    mates = embeddings + np.random.default_rng(12).normal(size=embeddings.shape)
    found = cosine_similarity(embeddings, mates)
    others = ~np.eye(NUM_GRAPHS, dtype=bool)
    np.testing.assert_allclose(found[others], sklearn_cosine(embeddings)[others], atol=1e-12)
    np.testing.assert_allclose(np.diag(found), np.diag(sklearn_cosine(embeddings, mates)), atol=1e-12)


def test_lengths_of_embeddings_do_not_matter_not_even_those_whose_squares_leave_the_range():
    embeddings, _, _ = zoo(seed=13)
    lengths = np.logspace(-300, 300, NUM_GRAPHS)[:, np.newaxis]
    expected = cosine_similarity(embeddings, embeddings)
    np.testing.assert_allclose(cosine_similarity(embeddings * lengths, embeddings), expected, atol=2e-12)


def test_embeddings_of_zeros_are_at_right_angles_to_all():
    embeddings, _, _ = zoo(seed=14)
    embeddings[[0, 6]] = 0
    found = cosine_similarity(embeddings, embeddings)
    assert (found[[0, 6]] == 0).all()
    assert (found[:, [0, 6]] == 0).all()


def test_equal_embeddings_are_tied_whatever_their_place():
    embeddings = np.random.default_rng(15).normal(size=(11, 300))[np.arange(701) % 11]
    found = cosine_similarity(embeddings, embeddings)
    for query in range(0, 701, 50):
        assert len(np.unique(found[query])) == 11


@pytest.mark.parametrize(
    ("embeddings", "mates", "text"),
    [
        (np.ones((4, 3)), np.ones((4, 2)), r"shape \[4, 3\] and those of mates \[4, 2\]"),
        (np.ones(4), np.ones(4), r"embeddings have shape \[4\] and dtype float64; expected numbers \[graphs, features\]"),
        (np.ones((4, 3)), np.full((4, 3), "x"), "embeddings of mates have .* dtype <U1"),
        (np.ones((3, 2)), np.array([[1, 1], [1, np.nan], [np.inf, 0]]), "2 of 3 embeddings of mates .* network 1"),
    ],
)  # fmt: skip
def test_embeddings_without_a_cosine_are_refused(embeddings, mates, text):
    with pytest.raises(PredictionsError, match=text):
        cosine_similarity(embeddings, mates)


def test_labels_and_distances_of_other_networks_are_refused():
    with pytest.raises(PredictionsError, match=r"labels have shape \[3\] and functional distances \[4, 4\]"):
        relevance([0, 1, 2], np.zeros((4, 4)))


@pytest.mark.parametrize("value", [np.nan, -0.5])
def test_distances_that_are_none_are_refused_with_their_networks(value):
    distance = np.ones((3, 3))
    distance[2, 1] = value
    with pytest.raises(
        PredictionsError, match=f"1 of 9 values that are negative or no numbers, the first is {value} from network 2"
    ):
        relevance([0, 1, 2], distance)
