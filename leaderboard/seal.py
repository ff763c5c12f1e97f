"""A zoo cut in two for a competition: a public file without the answers for its test networks, and an answer file for the host.

The public file has everything that a method needs: weights, topologies, and of the other networks all that is known. Of the
networks of the sealed test split it withholds what is asked for, everything that was measured and everything that says which
network it is: they have names of chance and stand behind all others, in the order of these names, so that neither name nor place
tells their run. The recipe comes without its seed. What networks do on fixed inputs is withheld too.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ngbench.errors import SplitError, StoreWriteError, UnknownNameError, WithheldError
from ngbench.store import RELEASED, Zoo, ZooWriter
from ngbench.store.answers import Answers
from ngbench.store.atomic_file import disk_errors
from ngbench.store.schema import PLACEHOLDERS, Withheld, ZooInfo
from ngbench.store.splits import PARTS, assign
from ngbench.tasks import TASKS
from ngbench.zoo.recipe import InrRecipe, parse_recipe

MIN_SEED_BITS = 63
"""A shorter seed of a recipe can be found by trying, from the hyper-parameters of the networks that are told."""

_TEST = PARTS.index("test")
_VALUES_AT_ONCE = 2**24


@dataclass(frozen=True)
class Sealed:
    """What `seal` wrote.

    Args:
        public: The zoo file for everyone.
        answers: The answer file, for the host alone.
        commitment: The sha256 of the answer file, which stands in the public file and can be published.
        withheld: Columns that the public file does not tell of the sealed networks.
        num_networks: How many are sealed.
        leaks: By what the answers could be found all the same, a sentence each.
    """

    public: Path
    answers: Path
    commitment: str
    withheld: tuple[str, ...]
    num_networks: int
    leaks: tuple[str, ...]


def seal(zoo: Zoo, folder: str | Path, *, splits: Sequence[str] = ("default",), targets: Sequence[str] | None = None) -> Sealed:
    """Writes a public zoo file, whose version ends in ``-sealed``, and its answer file.

    Args:
        zoo: The whole zoo.
        folder: Where the two files shall stand; it is made if it is not there.
        splits: Splits whose test networks are sealed; the public file has these and ``default``.
        targets: Columns that are asked about; None for all that the tasks of the benchmark ask about.

    Raises:
        SplitError: There is no such split, or one trains on networks that another tests on.
        UnknownNameError: The zoo has no column of a target.
        WithheldError: The zoo is sealed already.
        StoreWriteError: A file is there already or cannot be written, or no column would be withheld.
        StoreFormatError: The zoo file cannot be read.
    """
    folder = Path(folder)
    if zoo.info.withheld is not None:
        raise WithheldError(f"zoo {zoo.name!r} in {str(zoo.path)!r} is sealed already; expected the whole zoo")
    is_sealed, names = _sealed(zoo, splits), _withheld_columns(zoo, targets)
    version = f"{zoo.version}-sealed"
    public, answers = (folder / f"{zoo.name}-v{version}{ending}" for ending in (".h5", "-answers.npz"))
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for path in (public, answers):
        if path.exists():
            raise StoreWriteError(
                f"{str(path)!r} is there already; expected a folder without it: an answer file is never replaced"
            )
    rows, keys = np.flatnonzero(is_sealed), _keys_of_chance(zoo, int(is_sealed.sum()))
    order = np.argsort(keys)
    rows, keys = rows[order], keys[order]
    commitment = Answers(
        zoo.name,
        version,
        _ids(keys),
        names=zoo.ids[rows],
        split_keys=zoo.split_keys[rows],
        columns={name: zoo.metadata[name][rows] for name in names},
        outputs={name: zoo.functional(name)[rows] for name in zoo.functional_names},
    ).save(answers)
    info = replace(zoo.info, version=version, recipe=_without_seed(zoo.info), withheld=Withheld(tuple(splits), names, commitment))
    _write(zoo, public, info, kept=np.flatnonzero(~is_sealed), sealed=rows, keys=keys)
    return Sealed(public, answers, commitment, names, len(rows), tuple(leaks(zoo)))


def leaks(zoo: Zoo) -> Iterator[str]:
    """By what the answers of a zoo could be found though they are withheld, a sentence each."""
    if zoo.name in RELEASED and RELEASED[zoo.name].sha256 == zoo.sha256:
        yield f"zoo {zoo.name} version {zoo.version} is released, so that anyone can look its networks up by their weights"
    if zoo.info.recipe is None:
        return
    recipe = parse_recipe(zoo.info.recipe, source=f"the recipe in {str(zoo.path)!r} cannot be read")
    if recipe.seed.bit_length() < MIN_SEED_BITS:
        yield (
            f"the recipe's seed, {recipe.seed}, can be guessed, and with it every network can be trained again; generate the zoo "
            f"with a random seed of {MIN_SEED_BITS} bits or more"
        )
    if isinstance(recipe, InrRecipe):
        yield "its networks render images, which can be looked up where their corpus is public"


def _sealed(zoo: Zoo, splits: Sequence[str]) -> np.ndarray:
    """The networks of the test parts of some splits, bool ``[networks]``."""
    parts = {name: zoo.parts(name) for name in splits}
    is_sealed = np.any([own == _TEST for own in parts.values()], axis=0)
    for name, own in parts.items():
        torn = is_sealed & (own != _TEST) & (own >= 0)
        if torn.any():
            raise SplitError(
                f"split {name!r} of zoo {zoo.name!r} learns from {int(torn.sum())} networks that another of "
                f"{', '.join(splits)} tests on; expected splits that agree: seal each into a folder of its own"
            )
    if not 0 < is_sealed.sum() < len(zoo):
        raise SplitError(
            f"{', '.join(splits) or 'no split'} of zoo {zoo.name!r} tests on {int(np.sum(is_sealed))} of {len(zoo)} networks; "
            "expected some, not all"
        )
    return is_sealed


def _withheld_columns(zoo: Zoo, targets: Sequence[str] | None) -> tuple[str, ...]:
    """All that is asked about, was measured, or says which network it is."""
    if targets is None:
        asked = {name for task in TASKS.values() for name in task.zoos.get(zoo.name, task.zoos[task.default_zoo])}
        targets = [name for name in zoo.columns if name in asked]
    for name in targets:
        if name not in zoo.columns:
            raise UnknownNameError(f"metadata column of zoo {zoo.name!r}", name, zoo.columns)
    found = tuple(name for name, column in zoo.columns.items() if column.role != "hyperparameter" or name in targets)
    if not found:
        raise StoreWriteError(
            f"zoo {zoo.name!r} has no column to withhold, none of them measured; expected --target with one of "
            f"{', '.join(zoo.columns)}"
        )
    return found


def _keys_of_chance(zoo: Zoo, count: int) -> np.ndarray:
    """Different keys that the rule of the split `default` puts into its test part, of digits alone, str ``[networks]``."""
    keys: dict[str, None] = {}
    while len(keys) < count:
        key = str(10**17 + secrets.randbelow(9 * 10**17))
        if assign(zoo.name, [key])[0] == _TEST:
            keys[key] = None
    return np.array(list(keys))


def _ids(keys: np.ndarray) -> np.ndarray:
    return np.array([f"sealed-{key}" for key in keys.tolist()])


def _without_seed(info: ZooInfo) -> Mapping[str, Any] | None:
    return {**info.recipe, "seed": 0} if info.recipe is not None and "seed" in info.recipe else info.recipe


def _write(zoo: Zoo, path: Path, info: ZooInfo, *, kept: np.ndarray, sealed: np.ndarray, keys: np.ndarray) -> None:
    """Writes the public file: networks that are told, then sealed ones, each of which is a run of its own under its key."""
    assert info.withheld is not None
    rows = np.concatenate([kept, sealed])
    ids, run_ids = np.concatenate([zoo.ids[kept], _ids(keys)]), np.concatenate([zoo.run_ids[kept], keys])
    metadata = {name: zoo.metadata[name][rows] for name in zoo.columns}
    for name in info.withheld.columns:
        metadata[name] = np.concatenate([zoo.metadata[name][kept], _instead(zoo, name, sealed, keys)])
    topologies, index = zoo.topologies, zoo.topology_index[rows]
    compressed = zoo.seal.index_bytes == zoo.seal.size_bytes
    columns = list(zoo.columns.values())
    with ZooWriter(path, info, columns=columns, split_by=zoo.split_by, compressed=compressed) as writer:
        for part in _stretches(zoo, rows):
            writer.append(
                [topologies[place] for place in index[part]],
                zoo.values(rows[part]),
                ids=ids[part].tolist(),
                run_ids=run_ids[part].tolist(),
                metadata={name: column[part] for name, column in metadata.items()},
            )
        for name in info.withheld.splits:
            if name != "default":
                writer.add_split(name, zoo.parts(name)[rows])
        writer.add_diverged(zoo.diverged)


def _instead(zoo: Zoo, name: str, rows: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """What stands in place of withheld values of a column, ``[networks]``."""
    if name == zoo.split_by:
        return keys.astype(np.int64) if zoo.columns[name].dtype == "int" else keys
    if name == "run_index" and zoo.info.recipe is not None:
        # programs of networks are built by it; their architecture, which everyone sees, is all that the remainder tells
        recipe = parse_recipe(zoo.info.recipe, source=f"the recipe in {str(zoo.path)!r} cannot be read")
        return zoo.metadata[name][rows] % recipe.num_architectures
    return np.full(len(rows), PLACEHOLDERS[zoo.columns[name].dtype])


def _stretches(zoo: Zoo, rows: np.ndarray) -> Iterator[slice]:
    """Places in `rows` that follow one another and share a structure, no more than memory should hold."""
    structures = np.array([topology.structure for topology in zoo.topologies])[zoo.topology_index[rows]]
    edges = [0, *(np.flatnonzero(structures[1:] != structures[:-1]) + 1).tolist(), len(rows)]
    for first, last in pairwise(edges):
        size = max(1, _VALUES_AT_ONCE // max(1, zoo.topologies[zoo.topology_index[rows[first]]].num_values))
        for start in range(first, last, size):
            yield slice(start, min(start + size, last))
