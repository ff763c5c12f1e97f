from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from ngbench.errors import StoreWriteError
from ngbench.store.atomic_file import atomic_file, disk_errors


@contextmanager
def largest_file(size_bytes):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_name_appears_with_the_whole_content(tmp_path):
    path = tmp_path / "a.bin"
    with atomic_file(path) as file:
        file.write(b"content")
        file.flush()
        assert not path.exists()
    assert path.read_bytes() == b"content"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("exception", [KeyboardInterrupt, ZeroDivisionError])
def test_an_exception_leaves_what_stood_there_before(tmp_path, exception):
    path = tmp_path / "a.bin"
    path.write_bytes(b"before")

    def interrupted():
        with atomic_file(path) as file:
            file.write(b"after")
            raise exception

    with pytest.raises(exception):
        interrupted()
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    def fill(path):
        with largest_file(10_000), atomic_file(path) as file:
            file.write(bytes(20_000))

    with pytest.raises(
        StoreWriteError, match=r"no room to write '.*a\.bin' \(File too large\).*free space in '.*' and run again"
    ):
        fill(tmp_path / "a.bin")
    assert os.listdir(tmp_path) == []


def test_a_disk_without_space_is_told_like_a_limit():
    with (
        pytest.raises(StoreWriteError, match=r"no room to write 'zoos/a\.h5' \(No space left on device\)"),
        disk_errors(Path("zoos/a.h5")),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_missing_folder_is_named(tmp_path):
    with (
        pytest.raises(StoreWriteError, match=r"cannot write '.*none/a\.bin' \(No such file or directory\)"),
        atomic_file(tmp_path / "none" / "a.bin"),
    ):
        pass


def test_a_killed_process_leaves_no_file_of_the_name(tmp_path):
    script = (
        "import os, pathlib, signal\n"
        "from ngbench.store.atomic_file import atomic_file\n"
        f"with atomic_file(pathlib.Path({str(tmp_path / 'a.bin')!r})) as file:\n"
        "    file.write(bytes(100_000))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    (left,) = os.listdir(tmp_path)
    assert left.startswith("a.bin.partial-")
