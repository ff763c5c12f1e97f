"""Networks as training leaves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from ngbench.errors import TrainingError
from ngbench.zoo.architectures import Architecture, build
from ngbench.zoo.columns import Column

_DTYPES = {"int": np.int64, "float": np.float64, "str": np.str_}


@dataclass(frozen=True)
class TrainedNetworks:
    """Networks of one architecture after training, in the order of their run indices, those of one run by epoch.

    Args:
        architecture: What all of them are built as, each with its own of `activations`.
        parameters: Parameters and running statistics, float32 ``[networks, *shape]`` by state-dict path.
        metadata: ``[networks]`` by column name; `ngbench.zoo.columns` describes the columns.
        diverged: Id and reason of each network whose weights or losses are not finite or too large; these have no row.
        functional: Outputs on fixed inputs, float16 ``[networks, outputs]`` by name.

    Raises:
        TrainingError: The arrays have different numbers of networks.
    """

    architecture: Architecture
    parameters: Mapping[str, np.ndarray]
    metadata: Mapping[str, np.ndarray]
    diverged: tuple[tuple[str, str], ...]
    functional: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {name: len(array) for name, array in {**self.parameters, **self.metadata, **self.functional}.items()}
        if len(set(lengths.values())) > 1:
            raise TrainingError(f"parameters and metadata need one row a network each, got {lengths}; cut them alike")

    def __len__(self) -> int:
        return len(self.metadata["run_id"])

    @property
    def ids(self) -> list[str]:
        """Name of each network: that of its run, with the epoch where a run gives several."""
        epochs = self.metadata.get("epoch", np.full(len(self), -1)).tolist()
        return [network_id(run_id, epoch) for run_id, epoch in zip(self.metadata["run_id"].tolist(), epochs, strict=True)]

    @property
    def activations(self) -> list[str]:
        """The activation of each network: the metadata column, or the only one that the architecture can have."""
        if "activation" in self.metadata:
            return self.metadata["activation"].tolist()
        return [self.architecture.activations[0]] * len(self)

    def module_of(self, row: int) -> nn.Sequential:
        """The network of a row as a torch module in evaluation mode."""
        dropout = float(self.metadata["dropout"][row]) if "dropout" in self.metadata else 0.0
        module = build(self.architecture, self.activations[row], dropout=dropout)
        found = {path: torch.tensor(values[row]) for path, values in self.parameters.items()}
        # counters of batches are in no zoo: what a network computes does not depend on them
        module.load_state_dict({**module.state_dict(), **found})
        return module.eval()


def network_id(run_id: str, epoch: int) -> str:
    """Name of the network that a run gave after an epoch; -1: the only one."""
    return run_id if epoch < 0 else f"{run_id}-e{epoch:03d}"


def typed_columns(
    columns: Sequence[Column], known: Sequence[Mapping[str, Any]], *, measured: Mapping[str, np.ndarray], kept: np.ndarray
) -> dict[str, np.ndarray]:
    """Metadata of the networks that are kept, ``[networks]`` by column name.

    Args:
        columns: Which, in their order.
        known: What is known of each run before it is trained, by column name.
        measured: The measurements of all runs, by column name.
        kept: Which runs gave a network, bool ``[runs]``.
    """
    values = {name: [each[name] for each in known] for name in known[0]} | dict(measured)
    return {column.name: np.array(values[column.name], dtype=_DTYPES[column.dtype])[kept] for column in columns}
