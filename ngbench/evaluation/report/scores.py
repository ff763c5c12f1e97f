"""The tables of a page: methods of a question, their mean ranks, and where all of it ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from ngbench.evaluation.environment import Environment
from ngbench.evaluation.report.blocks import Cell, Table
from ngbench.evaluation.report.runs import Run
from ngbench.evaluation.result import Result
from ngbench.evaluation.tables import Question, overall, spread, track_title
from ngbench.metrics import facts_of


def question_table(table: Question) -> Table:
    """Every number of a question, track by track, the best first."""
    names = table.task.metrics
    titles = [facts_of(name).title for name in names]
    # nodes of permuted networks have other numbers, so that no matching of them can stay
    has_shift = table.task.kind != "merging"
    headings = ("method", titles[0], "interval", "permuted", *(["shift"] if has_shift else []), *titles[1:])
    headings += ("parameters", "training", "prediction", "memory", "seeds")
    parts: dict[str, list[tuple[Cell, ...]]] = {}
    tracks = Counter(row.result.access for row in table.rows if row.result is not None)
    for row in table.rows:
        if row.result is None:
            reason = Cell(row.reason or "", width=len(headings) - 1, is_words=True)
            parts.setdefault("without a result", []).append((Cell(row.method), reason))
        else:
            is_best = row.is_tied and tracks[row.result.access] > 1
            cells = (Cell(row.method), *_scores(row.result, names, is_best, has_shift=has_shift), *_costs(row.result))
            parts.setdefault(track_title(row.result.access), []).append(cells)
    return Table("Scores and costs", headings, parts, _legend(table, has_shift=has_shift))


def _legend(table: Question, *, has_shift: bool) -> str:
    """What stands in the table."""
    copies = f"the worst of {table.task.num_scrambled} copies" if table.task.num_scrambled > 1 else "a copy"
    texts = (
        f"Mean ± standard deviation over seeds; {table.task.confidence:.0%} interval over test networks and seeds.",
        "★: best of several in its track, or not told from the best by the paired bootstrap.",
        f"Permuted: on {copies} of the test networks with hidden neurons permuted, which leaves their functions as they are.",
        "Shift: how far what is said of a network then moves, on average." if has_shift else "",
    )
    return " ".join(filter(None, texts))


def _scores(result: Result, names: Sequence[str], is_best: bool, *, has_shift: bool) -> Iterator[Cell]:
    primary = result.primary
    yield Cell(spread(result, primary), is_best)
    yield Cell(f"{result.interval.low:.3f} … {result.interval.high:.3f}")
    yield Cell(f"{result.scrambled_scores[primary].mean:.3f}")
    shift = result.mean_shift
    if has_shift:
        yield Cell("—" if shift is None else "0" if shift == 0 else f"{shift:.3f}" if shift >= 0.0005 else f"{shift:.0e}")
    for name in names[1:]:
        yield Cell(spread(result, name) if name in result.scores else "—")


def _costs(result: Result) -> Iterator[Cell]:
    seeds = result.seeds
    yield Cell(f"{seeds[0].num_parameters:,}" if seeds[0].num_parameters else "—")
    yield Cell(_seconds(sum(seed.fit_s for seed in seeds) / len(seeds)))
    yield Cell(_seconds(sum(seed.predict_s for seed in seeds) / len(seeds)))
    peaks = [seed.peak_memory_bytes for seed in seeds if seed.peak_memory_bytes is not None]
    yield Cell(f"{max(peaks) / 1e6:,.0f} MB" if peaks else "—")
    yield Cell(", ".join(str(seed.seed) for seed in seeds))


def rank_table(found: Sequence[Question]) -> Table | None:
    """Mean ranks of the methods that have a result for every question; None where there is one question, or no such method."""
    ranks = overall(found)
    if len(found) < 2 or not ranks:
        return None
    rows = [(Cell(method), Cell(f"{rank:.2f}")) for method, rank in ranks.items()]
    note = f"Over {len(found)} questions, among methods with the same access; a method that lacks one has no rank."
    return Table("Mean rank within its track", ("method", "rank"), {"": rows}, note)


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
    yield Cell(environment.git_commit[:12] if environment.git_commit else "—")


def _seconds(duration_s: float) -> str:
    return f"{duration_s:.2f} s" if duration_s < 10 else f"{duration_s:,.0f} s"
