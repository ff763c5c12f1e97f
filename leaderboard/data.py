"""The tables as data that anyone can download: CSV with a line for each submission and question, and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from leaderboard.records import Record
from leaderboard.tables import Board, standings, standings_of_tasks
from ngbench import __version__
from ngbench.evaluation.tables import Standing

FORMAT_VERSION = 1

_FIRST = ("task", "zoo", "target", "track", "rank", "submission", "title", "authors")
"""Columns at the left."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes a text for a formula by."""


def as_csv(found: Sequence[Board]) -> str:
    """Boards as CSV: a line for each row, a column for each metric of any of them, empty where there is none.

    A text that a spreadsheet would compute begins with an apostrophe.
    """
    rows = [_flat(row) | board.asked.model_dump() for board in found for row in _rows(board)]
    metrics = sorted({key for row in rows for key in row if key.startswith(("score_", "std_", "permuted_"))})
    others = dict.fromkeys(key for row in rows for key in row if key not in metrics)
    columns = [*(name for name in _FIRST if name in others), *(name for name in others if name not in _FIRST), *metrics]
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _safe(value) for key, value in row.items()} for row in rows)
    return file.getvalue()


def as_json(found: Sequence[Board]) -> str:
    """Boards as JSON, with the standings over all of them."""
    content = {
        "format_version": FORMAT_VERSION,
        "ngbench": __version__,
        "questions": [_board(board) for board in found],
        "overall": [_standing(standing) for standing in standings(found)],
        "tasks": {title: list(map(_standing, own)) for title, own in standings_of_tasks(found).items()},
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _board(board: Board) -> dict[str, Any]:
    metric = board.table.task.primary
    return {
        "title": board.title,
        **board.asked.model_dump(),
        "is_current": board.is_current,
        "metric": metric.name,
        "higher_is_better": metric.higher_is_better,
        "rows": _rows(board),
    }


def _standing(standing: Standing) -> dict[str, Any]:
    return {
        "submission": standing.method,
        "track": standing.track,
        "mean_rank": standing.rank,
        "fewest_rivals": standing.num_rivals[0],
        "most_rivals": standing.num_rivals[1],
    }


def _rows(board: Board) -> list[dict[str, Any]]:
    return [_row(board, board.records[row.method], is_tied=row.is_tied) for row in board.table.rows]


def _row(board: Board, record: Record, *, is_tied: bool) -> dict[str, Any]:
    own, newest = board.scores[record.name], record.history[-1]
    return {
        "submission": record.name,
        "title": record.about.title,
        "authors": list(record.about.authors),
        "external_data": record.about.external_data,
        "accepted": newest.date,
        "archive_sha256": newest.archive_sha256,
        **own.model_dump(exclude={"question", "draws", "settings", "seeds", "interval"}),
        "interval": [own.interval.low, own.interval.high],
        "rank": board.table.rank(record.name),
        "num_rivals": board.table.rivals(record.name),
        "is_best_or_tied": is_tied,
        "seeds": [seed.model_dump(exclude={"fingerprint"}) for seed in own.seeds],
    }


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without lists: names joined, a column for each metric and end of the interval, means over seeds, most parameters."""
    seeds = row["seeds"]
    left = ("authors", "trained_on", "interval", "scores", "scrambled_scores", "seeds")
    return {
        **{name: value for name, value in row.items() if name not in left},
        "authors": "; ".join(row["authors"]),
        "trained_on": "+".join(row["trained_on"]),
        "interval_low": row["interval"][0],
        "interval_high": row["interval"][1],
        "num_seeds": len(seeds),
        "num_parameters": max(seed["num_parameters"] for seed in seeds),
        **{name: fmean(seed[name] for seed in seeds) for name in ("fit_s", "predict_s")},
        **{f"score_{name}": spread["mean"] for name, spread in row["scores"].items()},
        **{f"std_{name}": spread["std"] for name, spread in row["scores"].items()},
        **{f"permuted_{name}": spread["mean"] for name, spread in row["scrambled_scores"].items()},
    }


def _safe(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
