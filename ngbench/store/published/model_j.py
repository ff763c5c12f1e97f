"""Model-J (Horwitz et al. 2025, arXiv:2410.13569): vision transformers, each fine-tuned on half of the classes of CIFAR-100.

Layout: ``<part>/models--ProbeX--<name>/snapshots/<revision>/`` with ``model.safetensors``, whose header names the classes, and
``config.json``; ``trainer_state.json`` has the best validation accuracy. The part is train, val or test.
"""

from __future__ import annotations

import ast
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ngbench.errors import ForeignZooError
from ngbench.store.published.record import HubModels, Part, PublishedNetwork, PublishedZoo
from ngbench.store.published.restricted import find_all, number, read_json, whole
from ngbench.zoo.columns import Column

REFERENCE = "model-j"
_PARTS: tuple[Part, ...] = ("train", "val", "test")
_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "image_size",
    "patch_size",
    "num_channels",
)
_COLUMNS = (
    Column("classes", "identity", "str", "classes of CIFAR-100 that it was fine-tuned on, rising, joined by commas"),
    Column("learning_rate", "hyperparameter", "float", "learning rate; NaN where not given"),
    Column("epochs", "hyperparameter", "float", "passes over the training images; NaN where not given"),
    Column("val_accuracy", "measurement", "float", "best fraction right on validation images, as published; NaN where not given"),
)


@dataclass(frozen=True)
class Vit:
    """A vision transformer with a class token, under the state-dict paths of transformers.

    Args:
        width: Channels of a token.
        depth: Blocks.
        num_heads: Heads of attention.
        hidden: Units of each MLP.
        image_size: Height and width of an image.
        patch_size: Height and width of a patch.
        num_channels: Of an image.
        num_classes: Outputs of the head.
        epsilon: Added to variances in the norms.
    """

    width: int
    depth: int
    num_heads: int
    hidden: int
    image_size: int
    patch_size: int
    num_channels: int
    num_classes: int
    epsilon: float

    def module(self) -> nn.Module:
        """See `ngbench.store.published.Architecture`."""
        return _Classifier(self)

    def example_input(self) -> tuple[Tensor, ...]:
        """See `ngbench.store.published.Architecture`."""
        return (torch.zeros(1, self.num_channels, self.image_size, self.image_size),)


class _Classifier(nn.Module):
    def __init__(self, a: Vit) -> None:
        super().__init__()
        self.vit = nn.ModuleDict(
            {
                "embeddings": _Embeddings(a),
                "encoder": nn.ModuleDict({"layer": nn.Sequential(*(_Block(a) for _ in range(a.depth)))}),
                "layernorm": nn.LayerNorm(a.width, eps=a.epsilon),
            }
        )
        self.classifier = nn.Linear(a.width, a.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """``[images, channels, height, width]`` to ``[images, classes]``."""
        tokens = self.vit["encoder"].get_submodule("layer")(self.vit["embeddings"](images))
        return self.classifier(self.vit["layernorm"](tokens[:, 0]))


class _Embeddings(nn.Module):
    def __init__(self, a: Vit) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, a.width))
        self.position_embeddings = nn.Parameter(torch.zeros(1, (a.image_size // a.patch_size) ** 2 + 1, a.width))
        self.patch_embeddings = nn.ModuleDict(
            {"projection": nn.Conv2d(a.num_channels, a.width, a.patch_size, stride=a.patch_size)}
        )

    def forward(self, images: Tensor) -> Tensor:
        """``[images, channels, height, width]`` to ``[images, tokens, width]``."""
        tokens = self.patch_embeddings["projection"](images).flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.position_embeddings


class _Block(nn.Module):
    def __init__(self, a: Vit) -> None:
        super().__init__()
        self.num_heads = a.num_heads
        maps = nn.ModuleDict({name: nn.Linear(a.width, a.width) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"attention": maps, "output": nn.ModuleDict({"dense": nn.Linear(a.width, a.width)})})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(a.width, a.hidden)})
        self.output = nn.ModuleDict({"dense": nn.Linear(a.hidden, a.width)})
        self.layernorm_before = nn.LayerNorm(a.width, eps=a.epsilon)
        self.layernorm_after = nn.LayerNorm(a.width, eps=a.epsilon)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[images, tokens, width]`` to the same."""
        normed = self.layernorm_before(tokens)
        # [images, tokens, width], each of three, to [images, heads, tokens, width of a head]
        query, key, value = (
            self.attention.get_submodule(f"attention.{name}")(normed).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        mixed = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + self.attention.get_submodule("output.dense")(mixed)
        hidden = nn.functional.gelu(self.intermediate["dense"](self.layernorm_after(tokens)))
        return tokens + self.output["dense"](hidden)


def read(folder: Path, *, subset: str) -> Iterator[PublishedNetwork]:
    """The networks in the order of their paths, one in memory at a time.

    Args:
        folder: Where the parts are.
        subset: Name that the folder of a network must hold, for example ``"SupViT"``.

    Raises:
        ForeignZooError: A file is damaged, or the network is no such transformer.
    """
    for path in find_all(folder, "**/model.safetensors"):
        parts = path.relative_to(folder).parts
        name = next((part.removeprefix("models--ProbeX--") for part in parts if f"__{subset}__" in part), None)
        if name is None:
            raise ForeignZooError(
                f"{str(path)!r} stands in no folder of subset {subset!r}; expected Model-J__{subset}__model_idx_..."
            )
        header, parameters = _tensors(path)
        architecture = _architecture(read_json(path.with_name("config.json")), parameters, path)
        part: Part | None = next((part for part in _PARTS if part in parts), None)
        yield PublishedNetwork(
            name, name, architecture, parameters, _metadata(header, path), {REFERENCE: part} if part is not None else {}
        )


def _tensors(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, struct.error, ValueError, TypeError, KeyError) as error:
        raise ForeignZooError(f"{str(path)!r} is no safetensors file, or damaged ({error}); fetch it again") from error


def _metadata(header: Mapping[str, str], path: Path) -> dict[str, Any]:
    text = header.get("dataset_chosen_targets", "[]")
    try:
        classes = ast.literal_eval(text[:10_000])
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        classes = None
    if not isinstance(classes, list) or not all(isinstance(entry, int | str) for entry in classes):
        raise ForeignZooError(f"{str(path)!r} names the classes {text[:80]!r}; expected a list")
    state = path.with_name("trainer_state.json")
    trained = read_json(state) if state.is_file() else {}
    if not isinstance(trained, dict):
        raise ForeignZooError(f"{str(state)!r} holds a {type(trained).__name__}; expected what a trainer recorded")
    return {
        "classes": ",".join(str(entry) for entry in sorted(classes, key=lambda entry: (isinstance(entry, str), entry))),
        "learning_rate": number(header.get("learning_rate"), where=f"'learning_rate' in {str(path)!r}"),
        "epochs": number(header.get("epochs"), where=f"'epochs' in {str(path)!r}"),
        "val_accuracy": number(trained.get("best_metric"), where=f"'best_metric' in {str(state)!r}"),
    }


def _architecture(config: Any, parameters: Mapping[str, np.ndarray], path: Path) -> Vit:
    if not isinstance(config, dict) or config.get("model_type") != "vit" or "classifier.bias" not in parameters:
        kind = config.get("model_type") if isinstance(config, dict) else config
        raise ForeignZooError(f"{str(path)!r} is a {kind!r}; expected a 'vit' with a classifier")
    sizes = [whole(config.get(name), where=f"{name!r} in the config of {str(path)!r}") for name in _SIZES]
    if not all(0 < size <= 2**16 for size in sizes) or sizes[0] % sizes[2]:
        raise ForeignZooError(
            f"the config of {str(path)!r} has sizes {sizes} for {', '.join(_SIZES)}; expected positive ones that fit"
        )
    epsilon = number(config.get("layer_norm_eps", 1e-12), where=f"'layer_norm_eps' in the config of {str(path)!r}")
    return Vit(*sizes, num_classes=parameters["classifier.bias"].size, epsilon=epsilon)


def _zoo(subset: str, title: str) -> PublishedZoo:
    return PublishedZoo(
        f"model-j-{subset.lower()}",
        f"Model-J: about 1,000 {title}, each fine-tuned on 50 classes of CIFAR-100",
        "not stated where it was looked up: see the dataset page",
        "Horwitz et al. 2025, Learning on Model Weights using Tree Experts, arXiv:2410.13569",
        "https://huggingface.co/datasets/ProbeX/Model-J",
        _COLUMNS,
        partial(read, subset=subset),
        hub_models=HubModels(
            "ProbeX/Model-J",
            subset,
            "hf_model_id",
            f"ProbeX/Model-J__{subset}__",
            ("config.json", "model.safetensors"),
            ("trainer_state.json",),
        ),
        references=(REFERENCE,),
    )


SUPVIT = _zoo("SupViT", "supervised ViT-B/16")
DINO = _zoo("DINO", "DINO ViT-B/16")
MAE = _zoo("MAE", "MAE ViT-B/16")
