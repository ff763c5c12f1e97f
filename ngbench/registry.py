"""One registry type for everything that is chosen by name: methods, tasks, recipes, released zoos."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from ngbench.errors import RegistrationError, UnknownNameError

T = TypeVar("T")


class Registry(Generic[T], Mapping[str, T]):
    """Names and what they stand for; an entry may be a ``"module:attribute"`` path that loads when first asked for.

    Args:
        kind: What the entries are, in the singular, for error texts (``"method"``).
        entry_point_group: Packages may add entries under this group of their own ``pyproject.toml``.
    """

    def __init__(self, kind: str, *, entry_point_group: str | None = None):
        self.kind = kind
        self._entry_point_group = entry_point_group
        self._entries: dict[str, T | str] = {}
        self._discovered = entry_point_group is None

    def register(self, name: str, entry: T | str) -> None:
        """Adds an entry.

        Raises:
            RegistrationError: The name is taken by another entry.
        """
        if self._entries.get(name, entry) != entry:
            raise RegistrationError(
                f"two entries are registered as {self.kind} {name!r}: {self._entries[name]!r} and {entry!r}; rename one of them"
            )
        self._entries[name] = entry

    def __getitem__(self, name: str) -> T:
        """The entry of a name, loaded.

        Raises:
            UnknownNameError: No such name; the text suggests close ones.
            RegistrationError: The entry's module or attribute does not exist.
        """
        self._discover()
        if name not in self._entries:
            raise UnknownNameError(self.kind, name, self._entries)
        entry: Any = self._entries[name]
        return load_object(entry, kind=self.kind) if isinstance(entry, str) else entry

    def __iter__(self) -> Iterator[str]:
        self._discover()
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        self._discover()
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        self._discover()
        return name in self._entries

    def _discover(self) -> None:
        if self._discovered:
            return
        for point in entry_points(group=self._entry_point_group or ""):
            self.register(point.name, point.value)
        self._discovered = True


def load_object(path: str, *, kind: str) -> Any:
    """Imports ``"package.module:attribute"``.

    Raises:
        RegistrationError: The path has no colon, or the module or attribute does not exist.
    """
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute:
        raise RegistrationError(f"{kind} path {path!r} is not of the form 'package.module:Name'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise RegistrationError(
            f"{kind} {path!r} does not load: {error}; expected an importable module (is it installed, or in the current folder?)"
        ) from error
    if not hasattr(module, attribute):
        raise RegistrationError(f"{kind} {path!r} does not load: module {module_name!r} has no attribute {attribute!r}")
    return getattr(module, attribute)
