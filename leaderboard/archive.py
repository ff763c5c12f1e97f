"""The .zip of a submission, read as what it is: a file from a stranger.

Nothing is written to the disk, nothing unpickled or evaluated, and nothing allocated before the bytes are there: names, sizes and
counts are checked in the directory of the archive, and the type and shape of an array in its header.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import stat
import struct
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from leaderboard.submission import FILE, Submission, parse_submission, shortened
from ngbench.errors import SubmissionError
from ngbench.evaluation.predictions import FORMAT_VERSION, Predictions

MAX_ARCHIVE_BYTES = 256 * 2**20
MAX_MEMBERS = 5000
MAX_MEMBER_BYTES = 128 * 2**20
MAX_UNPACKED_BYTES = 512 * 2**20
MAX_SUBMISSION_BYTES = 4 * 2**20

RATIO_COUNTS_BYTES = 2**20
MAX_RATIO = 200
"""How often a member that is larger than `RATIO_COUNTS_BYTES` may be its size in the archive."""

ARRAYS = ("ids", "values", "scrambled", "about")

_PATH = re.compile(r"predictions/[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9][A-Za-z0-9_.-]*/seed-(0|[1-9][0-9]*)\.npz")
_FOLDER = re.compile(r"predictions/([A-Za-z0-9][A-Za-z0-9_.-]*/){0,2}")

_END = struct.Struct("<4s4H2LH")
_ENTRY_BYTES = 46
_LONGEST_NAME = 300
_ZIP64_BYTES, _ZIP64_MAGIC = 20, b"PK\x06\x07"
_UNREADABLE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, OverflowError, RuntimeError, ValueError)

# The dictionary of an .npy header, of which nothing is evaluated; any spacing, the keys in the order in which all write them.
# Nothing that was matched is given back, so that a header which fails does so in one pass.
_HEADER = re.compile(
    rb"\{\s*+'descr'\s*+:\s*+'([^']{0,20})'\s*+,\s*+'fortran_order'\s*+:\s*+(True|False)\s*+,"
    rb"\s*+'shape'\s*+:\s*+\(((?:\s*+[0-9]{1,15}+\s*+,?+){0,4}+)\s*+\)\s*+,?+\s*+\}\s*+"
)
_MOST_HEADER_BYTES = 10_000
"""As numpy has it, in `numpy.lib.format`."""
_TYPES = {"ids": re.compile(r"[<>|=]U[1-9]\d{0,3}"), "about": re.compile(r"[<>|=]U[1-9]\d{0,5}")}
_NUMBERS = re.compile(r"[<>|=](f[248]|[iu][1248])")


def write_archive(path: Path, submission: Submission, predictions: Mapping[str, bytes]) -> None:
    """Writes an archive, whole or not at all; the same content gives the same bytes.

    Args:
        path: Of the .zip.
        submission: What ``submission.json`` says.
        predictions: The content of each file of predictions, by its path in the archive.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    members = {FILE: submission.model_dump_json(indent=2).encode() + b"\n", **predictions}
    try:
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, content in members.items():
                member = zipfile.ZipInfo(name)
                member.external_attr = (stat.S_IFREG | 0o644) << 16
                # predictions are compressed already
                member.compress_type = zipfile.ZIP_DEFLATED if name == FILE else zipfile.ZIP_STORED
                archive.writestr(member, content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Archive:
    """An archive that may hold faults; what is sound can be read.

    Args:
        path: Of the .zip.
        sha256: Of the file.
        submission: What it says; None if that cannot be read.
        faults: What is wrong with the archive and its ``submission.json``, a sentence each.
    """

    path: Path
    sha256: str
    submission: Submission | None
    faults: tuple[str, ...]
    _members: Mapping[str, zipfile.ZipInfo] = field(repr=False)

    @classmethod
    def open(cls, path: Path) -> Archive:
        """Reads all but the predictions.

        Raises:
            SubmissionError: There is no such file, or it is no .zip that may be opened at all.
        """
        try:
            with path.open("rb") as file:
                fault = _container_fault(file)
                if fault is not None:
                    raise SubmissionError([fault], str(path))
                file.seek(0)
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                with zipfile.ZipFile(file) as archive:
                    members, faults = _sound_members(archive.infolist())
                    submission, more = _submission_of(archive, members)
        except _UNREADABLE as error:
            raise SubmissionError(
                [f"cannot be read as a .zip ({error}); expected what `ngbench submit` wrote"], str(path)
            ) from error
        faults += more
        if submission is not None:
            faults += _mismatches(submission, members)
        return cls(path, sha256, submission, tuple(faults), members)

    def predictions(self, name: str) -> tuple[Predictions | None, list[str]]:
        """A file of predictions.

        Args:
            name: Its path in the archive.

        Returns:
            The predictions, None where there are faults or no such file; and the faults, none of which `faults` has.
        """
        if name not in self._members:
            return None, []
        try:
            with zipfile.ZipFile(self.path) as archive:
                content = _content(archive, self._members[name])
        except _UNREADABLE as error:
            return None, [f"{name} cannot be unpacked ({error}); pack it again"]
        return read_predictions(content, name)


def _container_fault(file: BinaryIO) -> str | None:
    """What forbids to let `zipfile` read the directory of an archive.

    It reads the whole directory into memory whatever the count of entries says, and where there are a comment or the records of
    zip64 it may read another one than other programs do.
    """
    size_bytes = file.seek(0, io.SEEK_END)
    if size_bytes > MAX_ARCHIVE_BYTES:
        return f"has {size_bytes:,} bytes; expected at most {MAX_ARCHIVE_BYTES:,}"
    if size_bytes < _END.size:
        return f"has {size_bytes} bytes; expected a .zip that `ngbench submit` wrote"
    file.seek(-_END.size, io.SEEK_END)
    magic, *_, num_members, directory_bytes, _, comment_bytes = _END.unpack(file.read(_END.size))
    if magic != b"PK\x05\x06" or comment_bytes:
        return "does not end as a .zip without a comment does; expected what `ngbench submit` wrote"
    file.seek(max(0, size_bytes - _END.size - _ZIP64_BYTES))
    if file.read(4) == _ZIP64_MAGIC:
        return "is a .zip of the large kind (zip64); expected a plain one"
    if num_members > MAX_MEMBERS:
        return f"has {num_members:,} files; expected at most {MAX_MEMBERS:,}"
    if directory_bytes > num_members * (_ENTRY_BYTES + _LONGEST_NAME):
        return f"has a directory of {directory_bytes:,} bytes for {num_members:,} files; expected one of short names"
    return None


def _sound_members(found: list[zipfile.ZipInfo]) -> tuple[dict[str, zipfile.ZipInfo], list[str]]:
    """Members that may be read, by name, and what is wrong with the others."""
    counts = Counter(member.filename for member in found)
    faults = [f"{shortened(name)} is there {count} times; expected once" for name, count in counts.items() if count > 1]
    sound = {}
    for member in found:
        fault = _member_fault(member)
        if fault is not None:
            faults.append(f"{shortened(member.filename)} {fault}")
        elif counts[member.filename] == 1 and not member.is_dir():
            sound[member.filename] = member
    unpacked_bytes = sum(member.file_size for member in sound.values())
    if unpacked_bytes > MAX_UNPACKED_BYTES:
        faults.append(f"the files unpack to {unpacked_bytes:,} bytes; expected at most {MAX_UNPACKED_BYTES:,} together")
        return {}, faults
    return sound, faults


def _member_fault(member: zipfile.ZipInfo) -> str | None:
    # `filename` is cut at a NUL, and has the separators of this system
    name, most = member.orig_filename, MAX_SUBMISSION_BYTES if member.filename == FILE else MAX_MEMBER_BYTES
    kind = stat.S_IFMT(member.external_attr >> 16)
    if name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name) or "\\" in name or re.match(r"[A-Za-z]:", name):
        return "has a path that leads out of the archive; expected one below predictions/"
    if name != FILE and not _PATH.fullmatch(name) and not (member.is_dir() and _FOLDER.fullmatch(name)):
        return f"has no place in a submission; expected {FILE} and predictions/TASK/ZOO/seed-N.npz alone"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind == stat.S_IFDIR) > member.is_dir():
        return "is a link or a device; expected a plain file"
    packed = _packing_fault(member)
    if packed is not None:
        return packed
    if member.file_size > most:
        return f"unpacks to {member.file_size:,} bytes; expected at most {most:,}"
    if member.file_size > max(RATIO_COUNTS_BYTES, MAX_RATIO * member.compress_size):
        return (
            f"unpacks to {member.file_size:,} bytes from {member.compress_size:,}, more than {MAX_RATIO} times as many; expected "
            "no bomb"
        )
    return None


def _packing_fault(member: zipfile.ZipInfo) -> str | None:
    if member.flag_bits & 0x1:
        return "is encrypted; expected a plain file"
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is compressed by method {member.compress_type}; expected deflate, or none"
    return None


def _submission_of(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> tuple[Submission | None, list[str]]:
    if FILE not in members:
        return None, [f"there is no {FILE} that can be read; expected what `ngbench submit` wrote"]
    try:
        content = _content(archive, members[FILE])
    except _UNREADABLE as error:
        return None, [f"{FILE} cannot be unpacked ({error}); pack it again"]
    return parse_submission(content)


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The bytes of a member: never more than its directory entry says, which was checked."""
    with archive.open(member) as file:
        content = file.read(member.file_size)
    if len(content) != member.file_size:
        raise zipfile.BadZipFile(f"{len(content):,} bytes of {member.file_size:,} are there")
    return content


def _mismatches(submission: Submission, members: Mapping[str, zipfile.ZipInfo]) -> Iterator[str]:
    """Files that are named and not there, and the reverse; paths that two fits share."""
    counts = Counter(submission.paths)
    for path, count in counts.items():
        if count > 1:
            yield f"{FILE} names {path} {count} times; expected each question once, with different seeds"
        if path not in members:
            yield f"{path} is named by {FILE} and cannot be read or is not there; expected a file of predictions"
    for name in members:
        if name != FILE and name not in counts:
            yield f"{name} belongs to no fit that {FILE} names; expected none beside these"


def predictions_bytes(predictions: Predictions) -> bytes:
    """Predictions as the content of a file of an archive."""
    file = io.BytesIO()
    predictions.write(file)
    return file.getvalue()


def read_predictions(content: bytes, source: str) -> tuple[Predictions | None, list[str]]:
    """Predictions in an ``.npz`` as `ngbench.evaluation.Predictions.save` writes it, from anyone.

    Args:
        content: Of the file.
        source: Its name.

    Returns:
        The predictions, None where there are faults; and the faults, a sentence each.
    """
    try:
        file = io.BytesIO(content)
        fault = _container_fault(file)
        if fault is not None:
            return None, [f"{source} {fault}"]
        with zipfile.ZipFile(file) as archive:
            found, faults = _arrays(archive, source)
    except _UNREADABLE as error:
        return None, [f"{source} cannot be read as an .npz ({error}); expected one of the arrays {', '.join(ARRAYS)}"]
    if faults:
        return None, faults
    try:
        ids, about = tuple(found["ids"].tolist()), json.loads(str(found["about"]))
    except (ValueError, RecursionError) as error:
        return None, [f"{source}: ids or about hold no text, or about no JSON ({error}); expected text"]
    fault = _about_fault(about)
    if fault is not None:
        return None, [f"{source}: {fault}"]
    told = {key: value for key, value in about.items() if key != "format_version"}
    return Predictions(ids, found["values"], found["scrambled"], told), []


def _about_fault(about: Any) -> str | None:
    version = about.get("format_version") if isinstance(about, dict) else None
    if not isinstance(about, dict) or version != FORMAT_VERSION:
        return f"about has format_version {shortened(version, 20)}; expected {FORMAT_VERSION}"
    wrong = [key for key, value in about.items() if isinstance(value, bool) or not isinstance(value, str | int)]
    return f"about has {shortened(wrong)}, which are neither text nor whole numbers; expected these alone" if wrong else None


def _arrays(archive: zipfile.ZipFile, source: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of an .npz that are sound, by name, and what is wrong with the others."""
    members = archive.infolist()
    names = sorted(member.filename for member in members)
    expected = sorted(f"{name}.npy" for name in ARRAYS)
    if names != expected:
        return {}, [f"{source} holds {shortened(names)}; expected {', '.join(expected)}, each once"]
    unpacked_bytes = sum(member.file_size for member in members)
    if unpacked_bytes > MAX_MEMBER_BYTES:
        return {}, [f"{source} unpacks to {unpacked_bytes:,} bytes; expected at most {MAX_MEMBER_BYTES:,}"]
    found, faults = {}, []
    for member in members:
        name, fault = member.filename.removesuffix(".npy"), _packing_fault(member)
        if fault is not None:
            faults.append(f"{source}: {name} {fault}")
            continue
        try:
            found[name] = read_array(_content(archive, member), name)
        except _UNREADABLE as error:
            faults.append(f"{source}: {name} cannot be read: {error}")
    return found, faults


def read_array(content: bytes, name: str) -> np.ndarray:
    """An array of an ``.npy``, whose header is compared with the bytes that follow it before anything is made of them.

    Args:
        content: Of the file.
        name: One of `ARRAYS`, which says what types it may have.

    Raises:
        ValueError: It is none, announces another size than it has, or a type that it may not have, such as pickled objects.
    """
    if content[:6] != b"\x93NUMPY" or content[6:8] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise ValueError(f"it begins with {shortened(content[:8])}; expected an .npy of version 1, 2 or 3")
    start = 10 if content[6] == 1 else 12
    end = start + int.from_bytes(content[8:start], "little")
    text = content[start:end]
    if len(text) > _MOST_HEADER_BYTES:
        raise ValueError(f"its header has {len(text):,} bytes; expected at most {_MOST_HEADER_BYTES:,}")
    header = _HEADER.fullmatch(text)
    if header is None:
        raise ValueError(f"its header is {shortened(text[:80])}; expected descr, fortran_order and shape")
    descr, shape = header[1].decode("latin-1"), tuple(int(size) for size in re.findall(rb"\d+", header[3]))
    if not _TYPES.get(name, _NUMBERS).fullmatch(descr):
        pickled = ", and pickled objects are never read" if "O" in descr else ""
        raise ValueError(f"its type is {descr!r}; expected {'text' if name in _TYPES else 'numbers'}{pickled}")
    dtype = np.dtype(descr)
    announced_bytes = math.prod(shape) * dtype.itemsize
    if announced_bytes != len(content) - end:
        raise ValueError(
            f"its header announces shape {list(shape)} of {descr}, {announced_bytes:,} bytes; {len(content) - end:,} are there"
        )
    if name in _TYPES and len(shape) != (name == "ids"):
        raise ValueError(f"it has {len(shape)} axes; expected {int(name == 'ids')}")
    if name in _TYPES:
        _check_signs(np.frombuffer(content, f"{descr[0]}u4", offset=end))
    array = np.frombuffer(content, dtype, offset=end).reshape(shape, order="F" if header[2] == b"True" else "C")
    return array.astype(dtype.newbyteorder("="))


def _check_signs(signs: np.ndarray) -> None:
    """Whether code points are of Unicode and none is half of a pair: Python fails to read others, or to print them."""
    num_wrong = int(((signs > sys.maxunicode) | ((signs >= 0xD800) & (signs < 0xE000))).sum())
    if num_wrong:
        raise ValueError(f"it holds {num_wrong} signs that are none of Unicode")
