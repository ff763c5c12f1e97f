"""Reads what `torch.save` wrote of objects without making the objects: tensors become arrays, all else an inert `Record`.

No name that a pickle holds is imported. The only functions that it can call make an array out of the bytes beside it, or an
empty container.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ngbench.errors import ForeignZooError

_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}


class Record(dict):
    """An object of any class, not made: its state by attribute name, its items where it was a container.

    Attributes:
        kind: The class or function that the pickle names.
        arguments: What it was made of.
        items_added: Entries of a list.
    """

    kind = "?"
    # a pickle may make an object without calling `__init__`
    arguments: tuple[Any, ...] = ()

    def __init__(self, *arguments: Any):
        super().__init__()
        self.arguments = arguments
        self.items_added: list[Any] = []

    def __new__(cls, *_arguments: Any) -> Record:
        """Takes any arguments, as pickles pass them here."""
        return super().__new__(cls)

    def append(self, item: Any) -> None:
        """Keeps an entry of a list."""
        self._entries().append(item)

    def extend(self, items: Any) -> None:
        """Keeps entries of a list."""
        self._entries().extend(items)

    def add(self, item: Any) -> None:
        """Keeps an entry of a set."""
        self._entries().append(item)

    def _entries(self) -> list[Any]:
        return self.__dict__.setdefault("items_added", [])

    def __hash__(self) -> int:
        return id(self)

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.update(part)


def read_records(path: Path) -> Any:
    """The content of a file that `torch.save` wrote, in the format of torch 1.6 and later.

    Raises:
        ForeignZooError: It is no such file, is damaged, or its tensors reach beyond their bytes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(names) != 1:
                raise ForeignZooError(
                    f"{str(path)!r} is no file of torch.save: it has {len(names)} members data.pkl; expected one"
                )
            prefix = names[0].removesuffix("data.pkl")
            return _Unpickler(path, archive, prefix).load()
    # What pickles and archives raise when they are damaged, or made to be.
    except (
        pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError, TypeError, LookupError, AttributeError,
        OverflowError, RecursionError, MemoryError, NotImplementedError, ImportError,
    ) as error:  # fmt: skip
        reason = str(error) or type(error).__name__
        raise ForeignZooError(f"{str(path)!r} is damaged or no file of torch.save ({reason}); fetch it again") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, path: Path, archive: zipfile.ZipFile, prefix: str):
        super().__init__(io.BytesIO(_stored(archive, f"{prefix}data.pkl")), encoding="utf-8")
        self._archive, self._prefix = archive, prefix
        self._storages: dict[tuple[str, str], np.ndarray] = {}

    def find_class(self, module: str, name: str) -> Any:
        """A type for storages, a maker of arrays, or a new kind of `Record`; nothing is imported."""
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        made: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): _array,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("collections", "OrderedDict"): OrderedDict,
            ("builtins", "set"): set,
            ("builtins", "dict"): dict,
            ("builtins", "list"): list,
        }
        return made.get((module, name)) or type("Record", (Record,), {"kind": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> np.ndarray:
        """The numbers of a storage, ``[numbers]``."""
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage" or pid[1] not in _STORAGES.values():
            raise pickle.UnpicklingError(f"a reference {str(pid)[:80]}; expected one to a storage of tensors")
        key = (str(pid[1]), str(pid[2]))
        if key not in self._storages:
            self._storages[key] = np.frombuffer(_stored(self._archive, f"{self._prefix}data/{key[1]}"), key[0])
        return self._storages[key]


def _stored(archive: zipfile.ZipFile, name: str) -> bytes:
    member = archive.getinfo(name)
    # torch never compresses, so that a small file cannot fill the memory.
    if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
        raise pickle.UnpicklingError(f"member {name!r} is compressed or encrypted; expected stored bytes")
    return archive.read(member)


def _array(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    """A tensor as a view of its storage, so that many tensors on one storage take no more memory than it."""
    numbers = (offset, *size, *stride)
    if not isinstance(storage, np.ndarray) or any(type(number) is not int or number < 0 for number in numbers):
        raise pickle.UnpicklingError(f"a tensor of size {size} and stride {stride}; expected whole numbers on a storage")
    if len(size) != len(stride):
        raise pickle.UnpicklingError(f"a tensor of size {size} and stride {stride}; expected as many of both")
    last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
    # A stride of zero would make one number a tensor of any size.
    if 0 not in size and (last >= len(storage) or np.prod(size, dtype=object) > len(storage)):
        raise pickle.UnpicklingError(f"a tensor of size {size} on {len(storage)} numbers; expected no more than these")
    strides = [step * storage.itemsize for step in stride]
    if 0 in size:
        return np.empty(size, storage.dtype)
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)


def _parameter(values: Any, *_: Any) -> Any:
    return values
