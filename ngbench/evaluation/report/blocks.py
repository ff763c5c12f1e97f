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
    """

    text: str
    is_best: bool = False
    width: int = 1
    is_words: bool = False


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


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side.

    Args:
        title: Above them.
        first: Always shown.
        others: Shown when they are asked for.
    """

    kind: ClassVar[str] = "pictures"
    title: str
    first: tuple[Chart | Matrix | Examples, ...]
    others: tuple[Chart | Matrix | Examples, ...] = ()

    @property
    def is_wide(self) -> bool:
        """Whether each takes a line of its own."""
        return any(isinstance(picture, Examples) and not picture.are_images for picture in self.first)


@dataclass(frozen=True)
class Sentences:
    """Sentences in a list."""

    kind: ClassVar[str] = "sentences"
    title: str
    texts: tuple[str, ...]


Block = Table | Pictures | Sentences


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
