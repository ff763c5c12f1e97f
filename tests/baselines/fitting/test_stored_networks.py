"""Methods fit and predict alike whether networks are loaded or stay in their file."""

from __future__ import annotations

import numpy as np
import pytest

from baselines.flat_mlp import FlatMLP
from baselines.ng_gnn import NGGNN
from baselines.weight_statistics import WeightStatistics
from ngbench.loading import GraphDataset
from ngbench.methods import Budget, RunContext
from ngbench.store import Zoo
from ngbench.testing import PROBLEM


@pytest.mark.parametrize("method", [FlatMLP, NGGNN, WeightStatistics])
def test_a_method_says_the_same_of_networks_that_stay_in_their_file(small_zoo_path, method):
    zoo, rows, said = Zoo(small_zoo_path), np.random.default_rng(7).permutation(150), []
    for loaded in (True, False):
        train, val, test = (
            GraphDataset.from_zoo(zoo, part, target="test_accuracy", loaded=loaded) for part in np.split(rows, [90, 120])
        )
        assert all(bundle.is_stored != loaded for bundle in train.bundles)
        fitted = method()
        fitted.fit(PROBLEM, train, val, RunContext(seed=3, budget=Budget(max_epochs=2, num_candidates=2)))
        said.append(fitted.predict(test.without_targets().scrambled(salt="stored")))
    assert np.array_equal(*said)
