"""A trained method as two files that execute nothing: what it is in JSON, its arrays as safetensors."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as format_tensors
from torch import Tensor, nn

from ngbench.errors import NgbenchError, ResultError
from ngbench.methods import Problem

METHOD_FILE = "method.json"
ARRAYS_FILE = "arrays.safetensors"

T = TypeVar("T")


class _Content(BaseModel):
    """What stands in `METHOD_FILE`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1]
    method: str
    config: dict[str, Any]
    problem: dict[str, Any]
    survey: dict[str, Any]
    arrays_sha256: str


@dataclass(frozen=True)
class Saved:
    """A trained method as it is kept.

    Args:
        method: Its name.
        config: Its `Config`; None where it has none.
        problem: What it was trained for.
        survey: A dataclass of what it took from the training networks beside its arrays.
        arrays: Everything else, by name.
    """

    method: str
    config: Any
    problem: Problem
    survey: Any
    arrays: Mapping[str, Tensor]

    def write(self, folder: Path) -> None:
        """Writes both files into a folder that exists."""
        arrays = format_tensors({name: values.detach().cpu().contiguous().clone() for name, values in self.arrays.items()})
        content = _Content(
            format_version=1,
            method=self.method,
            config={} if self.config is None else dataclasses.asdict(self.config),
            problem=self.problem.as_json(),
            survey=TypeAdapter(type(self.survey)).dump_python(self.survey, mode="json"),
            arrays_sha256=hashlib.sha256(arrays).hexdigest(),
        )
        (folder / ARRAYS_FILE).write_bytes(arrays)
        (folder / METHOD_FILE).write_text(content.model_dump_json() + "\n")

    @classmethod
    def read(cls, folder: Path, *, method: str, config: type | None, survey: type) -> Saved:
        """Reads what `write` wrote; nothing in the files is executed.

        Args:
            folder: Where they are.
            method: Name of the method that they should be of.
            config: Its `Config`; None where it has none.
            survey: The dataclass of its survey.

        Raises:
            ResultError: A file is missing, damaged, of another version or method, or has a wrong key or value.
        """
        path = folder / METHOD_FILE
        try:
            content, data = _Content.model_validate_json(path.read_bytes()), (folder / ARRAYS_FILE).read_bytes()
        except OSError as error:
            raise ResultError(f"{folder} holds no saved method ({error.strerror}: {error.filename}); run it again") from error
        except ValidationError as error:
            raise ResultError(f"{path} is no saved method of format version 1 ({_first(error)}); run it again") from error
        if content.method != method:
            raise ResultError(f"{path} holds method {content.method!r}; expected {method!r}: name the folder of that method")
        found = hashlib.sha256(data).hexdigest()
        if found != content.arrays_sha256:
            raise ResultError(
                f"{folder / ARRAYS_FILE} has sha256 {found[:12]}…; expected {content.arrays_sha256[:12]}…: run the method again"
            )
        try:
            arrays = parse_tensors(data)
        except (SafetensorError, ValueError) as error:
            raise ResultError(f"{folder / ARRAYS_FILE} is no safetensors file ({error}); run the method again") from error
        try:
            problem = Problem.from_json(content.problem)
            options = None if config is None else _dataclass(config, content.config)
            return cls(method, options, problem, _dataclass(survey, content.survey), arrays)
        except ValidationError as error:
            raise ResultError(f"{path} does not fit this ngbench ({_first(error)}); run the method again") from error
        except NgbenchError as error:
            raise ResultError(f"{path} does not fit this ngbench ({error}); run the method again") from error

    def fill(self, module: nn.Module, *, prefix: str = "") -> None:
        """Gives a module the arrays under its own names, with a prefix.

        Raises:
            ResultError: One is missing or extra, or has another shape or type.
        """
        given = {name.removeprefix(prefix): values for name, values in self.arrays.items() if name.startswith(prefix)}
        wanted = module.state_dict()
        for name in sorted({*given, *wanted}):
            mine, theirs = (_described(entries.get(name)) for entries in (wanted, given))
            if mine != theirs:
                raise ResultError(
                    f"array {prefix + name!r} of saved method {self.method!r} is {theirs}; expected {mine}: run the method again"
                )
        module.load_state_dict(given)

    def array(self, name: str, *, kind: str, num_axes: int) -> np.ndarray:
        """One array as numpy has it.

        Args:
            name: Its name.
            kind: Of its type, ``"f"``, ``"i"`` or ``"b"``, as in ``numpy.dtype.kind``.
            num_axes: How many it has.

        Raises:
            ResultError: There is none, or it is of another kind.
        """
        values = self.arrays[name].numpy() if name in self.arrays else None
        if values is None or values.dtype.kind != kind or values.ndim != num_axes:
            raise ResultError(
                f"array {name!r} of saved method {self.method!r} is {_described(self.arrays.get(name))}; "
                f"expected {num_axes} axes of type {kind!r}: run the method again"
            )
        return values


def _described(values: Tensor | None) -> str:
    return "missing" if values is None else f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}"


def _dataclass(kind: type[T], fields: Mapping[str, Any]) -> T:
    """A dataclass from the JSON of its fields, each of which must be there, and no other."""
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if known != set(fields):
        odd = sorted(known ^ set(fields))
        raise ResultError(f"{', '.join(odd)} {'is' if len(odd) == 1 else 'are'} missing or unknown")
    return TypeAdapter(kind).validate_json(json.dumps(fields))


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'the text'}: {problem['msg']}"


def as_tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Arrays as tensors."""
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in arrays.items()}
