"""``ngbench leaderboard``: the tables of accepted submissions, in the terminal or as a site."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ngbench.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from leaderboard.grids import Grid
    from leaderboard.records import Record
    from leaderboard.tables import Board

SPARED = ("notes", "accepted", "memory", "interval", "seeds", "shift", "per network", "training", "parameters")
"""Columns that a narrow terminal goes without, those first to go first; further metrics go before the last three."""

MOST_LETTERS = 30
"""Of a name; the rest is cut."""

_PATH = click.Path(path_type=Path)


@click.command()
@click.option("--submissions", "folder", default=None, type=_PATH, help="Folder of records.  [default: the published ones]")
@click.option("--with", "others", multiple=True, type=_PATH, help="Folder of further records, beside those. Repeat for several.")
@click.option("--task", default=None, help="Only the tables of a task.")
@click.option("--zoo", default=None, help="Only the tables of a zoo.")
@click.option("--html", "site", default=None, type=_PATH, help="Folder that a site is written into.")
@click.option("--json", "as_json", is_flag=True, help="Print all tables as JSON.")
def leaderboard(
    folder: Path | None, others: Sequence[Path], task: str | None, zoo: str | None, site: Path | None, as_json: bool
) -> None:
    """Print the tables of accepted submissions, or write a site about them.

    A site is a folder of pages that need no server, no network and no script.

    \b
    ngbench leaderboard --task merging            its tables
    ngbench leaderboard --html site               pages about everything
    ngbench validate mine.zip --accept mine       your own submission,
    ngbench leaderboard --with mine --html site   beside the others
    """  # noqa: D301 - click reads the character
    from leaderboard.data import as_json as json_of
    from leaderboard.site import write_site
    from leaderboard.tables import boards
    from ngbench.cli.screen import console
    from ngbench.tasks import TASKS

    if site is not None and (task or zoo or as_json):
        raise ConfigError("--html writes a site about everything; expected none of --task, --zoo and --json beside it")
    records = _records(folder, others)
    if site is not None:
        console().print(f"site     {write_site(records, site)}", soft_wrap=True, markup=False)
        return
    wanted = TASKS[task].name if task else None
    found = [board for board in boards(records) if wanted in (None, board.asked.task) and zoo in (None, board.asked.zoo)]
    if as_json:
        click.echo(json_of(found), nl=False)
        return
    _print(records, found, is_whole=task is None and zoo is None)


def _records(folder: Path | None, others: Sequence[Path]) -> list[Record]:
    """Of a folder, or of the published one, and of further ones.

    Raises:
        ConfigError: A folder does not exist, or two hold a submission of the same name.
    """
    from leaderboard.records import SUBMISSIONS, load_records

    found: dict[str, Record] = {}
    for path in (folder or SUBMISSIONS, *others):
        if not path.is_dir() and path != SUBMISSIONS:
            raise ConfigError(
                f"{str(path)!r} is no folder; expected one that holds a folder with a record.json for each submission"
            )
        for record in load_records(path):
            if record.name in found:
                raise ConfigError(f"two folders hold a submission {record.name!r}, the second {str(path)!r}; rename one of them")
            found[record.name] = record
    return list(found.values())


def _print(records: Sequence[Record], found: Sequence[Board], *, is_whole: bool) -> None:
    from leaderboard.grids import RANK_NOTE, rank_grid, score_grid
    from leaderboard.tables import standings
    from ngbench.cli.screen import console

    screen = console()
    if not found:
        screen.print("no accepted submission answers that" if records else "no submission has been accepted yet")
        return
    for board in found:
        grid = score_grid(board, "")
        screen.print(_fitting(grid, board.title))
        screen.print(f"[dim]{board.table.task.question}[/dim]\n", soft_wrap=True)
    ranks = standings(found) if is_whole else []
    if ranks:
        grid = rank_grid(ranks, {record.name: record for record in records}, id="overall", title="")
        screen.print("[bold]Mean rank within its track, of those that answered every question[/bold]", soft_wrap=True)
        screen.print(_drawn(grid, None))
        screen.print(f"[dim]{RANK_NOTE}[/dim]", soft_wrap=True)


def _fitting(grid: Grid, title: str) -> Table:
    """A table with as many columns as the screen has room for; none of its numbers is cut."""
    from leaderboard.grids import COSTS
    from ngbench.cli.screen import console, fits

    titles = [column.title for column in grid.columns]
    metrics = titles[titles.index(COSTS[-1]) + 1 : titles.index("memory")]
    # a picture
    left_out = [titles[2]]
    for name in (*SPARED[:-3], *reversed(metrics), *SPARED[-3:]):
        if fits(console(), _drawn(grid, title, left_out)):
            break
        left_out.append(name)
    return _drawn(grid, title, left_out)


def _drawn(grid: Grid, title: str | None, left_out: Sequence[str] = ()) -> Table:
    """A grid in the terminal; names in it are shown as they are."""
    from rich.text import Text

    from ngbench.cli.screen import table

    shown = [place for place, column in enumerate(grid.columns) if column.title not in left_out]
    has_notes = "notes" not in left_out and any(line.flags for part in grid.parts for line in part.lines)
    made = table(*(grid.columns[place].title for place in shown), *(["notes"] if has_notes else []), title=title)
    for column in made.columns:
        column.no_wrap = True
    for part in grid.parts:
        made.add_row(Text(part.title, style="dim"))
        for line in part.lines:
            cells = [f"{'★ ' if cell.is_best else ''}{cell.text} {cell.tail}".rstrip() for cell in line.cells]
            name = line.name if len(line.name) <= MOST_LETTERS else f"{line.name[: MOST_LETTERS - 1]}…"
            notes = [", ".join(line.flags)] if has_notes else []
            made.add_row(*map(Text, (f"  {name}", *(cells[place - 1] for place in shown[1:]), *notes)))
    return made
