"""How things look in a terminal: progress on standard error, tables on standard output."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from rich.bar import Bar
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.table import Table
from rich.text import Text

from ngbench.progress import Progress, Stages


def console() -> Console:
    """Standard output; in a file or pipe, which has no width, wide enough for the tables."""
    is_wide = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if is_wide else 160)


class _RateColumn(ProgressColumn):
    """Units of work a second."""

    def render(self, task: RichTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text(
            "" if speed is None else f"{speed:,.1f}/s" if speed < 1000 else f"{speed:,.0f}/s", style="progress.data.speed"
        )


@contextmanager
def progress_stages(*, quiet: bool = False) -> Iterator[Stages]:
    """Progress bars on standard error, one for each stage, with rate, text and time left."""
    columns = [
        TextColumn("{task.description}"), BarColumn(bar_width=None), TaskProgressColumn(), _RateColumn(),
        TextColumn("{task.fields[text]}"), TextColumn("left"), TimeRemainingColumn(compact=True),
    ]  # fmt: skip
    bars = RichProgress(*columns, console=Console(stderr=True, highlight=False), disable=quiet, expand=True)

    def stage(label: str, /) -> Progress:
        # begun here, since a display without a bar leaves an empty line
        bars.start()
        for before in bars.tasks:
            bars.update(before.id, total=before.total or 1, completed=before.total or 1)
        bar = bars.add_task(label, total=None, text="")

        def progress(done: int, total: int, text: str = "", /) -> None:
            bars.update(bar, completed=done, total=total, text=text)

        return progress

    try:
        yield stage
    finally:
        if bars.tasks:
            bars.stop()


def table(*headings: str, title: str | None = None, numbers_from: int = 1) -> Table:
    """An empty table whose columns from `numbers_from` on are right-aligned."""
    made = Table(
        title=title,
        title_justify="left",
        highlight=False,
        title_style="bold",
        box=None,
        pad_edge=False,
        header_style="bold",
        padding=(0, 2, 0, 0),
    )
    for position, heading in enumerate(headings):
        made.add_column(heading, justify="right" if position >= numbers_from else "left", no_wrap=position == 0)
    return made


def fits(screen: Console, made: Table) -> bool:
    """Whether a screen has room for a table with every cell on one line."""
    return screen.measure(made, options=screen.options.update(width=10_000)).maximum <= screen.width


def histogram(values: np.ndarray, *, edges: Sequence[float], width: int = 40) -> Table:
    """A histogram as rows of bars.

    Args:
        values: ``[rows]``.
        edges: Of the bins, rising, in equal steps.
        width: Characters of the longest bar.
    """
    counts, _ = np.histogram(values, bins=list(edges))
    # two digits of the step tell neighbouring edges apart
    decimals = max(0, 1 - math.floor(math.log10(edges[1] - edges[0])))
    made = table("from", "to", "networks", "", numbers_from=0)
    made.columns[-1].justify = "left"
    for count, start, stop in zip(counts, edges[:-1], edges[1:], strict=True):
        bar = Bar(max(counts.max(), 1), 0, int(count), width=width, color="blue")
        made.add_row(f"{start:.{decimals}f}", f"{stop:.{decimals}f}", f"{count:,}", bar)
    return made


def size(num_bytes: float | None) -> str:
    """``"9.4 MB"``; an em dash for None."""
    if num_bytes is None:
        return "—"
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000 or unit == "GB":
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    raise AssertionError("the loop ends with GB")


def seconds(duration_s: float) -> str:
    """``"0.31 s"``, ``"42 s"``, ``"12 min"``."""
    if duration_s < 10:
        return f"{duration_s:.2f} s"
    return f"{duration_s:.0f} s" if duration_s < 600 else f"{duration_s / 60:.0f} min"
