"""Labelled images that people name: a corpus that ngbench knows, or a folder that the library `datasets` reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ngbench.alignment import LabelledImages
from ngbench.errors import ImagesError
from ngbench.zoo.hub_images import image_and_label, read_dataset
from ngbench.zoo.images import ImagesSpec, corpora, load_images

MOST_IMAGES = 2048
"""Images of a part that are read."""

_SPLIT_SEED = 0


@dataclass
class OwnImages:
    """Images with labels, in two parts: ``"train"``, from which statistics come, and ``"test"``, on which networks are scored.

    Of a corpus and of a dataset with one split, halves with the classes in the same proportions.

    Args:
        name: A corpus, such as ``"digits"``, or a local folder.
        mean: Taken from pixels, which lie from 0 to 1, before the networks see them: one number, or one for each channel.
        std: What pixels are then divided by, likewise.
    """

    name: str
    mean: Sequence[float] = field(default=())
    std: Sequence[float] = field(default=())

    def part(self, name: str) -> LabelledImages:
        """One part: images float32 ``[images, channels, height, width]``, labels int64 ``[images]``.

        Raises:
            ImagesError: There are no such images, or they have no labels.
        """
        images, labels = self._parts["test" if name == "test" else "train"]
        return LabelledImages(self._standardised(torch.from_numpy(images)), torch.from_numpy(labels))

    def _standardised(self, images: Tensor) -> Tensor:
        for what, numbers, usual in (("mean", self.mean, 0.0), ("std", self.std, 1.0)):
            given = torch.tensor(list(numbers) or [usual], dtype=torch.float32)
            if len(given) not in (1, images.shape[1]) or not given.isfinite().all() or (what == "std" and (given <= 0).any()):
                raise ImagesError(
                    f"{what} is {', '.join(map(str, numbers))} for images of {images.shape[1]} channels; "
                    f"expected one finite number, or one for each{', above 0' if what == 'std' else ''}"
                )
            images = images - given[:, None, None] if what == "mean" else images / given[:, None, None]
        return images

    @cached_property
    def _parts(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        if self.name in corpora:
            half = min(MOST_IMAGES, corpora[self.name].num_images // 2)
            num_test = min(half, corpora[self.name].num_images - half - 1)
            splits = load_images(
                ImagesSpec(corpus=self.name, split_seed=_SPLIT_SEED, num_train=half, num_val=1, num_test=num_test)
            )
            return {"train": (splits.train_images, splits.train_labels), "test": (splits.test_images, splits.test_labels)}
        return _of_folder(Path(self.name))


def _of_folder(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    if not folder.is_dir():
        raise ImagesError(f"no images {str(folder)!r}; expected one of {', '.join(corpora)}, or a folder of a dataset")
    splits = read_dataset(str(folder))
    if len(splits) == 1:
        halves = next(iter(splits.values())).train_test_split(test_size=0.5, seed=_SPLIT_SEED)
        return {part: _arrays(folder, halves[part]) for part in ("train", "test")}
    if "train" not in splits or not {"test", "validation"} & set(splits):
        raise ImagesError(f"dataset {folder} has splits {', '.join(splits)}; expected train and test, or one")
    return {
        "train": _arrays(folder, splits["train"]),
        "test": _arrays(folder, splits["test" if "test" in splits else "validation"]),
    }


def _arrays(folder: Path, rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 ``[images, channels, height, width]`` from 0 to 1 and labels int64, of `MOST_IMAGES` at most."""
    image, label = image_and_label(str(folder), rows)
    # in an order of their own, since folders hold their images class by class
    some = rows.select(np.random.default_rng(_SPLIT_SEED).permutation(len(rows))[:MOST_IMAGES])
    if any(own is None or own < 0 for own in some[label]):
        raise ImagesError(f"dataset {folder} has images without a class in a part that is read; expected one for each")
    pixels = [np.asarray(picture, dtype=np.float32) / 255 for picture in some[image]]
    shapes = sorted({picture.shape for picture in pixels})
    if len(shapes) != 1:
        raise ImagesError(f"dataset {folder} has images of shapes {', '.join(map(str, shapes[:3]))}; expected one shape")
    images = np.stack(pixels)
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images), np.asarray(some[label], dtype=np.int64)
