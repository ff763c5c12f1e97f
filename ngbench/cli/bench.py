"""``ngbench bench``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ngbench.errors import ConfigError

INTERRUPTED = 130


@click.command()
@click.argument("names", nargs=-1)
@click.option("--method", "methods", multiple=True, help="Only this method, a name or package.module:Class. Repeatable.")
@click.option("--case", "cases", multiple=True, help="Only this case: inr, cnn, wide, digits-cnn, digits-park … Repeatable.")
@click.option("--device", default=None, help="Torch device of the methods.  [default: cuda where there is one, else cpu]")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=None,
    help="CPU threads of a method.  [default: 2 for models of the papers, as their authors' code had, else the method's own]",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of every method, as precision=bfloat16.")
@click.option("--repeats", type=click.IntRange(min=1), default=5, show_default=True, help="Measurements of each row.")
@click.option("--picture", type=click.Path(path_type=Path), default=None, help="Draw the table growth into this file.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON, and nothing else, on standard output.")
def bench(
    names: Sequence[str],
    methods: Sequence[str],
    cases: Sequence[str],
    device: str | None,
    threads: int | None,
    settings: Sequence[str],
    repeats: int,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Measure the speed of ngbench on this machine.

    NAMES are tables, or rows of the tables reading and configurations; without any the first three tables are measured:

    \b
    reading         reading, tracing and batching of networks
    methods         training, inference and memory of each method
    configurations  models of the papers, beside their authors' code
    growth          a training step on MLPs from 32 to 1024 units wide
    large           a ResNet-50: minutes, and gigabytes

    Each method on a case runs in a process of its own. Heavy models run only when their name is given, or --method and --case
    together. Ctrl-C prints what there is so far.

    \b
    ngbench bench cnn-gnn                       a model, however heavy
    ngbench bench --method ng-gnn --case inr    a method, and models of both
    ngbench bench growth --picture growth.png
    """  # noqa: D301 - click reads the character
    import sys

    # A method of one's own is named by a path from the current folder.
    sys.path.insert(0, str(Path.cwd()))
    from ngbench.cli.bench_tables import print_tables
    from ngbench.cli.run import parse_settings
    from ngbench.evaluation.plots import draw_growth
    from ngbench.evaluation.protocol import checked_device
    from ngbench.evaluation.speed.tables import Wanted, plan
    from ngbench.graph.drawing import check_path

    if picture is not None:
        if "growth" not in names:
            raise ConfigError(
                f"--picture {picture} draws the table growth, which is not asked for; expected: ngbench bench growth"
            )
        check_path(picture)
    device = checked_device(device)
    options = {"device": device, "repeats": repeats, "num_threads": threads, "settings": parse_settings(settings)}
    jobs = plan(names, Wanted((), tuple(methods), tuple(cases), **options))
    results = _run(jobs, quiet=as_json)
    _print_json(results, device) if as_json else print_tables(results, device)
    if picture is not None and "growth" in results:
        click.echo(f"picture: {draw_growth(results['growth'], picture)}", err=True)
    rows = [row for rows in results.values() for row in rows]
    if len(rows) < len(jobs):
        raise SystemExit(INTERRUPTED)
    if any(getattr(row, "is_fault", False) for row in rows):
        raise SystemExit(1)


def _run(jobs: Sequence[Any], *, quiet: bool) -> dict[str, list[Any]]:
    """Results by table, as far as Ctrl-C lets it come."""
    from ngbench.cli.screen import progress_stages

    results: dict[str, list[Any]] = {}
    done = 0
    try:
        with progress_stages(quiet=quiet) as stages:
            progress = stages("bench")
            for done, job in enumerate(jobs):
                progress(done, len(jobs), job.label)
                results.setdefault(job.table, []).append(job.run())
            progress(len(jobs), len(jobs), "")
    except KeyboardInterrupt:
        click.echo(f"interrupted after {done} of {len(jobs)} rows", err=True)
    return results


def _print_json(results: Mapping[str, Sequence[Any]], device: str) -> None:
    from ngbench.evaluation.environment import current_environment
    from ngbench.evaluation.speed.configurations import reference_code
    from ngbench.evaluation.speed.tables import record

    content = {"environment": current_environment(device).model_dump(mode="json"), "authors_code": reference_code().model_dump()}
    click.echo(json.dumps({**content, **{name: [record(row) for row in rows] for name, rows in results.items()}}, indent=2))
