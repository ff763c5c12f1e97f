"""The seal of a zoo file: one line of JSON before the HDF5 content that says how long the content is and its sha256.

It fills the user block, which HDF5 keeps free for its users, so every HDF5 reader opens a zoo file as it is.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from ngbench.errors import StoreFormatError

FORMAT = "ngbench-zoo"
FORMAT_VERSION = 1
SEAL_BYTES = 512
# What is no larger is hashed each time it is opened: 64 MiB take about 0.1 s.
HASHED_AT_OPEN_BYTES = 64 * 2**20

_MAGIC = f'{{"format":"{FORMAT}","format_version":'.encode()
_VERSION = re.compile(re.escape(_MAGIC) + rb"(\d{1,9}),")
_LINE = re.compile(
    re.escape(_MAGIC)
    + rb'\d+,"size_bytes":(\d{1,18}),"sha256":"([0-9a-f]{64})","index_bytes":(\d{1,18}),"index_sha256":"([0-9a-f]{64})"\} *\n'
)
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Seal:
    """What a zoo file says about the bytes that follow its seal.

    Args:
        size_bytes: Their number.
        sha256: Their hexadecimal sha256.
        index_bytes: Number of those that come before values which are mapped into memory.
        index_sha256: Hexadecimal sha256 of these, followed by `sha256` as text. It is proved whenever the file is opened:
            one wrong bit in a structure of HDF5 can hang its reader for ever.
    """

    size_bytes: int
    sha256: str
    index_bytes: int
    index_sha256: str

    def to_bytes(self) -> bytes:
        """The seal as it stands in the file: one line of `SEAL_BYTES` bytes, padded with spaces."""
        fields = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(self)}
        return json.dumps(fields, separators=(",", ":")).encode().ljust(SEAL_BYTES - 1) + b"\n"


@contextmanager
def open_for_reading(path: Path) -> Iterator[io.BufferedReader]:
    """Opens a file that should be there.

    Raises:
        StoreFormatError: There is no such file, or it cannot be read.
    """
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise StoreFormatError(
            f"no file at {str(path)!r}; expected the path of a zoo file, or the name of a released zoo"
        ) from error
    except OSError as error:
        raise StoreFormatError(f"cannot read {str(path)!r} ({error.strerror or error}); expected a zoo file") from error


def read_seal(path: Path) -> Seal:
    """Reads the seal of a zoo file and compares its size with that of the file.

    Raises:
        StoreFormatError: The file is missing, foreign, unfinished, newer than this ngbench, truncated, or its seal is damaged.
    """
    with open_for_reading(path) as file:
        head = file.read(SEAL_BYTES)
        size_bytes = file.seek(0, 2)
    if not head.startswith(_MAGIC):
        raise StoreFormatError(
            f"{str(path)!r} is not an ngbench zoo: {_foreign(head)}; expected a file that begins with {_MAGIC[:24].decode()!r}"
        )
    version = _VERSION.match(head)
    if version and int(version[1]) > FORMAT_VERSION:
        raise StoreFormatError(
            f"{str(path)!r} has zoo format version {int(version[1])}, this ngbench reads up to {FORMAT_VERSION}; upgrade ngbench"
        )
    if size_bytes < SEAL_BYTES:
        raise StoreFormatError(
            f"{str(path)!r} is truncated: expected at least {SEAL_BYTES} bytes, got {size_bytes}; fetch it again"
        )
    line = _LINE.fullmatch(head)
    seal = Seal(int(line[1]), line[2].decode(), int(line[3]), line[4].decode()) if line else None
    if seal is None or seal.to_bytes() != head:
        raise StoreFormatError(f"{str(path)!r} is corrupt: its seal, the first {SEAL_BYTES} bytes, is damaged; fetch it again")
    if size_bytes != SEAL_BYTES + seal.size_bytes:
        expected = SEAL_BYTES + seal.size_bytes
        fault = "is truncated" if size_bytes < expected else "has bytes after its end"
        raise StoreFormatError(f"{str(path)!r} {fault}: expected {expected} bytes, got {size_bytes}; fetch it again")
    return seal


def check_index(path: Path, seal: Seal) -> None:
    """Hashes the index of a zoo file, without which HDF5 must not read it.

    Raises:
        StoreFormatError: The index is not what was sealed.
    """
    with open_for_reading(path) as file:
        file.seek(SEAL_BYTES)
        digest = hashlib.sha256(file.read(seal.index_bytes))
    digest.update(seal.sha256.encode())
    _compare(path, "its index", digest.hexdigest(), expected=seal.index_sha256)


def check_content(path: Path, seal: Seal) -> None:
    """Hashes all that follows the seal.

    Raises:
        StoreFormatError: The content is not what was sealed.
    """
    with open_for_reading(path) as file:
        file.seek(SEAL_BYTES)
        _compare(path, "its content", hashlib.file_digest(file, "sha256").hexdigest(), expected=seal.sha256)


def _compare(path: Path, part: str, sha256: str, *, expected: str) -> None:
    if sha256 != expected:
        raise StoreFormatError(f"{str(path)!r} is corrupt: {part} has sha256 {sha256}, expected {expected}; fetch it again")


def _foreign(head: bytes) -> str:
    if not head:
        return "it is empty"
    if head.startswith(_HDF5_SIGNATURE):
        return "it is an HDF5 file without the seal of a zoo"
    if not head.strip(b"\0"):
        return "it was never finished and has no seal"
    return f"it begins with {head[:16]!r}"


def write_sealed(file: BinaryIO, index: bytes | memoryview, values: Iterable[bytes]) -> None:
    """Writes content and then, at the start of the file, its seal; a file that was left before has zeros there.

    Args:
        file: An empty file.
        index: All HDF5 content before the values that are mapped into memory.
        values: Those values, piece by piece; nothing where they are part of the index.
    """
    file.write(bytes(SEAL_BYTES))
    file.write(index)
    whole, size_bytes = hashlib.sha256(index), len(index)
    of_index = whole.copy()
    for piece in values:
        file.write(piece)
        whole.update(piece)
        size_bytes += len(piece)
    of_index.update(whole.hexdigest().encode())
    file.seek(0)
    file.write(Seal(size_bytes, whole.hexdigest(), len(index), of_index.hexdigest()).to_bytes())
