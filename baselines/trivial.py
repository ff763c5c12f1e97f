"""What any method must beat: a constant, and a prediction from the recipe without a look at the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from baselines.fitting.boosting import fit_best, predict
from baselines.fitting.saved import Saved, as_tensors
from baselines.fitting.tables import Table
from baselines.fitting.trees import Trees
from ngbench.errors import MethodError
from ngbench.loading import GraphDataset
from ngbench.methods import MethodInfo, Problem, RunContext


class Mean:
    """Predicts the mean of the training targets for every network."""

    info = MethodInfo(
        name="mean",
        title="Mean of training targets",
        access="none",
        invariant=True,
        any_architecture=True,
        paper="none: the constant of least squared error",
        kinds=("regression",),
    )
    num_parameters = 1

    def fit(self, problem: Problem, train: GraphDataset, val: GraphDataset, context: RunContext) -> None:
        """Takes the mean."""
        self.mean = float(np.mean(np.asarray(train.targets, dtype=np.float64)))

    def predict(self, networks: GraphDataset) -> np.ndarray:
        """The same number for each network, float64 ``[graphs]``."""
        return np.full(len(networks), self.mean)


class Majority:
    """Gives every network the shares of the classes in training, of which the largest decides."""

    info = MethodInfo(
        name="majority",
        title="Majority of training",
        access="none",
        invariant=True,
        any_architecture=True,
        paper="none: the constant of least cross-entropy",
        kinds=("classification",),
    )

    def fit(self, problem: Problem, train: GraphDataset, val: GraphDataset, context: RunContext) -> None:
        """Counts the classes."""
        self.shares = np.bincount(np.asarray(train.targets), minlength=len(problem.classes)) / len(train)

    @property
    def num_parameters(self) -> int:
        """One for each class."""
        return len(self.shares)

    def predict(self, networks: GraphDataset) -> np.ndarray:
        """The same shares for each network, float64 ``[graphs, classes]``."""
        return np.tile(self.shares, (len(networks), 1))


@dataclass(frozen=True)
class Columns:
    """What `Hyperparameters` reads.

    Args:
        categories: Sorted texts of each column; None for a column of numbers.
    """

    categories: dict[str, tuple[str, ...] | None]


class Hyperparameters:
    """Gradient boosting on the recipe columns: what is known of a network before it is trained.

    Categories are those of the training networks; one that they lack counts as missing. A column that is missing in all of them
    is left out, as is the number of heads where no transformer is trained on.

    Raises:
        MethodError: On `fit` or `predict`, if the networks lack recipe columns.
    """

    info = MethodInfo(
        name="hyperparameters",
        title="Hyper-parameters only",
        access="hyperparameters",
        invariant=True,
        any_architecture=True,
        paper="Unterthiner et al. 2020, arXiv:2002.11448",
    )
    # trees have splits and leaves, no parameters
    num_parameters = 0

    def fit(self, problem: Problem, train: GraphDataset, val: GraphDataset, context: RunContext) -> None:
        """Compares candidates by the validation metric and keeps the best."""
        if not train.hyperparameters:
            raise MethodError(
                f"method 'hyperparameters' got {len(train)} networks without recipe columns; expected a zoo that has them"
            )
        columns = {name: column for name, column in train.hyperparameters.items() if not _is_missing(column).all()}
        self.categories = {name: _categories(column) for name, column in columns.items()}
        is_categorical = np.array([categories is not None for categories in self.categories.values()])
        train_table, val_table = (Table.of(self._features(split.hyperparameters), split) for split in (train, val))
        self.problem = problem
        self.model = fit_best(problem, train_table, val=val_table, context=context, is_categorical=is_categorical)

    def predict(self, networks: GraphDataset) -> np.ndarray:
        """One prediction for each network, float64 ``[graphs]``."""
        return predict(self.model, self._features(networks.hyperparameters), problem=self.problem)

    def save(self, folder: Path) -> None:
        """Writes the trees and the categories into a folder that exists: see `baselines.fitting.saved`."""
        columns = {name: None if own is None else tuple(own.tolist()) for name, own in self.categories.items()}
        Saved(self.info.name, None, self.problem, Columns(columns), as_tensors(self.model.arrays())).write(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The method that `save` wrote; it predicts the same, to the bit.

        Raises:
            ResultError: The folder holds something else; the text says what.
        """
        saved, method = Saved.read(folder, method=cls.info.name, config=None, survey=Columns), cls()
        method.problem = saved.problem
        method.categories = {name: None if own is None else np.array(own) for name, own in saved.survey.categories.items()}
        method.model = Trees.load(saved)
        return method

    def _features(self, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Numbers as they are and categories as codes, float64 ``[graphs, columns]``; NaN where a value is missing."""
        missing = [name for name in self.categories if name not in columns]
        if missing:
            raise MethodError(
                f"method 'hyperparameters' was fitted on columns {', '.join(self.categories)}, of which the networks lack "
                f"{', '.join(missing)}; expected networks of a zoo that has them"
            )
        return np.stack([_encoded(columns[name], categories) for name, categories in self.categories.items()], axis=1)


def _is_missing(column: np.ndarray) -> np.ndarray:
    return np.isnan(column) if column.dtype.kind == "f" else np.zeros(len(column), dtype=bool)


def _categories(column: np.ndarray) -> np.ndarray | None:
    """The sorted distinct texts of a column; None for a column of numbers."""
    return None if column.dtype.kind in "biuf" else np.unique(column.astype(str))


def _encoded(column: np.ndarray, categories: np.ndarray | None) -> np.ndarray:
    if categories is None:
        return column.astype(np.float64)
    texts = column.astype(str)
    codes = np.minimum(np.searchsorted(categories, texts), len(categories) - 1)
    return np.where(categories[codes] == texts, codes.astype(np.float64), np.nan)
