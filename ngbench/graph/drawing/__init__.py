"""Pictures of neural graphs: takes a graph or topology, gives a matplotlib figure and a file.

Knows where things stand on a page; does not know what made the network.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ngbench.errors import PictureError
from ngbench.graph.neural_graph import NeuralGraph
from ngbench.graph.topology import Topology

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}
DEFAULT_WIDTH = 10.0

_MOST_NODES = 32
_MOST_EDGES = 6000
_MOST_COLUMNS = 16


def draw(
    graph: NeuralGraph | Topology,
    path: Path | None = None,
    *,
    style: Literal["auto", "nodes", "ribbons"] = "auto",
    width: float = DEFAULT_WIDTH,
    fold: bool | None = None,
) -> Figure:
    """Draws a neural graph; the same graph gives the same file, byte for byte.

    Args:
        graph: A graph, whose weights then colour the edges of a small network, or a topology.
        path: File to write; its ending chooses the format.
        style: ``"nodes"`` draws each node and edge, ``"ribbons"`` each group as a bar and each block as a ribbon with its
            shape; ``"auto"`` takes nodes for small networks.
        width: Largest width of the picture in inches; longer networks go on in further rows.
        fold: Whether layers that repeat are drawn once; None to do so where there are many.

    Raises:
        PictureError: The path has another ending, or its folder does not exist.
    """
    from matplotlib import rc_context

    from ngbench.graph.drawing.page import draw_scene
    from ngbench.graph.drawing.scene import make_scene

    if path is not None:
        check_path(path)
    topology = graph if isinstance(graph, Topology) else graph.topology
    chosen = style if style != "auto" else "nodes" if _is_small(topology) else "ribbons"
    scene = make_scene(topology, style=chosen, width=width, fold=fold)
    settings: Any = {"svg.hashsalt": "ngbench", "svg.fonttype": "path", "pdf.fonttype": 42, "font.family": "DejaVu Sans"}
    with rc_context(settings):
        figure = draw_scene(scene, topology, None if isinstance(graph, Topology) else graph)
        if path is not None:
            ending = path.suffix[1:].lower()
            try:
                figure.savefig(path, format=ending, dpi=200, metadata=FORMATS[ending])
            except OSError as error:
                raise PictureError(f"picture {str(path)!r} cannot be written: {error.strerror}; choose another path") from error
    return figure


def check_path(path: Path) -> None:
    """Refuses a path that no picture can be written to.

    Raises:
        PictureError: The ending is no format of a picture, or the folder does not exist or takes no files.
    """
    if path.suffix[1:].lower() not in FORMATS:
        raise PictureError(
            f"picture {str(path)!r} ends with {path.suffix!r}; expected one of {', '.join(f'.{f}' for f in FORMATS)}"
        )
    if not path.parent.is_dir():
        raise PictureError(f"picture {str(path)!r} cannot be written: there is no folder {str(path.parent)!r}; make it first")
    if path.parent.is_dir() and (os.path.isdir(path) or not os.access(path if os.path.exists(path) else path.parent, os.W_OK)):
        raise PictureError(f"picture {str(path)!r} cannot be written: expected a file in a folder that you may write to")


def _is_small(topology: Topology) -> bool:
    return (
        max(group.size for group in topology.groups) <= _MOST_NODES
        and topology.num_edges <= _MOST_EDGES
        and len({group.layer for group in topology.groups}) <= _MOST_COLUMNS
    )
