"""What a task is: a question about networks, where its answer stands in a zoo, and how answers are scored."""

from __future__ import annotations

from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ngbench.errors import ConfigError
from ngbench.metrics import METRICS, Measure, Metric, facts_of

Kind = Literal["regression", "classification", "retrieval", "merging"]


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
        target: The column that it is asked about; None for the first of the zoo.
        target_bounds: Least and largest possible answer of a regression.
        metrics: Names of the metrics, the primary one first, by which methods are ranked.
        selection: The metric on the val split by which a method chooses among its epochs and candidates.
        loss: What methods that train by gradients minimise.
        fitted_as: The task whose fits this one takes over, of methods that can be kept; None for its own.
        split: Name of the split in the zoo file.
        baselines: Trivial methods and anchors that stand beside every result.
        max_epochs: Passes over the training networks that a method may make.
        num_candidates: Configurations that a method without epochs may compare on the val split.
        num_seeds: Fits that a place in a table takes.
        num_scrambled: Orbit-scrambled copies of the test split; the worst score over these stands in the table.
        num_resamples: Of the paired bootstrap over test networks and seeds.
        confidence: Of its intervals.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = Field(gt=0)
    name: str
    title: str
    question: str
    kind: Kind
    zoos: dict[str, tuple[str, ...]] = Field(min_length=1)
    target: str | None = None
    target_bounds: tuple[float, float] = (0.0, 1.0)
    metrics: tuple[str, ...] = Field(min_length=1)
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

    @model_validator(mode="after")
    def _known(self) -> Task:
        for name in self.metrics:
            facts_of(name)
        if self.kind != "merging":
            METRICS[self.selection]
        return self

    @property
    def default_zoo(self) -> str:
        """The zoo that is used where none is named."""
        return next(iter(self.zoos))

    @property
    def primary(self) -> Metric | Measure:
        """What ranks methods."""
        return facts_of(self.metrics[0])

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

    def label(self) -> str:
        """What is asked for, for axes and headings."""
        return (self.target or self.title.lower()).replace("_", " ")


def load_task(name: str) -> Task:
    """The task of a file that ngbench ships.

    Raises:
        ConfigError: The file has a wrong key or value.
    """
    return parse_task((resources.files("ngbench.tasks") / f"{name}.yaml").read_text(encoding="utf-8"), source=f"{name}.yaml")


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
