"""``ngbench graph``: show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

    from ngbench.graph import Topology
    from ngbench.graph.listing import Listing

_MANY_ROWS = 30
_GROUP_HEADINGS = ("group", "size", "role", "activation", "layer", "moves as", "features")
_BLOCK_HEADINGS = ("block", "from", "to", "pattern", "operation", "kernel", "edges", "parameter")
_INDEX_HEADINGS = ("moving index", "entries", "in each of", "groups")


@click.group()
def graph() -> None:
    """Neural graphs: any torch module as groups of nodes and blocks of edges."""


@graph.command()
@click.argument("module", metavar="MODULE")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="SHAPE",
    help="An example input: 1x3x32x32, or 1x7:int for token ids, or name=1x7:bool. Repeat for several.",
)
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    default=None,
    help="Draw the graph into a file: .svg, .pdf or .png.",
)
@click.option(
    "--style",
    type=click.Choice(["auto", "nodes", "ribbons"]),
    default="auto",
    show_default=True,
    help="Draw every node and edge, or each block as a ribbon.",
)
@click.option("--all", "show_all", is_flag=True, help="A row for every layer, also where layers repeat.")
@click.option("--json", "as_json", is_flag=True, help="Print the topology as JSON, and nothing else, on standard output.")
def show(module: str, inputs: Sequence[str], picture: Path | None, style: Any, show_all: bool, as_json: bool) -> None:
    """Show the neural graph of MODULE: package.module:factory, or a .pt2 file.

    A factory is a module, a module class, or a function that gives a module or (module, example_input).
    """
    from ngbench.graph.drawing import check_path, draw
    from ngbench.graph.source import load_graph

    if picture is not None:
        check_path(picture)
    traced = load_graph(module, inputs=inputs)
    if as_json:
        click.echo(traced.topology.to_json())
    else:
        _print(module, traced.topology, fold=not show_all and len(traced.topology.groups) > _MANY_ROWS)
    if picture is not None:
        draw(traced, picture, style=style)
        click.echo(f"picture {picture}", err=True)


def _print(title: str, topology: Topology, *, fold: bool) -> None:
    from rich.markup import escape

    from ngbench.cli.screen import console, table
    from ngbench.graph import symmetry
    from ngbench.graph.listing import listing

    screen, rows, group = console(), listing(topology, fold=fold), symmetry.group(topology)
    screen.print(
        f"[bold]{escape(title)}[/bold]: {topology.num_nodes:,} nodes in {len(topology.groups)} groups, "
        f"{topology.num_edges:,} edges in {len(topology.blocks)} blocks, {topology.num_values:,} parameters\n"
    )
    screen.print(_groups(rows, _whole(table("", *_GROUP_HEADINGS, numbers_from=9), foldable=("group", "features"))), "")
    screen.print(_blocks(rows, _whole(table(*_BLOCK_HEADINGS, numbers_from=9), foldable=("block", "parameter"))), "")
    if group.indices:
        screen.print(_indices(rows, _whole(table("", *_INDEX_HEADINGS, numbers_from=9), foldable=("moving index",))), "")
    screen.print(f"symmetry  {group}")
    screen.print(f"order     e^{group.log_order:,.1f} = 10^{group.log_order / math.log(10):,.1f}")
    if any(row.count > 1 for row in rows.groups):
        screen.print("layers that repeat stand in one row (×); --all shows each", style="dim")


def _whole(made: Table, *, foldable: Sequence[str]) -> Table:
    """The table with no text cut off: where the terminal is narrow, long names go on in a further line."""
    for column in made.columns:
        column.no_wrap = column.header not in foldable
        column.overflow = "fold"
    return made


def _groups(rows: Listing, made: Table) -> Table:
    for row in rows.groups:
        first, last = row.layers
        moves = [f"#{number}" for number in row.indices if rows.indices[number].moves]
        made.add_row(
            str(row.number), _times(row.name, row.count), f"{row.size:,}", row.role, row.activation,
            str(first) if first == last else f"{first}…{last}", " × ".join(moves) or "—", ", ".join(row.features),
        )  # fmt: skip
    return made


def _blocks(rows: Listing, made: Table) -> Table:
    for row in rows.blocks:
        # What follows the name of the block is enough to find the parameter.
        parameter = row.parameter.removeprefix(row.name) if row.parameter.startswith(f"{row.name}.") else row.parameter
        made.add_row(
            _times(row.name, row.count), *(", ".join(map(str, ends)) for ends in (row.sources, row.targets)), row.pattern,
            row.operation, " × ".join(map(str, row.kernel)), f"{row.num_edges:,}", parameter or "—",
        )  # fmt: skip
    return made


def _indices(rows: Listing, made: Table) -> Table:
    for row in rows.indices:
        if row.moves:
            parents = [f"#{number}" for number in row.parents]
            made.add_row(f"#{row.number}", _times(row.name, row.count), f"{row.size:,}", " × ".join(parents), str(row.num_groups))
    return made


def _times(name: str, count: int) -> str:
    from rich.markup import escape

    return escape(name if count == 1 else f"{name} (×{count})")
