"""The zoos that ngbench ships, and the way from a name or a path to an open zoo."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ngbench.errors import ChecksumError, UnknownNameError
from ngbench.registry import Registry
from ngbench.store.answers import AnsweredZoo
from ngbench.store.held_out import held_out_path
from ngbench.store.reader import Zoo
from ngbench.store.seal import read_seal


@dataclass(frozen=True)
class ReleasedZoo:
    """A zoo file that never changes.

    Args:
        name: Its name.
        version: Its version.
        file_name: The file in the folder ``embedded`` of `ngbench.zoo`.
        sha256: Hexadecimal sha256 of its content, as its seal has it.
        size_bytes: Size of the file.
        outputs_sha256: Of the file of outputs on held-out inputs beside it; None where the zoo file holds such, or none are.
    """

    name: str
    version: str
    file_name: str
    sha256: str
    size_bytes: int
    outputs_sha256: str | None = None

    @property
    def path(self) -> Path:
        """Where the file is installed."""
        return Path(str(resources.files("ngbench.zoo"))) / "embedded" / self.file_name


RELEASED: Registry[ReleasedZoo] = Registry("zoo")
RELEASED.register(
    "digits-cnn",
    ReleasedZoo(
        "digits-cnn", "1", "digits-cnn-v1.h5", "eac36666988d0319a23d149ede850996b521f82feaa25e5c5c5c8efecd92c85b", 9691253
    ),
)
RELEASED.register(
    "digits-park",
    ReleasedZoo(
        "digits-park",
        "1",
        "digits-park-v1.h5",
        "6896173831f415a6dcc4b3eafdee9e71344fb2245f2c20da6699fc9c5f943122",
        8952597,
        outputs_sha256="51faf71df4e6c16130346d16b9a9301923ae76972a0ab1ce7bf47337ac645b0e",
    ),
)
RELEASED.register(
    "digits-inr",
    ReleasedZoo(
        "digits-inr", "1", "digits-inr-v1.h5", "a3c4ed6600c54d3086cbea9e456fc0f39dec36a10038a32755ba83d669618883", 6557184
    ),
)
RELEASED.register(
    "digits-mlp",
    ReleasedZoo(
        "digits-mlp", "1", "digits-mlp-v1.h5", "3b5ca37e745bab30d617a148bdf56b4dd95300907f1789477a1fe6e43f0afdab", 4819392
    ),
)


def open_zoo(name_or_path: str | Path, *, answers: str | Path | None = None) -> Zoo:
    """Opens a released zoo by name, or any zoo file by path.

    Args:
        name_or_path: A name in `RELEASED`; anything else that exists, is a `Path`, has a folder or ends in ``.h5`` is a path.
        answers: The answer file of a public zoo file that withholds answers; None to open it as everyone can.

    Raises:
        UnknownNameError: No zoo of the name is released; the text suggests close ones.
        ChecksumError: The installed file is not the released one, or the answer file not the one that the zoo commits to.
        StoreFormatError: The file is missing, foreign, newer than this ngbench, truncated, corrupt or incomplete.
    """
    path = Path(name_or_path)
    if isinstance(name_or_path, str) and name_or_path in RELEASED:
        return _answered(_open_released(RELEASED[name_or_path]), answers)
    if isinstance(name_or_path, Path) or path.suffix == ".h5" or os.sep in name_or_path or path.exists():
        return _answered(Zoo(path), answers)
    raise UnknownNameError("zoo", name_or_path, RELEASED)


def _answered(zoo: Zoo, answers: str | Path | None) -> Zoo:
    return zoo if answers is None else AnsweredZoo(zoo.path, answers)


def _open_released(released: ReleasedZoo) -> Zoo:
    zoo = Zoo(released.path)
    if zoo.sha256 != released.sha256:
        raise ChecksumError(
            f"{str(zoo.path)!r} is not zoo {released.name!r} version {released.version} as it was released: "
            f"it has sha256 {zoo.sha256}, expected {released.sha256}; install ngbench again"
        )
    if released.outputs_sha256 is not None:
        beside = held_out_path(zoo.path)
        if (sha256 := read_seal(beside).sha256) != released.outputs_sha256:
            raise ChecksumError(
                f"{str(beside)!r} has other outputs than those that were released with zoo {released.name!r}: "
                f"it has sha256 {sha256}, expected {released.outputs_sha256}; install ngbench again"
            )
    return zoo
