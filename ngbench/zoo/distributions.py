"""Small distributions that a recipe draws hyper-parameters from."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

Value = int | float | str


class _Distribution(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Fixed(_Distribution):
    """Always the same value."""

    kind: Literal["fixed"]
    value: Value

    def sample(self, rng: np.random.Generator) -> Value:
        """The value; draws nothing."""
        return self.value

    def extremes(self) -> tuple[Value, ...]:
        """Values that stand for all that can be drawn."""
        return (self.value,)


class Choice(_Distribution):
    """One of some values, with weights that need not sum to one."""

    kind: Literal["choice"]
    values: Annotated[tuple[Value, ...], Field(min_length=1)]
    weights: tuple[Annotated[float, Field(gt=0)], ...] | None = None

    @model_validator(mode="after")
    def _one_weight_each(self) -> Choice:
        if self.weights is not None and len(self.weights) != len(self.values):
            raise ValueError(f"{len(self.values)} values need {len(self.values)} weights, got {len(self.weights)}")
        return self

    def sample(self, rng: np.random.Generator) -> Value:
        """One of the values."""
        weights = np.ones(len(self.values)) if self.weights is None else np.array(self.weights)
        return self.values[int(rng.choice(len(self.values), p=weights / weights.sum()))]

    def extremes(self) -> tuple[Value, ...]:
        """Values that stand for all that can be drawn."""
        return self.values


class _Range(_Distribution):
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> _Range:
        if not self.low < self.high:
            raise ValueError(f"low must be under high, got {self.low:g} and {self.high:g}")
        if self.low <= 0 and getattr(self, "kind", "").startswith("log"):
            raise ValueError(f"a logarithmic range needs low above 0, got {self.low:g}")
        return self


class Uniform(_Range):
    """A real number, uniform in [low, high)."""

    kind: Literal["uniform"]

    def sample(self, rng: np.random.Generator) -> Value:
        """A float."""
        return float(rng.uniform(self.low, self.high))

    def extremes(self) -> tuple[Value, ...]:
        """Values that stand for all that can be drawn."""
        return self.low, self.high


class LogUniform(_Range):
    """A real number whose logarithm is uniform in [log low, log high)."""

    kind: Literal["log_uniform"]

    def sample(self, rng: np.random.Generator) -> Value:
        """A float."""
        return float(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))

    def extremes(self) -> tuple[Value, ...]:
        """Values that stand for all that can be drawn."""
        return self.low, self.high


class LogInt(_Range):
    """A whole number from low to high, both included, evenly spread on a logarithmic scale."""

    kind: Literal["log_int"]
    low: int
    high: int

    def sample(self, rng: np.random.Generator) -> Value:
        """An int."""
        return int(math.exp(rng.uniform(math.log(self.low), math.log(self.high + 1))))

    def extremes(self) -> tuple[Value, ...]:
        """Values that stand for all that can be drawn."""
        return self.low, self.high


Plain = Annotated[Fixed | Choice | Uniform | LogUniform | LogInt, Field(discriminator="kind")]


class ByValue(_Distribution):
    """A distribution for each value of another hyper-parameter."""

    kind: Literal["by"]
    hyperparameter: str
    cases: dict[str, Plain]

    def extremes(self) -> tuple[Value, ...]:
        """Values that stand for all that can be drawn."""
        return tuple(value for case in self.cases.values() for value in case.extremes())


Distribution = Annotated[Fixed | Choice | Uniform | LogUniform | LogInt | ByValue, Field(discriminator="kind")]
