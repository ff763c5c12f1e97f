"""The parts of a zoo's data card that follow from its file: a table of facts, of columns, and a histogram.

A card is Markdown with the Hugging Face dataset-card fields on top. Purpose and limits are written by hand; what stands
between the markers is made anew by `update_card`, so that no number in a card is typed.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ngbench.errors import CardError
from ngbench.store.reader import Zoo

BEGIN, END = "<!-- made by ngbench zoo card: begin -->", "<!-- made by ngbench zoo card: end -->"


def update_card(zoo: Zoo, folder: str | Path, *, column: str = "test_accuracy") -> Path:
    """Writes the generated part of ``<zoo>.md`` anew, and the histogram beside it.

    Args:
        zoo: The zoo.
        folder: Where the cards are; the card must be there, with the markers.
        column: Measured column of the histogram.

    Returns:
        Path of the card.

    Raises:
        CardError: There is no such card, or it lacks the markers.
    """
    path = Path(folder) / f"{zoo.name}.md"
    if not path.exists():
        raise CardError(
            f"no data card {path}; expected one with the lines {BEGIN!r} and {END!r}: write its purpose and limits first"
        )
    text = path.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise CardError(f"data card {path} lacks the lines {BEGIN!r} and {END!r}, each once and in this order; add them")
    picture = draw_histogram(zoo, path.with_name(f"{zoo.name}-{column.replace('_', '-')}.png"), column=column)
    generated = f"{_facts(zoo)}\n\n![Histogram of {column} of the networks of {zoo.name}]({picture.name})\n\n{_columns(zoo)}"
    path.write_text(
        re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: f"{BEGIN}\n{generated}\n{END}", text, flags=re.DOTALL)
    )
    return path


def _facts(zoo: Zoo) -> str:
    num_structures = len({topology.structure for topology in zoo.topologies})
    parameters = sorted({topology.num_values for topology in zoo.topologies})
    sizes = [f"{len(zoo.split(part)):,} {part}" for part in ("train", "val", "test")]
    rows = {
        "networks": f"{len(zoo):,}, each from a run of its own"
        if len(set(zoo.run_ids)) == len(zoo)
        else f"{len(zoo):,} of {len(set(zoo.run_ids)):,} runs",
        "runs that diverged": f"{len(zoo.diverged):,}",
        "parameters each": " to ".join(f"{count:,}" for count in dict.fromkeys((parameters[0], parameters[-1]))),
        "topologies": f"{len(zoo.topologies):,}, of {num_structures:,} structure{'s' if num_structures > 1 else ''}",
        "split `default`": f"{', '.join(sizes)}, by hash of the run id",
        "file": f"{zoo.path.stat().st_size / 1e6:.1f} MB, sha256 of its content `{zoo.sha256}`",
        "licence": zoo.info.licence,
    }
    return "\n".join(["| fact | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _columns(zoo: Zoo) -> str:
    rows = [f"| `{name}` | {c.role} | {summary(zoo.metadata[name])} | {c.description} |" for name, c in zoo.columns.items()]
    return "\n".join(["| column | role | values | meaning |", "|---|---|---|---|", *rows])


def summary(values: np.ndarray) -> str:
    """The range of a column of numbers, or its different texts with how often each occurs.

    Args:
        values: ``[networks]``.
    """
    if values.dtype.kind in "fiu":
        return f"{values.min():.4g} to {values.max():.4g}"
    names, counts = np.unique(values, return_counts=True)
    if len(names) > 8:
        return f"{len(names):,} different"
    return ", ".join(f"{name} {count:,}" for name, count in zip(names, counts, strict=True))


def draw_histogram(zoo: Zoo, path: Path, *, column: str) -> Path:
    """Draws how a measured column is spread, the splits stacked.

    Args:
        zoo: The zoo.
        path: The PNG to write.
        column: A column of numbers.

    Returns:
        Path of the PNG.
    """
    from matplotlib.figure import Figure

    values = zoo.metadata[column]
    parts = {part: values[zoo.split(part)] for part in ("train", "val", "test")}
    figure = Figure(figsize=(7.6, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.hist(
        list(parts.values()),
        bins=list(np.linspace(0, 1, 51)) if column.endswith("accuracy") else 50,
        stacked=True,
        color=["#0072B2", "#E69F00", "#009E73"],
        label=[f"{part} ({len(part_values):,})" for part, part_values in parts.items()],
    )
    axes.set_title(f"{zoo.name} v{zoo.version}: {column.replace('_', ' ')} of {len(zoo):,} networks", fontsize=11)
    axes.set_xlabel(f"{column.replace('_', ' ')}" + (" (fraction)" if column.endswith("accuracy") else ""))
    axes.set_ylabel("networks")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="split", loc="upper center")
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return path
