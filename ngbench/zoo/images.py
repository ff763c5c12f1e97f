"""Labelled image corpora, split once into train, val and test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from ngbench.errors import ImagesError
from ngbench.registry import Registry
from ngbench.zoo.hub_images import HubImages, load_hub_images, place_of


@dataclass(frozen=True)
class Corpus:
    """Labelled images.

    Args:
        load: Gives images float32 ``[images, channels, height, width]`` in [0, 1] and labels int64 ``[images]`` from 0.
        num_classes: Different labels.
        num_images: How many there are.
    """

    load: Callable[[], tuple[np.ndarray, np.ndarray]]
    num_classes: int
    num_images: int


corpora: Registry[Corpus] = Registry("image corpus")
_NUM_DIGITS = 1797


class ImagesSpec(BaseModel):
    """Which images a zoo is trained on and how they are split.

    Args:
        corpus: A registered corpus, or several: each run is trained on one that has as many classes as its architecture. With a
            source, the name that its images go by.
        source: The dataset that the images come from, its train split for training and validation, its test split for the test;
            None for registered corpora, which are split at random.
        split_seed: Seed of the split.
        num_train: Training images.
        num_val: Validation images.
        num_test: Test images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: str | Annotated[tuple[str, ...], Field(min_length=1)]
    split_seed: NonNegativeInt
    num_train: PositiveInt
    num_val: PositiveInt
    num_test: PositiveInt
    source: HubImages | None = None

    @model_validator(mode="after")
    def _one_name_for_a_source(self) -> ImagesSpec:
        if self.source is not None and (not isinstance(self.corpus, str) or self.corpus in corpora):
            raise ValueError(f"corpus: expected one name of its own for the images of {self.source.hub}, got {self.corpus!r}")
        return self

    @model_serializer(mode="wrap")
    def _as_first_released(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # files hold their recipes as text, the first ones from before there were sources
        content = handler(self)
        return content if self.source is not None else {key: value for key, value in content.items() if key != "source"}

    @property
    def corpora(self) -> tuple[str, ...]:
        """The corpora, one or several."""
        return (self.corpus,) if isinstance(self.corpus, str) else self.corpus


@dataclass(frozen=True)
class ImageSplits:
    """Images float32 ``[images, channels, height, width]`` and labels int64 ``[images]`` of each split.

    Pixels of registered corpora lie in [0, 1], those of others where the source says.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    val_images: np.ndarray
    val_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_images(spec: ImagesSpec, corpus: str | None = None) -> ImageSplits:
    """Reads a corpus and splits it by class, so that every split has the classes in the same proportions.

    Args:
        spec: The corpora and the sizes of the splits.
        corpus: Which of the corpora; None for the first.

    Raises:
        UnknownNameError: The corpus is not registered.
        ImagesError: The corpus has fewer images than the splits ask for, or its source cannot be read.
    """
    if spec.source is not None:
        return _load_source(spec, spec.source)
    corpus = corpus or spec.corpora[0]
    images, labels = corpora[corpus].load()
    sizes = (spec.num_train, spec.num_val, spec.num_test)
    if sum(sizes) > len(images):
        raise ImagesError(
            f"corpus {corpus!r} has {len(images)} images, but the splits ask for "
            f"{' + '.join(map(str, sizes))} = {sum(sizes)}; ask for fewer"
        )
    order = _interleaved(labels, seed=spec.split_seed)
    splits = np.split(order[: sum(sizes)], np.cumsum(sizes)[:-1])
    return ImageSplits(*(array[split] for split in splits for array in (images, labels)))


def _load_source(spec: ImagesSpec, source: HubImages) -> ImageSplits:
    (train_images, train_labels), (test_images, test_labels) = (load_hub_images(source)[part] for part in ("train", "test"))
    asked = {"train": spec.num_train + spec.num_val, "test": spec.num_test}
    for part, labels in (("train", train_labels), ("test", test_labels)):
        if asked[part] > len(labels):
            raise ImagesError(
                f"dataset {source.hub!r} has {len(labels)} images in split {part}, but {asked[part]} are asked for; ask for fewer"
            )
    order = _interleaved(train_labels, seed=spec.split_seed)
    train, val = order[: spec.num_train], order[spec.num_train : asked["train"]]
    test = _interleaved(test_labels, seed=spec.split_seed)[: spec.num_test]
    parts = ((train_images, train_labels, train), (train_images, train_labels, val), (test_images, test_labels, test))
    return ImageSplits(*(array[rows] for images, labels, rows in parts for array in (images, labels)))


def load_corpus(corpus: str | HubImages) -> tuple[np.ndarray, np.ndarray]:
    """All images of a corpus, float32 ``[images, channels, height, width]``, and their labels, int64; not to change.

    Args:
        corpus: A registered corpus, whose pixels lie in [0, 1]; or a dataset, whose train split comes before its test split.

    Raises:
        UnknownNameError: The corpus is not registered.
        ImagesError: The dataset cannot be read.
    """
    return _load_corpus(corpus, place_of(corpus.hub) if isinstance(corpus, HubImages) else None)


@lru_cache(maxsize=8)
def _load_corpus(corpus: str | HubImages, _place: str | None) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(corpus, HubImages):
        loaded = load_hub_images(corpus)
        images, labels = (np.concatenate(arrays) for arrays in zip(loaded["train"], loaded["test"], strict=True))
    else:
        images, labels = corpora[corpus].load()
    for array in (images, labels):
        array.setflags(write=False)
    return images, labels


def pixel_grid(height: int, width: int) -> np.ndarray:
    """Coordinates of the pixels, row by row, float32 ``[height * width, 2]``: the first and last of an axis are at -1 and 1."""
    axes = (np.linspace(-1, 1, size, dtype=np.float32) for size in (height, width))
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def _interleaved(labels: np.ndarray, *, seed: int) -> np.ndarray:
    """A random order of the images in which every stretch holds the classes in nearly the same proportions."""
    order = np.random.default_rng(seed).permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels[order] == label)
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return order[np.argsort(place, kind="stable")]


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 handwritten digits of 8 by 8 pixels that scikit-learn ships (test part of Alpaydin and Kaynak, UCI 1998)."""
    from sklearn.datasets import load_digits

    pixels, labels = (np.asarray(array) for array in load_digits(return_X_y=True))
    return (pixels.reshape(-1, 1, 8, 8) / 16).astype(np.float32), labels.astype(np.int64)


def _inverted() -> tuple[np.ndarray, np.ndarray]:
    """The digits as ink on white paper instead of light on black."""
    images, labels = _digits()
    return 1 - images, labels


def _rotated() -> tuple[np.ndarray, np.ndarray]:
    """The digits turned by 90 degrees, counter-clockwise."""
    images, labels = _digits()
    return np.ascontiguousarray(np.rot90(images, axes=(2, 3))), labels


def _parity() -> tuple[np.ndarray, np.ndarray]:
    """The digits, even (0) or odd (1)."""
    images, labels = _digits()
    return images, labels % 2


def _range() -> tuple[np.ndarray, np.ndarray]:
    """The digits, 0 to 4 (0) or 5 to 9 (1)."""
    images, labels = _digits()
    return images, labels // 5


corpora.register("digits", Corpus(_digits, 10, _NUM_DIGITS))
corpora.register("digits-inverted", Corpus(_inverted, 10, _NUM_DIGITS))
corpora.register("digits-rotated", Corpus(_rotated, 10, _NUM_DIGITS))
corpora.register("digits-parity", Corpus(_parity, 2, _NUM_DIGITS))
corpora.register("digits-range", Corpus(_range, 2, _NUM_DIGITS))
