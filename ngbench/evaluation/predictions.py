"""Predictions as a file that anyone can write and the evaluator checks row by row."""

from __future__ import annotations

import json
import os
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ngbench.errors import PredictionsError

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Predictions:
    """What a method says of the test networks, and of their orbit-scrambled twins.

    Args:
        ids: Id of each network, ``[graphs]``.
        values: Prediction for each network, float64 ``[graphs]``.
        scrambled: Prediction for each network with its hidden neurons permuted, float64 ``[graphs]``.
        about: Where they come from: method, task, zoo, zoo_sha256, seed.
    """

    ids: tuple[str, ...]
    values: np.ndarray
    scrambled: np.ndarray
    about: dict[str, str | int]

    def save(self, path: Path) -> None:
        """Writes an ``.npz`` with arrays ``ids``, ``values``, ``scrambled`` and the JSON text ``about``, whole or not at all."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with temporary.open("wb") as file:
                np.savez_compressed(
                    file,
                    ids=np.array(self.ids, dtype=str),
                    values=self.values,
                    scrambled=self.scrambled,
                    about=np.array(json.dumps({"format_version": FORMAT_VERSION, **self.about})),
                )
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Reads what `save` wrote; nothing in the file is executed.

        Raises:
            PredictionsError: The file is missing, no ``.npz``, lacks an array, or has one of another type.
        """
        try:
            # numpy leaves a file open that it opened itself and could not read.
            with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
                missing = {"ids", "values", "scrambled", "about"} - set(arrays.files)
                if missing:
                    raise PredictionsError(
                        f"predictions file {path} lacks {', '.join(sorted(missing))}; "
                        "expected the arrays ids, values, scrambled and about"
                    )
                about = json.loads(str(arrays["about"]))
                ids, values, scrambled = arrays["ids"], arrays["values"], arrays["scrambled"]
        except FileNotFoundError as error:
            raise PredictionsError(f"no predictions file {path}; expected one that `ngbench run` wrote") from error
        except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
            raise PredictionsError(
                f"{path} cannot be read as predictions ({error}); expected an .npz without pickled objects"
            ) from error
        if not isinstance(about, dict) or about.pop("format_version", None) != FORMAT_VERSION:
            raise PredictionsError(
                f"predictions file {path} has no format version {FORMAT_VERSION}; expected one: upgrade ngbench or write it again"
            )
        if ids.dtype.kind != "U" or ids.ndim != 1:
            raise PredictionsError(f"ids in {path} are of type {ids.dtype} and shape {ids.shape}; expected a vector of text")
        return cls(tuple(ids.tolist()), values, scrambled, about)

    def aligned(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Values and scrambled values in the order of the given ids, float64 ``[graphs]`` each.

        Args:
            ids: Ids of the complete test split.

        Raises:
            PredictionsError: A row is missing, extra, there twice, or not finite; the text counts and names some.
        """
        counts = Counter(self.ids)
        problems = {
            "missing": [id for id in ids if id not in counts],
            "not in the test split": sorted(set(self.ids) - set(ids)),
            "there more than once": [id for id, count in counts.items() if count > 1],
        }
        for problem, names in problems.items():
            if names:
                raise PredictionsError(
                    f"{len(names)} {'row is' if len(names) == 1 else 'rows are'} {problem} ({_some(names)}); "
                    f"expected each of the {len(ids)} test networks once, got {len(self.ids)} rows"
                )
        position = {id: row for row, id in enumerate(self.ids)}
        order = np.array([position[id] for id in ids], dtype=np.int64)
        return self._column("values", self.values, order), self._column("scrambled", self.scrambled, order)

    def _column(self, name: str, column: np.ndarray, order: np.ndarray) -> np.ndarray:
        if column.shape != (len(self.ids),) or column.dtype.kind not in "fiu":
            raise PredictionsError(
                f"{name} of the predictions have type {column.dtype} and shape {column.shape}; "
                f"expected numbers of shape ({len(self.ids)},)"
            )
        bad = [id for id, value in zip(self.ids, column, strict=True) if not np.isfinite(value)]
        if bad:
            raise PredictionsError(
                f"{len(bad)} of the {name} are not finite ({_some(bad)}); expected finite numbers for all networks"
            )
        return column.astype(np.float64)[order]


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
