"""Predictions as a file that anyone can write and the evaluator checks row by row."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ngbench.errors import PredictionsError

FORMAT_VERSION = 2


@dataclass(frozen=True)
class Predictions:
    """What a method says of the test networks, and of orbit-scrambled copies of them.

    A row is what the task asks about: a network, or for merging two networks whose neurons are matched.

    Args:
        ids: Name of each row, ``[rows]``.
        values: What is said of each: ``[rows]`` numbers, ``[rows, classes]`` probabilities, ``[rows, features]`` embeddings or
            ``[rows, nodes]`` matchings, with plans of unequal widths as of `ngbench.alignment.couplings`.
        scrambled: The same with hidden neurons permuted, once for each copy, ``[copies, rows, ...]``.
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
                self.write(file)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def write(self, file: BinaryIO) -> None:
        """Writes what `save` writes into an open file."""
        about = np.array(json.dumps({"format_version": FORMAT_VERSION, **self.about}))
        np.savez_compressed(file, ids=np.array(self.ids, dtype=str), values=self.values, scrambled=self.scrambled, about=about)

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
        except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
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
        """Values ``[rows, ...]`` and scrambled values ``[copies, rows, ...]`` in the order of the given ids.

        Args:
            ids: Names of all rows that the task asks about.

        Raises:
            PredictionsError: A row is missing, extra, there twice, or not finite; the text counts and names some.
        """
        self._refuse(self.faults(ids))
        order = self._order(ids)
        return self.values[order], self.scrambled[:, order]

    def faults(self, ids: Sequence[str]) -> Iterator[str]:
        """Everything for which `aligned` refuses them, a sentence each.

        Args:
            ids: Names of all rows that the task asks about.
        """
        yield from self._faults_of_values(ids)
        if self.scrambled.shape[1:] != self.values.shape or self.scrambled.shape[:1] in ((), (0,)):
            yield f"scrambled predictions have shape {self.scrambled.shape}; expected copies of shape {self.values.shape}"
            return
        for copy in self.scrambled:
            yield from self._faults_of_column("scrambled", copy)

    def plain(self, ids: Sequence[str]) -> np.ndarray:
        """Values ``[rows, ...]`` in the order of the given ids, of a file that need not hold scrambled ones.

        Raises:
            PredictionsError: As of `aligned`.
        """
        self._refuse(self._faults_of_values(ids))
        return self.values[self._order(ids)]

    @staticmethod
    def _refuse(faults: Iterator[str]) -> None:
        first = next(faults, None)
        if first is not None:
            raise PredictionsError(first)

    def _order(self, ids: Sequence[str]) -> np.ndarray:
        """The row of each id, int64 ``[rows]``."""
        position = {id: row for row, id in enumerate(self.ids)}
        return np.array([position[id] for id in ids], dtype=np.int64)

    def _faults_of_values(self, ids: Sequence[str]) -> Iterator[str]:
        counts = Counter(self.ids)
        problems = {
            "missing": [id for id in ids if id not in counts],
            "not in the test split": sorted(set(self.ids) - set(ids)),
            "there more than once": [id for id, count in counts.items() if count > 1],
        }
        for problem, names in problems.items():
            if names:
                yield (
                    f"{len(names)} {'row is' if len(names) == 1 else 'rows are'} {problem} ({_some(names)}); "
                    f"expected each of the {len(ids)} rows of the test split once, got {len(self.ids)} rows"
                )
        yield from self._faults_of_column("values", self.values)

    @property
    def _whose(self) -> str:
        return f"method {self.about['method']!r}" if "method" in self.about else "an unnamed method"

    def _faults_of_column(self, name: str, column: np.ndarray) -> Iterator[str]:
        if column.shape[:1] != (len(self.ids),) or column.dtype.kind not in "fiu":
            yield (
                f"{name} of the predictions of {self._whose} have type {column.dtype} and shape {column.shape}; "
                f"expected numbers for {len(self.ids)} rows"
            )
            return
        finite = np.isfinite(column).all(axis=tuple(range(1, column.ndim)))
        bad = [self.ids[row] for row in np.flatnonzero(~finite)]
        if bad:
            yield (
                f"{len(bad)} of the {name} are not finite ({_some(bad)}) in the predictions of {self._whose}; "
                "expected finite numbers for all rows"
            )


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
