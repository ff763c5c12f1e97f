"""Metrics: take predictions and targets as numpy arrays and give one float, with its bootstrap interval.

A metric is a frozen record of its formula, direction, bounds, value where undefined and the kind of predictions that it takes;
`METRICS` finds it by name. They know nothing of tasks, methods, torch or files.
"""

from __future__ import annotations

from ngbench.metrics.bootstrap import Interval, Resamples, tied_with_best
from ngbench.metrics.checks import Takes
from ngbench.metrics.classification import ACCURACY, ECE, MACRO_F1, NLL
from ngbench.metrics.merging import Measure, merging_measure, merging_measures
from ngbench.metrics.metric import Metric
from ngbench.metrics.rank import KENDALL_TAU, SPEARMAN
from ngbench.metrics.regression import MAE, R2, RMSE
from ngbench.metrics.retrieval import MATE_RANK, MEAN_AVERAGE_PRECISION, NDCG, RECALL_AT_1, RECALL_AT_10
from ngbench.registry import Registry

__all__ = [
    "ACCURACY",
    "ECE",
    "KENDALL_TAU",
    "MACRO_F1",
    "MAE",
    "MATE_RANK",
    "MEAN_AVERAGE_PRECISION",
    "METRICS",
    "NDCG",
    "NLL",
    "R2",
    "RECALL_AT_1",
    "RECALL_AT_10",
    "RMSE",
    "SPEARMAN",
    "Interval",
    "Measure",
    "Metric",
    "Resamples",
    "Takes",
    "facts_of",
    "merging_measures",
    "tied_with_best",
]

METRICS: Registry[Metric] = Registry("metric")
for _metric in (
    *(KENDALL_TAU, SPEARMAN, R2, MAE, RMSE),
    *(ACCURACY, MACRO_F1, ECE, NLL),
    *(MEAN_AVERAGE_PRECISION, RECALL_AT_1, RECALL_AT_10, NDCG, MATE_RANK),
):
    METRICS.register(_metric.name, _metric)


def facts_of(name: str) -> Metric | Measure:
    """Title, direction and bounds of a number in a result.

    Raises:
        UnknownNameError: No metric of the name.
    """
    return merging_measure(name) or METRICS[name]
