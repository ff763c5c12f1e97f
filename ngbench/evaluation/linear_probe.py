"""What a frozen embedding knows of another target than it was trained for: a linear model of it, and nothing else is fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ngbench.errors import MethodError
from ngbench.metrics import Metric

PENALTIES = (1000.0, 100.0, 10.0, 1.0, 0.1, 0.01)
"""Weights of the squared coefficients that are compared on the val split, of standardised features."""


@dataclass(frozen=True)
class LinearProbe:
    """A linear model of standardised embeddings; build one with `fit_linear_probe`.

    Attributes:
        penalty: The chosen one of `PENALTIES`.
        score: Its score on the val split.
    """

    penalty: float
    score: float
    _mean: np.ndarray
    _scale: np.ndarray
    _model: Any
    _num_classes: int | None

    def predict(self, embeddings: np.ndarray) -> np.ndarray:
        """Class probabilities, float64 ``[graphs, classes]``, or numbers ``[graphs]``.

        Args:
            embeddings: ``[graphs, features]``.
        """
        return _predict(self._model, (embeddings - self._mean) / self._scale, num_classes=self._num_classes)


def fit_linear_probe(
    embeddings: np.ndarray,
    targets: np.ndarray,
    *,
    val_embeddings: np.ndarray,
    val_targets: np.ndarray,
    metric: Metric,
    num_classes: int | None = None,
) -> LinearProbe:
    """Logistic regression on frozen embeddings of the train split, or ridge regression of real targets.

    Alain and Bengio, "Understanding intermediate layers using linear classifier probes", ICLR workshop 2017. Features are
    standardised by the train split; of `PENALTIES` the one is taken that is best on the val split, the larger of equals.

    Args:
        embeddings: Of the train split, ``[graphs, features]``.
        targets: Class indices int64 ``[graphs]``, or numbers.
        val_embeddings: Of the val split.
        val_targets: Of the val split.
        metric: What the choice is made by; it takes probabilities or numbers, as the targets are.
        num_classes: Classes that a target may have; None for numbers.

    Raises:
        MethodError: An embedding is not finite, or the train split has one class alone.
    """
    for split, array in (("train", embeddings), ("val", val_embeddings)):
        broken = ~np.isfinite(array).all(axis=1)
        if broken.any():
            raise MethodError(
                f"{broken.sum()} of {len(array)} embeddings of the {split} split are not finite, the first is in row "
                f"{int(np.argmax(broken))}; expected finite numbers: repair the method's embed"
            )
    if num_classes is not None and len(np.unique(targets)) < 2:
        raise MethodError(
            f"all {len(targets)} targets of the train split are class {targets[0]}; expected two classes or more for a linear "
            "probe: choose another target"
        )
    mean, scale = embeddings.mean(axis=0, dtype=np.float64), embeddings.std(axis=0, dtype=np.float64)
    # a feature that is the same in all networks, but for rounding, stays where it is
    scale = np.where(scale > 1e-9 * np.abs(mean), scale, 1.0)
    features, val_features = (embeddings - mean) / scale, (val_embeddings - mean) / scale
    best: LinearProbe | None = None
    for penalty in PENALTIES:
        model = _model(penalty, num_classes=num_classes).fit(features, targets)
        score = metric(_predict(model, val_features, num_classes=num_classes), val_targets)
        if best is None or metric.is_better(score, best.score):
            best = LinearProbe(penalty, score, mean, scale, model, num_classes)
    assert best is not None, "there are penalties"
    return best


def _model(penalty: float, *, num_classes: int | None) -> Any:
    # scikit-learn takes a second to import, and most runs fit no probe
    from sklearn.linear_model import LogisticRegression, Ridge

    return Ridge(alpha=penalty) if num_classes is None else LogisticRegression(C=1 / penalty, max_iter=5000)


def _predict(model: Any, features: np.ndarray, *, num_classes: int | None) -> np.ndarray:
    if num_classes is None:
        return model.predict(features)
    # classes that the train split lacks have no column in the model
    probabilities = np.zeros((len(features), num_classes))
    probabilities[:, model.classes_] = model.predict_proba(features)
    return probabilities
