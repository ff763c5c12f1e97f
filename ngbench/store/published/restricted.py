"""Reads single files of unknown origin: arrays, tensors, JSON and tables, without running or trusting what they hold."""

from __future__ import annotations

import csv
import gzip
import json
import pickle
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ngbench.errors import ForeignZooError

_LONGEST_LINE = 2**20
_LARGEST_JSON = 2**28


def find_one(folder: Path, name: str) -> Path:
    """The only file of a name in a folder or below.

    Raises:
        ForeignZooError: There is none, or several.
    """
    found = sorted(path for path in folder.rglob(name) if path.is_file())
    if len(found) != 1:
        raise ForeignZooError(
            f"{str(folder)!r} holds {len(found)} files {name!r}; expected one: name the folder or archive of one zoo"
        )
    return found[0]


def find_all(folder: Path, pattern: str) -> list[Path]:
    """The files of a glob pattern in a folder or below, in the order of their paths as text, which has 10 before 2.

    Raises:
        ForeignZooError: There is none.
    """
    found = [path for path in folder.glob(pattern) if path.is_file()]
    if not found:
        raise ForeignZooError(f"{str(folder)!r} holds no file {pattern!r}; expected the folder or archive as it was published")
    return sorted(found, key=lambda path: path.relative_to(folder).parts)


def read_npy(path: Path) -> np.ndarray:
    """An array of real numbers, mapped into memory.

    Raises:
        ForeignZooError: It holds objects, which would be a pickle, or is truncated or no such file.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, SyntaxError) as error:
        raise ForeignZooError(
            f"{str(path)!r} is no plain array ({_reason(error)}); expected numbers that numpy.save wrote"
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise ForeignZooError(
            f"{str(path)!r} holds {getattr(array, 'dtype', 'several arrays')}; expected one array of real numbers"
        )
    return array


def read_tensors(path: Path) -> dict[str, Any]:
    """A dictionary that `torch.save` wrote: tensors as numpy arrays, those of bfloat16 in float32, numbers and texts as they are.

    Raises:
        ForeignZooError: It holds more than plain tensors and values, is no dictionary, or is damaged.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(content, dict):
            return {str(key): _as_array(value, where=f"{str(key)!r:.80} in {str(path)!r}") for key, value in content.items()}
    except pickle.UnpicklingError as error:
        raise ForeignZooError(
            f"{str(path)!r} holds more than tensors, or is no file of torch.save ({_reason(error)}); expected a state dict"
        ) from error
    # What torch and zipfile raise for damaged archives.
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ForeignZooError(f"{str(path)!r} is damaged ({_reason(error)}); expected a state dict; fetch it again") from error
    raise ForeignZooError(f"{str(path)!r} holds a {type(content).__name__}; expected a state dict")


def _as_array(value: Any, *, where: str) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    is_plain = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    # A stride of zero would make one number a tensor of any size.
    if not is_plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise ForeignZooError(
            f"{where} is a tensor of shape {tuple(value.shape)} whose numbers do not stand in the file one by one; "
            "expected a plain tensor"
        )
    value = value.detach().resolve_neg().resolve_conj()
    # numpy has no bfloat16
    return (value.float() if value.dtype == torch.bfloat16 else value).contiguous().numpy()


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ForeignZooError: It is no JSON, or larger than any that a zoo has.
    """
    if path.stat().st_size > _LARGEST_JSON:
        raise ForeignZooError(
            f"{str(path)!r} has {path.stat().st_size:,} bytes; expected a JSON file of at most {_LARGEST_JSON:,}"
        )
    return parse_json(path.read_bytes(), path)


def parse_json(text: str | bytes, path: Path) -> Any:
    """A JSON text out of a file.

    Raises:
        ForeignZooError: It is no JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ForeignZooError(f"{str(path)!r} is no JSON ({_reason(error)}); fetch it again") from error


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text, decompressed where its name ends in ``.gz``.

    Raises:
        ForeignZooError: A line is longer than any that a zoo has, it is no UTF-8, or the compressed stream is damaged.
    """
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        try:
            while line := file.readline(_LONGEST_LINE):
                if len(line) == _LONGEST_LINE:
                    raise ForeignZooError(
                        f"{str(path)!r} has a line of more than {_LONGEST_LINE:,} letters; expected shorter ones"
                    )
                yield line
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ForeignZooError(f"{str(path)!r} is damaged ({_reason(error)}); expected text; fetch it again") from error


def read_table(path: Path, *, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """The rows of a CSV file with a header, by column name.

    Args:
        path: The file.
        columns: Those that it must have; it may have more.

    Raises:
        ForeignZooError: A column is missing, or a row is shorter or longer than the header.
    """
    rows = csv.DictReader(read_lines(path))
    missing = sorted(set(columns) - set(rows.fieldnames or ()))
    if missing:
        raise ForeignZooError(f"{str(path)!r} lacks column {missing[0]!r}; it has {', '.join(rows.fieldnames or ())}")
    try:
        for number, row in enumerate(rows, start=2):
            if None in row or None in row.values():
                raise ForeignZooError(f"{str(path)!r} has a row {number} of another length than its header; fetch it again")
            yield row
    except csv.Error as error:
        raise ForeignZooError(f"{str(path)!r} is no table ({_reason(error)}); fetch it again") from error


def number(text: Any, *, where: str) -> float:
    """A number out of a table or JSON; an empty text and None are NaN.

    Raises:
        ForeignZooError: It is something else.
    """
    if text is None or text == "":
        return float("nan")
    try:
        return float(text)
    except OverflowError:
        raise ForeignZooError(f"{where} is a whole number beyond those of float64; expected a smaller one") from None
    except (TypeError, ValueError):
        raise ForeignZooError(f"{where} is {text!r}; expected a number") from None


def whole(text: Any, *, where: str) -> int:
    """A whole number out of a table or JSON.

    Raises:
        ForeignZooError: It is something else.
    """
    value = number(text, where=where)
    if not value.is_integer():
        raise ForeignZooError(f"{where} is {text!r}; expected a whole number")
    return int(value)


def _reason(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
