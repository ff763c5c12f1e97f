"""The tables of `ngbench bench` in a terminal: a column is a heading and the text of a row."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from ngbench.cli.screen import console, size, table
from ngbench.evaluation.environment import current_environment
from ngbench.evaluation.speed.benchmarks import BenchmarkResult
from ngbench.evaluation.speed.cell import CellResult, Rate
from ngbench.evaluation.speed.configurations import device_kind, reference_code
from ngbench.evaluation.speed.tables import READING, TABLES, authors_growth_s, compare

MOST_LOADING = 0.05
"""Share of a training step from which on the making of batches is shown in red."""

Column = tuple[str, Callable[[CellResult], str]]
Amount = Callable[[CellResult], float | None]


def print_tables(results: Mapping[str, Sequence[Any]], device: str) -> None:
    """Prints what was measured, the machine first, and below each table why rows of it are empty.

    Args:
        results: Rows by the name of the table.
        device: Torch device of the methods.
    """
    out, environment = console(), current_environment(device)
    packages = f"Python {environment.python}, torch {environment.packages['torch']}"
    out.print(f"{environment.device}, {environment.platform}, {packages}\n")
    for name, rows in results.items():
        if name == READING:
            out.print(_reading(rows), "")
            continue
        made = table(*(heading for heading, _ in COLUMNS[name]), title=TABLES[name].title, numbers_from=2)
        for row in rows:
            made.add_row(*(text(row) for _, text in COLUMNS[name]))
        out.print(made)
        for reason in dict.fromkeys(f"{row.cell.name} on {row.cell.case}: {row.reason}" for row in rows if row.reason):
            out.print(f"— {escape(reason)}")
        for note in _notes(name, rows, device):
            out.print(note, style="dim")
        out.print()


def _reading(rows: Sequence[BenchmarkResult]) -> Table:
    made = table("benchmark", "what", "median", "least to most", "target", "", title="reading, tracing, batching", numbers_from=2)
    for r in rows:
        met = "" if r.met is None else "met" if r.met else "[red]not met[/red]"
        median = f"{r.value:,.0f}" if r.value >= 10_000 else f"{r.value:,.4g}"
        made.add_row(r.name, escape(r.what), f"{median} {r.unit}", r.spread, r.target, met)
    return made


def _notes(name: str, rows: Sequence[CellResult], device: str) -> list[str]:
    """What a reader of a table must know."""
    kind, code, notes = device_kind(device), reference_code(), []
    if name in ("methods", "configurations"):
        notes.append("networks/s: median (least to most) of whole steps; batching: share of a training step that makes batches")
    threads = sorted({row.num_threads for row in rows if row.num_threads})
    if kind == "cpu" and threads:
        notes.append(f"threads: {', '.join(map(str, threads))}; memory: growth of resident memory in a process of its own")
    if name == "configurations":
        notes.append(
            f"×: beside the authors' code ({code.source}) on {code.machines[kind]}; "
            "mended: beside it with its batch² slicing mended; × memory: ours as a share of theirs"
        )
    if name == "growth":
        notes.append("peak memory: of a whole step, whose networks a method may read in several passes")
    if name == "growth" and kind == "cpu":
        notes.append(f"authors' code: {code.source}, on {code.machines['cpu'].replace('default malloc', 'tuned malloc')}")
    load, num_cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > num_cores + 0.5:
        notes.append(f"this machine is busy (load {load:.1f} on {num_cores} cores): alone it would be faster")
    return notes


def _text(amount: Callable[[CellResult], Any], text: Callable[[Any], str]) -> Callable[[CellResult], str]:
    """Text of an amount; an em dash where there is none."""
    return lambda row: "—" if (value := amount(row)) is None else text(value)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _rate(rate: Rate) -> str:
    return f"{_number(rate.median)} ({_number(rate.least)} to {_number(rate.most)})"


def _share(rate: Rate) -> str:
    share = f"{rate.share_loading:.1%}"
    return f"[red]{share}[/red]" if rate.share_loading >= MOST_LOADING else share


def _seconds(rate: Callable[[CellResult], Rate | None]) -> Amount:
    """Seconds for one network."""
    return lambda row: None if (found := rate(row)) is None else 1 / found.median


def _microseconds_per_edge(row: CellResult) -> float | None:
    return None if row.train is None or not row.num_edges else 1e6 / row.train.median / row.num_edges


def _times(part: str) -> Callable[[CellResult], str]:
    return _text(lambda row: getattr(compare(row), part, None), lambda value: f"{_number(value)} ×")


_NAMES: tuple[Column, ...] = (("", lambda row: row.cell.name), ("case", lambda row: row.cell.case))
_BATCH: Column = ("batch", _text(lambda row: row.batch_size, "{:,}".format))
_EDGES: Column = ("edges", _text(lambda row: row.num_edges, "{:,.0f}".format))
_MEMORY: Column = ("peak memory", lambda row: size(row.peak_memory_bytes))
_STEP = _seconds(lambda row: row.train)
_SPEEDS: tuple[Column, ...] = (
    *_NAMES,
    _BATCH,
    ("parameters", _text(lambda row: row.num_parameters, "{:,}".format)),
    ("training, networks/s", _text(lambda row: row.train, _rate)),
    ("inference, networks/s", _text(lambda row: row.infer, _rate)),
    _MEMORY,
    ("batching", _text(lambda row: row.train, _share)),
)
COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "methods": _SPEEDS,
    "configurations": (
        *_SPEEDS,
        ("× training", _times("train")),
        ("× mended", _times("train_mended")),
        ("× inference", _times("infer")),
        ("× memory", _times("memory")),
    ),
    "growth": (
        *_NAMES,
        _EDGES,
        _BATCH,
        ("s / network and step", _text(_STEP, _number)),
        ("µs / edge", _text(_microseconds_per_edge, _number)),
        _MEMORY,
        ("authors' code, s", _text(authors_growth_s, _number)),
    ),
    "large": (
        *_NAMES,
        _EDGES,
        ("training step, s", _text(_STEP, _number)),
        ("inference, s", _text(_seconds(lambda row: row.infer), _number)),
        ("embedding, s", _text(_seconds(lambda row: row.embed), _number)),
        _MEMORY,
    ),
}
"""Columns of each table of cells."""
