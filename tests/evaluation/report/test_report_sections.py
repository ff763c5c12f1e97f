"""What a section shows of each kind of task."""

from types import SimpleNamespace

import numpy as np
import pytest

from ngbench.alignment import Curves
from ngbench.evaluation.report import sections
from ngbench.evaluation.report.blocks import Pictures
from ngbench.evaluation.report.chart import Chart
from ngbench.evaluation.report.runs import Asked
from ngbench.evaluation.report.sections import Answered, absence
from ngbench.store import open_zoo
from ngbench.tasks import TASKS, MergingPlan

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
    return Curves(low + rng.random((NUM_PAIRS, 25)), rng.random((NUM_PAIRS, 25)))


def test_curves_of_merging_are_means_over_pairs_of_all_methods():
    rng = np.random.default_rng(4)
    full = {f"recovery_{noise:g}": 0.5 for noise in (0, 0.1, 0.3, 1)} | {f"merged_{size}": 0.7 for size in range(2, 9)}
    measured = {
        number: SimpleNamespace(metrics=metrics, curves=curves(rng, low), repaired=curves(rng, low))
        for number, (metrics, low) in enumerate(((full, 0.0), ({}, 3.0)))
    }
    plan = TASKS["merging"].plan(MergingPlan)
    exam = SimpleNamespace(measured=measured.__getitem__, plan=plan, items=SimpleNamespace(pairs=np.zeros((NUM_PAIRS, 2))))
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
    assert loss.marks[0].path == loss.plot.line(np.linspace(0, 1, plan.num_points), mean)
    assert loss.plot.y.high > mean.max() > loss.plot.y.high - 0.6
    assert [(c.title, [mark.label for mark in c.legend]) for c in more.first] == [
        ("Known permutation", ["low"]),
        ("Sets merged", ["low"]),
    ]


def test_single_pictures_of_several_kinds_stand_side_by_side_and_say_what_they_are():
    kinds = [Pictures(title, (Chart("one, seed 0", None, ()),)) for title in ("Confusion", "Reliability")]
    (block,) = sections._in_one(kinds)
    assert [picture.title for picture in block.first] == ["Confusion: one, seed 0", "Reliability: one, seed 0"]
    several = [Pictures("Confusion", 2 * (Chart("one", None, ()),)), kinds[1]]
    assert sections._in_one(several) == several


def test_baselines_that_cannot_read_a_zoo_are_rows_that_say_so():
    task = TASKS["retrieval"].asked("digits-park")
    exam = SimpleNamespace(task=task, zoo=open_zoo("digits-park"))
    found = Answered.of(Asked(exam, {}), [])
    assert [(row.method, row.reason) for row in found.table.rows] == [("flat-cosine", "left out: reads one architecture only")]
