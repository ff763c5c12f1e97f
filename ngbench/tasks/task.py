"""What a task is: a question about networks, where its answer stands in a zoo, and how answers are scored."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ngbench.metrics import METRICS, Metric


class Task(BaseModel):
    """One task of the benchmark, the same for every method.

    Attributes:
        name: As it is typed.
        title: As it is printed.
        question: What is asked of a network, in one sentence.
        kind: ``"regression"``: one real number for each network.
        target: Metadata column of the zoo that holds the answer.
        target_label: The target with its unit, for axes and tables.
        target_bounds: Least and largest possible answer.
        metrics: Names of the metrics, the primary one first; the primary one also selects on the val split.
        split: Name of the split in the zoo file.
        default_zoo: The zoo that is used where none is named.
        baselines: Trivial methods that stand beside every result.
        max_epochs: Passes over the training networks that a method may make.
        num_candidates: Configurations that a method without epochs may compare on the val split.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: str
    question: str
    kind: Literal["regression"]
    target: str
    target_label: str
    target_bounds: tuple[float, float]
    metrics: tuple[str, ...] = Field(min_length=1)
    split: str = "default"
    default_zoo: str
    baselines: tuple[str, ...]
    max_epochs: int = Field(gt=0)
    num_candidates: int = Field(gt=0)

    @field_validator("metrics")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            METRICS[name]
        return names

    @property
    def primary(self) -> Metric:
        """The metric that ranks methods."""
        return METRICS[self.metrics[0]]

    def on(self, split: str | None) -> Task:
        """The same question on another split of the zoo; None for the task's own."""
        return self if split is None else self.model_copy(update={"split": split})

    def score(self, predictions: np.ndarray, targets: np.ndarray) -> dict[str, float]:
        """Every metric of the task.

        Args:
            predictions: ``[graphs]``.
            targets: ``[graphs]``.

        Raises:
            PredictionsError: Shapes differ, or a number is not finite.
        """
        return {name: METRICS[name](predictions, targets) for name in self.metrics}
