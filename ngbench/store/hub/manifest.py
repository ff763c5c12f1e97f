"""``ngbench.json`` of a dataset folder: what a zoo file needs that no table says, and the sha256 of each table."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ngbench.errors import StoreFormatError
from ngbench.store.schema import Withheld, ZooInfo
from ngbench.store.splits import NO_PART, PARTS
from ngbench.zoo.columns import Column

MANIFEST = "ngbench.json"
FORMAT_VERSION = 1
# A recipe and 100,000 file names are far below.
_MOST_BYTES = 32 * 2**20
# One word: no separators, no leading dot, nothing that a glob or a shell would expand.
_WORD = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
_SHA256 = r"^[0-9a-f]{64}$"
_Count = Field(ge=0, lt=2**62)


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ColumnEntry(_Closed):
    """A metadata column, in the order of the zoo file."""

    name: str = Field(min_length=1, max_length=200)
    role: Literal["identity", "hyperparameter", "measurement"]
    dtype: Literal["str", "int", "float"]
    description: str

    @property
    def column(self) -> Column:
        """The column as the store knows it."""
        return Column(self.name, self.role, self.dtype, self.description)


class OutputsEntry(_Closed):
    """Stored outputs, in the order of the zoo file."""

    name: str = Field(pattern=_WORD)
    num_outputs: int = _Count


class FileEntry(_Closed):
    """A Parquet file.

    Args:
        path: Where it stands in the folder.
        sha256: Of its bytes.
        size_bytes: Their number.
        num_rows: Its rows.
        parts: For a file of networks the part of all of them in each split, None where they stand in none.
    """

    path: str = Field(pattern=r"^(data|topologies|diverged)/[A-Za-z0-9][A-Za-z0-9._-]{0,199}\.parquet$")
    sha256: str = Field(pattern=_SHA256)
    size_bytes: int = _Count
    num_rows: int = _Count
    parts: dict[str, Literal["train", "val", "test"] | None] = {}

    @property
    def folder(self) -> str:
        """``"data"``, ``"topologies"`` or ``"diverged"``."""
        return self.path.partition("/")[0]


class Manifest(_Closed):
    """What a zoo file needs beside the tables of its dataset folder.

    Args:
        format: Always ``"ngbench-dataset"``.
        format_version: Version of this layout.
        name, version, title, licence, citation, recipe: As in `ZooInfo`.
        sha256: Of the content of the zoo file.
        compressed: Whether the file's values are compressed.
        num_networks: Rows of all files of networks.
        num_values: Values of all networks.
        split_by: Column that decides the split `default`; None where the run id does.
        splits: Names of the further splits, in the order of the zoo file.
        columns: Metadata columns.
        outputs: Stored outputs.
        files: All Parquet files.
        withheld: As in `ZooInfo`; left out of the file where nothing is.
    """

    format: Literal["ngbench-dataset"] = "ngbench-dataset"
    format_version: Literal[1] = FORMAT_VERSION
    name: str = Field(pattern=_WORD)
    version: str = Field(pattern=_WORD)
    title: str
    licence: str
    citation: str
    recipe: dict[str, Any] | None
    sha256: str = Field(pattern=_SHA256)
    compressed: bool
    num_networks: int = Field(ge=1, lt=2**40)
    num_values: int = _Count
    split_by: str | None
    splits: list[str]
    columns: list[ColumnEntry]
    outputs: list[OutputsEntry]
    files: list[FileEntry]
    withheld: Withheld | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Manifest:
        splits = ["default", *self.splits]
        for kind, names in {
            "split": splits,
            "column": [column.name for column in self.columns],
            "output": [output.name for output in self.outputs],
            "file": [file.path for file in self.files],
        }.items():
            twice = [name for name in names if names.count(name) > 1] if len(set(names)) < len(names) else []
            if twice:
                raise ValueError(f"{kind} {twice[0]!r} stands twice")
        for file in self.networks:
            if set(file.parts) != set(splits) or file.parts["default"] is None:
                raise ValueError(f"file {file.path!r} names the parts of splits {sorted(file.parts)}; expected {sorted(splits)}")
        num_rows = sum(file.num_rows for file in self.networks)
        if num_rows != self.num_networks:
            raise ValueError(f"the files have {num_rows} networks; expected num_networks, {self.num_networks}")
        return self

    @property
    def info(self) -> ZooInfo:
        """What the zoo is."""
        return ZooInfo(self.name, self.version, self.title, self.licence, self.citation, self.recipe, self.withheld)

    @property
    def networks(self) -> list[FileEntry]:
        """The files of networks."""
        return [file for file in self.files if file.folder == "data"]

    def of(self, folder: str) -> list[FileEntry]:
        """The files of one folder."""
        return [file for file in self.files if file.folder == folder]


def part_index(part: str | None) -> int:
    """A part as a zoo file stores it."""
    return NO_PART if part is None else PARTS.index(part)


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks the manifest of a dataset folder.

    Raises:
        StoreFormatError: There is none, it is too large, or a field has a wrong name, type or value.
    """
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise StoreFormatError(
            f"cannot read {str(path)!r} ({error.strerror or error}); expected a folder that `ngbench zoo export` wrote"
        ) from error
    if len(text) > _MOST_BYTES:
        raise StoreFormatError(f"{str(path)!r} has more than {_MOST_BYTES} bytes; expected less; fetch the folder again")
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the text"
        got = "" if first["type"] in ("value_error", "missing") else f", got {str(first['input'])[:80]!r}"
        raise StoreFormatError(f"{str(path)!r}: {where}: {first['msg']}{got}; fetch the folder again") from error
