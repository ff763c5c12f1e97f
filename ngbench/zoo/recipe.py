"""What a zoo is: which images, which architectures, which hyper-parameters, how many runs."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np
import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from ngbench.errors import RecipeError, UnknownNameError
from ngbench.zoo.architectures import Architecture, ClassifierArchitecture, Cnn, Siren
from ngbench.zoo.columns import COLUMNS, INR_COLUMNS, Column, zoo_columns
from ngbench.zoo.distributions import ByValue, Distribution, Value
from ngbench.zoo.hub_images import HubImages
from ngbench.zoo.images import ImagesSpec, corpora
from ngbench.zoo.park import ParkSampler, sampled
from ngbench.zoo.transfer import TransferSplit

# The keys of a recipe in the order of the JSON in released files, and those left out where they are not used, since they came
# after digits-cnn v1.
_KEYS = (
    *("name", "version", "title", "description", "licence", "citation", "kind", "num_runs", "seed", "images", "corpus"),
    *("fits_per_image", "initialization", "architecture", "architectures", "hyperparameters", "splits", "rounding"),
    *("largest_weight", "source", "checkpoints", "sampler"),
)
_LATER_KEYS = ("architecture", "architectures", "splits", "source", "checkpoints", "sampler")


class Recipe(BaseModel, ABC):
    """Everything that decides which networks a zoo holds; the same recipe gives the same zoo.

    Args:
        name: The zoo's name.
        version: Version of the zoo; any change of the recipe is a new one.
        title: One line for people.
        description: What the zoo is for and how its networks differ.
        licence: SPDX name of the licence of the trained networks.
        citation: What to cite.
        num_runs: Training runs; run indices go from 0.
        seed: With a run's index it decides the run.
        hyperparameters: A distribution for each hyper-parameter that does not follow from architecture and corpus.
        rounding: 16-bit type that trained weights are rounded to before they are measured.
        largest_weight: A run that ends with a parameter beyond this magnitude has diverged, though it may be finite.
        splits: Further splits, by name, that separate networks by a column.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    drawn: ClassVar[Mapping[str, Column]]
    """All columns of the kind, of which the hyper-parameters are drawn."""
    split_by: ClassVar[str | None] = None
    """Column that decides which part of the split `default` a network stands in; None where its run id does."""

    name: str
    version: str
    title: str
    description: str
    licence: str
    citation: str
    num_runs: PositiveInt
    seed: NonNegativeInt
    hyperparameters: dict[str, Distribution]
    rounding: Literal["bfloat16", "float16", "none"]
    largest_weight: PositiveFloat
    splits: dict[str, TransferSplit] = {}

    @field_validator("hyperparameters")
    @classmethod
    def _complete_and_in_range(cls, given: dict[str, Distribution]) -> dict[str, Distribution]:
        wanted = [name for name, column in cls.drawn.items() if column.role == "hyperparameter"]
        if set(given) != set(wanted):
            missing, unknown = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
            raise ValueError(f"expected one distribution for each of {', '.join(wanted)}; missing {missing}, unknown {unknown}")
        for name, distribution in given.items():
            for value in distribution.extremes():
                if not cls.drawn[name].allows(value):
                    raise ValueError(f"{name}: expected {cls.drawn[name].domain}, got {value!r}")
            if isinstance(distribution, ByValue):
                _check_cases(name, distribution, given)
        return {name: given[name] for name in wanted}

    @model_validator(mode="after")
    def _splits_name_columns(self) -> Recipe:
        found = {column.name: column.dtype for column in self.columns if column.role == "hyperparameter"}
        for name, split in self.splits.items():
            for column, dtypes in split.columns.items():
                if found.get(column) not in dtypes:
                    fitting = ", ".join(other for other, dtype in found.items() if dtype in dtypes)
                    raise ValueError(f"split {name!r}: expected a column of {' or '.join(dtypes)}: {fitting}; got {column!r}")
            if name == "default" or not name.replace("-", "").isalnum():
                raise ValueError(f"splits: expected names of letters, digits and '-', none of them 'default', got {name!r}")
        return self

    @model_serializer(mode="wrap")
    def _as_released(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content = handler(self)
        return {key: content[key] for key in _KEYS if key in content and (content[key] or key not in _LATER_KEYS)}

    @property
    def columns(self) -> tuple[Column, ...]:
        """The metadata columns of the zoo, in their order."""
        return tuple(self.drawn.values())

    @property
    def num_architectures(self) -> int:
        """Run i has the architecture of run i modulo this."""
        return 1

    @property
    def networks_per_run(self) -> int:
        """Networks that each run gives."""
        return 1

    @abstractmethod
    def architecture_of(self, run_index: int) -> Architecture:
        """What the network of a run is built as."""

    def sample(self, run_index: int) -> dict[str, Value]:
        """Hyper-parameters of a run, by column name; they depend on the recipe's seed and the index only.

        Raises:
            RecipeError: The recipe has no such run.
        """
        rng = np.random.default_rng([self.run_seed(run_index), 0])
        sample: dict[str, Value] = {}
        for name, distribution in sorted(self.hyperparameters.items(), key=lambda item: isinstance(item[1], ByValue)):
            if isinstance(distribution, ByValue):
                distribution = distribution.cases[str(sample[distribution.hyperparameter])]
            sample[name] = distribution.sample(rng)
        return {name: sample[name] for name in self.hyperparameters}

    def run_seed(self, run_index: int) -> int:
        """Seed of a run, below 2^63.

        Raises:
            RecipeError: The recipe has no such run.
        """
        if not 0 <= run_index < self.num_runs:
            raise RecipeError(f"recipe {self.name!r} has runs 0 to {self.num_runs - 1}, got run index {run_index}")
        return int(np.random.SeedSequence([self.seed, run_index]).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def run_id(self, run_index: int) -> str:
        """Name of a run, unique in the zoo."""
        return f"{self.name}-{run_index:05d}"


class ClassifierRecipe(Recipe):
    """Networks that tell the classes of images.

    Args:
        images: What the networks are trained on.
        architecture: What all networks are built as; None where they are built as different `architectures`.
        architectures: What networks are built as: run i is built as the architecture at place i modulo their number. An entry
            with a key ``vary``, which maps keys to lists of values, stands for one entry for each combination of these.
        sampler: Draws the `architectures`, in place of a list.
        checkpoints: Epochs after which the network of a run is taken, 0 being before training; the last is the number of epochs,
            which is fixed then. None where each run gives the network at its end only.
    """

    drawn: ClassVar[Mapping[str, Column]] = COLUMNS

    images: ImagesSpec
    architecture: ClassifierArchitecture | None = None
    architectures: tuple[ClassifierArchitecture, ...] = ()
    sampler: ParkSampler | None = None
    checkpoints: tuple[NonNegativeInt, ...] = ()

    @field_validator("architectures", mode="before")
    @classmethod
    def _every_combination(cls, given: Any) -> Any:
        if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
            return given
        return [combination for entry in given for combination in _combinations(entry)]

    @model_validator(mode="after")
    def _architectures_fit_the_corpora(self) -> ClassifierRecipe:
        given = [name for name in ("architecture", "architectures", "sampler") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                "expected either architecture, one for all runs, or architectures, a list, or sampler; got "
                f"{' and '.join(given) or 'none of them'}"
            )
        for architecture in self._all_architectures:
            if not self.corpora_for(architecture):
                raise ValueError(
                    f"expected a corpus for each number of classes; none of {', '.join(self.images.corpora)} has the "
                    f"{architecture.num_classes} of a {architecture.family}"
                )
        return self

    @model_validator(mode="after")
    def _activations_are_known(self) -> ClassifierRecipe:
        for architecture in self._all_architectures:
            for activation in self.hyperparameters["activation"].extremes():
                if activation not in architecture.activations:
                    raise ValueError(
                        f"activation: expected one of {', '.join(architecture.activations)} for a {architecture.family}, "
                        f"got {activation!r}"
                    )
        return self

    @model_validator(mode="after")
    def _checkpoints_end_with_the_run(self) -> ClassifierRecipe:
        epochs = set(self.hyperparameters["epochs"].extremes())
        if self.checkpoints and ({self.checkpoints[-1]} != epochs or list(self.checkpoints) != sorted(set(self.checkpoints))):
            raise ValueError(
                f"checkpoints: expected rising epochs that end with the fixed number of epochs {sorted(epochs)}, "
                f"got {list(self.checkpoints)}"
            )
        return self

    @property
    def has_design(self) -> bool:
        """Whether networks differ in architecture or corpus, so that metadata columns tell them."""
        return self.architecture is None or len(self.images.corpora) > 1

    @property
    def columns(self) -> tuple[Column, ...]:
        """The metadata columns of the zoo, in their order."""
        return zoo_columns(
            has_design=self.has_design, is_cnn=isinstance(self.architecture, Cnn), has_checkpoints=bool(self.checkpoints)
        )

    @property
    def num_architectures(self) -> int:
        """Run i has the architecture of run i modulo this."""
        return len(self._all_architectures)

    @property
    def _all_architectures(self) -> tuple[ClassifierArchitecture, ...]:
        """What networks are built as, in turn."""
        if self.sampler is not None:
            return sampled(self.sampler)
        return self.architectures if self.architecture is None else (self.architecture,)

    @property
    def networks_per_run(self) -> int:
        """Networks that each run gives: one for each checkpoint."""
        return max(1, len(self.checkpoints))

    def architecture_of(self, run_index: int) -> ClassifierArchitecture:
        """What the network of a run is built as."""
        return self._all_architectures[run_index % self.num_architectures]

    def corpora_for(self, architecture: ClassifierArchitecture) -> tuple[str, ...]:
        """The corpora that networks of an architecture are trained on: among several, those with as many classes."""
        names = self.images.corpora
        return names if len(names) == 1 else tuple(n for n in names if corpora[n].num_classes == architecture.num_classes)


class InrRecipe(Recipe):
    """Implicit neural representations: each network is fitted to one image, whose grey values it gives at the pixels' places.

    Run i is a fit of image i divided by `fits_per_image`. All fits of an image stand in one part of the split.

    Args:
        kind: Always ``"inr"``.
        corpus: The images, all of them, in their order: a registered corpus, or the name that those of the source go by.
        source: The dataset that the images come from, its train split before its test split; None for a registered corpus.
        fits_per_image: Networks of each image.
        initialization: Whether each fit starts from initial weights of its own, or all of the zoo from the same ones.
        architecture: What all networks are built as.
    """

    drawn: ClassVar[Mapping[str, Column]] = INR_COLUMNS
    split_by: ClassVar[str | None] = "image_index"

    kind: Literal["inr"]
    corpus: str
    source: HubImages | None = None
    fits_per_image: PositiveInt
    initialization: Literal["independent", "shared"]
    architecture: Siren

    @model_validator(mode="after")
    def _has_the_images(self) -> InrRecipe:
        if self.source is not None:
            return self
        num_images = -(-self.num_runs // self.fits_per_image)
        if num_images > corpora[self.corpus].num_images:
            raise ValueError(
                f"num_runs: {self.num_runs} runs, {self.fits_per_image} an image, take {num_images} images; expected at most the "
                f"{corpora[self.corpus].num_images} of corpus {self.corpus!r}"
            )
        return self

    @property
    def images(self) -> str | HubImages:
        """What `ngbench.zoo.images.load_corpus` reads."""
        return self.source or self.corpus

    def architecture_of(self, run_index: int) -> Siren:
        """What the network of a run is built as."""
        return self.architecture


_KINDS: Mapping[str, type[ClassifierRecipe | InrRecipe]] = MappingProxyType({"classifier": ClassifierRecipe, "inr": InrRecipe})


def parse_recipe(content: Mapping[str, Any], *, source: str) -> ClassifierRecipe | InrRecipe:
    """The recipe of a mapping of keys; the key ``kind`` says of which kind, and is missing for classifiers.

    Args:
        content: As JSON or YAML holds it.
        source: Where it stands, for error texts.

    Raises:
        RecipeError: A key or value is wrong.
    """
    kind = content.get("kind", "classifier")
    if kind not in _KINDS:
        raise RecipeError(f"{source}: key 'kind': expected one of {', '.join(_KINDS)}, got {kind!r}")
    fields = {key: value for key, value in content.items() if key != "kind" or kind != "classifier"}
    try:
        return _KINDS[kind].model_validate(fields)
    except ValidationError as error:
        raise RecipeError(f"{source}: {_describe(error)}") from error


def _combinations(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """An entry of `architectures` for each combination of the values in its key ``vary``."""
    varied = entry.get("vary", {})
    if not isinstance(varied, dict) or not all(isinstance(values, list) for values in varied.values()):
        raise ValueError(f"vary: expected a list of values for each key, got {varied!r}")
    fixed = {key: value for key, value in entry.items() if key != "vary"}
    return [{**fixed, **dict(zip(varied, values, strict=True))} for values in itertools.product(*varied.values())]


def _check_cases(name: str, distribution: ByValue, given: Mapping[str, Distribution]) -> None:
    other = given.get(distribution.hyperparameter)
    if other is None or isinstance(other, ByValue):
        raise ValueError(
            f"{name}: expected the name of another hyper-parameter of kind fixed or choice, got {distribution.hyperparameter!r}"
        )
    values = {str(value) for value in other.extremes()}
    if set(distribution.cases) != values:
        raise ValueError(
            f"{name}: expected a case for each {distribution.hyperparameter} {sorted(values)}, got {sorted(distribution.cases)}"
        )


def recipe_names() -> tuple[str, ...]:
    """Names of the recipes that ngbench ships."""
    folder = resources.files("ngbench.zoo") / "recipes"
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def load_recipe(name_or_path: str | Path) -> ClassifierRecipe | InrRecipe:
    """Reads a recipe that ngbench ships, by name, or any recipe file, by a path that ends in ``.yaml``.

    Raises:
        UnknownNameError: No recipe of the name is shipped; the text suggests close ones.
        RecipeError: The file is missing, is no YAML, or has a wrong key or value.
    """
    if not str(name_or_path).endswith((".yaml", ".yml")):
        if name_or_path not in recipe_names():
            raise UnknownNameError("recipe", str(name_or_path), recipe_names())
        source = resources.files("ngbench.zoo") / "recipes" / f"{name_or_path}.yaml"
        return _parse(source.read_text(encoding="utf-8"), name_or_path=f"{name_or_path}.yaml")
    try:
        text = Path(name_or_path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe file {str(name_or_path)!r} cannot be read: {error}") from error
    return _parse(text, name_or_path=str(name_or_path))


def _parse(text: str, *, name_or_path: str) -> ClassifierRecipe | InrRecipe:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"recipe file {name_or_path!r} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"recipe file {name_or_path!r}: expected a mapping of keys, got {type(content).__name__}")
    return parse_recipe(content, source=f"recipe file {name_or_path!r}")


def _describe(error: ValidationError) -> str:
    """The first fault that pydantic found, as ``key: expected, got``, and the keys of the others; unknown keys come first."""
    faults: list[Any] = sorted(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
    keys = [".".join(str(part) for part in fault["loc"]) or "recipe" for fault in faults]
    first, others = faults[0], list(dict.fromkeys(keys[1:]))
    more = f" (and {len(faults) - 1} more: {', '.join(others)})" if others else ""
    # what lacks a key is the whole mapping
    got = "" if first["type"] == "missing" else f", got {first['input']!r:.200}"
    what = "unknown" if first["type"] == "extra_forbidden" else first["msg"]
    return f"key {keys[0]!r}: {what}{got}{more}"
