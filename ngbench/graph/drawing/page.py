"""A scene on a page: frames, edges, nodes, labels and legend, drawn with matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.patheffects import withStroke

from ngbench.graph.drawing.marks import (
    BLUE,
    GREY,
    INK,
    PALE,
    VERMILLION,
    arc_colour,
    colour_of,
    draw_legend,
    legend_handles,
    legend_rows,
    looks,
)
from ngbench.graph.drawing.scene import CABLE, NODE_PITCH, Cell, Link, Row, Scene
from ngbench.graph.neural_graph import NeuralGraph
from ngbench.graph.topology import EdgeBlock, Topology

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARGIN = 0.55
_BAR = 0.13
_RADIUS = 0.052
_SKETCHED = 6
_LONGEST_ACTIVATION = 15


def draw_scene(scene: Scene, topology: Topology, graph: NeuralGraph | None) -> Figure:
    """The figure of a scene; edges show the weights of a graph where it has one and nodes are drawn."""
    handles = legend_handles(scene, weighted=_is_weighted(scene, graph))
    inner = max(2.6, *(max(row.xs.values()) for row in scene.rows))
    width = inner + 2 * _MARGIN
    num_legend_rows, num_columns = legend_rows(handles, width=width)
    legend_height = 0.27 + 0.15 * num_legend_rows
    heights = [row.above + row.below + (0.36 if scene.scopes else 0.05) for row in scene.rows]
    figure = Figure(figsize=(width, sum(heights) + 0.12 * (len(heights) - 1) + legend_height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(0, figure.get_figheight())
    top = figure.get_figheight()
    for row, height in zip(scene.rows, heights, strict=True):
        left = _MARGIN + (inner - max(row.xs.values())) / 2 * (len(scene.rows) == 1)
        _RowPainter(axes, scene, topology, graph, row, left, top - (height - row.below)).paint()
        top -= height + 0.12
    draw_legend(axes, handles, num_columns)
    return figure


class _RowPainter:
    """One row of a scene, its main path at a height of the page."""

    def __init__(
        self, axes: Axes, scene: Scene, topology: Topology, graph: NeuralGraph | None, row: Row, left: float, base: float
    ):
        self.axes, self.scene, self.topology, self.graph, self.row = axes, scene, topology, graph, row
        self.left, self.base = left, base
        self.weighted = _is_weighted(scene, graph)

    def x(self, column: int) -> float:
        """Place of a column on the page."""
        return self.left + self.row.xs[column]

    def paint(self) -> None:
        """Draws from the back to the front."""
        for scope in self.scene.scopes:
            if scope.first <= self.row.last and scope.last >= self.row.first and not self._ends_at_edge(scope.first, scope.last):
                self._frame(scope.title, scope.first, scope.last, scope.count)
        for link in self.scene.links:
            if link.is_arc:
                self._arc(link)
            else:
                for k in range(len(link.columns) - 1):
                    if self.row.first <= link.columns[k] < self.row.last:
                        self._flow(link, k)
        for cell in self.scene.cells.values():
            if self.row.first <= cell.column <= self.row.last:
                self._cell(cell)

    def _ends_at_edge(self, first: int, last: int) -> bool:
        """Whether only the column that two rows share belongs to a frame, and the frame's other columns are elsewhere."""
        return (last == self.row.first and self.row.first > 0) or (first == self.row.last and last > self.row.last)

    def _frame(self, title: str, first: int, last: int, count: int) -> None:
        low, high = max(first, self.row.first), min(last, self.row.last)
        x0, x1 = self.x(low) - 0.27, self.x(high) + 0.27
        arcs = [k.lane for k in self.scene.links if k.is_arc and min(k.columns) < high and max(k.columns) > low]
        y0 = self.base - max(self.scene.below[low : high + 1]) - 0.02
        y1 = self.base + max(*self.scene.above[low : high + 1], *arcs, 0.0) + 0.3
        box = FancyBboxPatch(
            (x0, y0),
            x1 - x0,
            y1 - y0,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=PALE,
            edgecolor="#D5D8DD",
            linewidth=0.6,
        )
        self.axes.add_patch(box)
        text = title if count == 1 else f"{title}   × {count}"
        self.axes.text(
            x0 + 0.07, y1 - 0.06, text, fontsize=7, color="#555555", va="top", weight="bold" if count > 1 else "normal"
        )

    def _arc(self, link: Link) -> None:
        """A line with round corners that leaves and enters from above, or from the side where another group is in the way."""
        source, target = self.scene.cells[link.block.source], self.scene.cells[link.block.target]
        first, last = sorted(link.columns)
        if last <= self.row.first or first >= self.row.last:
            return
        colour, lane = arc_colour(link.block, weighted=self.weighted), self.base + link.lane
        start, end = self._port(source, lane, side=1), self._port(target, lane, side=-1)
        points = [*(start or [(self._beyond(source.column), lane)]), *reversed(end or [(self._beyond(target.column), lane)])]
        self.axes.add_patch(
            PathPatch(
                _rounded(points, radius=0.09), facecolor="none", edgecolor=colour, linewidth=1.3, capstyle="round", zorder=1.5
            )
        )
        if end:
            x, y = end[0]
            down = [(x - 0.035, y + 0.055), (x, y - 0.02), (x + 0.035, y + 0.055)]
            right = [(x - 0.055, y - 0.035), (x + 0.02, y), (x - 0.055, y + 0.035)]
            tip = down if len(end) == 2 else right
            self.axes.add_patch(Polygon(tip, facecolor=colour, linewidth=0, zorder=1.6))

    def _port(self, cell: Cell, lane: float, *, side: int) -> list[tuple[float, float]]:
        """The way from a group up to a lane; empty where the group is in another row."""
        if not self.row.first <= cell.column <= self.row.last:
            return []
        x, y = self.x(cell.column), self.base + cell.y
        if any(other.column == cell.column and other.y > cell.y for other in self.scene.cells.values()):
            aside = x + side * 0.24
            return [(x + side * 0.1, y), (aside, y), (aside, lane)]
        return [(x, y + cell.height / 2 + 0.08), (x, lane)]

    def _beyond(self, column: int) -> float:
        """Where a line to another row ends."""
        return self.x(self.row.first) - 0.3 if column < self.row.first else self.x(self.row.last) + 0.3

    def _flow(self, link: Link, k: int) -> None:
        """The part of a block between two neighbouring columns; what comes before the last is a way only."""
        source, target = self.scene.cells[link.block.source], self.scene.cells[link.block.target]
        is_last = k == len(link.columns) - 2
        x0, x1 = self.x(link.columns[k]), self.x(link.columns[k + 1])
        y0, y1 = self.base + link.ys[k], self.base + link.ys[k + 1]
        inset = _RADIUS if self.scene.style == "nodes" else _BAR / 2
        x0 += inset if k == 0 else 0
        x1 -= inset if is_last else 0
        thin = min(1.0, CABLE / max(source.height, 1e-9))
        scale0, scale1 = (1.0 if k == 0 else thin), thin
        if self.scene.style == "ribbons":
            height1 = target.height if is_last else scale1 * source.height
            self._ribbon(link.block, (x0, y0, scale0 * source.height), (x1, y1, height1), is_last=is_last)
        elif is_last:
            self._edges(link.block, (source, x0, y0, scale0), (target, x1, y1, 1.0))
        else:
            rises = [y - source.y for y in source.node_ys()]
            lines = [((x0, y0 + scale0 * rise), (x1, y1 + scale1 * rise)) for rise in rises]
            self._lines(lines, [GREY] * len(rises), [0.7] * len(rises), 0.6)

    def _ribbon(
        self, block: EdgeBlock, start: tuple[float, float, float], end: tuple[float, float, float], *, is_last: bool
    ) -> None:
        (x0, y0, h0), (x1, y1, h1) = start, end
        colour = colour_of(block)
        xm = (x0 + x1) / 2
        top = [(x0, y0 + h0 / 2), (xm, y0 + h0 / 2), (xm, y1 + h1 / 2), (x1, y1 + h1 / 2)]
        bottom = [(x1, y1 - h1 / 2), (xm, y1 - h1 / 2), (xm, y0 - h0 / 2), (x0, y0 - h0 / 2)]
        corners = [*top, *bottom, top[0]]
        curve = Outline.CURVE4
        codes = [Outline.MOVETO, curve, curve, curve, Outline.LINETO, curve, curve, curve, Outline.CLOSEPOLY]
        self.axes.add_patch(PathPatch(Outline(corners, codes), facecolor=colour, alpha=0.16, linewidth=0, zorder=1))
        pairs = self._sketch(block) if is_last else [(a, a) for a in np.linspace(0.1, 0.9, _SKETCHED)]
        lines = [((x0, y0 + h0 * (0.5 - a)), (x1, y1 + h1 * (0.5 - b))) for a, b in pairs]
        self._lines(lines, [colour] * len(lines), [0.5] * len(lines), 0.45)
        if is_last and block.pattern == "dense" and block.parameter is not None:
            num_targets, num_sources, _ = self.topology.block_shape(block.name)
            shape = f"{num_targets} × {num_sources}" + (
                f"\n{'×'.join(map(str, block.kernel))}" if math.prod(block.kernel) > 1 else ""
            )
            text = self.axes.text(
                xm, (y0 + y1) / 2, shape, fontsize=6.3, ha="center", va="center", color=INK, zorder=5, linespacing=1.15
            )
            text.set_path_effects([withStroke(linewidth=2.2, foreground="white", alpha=0.9)])

    def _sketch(self, block: EdgeBlock) -> list[tuple[float, float]]:
        """A few edges as shares of both bars: each to each, one to one, or each to each within a section."""
        places = [(k + 0.5) / _SKETCHED for k in range(_SKETCHED)]
        if block.pattern == "dense":
            return [(a, b) for a in places for b in places]
        if block.pattern == "diagonal":
            return [(a, a) for a in places]
        num = max(2, min(8, self.scene.cells[block.source].sections, self.scene.cells[block.target].group.size))
        inner = [0.2, 0.5, 0.8]
        return [((k + a) / num, (k + b) / num) for k in range(num) for a in inner for b in (inner if num < 5 else [0.5])]

    def _edges(self, block: EdgeBlock, start: tuple[Cell, float, float, float], end: tuple[Cell, float, float, float]) -> None:
        """Every drawn edge of a block, by sign and size of its weight, between cells drawn at a place and scale."""
        (source, x0, y0, scale0), (target, x1, y1, scale1) = start, end
        places = self.topology.block_sources(block.name)
        weights = _weights(self.graph, block)
        largest = max(float(np.abs(weights).max()), 1e-12) if weights is not None else 1.0
        source_ys = {s: y0 + scale0 * (y - source.y) for s, y in zip(source.shown, source.node_ys(), strict=True)}
        target_ys = {t: y1 + scale1 * (y - target.y) for t, y in zip(target.shown, target.node_ys(), strict=True)}
        lines, colours, widths, strengths = [], [], [], []
        for t in target.shown:
            for k, s in enumerate(places[t]):
                if int(s) not in source_ys:
                    continue
                strength = 1.0 if weights is None else abs(float(weights[t, k])) / largest
                lines.append(((x0, source_ys[int(s)]), (x1, target_ys[t])))
                colours.append(colour_of(block) if weights is None else BLUE if weights[t, k] >= 0 else VERMILLION)
                widths.append(0.6 if weights is None else 0.35 + 1.25 * strength)
                strengths.append(0.5 if weights is None else 0.1 + 0.85 * strength**1.5)
        beside = [
            k for k in self.scene.links if k.columns[-2:] == (target.column - 1, target.column) and k.block.pattern == "dense"
        ]
        if block.pattern == "dense" and source.y == target.y and len(beside) == 1:
            top = max(y0 + source.height / 2, y1 + target.height / 2)
            kernel = " " + "×".join(map(str, block.kernel)) if block.kernel else ""
            self.axes.text(
                (x0 + x1) / 2, top + 0.03, f"{block.operation}{kernel}", fontsize=6.2, ha="center", color="#555555", zorder=5
            )
        order = np.argsort(strengths, kind="stable")
        self._lines(
            [lines[k] for k in order], [colours[k] for k in order], [widths[k] for k in order], [strengths[k] for k in order]
        )

    def _lines(
        self, lines: Sequence[tuple[tuple[float, float], tuple[float, float]]], colours: Sequence[str], widths: Sequence[float],
        alphas: float | Sequence[float],
    ) -> None:  # fmt: skip
        """Curves that leave and enter level."""
        share = np.linspace(0, 1, 24)
        ease = share * share * (3 - 2 * share)
        curves = [np.column_stack([x0 + (x1 - x0) * share, y0 + (y1 - y0) * ease]) for (x0, y0), (x1, y1) in lines]
        self.axes.add_collection(
            LineCollection(curves, colors=list(colours), linewidths=list(widths), alpha=alphas, zorder=2, capstyle="round")
        )

    def _cell(self, cell: Cell) -> None:
        # The column that two rows share is drawn in both, the second time faint.
        again = cell.column == self.row.first and self.row.first > 0
        x, y = self.x(cell.column), self.base + cell.y
        if self.scene.style == "nodes":
            self._nodes(cell, x, again=again)
        else:
            self._bar(cell, x, y, again=again)
        self._label(cell, x, y - cell.height / 2 - 0.1, again=again)

    def _nodes(self, cell: Cell, x: float, *, again: bool) -> None:
        ys = [self.base + y for y in cell.node_ys()]
        face, edge, marker = looks(cell.group.role)
        self.axes.plot(
            [x] * len(ys), ys, linestyle="none", marker=marker, markersize=_RADIUS * 2 * 72 - (marker != "o"),
            markerfacecolor=face, markeredgecolor=edge, markeredgewidth=0.9, zorder=4, alpha=0.45 if again else 1,
        )  # fmt: skip
        if len(cell.shown) < cell.group.size:
            last = next(k for k in range(len(ys) - 1) if ys[k] - ys[k + 1] > 1.5 * NODE_PITCH)
            middle = (ys[last] + ys[last + 1]) / 2
            self.axes.plot([x] * 3, [middle + d for d in (-0.05, 0, 0.05)], ".", color=INK, markersize=1.6, zorder=4)

    def _bar(self, cell: Cell, x: float, y: float, *, again: bool) -> None:
        face, edge, _ = looks(cell.group.role)
        sections = cell.sections if 1 < cell.sections <= 16 else 1
        height = cell.height / sections
        for k in range(sections):
            gap = 0.025 if sections > 1 else 0
            low = y + cell.height / 2 - (k + 1) * height + gap / 2
            self.axes.add_patch(
                Rectangle(
                    (x - _BAR / 2, low),
                    _BAR,
                    height - gap,
                    facecolor=face,
                    edgecolor=edge,
                    linewidth=0.9,
                    zorder=4,
                    alpha=0.45 if again else 1,
                )
            )

    def _label(self, cell: Cell, x: float, y: float, *, again: bool) -> None:
        group = cell.group
        sizes = [index.size for index in self.topology.indices_of(group.name)]
        size = "×".join(f"{s:,}" for s in sizes if s > 1 or len(sizes) == 1) or "1"
        # A chain of several functions is for the table.
        is_long = "|" in group.activation or len(group.activation) > _LONGEST_ACTIVATION
        activation = cell.note if is_long or group.activation == "none" else group.activation
        colour = "#999999" if again else INK
        self.axes.text(x, y, cell.title, fontsize=6.6, ha="center", va="top", color=colour, zorder=5)
        self.axes.text(x, y - 0.115, size, fontsize=6.2, ha="center", va="top", color="#999999" if again else "#555555", zorder=5)
        if activation:
            self.axes.text(x, y - 0.225, activation, fontsize=6.2, ha="center", va="top", color=colour, style="italic", zorder=5)


def _weights(graph: NeuralGraph | None, block: EdgeBlock) -> np.ndarray | None:
    """One number an edge, ``[targets, sources]``: the norm of its kernel with the sign of the kernel's sum."""
    if graph is None or block.parameter is None:
        return None
    values = graph.block(block.name).detach().double().numpy()
    return np.linalg.norm(values, axis=-1) * np.where(values.sum(-1) < 0, -1.0, 1.0)


def _rounded(points: Sequence[tuple[float, float]], *, radius: float) -> Outline:
    """A path through points with round corners."""
    vertices, codes = [points[0]], [Outline.MOVETO]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        for other in (before, after):
            length = math.dist(corner, other) or 1.0
            share = min(radius, length / 2) / length
            vertices.append((corner[0] + (other[0] - corner[0]) * share, corner[1] + (other[1] - corner[1]) * share))
            if other is before:
                codes.append(Outline.LINETO)
                vertices.append(corner)
                codes.append(Outline.CURVE3)
        codes.append(Outline.CURVE3)
    return Outline([*vertices, points[-1]], [*codes, Outline.LINETO])


def _is_weighted(scene: Scene, graph: NeuralGraph | None) -> bool:
    return graph is not None and scene.style == "nodes"
