from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from threadpoolctl import threadpool_info

from baselines.fitting import boosting
from baselines.fitting.boosting import fit_best, one_thread, predict
from baselines.fitting.tables import Table
from ngbench.methods import Budget, RunContext
from ngbench.testing import PROBLEM, PROBLEMS

NUM_TRAIN, NUM_VAL, NUM_FEATURES = 97, 43, 5
FEW_TREES = tuple({**candidate, "max_iter": 30} for candidate in boosting.CANDIDATES)


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch):
    monkeypatch.setattr(boosting, "CANDIDATES", FEW_TREES)


def table(num_graphs, seed):
    """The first feature decides, the second is missing in places, the others say nothing."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num_graphs, NUM_FEATURES))
    targets = np.tanh(features[:, 0]) + 0.2 * rng.normal(size=num_graphs)
    features[::3, 1] = np.nan
    return Table(features, targets)


TRAIN, VAL = table(NUM_TRAIN, 0), table(NUM_VAL, 1)


def fitted(problem=PROBLEM, *, seed=0, num_candidates=3, **more):
    context = RunContext(seed=seed, budget=Budget(max_epochs=1, num_candidates=num_candidates), **more)
    return predict(fit_best(problem, TRAIN, val=VAL, context=context), VAL.features, problem=PROBLEM)


@pytest.mark.parametrize(("budget", "num_tried"), [(1, 1), (2, 2), (100, 3)])
def test_the_budget_limits_the_candidates_and_progress_counts_them(budget, num_tried):
    seen = []
    fitted(num_candidates=budget, progress=lambda *report: seen.append(report))
    assert [report[:2] for report in seen] == [(done, num_tried) for done in range(1, num_tried + 1)]
    scores = [float(text.removeprefix("val ")) for _, _, text in seen]
    assert scores == sorted(scores)


def test_the_candidate_that_wins_is_the_best_on_the_validation_split():
    models = [HistGradientBoostingRegressor(**candidate, early_stopping=False, random_state=0) for candidate in FEW_TREES]
    predictions = [model.fit(TRAIN.features, TRAIN.targets).predict(VAL.features) for model in models]
    scores = [PROBLEM.metric(prediction, VAL.targets) for prediction in predictions]
    assert len(set(scores)) == len(FEW_TREES)
    np.testing.assert_allclose(fitted(), predictions[int(np.argmax(scores))], rtol=1e-9)


def test_where_lower_is_better_the_lowest_wins():
    def error(predictions, targets):
        return float(np.abs(predictions - targets).mean())

    reports = []
    by_error = fitted(replace(PROBLEM, metric=error, higher_is_better=False), progress=lambda *report: reports.append(report))
    np.testing.assert_array_equal(by_error, fitted(replace(PROBLEM, metric=lambda p, t: -error(p, t))))
    assert reports[-1][2] == f"val {error(by_error, VAL.targets):.3f}"


def test_a_seed_gives_the_same_model_twice_and_another_seed_another():
    np.testing.assert_array_equal(fitted(seed=3), fitted(seed=3))
    assert not np.array_equal(fitted(seed=3), fitted(seed=4))


CLASSIFICATION = PROBLEMS["classification"]


def of_classes(examples, limits):
    return Table(examples.features, np.digitize(examples.features[:, 0], limits))


def test_probabilities_are_those_of_scikit_learn_by_class():
    training, val = (of_classes(examples, [-0.5, 0.5]) for examples in (TRAIN, VAL))
    context = RunContext(seed=0, budget=Budget(max_epochs=1, num_candidates=1))
    says = predict(fit_best(CLASSIFICATION, training, val=val, context=context), val.features, problem=CLASSIFICATION)
    reference = HistGradientBoostingClassifier(**FEW_TREES[0], early_stopping=False, random_state=0)
    np.testing.assert_allclose(says, reference.fit(training.features, training.targets).predict_proba(val.features), rtol=1e-9)
    assert CLASSIFICATION.metric(says, val.targets) > 0.8


@pytest.mark.parametrize(("missing", "known"), [(0, [1, 2]), (1, [0, 2]), (2, [0, 1])])
def test_a_class_that_training_lacks_has_probability_zero_at_its_place(missing, known):
    training, val = (of_classes(examples, [0.0]) for examples in (TRAIN, VAL))
    training, val = (replace(examples, targets=np.array(known)[examples.targets]) for examples in (training, val))
    context = RunContext(seed=0, budget=Budget(max_epochs=1, num_candidates=2))
    says = predict(fit_best(CLASSIFICATION, training, val=val, context=context), val.features, problem=CLASSIFICATION)
    assert says.shape == (NUM_VAL, 3)
    np.testing.assert_array_equal(says[:, missing], 0.0)
    np.testing.assert_allclose(says.sum(1), 1.0)
    assert CLASSIFICATION.metric(says, val.targets) > 0.8


def test_the_number_of_threads_is_put_back():
    def num_threads():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp"]

    before = num_threads()
    with one_thread():
        assert set(num_threads()) == {1}
    assert num_threads() == before


@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_a_table_takes_the_targets_of_its_networks_be_they_numbers_or_classes(dtype):
    class Networks:
        targets = np.arange(3, dtype=dtype)

    assert Table.of(np.zeros((3, 2)), Networks()).targets.dtype == dtype
