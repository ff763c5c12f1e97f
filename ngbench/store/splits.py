"""Which networks are for training, validation and test: decided by the run that they came from, or the image, for ever.

The split `default` has all networks. A transfer split is tested on the networks that it holds out, and fitted on those of the
others that are for training and validation in `default`: no test network of `default` is fitted on in any split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

PARTS = ("train", "val", "test")
NO_PART = -1
# Train 70 %, val 10 %, test 20 %: where each but the first begins.
_EDGES = (0.7, 0.8)


def assign(zoo_name: str, keys: Iterable[str]) -> np.ndarray:
    """The part of each key, as a position in `PARTS`, int8 ``[keys]``; a key is a run id, or what else networks may share.

    The first 8 bytes of sha256("<zoo name>/<key>"), big-endian over 2^64, fall below 0.7 (train), below 0.8 (val) or above
    (test). So all networks of a key stand in one part, and a key keeps its part when the zoo grows or changes its version.
    """
    digests = (hashlib.sha256(f"{zoo_name}/{key}".encode()).digest() for key in keys)
    places = np.array([int.from_bytes(digest[:8], "big") / 2**64 for digest in digests])
    return np.searchsorted(_EDGES, places, side="right").astype(np.int8)


def transfer(default: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """The part of each network in a transfer split, as a position in `PARTS` or `NO_PART`, int8 ``[networks]``.

    Args:
        default: Its part in the default split, ``[networks]``.
        held_out: Whether it is held out for the test, bool ``[networks]``.
    """
    test = PARTS.index("test")
    return np.where(held_out, test, np.where(default == test, NO_PART, default)).astype(np.int8)
