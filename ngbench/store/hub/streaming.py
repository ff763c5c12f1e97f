"""Published zoos that are larger than a disk should hold twice: each network is fetched from the Hub, converted and dropped."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ngbench.errors import DownloadError, ForeignZooError, StoreFormatError, StoreWriteError
from ngbench.progress import Progress, silent
from ngbench.store.atomic_file import atomic_file, disk_errors
from ngbench.store.hub.client import Commit, commit_of
from ngbench.store.importing import convert, reason_left_out
from ngbench.store.merged import merge
from ngbench.store.published import HubModels, PublishedZoo
from ngbench.store.reader import Zoo

_PARTS = {"train": "train", "val": "val", "validation": "val", "test": "test"}
_PART = re.compile(r"(train|validation|val|test)(?=[-.]|$)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
# A merge writes the values to a spool, and from there to the zoo file.
_COPIES_OF_A_MERGE = 2


def stream_zoo(published: PublishedZoo, out: str | Path, *, limit: int | None = None, progress: Progress = silent) -> Zoo:
    """Fetches a published zoo network by network and writes it to a zoo file.

    Each network becomes a part in ``<out>.parts``, a zoo file of its own, and its fetched files are removed before the next is
    asked for. Stopped at any moment and called again, it goes on after the last finished part, and within a file that was
    half fetched. The file is byte for byte the one that `import_zoo` makes of a folder with all files. The disk must hold the
    values three times: as parts, in the spool of the writer and in the file.

    Args:
        published: A zoo with `hub_models`.
        out: The zoo file to write.
        limit: Take only so many networks, at even distances in their order; None for all.
        progress: Told the networks done and to do.

    Returns:
        The zoo, open.

    Raises:
        DownloadError: The zoo is not offered network by network.
        HubError: The Hub does not have a repository, cannot be reached or refuses.
        ChecksumError: A file is not the one that the Hub names.
        ForeignZooError: The limit is below 1, or tables or networks are of another layout than published.
        StoreFormatError: What an earlier call left cannot be read.
        StoreWriteError: The file is there already, the parts are of another zoo, or there is no room.
    """
    path, models = Path(out), published.hub_models
    if models is None:
        raise DownloadError(f"zoo {published.name!r} is not offered network by network; expected one that is: call download_zoo")
    if limit is not None and limit < 1:
        raise ForeignZooError(f"limit is {limit}; expected at least 1")
    parts = _Parts(path.with_name(f"{path.name}.parts"), published)
    if path.exists() and not parts.folder.exists():
        raise StoreWriteError(f"{str(path)!r} is there already; expected a new file: name another or remove it")
    # Where both are there, the call that wrote the file was stopped before it had removed the parts.
    if not path.exists():
        networks = _spread(parts.networks(models), limit)
        for done, network in enumerate(networks):
            progress(done, len(networks), network.name)
            if not parts.has(network):
                _fetch(parts, network, models, num_missing=len(networks) - done, num_networks=len(networks))
        parts.join(networks, path)
        progress(len(networks), len(networks))
    zoo = Zoo(path)
    parts.remove()
    return zoo


@dataclass(frozen=True, order=True)
class _Network:
    """A repository of the Hub.

    Args:
        part: Its part in the reference split.
        repository: ``owner/name``.
    """

    part: str
    repository: str

    @property
    def name(self) -> str:
        """Name of the repository without its owner."""
        return self.repository.partition("/")[2]


@dataclass(frozen=True)
class _Parts:
    """What is finished of a zoo: the list of all networks, and of each a zoo file or the reason why it has none."""

    folder: Path
    published: PublishedZoo

    @property
    def fetched(self) -> Path:
        """Where the files of the network stand that is under way."""
        return self.folder / "fetched"

    def networks(self, models: HubModels) -> list[_Network]:
        """All networks of the zoo by part and name, as the first call found them.

        Raises:
            HubError: The Hub cannot be asked.
            ForeignZooError: The tables are of another layout than published.
            StoreFormatError: The list of an earlier call cannot be read.
            StoreWriteError: It is of another zoo.
        """
        path = self.folder / "networks.json"
        if not path.exists():
            with disk_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            commit = commit_of(models.dataset)
            found = sorted(_named(commit, models, self.folder / "tables"))
            content = {
                "zoo": self.published.name,
                "revision": commit.revision,
                "networks": [[n.part, n.repository] for n in found],
            }
            with atomic_file(path) as file:
                file.write(json.dumps(content, indent=0).encode())
            shutil.rmtree(self.folder / "tables")
        try:
            content = json.loads(path.read_text())
            zoo, networks = content["zoo"], [_Network(part, repository) for part, repository in content["networks"]]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StoreFormatError(f"{str(path)!r} cannot be read ({error!r}); delete it and run again") from error
        if zoo != self.published.name:
            raise StoreWriteError(
                f"{str(self.folder)!r} has parts of zoo {zoo!r}; expected {self.published.name!r}: choose another output, "
                "or delete that folder"
            )
        return networks

    def zoo_file(self, network: _Network) -> Path:
        """The part of a network with finite values."""
        return self.folder / f"{network.name}.h5"

    def left_out(self, network: _Network) -> Path:
        """The part of a network that a zoo file has no place for."""
        return self.folder / f"{network.name}.json"

    def has(self, network: _Network) -> bool:
        """Whether a network is finished."""
        return self.zoo_file(network).exists() or self.left_out(network).exists()

    def write(self, network: _Network) -> None:
        """Makes the part of the network whose files are fetched."""
        networks = list(self.published.read(self.fetched))
        reason = reason_left_out(networks[0])
        if reason is None:
            convert(self.published, networks, self.zoo_file(network), source=network.repository)
            return
        with atomic_file(self.left_out(network)) as file:
            file.write(json.dumps([networks[0].run_id, reason]).encode())

    def join(self, networks: Sequence[_Network], path: Path) -> None:
        """Writes the zoo file of all parts."""
        files = [self.zoo_file(network) for network in networks if self.zoo_file(network).exists()]
        if not files:
            raise ForeignZooError(
                f"none of {len(networks)} networks of zoo {self.published.name!r} is finite; expected at least one"
            )
        left_out = [self.left_out(network) for network in networks if self.left_out(network).exists()]
        reasons = [json.loads(file.read_text()) for file in left_out]
        merge(files, path, diverged=[(run_id, reason) for run_id, reason in reasons])

    def remove(self) -> None:
        """Deletes the parts."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _fetch(parts: _Parts, network: _Network, models: HubModels, *, num_missing: int, num_networks: int) -> None:
    """From the Hub to a part; the fetched files are gone at the end."""
    commit = commit_of(network.repository, "model")
    # The layout of the Hub's own cache, which is how the authors' code leaves a zoo on the disk.
    home = parts.fetched / network.part / f"models--{network.repository.replace('/', '--')}" / "snapshots" / commit.revision
    # Files of an earlier call are those of this network, unless it was stopped before it removed them, or they are outdated.
    for folder in [path for path in parts.fetched.glob("*/models--*/snapshots/*") if path != home]:
        shutil.rmtree(folder)
    paths = [*models.files, *(path for path in models.optional if path in commit.files)]
    size_bytes = sum(commit.files[path].size_bytes for path in paths if path in commit.files)
    _check_room(parts, size_bytes * (num_missing + _COPIES_OF_A_MERGE * num_networks))
    for path in paths:
        commit.fetch(path, home)
    parts.write(network)
    shutil.rmtree(parts.fetched)


def _check_room(parts: _Parts, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(parts.folder).free
    if needed_bytes > free_bytes:
        raise StoreWriteError(
            f"zoo {parts.published.name!r} takes about {needed_bytes:,} bytes more while it is made; "
            f"{str(parts.folder.parent)!r} has room for {free_bytes:,}; take fewer networks (limit), or choose another folder"
        )


def _named(commit: Commit, models: HubModels, folder: Path) -> Iterator[_Network]:
    """The networks that the tables of a dataset name."""
    tables = {path: part for path in sorted(commit.files) if (part := _part_of(path, models.subset)) is not None}
    if not tables:
        raise ForeignZooError(
            f"dataset {models.dataset!r} has no Parquet file of a part in folder {models.subset!r}; "
            f"it has {', '.join(sorted(commit.files)[:20]) or 'no file'}"
        )
    seen: set[str] = set()
    for path, part in tables.items():
        for name in _column(commit.fetch(path, folder), models.column):
            if not isinstance(name, str) or not _NAME.fullmatch(name) or not name.startswith(models.prefix):
                raise ForeignZooError(f"{path!r} of dataset {models.dataset!r} names {name!r}; expected {models.prefix}...")
            if name in seen:
                raise ForeignZooError(f"{path!r} of dataset {models.dataset!r} names {name!r}, which stood before; expected once")
            seen.add(name)
            yield _Network(part, name)


def _part_of(path: str, subset: str) -> str | None:
    """The part whose networks a Parquet file names, by the file or a folder below that of the subset; None for other files."""
    words = path.split("/")
    if subset not in words[:-1] or not path.endswith(".parquet"):
        return None
    found = [match for word in words[words.index(subset) + 1 :] if (match := _PART.match(word))]
    return _PARTS[found[0][1]] if found else None


def _column(path: Path, name: str) -> list[Any]:
    try:
        names = pq.read_schema(path).names
        if name not in names:
            raise ForeignZooError(f"{str(path)!r} has no column {name!r}; it has {', '.join(names)}")
        return pq.read_table(path, columns=[name])[name].to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ForeignZooError(f"{str(path)!r} is no Parquet file, or damaged ({error}); run again") from error


def _spread(networks: Sequence[_Network], limit: int | None) -> list[_Network]:
    """So many networks at even distances, so that each part has its share."""
    count = len(networks) if limit is None else min(limit, len(networks))
    return [networks[place * len(networks) // count] for place in range(count)]
