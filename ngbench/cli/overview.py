"""A suite as one live table: methods by questions, what is done, what runs, how long it takes yet."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ngbench.evaluation.suite.cells import SuiteCell
    from ngbench.evaluation.suite.running import State

SIGNS = {"waiting": "·", "running": "…", "done": "✓", "not applicable": "—", "left out": "○", "failed": "✗"}
STYLES = {"waiting": "dim", "running": "cyan", "done": "green", "not applicable": "dim", "left out": "dim", "failed": "bold red"}


class Overview:
    """What is known of all cells; drawn on standard error.

    Args:
        cells: In any order.
    """

    def __init__(self, cells: Sequence[SuiteCell]):
        self.questions = list(dict.fromkeys(cell.question for cell in cells))
        self.methods = list(dict.fromkeys(cell.method for cell in cells))
        self.states: dict[tuple[object, str], State] = {}
        self.num_cells, self.start = len(cells), time.monotonic()
        self.num_before: int | None = None

    def __call__(self, state: State, /) -> None:
        """Takes a change."""
        self.states[state.cell.question, state.cell.method] = state
        if state.status == "running" and self.num_before is None:
            self.num_before, self.start = self.num_settled, time.monotonic()

    @property
    def num_settled(self) -> int:
        """Cells that nothing is left to do for."""
        # a list: cells come in while another thread draws
        return sum(state.status not in ("waiting", "running") for state in list(self.states.values()))

    def __rich__(self) -> Group:
        """The table, and a line for each cell that runs."""
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
        table.add_column("")
        for number, _ in enumerate(self.questions, start=1):
            table.add_column(str(number), justify="right")
        for method in self.methods:
            table.add_row(method, *(self._sign(self.states.get((question, method))) for question in self.questions))
        names = [f"{n} {task} {target or ''} {zoo}" for n, (task, zoo, target) in enumerate(self.questions, start=1)]
        running = [state for state in list(self.states.values()) if state.status == "running"]
        lines = [
            Text(f"{state.cell.task} {state.cell.target or ''} on {state.cell.zoo}: {state.text} {state.share:.0%}", style="cyan")
            for state in running
        ]
        return Group(Text("; ".join(" ".join(name.split()) for name in names), style="dim"), table, *lines, Text(self._line()))

    def _sign(self, state: State | None) -> Text:
        if state is None:
            return Text("")
        if state.status == "running":
            return Text(f"{state.share:.0%}", style=STYLES["running"])
        return Text(SIGNS[state.status], style=STYLES[state.status])

    def _line(self) -> str:
        """How many cells are settled, at which rate, and the time left at that rate."""
        settled = self.num_settled
        line = f"{settled} of {self.num_cells} cells"
        since = settled - (self.num_before or 0)
        passed_s = time.monotonic() - self.start
        if self.num_before is None or since < 1:
            return line
        left_s = passed_s / since * (self.num_cells - settled)
        return f"{line}, {60 * since / passed_s:.1f} a minute, about {left_s / 60:.0f} min left"


@contextmanager
def live_overview(cells: Sequence[SuiteCell], *, quiet: bool) -> Iterator[Overview]:
    """An overview that is drawn twice a second while the context lasts; in a file or pipe once, at the end."""
    overview = Overview(cells)
    if quiet:
        yield overview
        return
    with Live(overview, console=Console(stderr=True, highlight=False), refresh_per_second=2):
        yield overview
