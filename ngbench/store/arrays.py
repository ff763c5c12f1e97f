"""Arrays in an HDF5 file: written so that the same arrays give the same bytes, read with their type and shape checked."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from h5py import h5o  # pyright: ignore[reportAttributeAccessIssue] - the types of h5py lack this module

from ngbench.errors import StoreFormatError

TEXT = "text"
# Below this the index of chunks costs more than compression saves.
_COMPRESSED_FROM_BYTES = 4096
# What is compressed together is read together, so this bounds what a reader of a few rows holds beside them; HDF5 takes no piece
# of 4 GiB.
PIECE_BYTES = 2**22
COMPRESSION = {"compression": "gzip", "compression_opts": 9, "shuffle": True}


def write_array(file: h5py.File, path: str, array: np.ndarray) -> h5py.Dataset:
    """Writes an array of numbers or str; larger ones shuffled and compressed."""
    if array.dtype.kind == "U":
        array = np.char.encode(array, "utf-8")
        array = array.astype(h5py.string_dtype("utf-8", max(1, array.dtype.itemsize)))
    chunks = (min(len(array), _rows_a_piece(array)), *array.shape[1:])
    options = {**COMPRESSION, "chunks": chunks} if array.nbytes >= _COMPRESSED_FROM_BYTES else {}
    return file.create_dataset(path, data=array, track_times=False, **options)


def _rows_a_piece(array: np.ndarray | h5py.Dataset) -> int:
    return max(1, PIECE_BYTES // max(1, array.dtype.itemsize * math.prod(array.shape[1:])))


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Opens the HDF5 content of a zoo file for reading.

    Raises:
        StoreFormatError: HDF5 cannot read it, or the block met an error of HDF5.
    """
    try:
        # A finished zoo file never changes, so it needs no lock; some network file systems have none.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    # What h5py raises depends on the place of the damage.
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise StoreFormatError(
            f"{str(path)!r} has a seal, but its HDF5 content cannot be read ({error}); fetch it again"
        ) from error


def find_dataset(file: h5py.File, path: str, *, dtype: str, shape: tuple[int | None, ...]) -> h5py.Dataset:
    """The dataset at a path.

    Args:
        file: An open zoo file.
        path: Where it stands.
        dtype: `TEXT` or a numpy type with its byte order.
        shape: Length of each axis, None where any will do.

    Raises:
        StoreFormatError: There is none, it takes its numbers from another file, or it has another type or shape.
    """
    wanted = f"{dtype} of shape ({', '.join('any' if length is None else str(length) for length in shape)})"
    dataset = file.get(path)
    if not isinstance(dataset, h5py.Dataset):
        raise StoreFormatError(f"{file.filename!r} lacks dataset '/{path}'; expected {wanted}; fetch the file again")
    if dataset.file.filename != file.filename or dataset.external or dataset.is_virtual:
        raise StoreFormatError(
            f"{file.filename!r}: dataset '/{path}' is taken from other files; expected {wanted} in the file itself; "
            "fetch the file again"
        )
    text = h5py.check_string_dtype(dataset.dtype)
    found = TEXT if text is not None and text.length is not None else dataset.dtype.str
    fits = len(dataset.shape) == len(shape) and all(b in (None, a) for a, b in zip(dataset.shape, shape, strict=True))
    if found != dtype or not fits:
        raise StoreFormatError(
            f"{file.filename!r}: dataset '/{path}' is {found} of shape {dataset.shape}; expected {wanted}; fetch the file again"
        )
    return dataset


def read_array(file: h5py.File, path: str, *, dtype: str, length: int | None) -> np.ndarray:
    """Reads a dataset of one axis; text becomes a numpy array of str.

    Raises:
        StoreFormatError: There is none, it has another type or length, or it is no UTF-8.
    """
    array = find_dataset(file, path, dtype=dtype, shape=(length,))[()]
    return np.char.decode(array, "utf-8") if dtype == TEXT else array


def read_rows(dataset: h5py.Dataset, rows: np.ndarray) -> np.ndarray:
    """Rows of a dataset in any order; text becomes a numpy array of str.

    What it reads at a time is no more than `PIECE_BYTES` or one row, where the file was written in such pieces.
    """
    found: np.ndarray = np.empty((len(rows), *dataset.shape[1:]), dataset.dtype)
    order = np.argsort(rows, kind="stable")
    pieces = rows[order] // _rows_a_piece(dataset)
    for members in np.split(order, np.flatnonzero(np.diff(pieces)) + 1) if len(rows) else ():
        first, last = int(rows[members[0]]), int(rows[members[-1]])
        found[members] = dataset[first : last + 1][rows[members] - first]
    return np.char.decode(found, "utf-8") if h5py.check_string_dtype(dataset.dtype) else found


def names_in(file: h5py.File, path: str) -> tuple[str, ...]:
    """Names of what stands in a group.

    Raises:
        StoreFormatError: There is no such group.
    """
    group = file.get(path)
    if not isinstance(group, h5py.Group):
        raise StoreFormatError(f"{file.filename!r} lacks group '/{path}'; fetch the file again")
    return tuple(str(name) for name in group)


def names_as_written(file: h5py.File, path: str) -> tuple[str, ...]:
    """Names of what stands in a group, by place in the file, which is the order in which a `ZooWriter` wrote them.

    Raises:
        StoreFormatError: There is no such group.
    """
    return tuple(sorted(names_in(file, path), key=lambda name: h5o.get_info(file[f"{path}/{name}"].id).addr))
