"""What a task is: a question about networks, where its answer stands in a zoo, and how answers are scored."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ngbench.errors import ConfigError
from ngbench.metrics import METRICS, Measure, Metric, Takes, facts_of, merging_measures
from ngbench.tasks.plan import MergingPlan, RetrievalPlan

Kind = Literal["regression", "classification", "retrieval", "merging"]

LOSSES: Mapping[Kind, str] = MappingProxyType(
    {
        "regression": "cross-entropy of the target as a share of its bounds",
        "classification": "cross-entropy of the classes",
        "retrieval": "cross-entropy of the classes",
        "merging": "cross-entropy of the known permutation, and the loss at a random point between two networks",
    }
)
"""What methods that train by gradients minimise, by what a `Problem` asks of them."""

_TAKES: Mapping[Kind, tuple[Takes, Takes]] = MappingProxyType(
    {
        "regression": ("numbers", "numbers"),
        "classification": ("probabilities", "probabilities"),
        "retrieval": ("rankings", "probabilities"),
    }
)
"""What is scored on the test split, and what of val the epochs of a fit are chosen by."""

_Plan = TypeVar("_Plan", MergingPlan, RetrievalPlan)


class Task(BaseModel):
    """One task of the benchmark, the same for every method; a YAML file beside this one, whose keys these are.

    Attributes:
        version: Of the protocol; any change of the file is a new one.
        name: As it is typed.
        title: As it is printed.
        question: What is asked of a network, in one sentence.
        kind: ``"regression"``: one real number for each network; ``"classification"``: one of some classes; ``"retrieval"``: an
            embedding of each network; ``"merging"``: which neurons of two networks correspond.
        zoos: The zoos of the benchmark that it is asked of, the task's own first, and the metadata columns that answer it.
        in_structure: Columns whose answer stands in the structure of a network, which every method sees, whatever its weights.
        target: The column that it is asked about; None for the first of the zoo.
        target_bounds: Least and largest possible answer of a regression.
        metrics: Names of the metrics of tables, the primary one first, by which methods are ranked.
        more_metrics: What stands beside them in result files and pictures.
        selection: The metric on the val split by which a method chooses among its epochs and candidates.
        loss: What methods that train by gradients minimise: that of the kind in `LOSSES`.
        fitted_as: The task whose fits this one takes over, of methods that can be kept; None for its own.
        split: Name of the split in the zoo file.
        baselines: Trivial methods and anchors that stand beside every result.
        max_epochs: Passes over the training networks that a method may make.
        num_candidates: Configurations that a method without epochs may compare on the val split.
        num_seeds: Fits that a place in a table takes.
        num_scrambled: Orbit-scrambled copies of the test split; the worst score over these stands in the table.
        num_resamples: Of the paired bootstrap over test networks and seeds.
        confidence: Of its intervals.
        merging: Of a task of merging alone: what is drawn and measured.
        retrieval: Of a task of retrieval alone: what counts as near.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = Field(gt=0)
    name: str
    title: str
    question: str
    kind: Kind
    zoos: dict[str, tuple[str, ...]] = Field(min_length=1)
    in_structure: tuple[str, ...] = ()
    target: str | None = None
    target_bounds: tuple[float, float] = (0.0, 1.0)
    metrics: tuple[str, ...] = Field(min_length=1)
    more_metrics: tuple[str, ...] = ()
    selection: str
    loss: str
    fitted_as: str | None = None
    split: str = "default"
    baselines: tuple[str, ...]
    max_epochs: int = Field(gt=0)
    num_candidates: int = Field(gt=0)
    num_seeds: int = Field(gt=0)
    num_scrambled: int = Field(gt=0)
    num_resamples: int = Field(gt=0)
    confidence: float = Field(gt=0, lt=1)
    merging: MergingPlan | None = None
    retrieval: RetrievalPlan | None = None

    @model_validator(mode="after")
    def _known(self) -> Task:
        for kind in ("merging", "retrieval"):
            if (self.kind == kind) != (getattr(self, kind) is not None):
                raise ConfigError(f"task {self.name!r} is of kind {self.kind!r}; expected the key {kind!r} of that kind alone")
        self._check_metrics()
        if self.loss != LOSSES[self.kind]:
            raise ConfigError(f"loss of task {self.name!r} is {self.loss!r}; expected {LOSSES[self.kind]!r}")
        unknown = [name for name in self.baselines if name not in _method_names()] if _method_names() else []
        if unknown:
            raise ConfigError(
                f"baselines of task {self.name!r} are no methods: {', '.join(unknown)}; "
                f"expected some of {', '.join(_method_names())}"
            )
        self._check_fits()
        return self

    def _check_metrics(self) -> None:
        """Whether metrics are known, are of the kind, and leave nothing out that merging measures."""
        names = (*self.metrics, *self.more_metrics)
        for name in (*names, self.selection):
            facts_of(name)
        if self.merging is not None:
            measured = selected = set(merging_measures(self.merging.noises, self.merging.set_sizes))
        else:
            measured, selected = (_metrics_of(takes) for takes in _TAKES[self.kind])
        for what, own, known in (("metrics", {*names}, measured), ("selection", {self.selection}, selected)):
            if own - known:
                other, expected = (", ".join(sorted(found)) for found in (own - known, known))
                raise ConfigError(f"{what} of task {self.name!r}, of {self.kind}: {other}; expected some of {expected}")
        if self.merging is not None and measured - {*names}:
            raise ConfigError(f"metrics of task {self.name!r} leave out {', '.join(sorted(measured - {*names}))}; expected all")

    def _check_fits(self) -> None:
        """Whether the task whose fits this one takes over exists and is fitted alike."""
        if self.fitted_as is None:
            return
        known = sorted(file.name.removesuffix(".yaml") for file in _FOLDER.iterdir() if file.name.endswith(".yaml"))
        if self.fitted_as not in known or self.fitted_as == self.name:
            others = ", ".join(name for name in known if name != self.name)
            raise ConfigError(f"fitted_as of task {self.name!r} is {self.fitted_as!r}; expected one of {others}")
        other = load_task(self.fitted_as)
        for name in ("selection", "loss", "max_epochs", "num_candidates", "split"):
            own, theirs = getattr(self, name), getattr(other, name)
            if own != theirs:
                raise ConfigError(
                    f"{name} of task {self.name!r} is {own!r}, and it takes over the fits of {other.name!r}; expected {theirs!r}"
                )

    @property
    def default_zoo(self) -> str:
        """The zoo that is used where none is named."""
        return next(iter(self.zoos))

    @property
    def primary(self) -> Metric | Measure:
        """What ranks methods."""
        return facts_of(self.metrics[0])

    def plan(self, kind: type[_Plan]) -> _Plan:
        """What only tasks of a kind have.

        Raises:
            ConfigError: This task is of another kind.
        """
        found = next((plan for plan in (self.merging, self.retrieval) if isinstance(plan, kind)), None)
        if found is None:
            raise ConfigError(f"task {self.name!r} is of kind {self.kind!r} and has no {kind.__name__}; expected one that has")
        return found

    def asked(self, zoo: str | None = None, *, split: str | None = None, target: str | None = None) -> Task:
        """The same question of a zoo, on one of its splits and about one of its columns.

        Args:
            zoo: Name of the zoo; None for the task's own.
            split: None for the task's own.
            target: None for the first that the task names for the zoo, or for its own zoo where it does not know this one.

        Raises:
            ConfigError: A task about nothing is asked about a column.
        """
        columns = self.zoos.get(zoo or self.default_zoo, self.zoos[self.default_zoo])
        if target is not None and self.kind == "merging":
            raise ConfigError(f"task {self.name!r} is asked about no column, got target {target!r}; expected none")
        chosen = target or (columns[0] if columns else None)
        return self.model_copy(update={"target": chosen, "split": split or self.split})

    @property
    def caveat(self) -> str | None:
        """What a reader of scores has to know of the target; None where there is nothing."""
        if self.target not in self.in_structure:
            return None
        return f"The {self.label()} stands in the structure of a network itself: a score of 1 needs no weights."

    def label(self) -> str:
        """What is asked for, for axes and headings."""
        return (self.target or self.title.lower()).replace("_", " ")


def _metrics_of(takes: Takes) -> set[str]:
    return {name for name, metric in METRICS.items() if metric.takes == takes}


_FOLDER = resources.files("ngbench.tasks")


@cache
def _method_names() -> tuple[str, ...]:
    """Methods of the installed packages; none where ngbench runs from its source alone."""
    return tuple(sorted(point.name for point in entry_points(group="ngbench.methods")))


def load_task(name: str) -> Task:
    """The task of a file that ngbench ships.

    Raises:
        ConfigError: The file has a wrong key or value.
    """
    return parse_task((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"), source=f"{name}.yaml")


def parse_task(text: str, *, source: str) -> Task:
    """The task that a YAML text says.

    Args:
        text: A mapping of the fields of `Task`.
        source: Where it comes from, for the error text.

    Raises:
        ConfigError: It has a wrong key or value; the text names the first.
    """
    try:
        content: Any = yaml.safe_load(text)
        return Task.model_validate(content)
    except yaml.YAMLError as error:
        raise ConfigError(f"task file {source!r} is no YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "task"
        known = ", ".join(Task.model_fields)
        raise ConfigError(
            f"task file {source!r}: key {key!r}: {first['msg']}, got {first['input']!r:.100}; expected the keys {known}"
        ) from error
