"""``ngbench protocol``."""

from __future__ import annotations

import click


@click.command()
@click.argument("tasks", nargs=-1)
def protocol(tasks: tuple[str, ...]) -> None:
    """Print the protocol: what each task asks, how it is scored, and what every method may do.

    TASKS are names, such as merging; without any all are printed. The text is Markdown.
    """
    from ngbench.tasks import TASKS
    from ngbench.tasks.describe import as_markdown

    click.echo(as_markdown([TASKS[name] for name in tasks or list(TASKS)]), nl=False)
