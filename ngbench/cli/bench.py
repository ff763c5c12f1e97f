"""``ngbench bench``."""

from __future__ import annotations

from collections.abc import Sequence

import click


@click.command()
@click.argument("names", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def bench(names: Sequence[str], as_json: bool) -> None:
    """Measure the speed of ngbench on this machine, all benchmarks or those NAMED."""
    import dataclasses
    import json

    from ngbench.cli.screen import console, progress_stages, table
    from ngbench.evaluation.bench import run_benchmarks

    with progress_stages(quiet=as_json) as stages:
        results = run_benchmarks(names or None, progress=stages("benchmarks"))
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(result) for result in results], indent=2))
        return
    made = table("benchmark", "what", "median", "spread", "target", "", numbers_from=2)
    for r in results:
        made.add_row(
            r.name,
            r.what,
            f"{r.value:,.4g} {r.unit}",
            r.spread,
            r.target,
            "" if r.met is None else "met" if r.met else "[red]not met[/red]",
        )
    console().print(made)
