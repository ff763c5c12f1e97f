"""Which Python files decide what a method says: its module, and all of its own package that this imports."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path


def files_of(cls: type) -> frozenset[Path]:
    """The file of a class, and those of its top package that it imports, directly or through others.

    Imports inside functions count; modules that are found by their names as text, such as entry points, do not. A class without a
    file has none.
    """
    try:
        source = inspect.getsourcefile(cls)
    # what inspect raises for classes that were typed or made while the program runs
    except (TypeError, OSError):
        source = None
    if source is None:
        return frozenset()
    own = Path(source).resolve()
    packages = [parent for parent in own.parents if (parent / "__init__.py").exists()]
    roots = [parent for parent in packages if parent.name == cls.__module__.partition(".")[0]]
    found, waiting = set(), [own]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _imported(file, roots[-1]) if roots else ()
    return frozenset(found)


def _imported(file: Path, root: Path) -> Iterator[Path]:
    """Files below a package that a file of it imports, those of the packages around them included."""
    for node in ast.walk(ast.parse(file.read_bytes(), filename=str(file))):
        if isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            place = file.parent.relative_to(root.parent).parts
            around = list(place[: len(place) + 1 - node.level]) if node.level else []
            module = [*around, *(node.module.split(".") if node.module else [])]
            # what is imported from a package may be one of its modules
            modules = [module, *([*module, alias.name] for alias in node.names)]
        else:
            continue
        for module in modules:
            if module[:1] == [root.name]:
                yield from _files_on_the_way(root.parent, module)


def _files_on_the_way(folder: Path, module: list[str]) -> Iterator[Path]:
    for depth in range(1, len(module) + 1):
        place = folder.joinpath(*module[:depth])
        yield from (path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file())
