"""A table of features of networks, for methods that read these in place of the networks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ngbench.loading import GraphBundle, GraphDataset


@dataclass(frozen=True)
class Table:
    """Features of networks, and what is asked of them. `training.train` takes it as it takes networks.

    Args:
        features: float64 ``[graphs, features]``; NaN where a network has none.
        targets: ``[graphs]``, numbers or classes; None where they are not known.
        device: Torch device on which batches stand.
    """

    features: np.ndarray
    targets: np.ndarray | None
    device: str = "cpu"

    @classmethod
    def of(cls, features: np.ndarray, networks: GraphDataset) -> Table:
        """Features of networks beside their targets."""
        return cls(features, np.asarray(networks.targets))

    def __len__(self) -> int:
        return len(self.features)

    @property
    def bundles(self) -> tuple[GraphBundle, ...]:
        """None: a table has no structures."""
        return ()

    def to(self, device: torch.device | str) -> Table:
        """The same table with its batches on another device."""
        return Table(self.features, self.targets, str(device))

    def batch(self, positions: np.ndarray) -> Tensor:
        """Some rows, float64 ``[graphs, features]``."""
        return torch.from_numpy(self.features[positions]).to(self.device)
