"""Where groups and blocks of a topology stand in a picture: columns, lanes beside the main path, and rows of a page.

Lengths are inches; y grows upwards and is 0 on the main path, the longest way through the network. Beside it stand the
branches, each in a lane of its own; a block that leaps over columns is an arc above them.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ngbench.graph.drawing.scopes import Scope, find_scopes, fitted, module_names, notes, titles
from ngbench.graph.listing import group_signatures
from ngbench.graph.repeats import Repeat, find_repeats
from ngbench.graph.topology import EdgeBlock, NodeGroup, Topology

Style = Literal["nodes", "ribbons"]

NODE_PITCH = 0.17
MAX_SHOWN = 14
SHOWN_BEFORE, SHOWN_AFTER = 7, 4
LABEL = 0.46
GAP = 0.16
LANE = 0.15
LETTER = 0.058
CABLE = 0.34
LONG_WAIT = 6
MAX_COLUMNS_UNFOLDED = 34


@dataclass(frozen=True)
class Cell:
    """One drawn group.

    Args:
        group: The group, the first of its copies.
        title: What stands under it.
        note: What else is said of it.
        column: Column, 0 is leftmost.
        y: Its centre.
        height: Its extent.
        sections: Entries of its slowest index, where it runs over several.
    """

    group: NodeGroup
    title: str
    note: str
    column: int
    y: float
    height: float
    sections: int

    @property
    def shown(self) -> list[int]:
        """The nodes that are drawn: all, or the first and last."""
        size = self.group.size
        return list(range(size)) if size <= MAX_SHOWN else [*range(SHOWN_BEFORE), *range(size - SHOWN_AFTER, size)]

    def node_ys(self) -> list[float]:
        """Heights of the drawn nodes, the first on top; one place stays free for those left out."""
        free = len(self.shown) < self.group.size
        places = [k + (free and k >= SHOWN_BEFORE) for k in range(len(self.shown))]
        return [self.y + (places[-1] / 2 - place) * NODE_PITCH for place in places]


@dataclass(frozen=True)
class Link:
    """One drawn block: from column to column, or as an arc over them.

    Args:
        block: The block.
        columns: Columns that it runs through, source and target included; two where it is an arc.
        ys: Its height at each column.
        is_arc: Whether it leaves upwards, runs at `lane`, and enters from above.
        lane: Height of an arc.
    """

    block: EdgeBlock
    columns: tuple[int, ...]
    ys: tuple[float, ...]
    is_arc: bool = False
    lane: float = 0.0


@dataclass(frozen=True)
class Row:
    """Columns that stand side by side; the first of a later row is the last of the one before, drawn again.

    Args:
        first: First column.
        last: Last column.
        xs: Distance of each column from the first.
        above: Extent over the main path.
        below: Extent under it.
    """

    first: int
    last: int
    xs: dict[int, float]
    above: float
    below: float


@dataclass(frozen=True)
class Scene:
    """Everything that is drawn.

    Args:
        style: Whether groups are columns of nodes or bars.
        cells: The drawn groups by name.
        links: The drawn blocks.
        scopes: Frames behind columns.
        rows: The columns by rows.
        above: For each column the extent of its groups over the main path.
        below: The same under it.
    """

    style: Style
    cells: dict[str, Cell]
    links: tuple[Link, ...]
    scopes: tuple[Scope, ...]
    rows: tuple[Row, ...]
    above: tuple[float, ...]
    below: tuple[float, ...]


def make_scene(topology: Topology, *, style: Style, width: float, fold: bool | None = None) -> Scene:
    """The places of a topology's parts.

    Args:
        topology: What is drawn.
        style: Whether groups are columns of nodes or bars.
        width: Room for one row.
        fold: Whether layers that repeat are drawn once; None to do so where there are many.
    """
    if fold is None:
        fold = len({group.layer for group in topology.groups}) > MAX_COLUMNS_UNFOLDED
    copies, blocks = _condensed(topology, fold=fold)
    groups = [topology.group(name) for name in copies]
    depths = sorted({group.layer for group in groups})
    columns = {group.name: depths.index(group.layer) for group in groups}
    main = _main_path(topology, groups, blocks, columns)
    _put_off(columns, blocks, main)
    scopes = find_scopes(copies, columns, blocks, named=module_names(topology))
    lanes = _Lanes(topology, style, columns, main, len(depths))
    chains = _chains(groups, blocks, columns, main)
    exits = lanes.place_chains(chains, blocks)
    links = lanes.links(blocks, exits)
    gaps = _gaps(style, blocks, columns, len(depths))
    under = fitted(titles(topology, list(copies), scopes), _neighbours(lanes.y, columns, gaps))
    read_as = notes(topology)
    cells = {
        group.name: Cell(
            group, under[group.name], read_as.get(group.name, ""), columns[group.name], lanes.y[group.name],
            lanes.height[group.name], _sections(topology, group),
        )
        for group in groups
    }  # fmt: skip
    rows = _rows(gaps, lanes, scopes, links, width=width)
    return Scene(style, cells, tuple(links), tuple(scopes), tuple(rows), tuple(lanes.above), tuple(lanes.below))


def _condensed(topology: Topology, *, fold: bool) -> tuple[dict[str, list[str]], list[EdgeBlock]]:
    """The groups that are drawn, each with the names of its copies, and the blocks between them.

    A block from one copy of a layer to the next is left out: the mark of the repeated layer stands for it.
    """
    groups = topology.groups
    stretches = find_repeats(group_signatures(topology)) if fold else [Repeat(0, len(groups), 1)]
    drawn: dict[str, list[str]] = {}
    place: dict[str, tuple[str, int, int]] = {}
    for number, stretch in enumerate(stretches):
        for offset in range(stretch.length):
            names = [groups[k].name for k in stretch.copies(offset)]
            drawn[names[0]] = names
            place |= {name: (names[0], number, copy) for copy, name in enumerate(names)}
    blocks: dict[tuple[str, str, str], EdgeBlock] = {}
    for block in topology.blocks:
        (source, source_stretch, source_copy), (target, target_stretch, target_copy) = place[block.source], place[block.target]
        if source_stretch != target_stretch or source_copy == target_copy:
            blocks.setdefault((source, target, block.operation), block)
    ends = {(s, t, o): (s, t) for s, t, o in blocks}
    return drawn, [_between(block, *ends[key]) for key, block in blocks.items()]


def _between(block: EdgeBlock, source: str, target: str) -> EdgeBlock:
    return block if (block.source, block.target) == (source, target) else EdgeBlock(
        block.name, source, target, block.pattern, block.operation, block.kernel, block.parameter, block.shared
    )  # fmt: skip


def _main_path(
    topology: Topology, groups: Sequence[NodeGroup], blocks: Sequence[EdgeBlock], columns: dict[str, int]
) -> list[str]:
    """The longest way from an input, by blocks and then by values; of equal ways the middle one."""
    incoming = defaultdict(list)
    for block in blocks:
        if columns[block.source] < columns[block.target]:
            incoming[block.target].append(block)
    best: dict[str, tuple[int, int]] = {}
    came: dict[str, str] = {}
    for group in sorted(groups, key=lambda g: columns[g.name]):
        ways = []
        for block in incoming[group.name]:
            steps, values = best[block.source]
            own = math.prod(topology.block_shape(block.name)) if block.parameter is not None else 0
            ways.append(((steps + 1, values + own), block.source))
        longest = [way for way in ways if way[0] == max(ways)[0]]
        best[group.name] = longest[0][0] if longest else (0, 0)
        if longest:
            came[group.name] = longest[len(longest) // 2][1]
    path = [max(best, key=lambda name: (best[name][0], topology.group(name).role == "output"))]
    while path[-1] in came:
        path.append(came[path[-1]])
    return path[::-1]


def _put_off(columns: dict[str, int], blocks: Sequence[EdgeBlock], main: Sequence[str]) -> None:
    """Moves what would wait long for its reader, such as a decoder for its encoder, to the right."""
    forward = [block for block in blocks if columns[block.source] < columns[block.target]]
    after_main = set(main)
    for block in sorted(forward, key=lambda b: columns[b.target]):
        if block.source in after_main:
            after_main.add(block.target)
    for name in sorted(set(columns) - set(main), key=lambda n: (-columns[n], n)):
        readers = [columns[block.target] for block in forward if block.source == name]
        slack = min(readers, default=0) - 1 - columns[name]
        if slack > (LONG_WAIT if name in after_main else 0):
            columns[name] += slack


def _chains(
    groups: Sequence[NodeGroup], blocks: Sequence[EdgeBlock], columns: dict[str, int], main: Sequence[str]
) -> list[list[str]]:
    """The groups off the main path, in runs that follow each other."""
    left = [group.name for group in sorted(groups, key=lambda g: columns[g.name]) if group.name not in main]
    chains: list[list[str]] = []
    while left:
        chain = [left.pop(0)]
        while True:
            nexts = [
                b.target for b in blocks if b.source == chain[-1] and b.target in left and columns[b.target] > columns[b.source]
            ]
            if not nexts:
                break
            chain.append(nexts[0])
            left.remove(nexts[0])
        chains.append(chain)
    return chains


class _Lanes:
    """Heights, and how far each column is taken above and below the main path."""

    def __init__(self, topology: Topology, style: Style, columns: dict[str, int], main: Sequence[str], num_columns: int):
        self.columns, self.main = columns, main
        self.order = {name: k for k, name in enumerate(columns)}
        self.height = {name: _height(topology.group(name).size, style) for name in columns}
        self.y = dict.fromkeys(main, 0.0)
        self.above, self.below = [0.1] * num_columns, [0.1] * num_columns
        self.arcs_above = [0.0] * num_columns
        for name in main:
            column = columns[name]
            self.above[column] = self.height[name] / 2 + 0.08
            self.below[column] = self.height[name] / 2 + LABEL

    def place_chains(self, chains: Sequence[Sequence[str]], blocks: Sequence[EdgeBlock]) -> set[str]:
        """Gives each run of groups a lane.

        Returns:
            Names of the blocks that run along a lane over columns where their run has no group.
        """
        exits: set[str] = set()
        # The groups above the main path are stacked from it upwards, so that all stand in canonical order.
        above = [chain for chain in chains if self._is_above(chain)]
        for chain in [*reversed(above), *(chain for chain in chains if chain not in above)]:
            first, last = self.columns[chain[0]], self.columns[chain[-1]]
            leaving = [b for b in blocks if b.source == chain[-1] and self.columns[b.target] > last + 1]
            if leaving:
                exits.add(leaving[0].name)
                last = self.columns[leaving[0].target] - 1
            entering = [b for b in blocks if b.target == chain[0] and 0 <= self.columns[b.source] < first - 1]
            if entering and all(self.columns[b.target] - self.columns[b.source] > 1 for b in blocks if b.target == chain[0]):
                exits.add(entering[0].name)
                first = self.columns[entering[0].source] + 1
            self._place(chain, range(first, last + 1))
        return exits

    def _is_above(self, chain: Sequence[str]) -> bool:
        rivals = [name for name in self.main if self.columns[name] == self.columns[chain[0]]]
        return bool(rivals) and self.order[chain[0]] < self.order[rivals[0]]

    def _place(self, chain: Sequence[str], span: range) -> None:
        half = dict.fromkeys(span, CABLE / 2) | {self.columns[name]: self.height[name] / 2 for name in chain}
        label = dict.fromkeys(span, 0.0) | {self.columns[name]: LABEL for name in chain}
        if self._is_above(chain):
            y = max(self.above[c] + GAP + label[c] + half[c] for c in span)
            for c in span:
                self.above[c] = y + half[c] + 0.08
        else:
            y = -max(self.below[c] + GAP + half[c] for c in span)
            for c in span:
                self.below[c] = -y + half[c] + label[c]
        self.y |= dict.fromkeys(chain, y)

    def links(self, blocks: Sequence[EdgeBlock], exits: set[str]) -> list[Link]:
        """Every block with its way; short arcs lie under long ones."""
        made: dict[str, Link] = {}
        arcs: list[EdgeBlock] = []
        for block in blocks:
            source, target = self.columns[block.source], self.columns[block.target]
            ends = self.y[block.source], self.y[block.target]
            if target == source + 1:
                made[block.name] = Link(block, (source, target), ends)
            elif block.name in exits:
                lane = ends[0] if block.source not in self.main else ends[1]
                made[block.name] = Link(
                    block, tuple(range(source, target + 1)), (ends[0], *[lane] * (target - source - 1), ends[1])
                )
            else:
                arcs.append(block)
        lanes: dict[tuple[str, int], float] = {}
        for block in sorted(arcs, key=lambda b: abs(self.columns[b.target] - self.columns[b.source])):
            made[block.name] = self._arc(block, lanes)
        return [made[block.name] for block in blocks]

    def _arc(self, block: EdgeBlock, lanes: dict[tuple[str, int], float]) -> Link:
        source, target = self.columns[block.source], self.columns[block.target]
        low, high = min(source, target), max(source, target)
        over = max(*self.above[low : high + 1], *self.arcs_above[low : max(high, low + 1)], 0.0) + LANE
        # Arcs from one group to several of a column run together.
        lane = lanes.setdefault((block.source, target), over)
        for gap in range(low, max(high, low + 1)):
            self.arcs_above[gap] = lane
        return Link(block, (source, target), (self.y[block.source], self.y[block.target]), is_arc=True, lane=lane)


def _height(size: int, style: Style) -> float:
    if style == "ribbons":
        return 0.22 + 0.13 * math.log2(size + 1)
    return (min(size, SHOWN_BEFORE + SHOWN_AFTER + 1) if size > MAX_SHOWN else size) * NODE_PITCH - NODE_PITCH / 2


def _sections(topology: Topology, group: NodeGroup) -> int:
    indices = [index for index in topology.indices_of(group.name) if index.size > 1]
    return indices[0].size if len(indices) > 1 else 1


def _neighbours(ys: dict[str, float], columns: dict[str, int], gaps: Sequence[float]) -> list[tuple[str, str, float]]:
    """Groups whose labels stand side by side, and the letters that fit between their middles."""
    pairs = [(a, b) for a in columns for b in columns if columns[b] == columns[a] + 1 and abs(ys[a] - ys[b]) < LABEL]
    return [(a, b, gaps[columns[a]] / LETTER) for a, b in pairs]


def _gaps(style: Style, blocks: Sequence[EdgeBlock], columns: dict[str, int], num_columns: int) -> list[float]:
    """Room after each column: more where a dense block runs."""
    gaps = [0.54] * (num_columns - 1)
    for block in blocks:
        first, last = columns[block.source], columns[block.target]
        if last == first + 1 and block.pattern == "dense":
            gaps[first] = 1.0
    return gaps


def _rows(gaps: Sequence[float], lanes: _Lanes, scopes: Sequence[Scope], links: Sequence[Link], *, width: float) -> list[Row]:
    """The columns cut into rows of about equal width, rather between layers than within."""
    num_rows = math.ceil(sum(gaps) / width)
    cuts = min((_cuts(gaps, lanes, scopes, links, num, width) for num in (num_rows, num_rows + 1)), key=lambda found: found[0])[1]
    rows = []
    for first, last in itertools.pairwise(cuts):
        xs = {c: sum(gaps[first:c]) for c in range(first, last + 1)}
        arcs = [link.lane for link in links if link.is_arc and min(link.columns) < last and max(link.columns) > first]
        above = max(*(lanes.above[c] for c in xs), *arcs, 0.0) + 0.1
        rows.append(Row(first, last, xs, above, max(lanes.below[c] for c in xs)))
    return rows


def _cuts(
    gaps: Sequence[float], lanes: _Lanes, scopes: Sequence[Scope], links: Sequence[Link], num_rows: int, width: float
) -> tuple[float, list[int]]:
    """The best columns at which a number of rows begin and end, and how bad they are."""
    goal = sum(gaps) / max(num_rows, 1)
    last = len(gaps)

    def price(column: int) -> float:
        alone = sum(c == column for c in lanes.columns.values()) - 1
        over = sum(min(link.columns) < column < max(link.columns) for link in links)
        return 0.3 * alone + 0.15 * over + 0.5 * any(scope.first < column < scope.last for scope in scopes)

    best: dict[int, tuple[float, list[int]]] = {0: (0.5 * num_rows, [0])}
    for column in range(1, last + 1):
        fitting = [c for c in best if sum(gaps[c:column]) <= width or c == column - 1]
        ways = [(best[c][0] + ((sum(gaps[c:column]) - goal) / goal) ** 2, best[c][1]) for c in fitting]
        cost, cuts = min(ways)
        best[column] = (cost + (price(column) if column < last else 0.0), [*cuts, column])
    return best[last]
