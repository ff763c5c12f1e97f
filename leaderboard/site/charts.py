"""Pictures of the leaderboard, drawn as those of the report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

import numpy as np

from leaderboard.tables import Board
from ngbench.evaluation.report.chart import Axis, Chart, Mark, Plot
from ngbench.evaluation.report.pictures import standing
from ngbench.metrics import facts_of
from ngbench.tasks import TASKS

ROW, WIDTH, LEFT, MOST_LETTERS = 28, 400, 152, 23
"""Height of a row of a picture, its width, the margin of the names of rows, and their letters."""


def board_charts(board: Board) -> list[Chart]:
    """Where methods stand, and what that costs."""
    whole = standing(board.table)
    seeds = {name: own.seeds for name, own in board.scores.items()}
    costs: dict[str, Mapping[str, float]] = {
        "parameters": {name: float(max(fit.num_parameters for fit in own)) for name, own in seeds.items()},
        "seconds of training": {name: fmean(fit.fit_s for fit in own) for name, own in seeds.items()},
    }
    drawn = (_over_cost(board, label, found) for label, found in costs.items())
    return [chart for chart in (whole, *drawn) if chart is not None]


def _over_cost(board: Board, label: str, costs: Mapping[str, float]) -> Chart | None:
    """The primary metric over a cost, of methods that have one; None where fewer than two have."""
    names = [row.method for row in board.table.rows if costs[row.method] > 0]
    if len(names) < 2:
        return None
    metric = board.table.task.primary
    scores, found = ({name: own[name] for name in names} for own in (_means(board), costs))
    ends = (math.floor(math.log10(min(found.values()))), math.ceil(math.log10(max(found.values()))))
    x = Axis.powers(f"{label}, as reported", ends[0], max(ends[1], ends[0] + 1))
    plot = Plot(x, Axis.around(metric.title, min(scores.values()), max(scores.values())))
    marks = tuple(
        Mark.dots(plot, np.array([found[name]]), np.array([scores[name]]), label=name, place=place)
        for place, name in enumerate(names)
    )
    left_out = len(board.table.rows) - len(names)
    note = f"Without {label}, and not shown: {left_out}." if left_out else ""
    return Chart(f"{metric.title} over {label}", plot, marks, note)


def _means(board: Board) -> dict[str, float]:
    return {name: own.interval.score for name, own in board.scores.items()}


def submission_charts(boards: Sequence[Board], name: str) -> list[Chart]:
    """How far a submission is ahead of the best other, and each of its fits; a picture of each for every task.

    Args:
        boards: Those that it answers.
        name: Of the submission.
    """
    tasks: dict[str, list[Board]] = {}
    for board in boards:
        tasks.setdefault(board.asked.task, []).append(board)
    return [chart for own in tasks.values() for chart in _of_task(own, name)]


def _of_task(boards: Sequence[Board], name: str) -> Iterator[Chart]:
    title, metric = TASKS[boards[0].asked.task].title, facts_of(boards[0].scores[name].primary)
    leads = [(board, lead[1]) for board in boards if (lead := board.lead(name)) is not None]
    if leads:
        low, high, score = np.array([(found.low, found.high, found.score) for _, found in leads]).T
        x = Axis.around(f"{metric.title} ahead of the best other", min(0.0, float(low.min())), max(0.0, float(high.max())))
        plot, heights = _rows(x, [board for board, _ in leads])
        ends = np.array([plot.y.low, plot.y.high])
        marks = (
            Mark(plot.line(np.zeros(2), ends), "guide", "alike"),
            Mark(plot.bars(low, high, heights), "line", "interval of the paired bootstrap"),
            Mark(plot.dots(score, heights), "dots", "difference"),
        )
        yield Chart(f"{title}: against its track", plot, marks, "To the right of the line: better.")
    yield _fits(f"{title}: every fit", boards, name)


def _fits(title: str, boards: Sequence[Board], name: str) -> Chart:
    """Scores of each fit, on the test networks as trained and permuted."""
    own = [board.scores[name] for board in boards]
    metric = facts_of(own[0].primary)
    trained, permuted = (
        [[getattr(fit, part)[metric.name] for fit in scores.seeds] for scores in own] for part in ("scores", "scrambled_scores")
    )
    every = [value for rows in (*trained, *permuted) for value in rows]
    plot, heights = _rows(Axis.around(metric.title, min(every), max(every)), boards)
    where = np.repeat(heights, [len(row) for row in trained])
    first, second = (np.concatenate([np.array(row) for row in rows]) for rows in (trained, permuted))
    marks = (
        Mark(plot.dots(first, where), "dots", "as trained"),
        Mark(plot.dots(second, where - 0.25, shape="diamond"), "dots", "hidden neurons permuted", 1, "diamond"),
    )
    return Chart(title, plot, marks, "A point for each seed.")


def _rows(x: Axis, boards: Sequence[Board]) -> tuple[Plot, np.ndarray]:
    """A picture with a row for each board, and the heights of the rows."""
    names = Axis.names([_short(board) for board in boards], most=MOST_LETTERS)
    plot = Plot(x, names, width=WIDTH, height=56 + ROW * len(boards), left=LEFT)
    return plot, -np.arange(len(boards), dtype=np.float64)


def _short(board: Board) -> str:
    """What tells a question from others of its task."""
    is_choice = len(TASKS[board.asked.task].zoos.get(board.asked.zoo, ())) > 1
    return f"{board.asked.zoo}, {board.asked.target}" if is_choice else f"{board.asked.zoo} v{board.asked.zoo_version}"
