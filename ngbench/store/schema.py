"""What a zoo file holds, and what a zoo is.

====================================  ==================  =================================================================
path                                  type                meaning
====================================  ==================  =================================================================
``/`` (attributes)                    text, int           format, format_version, zoo, zoo_version, title, licence, citation,
                                                          recipe (JSON); in a public file whose host keeps the answers
                                                          also withheld (JSON)
``/models/id``, ``/models/run_id``    text [networks]     name of the network; of the training run that it came from
``/models/topology``                  int32 [networks]    position of its topology among the digests in sorted order
``/models/value_ptr``                 int64 [networks+1]  network i has the values value_ptr[i] to value_ptr[i + 1]
``/values``                           float32 [values]    all parameters, each network's in canonical order
``/metadata/<column>``                one [networks]      attributes role, description
``/functional/<name>``                float16 [networks,  optional: outputs of each network on fixed inputs; of an implicit neural
                                      outputs]            representation the rendered image
``/splits/<name>``                    int8 [networks]     0 train, 1 val, 2 test, -1 none of them; ``default`` has the attribute
                                                          by where a metadata column decides in place of the run id
``/diverged/run_id``, ``…/reason``    text [runs]         runs that gave no network, and why
``/topologies/<digest>/json``         text                the topology
``…/node_group``                      int32 [nodes]       position of the node's group in the topology
``…/node_value``                      int64 [nodes, f]    position of each feature in the network's values, or -1;
                                                          attribute features names them
``…/edge_index``                      int32 [2, edges]    source and target node
``…/edge_block``                      int32 [edges]       position of the edge's block in the topology
``…/edge_value``                      int64 [edges]       position of the edge's first number in the network's values, or -1
                                                          where the block is structural
====================================  ==================  =================================================================

Text is UTF-8 of fixed length, padded with zeros. Numbers are little-endian.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import h5py
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from ngbench.errors import StoreFormatError
from ngbench.store.arrays import TEXT
from ngbench.store.seal import FORMAT, FORMAT_VERSION

# The type of each kind of metadata column, and of other datasets.
COLUMN_TYPES: Mapping[str, str] = {"str": TEXT, "int": "<i8", "float": "<f8"}
SPLIT_TYPE = "|i1"
VALUE_TYPE = "<f4"
FUNCTIONAL_TYPE = "<f2"


PLACEHOLDERS: Mapping[str, Any] = {"str": "", "int": -1, "float": float("nan")}
"""What a withheld value of each kind of column is in a public file, but in columns that decide parts or architectures."""


@with_config(ConfigDict(extra="forbid", strict=True))
@dataclass(frozen=True)
class Withheld:
    """What a public zoo file keeps back of some of its networks; its host has it in an answer file.

    Args:
        splits: Names of the splits whose test networks these are.
        columns: Metadata columns that tell nothing of these networks.
        commitment: Hexadecimal sha256 of the answer file, which has chance in it, so that it tells nothing of the answers.
    """

    splits: tuple[str, ...]
    columns: tuple[str, ...]
    commitment: str


@dataclass(frozen=True)
class ZooInfo:
    """What a zoo is.

    Args:
        name: Its name; with a run's id it decides the run's split.
        version: Its version; a released zoo never changes, a change is a new version.
        title: One line for people.
        licence: SPDX name of the licence of the networks.
        citation: What to cite.
        recipe: What it was generated from, as JSON holds it; None where it was not generated.
        withheld: What the file keeps back; None for nothing.
    """

    name: str
    version: str
    title: str
    licence: str
    citation: str
    recipe: Mapping[str, Any] | None = None
    withheld: Withheld | None = None


_ATTRIBUTES = {"zoo": "name", "zoo_version": "version", "title": "title", "licence": "licence", "citation": "citation"}


def write_info(file: h5py.File, info: ZooInfo) -> None:
    """Writes what a zoo is as attributes of the file."""
    file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
    for attribute, field in _ATTRIBUTES.items():
        file.attrs[attribute] = getattr(info, field)
    file.attrs["recipe"] = json.dumps(info.recipe, ensure_ascii=False)
    if info.withheld is not None:
        file.attrs["withheld"] = json.dumps(asdict(info.withheld))


def read_info(file: h5py.File) -> ZooInfo:
    """Reads what a zoo is.

    Raises:
        StoreFormatError: An attribute is missing, no text, or no JSON of what it should be.
    """
    texts: dict[str, Any] = {attribute: file.attrs.get(attribute) for attribute in (*_ATTRIBUTES, "recipe")}
    for attribute, text in texts.items():
        if not isinstance(text, str):
            raise StoreFormatError(
                f"{file.filename!r}: root attribute {attribute!r} is {text!r}; expected text; fetch the file again"
            )
    try:
        recipe = json.loads(texts["recipe"])
    except ValueError as error:
        raise StoreFormatError(
            f"{file.filename!r}: root attribute 'recipe' is no JSON ({error}); fetch the file again"
        ) from error
    known: Any = {field: texts[attribute] for attribute, field in _ATTRIBUTES.items()}
    return ZooInfo(**known, recipe=recipe, withheld=_read_withheld(file))


def _read_withheld(file: h5py.File) -> Withheld | None:
    if "withheld" not in file.attrs:
        return None
    try:
        return TypeAdapter(Withheld).validate_json(str(file.attrs["withheld"]))
    except ValidationError as error:
        raise StoreFormatError(
            f"{file.filename!r}: root attribute 'withheld' is {str(file.attrs['withheld'])!r:.200}; expected JSON with splits, "
            "columns and commitment; fetch the file again"
        ) from error
