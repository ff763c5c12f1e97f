"""``ngbench report``: one HTML page about runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ngbench.errors import ConfigError


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("report.html"), show_default=True, help="The page that is written."
)
@click.option(
    "--zoo", "zoos", multiple=True, type=click.Path(path_type=Path), help="Zoo file of runs on one that is not released. Repeat."
)
def report(runs: Sequence[Path], out: Path, zoos: Sequence[Path]) -> None:
    """Write one HTML page about RUNS, with tables and pictures; it needs no network and no other file.

    RUNS are run folders, folders above some, or files that `ngbench audit --out` wrote. Runs are scored again from their saved
    predictions.

    \b
    ngbench report runs                      all runs of a folder
    ngbench report runs audit.json           and an audit
    """  # noqa: D301 - click reads the character
    from ngbench.cli.screen import console, progress_stages, size
    from ngbench.evaluation.report import write_report

    if not out.absolute().parent.is_dir() or out.is_dir():
        raise ConfigError(f"--out {out} is a folder, or in one that does not exist; expected a file in a folder that does")
    with progress_stages() as stages:
        path = write_report(runs, out, zoos=zoos, stages=stages)
    console().print(f"report   {path}  ({size(path.stat().st_size)})", soft_wrap=True)
