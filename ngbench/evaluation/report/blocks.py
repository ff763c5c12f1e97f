"""What a page is made of: sections of tables, pictures and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ngbench.evaluation.report.chart import Chart, Matrix
from ngbench.evaluation.report.examples import Examples


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Args:
        text: What stands in it.
        is_best: Whether it is marked as best or tied.
        width: Columns that it takes.
        is_words: Whether it is a text that may take several lines.
        share: How far its ground is coloured, from 0 to 1; None for not at all.
    """

    text: str
    is_best: bool = False
    width: int = 1
    is_words: bool = False
    share: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows under headings.

    Args:
        title: Above it.
        headings: The first is that of names; the others stand above numbers or words.
        parts: Rows by what they have in common, which may be nothing.
        note: Below it.
    """

    kind: ClassVar[str] = "table"
    title: str
    headings: tuple[str, ...]
    parts: Mapping[str, Sequence[tuple[Cell, ...]]]
    note: str = ""

    @property
    def has_words(self) -> tuple[bool, ...]:
        """Whether texts stand under each heading, in every row."""
        rows = [row for rows in self.parts.values() for row in rows if len(row) == len(self.headings)]
        return tuple(bool(rows) and all(row[place].is_words for row in rows) for place in range(len(self.headings)))


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side.

    Args:
        title: Above them.
        first: Always shown.
        others: Shown when they are asked for.
        note: What their signs mean.
    """

    kind: ClassVar[str] = "pictures"
    title: str
    first: tuple[Chart | Matrix | Examples, ...]
    others: tuple[Chart | Matrix | Examples, ...] = ()
    note: str = ""

    @property
    def arrangement(self) -> str:
        """How they stand: each in a line of its own, two in a line, or as many as there is room for."""
        if any(isinstance(picture, Examples) and not picture.are_images for picture in self.first):
            return "wide"
        return "even" if len(self.first) in (2, 4) and not self.others else ""


@dataclass(frozen=True)
class Beside:
    """A table with a picture at its side, or below it where there is no room."""

    kind: ClassVar[str] = "beside"
    table: Table
    picture: Chart


@dataclass(frozen=True)
class Sentences:
    """Sentences in a list."""

    kind: ClassVar[str] = "sentences"
    title: str
    texts: tuple[str, ...]


Block = Table | Pictures | Beside | Sentences


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading.

    Args:
        title: Its heading.
        lead: What it is about.
        blocks: What it holds.
    """

    title: str
    lead: str
    blocks: tuple[Block, ...]
