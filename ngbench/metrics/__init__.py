"""Metrics: take predictions and targets as numpy arrays ``[rows]`` and give one float, with its bootstrap interval.

A metric is a frozen record of its formula, direction, bounds and value where undefined; `METRICS` finds it by name.
They know nothing of tasks, methods, torch or files.
"""

from __future__ import annotations

from ngbench.metrics.bootstrap import Interval, paired_bootstrap
from ngbench.metrics.metric import Metric
from ngbench.metrics.rank import KENDALL_TAU, SPEARMAN
from ngbench.metrics.regression import MAE, R2, RMSE
from ngbench.registry import Registry

__all__ = ["KENDALL_TAU", "MAE", "METRICS", "R2", "RMSE", "SPEARMAN", "Interval", "Metric", "paired_bootstrap"]

METRICS: Registry[Metric] = Registry("metric")
METRICS.register("kendall_tau", KENDALL_TAU)
METRICS.register("spearman", SPEARMAN)
METRICS.register("r2", R2)
METRICS.register("mae", MAE)
METRICS.register("rmse", RMSE)
