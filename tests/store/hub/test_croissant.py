from __future__ import annotations

import hashlib
import json

import pyarrow.parquet as pq
import pytest

from ngbench.store.hub import export_dataset
from ngbench.store.hub.tables import MEANINGS

# The fields of Croissant RAI 1.0 that say something about a table without people or annotators.
RESPONSIBLE = [
    "dataCollection", "dataCollectionType", "dataCollectionRawData", "dataCollectionMissingData", "dataPreprocessingProtocol",
    "dataManipulationProtocol", "dataAnnotationProtocol", "machineAnnotationTools", "dataUseCases", "dataLimitations",
    "dataBiases", "personalSensitiveInformation", "dataSocialImpact", "dataReleaseMaintenancePlan",
]  # fmt: skip


@pytest.fixture
def metadata(exported):
    return json.loads((exported / "croissant.json").read_text())


def test_what_the_specification_requires_is_there(metadata):
    required = (
        "@context",
        "@type",
        "name",
        "description",
        "conformsTo",
        "license",
        "citeAs",
        "version",
        "distribution",
        "recordSet",
    )
    assert not [name for name in required if not metadata.get(name)]
    assert metadata["conformsTo"] == ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"]
    assert metadata["license"] == "https://spdx.org/licenses/CC0-1.0.html"


def test_the_fields_of_the_responsible_ai_vocabulary_are_filled(metadata, tiny_zoo):
    assert not [name for name in RESPONSIBLE if not metadata.get(f"rai:{name}")]
    assert f"gave {len(tiny_zoo)} networks; 2 runs diverged" in metadata["rai:dataCollectionMissingData"]


def test_limits_and_uses_come_from_the_data_card(tiny_zoo, tmp_path):
    (tmp_path / "tiny.md").write_text("# tiny\n\n## What it is for\n\nTesting.\n\n## Limits\n\nVery small.\n")
    folder = export_dataset(tiny_zoo, tmp_path / "folder", card=tmp_path / "tiny.md")
    metadata = json.loads((folder / "croissant.json").read_text())
    assert (metadata["rai:dataUseCases"], metadata["rai:dataLimitations"]) == (["Testing."], ["Very small."])


def test_every_file_stands_with_its_hash_and_size(metadata, exported):
    files = {entry["contentUrl"]: entry for entry in metadata["distribution"] if entry["@type"] == "cr:FileObject"}
    assert set(files) == {str(path.relative_to(exported)) for path in exported.rglob("*.parquet")}
    for name, entry in files.items():
        data = (exported / name).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest()
        assert entry["contentSize"] == f"{len(data)} B"


def test_every_field_names_a_column_that_its_files_have_and_no_id_stands_twice(metadata, exported):
    members = {e["@id"]: [m["@id"] for m in e["containedIn"]] for e in metadata["distribution"] if e["@type"] == "cr:FileSet"}
    ids = [entry["@id"] for entry in metadata["distribution"]]
    for records in metadata["recordSet"]:
        ids.append(records["@id"])
        for field in records["field"]:
            ids.append(field["@id"])
            for path in members[field["source"]["fileSet"]["@id"]]:
                column = pq.read_schema(exported / path).field(field["source"]["extract"]["column"])
                assert field.get("repeated", False) == str(column.type).startswith("list")
                assert field["description"] == MEANINGS.get(column.name, field["description"])
    assert len(set(ids)) == len(ids)
