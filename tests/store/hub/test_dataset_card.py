from __future__ import annotations

import pytest
import yaml

from ngbench.errors import CardError
from ngbench.store import Zoo, ZooInfo
from ngbench.store.hub import export_dataset
from ngbench.store.hub.dataset_card import read_card


def front_of(folder):
    text = (folder / "README.md").read_text()
    assert text.startswith("---\n")
    front, _, body = text[4:].partition("\n---\n")
    return yaml.safe_load(front), body


def test_the_front_matter_names_configurations_types_and_sizes(exported, tiny_zoo):
    front, body = front_of(exported)
    assert front["license"] == "cc0-1.0"
    assert front["size_categories"] == ["n<1K"]
    assert [config["config_name"] for config in front["configs"]] == ["default", "topologies", "diverged"]
    info = front["dataset_info"][0]
    assert {"name": "values", "sequence": "float32"} in info["features"]
    assert {split["name"]: split["num_examples"] for split in info["splits"]} == {
        part: len(tiny_zoo.split(part)) for part in ("train", "val", "test") if len(tiny_zoo.split(part))
    }
    assert f"with sha256 `{tiny_zoo.sha256}`" in body
    assert "| `width` | hyperparameter |" in body


def test_a_licence_that_the_hub_does_not_know_is_named_in_full(tiny, tmp_path):
    tiny.info = ZooInfo("tiny", "3", "Tiny zoo", "WTFPL-9", "nobody")
    folder = export_dataset(Zoo(tiny.write(tmp_path / "a.h5")), tmp_path / "folder")
    front, _ = front_of(folder)
    assert (front["license"], front["license_name"]) == ("other", "WTFPL-9")


def test_texts_tags_and_pictures_of_the_data_card_are_taken_over(tiny_zoo, tmp_path):
    (tmp_path / "shown.png").write_bytes(b"picture")
    card = tmp_path / "tiny.md"
    card.write_text(
        "---\ntags: [mine]\nconfigs: []\n---\n\n# tiny\n\n![it](shown.png) ![no](../up.png)\n\n## Limits\n\nVery small.\n"
    )
    folder = export_dataset(tiny_zoo, tmp_path / "folder", card=card)
    front, body = front_of(folder)
    assert front["tags"] == ["mine"]
    assert len(front["configs"]) == 3
    assert body.strip().startswith("# tiny")
    assert (folder / "shown.png").read_bytes() == b"picture"
    assert read_card(card).sections == {"Limits": "Very small."}


@pytest.mark.parametrize(
    ("text", "fault"),
    [("---\na: [\n---\n", "is no YAML"), ("---\n- a\n---\n", "is list; expected a mapping")],
)
def test_a_card_with_broken_front_matter_is_refused(tmp_path, text, fault):
    (tmp_path / "a.md").write_text(text)
    with pytest.raises(CardError, match=rf"front matter of data card '.*a\.md' {fault}"):
        read_card(tmp_path / "a.md")


def test_a_card_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CardError, match=r"cannot read data card '.*none\.md'"):
        read_card(tmp_path / "none.md")
