"""Pictures of results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ngbench.evaluation.evaluate import PREDICTIONS_FILE, seed_folder
from ngbench.evaluation.exam import PredictionExam, Scored
from ngbench.evaluation.predictions import Predictions
from ngbench.evaluation.result import Result
from ngbench.evaluation.speed.cell import CellResult
from ngbench.metrics import METRICS
from ngbench.store import Zoo
from ngbench.tasks import TASKS, Task

PICTURE_FILE = "predicted-vs-true.png"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def draw_predictions(result: Result, zoo: Zoo, folder: Path) -> Path | None:
    """Draws predicted against true answers of the first seed's test split, beside the same for the orbit-scrambled networks.

    Args:
        result: Result of a run.
        zoo: The zoo that it was made on.
        folder: The run's folder; the picture is written into it.

    Returns:
        Path of the PNG; None for a task whose answers are no numbers, or withheld.
    """
    from matplotlib.figure import Figure

    task = TASKS[result.task].asked(zoo.name, split=result.split, target=result.target)
    if task.kind != "regression" or not result.is_scored:
        return None
    exam, seed = PredictionExam(task, zoo), result.seeds[0].seed
    scored = exam.score(Predictions.load(seed_folder(folder, seed) / PREDICTIONS_FILE))
    split = "" if result.split == "default" else f", {result.split}"
    figure = Figure(figsize=(9.6, 4.9), layout="constrained")
    figure.suptitle(
        f"{result.title}: {task.title.lower()} on {result.zoo}{split}, {len(exam.ids):,} test networks, seed {seed}", fontsize=12
    )
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    _panel(left, task, exam.targets, scored.values, scored.scores[result.primary], "as trained")
    _panel(
        right,
        task,
        exam.targets,
        scored.scrambled[0],
        METRICS[result.primary](scored.scrambled[0], exam.targets),
        "hidden neurons permuted (same functions)",
    )
    left.set_ylabel(f"predicted {task.label()}")
    for axes in (left, right):
        _frame(axes, exam.targets, scored)
    path = folder / PICTURE_FILE
    figure.savefig(path, dpi=150)
    return path


def draw_growth(results: Sequence[CellResult], path: Path) -> Path:
    """Draws seconds and memory of a training step against the edges of a network, both axes logarithmic.

    Args:
        results: The rows of the table of growth; those without a figure are left out.
        path: Of the picture; its ending chooses the format.

    Returns:
        The path.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    figure.suptitle("Cost of a training step on MLPs 2-w-w-3", fontsize=12)
    for axes, (label, cost) in zip(figure.subplots(1, 2), GROWTH_PANELS.items(), strict=True):
        for color, method in zip(COLORS * len(results), dict.fromkeys(row.cell.name for row in results), strict=False):
            rows = [row for row in results if row.cell.name == method and row.train is not None and cost(row)]
            if not rows:
                continue
            edges, costs = [row.num_edges for row in rows], [cost(row) for row in rows]
            axes.loglog(edges, costs, marker="o", color=color, label=method)
            in_proportion = [costs[-1] * number / edges[-1] for number in edges]
            axes.loglog(edges, in_proportion, color=color, linewidth=1, linestyle=":", label=f"{method}, in proportion to edges")
        axes.set_xlabel("edges of a network")
        axes.set_ylabel(label)
        axes.grid(color="0.92", linewidth=0.8, which="both")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.lines:
            axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)
    return path


GROWTH_PANELS: Mapping[str, Callable[[CellResult], Any]] = {
    "seconds for a network": lambda row: 1 / row.train.median if row.train else None,
    "peak memory of the step (MB)": lambda row: row.peak_memory_bytes / 1e6 if row.peak_memory_bytes else None,
}


def _panel(axes, task: Task, targets: np.ndarray, predictions: np.ndarray, value: float, title: str) -> None:  # noqa: ANN001 - matplotlib is lazy
    axes.axline((0, 0), slope=1, color="0.35", linewidth=1, linestyle="--", label="y = x", zorder=1)
    axes.scatter(targets, predictions, s=9, alpha=0.45, color="#0072B2", linewidths=0, label="one network", zorder=2)
    axes.set_title(f"{title}\n{task.primary.title} = {value:.3f}", fontsize=10.5)
    axes.set_xlabel(f"true {task.label()}")
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", frameon=False, fontsize=9)


def _frame(axes, targets: np.ndarray, scored: Scored) -> None:  # noqa: ANN001 - matplotlib is lazy
    """The same range on both axes, so that y = x is the diagonal; a stray prediction may leave it."""
    low = min(targets.min(), *(np.quantile(v, 0.005) for v in (scored.values, scored.scrambled[0])))
    high = max(targets.max(), *(np.quantile(v, 0.995) for v in (scored.values, scored.scrambled[0])))
    margin = 0.04 * max(high - low, 1e-9)
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(low - margin, high + margin)
    axes.set_aspect("equal", adjustable="box")
