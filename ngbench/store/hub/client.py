"""Repositories of the Hugging Face Hub through its own client: the endpoint is ``HF_ENDPOINT``, the token the client's."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage] - of the HTTP library that the client has chosen
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

from ngbench import __version__
from ngbench.errors import ChecksumError, HubError
from ngbench.store.atomic_file import disk_errors

Kind = Literal["dataset", "model"]


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, as far as the Hub says it.

    Args:
        size_bytes: Its size; 0 where it is not said.
        sha256: Of its bytes; None where it is not said, as of small files.
    """

    size_bytes: int
    sha256: str | None


@dataclass(frozen=True)
class Commit:
    """A repository as it stood at one commit, so that all its files agree, even if another is pushed meanwhile.

    Args:
        repository: ``owner/name``.
        kind: What it holds.
        revision: Hexadecimal name of the commit.
        files: What it has, by path.
    """

    repository: str
    kind: Kind
    revision: str
    files: Mapping[str, HubFile]

    def fetch(self, path: str, folder: Path) -> Path:
        """Downloads a file to its path below a folder; what stands there of it is not asked for again.

        Raises:
            HubError: The Hub does not have it, cannot be reached or refuses.
            ChecksumError: It has another sha256 than the Hub says; it is removed.
            StoreWriteError: The disk is full.
        """
        with disk_errors(folder / path), hub_errors(self.repository, self.kind):
            found = Path(
                hub_api().hf_hub_download(self.repository, path, repo_type=self.kind, revision=self.revision, local_dir=folder)
            )
        expected = self.files[path].sha256 if path in self.files else None
        if expected is not None:
            with found.open("rb") as file:
                got = hashlib.file_digest(file, "sha256").hexdigest()
            if got != expected:
                found.unlink()
                raise ChecksumError(
                    f"{path!r} of {self.kind} {self.repository!r} has sha256 {got}; expected {expected}; "
                    "it was removed: run again"
                )
        return found


def commit_of(repository: str, kind: Kind = "dataset", *, revision: str | None = None) -> Commit:
    """The commit that a revision names; None for the newest.

    Raises:
        HubError: There is none, or the Hub cannot be reached or refuses.
    """
    with hub_errors(repository, kind):
        found_by = hub_api().dataset_info if kind == "dataset" else hub_api().model_info
        info = found_by(repository, revision=revision, files_metadata=True)
    files = {
        file.rfilename: HubFile(file.size or 0, file.lfs.sha256 if file.lfs is not None else None) for file in info.siblings or ()
    }
    return Commit(repository, kind, str(info.sha), files)


def hub_api() -> HfApi:
    """The Hub's client."""
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="ngbench", library_version=__version__)


@contextmanager
def hub_errors(repository: str, kind: Kind = "dataset") -> Iterator[None]:
    """Turns what the Hub's client says into one sentence.

    Raises:
        HubError: The block met an error of the Hub or of the way to it.
    """
    try:
        yield
    except RuntimeError as error:
        # The client wraps whatever ends the upload of a large file in one of these.
        if not str(error).startswith("Error while uploading"):
            raise
        raise _hub_error(repository, kind, f"{error} {error.__cause__}") from error
    except (HFValidationError, HTTPError, LocalEntryNotFoundError, LocalTokenNotFoundError, OfflineModeIsEnabled) as error:
        status = f"HTTP {error.response.status_code}, " if isinstance(error, HfHubHTTPError) else ""
        raise _hub_error(repository, kind, f"{status}{error}") from error


def _hub_error(repository: str, kind: Kind, reason: str) -> HubError:
    return HubError(
        f"{kind} {repository!r}: the Hub cannot be reached or refuses ({' '.join(reason.split())[:300]}); expected a {kind} "
        "that is there and open to your token: check the name, the network, HF_ENDPOINT and `hf auth login`"
    )
