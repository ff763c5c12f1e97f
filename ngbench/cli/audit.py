"""``ngbench audit``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ngbench.errors import ConfigError

if TYPE_CHECKING:
    from ngbench.evaluation.audit import MethodAudit, Plan

INTERRUPTED = 130


@click.command()
@click.option("--method", "methods", multiple=True, help="Registered name, or package.module:Class. Repeat for several.")
@click.option(
    "--all", "is_all", is_flag=True, help="All registered methods that solve a regression; prints their table as Markdown."
)
@click.option(
    "--zoo",
    "zoos",
    multiple=True,
    help="Released zoo or path of a zoo file. Repeatable.  [default: digits-cnn, and digits-park for methods that read any]",
)
@click.option("--scales", is_flag=True, help="Act with positive scales too, where activations allow them.")
@click.option("--signs", is_flag=True, help="Act with changes of sign too, where activations allow them.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of every method. Repeat for several.")
@click.option("--networks", type=click.IntRange(min=2), default=None, help="Test networks that are acted on.  [default: 32]")
@click.option("--pairs", type=click.IntRange(min=2), default=None, help="Networks learned from beside their shuffles.")
@click.option("--epochs", type=click.IntRange(min=1), default=None, help="Epochs of that fit.")
@click.option("--device", default=None, help="Torch device.  [default: cuda where there is one, else cpu]")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON, and nothing else, on standard output.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Write the record into this file too.")
def audit(
    methods: Sequence[str],
    is_all: bool,
    zoos: Sequence[str],
    scales: bool,
    signs: bool,
    settings: Sequence[str],
    networks: int | None,
    pairs: int | None,
    epochs: int | None,
    device: str | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Measure what a method does with equivalent networks, other architectures and shuffled ones.

    Trained networks are replaced by equivalent ones, which is proved first by running them; what the method then says of them
    must not move. Exits with 1 where a method declares what the measurements deny.

    \b
    ngbench audit --method ng-gnn
    ngbench audit --method flat-mlp --method deepset --scales --signs
    ngbench audit --all --out audit.json
    """  # noqa: D301 - click looks for a backspace, not for a backslash
    import sys

    # A method of one's own is named by a path from the current folder.
    sys.path.insert(0, str(Path.cwd()))
    from ngbench.cli.run import parse_settings
    from ngbench.evaluation.audit import Plan, auditable
    from ngbench.evaluation.protocol import checked_device

    if is_all == bool(methods):
        given = "both --all and --method" if is_all else "no method"
        raise ConfigError(f"got {given}; expected --method NAME, perhaps several times, or --all")
    if out is not None and not out.absolute().parent.is_dir():
        raise ConfigError(f"--out {out} is in a folder that does not exist; expected one that does")
    names = auditable() if is_all else list(dict.fromkeys(methods))
    counts = {"num_networks": networks, "num_pairs": pairs, "pair_epochs": epochs}
    plan = Plan(**{name: count for name, count in counts.items() if count is not None})
    options = {"zoos": zoos, "settings": parse_settings(settings), "scales": scales, "signs": signs}
    found: list[MethodAudit] = []
    try:
        _run(names, options | {"device": checked_device(device), "plan": plan}, found, quiet=as_json)
    finally:
        # what was measured is kept, whatever becomes of the next method
        if found:
            _show(found, plan, options={"device": checked_device(device), "as_markdown": is_all, "as_json": as_json, "out": out})
    if len(found) < len(names):
        raise click.exceptions.Exit(INTERRUPTED)
    if any(audit.contradictions for audit in found):
        raise click.exceptions.Exit(1)


def _run(names: Sequence[str], options: dict[str, Any], found: list[MethodAudit], *, quiet: bool) -> None:
    """Adds audits as far as Ctrl-C lets it come; every name and setting is tried first."""
    from ngbench.cli.screen import progress_stages
    from ngbench.evaluation.audit import audit_method
    from ngbench.methods import check_applicable, make_method
    from ngbench.store import open_zoo
    from ngbench.tasks import TASKS

    for name in names:
        check_applicable(name, TASKS["generalization"])
        make_method(name, options["settings"])
    for zoo in options["zoos"]:
        open_zoo(zoo)
    try:
        with progress_stages(quiet=quiet) as stages:
            for name in names:
                found.append(audit_method(name, stages=stages, **options))
    except KeyboardInterrupt:
        click.echo(f"interrupted after {len(found)} of {len(names)} methods", err=True)


def _show(found: Sequence[MethodAudit], plan: Plan, *, options: dict[str, Any]) -> None:
    from datetime import UTC, datetime

    from ngbench.cli.audit_tables import print_audits
    from ngbench.evaluation.audit import Audit, markdown_table
    from ngbench.evaluation.environment import current_environment
    from ngbench.evaluation.result import write_json

    environment, created = current_environment(options["device"]), datetime.now(UTC).isoformat(timespec="seconds")
    record = Audit(plan=plan, methods=tuple(found), environment=environment, created=created)
    if options["out"] is not None:
        write_json(options["out"], record)
    if options["as_json"]:
        click.echo(record.model_dump_json(indent=2))
    elif options["as_markdown"]:
        click.echo(markdown_table(found), nl=False)
    else:
        print_audits(found)
    for audit in found:
        for contradiction in audit.contradictions:
            click.secho(f"contradiction: {contradiction}", err=True, fg="red")
