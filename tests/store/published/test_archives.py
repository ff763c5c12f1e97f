"""Archives, harmless and hostile."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile

import pytest

from ngbench.errors import ForeignZooError
from ngbench.store.published.archives import unpack, unpacked


def make_zip(path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return path


def make_tar(path, *members):
    with tarfile.open(path, "w:xz" if path.name.endswith("xz") else "w") as archive:
        for name, content, kind in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            info.linkname = "" if kind == tarfile.REGTYPE else content.decode()
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.xz"])
def test_plain_files_stand_below_the_folder_and_are_gone_at_the_end(tmp_path, name):
    kind = stat.S_IFREG | 0o644 if name == "a.zip" else tarfile.REGTYPE
    make = make_zip if name == "a.zip" else make_tar
    path = make(tmp_path / name, ("top/weights.npy", b"123", kind), ("top/in/b.csv", b"45", kind))
    with unpacked(path, beside=tmp_path / "zoo.h5") as folder:
        assert (folder / "top/weights.npy").read_bytes() == b"123"
        assert (folder / "top/in/b.csv").read_bytes() == b"45"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [name]


def test_a_folder_of_archives_and_files_is_read_as_one_and_archives_go_first(tmp_path):
    (tmp_path / "files").mkdir()
    make_zip(tmp_path / "files/a.zip", ("a/weights.npy", b"123", 0))
    (tmp_path / "files/split.csv").write_text("0\n")
    make_zip(tmp_path / "files/b.zip", ("read.me", b"of the archive", 0))
    (tmp_path / "files/read.me").write_text("beside it")
    with unpacked(tmp_path / "files", beside=tmp_path / "zoo.h5") as folder:
        assert (folder / "a/weights.npy").exists()
        assert (folder / "split.csv").read_text() == "0\n"
        assert (folder / "read.me").read_text() == "of the archive"
    assert (tmp_path / "files/split.csv").exists()


def test_a_folder_without_archives_is_itself(tmp_path):
    with unpacked(tmp_path, beside=tmp_path / "zoo.h5") as folder:
        assert folder == tmp_path


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/tmp/out", "..\\out", "C:/out"])
def test_a_member_outside_the_folder_is_refused(tmp_path, name):
    (tmp_path / "in").mkdir()
    for path in (
        make_zip(tmp_path / "a.zip", ("fine", b"1", 0), (name, b"x", 0)),
        make_tar(tmp_path / "a.tar", (name, b"x", tarfile.REGTYPE)),
    ):
        with pytest.raises(ForeignZooError, match="would stand outside its folder; expected plain files"):
            unpack(path, tmp_path / "in")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    path = make_tar(tmp_path / "a.tar", ("link", b"/etc", kind), ("link/x", b"x", tarfile.REGTYPE))
    with pytest.raises(ForeignZooError, match="member 'link' of archive .* is no plain file"):
        unpack(path, tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_a_link_in_a_zip_is_refused(tmp_path):
    path = make_zip(tmp_path / "a.zip", ("link", b"/etc", stat.S_IFLNK | 0o777))
    with pytest.raises(ForeignZooError, match="member 'link' of archive .* is no plain file"):
        unpack(path, tmp_path / "in")


def test_a_member_that_stands_twice_or_in_a_file_is_refused(tmp_path):
    path = make_tar(tmp_path / "a.tar", ("x", b"1", tarfile.REGTYPE), ("./x", b"2", tarfile.REGTYPE))
    with pytest.raises(ForeignZooError, match="member './x' of archive .* stands twice"):
        unpack(path, tmp_path / "in")
    path = make_tar(tmp_path / "b.tar", ("y", b"1", tarfile.REGTYPE), ("y/z", b"2", tarfile.REGTYPE))
    with pytest.raises(ForeignZooError, match="member 'y/z' of archive .* stands twice"):
        unpack(path, tmp_path / "in")


def test_a_name_too_long_and_an_archive_too_large_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ForeignZooError, match="has a name of more than 240 letters"):
        unpack(make_zip(tmp_path / "a.zip", ("n" * 241, b"1", 0)), tmp_path / "in")
    monkeypatch.setattr("ngbench.store.published.archives._LARGEST_BYTES", 1000)
    bomb = make_zip(tmp_path / "b.zip", ("a", bytes(600), 0), ("b", bytes(600), 0))
    with pytest.raises(ForeignZooError, match="member 'b' .* brings the archive to more than 1,000 bytes"):
        unpack(bomb, tmp_path / "in")


@pytest.mark.parametrize("name", ["a.zip", "a.tar.xz"])
def test_a_damaged_archive_is_refused(tmp_path, name):
    kind = 0 if name == "a.zip" else tarfile.REGTYPE
    path = (make_zip if name == "a.zip" else make_tar)(tmp_path / name, ("x", bytes(range(256)) * 9, kind))
    content = bytearray(path.read_bytes())
    content[60:64] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(ForeignZooError, match="is damaged"):
        unpack(path, tmp_path / "in")
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ForeignZooError, match="is damaged|is no archive"):
        unpack(path, tmp_path / "in")


def test_what_is_no_archive_is_named(tmp_path):
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    with pytest.raises(ForeignZooError, match="a.rar' is no archive; expected a folder, .zip, .tar"):
        unpack(tmp_path / "a.rar", tmp_path / "in")
