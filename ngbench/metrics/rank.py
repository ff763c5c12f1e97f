"""How well predictions order the rows: rank correlations, which no monotone rescaling of the predictions changes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ngbench.metrics.metric import Metric

# scipy.stats takes 0.4 s to import, and most commands only name a metric: the functions import it.


def kendall_tau(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Kendall's τ_b: concordant minus discordant pairs of rows, as a share of the pairs that are not tied.

    τ_b = (P - Q) / sqrt((P + Q + T) (P + Q + U)): P pairs are concordant, Q discordant, T tied in the predictions only and U in
    the targets only (Kendall, "The treatment of ties in ranking problems", Biometrika 1945). NaN where either vector is constant.

    >>> round(kendall_tau(np.array([0.1, 0.4, 0.3]), np.array([0.2, 0.5, 0.9])), 6)
    0.333333
    """
    from scipy.stats import kendalltau

    if _is_constant(predictions) or _is_constant(targets):
        return float("nan")
    result: Any = kendalltau(predictions, targets)  # scipy has no types
    return float(result.statistic)


def spearman(predictions: np.ndarray, targets: np.ndarray) -> float:
    """Spearman's ρ: Pearson correlation of the ranks, where tied rows share their mean rank. NaN where either vector is constant.

    >>> spearman(np.array([0.1, 0.4, 0.3]), np.array([0.2, 0.5, 0.9]))
    0.5
    """
    from scipy.stats import rankdata

    if _is_constant(predictions) or _is_constant(targets):
        return float("nan")
    ranks, target_ranks = rankdata(predictions), rankdata(targets)
    # Ranks are multiples of a half, so that these sums are exact; clipping undoes the rounding of the root.
    ranks, target_ranks = ranks - (len(ranks) + 1) / 2, target_ranks - (len(ranks) + 1) / 2
    correlation = ranks @ target_ranks / np.sqrt((ranks @ ranks) * (target_ranks @ target_ranks))
    return float(np.clip(correlation, -1.0, 1.0))


def _is_constant(values: np.ndarray) -> bool:
    return values.min() == values.max()


KENDALL_TAU = Metric(
    "kendall_tau",
    "Kendall τ_b",
    kendall_tau,
    higher_is_better=True,
    bounds=(-1.0, 1.0),
    undefined=0.0,
    description="Kendall's τ_b of predictions and targets; 0 where either is constant, since neither then orders the rows.",
)

SPEARMAN = Metric(
    "spearman",
    "Spearman ρ",
    spearman,
    higher_is_better=True,
    bounds=(-1.0, 1.0),
    undefined=0.0,
    description="Spearman's ρ, the correlation of ranks; 0 where predictions or targets are constant.",
)
