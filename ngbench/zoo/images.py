"""Labelled image corpora, split once into train, val and test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from ngbench.errors import ImagesError
from ngbench.registry import Registry

Corpus = Callable[[], tuple[np.ndarray, np.ndarray]]
corpora: Registry[Corpus] = Registry("image corpus")


class ImagesSpec(BaseModel):
    """Which images a zoo is trained on and how they are split.

    Args:
        corpus: A registered corpus.
        split_seed: Seed of the split.
        num_train: Training images.
        num_val: Validation images.
        num_test: Test images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    corpus: str
    split_seed: NonNegativeInt
    num_train: PositiveInt
    num_val: PositiveInt
    num_test: PositiveInt


@dataclass(frozen=True)
class ImageSplits:
    """Images float32 ``[images, channels, height, width]`` in [0, 1] and labels int64 ``[images]`` of each split."""

    train_images: np.ndarray
    train_labels: np.ndarray
    val_images: np.ndarray
    val_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_images(spec: ImagesSpec) -> ImageSplits:
    """Reads a corpus and splits it by class, so that every split has the classes in the same proportions.

    Raises:
        UnknownNameError: The corpus is not registered.
        ImagesError: The corpus has fewer images than the splits ask for.
    """
    images, labels = corpora[spec.corpus]()
    sizes = (spec.num_train, spec.num_val, spec.num_test)
    if sum(sizes) > len(images):
        raise ImagesError(
            f"corpus {spec.corpus!r} has {len(images)} images, but the splits ask for "
            f"{' + '.join(map(str, sizes))} = {sum(sizes)}; ask for fewer"
        )
    order = _interleaved(labels, seed=spec.split_seed)
    splits = np.split(order[: sum(sizes)], np.cumsum(sizes)[:-1])
    return ImageSplits(*(array[split] for split in splits for array in (images, labels)))


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


corpora.register("digits", _digits)
