"""Images of datasets that the library `datasets` reads, by id on the Hugging Face hub or from a local folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from ngbench.errors import ImagesError

FOLDER_VARIABLE = "NGBENCH_IMAGES"
"""Environment variable with a local folder that datasets are read from in place of the hub."""

_IMAGES_A_BATCH = 1000


class HubImages(BaseModel, frozen=True):
    """Which dataset images come from, and what is done to each.

    An image is resized (bilinear, antialiased) where it has another size, made grey where that is asked for, and its pixels,
    which lie from 0 to 1, become ``(pixel - mean) / std``.

    Args:
        hub: Id on the Hugging Face hub, ``owner/name``, of a dataset with an image and a class label in each row, and with splits
            train and test.
        size: Height and width.
        color: ``"grey"``: the mean over the channels; or ``"rgb"``.
        mean: Taken from the pixels: one number, or one for each channel.
        std: What they are then divided by, likewise.
    """

    model_config = ConfigDict(extra="forbid")

    hub: Annotated[str, Field(pattern=r"^\w[\w.-]*/\w[\w.-]*$")]
    size: tuple[PositiveInt, PositiveInt]
    color: Literal["grey", "rgb"]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[PositiveFloat, ...] = (1.0,)

    @property
    def num_channels(self) -> int:
        """Channels of an image."""
        return 1 if self.color == "grey" else 3

    @model_validator(mode="after")
    def _one_number_a_channel(self) -> HubImages:
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (1, self.num_channels):
                raise ValueError(f"{name}: expected 1 number or one for each of {self.num_channels} channels, got {len(numbers)}")
        return self


def load_hub_images(source: HubImages) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images float32 ``[images, channels, height, width]`` and labels int64 of ``"train"`` and ``"test"``; not to change.

    They are read from the folder in the environment variable `NGBENCH_IMAGES` where it is set: the folder of the dataset itself,
    or one that holds it under the name that it has on the hub. The hub is asked otherwise.

    Raises:
        ImagesError: The dataset cannot be read, or lacks a split, an image or a class label.
    """
    return _load(source, place_of(source.hub))


@lru_cache(maxsize=2)
def _load(source: HubImages, place: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    splits = read_dataset(place)
    if not {"train", "test"} <= set(splits):
        raise ImagesError(f"dataset {place!r} has splits {', '.join(splits)}; expected train and test")
    loaded = {part: _arrays(source, place, splits[part]) for part in ("train", "test")}
    for arrays in loaded.values():
        for array in arrays:
            array.setflags(write=False)
    return loaded


def place_of(hub: str) -> str:
    """The local folder that stands for a dataset of the hub, or its id.

    Raises:
        ImagesError: The folder does not exist.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return hub
    if not Path(folder).is_dir():
        raise ImagesError(f"images of {hub!r}: there is no folder {folder!r}; expected one of the dataset or of several datasets")
    return str(folder_of(hub) or folder)


def folder_of(hub: str) -> Path | None:
    """The local folder that is called so, which is `NGBENCH_IMAGES` or stands in it; None where there is none."""
    folder, name = Path(os.environ.get(FOLDER_VARIABLE, "")).absolute(), hub.partition("/")[2]
    if not os.environ.get(FOLDER_VARIABLE):
        return None
    candidates = (folder / hub, folder / name, *([folder] if folder.name == name else []))
    return next((path for path in candidates if path.is_dir()), None)


def read_dataset(place: str) -> dict[str, Any]:
    """The splits of a dataset by name.

    Args:
        place: A local folder, in any layout that `datasets` reads, or an id on the hub.

    Raises:
        ImagesError: It is not read as a dataset.
    """
    import datasets
    from datasets.exceptions import DatasetsError

    saved = any(Path(place, name).exists() for name in ("dataset_dict.json", "state.json"))
    was_quiet = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        found: Any = datasets.load_from_disk(place) if saved else datasets.load_dataset(place)
    except (DatasetsError, OSError, ValueError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        what = "folder" if Path(place).is_dir() else "hub id"
        raise ImagesError(f"{what} {place} is not read as a dataset ({reason}); expected one that `datasets` loads") from error
    finally:
        if not was_quiet:
            datasets.enable_progress_bars()
    return dict(found) if isinstance(found, dict) else {"all": found}


def image_and_label(place: str, rows: Any) -> tuple[str, str]:
    """Names of the first column of images and the first of class labels.

    Raises:
        ImagesError: There is no such column.
    """
    import datasets

    image = next((name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)), None)
    label = next((name for name, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)), None)
    if image is None or label is None:
        columns = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in rows.features.items())
        raise ImagesError(f"dataset {place} has columns {columns}; expected one of images and one of class labels")
    return image, label


def _arrays(source: HubImages, place: str, rows: Any) -> tuple[np.ndarray, np.ndarray]:
    image, label = image_and_label(place, rows)
    pixels = np.empty((len(rows), source.num_channels, *source.size), dtype=np.float32)
    for first in range(0, len(rows), _IMAGES_A_BATCH):
        batch = rows[first : first + _IMAGES_A_BATCH][image]
        pixels[first : first + len(batch)] = np.stack(list(_pixels(source, batch)))
    pixels -= np.array(source.mean, dtype=np.float32)[:, None, None]
    pixels /= np.array(source.std, dtype=np.float32)[:, None, None]
    return pixels, np.asarray(rows[label], dtype=np.int64)


def _pixels(source: HubImages, pictures: list[Any]) -> Iterator[np.ndarray]:
    """Each picture as float32 ``[channels, height, width]`` from 0 to 1."""
    from PIL.Image import Resampling

    height, width = source.size
    for picture in pictures:
        # a palette, transparency or 16 bits are no colours; grey pictures stay grey
        shown = picture if picture.mode in ("L", "RGB") else picture.convert("RGB")
        if shown.size != (width, height):
            shown = shown.resize((width, height), Resampling.BILINEAR)
        array = np.asarray(shown, dtype=np.float32) / 255
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        yield array.mean(axis=0, keepdims=True) if source.color == "grey" else np.broadcast_to(array, (3, height, width))
