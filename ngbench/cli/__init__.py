"""The command line: takes what a user types, gives tables, pictures and exit codes.

Knows how things are shown; holds no logic of its own. Modules import what is heavy inside their commands.
"""

from __future__ import annotations

import errno
from typing import Any

import click

from ngbench import __version__
from ngbench.cli.audit import audit
from ngbench.cli.bench import bench
from ngbench.cli.graph import graph
from ngbench.cli.leaderboard import leaderboard
from ngbench.cli.protocol import protocol
from ngbench.cli.report import report
from ngbench.cli.run import evaluate, run
from ngbench.cli.submit import submit, validate
from ngbench.cli.use import merge, predict, search
from ngbench.cli.zoo import zoo
from ngbench.errors import NgbenchError


class Refusal(click.ClickException):
    """A user's mistake: one red line, exit code 2."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        """Prints the line on standard error."""
        click.secho(f"error: {self.message}", err=True, fg="red")


_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}


class Commands(click.Group):
    """Commands whose `NgbenchError`s are shown as a `Refusal`, as is a disk that cannot be written.

    Any other exception is a fault and keeps its traceback.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command that was typed."""
        try:
            return super().invoke(ctx)
        except NgbenchError as error:
            raise Refusal(str(error)) from error
        except OSError as error:
            if error.errno not in _NO_ROOM | _NO_RIGHT:
                raise
            where = f" {str(error.filename)!r}" if error.filename else ""
            mend = "free some space" if error.errno in _NO_ROOM else "choose a folder that you may write to"
            raise Refusal(f"cannot write{where} ({error.strerror}): {mend} and run again; what is finished is kept") from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ngbench")
def main() -> None:
    """Datasets and a benchmark for learning over neural networks: a trained network is one data point.

    Start with:  ngbench run --method ng-gnn --task generalization
    """


for command in (run, evaluate, report, audit, predict, search, merge, protocol, zoo, graph, bench, submit, validate, leaderboard):
    main.add_command(command)
