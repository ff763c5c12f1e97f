"""What a published zoo is, and what its reader gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from ngbench.zoo.columns import Column

Part = Literal["train", "val", "test"]


class Architecture(Protocol):
    """How networks are built; equal ones have one topology, so it must be hashable."""

    def module(self) -> nn.Module:
        """A network with the state-dict paths of the zoo, computing what the zoo's own code computes."""
        ...

    def example_input(self) -> tuple[Tensor, ...]:
        """One input for each argument of its forward pass."""
        ...


@dataclass(frozen=True)
class PublishedNetwork:
    """One network of a published zoo.

    Args:
        id: Unique in the zoo, and the same on every machine.
        run_id: The training run, or what else must not be cut in two by a split.
        architecture: How it is built.
        parameters: Arrays by state-dict path.
        metadata: One value for each column of the zoo.
        parts: Its part in each reference split that it stands in.
    """

    id: str
    run_id: str
    architecture: Architecture
    parameters: Mapping[str, np.ndarray]
    metadata: Mapping[str, Any]
    parts: Mapping[str, Part] = field(default_factory=dict)


@dataclass(frozen=True)
class RemoteFile:
    """A file that a zoo is downloaded as.

    Args:
        name: What it is called here.
        url: Where it is.
        sha256: Hexadecimal, where it is known; else it is recorded at the first download.
    """

    name: str
    url: str
    sha256: str | None = None


@dataclass(frozen=True)
class HubModels:
    """Networks that are repositories of models on the Hugging Face hub, one each, which tables of a dataset there name.

    Args:
        dataset: Owner and name of the dataset.
        subset: Folder in it whose Parquet files, one or more for each part, name the networks.
        column: Where these have owner and name of each repository.
        prefix: What the names of all repositories begin with.
        files: What the reader needs of each repository.
        optional: What it takes where it is there.
    """

    dataset: str
    subset: str
    column: str
    prefix: str
    files: tuple[str, ...]
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """How what is recorded of networks was measured, so that it can be measured again.

    Args:
        hub: Id on the Hugging Face hub of the images, whose test split it was.
        mean: Taken from the pixels, which lie from 0 to 1: one number, or one for each channel.
        std: What they are then divided by, likewise.
        column: Where it is recorded.
        measure: The fraction right, or the mean cross-entropy in nats.
        image_shape: Channels, height and width, where the networks take the pixels of an image in one row; None where their input
            says it. With one channel, images are grey.
    """

    hub: str
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    _: KW_ONLY
    column: str = "test_accuracy"
    measure: Literal["accuracy", "loss"] = "accuracy"
    image_shape: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class PublishedZoo:
    """A zoo of the literature.

    Args:
        name: Its name here; with a run's id it decides the run's part in the split `default`.
        title: One line for people.
        licence: SPDX name of the licence of its networks, or what is known of it.
        citation: What to cite.
        home: Where its authors offer it.
        columns: The metadata columns of its networks.
        read: Gives the networks of the unpacked folder, in an order that does not depend on the machine.
        files: What to download; empty where it takes a browser.
        hub_dataset: Owner and name of a dataset on the Hugging Face hub whose Parquet files are the zoo.
        hub_models: The repositories that are its networks, where it is too large to be downloaded as a whole.
        references: Names of the reference splits that the files may hold.
        evaluation: How its networks were tested; None where that is not known, or was not on images.
        version: Of the conversion: the same files and version give the same zoo file.
    """

    name: str
    title: str
    licence: str
    citation: str
    home: str
    columns: tuple[Column, ...]
    read: Callable[[Path], Iterator[PublishedNetwork]]
    _: KW_ONLY
    files: tuple[RemoteFile, ...] = ()
    hub_dataset: str = ""
    hub_models: HubModels | None = None
    references: tuple[str, ...] = ()
    evaluation: Evaluation | None = None
    version: str = "1"

    @property
    def is_downloadable(self) -> bool:
        """Whether it can be downloaded without a browser."""
        return bool(self.files or self.hub_dataset or self.hub_models)
