"""Exported programs from ``.pt2`` files of any origin: what could run code when it is loaded is refused before.

`torch.export.load` unpickles weights and example inputs without restriction where a file asks for it, loads compiled
libraries, evaluates the expressions of dynamic shapes and compiles the names of the graph as Python, so that each of these is
looked at first, through the same reader.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ngbench.errors import SourceError

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.export.pt2_archive._package import PT2ArchiveReader

_PLAIN_FILES = re.compile(
    r"(data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|models/model\.json|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder|\.data/.*|extra/.*)"
)
_CONFIGS = {"data/weights/model_weights_config.json": r"weight_\d+", "data/constants/model_constants_config.json": r"tensor_\d+"}
_SIZES = re.compile(r"(Symbol\('\w+'(, \w+=True)*\)|Integer\(-?\d+\)|Mul|Add|Max|Min|[(), ])+")
_WORDS = re.compile(r"[\w.:+-]*")
_CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
_FREE_TEXT = ("metadata", "guards_code")


def load_program(path: Path) -> ExportedProgram:
    """The exported program of a file that `torch.export.save` wrote.

    Raises:
        SourceError: There is no such file, it is no such archive, it holds what could run code, or torch does not read it.
    """
    from torch.export.pt2_archive._package import PT2ArchiveReader

    if not path.is_file():
        raise SourceError(f"there is no file {str(path)!r}; expected a .pt2 file that torch.export.save wrote")
    try:
        with PT2ArchiveReader(str(path)) as reader:
            _check(path, reader)
        with warnings.catch_warnings():
            # Older torch reads weights from memory that it may not write to, and nothing here does.
            warnings.filterwarnings("ignore", message="The given buffer is not writable", category=UserWarning)
            return torch.export.load(str(path))
    # What torch raises for a damaged archive, and for JSON that is no program.
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, NotImplementedError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise SourceError(
            f"{path} is not read by torch {torch.__version__} ({reason.strip()}); expected a file that torch.export.save wrote"
        ) from error


def _check(path: Path, reader: PT2ArchiveReader) -> None:
    files = reader.get_file_names()
    foreign = [name for name in files if not _PLAIN_FILES.fullmatch(name)]
    if foreign:
        raise _unsafe(path, f"the file {foreign[0]!r}", "only a graph and tensors, as a recent torch.export.save writes them")
    for name, stored in _CONFIGS.items():
        for entry, payload in json.loads(reader.read_string(name))["config"].items():
            if payload["use_pickle"] or not re.fullmatch(stored, payload["path_name"]):
                raise _unsafe(
                    path, f"{entry!r} as a pickle", "plain tensors: export the module without tensor subclasses and objects"
                )
    try:
        torch.load(io.BytesIO(reader.read_bytes("data/sample_inputs/model.pt")), weights_only=True)
    except pickle.UnpicklingError as error:
        raise _unsafe(
            path, "example inputs that are no tensors", "example inputs of tensors, numbers, tuples and dicts"
        ) from error
    for key, text in _texts(json.loads(reader.read_string("models/model.json"))):
        _check_text(path, key, text)


def _check_text(path: Path, key: str, text: str) -> None:
    """Refuses a text of the graph that is more than a name."""
    if key in ("in_spec", "out_spec"):
        kinds = {entry for kind, entry in _texts(json.loads(text)) if kind == "type"} if text else set()
        if kinds - _CONTAINERS:
            raise _unsafe(
                path, f"an input or output of type {min(map(str, kinds - _CONTAINERS))}", "tensors in tuples, lists and dicts"
            )
    elif key == "expr_str":
        if not _SIZES.fullmatch(text):
            raise _unsafe(path, f"the size {text!r}", "sums and products of symbols: export it without dynamic_shapes")
    elif not _WORDS.fullmatch(text):
        raise _unsafe(path, f"the {key} {text!r}", "names of operators and tensors")


def _texts(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a JSON tree with the key that it belongs to; the keys themselves are names."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield "name", name
            # Stack traces and the like; but a tensor may have one of these names, and its sizes are read.
            if name not in _FREE_TEXT or any(isinstance(part, (dict, list)) for part in _parts(value)):
                yield from _texts(value, name)
    elif isinstance(tree, list):
        for value in tree:
            yield from _texts(value, key)
    elif isinstance(tree, str):
        yield key, tree


def _parts(tree: Any) -> list[Any]:
    return list(tree.values()) if isinstance(tree, dict) else tree if isinstance(tree, list) else [tree]


def _unsafe(path: Path, what: str, expected: str) -> SourceError:
    return SourceError(f"{path} holds {what}, which could run code when it is loaded; expected {expected}")
