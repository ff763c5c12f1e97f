"""``ngbench zoo`` with the world outside: published zoos in, dataset folders in and out, the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ngbench.cli.options import images_option
from ngbench.cli.sealed import export_test_inputs
from ngbench.errors import StoreWriteError

if TYPE_CHECKING:
    from ngbench.progress import Stages
    from ngbench.store import PublishedZoo, Reevaluation, Zoo

# one image in a thousand that falls on a rounding error
_SMALL_DEVIATION = 0.001
_CARD = click.option(
    "--card",
    type=click.Path(path_type=Path),
    default=None,
    help="The zoo's data card, whose texts the dataset card takes over.  [default: data_cards/NAME.md where it is]",
)
_OUT = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="File to write.  [default: NAME-vVERSION.h5 in the current folder]",
)


def _card_of(name: str, card: Path | None) -> Path | None:
    usual = Path("data_cards") / f"{name}.md"
    return card or (usual if usual.exists() else None)


def _new_path(published: PublishedZoo, out: Path | None) -> Path:
    """The zoo file to write, where nothing is yet."""
    path = out or Path(f"{published.name}-v{published.version}.h5")
    if path.exists():
        raise StoreWriteError(f"{str(path)!r} is there already; expected a new file: name another or remove it")
    return path


@click.command("export")
@click.argument("name")
@click.option("--to", "folder", type=click.Path(path_type=Path), required=True, help="Folder to write; new or empty.")
@click.option(
    "--test-inputs",
    is_flag=True,
    help="Write the test networks of a task and their scrambled copies alone, without answers; --to is then a .npz or .parquet.",
)
@click.option("--task", default=None, help="Task that asks about the test networks.  [default: generalization]")
@click.option("--split", default=None, help="Split of the test networks.  [default: the task's own]")
@click.option("--target", default=None, help="Column that is asked about.  [default: the first of the task]")
@_CARD
@click.option(
    "--shard-mb", type=click.IntRange(min=1), default=256, show_default=True, help="Values of a Parquet file, in MiB, at most."
)
def export_zoo(
    name: str,
    folder: Path,
    test_inputs: bool,
    task: str | None,
    split: str | None,
    target: str | None,
    card: Path | None,
    shard_mb: int,
) -> None:
    """Write a zoo as a Hugging Face dataset folder: Parquet, dataset card, Croissant metadata.

    With --test-inputs, write a plain file for methods that are written without ngbench; ngbench submit takes what they say.
    """
    if test_inputs:
        export_test_inputs(name, folder, task=task or "generalization", split=split, target=target)
        return
    if task or split or target:
        raise click.UsageError("--task, --split and --target choose test networks; they go with --test-inputs alone")
    from ngbench.cli.screen import console, progress_stages
    from ngbench.store import open_zoo
    from ngbench.store.hub import export_dataset

    opened = open_zoo(name)
    with progress_stages() as stages:
        bar = stages(f"exporting {opened.name}")
        export_dataset(opened, folder, card=_card_of(opened.name, card), shard_bytes=shard_mb * 2**20, progress=bar)
    console().print(f"{len(opened):,} networks in {folder}: datasets.load_dataset({str(folder)!r}) opens it", soft_wrap=True)


@click.command("import")
@click.argument("name", required=False)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder or archive with the files as published, or folder that `zoo export` wrote.",
)
@_OUT
@click.option("--limit", type=click.IntRange(min=1), default=None, help="Take only the first so many published networks.")
@images_option("none: nothing that is recorded is measured again")
def import_zoo(name: str | None, source: Path, out: Path | None, limit: int | None) -> None:
    """Convert the published zoo NAME from its authors' files, or without NAME turn a dataset folder back into its zoo file.

    Files are never trusted to run code. Where the images are at hand that the networks were tested on, some are tested again.
    """
    from ngbench.cli.screen import progress_stages

    found: list[Reevaluation] = []

    with progress_stages() as stages:
        if name is None:
            from ngbench.store.hub import import_dataset

            if limit is not None:
                raise click.UsageError("--limit is for published zoos; a dataset folder is turned back as a whole")
            made = import_dataset(source, out, progress=stages("importing"))
        else:
            from ngbench.store import PUBLISHED
            from ngbench.store import import_zoo as import_published

            published = PUBLISHED[name]
            path = _new_path(published, out)
            bar = stages(f"converting {name}")
            made = import_published(published, source, path, limit=limit, progress=bar, prove=found.append)
    _tell(made, found)


@click.command()
@click.argument("name", metavar="NAME|hf://OWNER/NAME")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of the downloaded files of a published zoo.  [default: NAME-files]",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=None,
    help="Fetch only so many networks of a published zoo that is fetched network by network (model-j-...).",
)
@images_option("none: nothing that is recorded is measured again")
@_OUT
def download(name: str, folder: Path | None, limit: int | None, out: Path | None) -> None:
    """Download a published zoo from its authors and convert it, or a zoo from the Hugging Face Hub (or HF_ENDPOINT).

    Goes on where it was interrupted. Networks of a published zoo are tested again as by `import`. A zoo that is too large for
    this is fetched network by network, and what is fetched is removed once it is converted.
    """
    from ngbench.cli.run import INTERRUPTED
    from ngbench.cli.screen import progress_stages
    from ngbench.store import PUBLISHED

    found: list[Reevaluation] = []
    published = None if "://" in name else PUBLISHED[name]
    streamed = published is not None and published.hub_models is not None
    if folder is not None and (published is None or streamed):
        raise click.UsageError("--to is for published zoos; a zoo from the Hub is kept beside --out until it is complete")
    if limit is not None and not streamed:
        raise click.UsageError("--limit is for zoos that are fetched network by network; use it with `zoo import` for others")
    try:
        with progress_stages() as stages:
            made = _downloaded(name, published, out, folder=folder, limit=limit, stages=stages, found=found)
    except KeyboardInterrupt:
        click.secho("interrupted: what is downloaded is kept; the same command goes on from there", err=True, fg="yellow")
        raise click.exceptions.Exit(INTERRUPTED) from None
    _tell(made, found)


def _downloaded(
    name: str,
    published: PublishedZoo | None,
    out: Path | None,
    *,
    folder: Path | None,
    limit: int | None,
    stages: Stages,
    found: list[Reevaluation],
) -> Zoo:
    if published is None:
        from ngbench.store.hub import download as download_dataset

        return download_dataset(name, out, progress=stages("importing"))
    if published.hub_models is not None:
        from ngbench.store.hub import stream_zoo

        path = out or Path(f"{name}-v{published.version}.h5")
        return stream_zoo(published, path, limit=limit, progress=stages(f"streaming {name}"))
    from ngbench.store import download_zoo
    from ngbench.store import import_zoo as import_published

    path = _new_path(published, out)
    fetched = download_zoo(published, folder or Path(f"{name}-files"), stages=stages)
    return import_published(published, fetched, path, progress=stages(f"converting {name}"), prove=found.append)


def _tell(made: Zoo, found: Sequence[Reevaluation]) -> None:
    from ngbench.cli.screen import console

    screen = console()
    screen.print(f"{len(made):,} networks in {made.path}, sha256 {made.sha256}", soft_wrap=True)
    if made.diverged:
        screen.print(f"{len(made.diverged):,} networks left out, the first because {made.diverged[0][1]}", soft_wrap=True)
    for reevaluation in found:
        colour = "green" if reevaluation.largest <= _SMALL_DEVIATION else "yellow"
        screen.print(f"measured again: [{colour}]{reevaluation}[/{colour}]", soft_wrap=True)
    screen.print(f"licence: {made.info.licence}; cite {made.info.citation}", soft_wrap=True)


@click.command()
@click.argument("name")
@click.argument("repository", metavar="OWNER/NAME")
@_CARD
@click.option("--private", is_flag=True, help="Make a new dataset private.")
def push(name: str, repository: str, card: Path | None, private: bool) -> None:
    """Upload a zoo to the Hugging Face Hub (or HF_ENDPOINT) as dataset OWNER/NAME."""
    from ngbench.cli.screen import console, progress_stages
    from ngbench.store import open_zoo
    from ngbench.store.hub import push as push_zoo

    opened = open_zoo(name)
    with progress_stages() as stages:
        bar = stages(f"exporting {opened.name}")
        address = push_zoo(opened, repository, card=_card_of(opened.name, card), private=private, progress=bar)
    console().print(f"{len(opened):,} networks in dataset {repository}: {address}", soft_wrap=True)
