"""Boosted trees as plain arrays: what scikit-learn has fitted, in a form that can be kept without pickling it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit, softmax

from baselines.fitting.saved import Saved
from ngbench.errors import ResultError

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

_ROWS_AT_ONCE = 128
_KINDS = {
    "order": ("i", 1), "codes": ("f", 2), "feature": ("i", 1), "threshold": ("f", 1), "missing_left": ("b", 1),
    "left": ("i", 1), "right": ("i", 1), "bitset": ("i", 1), "value": ("f", 1), "roots": ("i", 2), "bitsets": ("i", 2),
    "baseline": ("f", 1), "classes": ("i", 1),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Trees:
    """A sum of trees for each output. A leaf is its own left and right child.

    Args:
        order: The feature that each column of the trees is, int64 ``[features]``.
        codes: For each categorical column, which come first, the code in the trees of each category, float64
            ``[categorical, categories]``; NaN where a category is unknown.
        feature: Column that a node asks about, int64 ``[nodes]``.
        threshold: Numbers up to this go left, float64 ``[nodes]``.
        missing_left: Whether a missing value goes left, bool ``[nodes]``.
        left: Child, int64 ``[nodes]``.
        right: Child, int64 ``[nodes]``.
        bitset: Row of `bitsets` of a node that asks about a category, int64 ``[nodes]``; -1 for others.
        value: What a leaf adds, float64 ``[nodes]``.
        roots: First node of each tree, int64 ``[iterations, outputs]``.
        bitsets: Categories that go left, a bit for each, int64 ``[sets, 8]`` of 32 bits each.
        baseline: What the trees add to, float64 ``[outputs]``.
        classes: Numbers of the classes that the outputs are of, int64 ``[classes]``; empty for a regression.
    """

    order: np.ndarray
    codes: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    missing_left: np.ndarray
    left: np.ndarray
    right: np.ndarray
    bitset: np.ndarray
    value: np.ndarray
    roots: np.ndarray
    bitsets: np.ndarray
    baseline: np.ndarray
    classes: np.ndarray

    def __post_init__(self) -> None:
        num_nodes, num_columns = len(self.value), len(self.order)
        of_nodes = (self.feature, self.threshold, self.missing_left, self.left, self.right, self.bitset)
        places = ((self.order, num_columns), (self.feature, num_columns), (self.left, num_nodes), (self.right, num_nodes))
        fits = all(len(array) == num_nodes for array in of_nodes) and self.bitsets.shape[1:] == (8,)
        fits = fits and all(((array >= 0) & (array < limit)).all() for array, limit in (*places, (self.roots, num_nodes)))
        # children stand behind their parent, so that no walk goes round in circles
        inner = self.left != np.arange(num_nodes)
        fits = fits and (self.left[inner] > np.flatnonzero(inner)).all() and (self.right[inner] > np.flatnonzero(inner)).all()
        fits = fits and (self.bitset < len(self.bitsets)).all() and len(self.codes) <= num_columns
        if not fits or self.roots.shape[1] != len(self.baseline):
            raise ResultError(
                f"arrays of {num_nodes} nodes on {num_columns} features are no trees; expected children, features and sets that "
                "exist: run the method again"
            )

    @classmethod
    def of(cls, model: HistGradientBoostingRegressor | HistGradientBoostingClassifier) -> Trees:
        """The trees of a fitted model. Reads what scikit-learn has no public name for, the same since its version 1.4."""
        fitted: Any = model
        trees = [tree for iteration in fitted._predictors for tree in iteration]
        starts = np.cumsum([0, *(len(tree.nodes) for tree in trees)])
        set_starts = np.cumsum([0, *(len(tree.raw_left_cat_bitsets) for tree in trees)])
        nodes = np.concatenate([tree.nodes for tree in trees])
        offset = np.repeat(starts[:-1], np.diff(starts))
        is_leaf, own = nodes["is_leaf"].astype(bool), np.arange(len(nodes))
        asks_category = nodes["is_categorical"].astype(bool) & ~is_leaf
        sets = nodes["bitset_idx"] + np.repeat(set_starts[:-1], np.diff(starts))
        order, codes = _columns(fitted)
        return cls(
            order=order,
            codes=codes,
            feature=np.where(is_leaf, 0, nodes["feature_idx"]).astype(np.int64),
            threshold=nodes["num_threshold"].astype(np.float64),
            missing_left=nodes["missing_go_to_left"].astype(bool),
            left=np.where(is_leaf, own, nodes["left"].astype(np.int64) + offset),
            right=np.where(is_leaf, own, nodes["right"].astype(np.int64) + offset),
            bitset=np.where(asks_category, sets, -1).astype(np.int64),
            value=nodes["value"].astype(np.float64),
            roots=starts[:-1].reshape(len(fitted._predictors), -1).astype(np.int64),
            bitsets=np.concatenate([tree.raw_left_cat_bitsets for tree in trees]).astype(np.int64).reshape(-1, 8),
            baseline=np.ravel(fitted._baseline_prediction).astype(np.float64),
            classes=np.asarray(getattr(fitted, "classes_", ()), dtype=np.int64),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def load(cls, saved: Saved, *, prefix: str = "") -> Trees:
        """The trees whose `arrays` a saved method has, under a prefix.

        Raises:
            ResultError: The arrays are no trees.
        """
        return cls(**{name: saved.array(prefix + name, kind=kind, num_axes=axes) for name, (kind, axes) in _KINDS.items()})

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Numbers for rows ``[graphs, features]``, float64 ``[graphs]``."""
        return self.sums(features)[:, 0]

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """The probability of each of `classes`, float64 ``[graphs, classes]``."""
        sums = self.sums(features)
        if sums.shape[1] > 1:
            return softmax(sums, axis=1)
        second = expit(sums)
        return np.concatenate([1 - second, second], axis=1)

    def sums(self, features: np.ndarray) -> np.ndarray:
        """What the trees add up to, float64 ``[graphs, outputs]``; each row by itself, in the order of the trees."""
        columns = np.asarray(features, dtype=np.float64)[:, self.order]
        for column, codes in enumerate(self.codes):
            columns[:, column] = _recoded(columns[:, column], codes)
        parts = [self._sums(columns[start : start + _ROWS_AT_ONCE]) for start in range(0, len(columns), _ROWS_AT_ONCE)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.baseline)))

    def _sums(self, columns: np.ndarray) -> np.ndarray:
        rows = np.arange(len(columns))[:, None]
        nodes = np.broadcast_to(self.roots.ravel(), (len(columns), self.roots.size))
        while True:
            asked = columns[rows, self.feature[nodes]]
            goes_left = np.where(np.isnan(asked), self.missing_left[nodes], asked <= self.threshold[nodes])
            if len(self.bitsets):
                goes_left = np.where(self.bitset[nodes] >= 0, self._in_set(nodes, asked), goes_left)
            following = np.where(goes_left, self.left[nodes], self.right[nodes])
            if (following == nodes).all():
                break
            nodes = following
        values = self.value[nodes].reshape(len(columns), *self.roots.shape)
        start = np.broadcast_to(self.baseline, (len(columns), 1, len(self.baseline)))
        return np.concatenate([start, values], axis=1).cumsum(axis=1)[:, -1]

    def _in_set(self, nodes: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """Whether a category is one that goes left; of a missing one whether that does."""
        code = np.nan_to_num(asked).astype(np.int64)
        bits = self.bitsets[np.maximum(self.bitset[nodes], 0), np.clip(code // 32, 0, 7)] >> (code % 32)
        return np.where(np.isnan(asked), self.missing_left[nodes], bits & 1 == 1)


def _columns(fitted: Any) -> tuple[np.ndarray, np.ndarray]:
    """Order of the columns in a model's trees, categories first, and codes of the categories."""
    if fitted._preprocessor is None:
        return np.arange(fitted.n_features_in_), np.zeros((0, 0))
    is_categorical = np.asarray(fitted.is_categorical_, dtype=bool)
    known = [categories[~np.isnan(categories)] for categories in fitted._preprocessor.named_transformers_["encoder"].categories_]
    codes = np.full((len(known), 1 + max((int(own.max()) for own in known if len(own)), default=0)), np.nan)
    for row, own in enumerate(known):
        codes[row, own.astype(np.int64)] = np.arange(len(own))
    return np.concatenate([np.flatnonzero(is_categorical), np.flatnonzero(~is_categorical)]), codes


def _recoded(column: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Categories as the trees have them; NaN for a missing or unknown one."""
    is_known = (column >= 0) & (column < len(codes))
    return np.where(is_known, codes[np.where(is_known, column, 0).astype(np.int64)], np.nan)
