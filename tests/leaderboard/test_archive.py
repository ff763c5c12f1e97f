"""Archives from strangers: each trick is refused by its name, and nothing of it is run, written or allocated."""

from __future__ import annotations

import io
import json
import os
import pickle
import stat
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from leaderboard import archive as module
from leaderboard.archive import Archive, predictions_bytes, read_array, read_predictions
from ngbench.errors import SubmissionError
from ngbench.evaluation import Predictions

PLACE = "predictions/generalization/small-test_accuracy/"


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def added(path, name, content=b"x", *, mode=stat.S_IFREG | 0o644, compress_type=zipfile.ZIP_DEFLATED):
    """Puts one more file into an archive."""
    member = zipfile.ZipInfo(name)
    member.external_attr, member.compress_type = mode << 16, compress_type
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(member, content)
    return path


def replaced(path, name, content):
    """The archive with another content of a file."""
    with zipfile.ZipFile(path) as file:
        members = {own: file.read(own) for own in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for own, before in members.items():
            file.writestr(own, content if own == name else before)
    return path


def npy(array):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


def npz(compression=zipfile.ZIP_DEFLATED, **arrays):
    """An .npz of the content of each array's file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in arrays.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def header(descr, shape, body=b""):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def arrays(**changes):
    """The files of sound predictions of two rows, and what is put in their place."""
    about = json.dumps({"format_version": 2, "seed": 4})
    found = {"ids": np.array(["a", "b"]), "values": np.array([0.5, 1.5]), "scrambled": np.ones((3, 2)), "about": np.array(about)}
    return {**{name: npy(array) for name, array in found.items()}, **changes}


def far(content):
    """The .zip with a directory which says, as zip64 does, that its last file stands behind all that can be addressed."""
    changed, more = bytearray(content), struct.pack("<2HQ", 1, 8, 2**64 - 1)
    entry, end = changed.rfind(b"PK\x01\x02"), changed.rfind(b"PK\x05\x06")
    (directory_bytes,) = struct.unpack_from("<L", changed, end + 12)
    struct.pack_into("<L", changed, end + 12, directory_bytes + len(more))
    struct.pack_into("<L", changed, entry + 42, 2**32 - 1)
    struct.pack_into("<H", changed, entry + 30, len(more))
    changed[end:end] = more
    return bytes(changed)


def test_a_sound_archive_is_read_as_it_was_written(submitted, said):
    archive = Archive.open(submitted())
    assert archive.faults == ()
    assert archive.submission.about.title == "Test"
    for seed, path in zip((2, 5, 7), archive.submission.paths, strict=True):
        found, faults = archive.predictions(path)
        assert faults == []
        assert (found.ids, found.about) == (said(seed).ids, said(seed).about)
        np.testing.assert_array_equal(found.values, said(seed).values)
        np.testing.assert_array_equal(found.scrambled, said(seed).scrambled)


def test_the_same_content_gives_the_same_bytes(submitted):
    assert submitted().read_bytes() == submitted(name="other.zip").read_bytes()


OUT = "has a path that leads out of the archive; expected one below predictions/"
NO_PLACE = "has no place in a submission; expected submission.json and predictions/TASK/ZOO/seed-N.npz alone"


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("../evil.npz", OUT),
        ("/etc/passwd", OUT),
        ("predictions/../../evil", OUT),
        (f"{PLACE}../../../evil", OUT),
        ("C:/evil.npz", OUT),
        ("predictions\\a\\seed-0.npz", OUT),
        ("..\\evil", OUT),
        ("evil.py", NO_PLACE),
        ("predictions/evil", NO_PLACE),
        ("predictions/a/.b/seed-0.npz", NO_PLACE),
        (f"{PLACE}seed-0.pkl", NO_PLACE),
        (f"{PLACE}seed-00.npz", NO_PLACE),
        (f"{PLACE}seed-0.npz\n", NO_PLACE),
        ("evil/", NO_PLACE),
        ("sub\u202emission.json", NO_PLACE),
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(submitted, name, fault):
    (sentence,) = Archive.open(added(submitted(), name)).faults
    assert sentence.endswith(fault)
    assert sentence.isprintable()


def test_a_name_that_goes_on_behind_a_nul_is_refused(submitted):
    path = added(submitted(), f"{PLACE}seed-2X.npz")
    path.write_bytes(path.read_bytes().replace(b"seed-2X.npz", b"seed-2\0.npz"))
    assert any(sentence.endswith(NO_PLACE) for sentence in Archive.open(path).faults)


def test_folders_of_the_predictions_may_stand_in_an_archive(submitted):
    path = submitted()
    for name in ("predictions/", "predictions/generalization/", PLACE):
        added(path, name, b"", mode=stat.S_IFDIR | 0o755)
    assert Archive.open(path).faults == ()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(submitted, kind):
    faults = Archive.open(added(submitted(), f"{PLACE}seed-9.npz", b"/etc/passwd", mode=kind | 0o777)).faults
    assert faults == (f"'{PLACE}seed-9.npz' is a link or a device; expected a plain file",)


def test_a_name_that_is_there_twice_is_refused(submitted):
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = added(submitted(), "submission.json", b"{}")
    faults = Archive.open(path).faults
    assert "'submission.json' is there 2 times; expected once" in faults
    assert Archive.open(path).submission is None


def test_files_that_no_fit_names_and_fits_without_a_file_are_said_by_name(submitted):
    path = submitted()
    content = zipfile.ZipFile(path).read(f"{PLACE}seed-5.npz")
    faults = Archive.open(added(path, f"{PLACE}seed-8.npz", content)).faults
    assert faults == (f"{PLACE}seed-8.npz belongs to no fit that submission.json names; expected none beside these",)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "no submission")
    assert Archive.open(path).faults[-1].startswith("there is no submission.json that can be read")


def test_a_fit_without_its_file_is_said_by_name(submitted):
    path = submitted()
    with zipfile.ZipFile(path) as file:
        told = file.read("submission.json")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("submission.json", told)
    faults = Archive.open(path).faults
    assert len(faults) == 3
    assert faults[1] == (
        f"{PLACE}seed-5.npz is named by submission.json and cannot be read or is not there; expected a file of predictions"
    )


def test_other_compressions_are_refused(submitted):
    path = added(submitted(), f"{PLACE}seed-9.npz", compress_type=zipfile.ZIP_BZIP2)
    assert f"'{PLACE}seed-9.npz' is compressed by method 12; expected deflate, or none" in Archive.open(path).faults


def test_an_encrypted_file_is_refused(submitted):
    path = added(submitted(), f"{PLACE}seed-9.npz")
    content = bytearray(path.read_bytes())
    content[content.rfind(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert f"'{PLACE}seed-9.npz' is encrypted; expected a plain file" in Archive.open(path).faults


def test_a_bomb_is_refused_by_its_ratio(submitted):
    path = added(submitted(), f"{PLACE}seed-9.npz", bytes(3 * 2**20))
    (sentence,) = Archive.open(path).faults
    assert "unpacks to 3,145,728 bytes from 3," in sentence
    assert "more than 200 times as many; expected no bomb" in sentence


def test_what_unpacks_to_too_much_is_refused_alone_and_together(submitted, monkeypatch):
    path = submitted()
    monkeypatch.setattr(module, "MAX_MEMBER_BYTES", 1000)
    assert "unpacks to 1,"[:12] in Archive.open(path).faults[0]
    assert Archive.open(path).faults[0].endswith("bytes; expected at most 1,000")
    monkeypatch.undo()
    monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", 2500)
    assert Archive.open(path).faults[0].endswith("bytes; expected at most 2,500 together")
    assert Archive.open(path).submission is None


@pytest.mark.parametrize(
    ("limit", "most", "fault"),
    [
        ("MAX_ARCHIVE_BYTES", 3000, "bytes; expected at most 3,000"),
        ("MAX_MEMBERS", 3, "has 4 files; expected at most 3"),
        ("_LONGEST_NAME", 10, "bytes for 4 files; expected one of short names"),
    ],
)
def test_a_large_archive_or_directory_is_refused_before_it_is_read(submitted, monkeypatch, limit, most, fault):
    path = submitted()
    monkeypatch.setattr(module, limit, most)
    with pytest.raises(SubmissionError, match=fault):
        Archive.open(path)


def test_a_size_in_the_directory_that_is_a_lie_is_found(submitted):
    path = submitted()
    content = bytearray(path.read_bytes())
    place = content.rfind(b"PK\x01\x02")
    size_bytes = struct.unpack_from("<L", content, place + 24)[0]
    for lie in (size_bytes - 7, size_bytes + 7):
        struct.pack_into("<L", content, place + 24, lie)
        path.write_bytes(content)
        found, (sentence,) = Archive.open(path).predictions(f"{PLACE}seed-7.npz")
        assert found is None
        assert f"{PLACE}seed-7.npz cannot be unpacked (" in sentence


def test_a_place_that_cannot_be_addressed_is_found(submitted):
    path = submitted()
    path.write_bytes(far(path.read_bytes()))
    found, (sentence,) = Archive.open(path).predictions(f"{PLACE}seed-7.npz")
    assert found is None
    assert f"{PLACE}seed-7.npz cannot be unpacked (" in sentence
    found, (sentence,) = read_predictions(far(npz(**arrays())), "p")
    assert found is None
    assert sentence.startswith("p: about cannot be read: ")


@pytest.mark.parametrize(("compression", "number"), [(zipfile.ZIP_BZIP2, 12), (zipfile.ZIP_LZMA, 14)])
def test_other_compressions_within_predictions_are_refused(compression, number):
    found, faults = read_predictions(npz(compression, **arrays()), "p")
    assert found is None
    names = ("ids", "values", "scrambled", "about")
    assert faults == [f"p: {name} is compressed by method {number}; expected deflate, or none" for name in names]


def test_an_encrypted_array_is_refused():
    content = bytearray(npz(**arrays()))
    content[content.rfind(b"PK\x01\x02") + 8] |= 1
    assert read_predictions(bytes(content), "p") == (None, ["p: about is encrypted; expected a plain file"])


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "has 0 bytes; expected a .zip"),
        (b"Rar!" + bytes(60), "does not end as a .zip without a comment does"),
        (b"PK\x05\x06" + bytes(16) + b"\x04\x00note", "does not end as a .zip without a comment does"),
        (b"PK\x06\x07" + bytes(16) + b"PK\x05\x06" + bytes(18), "is a .zip of the large kind (zip64)"),
        (b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 2, 2, 90, 7, 0), "cannot be read as a .zip"),
    ],
)
def test_what_is_no_plain_zip_is_refused(tmp_path, content, fault):
    (tmp_path / "own.zip").write_bytes(content)
    with pytest.raises(SubmissionError) as error:
        Archive.open(tmp_path / "own.zip")
    assert fault in str(error.value)
    assert str(tmp_path / "own.zip") in str(error.value)


def test_a_file_that_is_not_there_is_said_by_name(tmp_path):
    with pytest.raises(SubmissionError, match="none.zip: cannot be read as a .zip .*No such file"):
        Archive.open(tmp_path / "none.zip")


@pytest.mark.parametrize("name", ["ids", "values", "scrambled", "about"])
def test_a_pickle_is_refused_and_not_run(name, tmp_path):
    evil = Evil(tmp_path / "evil")
    content = npz(**arrays(**{name: npy(np.array([evil, 3], dtype=object))}))
    found, (sentence,) = read_predictions(content, "seed-3.npz")
    assert found is None
    assert sentence.startswith(f"seed-3.npz: {name} cannot be read: its type is '|O'; expected ")
    assert sentence.endswith("pickled objects are never read")
    assert not evil.folder.exists()
    pickle.loads(pickle.dumps(evil))
    assert evil.folder.exists()


def test_a_pickle_in_the_place_of_an_npz_is_refused_and_not_run(tmp_path):
    found, (sentence,) = read_predictions(pickle.dumps(Evil(tmp_path / "evil")), "seed-3.npz")
    assert found is None
    assert not (tmp_path / "evil").exists()
    assert sentence.startswith("seed-3.npz does not end as a .zip")


@pytest.mark.parametrize("shape", ["(1250000000,)", "(2, 625000000)", "(999999999999999, 999999999999999)"])
def test_an_array_of_ten_gigabytes_that_is_not_there_is_refused_without_any_memory(shape):
    content = npz(**arrays(values=header("'<f8'", shape, bytes(48))))
    tracemalloc.start()
    found, (sentence,) = read_predictions(content, "seed-3.npz")
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is None
    assert "values cannot be read: its header announces shape [" in sentence
    assert sentence.endswith("bytes; 48 are there")
    assert "10,000,000,000 bytes" in sentence or "999999999999999" in sentence
    assert peak_bytes < 2**20


def test_an_array_that_unpacks_to_too_much_is_refused(monkeypatch):
    monkeypatch.setattr(module, "MAX_MEMBER_BYTES", 2000)
    _, (sentence,) = read_predictions(npz(**arrays(values=npy(np.zeros(300)))), "p")
    assert "p unpacks to" in sentence
    assert sentence.endswith("bytes; expected at most 2,000")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (header("'<f8'", "(2,)", bytes(15)), "announces shape [2] of <f8, 16 bytes; 15 are there"),
        (header("[('a', '<f4')]", "(2,)", bytes(8)), "its header is"),
        (header("'<f8'", "(-2,)", bytes(16)), "its header is"),
        (header("'<f8'", "(2 * 8,)", bytes(16)), "its header is"),
        (header("__import__('os').system('true')", "(2,)", bytes(16)), "its header is"),
        (header("'<f8'", "(" + "(" * 3000 + ")" * 3000 + ")"), "its header is"),
        (header("'<c16'", "(1,)", bytes(16)), "its type is '<c16'; expected numbers"),
        (header("'|b1'", "(2,)", bytes(2)), "its type is '|b1'; expected numbers"),
        (header("'<M8[s]'", "(2,)", bytes(16)), "its type is '<M8[s]'; expected numbers"),
        (header("'|V8'", "(2,)", bytes(16)), "its type is '|V8'; expected numbers"),
        (header("'<f16'", "(1,)", bytes(16)), "its type is '<f16'; expected numbers"),
        (b"\x93NUMPY\x09\x00" + bytes(9), "expected an .npy of version 1, 2 or 3"),
        (b"", "expected an .npy of version 1, 2 or 3"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "its header is"),
        (header("'<f8'", "(2,)" + " " * 10_000, bytes(16)), "its header has 10,057 bytes; expected at most 10,000"),
    ],
)
def test_headers_that_say_anything_else_than_numbers_that_are_there_are_refused(content, fault):
    with pytest.raises(ValueError, match=".") as error:
        read_array(content, "values")
    assert fault in str(error.value)


@pytest.mark.parametrize("shape", ["(" + "1" * 12 + " " * 4000 + "!", "(" + "1 " * 2000 + "!", "(2, 3" + "\t" * 4000 + ")!"])
def test_a_header_that_fails_behind_thousands_of_blanks_is_refused_at_once(shape):
    started_s = time.process_time()
    with pytest.raises(ValueError, match="its header is"):
        read_array(header("'<f8'", shape, bytes(48)), "values")
    assert time.process_time() - started_s < 1


def test_a_header_may_have_any_spacing():
    found = read_array(header("'<f8'", " (2 ,\n 1" + " " * 4000 + ")", np.array([0.5, 1.5]).tobytes()), "values")
    np.testing.assert_array_equal(found, [[0.5], [1.5]])


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.arange(5.0),
        np.array(0.5),
        np.asfortranarray(np.arange(24, dtype=np.int16).reshape(2, 3, 4)),
        np.arange(3, dtype=">f4"),
        np.zeros((0, 5)),
        np.float16([0.5, 1.5]),
        np.array([1, 2], dtype=np.uint8),
    ],
)
def test_an_array_of_numbers_is_read_as_numpy_reads_it(array):
    found, expected = read_array(npy(array), "values"), np.load(io.BytesIO(npy(array)))
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype.newbyteorder("=")


def test_text_is_read_where_text_is_expected_and_nowhere_else():
    assert read_array(npy(np.array(["ä", "bc"])), "ids").tolist() == ["ä", "bc"]
    for name, array, fault in (
        ("values", np.array(["1"]), "expected numbers"),
        ("ids", np.array([1.0]), "its type is '<f8'; expected text"),
        ("ids", np.array(["a"], dtype="S1"), "expected text"),
        ("ids", np.array("a"), "it has 0 axes; expected 1"),
        ("about", np.array(["a"]), "it has 1 axes; expected 0"),
    ):
        with pytest.raises(ValueError, match=fault):
            read_array(npy(array), name)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"about": npy(np.array("{"))}, "ids or about hold no text, or about no JSON"),
        ({"about": npy(np.array("[" * 90_000))}, "ids or about hold no text, or about no JSON"),
        ({"about": npy(np.array("[]"))}, "about has format_version None; expected 2"),
        ({"about": npy(np.array('{"format_version": 9}'))}, "about has format_version 9; expected 2"),
        ({"about": npy(np.array('{"format_version": 2, "seed": [1]}'))}, "about has ['seed'], which are neither text nor whole"),
        ({"ids": header("'<U1'", "(2,)", b"\xff" * 8)}, "ids cannot be read: it holds 2 signs that are none of Unicode"),
        ({"ids": header("'>U1'", "(2,)", b"\0\0\xd8\0\0\0\0a")}, "ids cannot be read: it holds 1 signs that are none of Unicode"),
        ({"more": npy(np.zeros(2))}, "holds ['about.npy', 'ids.npy', 'more.npy', 'scrambled.npy', 'values.npy']; expected"),
    ],
)
def test_predictions_of_another_content_are_refused(changes, fault):
    found, (sentence,) = read_predictions(npz(**arrays(**changes)), "seed-3.npz")
    assert found is None
    assert sentence.startswith("seed-3.npz")
    assert fault in sentence


def test_everything_wrong_in_one_file_is_said():
    changes = {"ids": npy(np.array([1.0])), "values": npy(np.array([True])), "scrambled": npy(np.zeros(2))[:-8]}
    _, faults = read_predictions(npz(**arrays(**changes)), "p")
    assert [sentence.split()[1] for sentence in faults] == ["ids", "values", "scrambled"]


def test_bytes_of_predictions_are_those_of_their_file(said, tmp_path):
    said(2).save(tmp_path / "p.npz")
    assert Predictions.load(tmp_path / "p.npz").about == said(2).about
    found, faults = read_predictions(predictions_bytes(said(2)), "p")
    assert faults == []
    np.testing.assert_array_equal(found.values, Predictions.load(tmp_path / "p.npz").values)


def damaged(content, rng):
    """The content with some bytes changed, or a piece left out or doubled."""
    changed = bytearray(content)
    for place in rng.integers(len(changed), size=rng.integers(1, 4)):
        changed[place] = rng.choice([0, 0xFF, rng.integers(256)])
    if rng.random() < 0.2:
        start, stop = sorted(rng.integers(len(changed), size=2))
        changed[start:stop] = b"" if rng.random() < 0.5 else bytes(changed[start:stop]) * 2
    return bytes(changed)


def test_damage_anywhere_in_an_archive_is_a_fault_and_no_failure(submitted, tmp_path):
    rng, content, path = np.random.default_rng(6), submitted().read_bytes(), tmp_path / "damaged.zip"
    directory = content.find(b"PK\x01\x02")
    num_sound = 0
    for turn in range(300):
        # every second time only the directory, where the structure stands
        changed = content[:directory] + damaged(content[directory:], rng) if turn % 2 else damaged(content, rng)
        path.write_bytes(changed)
        try:
            archive = Archive.open(path)
        except SubmissionError:
            continue
        for name in archive.submission.paths if archive.submission is not None else ():
            found, faults = archive.predictions(name)
            assert found is None or not faults
            num_sound += found is not None
    assert 0 < num_sound < 900


def test_damage_anywhere_in_an_npz_is_a_fault_and_no_failure():
    rng, content = np.random.default_rng(7), npz(**arrays())
    counts = {True: 0, False: 0}
    for _ in range(300):
        found, faults = read_predictions(damaged(content, rng), "p")
        assert (found is None) == bool(faults)
        counts[found is None] += 1
    assert min(counts.values()) > 0


def test_damage_anywhere_in_an_npy_is_a_fault_and_no_failure():
    rng = np.random.default_rng(8)
    for name, array in {"values": np.ones((2, 3)), "ids": np.array(["a", "bc"]), "about": np.array("{}")}.items():
        content = npy(array)
        num_refused = 0
        for _ in range(200):
            try:
                read_array(damaged(content, rng), name)
            except ValueError:
                num_refused += 1
        assert 0 < num_refused < 200
