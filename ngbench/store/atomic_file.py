"""A file that has its name only when it is complete, and the sentence for a disk that has no room for it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ngbench.errors import StoreWriteError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a new binary file that takes the name `path` when the block ends, in one step and once it is on the disk.

    Whatever ends the block early removes the file; a process that is killed leaves ``<name>.partial-<pid>``, which is
    no zoo file.

    Raises:
        StoreWriteError: The file cannot be written, for example because the disk is full.
    """
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        with disk_errors(path):
            with partial.open("w+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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
