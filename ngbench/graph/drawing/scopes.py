"""Names in a picture: which modules get a frame, and what stands under a group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import takewhile

from ngbench.graph.repeats import joint_name
from ngbench.graph.topology import EdgeBlock, Topology

_SIGNS = {
    "residual": "+", "add": "+", "shift": "+", "product": "×", "matmul": "matmul", "join": "concat", "identity": "identity",
}  # fmt: skip

_FEWEST = 4
_LONGEST = 18
_SHORTEST = 5


@dataclass(frozen=True)
class Scope:
    """A module whose groups stand in one frame.

    Args:
        path: Path of the module, of the first of its copies.
        title: What is written on the frame.
        first: First column.
        last: Last column.
        count: How often the module is repeated.
    """

    path: str
    title: str
    first: int
    last: int
    count: int


def find_scopes(
    copies: Mapping[str, Sequence[str]], columns: Mapping[str, int], blocks: Sequence[EdgeBlock], *, named: Set[str]
) -> list[Scope]:
    """Modules that get a frame: a layer of a numbered list, or else a module directly under the root.

    Args:
        copies: The drawn groups, each with the names of its copies.
        columns: Column of each drawn group.
        blocks: The drawn blocks.
        named: Groups whose name is the path of a module; others join the frame of a module that they read.

    Returns:
        The innermost scopes of several groups that do not overlap, from left to right.
    """
    members = defaultdict(list)
    for name in copies:
        for path in _prefixes(name) if name in named else ():
            members[path].append(name)
    found = []
    for path, names in members.items():
        inside = _with_sums(names, columns, blocks, named)
        first, last = min(columns[name] for name in inside), max(columns[name] for name in inside)
        paths = [".".join(copy.split(".")[: path.count(".") + 1]) for copy in copies[names[0]]]
        if last > first and len(names) >= _FEWEST:
            found.append(Scope(path, joint_name(paths), first, last, len(set(paths))))
    chosen: list[Scope] = []
    for scope in sorted(found, key=lambda s: (not _is_numbered(s.path), -s.path.count("."), s.first)):
        if all(scope.last < other.first or scope.first > other.last for other in chosen):
            chosen.append(scope)
    num_common = len(_common([scope.path.split(".")[:-2] for scope in chosen]))
    if any(scope.path.split(".")[num_common].isdigit() for scope in chosen):
        # A number says nothing without the list that it counts.
        num_common = max(num_common - 1, 0)
    return sorted((replace(s, title=".".join(s.title.split(".")[num_common:])) for s in chosen), key=lambda s: s.first)


def _with_sums(names: Sequence[str], columns: Mapping[str, int], blocks: Sequence[EdgeBlock], named: Set[str]) -> list[str]:
    """The groups of a module with the sums and products of them that have no module of their own."""
    inside = list(names)
    for name in sorted(columns, key=lambda n: columns[n]):
        sources = [block.source for block in blocks if block.target == name]
        if name not in named and (set(sources) & set(names) or (sources and set(sources) <= set(inside))):
            inside.append(name)
    return inside


def _common(paths: Sequence[Sequence[str]]) -> list[str]:
    """The parts that all paths begin with."""
    return [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))]


def module_names(topology: Topology) -> set[str]:
    """Names of the groups that a module of the network makes, not a sum or another operation between modules."""
    made = {block.target for block in topology.blocks if block.parameter is not None}
    return made | {group.name for group in topology.groups if group.features or group.role == "input"}


def titles(topology: Topology, names: Sequence[str], scopes: Sequence[Scope]) -> dict[str, str]:
    """What stands under groups: the name within the frame, or a sign of the operation where a group has no module.

    Args:
        topology: What is drawn.
        names: The drawn groups.
        scopes: Frames.
    """
    named = module_names(topology)
    paths = [name.split(":")[0].split(".") for name in names if name in named and "." in name]
    num_common = len(_common([path[:-1] for path in paths])) if len(paths) > 1 else 0
    made = {}
    for name in names:
        path = name.split(":")[0]
        scope = next((s for s in scopes if path.startswith(f"{s.path}.")), None)
        if name not in named:
            made[name] = _sign(topology, name) or path
        elif scope:
            made[name] = path.removeprefix(f"{scope.path}.")
        else:
            made[name] = ".".join(path.split(".")[num_common:]) if "." in path else path
    return made


def notes(topology: Topology) -> dict[str, str]:
    """What groups are to an attention that reads them: query, key or value."""
    found: dict[str, str] = {}
    for group in topology.groups:
        incoming = [b for b in topology.blocks if b.target == group.name and b.operation == "attention"]
        if "softmax" in group.activation:
            found |= dict(zip((b.source for b in incoming), ("query", "key"), strict=False))
        else:
            found |= {b.source: "value" for b in incoming if "softmax" not in topology.group(b.source).activation}
    return found


def _sign(topology: Topology, name: str) -> str:
    operation = next((block.operation for block in topology.blocks if block.target == name), "")
    if operation == "attention":
        return "softmax" if "softmax" in topology.group(name).activation else "mix"
    return _SIGNS.get(operation, "")


def _prefixes(name: str) -> list[str]:
    """The modules that may frame a group: the numbered ones that hold it, and the one directly under the root."""
    parts = name.split(":")[0].split(".")
    return [".".join(parts[: k + 1]) for k, part in enumerate(parts[:-1]) if part.isdigit() or k == 0]


def _is_numbered(path: str) -> bool:
    return path.rsplit(".", 1)[-1].isdigit()


def fitted(found: Mapping[str, str], neighbours: Sequence[tuple[str, str, float]]) -> dict[str, str]:
    """Titles cut until none touches its neighbour.

    Args:
        found: Titles by group.
        neighbours: Groups that stand side by side, and the letters between their middles.
    """
    fitting = {name: _shorter(title) if len(title) > _LONGEST else title for name, title in found.items()}
    for left, right, room in neighbours:
        while (len(fitting[left]) + len(fitting[right])) / 2 + 1 > room:
            longer = max(left, right, key=lambda name: len(fitting[name]))
            if len(fitting[longer]) <= _SHORTEST:
                break
            fitting[longer] = _shorter(fitting[longer])
    return fitting


def _shorter(title: str) -> str:
    first, dot, rest = title.partition(".")
    return rest if dot and first else f"{title.removesuffix('…')[:-1]}…"
