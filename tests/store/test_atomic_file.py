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
from ngbench.store.atomic_file import atomic_file, disk_errors, partial_folder


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


KILLED = """
import os, pathlib, signal, sys
from ngbench.store.atomic_file import atomic_file, partial_folder
with {making}(pathlib.Path({path!r})) as made:
    if not made_a_file:
        (made / "b.bin").write_bytes(bytes(100_000))
    print("there", flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@contextmanager
def half_way(making, path):
    """Another process that makes what has that name; it is killed where the block ends."""
    script = KILLED.format(making=making, path=str(path)).replace("made_a_file", str(making == "atomic_file"))
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"there\n"
        yield
    assert process.returncode == -9


@pytest.mark.parametrize(("making", "make"), [("atomic_file", atomic_file), ("partial_folder", partial_folder)])
def test_what_a_killed_process_leaves_has_another_name_and_goes_when_it_is_made_again(tmp_path, making, make):
    path = tmp_path / "a[1].bin"
    (tmp_path / "a[1].bin-other").touch()
    with half_way(making, path):
        with make(path):
            assert len(os.listdir(tmp_path)) == 3
        assert len([name for name in os.listdir(tmp_path) if name.startswith("a[1].bin.partial-")]) == 1
    (left,) = set(os.listdir(tmp_path)) - {"a[1].bin", "a[1].bin-other"}
    assert left.startswith("a[1].bin.partial-")
    with make(path):
        pass
    assert set(os.listdir(tmp_path)) <= {"a[1].bin", "a[1].bin-other"}


def test_a_folder_that_is_renamed_stays_and_one_that_fails_goes(tmp_path):
    with partial_folder(tmp_path / "a") as folder:
        (folder / "b.bin").touch()
        folder.rename(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]

    def fail(path):
        with partial_folder(path) as folder:
            (folder / "b.bin").touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]
