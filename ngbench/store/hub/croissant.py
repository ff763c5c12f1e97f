"""``croissant.json`` of a dataset folder: Croissant 1.0 metadata with the fields of its responsible-AI vocabulary.

Source: MLCommons, *Croissant Format Specification* 1.0, and *Croissant RAI* 1.0.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from ngbench.store.hub.dataset_card import CardTexts, configurations
from ngbench.store.hub.manifest import Manifest
from ngbench.store.hub.tables import DIVERGED, TOPOLOGIES, meanings, network_schema
from ngbench.store.reader import Zoo

CROISSANT = "croissant.json"
# The context that the specification prescribes, word by word.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_TYPES = {
    pa.string(): "sc:Text",
    pa.int64(): "sc:Integer",
    pa.float64(): "sc:Float",
    pa.float32(): "sc:Float",
    pa.float16(): "sc:Float",
}


def write_croissant(zoo: Zoo, manifest: Manifest, folder: Path, *, texts: CardTexts) -> None:
    """Writes the Croissant metadata of a dataset folder; its texts are those of the zoo's data card where it has one."""
    recipe = manifest.recipe or {}
    licence = manifest.licence
    metadata = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "name": manifest.name,
        "description": " ".join(str(recipe.get("description") or manifest.title).split()),
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "license": licence if "://" in licence else f"https://spdx.org/licenses/{licence}.html",
        "version": manifest.version if manifest.version.count(".") == 2 else f"{manifest.version}.0.0",
        "citeAs": manifest.citation,
        "keywords": ["weight-space learning", "model zoo", "neural graphs"],
        **_responsible(zoo, manifest, texts),
        "distribution": _distribution(manifest),
        "recordSet": _record_sets(manifest),
    }
    (folder / CROISSANT).write_text(json.dumps(metadata, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _responsible(zoo: Zoo, manifest: Manifest, texts: CardTexts) -> dict[str, Any]:
    """The fields of the responsible-AI vocabulary: from the zoo file, and from the data card where it has the section."""
    recipe, sections = manifest.recipe or {}, texts.sections
    num_runs = len(set(zoo.run_ids.tolist()))
    images = recipe.get("images", {})
    corpus = recipe.get("corpus") or (images.get("corpus") if isinstance(images, dict) else None)
    corpora = ", ".join(corpus) if isinstance(corpus, list) else corpus
    recorded = {
        "dataCollection": sections.get("How it was made")
        or (f"Networks trained from the recipe of zoo {zoo.name}, which ngbench.json holds." if recipe else manifest.title),
        "dataCollectionType": ["Experiments"],
        "dataCollectionRawData": f"Images of {corpora}, on which the networks were trained; they are no part of this dataset."
        if corpora
        else "The trained networks as they were published or generated.",
        "dataCollectionMissingData": f"{num_runs} training runs gave {len(zoo)} networks; {len(zoo.diverged)} runs diverged "
        "and are recorded with their reason, without a network.",
        "dataPreprocessingProtocol": [
            "Parameters of each network as one row of float32 in the canonical order of its neural graph."
            + (f" Weights rounded to {recipe['rounding']} before they were measured." if recipe.get("rounding") else "")
        ],
        "dataManipulationProtocol": "None: values are neither filtered nor normalised.",
        "dataAnnotationProtocol": "No human annotation: measured columns were computed from the networks on held-out images.",
        "machineAnnotationTools": ["ngbench"],
        "dataUseCases": [sections.get("What it is for") or "Learning over neural networks: a trained network is one data point."],
        "dataLimitations": [sections.get("Limits") or "Trained on small corpora; findings need not hold for larger networks."],
        "dataBiases": ["Architectures and hyperparameters are spread as the recipe draws them, not as they occur in practice."],
        "personalSensitiveInformation": ["None known: parameters of neural networks and how they were trained."],
        "dataSocialImpact": "Research on weight spaces; the networks are too small to be of use by themselves.",
        "dataReleaseMaintenancePlan": f"Version {manifest.version} never changes; a change is a new version. "
        f"The zoo file has sha256 {manifest.sha256}.",
    }
    return {f"rai:{name}": value for name, value in recorded.items()}


def _distribution(manifest: Manifest) -> list[dict[str, Any]]:
    """Each file with its sha256, and one set of files for each split of each configuration."""
    files = [
        {
            "@type": "cr:FileObject",
            "@id": file.path,
            "name": file.path,
            "contentUrl": file.path,
            "contentSize": f"{file.size_bytes} B",
            "encodingFormat": "application/x-parquet",
            "sha256": file.sha256,
        }
        for file in manifest.files
    ]
    sets = [
        {
            "@type": "cr:FileSet",
            "@id": f"{name}/{split}",
            "name": f"{name}/{split}",
            "containedIn": [{"@id": file.path} for file in members],
            "encodingFormat": "application/x-parquet",
            "includes": "*.parquet",
        }
        for name, splits in configurations(manifest).items()
        for split, members in splits.items()
    ]
    return [*files, *sets]


def _record_sets(manifest: Manifest) -> list[dict[str, Any]]:
    """The columns of each split of each configuration, with type and meaning."""
    texts = meanings(manifest.columns, manifest.outputs)
    networks = network_schema(manifest.columns, manifest.outputs)
    schemas = {"topologies": TOPOLOGIES, "diverged": DIVERGED}
    return [
        {
            "@type": "cr:RecordSet",
            "@id": f"records/{name}/{split}",
            "name": f"{name}/{split}",
            "field": [_field(f"{name}/{split}", column, texts[column.name]) for column in schemas.get(name, networks)],
        }
        for name, splits in configurations(manifest).items()
        for split in splits
    ]


def _field(owner: str, column: pa.Field, description: str) -> dict[str, Any]:
    is_list = pa.types.is_list(column.type)
    return {
        "@type": "cr:Field",
        "@id": f"records/{owner}/{column.name}",
        "name": column.name,
        "description": description,
        "dataType": _TYPES[column.type.value_type if is_list else column.type],
        **({"repeated": True} if is_list else {}),
        "source": {"fileSet": {"@id": owner}, "extract": {"column": column.name}},
    }
