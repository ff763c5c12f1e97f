"""What only tasks of one kind have: how much is drawn, and what is measured on it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ngbench.errors import ConfigError

Count = Annotated[int, Field(gt=0)]


class MergingPlan(BaseModel):
    """What is drawn of the test networks for merging, where there are networks enough, and what merged ones are scored on.

    Attributes:
        num_pairs: Pairs of independent networks, and as many of unequal widths where a zoo has such.
        num_triples: Triples of independent networks.
        num_sets: Sets of as many independent networks as the largest of `set_sizes`.
        set_sizes: Networks of a set that are merged into one, its first members, rising.
        num_recoveries: Networks that are matched with permuted copies of themselves, for each noise.
        noises: On the copies, in standard deviations of the weights of a tensor.
        pool_size: Networks of one architecture and corpus of which all these are drawn.
        num_points: Networks of the line between two, both ends among them; an odd number, so that one is half way.
        num_test_images: On which merged networks are scored, at most.
        num_train_images: From which statistics are estimated again, at most.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_pairs: Count
    num_triples: Count
    num_sets: Count
    set_sizes: tuple[Annotated[int, Field(gt=1)], ...] = Field(min_length=1)
    num_recoveries: Count
    noises: tuple[Annotated[float, Field(ge=0)], ...] = Field(min_length=1)
    pool_size: Count
    num_points: Annotated[int, Field(gt=2)]
    num_test_images: Count
    num_train_images: Count

    @model_validator(mode="after")
    def _ordered(self) -> MergingPlan:
        if self.num_points % 2 == 0:
            raise ConfigError(f"num_points is {self.num_points}; expected an odd number, so that one network is half way")
        for name, numbers in (("set_sizes", self.set_sizes), ("noises", self.noises)):
            if list(numbers) != sorted(set(numbers)):
                raise ConfigError(f"{name} is {', '.join(f'{number:g}' for number in numbers)}; expected rising numbers")
        return self

    @property
    def largest_set(self) -> int:
        """Networks of a set."""
        return self.set_sizes[-1]


class RetrievalPlan(BaseModel):
    """What counts as near in function.

    Attributes:
        num_near: Networks that do for each query; of an image that was fitted six times, all other fits.
        num_inputs: Held-out inputs that functions are compared on, of each corpus as many; all pixels of an image that has fewer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_near: Count
    num_inputs: Count
