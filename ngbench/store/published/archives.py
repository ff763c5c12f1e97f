"""Unpacks archives of unknown origin: plain files alone, none outside the folder, not more than the disk is asked for."""

from __future__ import annotations

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from ngbench.errors import ForeignZooError
from ngbench.store.atomic_file import disk_errors, partial_folder

_PIECE_BYTES = 2**20
_LARGEST_BYTES = 2**40
_LONGEST_NAME = 240
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, gzip.BadGzipFile)


@contextmanager
def unpacked(path: Path, *, beside: Path) -> Iterator[Path]:
    """A folder with what `path` holds: itself where it is a folder; archives are unpacked, also those in a folder.

    A file in the folder gives way to a member of an archive that has its name.

    Args:
        path: A folder, or an archive: ``.zip``, ``.tar``, ``.tar.gz`` or ``.tar.xz``.
        beside: A file; the temporary folder is made beside it and removed at the end.

    Raises:
        ForeignZooError: There is nothing at `path`, it is no archive, or it is damaged or hostile.
        StoreWriteError: The disk is full.
    """
    if not path.exists():
        raise ForeignZooError(f"there is nothing at {str(path)!r}; expected the folder or archive of a published zoo")
    archives = [path] if path.is_file() else [file for file in sorted(path.iterdir()) if _is_archive(file)]
    if not archives:
        yield path
        return
    with partial_folder(beside.with_name(f"{beside.name}.unpacked")) as folder:
        for archive in archives:
            unpack(archive, folder)
        for file in path.iterdir() if path.is_dir() else ():
            if file.is_file() and file not in archives and not (folder / file.name).exists():
                (folder / file.name).symlink_to(file.absolute())
        yield folder


def _is_archive(path: Path) -> bool:
    return path.is_file() and path.name.endswith((".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz"))


def unpack(archive: Path, folder: Path) -> None:
    """Writes the plain files of an archive below a folder.

    Raises:
        ForeignZooError: It is no archive, is damaged, or has a member that is a link or a device, or that would stand outside
            the folder or twice.
        StoreWriteError: The disk is full.
    """
    sizes = [0]
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                for member in file.infolist():
                    if member.is_dir():
                        continue
                    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
                        raise _hostile(archive, member.filename, "is no plain file")
                    with file.open(member) as source:
                        _write(archive, member.filename, source, folder, sizes)
        elif archive.name.endswith((".tar", ".tar.gz", ".tgz", ".tar.xz")):
            with tarfile.open(archive) as file:
                for member in file:
                    if member.isdir():
                        continue
                    source = file.extractfile(member) if member.isreg() else None
                    if source is None:
                        raise _hostile(archive, member.name, "is no plain file")
                    _write(archive, member.name, source, folder, sizes)
        else:
            raise ForeignZooError(f"{str(archive)!r} is no archive; expected a folder, .zip, .tar, .tar.gz or .tar.xz")
    # What these modules raise for damaged archives, and for encrypted ones and unknown compressions.
    except (*_DAMAGED, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ForeignZooError(f"archive {str(archive)!r} is damaged ({error}); fetch it again") from error


def _write(archive: Path, name: str, source: IO[bytes], folder: Path, sizes: list[int]) -> None:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if not parts or parts[0] == "/" or ".." in parts or ":" in parts[0] or "\0" in name:
        raise _hostile(archive, name, "would stand outside its folder")
    if max(map(len, parts)) > _LONGEST_NAME:
        raise _hostile(archive, name[:80], f"has a name of more than {_LONGEST_NAME} letters")
    target = folder.joinpath(*parts)
    with disk_errors(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            file = target.open("xb")
        except (FileExistsError, NotADirectoryError):
            raise _hostile(archive, name, "stands twice") from None
        with file:
            while piece := source.read(_PIECE_BYTES):
                sizes[0] += len(piece)
                if sizes[0] > _LARGEST_BYTES:
                    raise _hostile(archive, name, f"brings the archive to more than {_LARGEST_BYTES:,} bytes")
                file.write(piece)


def _hostile(archive: Path, name: str, fault: str) -> ForeignZooError:
    return ForeignZooError(f"member {name!r} of archive {str(archive)!r} {fault}; expected plain files below one folder")
