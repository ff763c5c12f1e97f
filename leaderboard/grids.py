"""Tables as they are shown: what stands in each cell, what it is sorted by, and how it is marked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from leaderboard.records import Record, Scores
from leaderboard.tables import Board, time_of_network_s
from ngbench.evaluation.report.chart import number
from ngbench.evaluation.tables import (
    FEWER_SEEDS,
    TRACKS,
    Question,
    Standing,
    interval,
    seeds_note,
    shown_memory,
    shown_shift,
    shown_spread,
    track_title,
)
from ngbench.metrics import Measure, Metric, facts_of

MOST_METRICS = 4
"""Metrics of a table beside costs; the further ones have a table of their own."""

COSTS = ("parameters", "training", "per network")
"""Columns of what a method takes: learned numbers, seconds of a fit, and seconds to answer for one test network."""

RANK_NOTE = (
    "Mean over the questions of each task, then over tasks; methods that are tied share the mean of their places. "
    "Rivals: other submissions of its track, fewest to most."
)
"""What stands below a table of mean ranks."""

STRIP_WIDTH, STRIP_MARGIN = 136, 6
"""Of the picture in a cell, in units of its view box, and what is free at its ends."""

Order = Literal["", "ascending", "descending"]


@dataclass(frozen=True)
class Column:
    """A heading.

    Args:
        title: Its text.
        first: How rows are sorted when it is chosen; empty where they cannot be.
        now: How rows are sorted by it as the page is opened.
        is_text: Whether words and not numbers stand under it.
        href: Where its text leads, of a column that rows are not sorted by.
    """

    title: str
    first: Order = ""
    now: Order = ""
    is_text: bool = False
    href: str = ""


@dataclass(frozen=True)
class Strip:
    """A score in a cell as a picture: places along its view box.

    Args:
        low: Of the interval.
        high: Of the interval.
        mean: On the test networks as they were trained.
        permuted: On those with hidden neurons permuted.
    """

    low: str
    high: str
    mean: str
    permuted: str


@dataclass(frozen=True)
class Cell:
    """What stands in a cell.

    Args:
        text: In full colour.
        tail: Behind it, less loud.
        value: What it is sorted by, as text; empty for what comes last, None for its text.
        is_best: Whether it is marked as best or tied.
        is_text: Whether it is words.
        href: Where it leads.
        strip: A picture in place of the text.
    """

    text: str
    tail: str = ""
    value: str | None = None
    is_best: bool = False
    is_text: bool = False
    href: str = ""
    strip: Strip | None = None


@dataclass(frozen=True)
class Line:
    """A row.

    Args:
        name: What it is about.
        href: Where that leads.
        cells: Of the columns behind the first.
        key: By which it is filtered.
        by: Who made it.
        flags: What sets it apart, in a word or two each.
        words: What else it is found by.
    """

    name: str
    href: str
    cells: tuple[Cell, ...]
    key: str = ""
    by: str = ""
    flags: tuple[str, ...] = ()
    words: str = ""


@dataclass(frozen=True)
class Part:
    """Rows that have what they read in common.

    Args:
        lines: In their order.
        tracks: As of `ngbench.methods.MethodInfo.track`; several where rows stand for several questions, none where rows are
            not parted.
    """

    lines: tuple[Line, ...]
    tracks: tuple[str, ...] = ()

    @property
    def track(self) -> str:
        """By which it is filtered."""
        return " ".join(self.tracks)

    @property
    def kind(self) -> str:
        """Of the first track, without its number."""
        return self.track.partition(" ")[0].partition("-")[0]

    @property
    def title(self) -> str:
        """Of the tracks, as it is printed."""
        return "; ".join(map(track_title, self.tracks))


@dataclass(frozen=True)
class Grid:
    """A table.

    Args:
        id: Of its element.
        title: What it shows, for those who do not see the page.
        columns: The first is that of the lines' names.
        parts: Rows by track.
        note: Below it.
    """

    id: str
    title: str
    columns: tuple[Column, ...]
    parts: tuple[Part, ...]
    note: str = ""

    @property
    def choices(self) -> list[tuple[str, str]]:
        """Keys of the rows with their names, by name."""
        found = {line.key: line.name for part in self.parts for line in part.lines}
        return sorted(found.items(), key=lambda item: (item[1].lower(), item[0]))


def score_grid(board: Board, root: str) -> Grid:
    """The table of a question: scores, and what they cost.

    Args:
        board: Of the question.
        root: From the page to the folder of the site.
    """
    task = board.table.task
    metrics = [facts_of(name) for name in task.metrics[:MOST_METRICS]]
    has_shift = any(result.mean_shift is not None for result in board.table.results.values())
    columns = (
        Column("method", "ascending", is_text=True),
        Column(metrics[0].title, _first(metrics[0]), _first(metrics[0])),
        Column("interval, permuted"),
        Column("permuted", _first(metrics[0])),
        *([Column("shift", "ascending")] if has_shift else []),
        *(Column(title, "ascending") for title in COSTS),
        *(Column(metric.title, _first(metric)) for metric in metrics[1:]),
        Column("memory", "ascending"),
        Column("interval", _first(metrics[0])),
        Column("seeds", "descending"),
        Column("accepted", "descending"),
    )
    parts = _parts(board, lambda name: tuple(_score_cells(board, name, metrics, has_shift=has_shift)), root)
    return Grid("scores", f"Scores, {board.title}", columns, parts, _legend(board, has_shift=has_shift))


def further_grid(board: Board, root: str) -> Grid | None:
    """The metrics of a question that its table has no room for; None where there are none.

    Args:
        board: Of the question.
        root: From the page to the folder of the site.
    """
    metrics = [facts_of(name) for name in board.table.task.metrics[MOST_METRICS:]]
    if not metrics:
        return None
    columns = (Column("method", "ascending", is_text=True), *(Column(metric.title, _first(metric)) for metric in metrics))
    parts = _parts(board, lambda name: tuple(_spread(board.scores[name], metric.name) for metric in metrics), root)
    return Grid("further", f"Further scores, {board.title}", columns, parts)


def _parts(board: Board, cells: Callable[[str], tuple[Cell, ...]], root: str) -> tuple[Part, ...]:
    return tuple(
        Part(tuple(_line(board, name, cells(name), root) for name in names), (track,)) for track, names in board.tracks.items()
    )


def _line(board: Board, name: str, cells: tuple[Cell, ...], root: str) -> Line:
    fewer = (f"{FEWER_SEEDS} fewer seeds",) if board.table.lacks_seeds(name) else ()
    return record_line(board.records[name], cells, root, flags=fewer)


def record_line(record: Record, cells: tuple[Cell, ...], root: str, *, flags: tuple[str, ...] = ()) -> Line:
    """A row about a submission.

    Args:
        record: The submission.
        cells: Of the row.
        root: From the page to the folder of the site.
        flags: Beside those that it always has.
    """
    about = record.about
    own = (*flags, *(("external data",) if about.external_data else ()), *(("flagged",) if record.flags else ()))
    by = about.authors[0] if len(about.authors) == 1 else f"{about.authors[0]} et al."
    words = " ".join(filter(None, (record.name, *about.authors, about.description, about.paper)))
    return Line(about.title, f"{root}submissions/{record.name}.html", cells, record.name, by, own, words)


def _score_cells(board: Board, name: str, metrics: Sequence[Metric | Measure], *, has_shift: bool) -> Iterator[Cell]:
    own, table = board.scores[name], board.table
    result, (row,) = table.results[name], [row for row in table.rows if row.method == name]
    yield _spread(own, own.primary, is_best=table.is_best(row))
    yield Cell("", strip=strip(table, name))
    permuted = own.scrambled_scores[own.primary]
    text, _, tail = shown_spread(permuted).partition(" ")
    yield Cell(text, tail, str(permuted.mean))
    if has_shift:
        yield Cell(shown_shift(result.mean_shift), value=_value(result.mean_shift))
    yield from cost_cells(own)
    yield from (_spread(own, metric.name) for metric in metrics[1:])
    yield memory_cell(own)
    yield Cell(interval(result), value=str(own.interval.low if own.higher_is_better else own.interval.high))
    yield Cell(str(len(own.seeds)), value=str(len(own.seeds)))
    yield Cell(board.records[name].history[-1].date)


def cost_cells(scores: Scores) -> Iterator[Cell]:
    """What `COSTS` names, as it was submitted: the parameters of the largest fit, and means over fits."""
    parameters = max(seed.num_parameters for seed in scores.seeds)
    yield Cell(f"{parameters:,}" if parameters else "—", value=str(parameters) if parameters else "")
    fit_s = fmean(seed.fit_s for seed in scores.seeds)
    yield Cell(duration(fit_s), value=str(fit_s))
    each_s = time_of_network_s(scores)
    yield Cell(duration(each_s), value=str(each_s))


def memory_cell(scores: Scores) -> Cell:
    """The most memory of a fit, as it was submitted."""
    peaks = [seed.peak_memory_bytes for seed in scores.seeds if seed.peak_memory_bytes is not None]
    return Cell(memory(max(peaks, default=None)), value=_value(max(peaks, default=None)))


def strip(table: Question, name: str) -> Strip:
    """The picture of a method's interval, on the scale of all methods of a question."""
    metric, results = table.task.primary, table.results
    found = {
        own: (r.interval.low, r.interval.high, r.scores[metric.name].mean, r.scrambled_scores[metric.name].mean)
        for own, r in results.items()
        if r.interval is not None
    }
    every = [value for values in found.values() for value in values]
    # the same scale for every question of a metric, where it is bounded
    low, high = metric.bounds
    low, high = min(0.0, *every), max(high if math.isfinite(high) else 0.0, *every)
    places = (STRIP_MARGIN + (value - low) / ((high - low) or 1.0) * (STRIP_WIDTH - 2 * STRIP_MARGIN) for value in found[name])
    return Strip(*map(number, places))


def _spread(scores: Scores, metric: str, *, is_best: bool = False) -> Cell:
    if metric not in scores.scores:
        return Cell("—", value="")
    text, _, tail = shown_spread(scores.scores[metric]).partition(" ")
    return Cell(text, tail, str(scores.scores[metric].mean), is_best)


def _first(metric: Metric | Measure) -> Order:
    return "descending" if metric.higher_is_better else "ascending"


def _value(found: float | None) -> str:
    return "" if found is None else str(found)


def _legend(board: Board, *, has_shift: bool) -> str:
    """What the signs of the table mean, of those that it has."""
    task, results = board.table.task, board.table.results
    copies = f"the worst of {task.num_scrambled} copies" if task.num_scrambled > 1 else "a copy"
    has_best = any(board.table.is_best(row) for row in board.table.rows)
    texts = (
        "★ The best of several in its track, or not told from it by the paired bootstrap." if has_best else "",
        "Mean ± standard deviation over seeds." if any(len(result.seeds) > 1 for result in results.values()) else "",
        f"Interval (bar): of the mean (dot), over test networks and seeds, {task.confidence:.0%}.",
        f"Permuted (diamond): on {copies} of the test networks with hidden neurons permuted, which leaves functions as they are.",
        "Shift: how far what is said of a network then moves, on average." if has_shift else "",
        "Parameters, training, time per network and memory are as the authors report them, on hardware of their own.",
        *seeds_note(board.table),
    )
    return " ".join(filter(None, texts))


def rank_grid(found: Sequence[Standing], records: Mapping[str, Record], *, id: str, title: str) -> Grid:
    """Mean ranks, by track, for a page in the folder of the site.

    Args:
        found: The best first.
        records: By name.
        id: Of its element.
        title: What it shows.
    """
    lines: dict[tuple[str, ...], list[Line]] = {}
    for standing in found:
        record = records[standing.method]
        cells = (Cell(f"{standing.rank:.2f}", value=str(standing.rank)), Cell(standing.rivals))
        lines.setdefault(tracks_of(record), []).append(record_line(record, cells, ""))
    columns = (Column("method", "ascending", is_text=True), Column("mean rank", "ascending", "ascending"), Column("rivals"))
    return Grid(id, title, columns, _by_track(lines), RANK_NOTE)


def overview_grid(boards: Sequence[Board], records: Sequence[Record]) -> Grid:
    """The primary metric of every submission on every question, for a page in the folder of the site."""
    lines: dict[tuple[str, ...], list[Line]] = {}
    for record in sorted(records, key=lambda record: record.about.title.lower()):
        cells = tuple(_overview_cell(board, record.name) for board in boards)
        lines.setdefault(tracks_of(record), []).append(record_line(record, cells, ""))
    columns = tuple(Column(f"{board.table.title} ({board.table.task.primary.title})", href=board.href) for board in boards)
    note = "★ The best of several in its track, or not told from it by the paired bootstrap. Mean over seeds."
    return Grid(
        "overview", "Every submission on every question", (Column("method", is_text=True), *columns), _by_track(lines), note
    )


def _by_track(lines: Mapping[tuple[str, ...], Sequence[Line]]) -> tuple[Part, ...]:
    return tuple(Part(tuple(lines[tracks]), tracks) for tracks in sorted(lines, key=track_place))


def _overview_cell(board: Board, name: str) -> Cell:
    if name not in board.scores:
        return Cell("—", value="")
    (row,) = [row for row in board.table.rows if row.method == name]
    mean = board.scores[name].interval.score
    return Cell(f"{mean:z.3f}", value=str(mean), is_best=board.table.is_best(row))


def tracks_of(record: Record) -> tuple[str, ...]:
    """What a method reads, over all questions that it answers."""
    return tuple(sorted({scores.track for scores in record.rows}, key=lambda track: track_place((track,))))


def track_place(tracks: tuple[str, ...]) -> list[tuple[int, int]]:
    """Of tracks in the order of tables."""
    parted = (track.partition("-") for track in tracks)
    return [(list(TRACKS).index(kind), int(number or 0)) for kind, _, number in parted]


def answer_grid(boards: Sequence[Board], name: str, root: str) -> Grid:
    """What a submission came to on each question.

    Args:
        boards: Those that it answers.
        name: Of the submission.
        root: From the page to the folder of the site.
    """
    titles = ("score", "interval, permuted", "permuted", "rank in its track", "to the best other", "shift", *COSTS)
    columns = (
        *(Column(title, is_text=True) for title in ("question", "metric")),
        *(Column(title, is_text=title == "to the best other") for title in titles),
        *map(Column, ("memory", "interval", "seeds")),
    )
    lines = tuple(Line(board.title, f"{root}{board.href}", tuple(_answer_cells(board, name))) for board in boards)
    note = (
        "To the best other: how much better it is than the best other submission of its track, with the interval of the paired "
        "bootstrap; below zero is worse, and an interval that holds zero tells nothing apart."
    )
    return Grid("answers", "Scores on every question", columns, (Part(lines),), note)


def _answer_cells(board: Board, name: str) -> Iterator[Cell]:
    own, table = board.scores[name], board.table
    result, (row,) = table.results[name], [row for row in table.rows if row.method == name]
    yield Cell(table.task.primary.title, is_text=True)
    yield _spread(own, own.primary, is_best=table.is_best(row))
    yield Cell("", strip=strip(table, name))
    yield Cell(shown_spread(own.scrambled_scores[own.primary]))
    yield Cell(f"{table.rank(name):g}", f"of {table.rivals(name) + 1}")
    yield _lead_cell(board, name)
    yield Cell(shown_shift(result.mean_shift))
    yield from cost_cells(own)
    yield memory_cell(own)
    yield Cell(interval(result))
    yield Cell(str(len(own.seeds)))


def _lead_cell(board: Board, name: str) -> Cell:
    lead = board.lead(name)
    if lead is None:
        return Cell("—", is_text=True)
    other, found = lead
    return Cell(f"{found.score:+.3f}", f"[{found.low:+.3f}, {found.high:+.3f}] {board.records[other].about.title}", is_text=True)


def fit_grid(board: Board, name: str) -> Grid:
    """Every fit of a submission for a question."""
    own, task = board.scores[name], board.table.task
    metrics = [facts_of(metric) for metric in task.metrics if metric in own.scores]
    titles = (metrics[0].title, "permuted", *(metric.title for metric in metrics[1:]), "shift", "largest shift")
    columns = tuple(map(Column, ("seed", *titles, "parameters", "training", "prediction", "memory")))
    lines = tuple(
        Line(
            str(fit.seed),
            "",
            (
                Cell(f"{fit.scores[own.primary]:z.3f}"),
                Cell(f"{fit.scrambled_scores[own.primary]:z.3f}"),
                *(Cell(f"{fit.scores[metric.name]:z.3f}") for metric in metrics[1:]),
                Cell(shown_shift(fit.mean_shift)),
                Cell(shown_shift(fit.largest_shift)),
                Cell(f"{fit.num_parameters:,}" if fit.num_parameters else "—"),
                Cell(duration(fit.fit_s)),
                Cell(duration(fit.predict_s)),
                Cell(memory(fit.peak_memory_bytes)),
            ),
        )
        for fit in own.seeds
    )
    return Grid(f"fits-{board.slug}", f"Every fit, {board.title}", columns, (Part(lines),))


def duration(seconds: float) -> str:
    """Seconds as they are read: ``"35 µs"``, ``"4.1 ms"``, ``"12 s"``, ``"3.5 min"``, ``"2.1 h"``."""
    for factor, unit, limit in ((1e6, "µs", 1e-3), (1e3, "ms", 1.0), (1.0, "s", 120.0), (1 / 60, "min", 7200.0)):
        if seconds < limit:
            return f"{short(factor * seconds)} {unit}"
    return f"{short(seconds / 3600)} h"


def short(value: float) -> str:
    """A number with two digits, or all of its whole ones."""
    return f"{value:.0f}" if value >= 9.95 or value == 0 else f"{value:.1f}"


def memory(num_bytes: int | None) -> str:
    """Bytes as they are read; a dash where they are not told."""
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes is not None and num_bytes >= 1e9 else shown_memory(num_bytes)
