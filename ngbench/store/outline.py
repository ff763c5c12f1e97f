"""The parts of a data card that follow from a recipe, or from what is known of a published zoo, without any file of networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ngbench.errors import UnknownNameError
from ngbench.store.card import OUTLINE, fill_in, recipe_digest
from ngbench.store.published import FAMILIES, PUBLISHED, PublishedZoo
from ngbench.zoo.architectures import build
from ngbench.zoo.columns import Column
from ngbench.zoo.distributions import ByValue, Choice, Distribution, Fixed
from ngbench.zoo.recipe import ClassifierRecipe, InrRecipe, load_recipe, recipe_names

_DISTRIBUTIONS = {"uniform": "uniform", "log_uniform": "log-uniform", "log_int": "log-uniform, whole,"}


def update_outline(name: str, folder: str | Path) -> Path:
    """Writes the outline in the data card of a recipe, or of a family of published zoos, anew.

    Args:
        name: Of a recipe, or of one of `FAMILIES`.
        folder: Where the cards are; ``<name>.md`` must be there, with the markers.

    Returns:
        Path of the card.

    Raises:
        UnknownNameError: There is no recipe or family of that name.
        CardError: There is no such card, or it lacks the markers.
    """
    if name not in (*recipe_names(), *FAMILIES):
        raise UnknownNameError("recipe or family of published zoos", name, (*recipe_names(), *FAMILIES))
    text = outline_of_family(name) if name in FAMILIES else outline_of_recipe(load_recipe(name))
    return fill_in(Path(folder) / f"{name}.md", text, markers=OUTLINE)


def outline_of_recipe(recipe: ClassifierRecipe | InrRecipe) -> str:
    """Tables of what a recipe makes, how its hyper-parameters are drawn, and the columns, as Markdown."""
    facts = {
        "recipe": f"`ngbench/zoo/recipes/{recipe.name}.yaml`, `{recipe_digest(recipe.model_dump(mode='json'))}`",
        "runs": f"{recipe.num_runs:,}",
        "networks": f"{recipe.num_runs * recipe.networks_per_run:,}, less those that diverge",
        **_networks(recipe),
        "split `default`": "70 % train, 10 % val, 20 % test, by hash of "
        + ("the run id" if recipe.split_by is None else f"`{recipe.split_by}`"),
        **{f"split `{name}`": str(split) for name, split in recipe.splits.items()},
        "weights": "float32" if recipe.rounding == "none" else f"rounded to {recipe.rounding}",
        "licence": recipe.licence,
    }
    drawn = {f"`{name}`": described(distribution) for name, distribution in recipe.hyperparameters.items()}
    tables = [_table(("fact", "value"), facts.items()), _table(("hyper-parameter", "drawn"), drawn.items())]
    return "\n\n".join((*tables, _columns(column for column in recipe.columns if column.name not in recipe.hyperparameters)))


def _networks(recipe: ClassifierRecipe | InrRecipe) -> dict[str, str]:
    """Facts of what networks are built as and trained on."""
    built = [recipe.architecture_of(number) for number in range(recipe.num_architectures)]
    activation = str(recipe.hyperparameters["activation"].extremes()[0]) if isinstance(recipe, ClassifierRecipe) else "sine"
    counts = [sum(weights.numel() for weights in build(each, activation).parameters()) for each in built]
    facts = {
        "architectures": f"{len(built):,}, of {', '.join(sorted({architecture.family for architecture in built}))}",
        "parameters each": " to ".join(f"{count:,}" for count in dict.fromkeys((min(counts), max(counts)))),
    }
    if isinstance(recipe, InrRecipe):
        source, corpus = recipe.source, recipe.corpus
        facts["fits"] = f"{recipe.fits_per_image} of each image, from {recipe.initialization} initial weights"
    else:
        source, corpus, sizes = recipe.images.source, ", ".join(recipe.images.corpora), recipe.images
        facts["images of training, validation and test"] = f"{sizes.num_train:,}, {sizes.num_val:,} and {sizes.num_test:,}"
        if recipe.checkpoints:
            facts["checkpoints after epochs"] = ", ".join(map(str, recipe.checkpoints))
    facts["corpus"] = f"`{corpus}`"
    if source is not None:
        scale = f"(pixel - {_numbers(source.mean)}) / {_numbers(source.std)}" if source.mean != (0.0,) else "pixels from 0 to 1"
        facts["corpus"] += f": `{source.hub}` of the hub, {' × '.join(map(str, source.size))}, {source.color}, {scale}"
    return facts


def _numbers(values: Sequence[float]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else f"({', '.join(f'{value:.4g}' for value in values)})"


def described(distribution: Distribution) -> str:
    """How a hyper-parameter is drawn, in words."""
    if isinstance(distribution, Fixed):
        return f"{distribution.value}"
    if isinstance(distribution, ByValue):
        cases = "; ".join(f"{case}: {described(of)}" for case, of in distribution.cases.items())
        return f"by `{distribution.hyperparameter}`: {cases}"
    if isinstance(distribution, Choice):
        weights = "" if distribution.weights is None else f", as {' to '.join(f'{weight:g}' for weight in distribution.weights)}"
        return f"{', '.join(map(str, distribution.values))}{weights}"
    return f"{_DISTRIBUTIONS[distribution.kind]} from {distribution.low:g} to {distribution.high:g}"


def outline_of_family(family: str) -> str:
    """Tables of the zoos of a family, their files and their columns, as Markdown."""
    zoos = [PUBLISHED[name] for name in FAMILIES[family]]
    rows = [(f"`{zoo.name}`", zoo.title.partition(": ")[2] or zoo.title, f"<{zoo.home}>", _way(zoo), _proof(zoo)) for zoo in zoos]
    tables = [_table(("zoo", "networks", "home", "`ngbench zoo`", "measured again at import"), rows)]
    files = [(f"`{file.name}`", f"<{file.url}>", _checksum(file.sha256)) for zoo in zoos for file in zoo.files]
    files += [("Parquet", f"dataset `{zoo.hub_dataset}` of the hub", "by the hub's client") for zoo in zoos if zoo.hub_dataset]
    if files:
        tables.append(_table(("file", "from", "sha256"), dict.fromkeys(files)))
    first = zoos[0]
    references = ", ".join(dict.fromkeys(f"`{name}`" for zoo in zoos for name in zoo.references)) or "none"
    facts = {
        "split `default`": "70 % train, 10 % val, 20 % test, by hash of the run id",
        "reference splits": references,
        "licence": first.licence,
        "cite": first.citation,
    }
    tables.append(_table(("fact", "value"), facts.items()))
    return "\n\n".join((*tables, _columns(dict.fromkeys(column for zoo in zoos for column in zoo.columns))))


def _way(zoo: PublishedZoo) -> str:
    if zoo.hub_models is not None:
        return "download (network by network), import"
    return "download, import" if zoo.is_downloadable else "import"


def _proof(zoo: PublishedZoo) -> str:
    evaluation = zoo.evaluation
    return "no" if evaluation is None else f"`{evaluation.column}` on the test images of `{evaluation.hub}`"


def _checksum(sha256: str | None) -> str:
    return "recorded at the first download" if sha256 is None else f"`{sha256}`"


def _columns(columns: Iterable[Column]) -> str:
    rows = [(f"`{column.name}`", column.role, column.description) for column in columns if column.name != "run_id"]
    return _table(("column", "role", "meaning"), rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]] | Mapping[Sequence[str], None]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])
