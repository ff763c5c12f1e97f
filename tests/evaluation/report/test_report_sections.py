"""What a section shows of each kind of task."""

from types import SimpleNamespace

import numpy as np
import pytest

from ngbench.alignment import Curves
from ngbench.alignment.interpolate import NUM_POINTS
from ngbench.evaluation.report import sections
from ngbench.evaluation.report.sections import Answered, absence
from ngbench.store import open_zoo
from ngbench.tasks import TASKS

NUM_PAIRS = 6


@pytest.mark.parametrize(
    ("method", "task", "zoo", "reason"),
    [
        (
            "matrix-cnn",
            "merging",
            "digits-cnn",
            "method 'matrix-cnn' is not applicable to merging: it has no embed_nodes or match",
        ),
        ("flat-mlp", "classification", "digits-park", "method 'flat-mlp' reads one architecture; zoo 'digits-park' has 64"),
        ("ng-gnn", "retrieval", "digits-park", "no run among those given"),
        ("of-someone-else", "retrieval", "digits-park", "no run among those given"),
    ],
)
def test_a_method_without_a_run_is_told_why(method, task, zoo, reason):
    assert reason in absence(method, TASKS[task], open_zoo(zoo))


def test_baselines_of_other_tasks_are_not_missed():
    missed = {"naive", "majority", "weight-matching"} - sections._anchors(TASKS["merging"])
    assert missed == {"naive", "weight-matching"}


def curves(rng, low):
    return Curves(low + rng.random((NUM_PAIRS, NUM_POINTS)), rng.random((NUM_PAIRS, NUM_POINTS)))


def test_curves_of_merging_are_means_over_pairs_of_all_methods():
    rng = np.random.default_rng(4)
    full = {f"recovery_{noise:g}": 0.5 for noise in (0, 0.1, 0.3, 1)} | {f"merged_{size}": 0.7 for size in range(2, 9)}
    measured = {
        number: SimpleNamespace(metrics=metrics, curves=curves(rng, low), repaired=curves(rng, low))
        for number, (metrics, low) in enumerate(((full, 0.0), ({}, 3.0)))
    }
    exam = SimpleNamespace(measured=measured.__getitem__, items=SimpleNamespace(pairs=np.zeros((NUM_PAIRS, 2))))
    answers = {name: SimpleNamespace(scored=[SimpleNamespace(values=number)]) for number, name in enumerate(("low", "high"))}
    table = SimpleNamespace(rows=[SimpleNamespace(method=name) for name in ("high", "low", "none")])
    lines, more = sections._merging(exam, Answered(exam, table, answers))
    assert f"{NUM_PAIRS} pairs" in lines.title
    assert [(c.title, [mark.label for mark in c.legend]) for c in lines.first] == [
        (title, ["high", "low"])
        for title in ("Loss", "Accuracy", "Loss, statistics estimated again", "Accuracy, statistics estimated again")
    ]
    loss = lines.first[0]
    mean = measured[1].curves.loss.mean(0)
    assert loss.marks[0].path == loss.plot.line(np.linspace(0, 1, NUM_POINTS), mean)
    assert loss.plot.y.high > mean.max() > loss.plot.y.high - 0.6
    assert [(c.title, [mark.label for mark in c.legend]) for c in more.first] == [
        ("Known permutation", ["low"]),
        ("Sets merged", ["low"]),
    ]
