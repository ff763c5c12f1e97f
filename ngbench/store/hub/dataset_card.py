"""``README.md`` of a dataset folder: YAML that ``datasets`` and the Hub read, and the zoo's data card below it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from ngbench.errors import CardError
from ngbench.store.card import generated_part
from ngbench.store.hub.manifest import FileEntry, Manifest
from ngbench.store.hub.tables import DIVERGED, TOPOLOGIES, network_schema
from ngbench.store.reader import Zoo
from ngbench.store.splits import PARTS

CARD = "README.md"
_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
# Licences that the Hub knows by the lower-case form of their SPDX name.
_LICENCES = {"mit", "apache-2.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "bsd-3-clause"}
_FRONT = re.compile(r"\A---\n(.*?)\n---\n", re.DOTALL)
# Pictures beside the card; nothing that leads to another folder.
_PICTURE = re.compile(r"!\[[^\]]*\]\(([A-Za-z0-9][A-Za-z0-9._-]*\.(?:png|svg))\)")
_TOPOLOGIES, _DIVERGED = "topologies", "diverged"


@dataclass(frozen=True)
class CardTexts:
    """What a data card says in words.

    Args:
        front: Its YAML.
        body: All below.
        sections: Text below each heading of the second level, by heading.
    """

    front: Mapping[str, Any] = field(default_factory=dict)
    body: str = ""
    sections: Mapping[str, str] = field(default_factory=dict)


def read_card(path: str | Path) -> CardTexts:
    """Reads a data card.

    Raises:
        CardError: There is none, or its front matter is no YAML mapping.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CardError(f"cannot read data card {str(path)!r} ({error}); expected Markdown with YAML on top") from error
    match = _FRONT.match(text)
    try:
        front = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        raise CardError(f"the front matter of data card {str(path)!r} is no YAML ({error}); mend it") from error
    if not isinstance(front, dict):
        raise CardError(f"the front matter of data card {str(path)!r} is {type(front).__name__}; expected a mapping")
    body = text[match.end() :].lstrip("\n") if match else text
    sections = {part.partition("\n")[0].strip(): part.partition("\n")[2].strip() for part in re.split(r"(?m)^## ", body)[1:]}
    return CardTexts(front, body, sections)


def write_card(zoo: Zoo, manifest: Manifest, folder: Path, *, card: str | Path | None) -> CardTexts:
    """Writes the dataset card, and copies the pictures that the data card shows.

    Returns:
        What the data card says; nothing without one.

    Raises:
        CardError: There is no such data card, or its front matter is no YAML mapping.
    """
    texts = CardTexts() if card is None else read_card(card)
    beside = Path(card).parent if card is not None else folder
    for name in _PICTURE.findall(texts.body):
        picture = beside / name
        if picture.is_file():
            shutil.copyfile(picture, folder / name)
    body = texts.body or f"# {zoo.name}\n\n{zoo.info.title}\n\n{generated_part(zoo)}\n\nCite: {zoo.info.citation}\n"
    front = yaml.safe_dump(_front(manifest, texts), sort_keys=False, allow_unicode=True, width=120)
    (folder / CARD).write_text(f"---\n{front}---\n\n{body.rstrip()}\n\n{_how_to_open(manifest)}", encoding="utf-8")
    return texts


def _front(manifest: Manifest, texts: CardTexts) -> dict[str, Any]:
    licence = manifest.licence.lower()
    named = {"license": licence} if licence in _LICENCES else {"license": "other", "license_name": manifest.licence}
    size = next((name for limit, name in _SIZES.items() if manifest.num_networks < limit), "n>10M")
    written = {name: value for name, value in texts.front.items() if name not in ("configs", "dataset_info")}
    fixed = {"pretty_name": manifest.name, **named, "tags": ["weight-space-learning", "model-zoo", "neural-graphs"]}
    return {**fixed, "size_categories": [size], **written, "configs": _configs(manifest), "dataset_info": _dataset_info(manifest)}


def configurations(manifest: Manifest) -> dict[str, dict[str, list[FileEntry]]]:
    """The files of each split of each configuration of the dataset, those without files left out.

    Each split of the zoo is a configuration with its parts as splits; ``topologies`` and ``diverged``
    have one split, ``train``, which is what the Hub calls a table that is not split.
    """
    made: dict[str, dict[str, list[FileEntry]]] = {
        name: {part: [file for file in manifest.networks if file.parts[name] == part] for part in PARTS}
        for name in ("default", *manifest.splits)
    }
    made |= {name: {"train": manifest.of(name)} for name in (_TOPOLOGIES, _DIVERGED)}
    filled = {name: {split: files for split, files in splits.items() if files} for name, splits in made.items()}
    return {name: splits for name, splits in filled.items() if splits}


def _configs(manifest: Manifest) -> list[dict[str, Any]]:
    return [
        {
            "config_name": name,
            **({"default": True} if name == "default" else {}),
            "data_files": [{"split": split, "path": [file.path for file in files]} for split, files in splits.items()],
        }
        for name, splits in configurations(manifest).items()
    ]


def _dataset_info(manifest: Manifest) -> list[dict[str, Any]]:
    """Types of the columns and sizes of the splits of each configuration; ``datasets`` proves the numbers of rows."""
    networks = network_schema(manifest.columns, manifest.outputs)
    schemas = {_TOPOLOGIES: TOPOLOGIES, _DIVERGED: DIVERGED}
    infos = []
    for name, splits in configurations(manifest).items():
        sizes = {split: sum(file.size_bytes for file in files) for split, files in splits.items()}
        infos.append(
            {
                "config_name": name,
                "features": [_feature(column) for column in schemas.get(name, networks)],
                "splits": [
                    {"name": split, "num_bytes": sizes[split], "num_examples": sum(file.num_rows for file in files)}
                    for split, files in splits.items()
                ],
                "download_size": sum(sizes.values()),
                "dataset_size": sum(sizes.values()),
            }
        )
    return infos


def _feature(column: pa.Field) -> dict[str, str]:
    # "sequence" is what every version of datasets reads; since 4 it writes "list".
    if pa.types.is_list(column.type):
        return {"name": column.name, "sequence": TYPE_NAMES[column.type.value_type]}
    return {"name": column.name, "dtype": TYPE_NAMES[column.type]}


TYPE_NAMES = {
    pa.string(): "string",
    pa.int64(): "int64",
    pa.float64(): "float64",
    pa.float32(): "float32",
    pa.float16(): "float16",
}


def _how_to_open(manifest: Manifest) -> str:
    names = ", ".join(f"`{name}`" for name in configurations(manifest))
    return f"""## How to open it

One row is one network; `values` are its parameters in the order that its topology says. Configurations: {names}. Those of
networks differ in how the same networks are split into `train`, `val` and `test`.

```python
from datasets import load_dataset

networks = load_dataset("path/or/owner/name", split="train", streaming=True)
```

`ngbench zoo import --from FOLDER` makes the zoo file again, with sha256 `{manifest.sha256}`.
"""
