"""Finished parts of a generation on the disk, so that it can stop at any moment and go on."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ngbench.errors import RecipeError, StoreFormatError
from ngbench.store.atomic_file import atomic_file, disk_errors
from ngbench.zoo.recipe import ClassifierRecipe, InrRecipe
from ngbench.zoo.trained import TrainedNetworks

_PARAMETER, _METADATA, _FUNCTIONAL = "parameter/", "metadata/", "functional/"
# What a recipe says about its networks; it may be reworded between two parts.
_TEXTS = {"title", "description", "licence", "citation"}


@dataclass(frozen=True)
class Shards:
    """The parts of one generation, each the trained networks of runs of one architecture.

    Args:
        folder: Where they stand.
        recipe: What is generated.
        shard_size: Most runs of a part.
    """

    folder: Path
    recipe: ClassifierRecipe | InrRecipe
    shard_size: int

    @property
    def runs(self) -> list[range]:
        """The run indices of each part, one architecture after the other."""
        step = self.recipe.num_architectures
        alike = (range(first, self.recipe.num_runs, step) for first in range(step))
        return [runs[start : start + self.shard_size] for runs in alike for start in range(0, len(runs), self.shard_size)]

    @property
    def _identity(self) -> str:
        """Names the recipe and how it is cut, so that parts of two generations never mix."""
        return hashlib.sha256(f"{self.recipe.model_dump_json(exclude=_TEXTS)}/{self.shard_size}".encode()).hexdigest()

    def _path(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}.npz"

    def open(self) -> None:
        """Makes the folder, or checks the parts that stand in it.

        Raises:
            RecipeError: A part is of another recipe, or has another number of runs.
            StoreFormatError: A part cannot be read.
            StoreWriteError: The folder cannot be made.
        """
        with disk_errors(self.folder):
            self.folder.mkdir(exist_ok=True)
        for path in sorted(self.folder.glob("shard-*.npz")):
            with _reading(path) as content:
                identity = str(content["identity"])
            if identity != self._identity:
                raise RecipeError(
                    f"{str(path)!r} is of another generation (identity {identity[:12]}; expected {self._identity[:12]}, "
                    f"recipe {self.recipe.name!r} with {self.recipe.num_runs} runs, {self.shard_size} a part); "
                    f"go on with the recipe that was begun there, choose another output, or delete {str(self.folder)!r}"
                )

    def finished(self, shard: int) -> bool:
        """Whether a part stands on the disk."""
        return self._path(shard).exists()

    def save(self, shard: int, trained: TrainedNetworks) -> None:
        """Writes a part; it stands whole or not at all.

        Raises:
            StoreWriteError: The part cannot be written, for example because the disk is full.
        """
        arrays: dict[str, Any] = {"identity": np.array(self._identity), "diverged": np.array(trained.diverged, dtype=np.str_)}
        arrays |= {_PARAMETER + path: values for path, values in trained.parameters.items()}
        arrays |= {_METADATA + name: values for name, values in trained.metadata.items()}
        arrays |= {_FUNCTIONAL + name: values for name, values in trained.functional.items()}
        with atomic_file(self._path(shard)) as file:
            np.savez(file, **arrays)

    def load(self, shard: int) -> TrainedNetworks:
        """Reads a finished part.

        Raises:
            StoreFormatError: The part cannot be read.
        """
        with _reading(self._path(shard)) as content:
            parameters, metadata, functional = (
                {name.removeprefix(prefix): content[name] for name in content.files if name.startswith(prefix)}
                for prefix in (_PARAMETER, _METADATA, _FUNCTIONAL)
            )
            diverged = tuple((run_id, reason) for run_id, reason in content["diverged"].reshape(-1, 2).tolist())
        return TrainedNetworks(self.recipe.architecture_of(self.runs[shard][0]), parameters, metadata, diverged, functional)

    def remove(self) -> None:
        """Deletes the folder and all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            yield content
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise StoreFormatError(f"part {str(path)!r} cannot be read ({error}); delete it to train its runs again") from error
