"""Zoos of the Hugging Face hub, from files in their layouts."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ngbench.errors import ForeignZooError
from ngbench.graph import restore
from ngbench.store import PUBLISHED, import_zoo
from ngbench.store.published.model_j import Vit

NAMES = ("unet.down_blocks.0.attn1.to_q.", "unet.mid_block.attn2.to_out.0.")


def adapter(seed, *, rank=2):
    rng = np.random.default_rng(seed)
    shapes = {f"{NAMES[0]}lora.down.weight": (rank, 6), f"{NAMES[0]}lora.up.weight": (5, rank)}
    shapes |= {f"{NAMES[1]}lora.down.weight": (3, 7), f"{NAMES[1]}lora.up.weight": (4, 3)}
    return {name: rng.normal(size=shape).astype(np.float32).tolist() for name, shape in shapes.items()}


def parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_adapters_come_with_their_class_in_the_order_of_the_files(tmp_path):
    rows = [adapter(seed) | {"category_label": label} for seed, label in enumerate(("cat", "dog", "ship"))]
    parquet(tmp_path / "files/data/train-00000-of-00002.parquet", rows[:2])
    parquet(tmp_path / "files/data/train-00001-of-00002.parquet", rows[2:])
    zoo = import_zoo(PUBLISHED["lora-ws-1k"], tmp_path / "files", tmp_path / "zoo.h5")
    assert zoo.metadata["label"].tolist() == ["cat", "dog", "ship"]
    state = restore(zoo[2])
    assert state.keys() == {name for name in rows[2] if name != "category_label"}
    assert all(state[name].numpy().tolist() == rows[2][name] for name in state)
    assert {block.kernel for block in zoo.topologies[0].blocks} == {zoo.topologies[0].blocks[0].kernel}
    assert len(zoo.topologies[0].blocks) == 4


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (adapter(1), "row 0 of .* has no 'category_label'"),
        ({"category_label": "cat"}, "has 0 matrices down and 0 up; expected one of each"),
        (adapter(1) | {f"{NAMES[0]}lora.up.weight": [[1.0], [2.0, 3.0]], "category_label": 1}, "has no rows of one length"),
        (
            adapter(1) | {f"{NAMES[0]}lora.up.weight": [[1.0], [2.0]], "category_label": 1},
            "down to 2 and up from 1; expected one rank",
        ),
    ],
)
def test_adapters_of_another_form_are_refused(tmp_path, row, text):
    parquet(tmp_path / "files/a.parquet", [row])
    with pytest.raises(ForeignZooError, match=text):
        import_zoo(PUBLISHED["lora-ws-1k"], tmp_path / "files", tmp_path / "zoo.h5")


def test_a_damaged_parquet_file_is_refused(tmp_path):
    parquet(tmp_path / "files/a.parquet", [adapter(1) | {"category_label": "cat"}])
    path = tmp_path / "files/a.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ForeignZooError, match="is no Parquet file, or damaged"):
        import_zoo(PUBLISHED["lora-ws-1k"], tmp_path / "files", tmp_path / "zoo.h5")


CONFIG = {
    "model_type": "vit", "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
    "image_size": 8, "patch_size": 4, "num_channels": 3, "layer_norm_eps": 1e-12,
}  # fmt: skip
VIT = Vit(12, 2, 3, 20, 8, 4, 3, 7, 1e-12)


def vit(folder, state, *, part="val", config=CONFIG, targets="[7, 3, 91]", index=4):
    home = folder / f"{part}/models--ProbeX--Model-J__SupViT__model_idx_{index:04d}/snapshots/abc"
    home.mkdir(parents=True)
    save_file(state, home / "model.safetensors", {"dataset_chosen_targets": targets, "learning_rate": "0.0003", "epochs": "4"})
    (home / "config.json").write_text(json.dumps(config))
    (home / "trainer_state.json").write_text('{"best_metric": 0.875, "log": [Infinity]}')
    return home


def test_a_vision_transformer_computes_what_transformers_computes(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(3)
    theirs = ViTForImageClassification(ViTConfig(**{k: v for k, v in CONFIG.items() if k != "model_type"}, num_labels=7)).eval()
    for values in theirs.parameters():
        nn.init.normal_(values, std=0.3)
    # What is saved has the names that files had in all versions, and a configuration of its own.
    theirs.save_pretrained(tmp_path / "saved")
    vit(tmp_path / "files", load_file(tmp_path / "saved/model.safetensors"))
    zoo = import_zoo(PUBLISHED["model-j-supvit"], tmp_path / "files", tmp_path / "zoo.h5")
    assert zoo.ids.tolist() == ["Model-J__SupViT__model_idx_0004"]
    assert zoo.parts("model-j").tolist() == [1]
    assert zoo.metadata["classes"].tolist() == ["3,7,91"]
    assert zoo.metadata["val_accuracy"].tolist() == [0.875]
    assert zoo.metadata["learning_rate"].tolist() == [0.0003]
    ours = VIT.module().eval()
    ours.load_state_dict(restore(zoo[0]))
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.allclose(ours(images), theirs(images).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"config": CONFIG | {"model_type": "bert"}}, "is a 'bert'; expected a 'vit' with a classifier"),
        ({"config": CONFIG | {"hidden_size": None}}, "'hidden_size' in the config of .* is None; expected a whole number"),
        ({"config": CONFIG | {"num_attention_heads": 5}}, "has sizes .* expected positive ones that fit"),
        ({"config": CONFIG | {"hidden_size": 15}}, "is not built as Vit"),
        ({"targets": "__import__('os')"}, r"names the classes \"__import__\('os'\)\"; expected a list"),
    ],
)
def test_transformers_of_another_form_are_refused(tmp_path, changed, text):
    vit(tmp_path / "files", VIT.module().state_dict(), **changed)
    with pytest.raises(ForeignZooError, match=text):
        import_zoo(PUBLISHED["model-j-supvit"], tmp_path / "files", tmp_path / "zoo.h5")


def test_what_a_trainer_recorded_is_told_from_other_lists(tmp_path):
    home = vit(tmp_path / "files", VIT.module().state_dict())
    for text, fault in (
        ("[1]", "holds a list; expected what a trainer recorded"),
        ('{"best_metric": "a"}', "is 'a'; expected a num"),
    ):
        (home / "trainer_state.json").write_text(text)
        with pytest.raises(ForeignZooError, match=f"trainer_state.json' {fault}"):
            import_zoo(PUBLISHED["model-j-supvit"], tmp_path / "files", tmp_path / "zoo.h5")


def test_a_damaged_or_foreign_transformer_is_refused(tmp_path):
    home = vit(tmp_path / "files", VIT.module().state_dict())
    with pytest.raises(ForeignZooError, match="stands in no folder of subset 'DINO'"):
        import_zoo(PUBLISHED["model-j-dino"], tmp_path / "files", tmp_path / "zoo.h5")
    (home / "model.safetensors").write_bytes((home / "model.safetensors").read_bytes()[:500])
    with pytest.raises(ForeignZooError, match="is no safetensors file, or damaged"):
        import_zoo(PUBLISHED["model-j-supvit"], tmp_path / "files", tmp_path / "zoo.h5")
