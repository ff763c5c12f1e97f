from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from ngbench.errors import MethodError
from ngbench.evaluation.linear_probe import PENALTIES, fit_linear_probe
from ngbench.metrics import ACCURACY, NLL, R2, Metric

NUM_TRAIN, NUM_VAL, NUM_TEST = 90, 47, 31
NUM_FEATURES, NUM_CLASSES = 5, 3


def networks(seed):
    """Embeddings of different scales, and a class and a number that follow from them, for train, val and test."""
    rng = np.random.default_rng(seed)
    slopes = rng.normal(size=(NUM_FEATURES, NUM_CLASSES))
    parts = []
    for num_graphs in (NUM_TRAIN, NUM_VAL, NUM_TEST):
        hidden = rng.normal(size=(num_graphs, NUM_FEATURES))
        noise = rng.normal(scale=0.3, size=(num_graphs, NUM_CLASSES))
        scores = hidden @ slopes + noise
        parts.append((hidden * np.logspace(-4, 4, NUM_FEATURES) + 7, scores.argmax(axis=1), scores[:, 0]))
    return parts


def fit(train, val, *, target=1, metric: Metric = ACCURACY, num_classes=NUM_CLASSES):
    return fit_linear_probe(
        train[0], train[target], val_embeddings=val[0], val_targets=val[target], metric=metric, num_classes=num_classes
    )


def test_probabilities_are_those_of_sklearn_at_the_penalty_that_is_best_on_val():
    train, val, test = networks(seed=0)
    probe, scaler, scores = fit(train, val, metric=NLL), StandardScaler().fit(train[0]), {}
    for penalty in PENALTIES:
        model = LogisticRegression(C=1 / penalty, max_iter=5000).fit(scaler.transform(train[0]), train[1])
        scores[penalty] = NLL(model.predict_proba(scaler.transform(val[0])), val[1])
        if penalty == probe.penalty:
            np.testing.assert_allclose(probe.predict(test[0]), model.predict_proba(scaler.transform(test[0])), atol=1e-5)
    assert probe.penalty == min(scores, key=scores.__getitem__)
    assert probe.score == pytest.approx(scores[probe.penalty], rel=1e-5)
    assert ACCURACY(probe.predict(test[0]), test[1]) > 0.6


def test_numbers_are_those_of_sklearns_ridge_regression():
    train, val, test = networks(seed=1)
    probe, scaler = fit(train, val, target=2, metric=R2, num_classes=None), StandardScaler().fit(train[0])
    model = Ridge(alpha=probe.penalty).fit(scaler.transform(train[0]), train[2])
    np.testing.assert_allclose(probe.predict(test[0]), model.predict(scaler.transform(test[0])), rtol=1e-9)
    assert R2(probe.predict(test[0]), test[2]) > 0.8


def test_of_penalties_that_score_alike_the_largest_is_taken():
    train, val, _ = networks(seed=2)
    constant = np.full((NUM_VAL, NUM_FEATURES), 7.0)
    assert fit(train, (constant, *val[1:])).penalty == PENALTIES[0]


def test_scale_and_offset_of_features_do_not_matter():
    train, val, test = networks(seed=3)
    moved = [(part[0] * 1e3 - 40, *part[1:]) for part in (train, val, test)]
    np.testing.assert_allclose(fit(train, val).predict(test[0]), fit(*moved[:2]).predict(moved[2][0]), atol=1e-6)


def test_features_that_do_not_vary_are_harmless():
    train, val, test = networks(seed=4)
    wider = [(np.hstack([part[0], np.full((len(part[0]), 2), 0.1)]), *part[1:]) for part in (train, val, test)]
    np.testing.assert_allclose(fit(train, val).predict(test[0]), fit(*wider[:2]).predict(wider[2][0]), atol=1e-6)


def test_a_class_that_the_train_split_lacks_gets_no_probability():
    train, val, test = networks(seed=5)
    shifted = [(part[0], part[1] + (part[1] > 0)) for part in (train, val)]
    found = fit(*shifted, num_classes=NUM_CLASSES + 1).predict(test[0])
    assert found.shape == (NUM_TEST, NUM_CLASSES + 1)
    assert (found[:, 1] == 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)


def test_embeddings_that_are_not_finite_are_refused_with_their_split_and_row():
    train, val, _ = networks(seed=6)
    val[0][[4, 9], 1] = np.nan
    with pytest.raises(MethodError, match="2 of 47 embeddings of the val split are not finite, the first is in row 4"):
        fit(train, val)


def test_targets_of_one_class_are_refused():
    train, val, _ = networks(seed=7)
    with pytest.raises(MethodError, match="all 90 targets of the train split are class 2"):
        fit((train[0], np.full(NUM_TRAIN, 2)), val)
