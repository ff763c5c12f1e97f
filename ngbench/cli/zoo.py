"""``ngbench zoo``: list, info, generate, merge, outputs, verify, card; `ngbench.cli.exchange` and `.sealed` have the others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ngbench.cli.exchange import download, export_zoo, import_zoo, push
from ngbench.cli.options import executor_option, images_option
from ngbench.cli.sealed import seal
from ngbench.errors import ConfigError, StoreWriteError

if TYPE_CHECKING:
    import numpy as np

    from ngbench.cluster import Executor
    from ngbench.store import Zoo


@click.group()
def zoo() -> None:
    """Model zoos: files of trained networks."""


@zoo.command("list")
def list_zoos() -> None:
    """List the released zoos, the recipes of `ngbench zoo generate`, and the published zoos that are downloaded or imported."""
    from ngbench.cli.screen import console, size, table
    from ngbench.store import PUBLISHED, RELEASED, open_zoo, parameters_each
    from ngbench.zoo.recipe import load_recipe, recipe_names

    made = table("zoo", "version", "networks", "parameters each", "file", "sha256", numbers_from=1)
    for name, release in RELEASED.items():
        opened = open_zoo(name)
        made.add_row(
            name,
            str(opened.version),
            f"{len(opened):,}",
            parameters_each(opened),
            size(opened.path.stat().st_size),
            release.sha256[:12],
        )
    recipes = table("recipe", "runs", "makes", numbers_from=9)
    for name in recipe_names():
        recipe = load_recipe(name)
        recipes.add_row(name, f"{recipe.num_runs:,}", recipe.title)
    offered = table("published zoo", "what it is", "ngbench zoo", "licence", numbers_from=9)
    for name, published in PUBLISHED.items():
        way = "download" if published.is_downloadable else "import"
        offered.add_row(name, published.title, way, published.licence.partition(":")[0])
    screen = console()
    screen.print(made)
    screen.print()
    screen.print(recipes)
    screen.print()
    screen.print(offered)


@zoo.command()
@click.argument("name")
@click.option(
    "--column",
    default=None,
    help="Column of numbers to draw as a histogram.  [default: test_accuracy, psnr or what is measured first]",
)
def info(name: str, column: str | None) -> None:
    """Show what is in a zoo, released or a file, and how a column of numbers is spread."""
    from ngbench.cli.screen import console, size, table
    from ngbench.store import open_zoo, summary

    opened = open_zoo(name)
    drawn = _drawn(opened, column)
    screen = console()
    screen.print(f"[bold]{opened.name}[/bold] v{opened.version}: {opened.info.title}")
    num_topologies, num_bytes = len(opened.topologies), opened.path.stat().st_size
    on = f"{num_topologies:,} topolog{'y' if num_topologies == 1 else 'ies'}"
    screen.print(f"{len(opened):,} networks on {on}, {size(num_bytes)}, licence {opened.info.licence}")
    screen.print(f"sha256 {opened.sha256}")
    for split in opened.splits:
        counts = ", ".join(f"{part} {len(opened.split(part, split)):,}" for part in ("train", "val", "test"))
        screen.print(f"split {split}: {counts} (no {opened.split_by or 'run'} is in two)")
    if opened.info.withheld is not None:
        kept_back = opened.info.withheld
        screen.print(
            f"withheld of the test networks of split {', '.join(kept_back.splits)}: {', '.join(kept_back.columns)}",
            soft_wrap=True,
        )
        screen.print(f"the host's answer file has sha256 {kept_back.commitment}", soft_wrap=True)
    screen.print()
    made = table("column", "role", "values", "what it is", numbers_from=9)
    for key, description in opened.columns.items():
        made.add_row(key, description.role, summary(opened.metadata[key][~opened.withheld(key)]), description.description)
    screen.print(made)
    if drawn is not None:
        _draw(*drawn)


def _drawn(opened: Zoo, column: str | None) -> tuple[str, np.ndarray] | None:
    """The column to draw and those of its values that are not withheld; None where no column is named and no number measured."""
    measured = [name for name, found in opened.columns.items() if found.role == "measurement" and found.dtype != "str"]
    name = column or next((name for name in ("test_accuracy", "psnr", *measured) if name in opened.columns), None)
    if name is None:
        return None
    values = opened.metadata[name][~opened.withheld(name)]
    if values.dtype.kind not in "fiu":
        raise ConfigError(f"column {name!r} of zoo {opened.name!r} holds text; expected a --column of numbers")
    return name, values


def _draw(column: str, values: np.ndarray) -> None:
    import numpy as np

    from ngbench.cli.screen import console, histogram
    from ngbench.store import histogram_edges, summary

    screen = console()
    screen.print()
    screen.print(f"[bold]{column}[/bold]")
    edges = histogram_edges(values, column=column, num_bins=20)
    if edges[0] < edges[-1]:
        screen.print(histogram(values, edges=edges))
    else:
        screen.print(f"{summary(values)}{' in all networks' if np.isfinite(values).all() else ''}")


@zoo.command()
@click.argument("recipe")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=None,
    help="File to write.  [default: NAME-vVERSION.h5 in the current folder]",
)
@click.option("--limit", type=click.IntRange(min=1), default=None, help="Train only the first so many runs.")
@images_option("the recipe's id on the hub")
@click.option("--device", default="cpu", show_default=True, help="Torch device.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=None,
    help="Processes that train side by side.  [default: one a processor, one on an accelerator]",
)
@executor_option
def generate(
    recipe: str,
    out: Path | None,
    limit: int | None,
    device: str,
    workers: int | None,
    executor: Executor,
) -> None:
    """Train a zoo from a RECIPE, by name or from a YAML file; goes on where it was interrupted."""
    from ngbench.cli.run import INTERRUPTED
    from ngbench.cli.screen import console, progress_stages
    from ngbench.cluster import num_gpus_of
    from ngbench.evaluation.protocol import checked_device
    from ngbench.store import generate as generate_zoo
    from ngbench.zoo.executor import default_num_workers
    from ngbench.zoo.recipe import load_recipe

    if workers is not None and executor == "ray":
        raise ConfigError("--workers is given beside --executor ray, whose cluster says how many there are; leave it out")
    check = num_gpus_of if executor == "ray" else checked_device
    check(device)
    loaded = load_recipe(recipe)
    workers = workers or (default_num_workers() if device == "cpu" else 1)
    path = out or Path(f"{loaded.name}-v{loaded.version}.h5")
    try:
        with progress_stages() as stages:
            bar = stages(f"training {loaded.name}")
            made = generate_zoo(loaded, path, limit=limit, device=device, num_workers=workers, executor=executor, progress=bar)
    except KeyboardInterrupt:
        click.secho(
            f"interrupted: finished shards are kept beside {path}; the same command goes on from there", err=True, fg="yellow"
        )
        raise click.exceptions.Exit(INTERRUPTED) from None
    console().print(f"{len(made):,} networks in {path}, sha256 {made.sha256}", soft_wrap=True)


@zoo.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.argument("parts", nargs=-1, required=True, type=click.Path(path_type=Path))
def merge(out: Path, parts: tuple[Path, ...]) -> None:
    """Write the networks of several zoo files, the PARTS, into one file OUT, in their order.

    All are of one zoo: the same name, version, recipe and columns. To append to a zoo, name it as OUT and as first part.
    """
    from ngbench.cli.screen import console
    from ngbench.store import merge as merge_files

    if out.exists() and out.resolve() not in {part.resolve() for part in parts}:
        raise StoreWriteError(
            f"{str(out)!r} is there already; expected a new file or one of the parts: name another or remove it"
        )
    made = merge_files(parts, out)
    console().print(f"{len(made):,} networks of {len(parts)} files in {out}, sha256 {made.sha256}", soft_wrap=True)


@zoo.command()
@click.argument("name")
@click.option(
    "--inputs", "num_inputs", type=click.IntRange(min=1), default=256, show_default=True, help="Held-out inputs, of all corpora."
)
@click.option("--out", type=click.Path(path_type=Path), help="File to write.  [default: <zoo file>-outputs.h5 beside it]")
def outputs(name: str, num_inputs: int, out: Path | None) -> None:
    """Run the test networks of a zoo on held-out inputs, and keep what they give beside the zoo file.

    Retrieval takes from there how far apart the functions of networks are; where no such file is, it runs the networks.
    """
    from ngbench.cli.screen import console, size
    from ngbench.evaluation.functional import measured_outputs
    from ngbench.store import held_out_path, open_zoo

    opened = open_zoo(name)
    out = held_out_path(opened.path) if out is None else out
    if out.exists():
        raise StoreWriteError(f"{str(out)!r} is there already; expected a new file: name another with --out, or remove it")
    measured = measured_outputs(opened, num_inputs=num_inputs)
    sha256 = measured.write(out)
    number = f"{len(measured.rows):,} networks for {len(measured.inputs):,} inputs"
    console().print(f"outputs of {number} in {out}, {size(out.stat().st_size)}, sha256 {sha256}", soft_wrap=True)


@zoo.command()
@click.argument("name")
@click.option("--sample", type=click.IntRange(min=1), default=64, show_default=True, help="Networks to evaluate again.")
@click.option("--seed", default=0, show_default=True, help="Which networks those are.")
def verify(name: str, sample: int, seed: int) -> None:
    """Prove again what a zoo file promises: checksum, finite weights, disjoint splits, recorded accuracies or errors."""
    from ngbench.cli.screen import console
    from ngbench.store import open_zoo
    from ngbench.store import verify as verify_zoo

    screen = console()
    checks = verify_zoo(open_zoo(name), sample=sample, seed=seed)
    for check in checks:
        screen.print(
            f"{'[green]ok[/green]    ' if check.passed else '[red]FAILED[/red]'} {check.name}: {check.detail}", soft_wrap=True
        )
    if not all(check.passed for check in checks):
        raise click.exceptions.Exit(1)


@zoo.command()
@click.argument("name")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("data_cards"), show_default=True, help="Folder of the data cards."
)
def card(name: str, out: Path) -> None:
    """Make the tables and the histogram of a zoo's data card anew.

    NAME is a zoo, released or a file; or, for the tables that need no file, a recipe or a family of published zoos.
    """
    from ngbench.cli.screen import console
    from ngbench.store import RELEASED, open_zoo, update_card, update_outline

    is_zoo = name in RELEASED or Path(name).exists() or name.endswith(".h5")
    console().print(f"{update_card(open_zoo(name), out) if is_zoo else update_outline(name, out)}", soft_wrap=True)


for command in (export_zoo, import_zoo, download, push, seal):
    zoo.add_command(command)
