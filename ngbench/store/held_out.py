"""What networks of a zoo give for inputs that none was trained on, in a file beside the zoo: ``<zoo file>-outputs.h5``.

A released zoo never changes, so what is measured of its networks later stands in a file of its own that names the zoo by its
sha256. It is sealed as zoo files are, and holds ``/inputs``, ``/row`` int64 ``[networks]``, ``/value_ptr`` int64
``[networks + 1]`` and ``/values`` float32.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ngbench.errors import StoreFormatError
from ngbench.store.arrays import find_dataset, open_hdf5, read_array, write_array
from ngbench.store.atomic_file import atomic_file
from ngbench.store.seal import SEAL_BYTES, check_content, read_seal, write_sealed

_MAX_AXES = 5


@dataclass(frozen=True, eq=False)
class HeldOutOutputs:
    """What some networks of a zoo give for the same inputs.

    Args:
        zoo_sha256: Of the zoo file.
        inputs: What they were run on, float32 ``[inputs, *input shape]``.
        rows: Which networks of the zoo, rising, int64 ``[networks]``.
        outputs: For each network its probabilities of classes, float32 ``[inputs, classes]``; of others the values that it gives.
    """

    zoo_sha256: str
    inputs: np.ndarray
    rows: np.ndarray
    outputs: tuple[np.ndarray, ...]

    def of_rows(self, rows: np.ndarray) -> np.ndarray | None:
        """The outputs of some networks of the zoo, float64 ``[rows, inputs * outputs]``; NaN behind those that give fewer.

        None where those of one of them are not held.
        """
        if not len(rows) or not np.isin(rows, self.rows).all():
            return None
        own = [self.outputs[place].ravel() for place in np.searchsorted(self.rows, rows)]
        found = np.full((len(own), max(map(len, own))), np.nan)
        for row, values in zip(found, own, strict=True):
            row[: len(values)] = values
        return found

    def write(self, path: Path) -> str:
        """Writes the file; the same outputs give the same bytes.

        Returns:
            Hexadecimal sha256 of its content.

        Raises:
            StoreWriteError: It cannot be written.
        """
        memory = io.BytesIO()
        with h5py.File(memory, "w", libver=("v110", "v110"), userblock_size=SEAL_BYTES) as file:
            file.attrs["zoo_sha256"] = self.zoo_sha256
            write_array(file, "inputs", self.inputs.astype("<f4"))
            write_array(file, "row", self.rows.astype("<i8"))
            write_array(file, "value_ptr", np.cumsum([0, *(own.size for own in self.outputs)], dtype="<i8"))
            write_array(file, "values", np.concatenate([own.ravel() for own in self.outputs]).astype("<f4"))
        with atomic_file(path) as file:
            write_sealed(file, memory.getbuffer()[SEAL_BYTES:], ())
        return read_seal(path).sha256


def held_out_path(zoo_path: Path) -> Path:
    """Where the outputs of a zoo file stand."""
    return zoo_path.with_name(f"{zoo_path.stem}-outputs.h5")


def read_held_out(zoo_path: Path, zoo_sha256: str, *, num_networks: int) -> HeldOutOutputs | None:
    """The outputs that stand beside a zoo file; None where no such file is.

    Args:
        zoo_path: The zoo file.
        zoo_sha256: Of its content.
        num_networks: That it holds.

    Raises:
        StoreFormatError: The file is foreign, newer than this ngbench, truncated, corrupt, or of another zoo.
    """
    path = held_out_path(zoo_path)
    if not path.exists():
        return None
    check_content(path, read_seal(path))
    with open_hdf5(path) as file:
        named = file.attrs.get("zoo_sha256")
        inputs = file.get("inputs")
        num_axes = len(inputs.shape) if isinstance(inputs, h5py.Dataset) else 1
        inputs = find_dataset(file, "inputs", dtype="<f4", shape=(None,) * min(max(num_axes, 1), _MAX_AXES))[()]
        rows = read_array(file, "row", dtype="<i8", length=None)
        ptr = read_array(file, "value_ptr", dtype="<i8", length=len(rows) + 1)
        values = read_array(file, "values", dtype="<f4", length=None)
    if named != zoo_sha256:
        raise StoreFormatError(
            f"{str(path)!r} holds outputs of the zoo with sha256 {named}; expected {zoo_sha256}, that of {str(zoo_path)!r}; "
            "remove it, or make it again with ngbench zoo outputs"
        )
    rising = (np.diff(rows) > 0).all() and (not len(rows) or 0 <= rows[0] <= rows[-1] < num_networks)
    lengths = np.diff(ptr)
    whole = ptr[0] == 0 and ptr[-1] == len(values) and len(inputs) and (lengths > 0).all() and (lengths % len(inputs) == 0).all()
    if not rising or not whole or not np.isfinite(values).all():
        raise StoreFormatError(
            f"{str(path)!r}: '/row', '/value_ptr' and '/values' are no outputs of networks of the zoo; fetch the file again"
        )
    outputs = tuple(own.reshape(len(inputs), -1) for own in np.split(values, ptr[1:-1]))
    return HeldOutOutputs(zoo_sha256, inputs, rows, outputs)
