from __future__ import annotations

import numpy as np
import pytest

from baselines.weight_statistics import WeightStatistics
from ngbench.errors import MethodError
from ngbench.evaluation.domain import Domain
from ngbench.evaluation.kept import Kept, KeptRun
from ngbench.evaluation.use.networks import OwnModule
from ngbench.evaluation.use.search import search
from ngbench.loading import GraphDataset
from ngbench.methods import Budget, RunContext
from ngbench.store import open_zoo
from ngbench.testing import PROBLEM

QUERY = 17


@pytest.fixture(scope="module")
def zoo(small_zoo_path):
    return open_zoo(small_zoo_path)


@pytest.fixture(scope="module")
def run(zoo):
    train, val = (GraphDataset.from_zoo(zoo, zoo.split(part), target="test_accuracy") for part in ("train", "val"))
    methods = []
    for _ in range(2):
        method = WeightStatistics(WeightStatistics.Config(model="perceptron"))
        method.fit(PROBLEM, train, val, RunContext(seed=0, budget=Budget(1, 1)))
        methods.append(method)
    record = Kept(
        method="weight-statistics", kind="regression", task="generalization", target="test_accuracy", zoo="small",
        zoo_sha256=zoo.sha256, split="default", seed=0, classes=(), bounds=(0.0, 1.0), domain=Domain.of(train),
    )  # fmt: skip
    return KeptRun("folder", (record, record), tuple(methods))


def test_a_network_of_the_zoo_is_found_first_and_the_others_by_cosine(run, zoo):
    graph = zoo[QUERY]
    hits = search(run, OwnModule("own:net"), graph, zoo=zoo, top=len(zoo))
    embeddings = run.methods[0].embed(GraphDataset.from_zoo(zoo, np.arange(len(zoo))))
    query = embeddings[QUERY]
    cosines = {
        str(zoo.ids[row]): float(np.dot(own, query) / np.sqrt(np.dot(own, own) * np.dot(query, query)))
        for row, own in enumerate(embeddings)
    }
    assert hits[0].id == zoo.ids[QUERY]
    assert hits[0].similarity == pytest.approx(1)
    assert {hit.id: hit.similarity for hit in hits} == pytest.approx(cosines)
    assert [hit.similarity for hit in hits] == sorted((hit.similarity for hit in hits), reverse=True)


def test_what_the_zoo_knows_of_a_hit_stands_beside_it(run, zoo):
    hits = search(run, OwnModule("own:net"), zoo[QUERY], zoo=zoo, top=3)
    assert len(hits) == 3
    assert hits[0].columns["test_accuracy"] == pytest.approx(zoo.metadata["test_accuracy"][QUERY])
    assert QUERY in zoo.split(hits[0].part)


def test_a_method_that_embeds_nothing_is_refused(run, zoo):
    silent = KeptRun(run.folder, run.records[:1], (object(),))
    with pytest.raises(MethodError, match="method 'weight-statistics' of folder has no embed"):
        search(silent, OwnModule("own:net"), zoo[QUERY], zoo=zoo)
