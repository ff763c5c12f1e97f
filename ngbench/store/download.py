"""Downloads that go on where they were stopped, and end with the file that was asked for or with none."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ngbench.errors import ChecksumError, DownloadError
from ngbench.progress import Progress, Stages, silent, silent_stages
from ngbench.store.atomic_file import atomic_file, disk_errors
from ngbench.store.published import PublishedZoo, RemoteFile

CHECKSUMS = "checksums.json"
_PIECE_BYTES = 2**18
_HEADERS = {"User-Agent": "ngbench", "Accept-Encoding": "identity"}
# too many requests, and faults of servers that pass
_PASSING = {408, 425, 429, 500, 502, 503, 504}
# Nothing but HTTP is opened, also where a server leads elsewhere: without a handler the answer is None.
_OPENER = urllib.request.OpenerDirector()
for _handler in (
    urllib.request.ProxyHandler,
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    urllib.request.HTTPDefaultErrorHandler,
    urllib.request.HTTPRedirectHandler,
    urllib.request.HTTPErrorProcessor,
):
    _OPENER.add_handler(_handler())


def download_zoo(published: PublishedZoo, folder: str | Path, *, stages: Stages = silent_stages) -> Path:
    """Downloads the files of a published zoo, for `import_zoo`.

    Args:
        published: One of `PUBLISHED`.
        folder: Where the files shall stand; it is made. Files that stand there already are kept.
        stages: Told each file, and the bytes done and to do.

    Returns:
        The folder.

    Raises:
        DownloadError: The zoo is offered to browsers alone, or network by network, or as of `download`.
        HubError: The zoo is a dataset on the Hub, which does not have it, cannot be reached or refuses.
        ChecksumError: A file is not the one that is known.
        StoreWriteError: The disk is full.
    """
    if not published.is_downloadable:
        raise DownloadError(
            f"zoo {published.name!r} is offered to browsers alone: fetch its files from {published.home} "
            f"and run 'ngbench zoo import {published.name} --from FOLDER'"
        )
    if published.hub_models is not None:
        raise DownloadError(
            f"zoo {published.name!r} is offered network by network, and never stands on the disk as published: run "
            f"'ngbench zoo download {published.name}', or call ngbench.store.hub.stream_zoo"
        )
    folder = Path(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for file in published.files:
        download(file, folder, progress=stages(f"downloading {file.name}"))
    if published.hub_dataset:
        _download_dataset(published.hub_dataset, folder, progress=stages(f"downloading {published.hub_dataset}"))
    return folder


def _download_dataset(name: str, folder: Path, *, progress: Progress) -> None:
    """The Parquet files of a dataset on the Hub, one after the other, all of the commit that was the newest at the first call."""
    # The Hub's client takes a second to load.
    from ngbench.store.hub.client import commit_of

    key = f"{name}@revision"
    known = _recorded(folder).get(key)
    commit = commit_of(name, revision=known)
    if known is None:
        with disk_errors(folder):
            _record(folder, key, commit.revision)
    paths = sorted(path for path in commit.files if path.endswith(".parquet"))
    for done, path in enumerate(paths, start=1):
        commit.fetch(path, folder)
        progress(done, len(paths), path)


def download(
    file: RemoteFile,
    folder: Path,
    *,
    progress: Progress = silent,
    timeout_s: float = 60.0,
    num_attempts: int = 8,
    pause_s: float = 1.0,
) -> Path:
    """Downloads one file; what is there of it, ``<name>.partial``, is not asked for again.

    The sha256 of a file that has none known is recorded in ``checksums.json`` beside it, and holds from then on.

    Args:
        file: What to download.
        folder: Where it shall stand.
        progress: Told the bytes done and to do.
        timeout_s: How long a server may be silent.
        num_attempts: Attempts in a row that bring nothing before it is given up.
        pause_s: Seconds before the second attempt; they double with each that brings nothing.

    Returns:
        Path of the file.

    Raises:
        DownloadError: The server does not have the file, gives a page for people in its place, or cannot be reached.
        ChecksumError: The file has another sha256; what was downloaded is removed.
        StoreWriteError: The disk is full.
    """
    target, known = folder / file.name, file.sha256 or _recorded(folder).get(file.name)
    if target.exists():
        _check(target, target, known)
        return target
    partial = _Partial(target.with_name(f"{file.name}.partial"))
    failures = 0
    while True:
        before, reason = partial.size, ""
        try:
            if _fetch(file, partial, progress=progress, timeout_s=timeout_s):
                break
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in _PASSING:
                raise _refused(file, f"the server answers {error.code} {error.reason}") from error
            reason = f"the server answers {error.code} {error.reason}"
        # What is raised where a connection is refused, cut, silent or no HTTP; disk errors have become `StoreWriteError`.
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = str(error) or type(error).__name__
        failures = failures + 1 if partial.size <= before else 0
        if failures >= num_attempts:
            raise _refused(file, f"{reason}, {failures} times; {partial.size:,} bytes are kept and not fetched again")
        time.sleep(pause_s * 2 ** min(failures, 6))
    _check(partial.path, target, known)
    with disk_errors(target):
        if known is None:
            _record(folder, file.name, _sha256(partial.path))
        partial.path.replace(target)
        partial.remove()
    return target


@dataclass(frozen=True)
class _Partial:
    """The first bytes of a file, and the mark by which its server knows this version of it."""

    path: Path

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def _mark_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}-mark")

    @property
    def mark(self) -> str:
        """An ETag or a date; empty where the server gave none."""
        return self._mark_path.read_text() if self._mark_path.exists() else ""

    def begin(self, mark: str) -> BinaryIO:
        """Opens it empty."""
        self._mark_path.write_text(mark)
        return self.path.open("wb")

    def remove(self) -> None:
        """Removes it with its mark."""
        self.path.unlink(missing_ok=True)
        self._mark_path.unlink(missing_ok=True)


def _fetch(file: RemoteFile, partial: _Partial, *, progress: Progress, timeout_s: float) -> bool:
    """One attempt; whether the file is complete after it."""
    request = urllib.request.Request(file.url, headers=_HEADERS)
    # Bytes of another version must not be joined, so without a mark it begins anew.
    start = partial.size if partial.mark else 0
    if start:
        request.add_header("Range", f"bytes={start}-")
        request.add_header("If-Range", partial.mark)
    try:
        response = _OPENER.open(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            error.close()
            if error.headers.get("Content-Range") == f"bytes */{start}":
                return True
            partial.remove()
            return False
        raise
    if response is None:
        raise _refused(file, "its address is no HTTP or HTTPS")
    with contextlib.closing(response):
        if "text/html" in response.headers.get("Content-Type", "") and not file.name.endswith(".html"):
            raise _refused(file, "the server gives a page for people in its place, perhaps a login or a quota")
        goes_on = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if goes_on and not re.match(rf"bytes {start}-", response.headers.get("Content-Range", "")):
            partial.remove()
            return False
        length = response.headers.get("Content-Length")
        total = None if length is None else int(length) + (start if goes_on else 0)
        with disk_errors(partial.path):
            target = partial.path.open("ab") if goes_on else partial.begin(_mark(response))
        with target:
            done = _copy(response, target, start if goes_on else 0, total=total, progress=progress)
    # Without a length the end of the connection is the end of the file; a checksum then tells whether it was.
    return total is None or done == total


def _mark(response: http.client.HTTPResponse) -> str:
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _copy(source: http.client.HTTPResponse, target: BinaryIO, done: int, *, total: int | None, progress: Progress) -> int:
    """Carries what comes to the disk; returns how many bytes of the file are there then."""
    while piece := source.read1(_PIECE_BYTES):
        with disk_errors(Path(target.name)):
            target.write(piece)
        done += len(piece)
        progress(done, total or 0)
        if total is not None and done >= total:
            break
    return done


def _refused(file: RemoteFile, reason: str) -> DownloadError:
    return DownloadError(
        f"{file.name!r} does not come from {file.url} ({reason}); run again later, or fetch it by other means "
        "and import it --from there"
    )


def _check(path: Path, target: Path, known: str | None) -> None:
    got = None if known is None else _sha256(path)
    if got != known:
        partial = path != target
        if partial:
            _Partial(path).remove()
        raise ChecksumError(
            f"{str(target)!r} has sha256 {got}; expected {known}; "
            + ("it was removed: run again" if partial else "delete it and run again")
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _recorded(folder: Path) -> dict[str, str]:
    """The sha256 of each file that was downloaded into a folder, and the commit of each dataset on the Hub."""
    path = folder / CHECKSUMS
    try:
        content = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise ChecksumError(f"{str(path)!r} is no JSON ({error}); delete it and the files beside it, and run again") from error
    if not isinstance(content, dict):
        raise ChecksumError(
            f"{str(path)!r} holds a {type(content).__name__}; expected names and checksums; delete it and run again"
        )
    return content


def _record(folder: Path, key: str, value: str) -> None:
    content = {**_recorded(folder), key: value}
    with atomic_file(folder / CHECKSUMS) as file:
        file.write(json.dumps(content, indent=2, sort_keys=True).encode())
