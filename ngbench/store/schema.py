"""What a zoo file holds, and what a zoo is.

====================================  ==================  =================================================================
path                                  type                meaning
====================================  ==================  =================================================================
``/`` (attributes)                    text, int           format, format_version, zoo, zoo_version, title, licence, citation,
                                                          recipe (JSON)
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
from dataclasses import dataclass
from typing import Any

import h5py

from ngbench.errors import StoreFormatError
from ngbench.store.arrays import TEXT
from ngbench.store.seal import FORMAT, FORMAT_VERSION

# The type of each kind of metadata column, and of other datasets.
COLUMN_TYPES: Mapping[str, str] = {"str": TEXT, "int": "<i8", "float": "<f8"}
SPLIT_TYPE = "|i1"
VALUE_TYPE = "<f4"
FUNCTIONAL_TYPE = "<f2"


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
    """

    name: str
    version: str
    title: str
    licence: str
    citation: str
    recipe: Mapping[str, Any] | None = None


_ATTRIBUTES = {"zoo": "name", "zoo_version": "version", "title": "title", "licence": "licence", "citation": "citation"}


def write_info(file: h5py.File, info: ZooInfo) -> None:
    """Writes what a zoo is as attributes of the file."""
    file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
    for attribute, field in _ATTRIBUTES.items():
        file.attrs[attribute] = getattr(info, field)
    file.attrs["recipe"] = json.dumps(info.recipe, ensure_ascii=False)


def read_info(file: h5py.File) -> ZooInfo:
    """Reads what a zoo is.

    Raises:
        StoreFormatError: An attribute is missing, no text, or the recipe is no JSON.
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
    return ZooInfo(**{field: texts[attribute] for attribute, field in _ATTRIBUTES.items()}, recipe=recipe)
