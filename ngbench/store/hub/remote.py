"""Zoos as datasets on the Hugging Face Hub."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from ngbench.errors import HubError, StoreWriteError
from ngbench.progress import Progress, silent
from ngbench.store.hub.client import commit_of, hub_api, hub_errors
from ngbench.store.hub.from_folder import import_dataset
from ngbench.store.hub.manifest import MANIFEST, Manifest, read_manifest
from ngbench.store.hub.to_folder import export_dataset
from ngbench.store.reader import Zoo

_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
ADDRESS = re.compile(r"hf://(?:datasets/)?(?P<repository>[^@]+)(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]*))?")
_TABLES = ["data/*", "topologies/*", "diverged/*"]


def push(zoo: Zoo, repository: str, *, card: str | Path | None = None, private: bool = False, progress: Progress = silent) -> str:
    """Uploads a zoo as a dataset; a dataset that is there gets one commit that replaces its tables.

    Args:
        zoo: The zoo.
        repository: ``owner/name``.
        card: The zoo's data card, or None.
        private: Whether a new dataset is for its owner only.
        progress: Told how many networks are written to the folder that is uploaded.

    Returns:
        Address of the commit.

    Raises:
        HubError: The name is none, or the Hub cannot be reached or refuses.
        StoreWriteError: There is no room for the folder that is uploaded.
        CardError: There is no such data card.
    """
    _check_repository(repository)
    with tempfile.TemporaryDirectory(prefix="ngbench-push-") as scratch:
        folder = export_dataset(zoo, Path(scratch) / zoo.name, card=card, progress=progress)
        with hub_errors(repository):
            api = hub_api()
            api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository,
                repo_type="dataset",
                folder_path=folder,
                commit_message=f"{zoo.name} version {zoo.version}",
                delete_patterns=_TABLES,
            )
    return str(commit.commit_url)


def download(address: str, path: str | Path | None = None, *, progress: Progress = silent) -> Zoo:
    """Fetches a dataset and turns it back into its zoo file; goes on where it was interrupted.

    Only files that the manifest names are asked for. They stand in ``<file>.hub`` until the zoo file is complete.

    Args:
        address: ``hf://owner/name`` or ``hf://owner/name@revision``.
        path: The file to write; None for ``<name>.h5`` in the current folder.
        progress: Told how many networks are read from the fetched folder.

    Returns:
        The zoo, open.

    Raises:
        HubError: The address is none, or the Hub cannot be reached or refuses.
        StoreFormatError: The dataset is not one that `push` wrote, or was damaged.
        ChecksumError: It gives another zoo file than it says.
        StoreWriteError: The file is there already, or there is no room.
    """
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise HubError(f"address {address!r} is none of a dataset; expected hf://owner/name or hf://owner/name@revision")
    repository = match["repository"]
    _check_repository(repository)
    path = Path(path) if path is not None else Path(f"{repository.partition('/')[2]}.h5")
    if path.exists():
        raise StoreWriteError(f"{str(path)!r} is there already; expected a new file: name another or remove it")
    folder = path.with_name(f"{path.name}.hub")
    commit = commit_of(repository, revision=match["revision"])
    commit.fetch(MANIFEST, folder)
    manifest = read_manifest(folder)
    _check_room(folder, manifest)
    for entry in manifest.files:
        commit.fetch(entry.path, folder)
    zoo = import_dataset(folder, path, progress=progress)
    shutil.rmtree(folder)
    return zoo


def _check_repository(repository: str) -> None:
    if not _REPOSITORY.fullmatch(repository):
        raise HubError(f"{repository!r} is no name of a dataset; expected owner/name of letters, digits, '.', '_' and '-'")


def _check_room(folder: Path, manifest: Manifest) -> None:
    """Both the tables and the zoo file fit on the disk, by the sizes that the manifest declares."""
    size_bytes = sum(file.size_bytes for file in manifest.files) + 4 * manifest.num_values
    free_bytes = shutil.disk_usage(folder).free
    if size_bytes > free_bytes:
        raise StoreWriteError(
            f"the dataset declares {size_bytes} bytes of tables and values; {str(folder.parent)!r} has room for {free_bytes}; "
            "free some space or choose another folder"
        )
