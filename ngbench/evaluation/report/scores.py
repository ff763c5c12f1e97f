"""The tables of a page: scores and costs of methods, their mean ranks, transfer, and where all of it ran."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

import numpy as np

from ngbench.evaluation.environment import Environment
from ngbench.evaluation.report.blocks import Cell, Table
from ngbench.evaluation.report.runs import Run, Unread
from ngbench.evaluation.result import Result
from ngbench.evaluation.tables import (
    FEWER_SEEDS,
    Question,
    interval,
    memory,
    overall,
    seeds_note,
    shown_shift,
    shown_spread,
    spread,
    track_title,
    transfer_matrix,
)
from ngbench.metrics import facts_of

MOST_METRICS, MOST_FURTHER = 5, 7
"""Metrics that a table beside the primary one's interval has room for, and one of further metrics alone."""


def score_tables(table: Question) -> tuple[Table, ...]:
    """What each method scores, track by track, the best first; of many metrics the later ones in tables of their own."""
    first, further = table.task.metrics[:MOST_METRICS], table.task.metrics[MOST_METRICS:]
    parts = np.array_split(np.array(further), -(-len(further) // MOST_FURTHER)) if further else []
    turns = [f", {turn} of {len(parts)}" if len(parts) > 1 else "" for turn in range(1, len(parts) + 1)]
    return (
        _table("Scores", table, first, _legend(table), with_primary=True),
        *(
            _table(f"Further scores{turn}", table, part.tolist(), "", with_primary=False)
            for turn, part in zip(turns, parts, strict=True)
        ),
    )


def _table(title: str, table: Question, names: Sequence[str], note: str, *, with_primary: bool) -> Table:
    has_shift = any(result.mean_shift is not None for result in table.results.values())
    titles = [facts_of(name).title for name in names]
    if with_primary:
        titles[1:1] = [f"{table.task.confidence:.0%} interval", "permuted", *(["shift"] if has_shift else [])]
    parts: dict[str, list[tuple[Cell, ...]]] = {}
    for row in table.rows:
        if row.result is not None:
            cells = [Cell(spread(row.result, name), table.is_best(row) and name == row.result.primary) for name in names]
            if with_primary:
                cells[1:1] = _beside_primary(row.result, has_shift=has_shift)
            parts.setdefault(track_title(row.result.access), []).append((_name(table, row.method), *cells))
        elif with_primary:
            reason = Cell(row.reason or "", width=len(titles), is_words=True)
            parts.setdefault("without a result", []).append((Cell(row.method), reason))
    return Table(title, ("method", *titles), parts, note)


def _name(table: Question, method: str) -> Cell:
    return Cell(f"{method} {FEWER_SEEDS}" if table.lacks_seeds(method) else method)


def _legend(table: Question) -> str:
    """What stands in the table, of what is there."""
    results = table.results.values()
    are_several = any(len(result.seeds) > 1 for result in results)
    copies = f"the worst of {table.task.num_scrambled} copies" if table.task.num_scrambled > 1 else "a copy"
    best = "★ The best of several in its track, or not told from it by the paired bootstrap."
    has_best = any(table.is_best(row) for row in table.rows)
    has_shift = any(result.mean_shift is not None for result in results)
    texts = (
        "Mean ± standard deviation over seeds." if are_several else "",
        f"Interval: of {facts_of(table.task.primary.name).title}, over test networks{' and seeds' if are_several else ''}.",
        f"Permuted: on {copies} of the test networks with hidden neurons permuted, which leaves their functions as they are.",
        "Shift: how far what is said of a network then moves, on average." if has_shift else "",
        best if has_best else "",
        *seeds_note(table),
    )
    return " ".join(filter(None, texts)) if results else ""


def _beside_primary(result: Result, *, has_shift: bool) -> list[Cell]:
    cells = [Cell(interval(result)), Cell(shown_spread(result.scrambled_scores[result.primary]))]
    return cells + ([Cell(shown_shift(result.mean_shift))] if has_shift else [])


def cost_table(table: Question) -> Table:
    """What each method takes, in the order of the scores."""
    parts: dict[str, list[tuple[Cell, ...]]] = {}
    for method, result in table.results.items():
        parts.setdefault(track_title(result.access), []).append((Cell(method), *_costs(result)))
    note = "Training and prediction: mean over seeds, as measured where it ran; prediction: of the whole test split."
    return Table("Costs", ("method", "parameters", "training", "prediction", "memory", "seeds"), parts, note)


def _costs(result: Result) -> Iterator[Cell]:
    seeds = result.seeds
    yield Cell(f"{seeds[0].num_parameters:,}" if seeds[0].num_parameters else "—")
    yield Cell(_seconds(fmean(seed.fit_s for seed in seeds)))
    yield Cell(_seconds(fmean(seed.predict_s for seed in seeds)))
    yield Cell(memory(result))
    which = ", ".join(str(seed.seed) for seed in seeds)
    yield Cell(f"{len(seeds)} ({which})" if len(seeds) > 1 else f"1 (seed {which})")


def rank_table(found: Sequence[Question]) -> Table | None:
    """Mean ranks of the methods that have a result for every question; None where there is one question, or no such method."""
    standings = overall(found)
    if len(found) < 2 or not standings:
        return None
    rows = [(Cell(s.method), Cell(s.track, is_words=True), Cell(f"{s.rank:.2f}"), Cell(s.rivals)) for s in standings]
    note = (
        f"Mean over the questions of each task, then over tasks ({len(found)} questions); methods that are tied share the mean "
        "of their places. Rivals: other methods of its track. A method that lacks a question has no rank."
    )
    return Table("Mean rank within its track", ("method", "track", "rank", "rivals"), {"": rows}, note)


def transfer_table(found: Sequence[Question], zoo: str) -> Table | None:
    """Accuracy of linear probes of what methods learned for one target, on each other; None where no run has any."""
    methods = dict.fromkeys(method for table in found for method in table.results)
    matrices = {method: matrix for method in methods if (matrix := transfer_matrix(found, zoo, method))}
    if not matrices:
        return None
    probed = list(dict.fromkeys(name for matrix in matrices.values() for row in matrix.values() for name in row))
    parts = {
        method: [(Cell(own), *(_probed(row.get(name), name == own) for name in probed)) for own, row in matrix.items()]
        for method, matrix in matrices.items()
    }
    note = (
        "Accuracy on the test split, mean over seeds; the fuller the ground, the higher. Bold: probed for what it was fitted for."
    )
    return Table("Linear probes", ("fitted for", *(f"probed for {name}" for name in probed)), parts, note)


def _probed(score: float | None, is_own: bool) -> Cell:
    return Cell("—") if score is None else Cell(f"{score:.3f}", is_own, share=score)


def unread_table(found: Sequence[Unread]) -> Table:
    """Runs that are not shown, with the reason."""
    rows = [(Cell(str(run.folder)), Cell(run.reason, is_words=True)) for run in found]
    return Table("Runs that are not shown", ("folder", "reason"), {"": rows})


def environment_table(runs: Sequence[Run]) -> Table:
    """Where runs took place, each environment once."""
    own: dict[str, list[Result]] = {}
    for run in runs:
        own.setdefault(run.result.environment.model_dump_json(), []).append(run.result)
    rows = []
    for results in own.values():
        environment, days = results[0].environment, sorted(result.created[:10] for result in results)
        when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
        rows.append((Cell(when), Cell(f"{len(results):,}"), *_environment(environment)))
    headings = ("date", "runs", "device", "threads", "platform", "Python", "packages", "commit")
    return Table("Where it ran", headings, {"": rows})


def _environment(environment: Environment) -> Iterator[Cell]:
    yield Cell(environment.device)
    yield Cell(str(environment.num_threads))
    yield Cell(environment.platform)
    yield Cell(environment.python)
    yield Cell(", ".join(f"{name} {version}" for name, version in environment.packages.items()), is_words=True)
    yield Cell(commit(environment) or "—")


def commit(environment: Environment) -> str:
    """Of the ngbench that ran, shortened; nothing outside a checkout."""
    number, plus, changes = (environment.git_commit or "").partition("+")
    return number[:12] + plus + changes


def _seconds(duration_s: float) -> str:
    if duration_s < 0.01:
        return "< 0.01 s"
    return f"{duration_s:.2f} s" if duration_s < 10 else f"{duration_s:,.0f} s"
