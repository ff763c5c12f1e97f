"""Colours and marks of roles, operations and weights, and the legend that says what they mean."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ngbench.graph.drawing.scene import Scene
from ngbench.graph.topology import EdgeBlock

# Okabe and Ito's palette, told apart by readers who do not see all colours (jfly.uni-koeln.de/color).
BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
GREY, DARK, INK, PALE = "#8C8C8C", "#3C3C3C", "#222222", "#F3F4F6"

_FAMILIES = (
    ("conv", GREEN),
    ("norm", ORANGE),
    ("embedding", PURPLE),
    ("positional", PURPLE),
    ("lstm", SKY),
    ("gru", SKY),
    ("rnn", SKY),
    ("linear", BLUE),
)


def looks(role: str) -> tuple[str, str, str]:
    """Fill, outline and marker of a role."""
    return {
        "input": ("#4D4D4D", INK, "o"),
        "hidden": ("white", INK, "o"),
        "output": (INK, INK, "D"),
        "structural": ("#D9D9D9", "#6B6B6B", "s"),
    }[role]


def colour_of(block: EdgeBlock) -> str:
    """The colour of a block's operation; grey where it has no parameter."""
    if block.parameter is None:
        return GREY
    return next((colour for word, colour in _FAMILIES if word in block.operation), VERMILLION)


def arc_colour(block: EdgeBlock, *, weighted: bool) -> str:
    """The colour of a block as a whole, apart from those of weights where they colour the edges."""
    return DARK if weighted and block.parameter is not None else colour_of(block)


def draw_legend(axes: Axes, handles: Sequence[Artist], num_columns: int) -> None:
    """What colours and marks mean, under the rows."""
    legend = axes.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0.0), ncols=num_columns, frameon=False, fontsize=6.8,
        handlelength=1.3, handletextpad=0.5, columnspacing=1.4,
    )  # fmt: skip
    legend.set_zorder(6)


def legend_handles(scene: Scene, *, weighted: bool) -> list[Artist]:
    """One mark for each role and each colour."""
    handles: list[Artist] = [_mark(scene, role) for role in dict.fromkeys(cell.group.role for cell in scene.cells.values())]
    if weighted:
        handles += [
            Line2D([], [], color=colour, linewidth=1.6, label=f"weight {sign} 0")
            for colour, sign in ((BLUE, ">"), (VERMILLION, "<"))
        ]
    words: dict[str, list[str]] = {}
    for link in scene.links:
        # Where weights colour the edges, only what leaps over columns has the colour of its operation.
        if link.block.parameter is None or link.is_arc or not weighted:
            colour = arc_colour(link.block, weighted=weighted)
            words.setdefault(colour, []).append(link.block.operation.replace("_", " "))
    for colour, names in sorted(words.items(), key=lambda item: item[0] == GREY):
        label = ", ".join(dict.fromkeys(names))
        is_line = colour == GREY or weighted
        handles.append(
            Line2D([], [], color=colour, linewidth=1.4, label=label)
            if is_line
            else Patch(facecolor=colour, alpha=0.55, label=label)
        )
    return handles


def _mark(scene: Scene, role: str) -> Artist:
    face, edge, marker = looks(role)
    if scene.style == "ribbons":
        return Patch(facecolor=face, edgecolor=edge, linewidth=0.8, label=role)
    return Line2D([], [], linestyle="none", marker=marker, markersize=6, markerfacecolor=face, markeredgecolor=edge, label=role)


def legend_rows(handles: Sequence[Artist], *, width: float) -> tuple[int, int]:
    """Rows and columns of a legend that is not wider than the page, in inches."""
    lengths = [0.36 + 0.05 * len(str(handle.get_label())) for handle in handles]
    num_rows = math.ceil(sum(lengths) / width)
    return num_rows, math.ceil(len(handles) / num_rows)
