"""Options that several commands have."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

executor_option = click.option(
    "--executor",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Processes of this machine, or a Ray cluster (pip install 'ngbench[ray]'): the one that RAY_ADDRESS names, or one here.",
)


def images_option(default: str) -> Callable[[Any], Any]:
    """The option that says where image datasets are.

    Args:
        default: What happens without it, for the help.
    """
    return click.option(
        "--images",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        envvar="NGBENCH_IMAGES",
        default=None,
        expose_value=False,
        callback=_remember,
        help=f"Folder of the image dataset, or of several, in a layout that `datasets` reads.  [default: {default}]",
    )


def _remember(context: click.Context, option: click.Parameter, folder: Path | None) -> None:
    from ngbench.zoo.hub_images import FOLDER_VARIABLE

    if folder is not None:
        # worker processes inherit it, and those of a cluster have another working directory
        os.environ[FOLDER_VARIABLE] = str(folder.absolute())
