"""Files and folders that have their name only when they are complete, and the sentence for a disk that has no room for them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ngbench.errors import StoreWriteError

try:
    import fcntl
except ImportError:
    # not on Windows, where what a killed process leaves is for its user to remove
    fcntl = None

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a new binary file that takes the name `path` when the block ends, in one step and once it is on the disk.

    Whatever ends the block early removes the file; a process that is killed leaves ``<name>.partial-<pid>``, which is
    no zoo file, and which the next that writes the file removes.

    Raises:
        StoreWriteError: The file cannot be written, for example because the disk is full.
    """
    partial = _partial(path)
    try:
        with disk_errors(path):
            _remove_left(path)
            with partial.open("w+b") as file:
                _hold(file.fileno())
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def partial_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`, called ``<name>.partial-<pid>``, which is removed when the block ends, unless it was renamed.

    What killed processes left of that name is removed first.

    Raises:
        StoreWriteError: It cannot be made.
    """
    folder = _partial(path)
    with disk_errors(folder):
        _remove_left(path)
        folder.mkdir(parents=True)
    holder = None if fcntl is None else os.open(folder, os.O_RDONLY)
    try:
        if holder is not None:
            _hold(holder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if holder is not None:
            os.close(holder)


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial-{os.getpid()}")


def _hold(descriptor: int) -> bool:
    """Locks what is open as long as this process lives; whether no other process has it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove_left(path: Path) -> None:
    """Removes what processes that are no more left of a file or folder of that name."""
    if fcntl is None or not path.parent.is_dir():
        return
    for left in path.parent.iterdir():
        if not left.name.startswith(f"{path.name}.partial-"):
            continue
        descriptor = os.open(left, os.O_RDONLY)
        try:
            if _hold(descriptor):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        finally:
            os.close(descriptor)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns what the system says when `path` cannot be written into one sentence.

    Raises:
        StoreWriteError: The block met an error of the system.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _NO_ROOM:
            raise StoreWriteError(
                f"no room to write {str(path)!r} ({reason}); nothing of it was kept; "
                f"free space in {str(path.parent)!r} and run again"
            ) from error
        raise StoreWriteError(
            f"cannot write {str(path)!r} ({reason}); expected a folder that exists and can be written to"
        ) from error
