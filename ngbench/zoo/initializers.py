"""Initial weights by name; biases start at zero, scales of norms at one."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

import numpy as np

Initializer = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Inputs and outputs of one unit, counted over the kernel, of a weight ``[targets, sources, *kernel]``."""
    kernel = math.prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel


def _he_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """He et al. 2015, eq. 10."""
    return rng.normal(0, math.sqrt(2 / _fans(shape)[0]), shape)


def _glorot_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Glorot and Bengio 2010, eq. 12."""
    return rng.normal(0, math.sqrt(2 / sum(_fans(shape))), shape)


def _lecun_uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Uniform with the limits that torch gives its linear and convolution weights."""
    limit = 1 / math.sqrt(_fans(shape)[0])
    return rng.uniform(-limit, limit, shape)


def _orthogonal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Orthonormal rows (or columns) of the weight as a matrix ``[targets, sources * kernel]``; Saxe et al. 2014."""
    rows, columns = shape[0], math.prod(shape[1:])
    q, r = np.linalg.qr(rng.normal(size=(max(rows, columns), min(rows, columns))))
    # the sign makes the distribution uniform over the orthogonal group; Mezzadri 2007
    q = q * np.sign(np.diag(r))
    return (q if rows >= columns else q.T).reshape(shape)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard deviation 0.1 in every layer, whatever its fan-in."""
    return rng.normal(0, 0.1, shape)


def _truncated_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Standard deviation 0.1 in every layer, drawn again beyond two of these."""
    drawn = rng.normal(0, 0.1, shape)
    while (beyond := np.abs(drawn) > 0.2).any():
        drawn[beyond] = rng.normal(0, 0.1, np.count_nonzero(beyond))
    return drawn


INITIALIZERS: Mapping[str, Initializer] = MappingProxyType(
    {
        "he_normal": _he_normal,
        "glorot_normal": _glorot_normal,
        "lecun_uniform": _lecun_uniform,
        "orthogonal": _orthogonal,
        "normal": _normal,
        "truncated_normal": _truncated_normal,
    }
)


def initialize(
    shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator, *, kind: str, scale: float, ones: Collection[str] = ()
) -> np.ndarray:
    """Draws one network's initial parameters.

    Args:
        shapes: Shape of each parameter by its state-dict path; those of one axis are biases and stay zero.
        rng: Consumed in the order of `shapes`.
        kind: A name in `INITIALIZERS`.
        scale: Factor on every weight.
        ones: Paths of the scales of norms, which are one.

    Returns:
        All parameters flattened one after another, float64 ``[parameters]``.
    """
    draw = INITIALIZERS[kind]
    return np.concatenate(
        [
            np.full(shape, float(path in ones)) if len(shape) == 1 else scale * draw(rng, shape).ravel()
            for path, shape in shapes.items()
        ]
    )


def initialize_siren(shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator, *, omega: float) -> np.ndarray:
    """Draws one SIREN's initial parameters: weights uniform within sqrt(6 / sources) / omega in every layer, biases zero.

    Sitzmann et al. 2020, section 3.2, for hidden layers. The first layer has no wider range of its own, which on few pixels
    would be beyond the frequencies that they show (as in the zoos of Navon et al., ICML 2023).

    Args:
        shapes: Shape of each parameter by its state-dict path; those of one axis are biases.
        rng: Consumed in the order of `shapes`.
        omega: Factor in the sines.

    Returns:
        All parameters flattened one after another, float64 ``[parameters]``.
    """
    limits = [0.0 if len(shape) == 1 else math.sqrt(6 / shape[1]) / omega for shape in shapes.values()]
    return np.concatenate(
        [rng.uniform(-limit, limit, math.prod(shape)) for shape, limit in zip(shapes.values(), limits, strict=True)]
    )
