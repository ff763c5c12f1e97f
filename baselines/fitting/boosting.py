"""Gradient boosting on a table of features, its configuration chosen by the validation metric."""

from __future__ import annotations

from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from baselines.fitting.tables import Table
from baselines.fitting.trees import Trees
from ngbench.methods import Problem, RunContext

SETTINGS = ("learning_rate", "max_iter", "max_leaf_nodes", "min_samples_leaf", "l2_regularization", "max_features")
CANDIDATES = tuple(
    dict(zip(SETTINGS, values, strict=True))
    for values in (
        (0.05, 300, 20, 20, 1.0, 0.3),
        (0.05, 200, 8, 10, 1.0, 0.3),
        (0.03, 400, 20, 8, 1.0, 0.2),
    )
)
"""Settings of scikit-learn's histogram gradient boosting that are compared, in this order as far as the budget goes.

On 5 folds of 3,800 small CNNs settings from 300 trees of 20 leaves upward lie within 0.005 of the best τ, of 0.769; on 400
networks smaller trees do as well. More candidates found nothing better, and would take more than a few seconds.
"""


def fit_best(
    problem: Problem, train: Table, *, val: Table, context: RunContext, is_categorical: np.ndarray | None = None
) -> Trees:
    """The best of `CANDIDATES` by the problem's metric on `val`, each fitted on `train`; no more of them than the budget allows.

    The same for a seed: sums run in one thread, in one order.

    Args:
        problem: Gives the metric and its direction.
        train: What the candidates are fitted on.
        val: What they are compared on.
        context: Gives seed, budget and progress.
        is_categorical: Which features are category codes from 0 upward, bool ``[features]``; None for none.
    """
    # imported here: scikit-learn takes a second to import, and the mean does not need it
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingRegressor if problem.kind == "regression" else HistGradientBoostingClassifier
    sign = 1 if problem.higher_is_better else -1
    configs = CANDIDATES[: max(1, context.budget.num_candidates)]
    fitted: list[tuple[float, Trees]] = []
    shared: dict[str, Any] = {"categorical_features": is_categorical, "early_stopping": False, "random_state": context.seed}
    for config in configs:
        model = kind(**config, **shared)
        with one_thread():
            model.fit(train.features, train.targets)
        trees = Trees.of(model)
        fitted.append((sign * problem.metric(predict(trees, val.features, problem=problem), val.targets), trees))
        context.progress(len(fitted), len(configs), f"val {sign * max(score for score, _ in fitted):.3f}")
    return max(fitted, key=lambda pair: pair[0])[1]


def predict(trees: Trees, features: np.ndarray, *, problem: Problem) -> np.ndarray:
    """Predictions for rows ``[graphs, features]``, float64 ``[graphs]`` or probabilities ``[graphs, classes]``.

    A class that no training network has gets probability 0.
    """
    if problem.kind == "regression":
        return trees.predict(features)
    probabilities = np.zeros((len(features), len(problem.classes)))
    probabilities[:, trees.classes] = trees.probabilities(features)
    return probabilities


def one_thread() -> threadpool_limits:
    """Keeps OpenMP to one thread: sums have one order, and no thread waits for another that has no core.

    Two threads took up to nine times as long as one where other work kept the second core busy.
    """
    return threadpool_limits(1, user_api="openmp")
