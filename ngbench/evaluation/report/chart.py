"""Pictures as path texts in units of their view box; the template draws them in colours that follow the reader's mode."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

NUM_STYLES = 7
"""Colours of series in the style sheet: those of Okabe and Ito (2008) without yellow, which white paper hides."""

Shape = Literal["round", "cross", "diamond"]
SHAPES: Mapping[Shape, str] = {"round": "h0", "cross": "m-3 0h6m-3-3v6", "diamond": "m-3 0l3-3 3 3-3 3z"}
"""How a point is drawn once its place is reached."""

FEW, SOME = 40, 350
"""Points up to which a picture has large ones, or middling ones."""

FULL = 0.6
"""Share of a row from which a cell's number is written in the colour of the paper."""

_CHARACTER = 6.3
"""Width of a letter of the pictures' labels."""


@dataclass(frozen=True)
class Axis:
    """What numbers along an edge mean.

    Args:
        label: With the unit, where there is one.
        low: At the left or bottom.
        high: At the right or top.
        ticks: Values with their texts.
        is_log: Whether equal lengths are equal ratios.
    """

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...] = ()
    is_log: bool = False

    @classmethod
    def around(cls, label: str, low: float, high: float) -> Axis:
        """An axis with three to six round numbers between two values, and a margin beyond them."""
        spread = max(high - low, 1e-9 * max(abs(low), abs(high), 1.0))
        return cls.exact(label, low - 0.04 * spread, high + 0.04 * spread)

    @classmethod
    def exact(cls, label: str, low: float, high: float) -> Axis:
        """An axis with three to six round numbers between its ends."""
        rough = (high - low) / 6
        power = 10.0 ** math.floor(math.log10(rough))
        step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= 0.999 * rough)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        numbers = range(math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6) + 1)
        return cls(label, low, high, tuple((number * step, f"{number * step:.{digits}f}") for number in numbers))

    @classmethod
    def powers(cls, label: str, low: int, high: int) -> Axis:
        """A logarithmic axis from one power of ten to another."""
        step = max(1, (high - low) // 4)
        ticks = tuple((10.0**power, f"1e{power}" if power else "1") for power in range(high, low - 1, -step))
        return cls(label, 10.0**low, 10.0**high, ticks, is_log=True)

    @classmethod
    def names(cls, names: Sequence[str], *, most: int = 20) -> Axis:
        """Rows with names, the first at the top."""
        short = (name if len(name) <= most else f"{name[: most - 1]}…" for name in names)
        ticks = tuple((float(-row), name) for row, name in enumerate(short))
        return cls("", -len(ticks) + 0.4, 0.6, ticks)

    def share(self, values: np.ndarray | float) -> np.ndarray:
        """How far along the axis values are, 0 to 1 where they are within."""
        low, high, values = (np.log10(v) if self.is_log else np.asarray(v) for v in (self.low, self.high, values))
        return (values - low) / (high - low)


@dataclass(frozen=True)
class Plot:
    """A rectangle between two axes, in a view box whose unit is a pixel of a phone.

    Args:
        x: From left to right.
        y: From bottom to top.
        width: Of the view box.
        height: Of the view box.
        left: Margin with the labels of `y`.
        right: Margin.
        top: Margin.
        bottom: Margin with the labels of `x`.
    """

    x: Axis
    y: Axis
    width: float = 340
    height: float = 290
    left: float = 52
    right: float = 12
    top: float = 8
    bottom: float = 42

    @property
    def inner(self) -> tuple[float, float]:
        """Right and bottom end of the rectangle."""
        return self.width - self.right, self.height - self.bottom

    def place(self, x: np.ndarray | float, y: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates in the view box."""
        right, bottom = self.inner
        return self.left + self.x.share(x) * (right - self.left), bottom - self.y.share(y) * (bottom - self.top)

    @property
    def x_ticks(self) -> list[tuple[str, str]]:
        """Places along the view box and texts."""
        return [(number(float(self.place(value, self.y.low)[0])), text) for value, text in self.x.ticks]

    @property
    def y_ticks(self) -> list[tuple[str, str]]:
        """Places along the view box and texts."""
        return [(number(float(self.place(self.x.low, value)[1])), text) for value, text in self.y.ticks]

    def dots(self, x: np.ndarray, y: np.ndarray, *, shape: Shape = "round") -> str:
        """A path that marks points; those in the same tenth of a pixel once, those outside not at all."""
        places = np.round(np.stack(self.place(x, y), axis=-1).reshape(-1, 2), 1)
        right, bottom = self.inner
        is_inside = (places >= (self.left, self.top)).all(axis=1) & (places <= (right, bottom)).all(axis=1)
        return "".join(f"M{number(a)} {number(b)}{SHAPES[shape]}" for a, b in np.unique(places[is_inside], axis=0).tolist())

    def line(self, x: np.ndarray, y: np.ndarray) -> str:
        """A path from point to point."""
        places = zip(*(part.tolist() for part in self.place(x, y)), strict=True)
        return "M" + "L".join(f"{number(a)} {number(b)}" for a, b in places)

    def rectangles(self, low: np.ndarray, high: np.ndarray, y: np.ndarray) -> str:
        """A path around bars that stand on the low end of `y`."""
        left, top = self.place(low, y)
        right, _ = self.place(high, y)
        corners, ground = zip(left.tolist(), top.tolist(), right.tolist(), strict=True), number(self.inner[1])
        return "".join(f"M{number(a)} {ground}V{number(b)}H{number(c)}V{ground}z" for a, b, c in corners)

    def bars(self, low: np.ndarray, high: np.ndarray, y: np.ndarray) -> str:
        """A path of horizontal lines."""
        left, height = self.place(low, y)
        right, _ = self.place(high, y)
        ends = zip(left.tolist(), height.tolist(), right.tolist(), strict=True)
        return "".join(f"M{number(a)} {number(b)}H{number(c)}" for a, b, c in ends)


@dataclass(frozen=True)
class Mark:
    """Something drawn.

    Args:
        path: Of the view box.
        kind: How it is drawn; a guide is a thin line that stands for no data.
        label: For the legend; None for none.
        style: Number of its colour.
        shape: Of dots.
        dash: Number of the pattern of a line, 0 for a solid one.
    """

    path: str
    kind: Literal["dots", "line", "area", "guide"]
    label: str | None = None
    style: int = 0
    shape: Shape = "round"
    dash: int = 0

    @property
    def ending(self) -> str:
        """Of the path of one point."""
        return SHAPES[self.shape]

    @classmethod
    def dots(cls, plot: Plot, x: np.ndarray, y: np.ndarray, *, label: str | None, place: int = 0) -> Mark:
        """Points of the place-th series, by colour and, beyond those, by shape."""
        shape = list(SHAPES)[place // NUM_STYLES % len(SHAPES)]
        return cls(plot.dots(x, y, shape=shape), "dots", label, place % NUM_STYLES, shape)

    @classmethod
    def line(cls, plot: Plot, x: np.ndarray, y: np.ndarray, *, label: str | None, place: int = 0) -> Mark:
        """The line of the place-th series, by colour and by its pattern."""
        return cls(plot.line(x, y), "line", label, place % NUM_STYLES, dash=place % 4)


@dataclass(frozen=True)
class Chart:
    """A picture of points and lines.

    Args:
        title: Above it.
        plot: Its axes.
        marks: From back to front.
        note: What a reader must know beside the legend.
    """

    kind: ClassVar[str] = "chart"
    title: str
    plot: Plot
    marks: tuple[Mark, ...]
    note: str = ""

    @property
    def said(self) -> str:
        """Its axes in words, for those who do not see it."""
        return " over ".join(axis.label for axis in (self.plot.y, self.plot.x) if axis.label)

    @property
    def density(self) -> str:
        """By how many points it has, which decides how large they are."""
        count = sum(mark.path.count("M") for mark in self.marks if mark.kind == "dots")
        return "few" if count <= FEW or not self.plot.y.label else "some" if count <= SOME else "many"

    @property
    def legend(self) -> tuple[Mark, ...]:
        """Marks with a label, each label once."""
        return tuple({mark.label: mark for mark in self.marks if mark.label is not None}.values())


@dataclass(frozen=True)
class Box:
    """A cell of a matrix: its corner and middle, how full it is from 0 to 1, its text, and what it says when pointed at."""

    x: str
    y: str
    middle_x: str
    middle_y: str
    share: str
    text: str
    is_full: bool
    is_right: bool
    title: str


@dataclass(frozen=True)
class Matrix:
    """A picture of counts in rows and columns.

    Args:
        title: Above it.
        counts: ``[classes, classes]``, rows true and columns predicted.
        classes: Names of both.
        of: What classes are of, for the labels of the axes.
        note: Below it.
    """

    kind: ClassVar[str] = "matrix"
    title: str
    counts: np.ndarray
    classes: tuple[str, ...]
    of: str
    note: str = ""

    @property
    def said(self) -> str:
        """Its axes in words, for those who do not see it."""
        return f"true {self.of} in rows, predicted in columns"

    @property
    def names(self) -> tuple[str, ...]:
        """Names, those too long cut."""
        return tuple(name if len(name) <= 16 else f"{name[:15]}…" for name in self.classes)

    @property
    def margin(self) -> float:
        """Of the rows' names and the title of their axis."""
        return 26 + _CHARACTER * max(map(len, self.names))

    @property
    def top(self) -> float:
        """Margin of the columns' names, which stand upright where they are long."""
        return self.margin if self.is_upright else 40

    @property
    def is_upright(self) -> bool:
        """Whether names of columns are turned."""
        return _CHARACTER * max(map(len, self.names)) > self.side - 4

    @property
    def side(self) -> float:
        """Of a cell."""
        return min(44.0, (340 - self.margin - 4) / len(self.classes))

    @property
    def places(self) -> list[tuple[str, str]]:
        """The middle of each row or column within the cells, with its name."""
        return [(number((k + 0.5) * self.side), name) for k, name in enumerate(self.names)]

    @property
    def diagonal(self) -> list[str]:
        """Corners of the cells of right answers, one number for both coordinates."""
        return [number(k * self.side) for k in range(len(self.classes))]

    @property
    def boxes(self) -> list[Box]:
        """Its cells that hold something."""
        totals = self.counts.sum(axis=1)
        found = []
        for row, column in np.argwhere(self.counts).tolist():
            count, share = int(self.counts[row, column]), float(self.counts[row, column] / totals[row])
            said = f"{count} of {totals[row]} of {self.classes[row]} named {self.classes[column]}"
            text = str(count) if self.side >= 16 else ""
            x, y, middle_x, middle_y = (number((k + shift) * self.side) for shift in (0, 0.5) for k in (column, row))
            found.append(Box(x, y, middle_x, middle_y, f"{share:.2f}", text, share > FULL, row == column, said))
        return found


def number(value: float) -> str:
    """A coordinate, to a tenth, as short as it can be."""
    return f"{value:.1f}".removesuffix(".0")
