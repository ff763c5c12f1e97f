"""The parts of a zoo's data card that follow from its file: tables of facts, families and columns, and a histogram.

A card is Markdown with the Hugging Face dataset-card fields on top. Purpose and limits are written by hand; what stands
between the markers is made anew by `update_card`, so that no number in a card is typed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ngbench.errors import CardError, WithheldError
from ngbench.store.reader import Zoo
from ngbench.store.released import RELEASED
from ngbench.store.splits import PARTS
from ngbench.zoo.recipe import InrRecipe, parse_recipe

# Okabe and Ito, https://jfly.uni-koeln.de/color: told apart by all eyes
_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000"]
# What a recipe says about its networks, and how many of them are asked for.
_DECIDES_NO_NETWORK = ("title", "description", "licence", "citation", "num_runs")
BEGIN, END = "<!-- made by ngbench zoo card: begin -->", "<!-- made by ngbench zoo card: end -->"
"""Between them stands what follows from a zoo file."""
OUTLINE = ("<!-- made by ngbench zoo card, outline: begin -->", "<!-- made by ngbench zoo card, outline: end -->")
"""Between them stands what follows from a recipe, or from what is known of published zoos."""


def update_card(zoo: Zoo, folder: str | Path, *, column: str | None = None) -> Path:
    """Writes the generated part of ``<zoo>.md`` anew, and the histogram beside it.

    Args:
        zoo: The zoo.
        folder: Where the cards are; the card must be there, with the markers.
        column: Measured column of the histogram; None for the `main_measurement`.

    Returns:
        Path of the card.

    Raises:
        WithheldError: The file withholds what a card tells.
        CardError: There is no such card, or it lacks the markers.
    """
    if zoo.info.withheld is not None:
        raise WithheldError(
            f"zoo {zoo.name!r} version {zoo.version} withholds {', '.join(zoo.info.withheld.columns)} of its test networks; "
            "expected the whole zoo to make a card of"
        )
    path, column = Path(folder) / f"{zoo.name}.md", column or main_measurement(zoo)
    _check(path, (BEGIN, END))
    picture = draw_histogram(zoo, path.with_name(f"{zoo.name}-{column.replace('_', '-')}.png"), column=column)
    shown = f"![Histogram of {column} of the networks of {zoo.name}]({picture.name})"
    return fill_in(path, generated_part(zoo, picture=shown), markers=(BEGIN, END))


def fill_in(path: Path, generated: str, *, markers: tuple[str, str]) -> Path:
    """Replaces what stands between two markers of a card; returns its path.

    Raises:
        CardError: There is no such card, or it lacks the markers.
    """
    begin, end = markers
    text = _check(path, markers)
    pattern = f"{re.escape(begin)}.*{re.escape(end)}"
    path.write_text(re.sub(pattern, lambda _: f"{begin}\n{generated}\n{end}", text, flags=re.DOTALL))
    return path


def _check(path: Path, markers: tuple[str, str]) -> str:
    """The text of a card that has the markers."""
    begin, end = markers
    if not path.exists():
        raise CardError(
            f"no data card {path}; expected one with the lines {begin!r} and {end!r}: write its purpose and limits first"
        )
    text = path.read_text()
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise CardError(f"data card {path} lacks the lines {begin!r} and {end!r}, each once and in this order; add them")
    return text


def generated_part(zoo: Zoo, *, picture: str | None = None) -> str:
    """The tables of a card as Markdown: facts, families where the zoo has some, a picture, columns.

    Args:
        zoo: The zoo.
        picture: Markdown that shows a histogram; None for none.
    """
    parts = [_facts(zoo), _families(zoo) if "family" in zoo.columns else None, picture, _columns(zoo)]
    return "\n\n".join(part for part in parts if part is not None)


def recipe_digest(content: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for what decides the networks of a recipe, but not how many of its runs are trained.

    Args:
        content: The recipe as a zoo file holds it.
    """
    deciding = {key: value for key, value in content.items() if key not in _DECIDES_NO_NETWORK}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:12]


def main_measurement(zoo: Zoo) -> str:
    """The column that says how good a network is: the first of ``test_accuracy`` and ``psnr`` that the zoo has.

    Raises:
        CardError: It has neither.
    """
    found = [name for name in ("test_accuracy", "psnr") if name in zoo.columns]
    if not found:
        raise CardError(f"zoo {zoo.name!r} has neither column 'test_accuracy' nor 'psnr'; expected one, name the column to draw")
    return found[0]


def _facts(zoo: Zoo) -> str:
    num_structures = len({topology.structure for topology in zoo.topologies})
    rows = {
        "networks": f"{len(zoo):,}, each from a run of its own"
        if len(set(zoo.run_ids)) == len(zoo)
        else f"{len(zoo):,} of {len(set(zoo.run_ids)):,} runs",
        **_part_of_recipe(zoo),
        "runs that diverged": f"{len(zoo.diverged):,}",
        "parameters each": parameters_each(zoo),
        "topologies": f"{len(zoo.topologies):,}, of {num_structures:,} structure{'s' if num_structures > 1 else ''}",
        **_quality(zoo),
        **{f"split `{name}`": _split(zoo, name) for name in zoo.splits},
        "file": f"{zoo.path.stat().st_size / 1e6:.1f} MB, sha256 of its content `{zoo.sha256}`",
        "licence": zoo.info.licence,
    }
    return "\n".join(["| fact | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _part_of_recipe(zoo: Zoo) -> dict[str, str]:
    """How many runs of which recipe a zoo has that is no release; a release has all of its own."""
    if zoo.name in RELEASED or zoo.info.recipe is None:
        return {}
    num_runs = zoo.info.recipe["num_runs"]
    return {"trained": f"the first {num_runs:,} runs of recipe `{recipe_digest(zoo.info.recipe)}`"}


def _quality(zoo: Zoo) -> dict[str, str]:
    """How implicit neural representations were made and how good they are; nothing for classifiers."""
    recipe = parse_recipe(zoo.info.recipe, source=f"the recipe in {str(zoo.path)!r}") if zoo.info.recipe is not None else None
    if not isinstance(recipe, InrRecipe):
        return {}
    num_images = len(np.unique(zoo.metadata["image_index"]))
    starts = {"independent": "initial weights of its own for each fit", "shared": "the same initial weights for all fits"}
    quantiles = np.quantile(zoo.metadata["psnr"], (0, 0.01, 0.1, 0.5, 0.9, 1))
    names = ("least", "1 %", "10 %", "median", "90 %", "largest")
    return {
        "fits": f"{recipe.fits_per_image} of each of {num_images:,} images of corpus `{recipe.corpus}`",
        "initialisation": starts[recipe.initialization],
        "`psnr`": ", ".join(f"{name} {value:.1f}" for name, value in zip(names, quantiles, strict=True)) + " dB",
        "stored outputs": f"`{recipe.corpus}`: the image that each network renders, float16",
    }


def parameters_each(zoo: Zoo) -> str:
    """The least and the largest number of parameters of a network, running statistics not counted where the zoo says so."""
    counts = zoo.metadata["num_parameters"] if "num_parameters" in zoo.columns else [t.num_values for t in zoo.topologies]
    return " to ".join(f"{count:,}" for count in dict.fromkeys((min(counts), max(counts))))


def _split(zoo: Zoo, name: str) -> str:
    sizes = ", ".join(f"{len(zoo.split(part, name)):,} {part}" for part in PARTS)
    rules = {} if zoo.info.recipe is None else parse_recipe(zoo.info.recipe, source=f"the recipe in {str(zoo.path)!r}").splits
    decides = "the run id" if zoo.split_by is None else f"`{zoo.split_by}`"
    return f"{sizes}, {rules[name]}" if name in rules else f"{sizes}, by hash of {decides}"


def _families(zoo: Zoo) -> str:
    names = ("width", "depth", "kernel_size", "norm", "num_parameters", "test_accuracy")
    rows = ["| family | networks | topologies | " + " | ".join(f"`{name}`" for name in names) + " |"]
    rows.append("|---" * (3 + len(names)) + "|")
    families = zoo.metadata["family"]
    for family in dict.fromkeys(families.tolist()):
        of_family = families == family
        columns = {name: zoo.metadata[name][of_family] for name in names}
        num_topologies = len(np.unique(zoo.topology_index[of_family]))
        cells = [family, f"{of_family.sum():,}", f"{num_topologies:,}", *map(_values, columns.values())]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _values(values: np.ndarray) -> str:
    """All different values of a column, where they are few; else their range."""
    different = np.unique(values).tolist()
    return ", ".join(map(str, different)) if len(different) <= 5 else summary(values)


def _columns(zoo: Zoo) -> str:
    rows = [f"| `{name}` | {c.role} | {summary(zoo.metadata[name])} | {c.description} |" for name, c in zoo.columns.items()]
    return "\n".join(["| column | role | values | meaning |", "|---|---|---|---|", *rows])


def summary(values: np.ndarray) -> str:
    """The range of a column of numbers, integers in full, or its different texts with how often each occurs.

    NaN stands for numbers that are not given, which are counted; neither these nor infinite ones are in the range.

    Args:
        values: ``[networks]``.
    """
    if values.dtype.kind in "fiu":
        form = ".4g" if values.dtype.kind == "f" else "d"
        given = values[np.isfinite(values)]
        ends = [f"{value:{form}}" for value in (given.min(), given.max())] if len(given) else []
        told = [" to ".join(dict.fromkeys(ends))] if ends else []
        lacking = {"not given": int(np.isnan(values).sum()), "infinite": int(np.isinf(values).sum())}
        return ", ".join([*told, *(f"{what} for {count:,}" for what, count in lacking.items() if count)])
    names, counts = np.unique(values, return_counts=True)
    if len(names) > 8:
        return f"{len(names):,} different"
    return ", ".join(f"{name} {count:,}" for name, count in zip(names, counts, strict=True))


def histogram_edges(values: np.ndarray, *, column: str, num_bins: int) -> list[float]:
    """Edges of the bins of a histogram: from 0 to 1 for accuracies that fill half of that, else of the range that there is.

    Numbers that are not finite are left out; where none is, there is one edge.

    Args:
        values: ``[networks]``.
        column: Name of the column.
        num_bins: Most bins; of few different numbers each has one, so that none stays empty between them.
    """
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    if column.endswith("accuracy") and high - low > 0.5:
        return np.linspace(0.0, 1.0, num_bins + 1).tolist()
    return np.linspace(low, high, min(num_bins, len(np.unique(values))) + 1).tolist()


def draw_histogram(zoo: Zoo, path: Path, *, column: str) -> Path:
    """Draws how a measured column is spread: the splits stacked, or for each family by itself the corpora stacked.

    Args:
        zoo: The zoo.
        path: The PNG to write.
        column: A column of numbers.

    Returns:
        Path of the PNG.
    """
    from matplotlib.figure import Figure

    label, edges = column.replace("_", " "), histogram_edges(zoo.metadata[column], column=column, num_bins=50)
    if "family" in zoo.columns:
        figure = Figure(figsize=(7.6, 5.6), layout="constrained")
        families, corpora = zoo.metadata["family"], zoo.metadata["corpus"]
        names = list(dict.fromkeys(families.tolist()))
        num_columns = min(2, len(names))
        panels = figure.subplots(-(-len(names) // num_columns), num_columns, sharex=True, sharey=True, squeeze=False).flatten()
        for unused in panels[len(names) :]:
            unused.set_visible(False)
        for axes, family in zip(panels, names, strict=False):
            chosen = {corpus: (families == family) & (corpora == corpus) for corpus in np.unique(corpora).tolist()}
            _stacked(axes, {corpus: zoo.metadata[column][rows] for corpus, rows in chosen.items()}, column=column, edges=edges)
            axes.label_outer()
            axes.set_title(f"{family} ({(families == family).sum():,})", fontsize=10)
        figure.suptitle(f"{zoo.name} v{zoo.version}: {label} of {len(zoo):,} networks", fontsize=11)
        figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, ncols=5, fontsize=9, loc="outside lower center")
    else:
        figure = Figure(figsize=(7.6, 3.8), layout="constrained")
        axes = figure.subplots()
        parts = {part: zoo.metadata[column][zoo.split(part)] for part in PARTS}
        _stacked(axes, {f"{part} ({len(values):,})": values for part, values in parts.items()}, column=column, edges=edges)
        axes.set_title(f"{zoo.name} v{zoo.version}: {label} of {len(zoo):,} networks", fontsize=11)
        # over the whole of their range accuracies gather at the right end, other measurements in the middle
        axes.legend(frameon=False, title="split", loc="upper center" if edges[:: len(edges) - 1] == [0.0, 1.0] else "upper left")
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return path


def _stacked(axes: Any, values: Mapping[str, np.ndarray], *, column: str, edges: list[float]) -> None:
    axes.hist(list(values.values()), bins=edges, stacked=True, color=_COLOURS[: len(values)], label=list(values))
    unit = " (fraction)" if column.endswith("accuracy") else " (dB)" if column == "psnr" else ""
    axes.set_xlabel(column.replace("_", " ") + unit)
    axes.set_ylabel("networks")
    axes.spines[["top", "right"]].set_visible(False)
