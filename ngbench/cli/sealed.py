"""``ngbench zoo seal`` and ``ngbench zoo export --test-inputs``: zoos for people who must not, or need not, have all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click


@click.command()
@click.argument("zoo")
@click.option(
    "--split", "splits", multiple=True, default=["default"], show_default=True, help="Split whose test part is sealed. Repeat."
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    help="Column that is asked about. Repeat.  [default: all that the tasks ask about]",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the two files.")
def seal(zoo: str, splits: Sequence[str], targets: Sequence[str], out: Path) -> None:
    """Cut a ZOO in two: a public file without the answers for its test networks, and the host's answer file.

    The public file has a commitment to the answer file: its sha256, which tells nothing of the answers and forbids to change
    them. Keep the answer file to yourself; when it is published, sha256sum shows that it is the one.
    """
    from leaderboard.seal import seal as seal_zoo
    from ngbench.cli.screen import console
    from ngbench.store import open_zoo

    made = seal_zoo(open_zoo(zoo), out, splits=splits, targets=targets or None)
    screen = console()
    screen.print(f"public   {made.public}", soft_wrap=True)
    screen.print(f"answers  {made.answers}: for {made.num_networks:,} test networks; keep it to yourself", soft_wrap=True)
    screen.print(f"withheld {', '.join(made.withheld)}", soft_wrap=True)
    screen.print(f"commitment, the sha256 of the answers: {made.commitment}", soft_wrap=True)
    for leak in made.leaks:
        screen.print(f"[yellow]not secret: {leak}[/yellow]", soft_wrap=True)


def export_test_inputs(name: str, path: Path, *, task: str, split: str | None, target: str | None) -> None:
    """Writes the test networks of a task, and says where."""
    from ngbench.cli.screen import console
    from ngbench.evaluation.outside import PlainNetworks
    from ngbench.store import open_zoo
    from ngbench.tasks import TASKS

    opened = open_zoo(name)
    inputs = PlainNetworks.of(TASKS[task].asked(opened.name, split=split, target=target), opened)
    inputs.save(path)
    copies = len(inputs.scrambled)
    console().print(f"{len(inputs.ids):,} test networks and {copies} scrambled copies of each in {path}", soft_wrap=True)
