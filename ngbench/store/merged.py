"""Several zoo files made one: a zoo grows by parts, each of them a file that stands whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import numpy as np

from ngbench.errors import StoreWriteError
from ngbench.store.reader import Zoo
from ngbench.store.schema import ZooInfo
from ngbench.store.seal import check_content
from ngbench.store.writer import ZooWriter
from ngbench.zoo.columns import Column
from ngbench.zoo.recipe import parse_recipe
from ngbench.zoo.transfer import TransferSplit

_VALUES_AT_ONCE = 2**24
_MOST_SHOWN = 200


def merge(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    splits: Mapping[str, TransferSplit] | None = None,
    diverged: Iterable[tuple[str, str]] = (),
    compressed: bool | None = None,
) -> Zoo:
    """Writes the networks of several zoo files into one, in the order of the files.

    The file is byte for byte that of one `ZooWriter` to which the networks were appended in this order, however they were cut
    into parts; memory holds 64 MiB of values at a time. It has its name only when it is whole, so a process that is killed
    leaves the parts as they were, and the same call does it again. To append to a zoo, merge it with what is new: `out` may
    be one of `paths`.

    Args:
        paths: Zoo files of one zoo: the same name, version, texts, recipe, columns and rule of the split `default`.
        out: The file to write.
        splits: Further splits by rule, as of `ZooWriter`, which the parts must have. None for those of the recipe. Others that
            the parts have, which no rule decides, come along network by network.
        diverged: Run id and reason of runs that gave no network, beside those of the files.
        compressed: As of `ZooWriter`.

    Raises:
        StoreWriteError: No path is given, the files are not of one zoo, a network stands twice, or the disk is full.
        StoreFormatError: A file cannot be read, or its values are not what was sealed.
        RecipeError: Splits are those of the recipe, and it cannot be read.
    """
    if not paths:
        raise StoreWriteError(f"no zoo file was given to merge into {str(out)!r}; expected at least one")
    zoos = [Zoo(path) for path in paths]
    first = zoos[0]
    further = _splits_of_recipe(first) if splits is None else splits
    for zoo in zoos:
        _check_alike(zoo, first, further)
    columns = list(first.columns.values())
    with ZooWriter(out, first.info, columns=columns, splits=further, split_by=first.split_by, compressed=compressed) as writer:
        for zoo in zoos:
            check_content(zoo.path, zoo.seal)
            _append(writer, zoo)
            writer.add_diverged(zoo.diverged)
        writer.add_diverged(diverged)
        for name in first.written_order("splits"):
            if name not in ("default", *further):
                writer.add_split(name, np.concatenate([zoo.parts(name) for zoo in zoos]))
    return Zoo(out)


def _splits_of_recipe(zoo: Zoo) -> Mapping[str, TransferSplit]:
    """The further splits of a zoo's recipe, as far as it has them."""
    if zoo.info.recipe is None or set(zoo.splits) == {"default"}:
        return {}
    splits = parse_recipe(zoo.info.recipe, source=f"the recipe in {str(zoo.path)!r} cannot be read").splits
    return {name: split for name, split in splits.items() if name in zoo.splits}


def _check_alike(zoo: Zoo, first: Zoo, splits: Mapping[str, TransferSplit]) -> None:
    facts = {field.name: (getattr(zoo.info, field.name), getattr(first.info, field.name)) for field in fields(ZooInfo)} | {
        "columns": (_only_in(zoo, first), _only_in(first, zoo)),
        "column that decides split 'default'": (zoo.split_by, first.split_by),
        "stored outputs": (set(zoo.functional_names), set(first.functional_names)),
        "splits": (sorted(zoo.splits), sorted({*first.splits, *splits})),
    }
    for fact, (got, expected) in facts.items():
        if got != expected:
            raise StoreWriteError(
                f"{str(zoo.path)!r} cannot be merged: {fact} {str(got)[:_MOST_SHOWN]}; "
                f"expected {str(expected)[:_MOST_SHOWN]}, as in the other files of the zoo"
            )


def _only_in(zoo: Zoo, other: Zoo) -> list[Column]:
    return [column for column in zoo.columns.values() if column not in other.columns.values()]


def _append(writer: ZooWriter, zoo: Zoo) -> None:
    """Appends all networks of a zoo in their order, those in a row that share a structure together."""
    topologies, index, ids, run_ids = zoo.topologies, zoo.topology_index, zoo.ids, zoo.run_ids
    metadata = dict(zoo.metadata)
    functional = {name: zoo.functional(name) for name in zoo.functional_names}
    for rows in _stretches(zoo):
        writer.append(
            [topologies[place] for place in index[rows]],
            zoo.values(rows),
            ids=ids[rows].tolist(),
            run_ids=run_ids[rows].tolist(),
            metadata={name: column[rows] for name, column in metadata.items()},
            functional={name: outputs[rows] for name, outputs in functional.items()},
        )


def _stretches(zoo: Zoo) -> Iterator[slice]:
    """Rows that follow one another and share a structure, no more than memory should hold."""
    structures = np.array([topology.structure for topology in zoo.topologies])[zoo.topology_index]
    edges = [0, *(np.flatnonzero(structures[1:] != structures[:-1]) + 1).tolist(), len(zoo)]
    for first, last in pairwise(edges):
        size = max(1, _VALUES_AT_ONCE // max(1, zoo.topologies[zoo.topology_index[first]].num_values))
        for start in range(first, last, size):
            yield slice(start, min(start + size, last))
