"""How well predicted probabilities of classes name the class, and whether they mean what they say."""

from __future__ import annotations

import numpy as np

from ngbench.metrics.metric import Metric

NUM_BINS = 15
# The least probability that is told from none: the rounding of float64.
LEAST_PROBABILITY = float(np.finfo(np.float64).eps)


def hits(probabilities: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """1 for each row whose most probable class, the first of equals, is the right one, and 0 otherwise, ``[rows]``."""
    return (probabilities.argmax(axis=1) == classes).astype(np.float64)


def accuracy(probabilities: np.ndarray, classes: np.ndarray) -> float:
    """Share of the rows whose most probable class, the first of equals, is the right one.

    >>> accuracy(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]))
    0.5
    """
    return float(hits(probabilities, classes).mean())


def macro_f1(probabilities: np.ndarray, classes: np.ndarray) -> float:
    """Mean over classes of F1 = 2 TP / (2 TP + FP + FN), each class counting alike.

    Classes that neither the targets have nor the predictions name are left out.

    >>> round(macro_f1(np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), np.array([0, 1, 1])), 6)
    0.666667
    """
    num_classes, named = probabilities.shape[1], probabilities.argmax(axis=1)
    right = np.bincount(classes[named == classes], minlength=num_classes)
    # TP + FP and TP + FN
    total = np.bincount(named, minlength=num_classes) + np.bincount(classes, minlength=num_classes)
    present = total > 0
    return float((2 * right[present] / total[present]).mean())


def expected_calibration_error(probabilities: np.ndarray, classes: np.ndarray) -> float:
    """Mean distance between confidence and accuracy over 15 bins of equal width, weighted by their rows.

    The confidence of a row is its greatest probability; bin m of M holds confidences in ((m - 1) / M, m / M]
    (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3).

    >>> round(expected_calibration_error(np.array([[0.9, 0.1], [0.1, 0.9]]), np.array([0, 0])), 6)
    0.4
    """
    confidence = probabilities.max(axis=1)
    bins = np.ceil(confidence * NUM_BINS).astype(np.int64)
    # |B| times the difference of the means in a bin is the difference of its sums.
    excess = np.bincount(bins, weights=hits(probabilities, classes) - confidence, minlength=NUM_BINS + 1)
    return float(np.abs(excess).sum() / len(classes))


def surprisal(probabilities: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """-ln of the probability of the right class of each row, in nats, ``[rows]``; a probability of none counts as 2⁻⁵²."""
    right = np.take_along_axis(probabilities, classes[:, np.newaxis], axis=1)[:, 0]
    # no -0.0 where the class is certain
    return np.abs(np.log(np.maximum(right, LEAST_PROBABILITY)))


def negative_log_likelihood(probabilities: np.ndarray, classes: np.ndarray) -> float:
    """Mean of -ln of the probability of the right class, in nats.

    >>> round(negative_log_likelihood(np.array([[0.5, 0.5], [0.75, 0.25]]), np.array([0, 1])), 6)
    1.039721
    """
    return float(surprisal(probabilities, classes).mean())


ACCURACY = Metric(
    "accuracy",
    "Accuracy",
    accuracy,
    higher_is_better=True,
    bounds=(0.0, 1.0),
    undefined=None,
    description="Share of the rows whose most probable class is the right one; the first of equally probable ones is taken.",
    takes="probabilities",
    of_rows=hits,
)

MACRO_F1 = Metric(
    "macro_f1",
    "Macro F1",
    macro_f1,
    higher_is_better=True,
    bounds=(0.0, 1.0),
    undefined=None,
    description="Mean of F1 over the classes that occur among targets or predictions, each class counting alike.",
    takes="probabilities",
)

ECE = Metric(
    "ece",
    "ECE",
    expected_calibration_error,
    higher_is_better=False,
    bounds=(0.0, 1.0),
    undefined=None,
    description="Expected calibration error: how far confidence lies from accuracy, over 15 bins of confidence of equal width.",
    takes="probabilities",
)

NLL = Metric(
    "nll",
    "NLL",
    negative_log_likelihood,
    higher_is_better=False,
    bounds=(0.0, -float(np.log(LEAST_PROBABILITY))),
    undefined=None,
    description="Mean negative log-likelihood of the right class, in nats; a probability below 2⁻⁵² counts as that.",
    takes="probabilities",
    of_rows=surprisal,
)
