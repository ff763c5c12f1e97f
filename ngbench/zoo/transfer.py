"""Splits that separate what methods are fitted on from what they are tested on by a column, such as width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field


class _Split(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str


class AboveLimit(_Split):
    """Networks above a limit are held out for the test; the limit may differ from group to group.

    Args:
        kind: Always ``"above"``.
        column: A column of numbers.
        within: A column of names, the groups.
        limits: The largest number that methods are fitted on, for each group.
    """

    kind: Literal["above"]
    within: str
    limits: dict[str, float]

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """The columns that decide, with the types that they may have."""
        return {self.column: ("int", "float"), self.within: ("str",)}

    def __str__(self) -> str:
        limits = ", ".join(f"{limit:g} ({group})" for group, limit in self.limits.items())
        return f"tests on {self.column} above {limits}"

    def held_out(self, metadata: Mapping[str, np.ndarray]) -> np.ndarray:
        """Which networks are held out, bool ``[networks]``; one of a group without a limit is not."""
        limits = np.array([self.limits.get(group, np.inf) for group in metadata[self.within].tolist()])
        return metadata[self.column] > limits


class OneOf(_Split):
    """Networks with certain values are held out for the test.

    Args:
        kind: Always ``"one_of"``.
        column: A column of names.
        values: Those held out.
    """

    kind: Literal["one_of"]
    values: Annotated[tuple[str, ...], Field(min_length=1)]

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """The column that decides, with the type that it may have."""
        return {self.column: ("str",)}

    def __str__(self) -> str:
        return f"tests on {self.column} {', '.join(self.values)}"

    def held_out(self, metadata: Mapping[str, np.ndarray]) -> np.ndarray:
        """Which networks are held out, bool ``[networks]``."""
        return np.isin(metadata[self.column], self.values)


TransferSplit = Annotated[AboveLimit | OneOf, Field(discriminator="kind")]
