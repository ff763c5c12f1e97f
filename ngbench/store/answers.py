"""The answer file of a public zoo file: what that withholds, which a host keeps to itself until a competition is over.

It is an ``.npz`` without pickled objects. Its sha256 stands in the public file from the start, so that no answer can be changed
afterwards; a salt in it, 32 bytes of chance, keeps that digest from telling anything of the answers. When it is published anyone
can compare ``sha256sum`` of it with the digest.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ngbench.errors import ChecksumError, StoreFormatError, UnknownNameError
from ngbench.store.atomic_file import atomic_file
from ngbench.store.reader import Zoo
from ngbench.store.seal import open_for_reading

FORMAT = "ngbench-answers"
FORMAT_VERSION = 1
SALT_BYTES = 32

_COLUMN, _OUTPUTS = "column/", "outputs/"
_FIXED = ("about", "salt", "ids", "names", "split_keys")


@dataclass(frozen=True)
class Answers:
    """What a host knows of the networks about which its public file is silent.

    Args:
        zoo: Name of the zoo.
        zoo_version: Version of the public file.
        ids: Name of each network in the public file, in its order, str ``[networks]``.
        names: Its name in the whole zoo, str ``[networks]``.
        split_keys: What `Zoo.split_keys` says of it in the whole zoo, str ``[networks]``.
        columns: Metadata by column, ``[networks]`` each.
        outputs: Outputs on fixed inputs by name, float16 ``[networks, outputs]`` each.
    """

    zoo: str
    zoo_version: str
    ids: np.ndarray
    names: np.ndarray
    split_keys: np.ndarray
    columns: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]

    def save(self, path: Path) -> str:
        """Writes the file, with a new salt, whole or not at all; gives the commitment, its hexadecimal sha256.

        Raises:
            StoreWriteError: It cannot be written.
        """
        about = {"format": FORMAT, "format_version": FORMAT_VERSION, "zoo": self.zoo, "zoo_version": self.zoo_version}
        arrays: dict[str, Any] = {"about": np.array(json.dumps(about)), "ids": self.ids, "names": self.names}
        arrays |= {"salt": np.frombuffer(secrets.token_bytes(SALT_BYTES), np.uint8), "split_keys": self.split_keys}
        arrays |= {_COLUMN + name: values for name, values in self.columns.items()}
        arrays |= {_OUTPUTS + name: values for name, values in self.outputs.items()}
        with atomic_file(path) as file:
            np.savez_compressed(file, **arrays)
        return commitment_of(path)

    @classmethod
    def load(cls, path: Path) -> Answers:
        """Reads the file; nothing in it is executed.

        Raises:
            StoreFormatError: It is missing, no answer file, or newer than this ngbench.
        """
        try:
            with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as content:
                arrays = {name: content[name] for name in content.files}
                about = json.loads(str(arrays["about"]))
                found = about["format"], about["format_version"]
        except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise StoreFormatError(
                f"{str(path)!r} cannot be read as answers ({error}); expected a file that `ngbench zoo seal` wrote"
            ) from error
        missing = ", ".join(sorted({*_FIXED} - {*arrays}))
        if found != (FORMAT, FORMAT_VERSION) or missing:
            raise StoreFormatError(
                f"{str(path)!r} is of format {found[0]!r}, version {found[1]!r}, and lacks {missing or 'nothing'}; expected "
                f"{FORMAT!r}, version {FORMAT_VERSION}, with {', '.join(_FIXED)}: name an answer file, or upgrade ngbench"
            )
        columns, outputs = (
            {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
            for prefix in (_COLUMN, _OUTPUTS)
        )
        ids, names, keys = (arrays[name] for name in ("ids", "names", "split_keys"))
        return cls(str(about["zoo"]), str(about["zoo_version"]), ids, names, keys, columns, outputs)


class AnsweredZoo(Zoo):
    """A public zoo file with what it withholds, as its host has it: it is read as any zoo, and named by the public file's sha256.

    Networks keep the names of the public file, by which predictions are handed in.

    Args:
        path: The public file.
        answers: The answer file.

    Raises:
        ChecksumError: The public file withholds nothing, or commits to another answer file.
        StoreFormatError: A file cannot be read, or the answers are not for the networks of the public file.
    """

    def __init__(self, path: str | Path, answers: str | Path):
        super().__init__(path)
        self._answers_path = Path(answers).absolute()
        withheld = self.info.withheld
        if withheld is None:
            raise ChecksumError(f"zoo {self.name!r} in {str(path)!r} withholds no answers; expected a file of `ngbench zoo seal`")
        self._answers = Answers.load(self._answers_path)
        sha256 = commitment_of(self._answers_path)
        if sha256 != withheld.commitment:
            raise ChecksumError(
                f"answer file {str(answers)!r} has sha256 {sha256}, and zoo {self.name!r} in {str(path)!r} commits to "
                f"{withheld.commitment}; expected the answer file that was written with it"
            )
        self._known = np.flatnonzero(self.withheld(withheld.columns[0]))
        if self._ids[self._known].tolist() != self._answers.ids.tolist():
            raise StoreFormatError(
                f"{str(answers)!r} has answers for {len(self._answers.ids)} networks, which are not the {len(self._known)} whose "
                f"answers {str(path)!r} withholds; seal the zoo again"
            )
        self.info = replace(self.info, withheld=None)
        self.functional_names = tuple(self._answers.outputs)

    @property
    def split_keys(self) -> np.ndarray:
        """See `Zoo.split_keys`; those of the whole zoo, where the public file has names of chance."""
        return self._with_answers(super().split_keys, self._answers.split_keys)

    def _column(self, name: str) -> np.ndarray:
        column, known = super()._column(name), self._answers.columns.get(name)
        return column if known is None else self._with_answers(column, known)

    def functional(self, name: str) -> np.ndarray:
        """See `Zoo.functional`; NaN for networks of which the public file withholds nothing."""
        if name not in self.functional_names:
            raise UnknownNameError(f"stored outputs of zoo {self.name!r}", name, self.functional_names)
        known = self._answers.outputs[name]
        return self._with_answers(np.full((len(self), known.shape[1]), np.nan, dtype=np.float16), known)

    def _with_answers(self, public: np.ndarray, known: np.ndarray) -> np.ndarray:
        found = public.astype(np.result_type(public, known))
        found[self._known] = known
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return AnsweredZoo, (str(self.path), str(self._answers_path))


def commitment_of(path: Path) -> str:
    """Hexadecimal sha256 of an answer file, to which its public file commits.

    Raises:
        StoreFormatError: The file cannot be read.
    """
    with open_for_reading(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
