"""A tiny zoo of untrained networks of three topologies and two structures, and the ways in which tests damage its file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn, zeros

from ngbench.graph import Topology, trace
from ngbench.store import Zoo, ZooInfo, ZooWriter, generate
from ngbench.store.seal import SEAL_BYTES, write_sealed
from ngbench.zoo.columns import Column
from ngbench.zoo.recipe import ClassifierRecipe, InrRecipe

NUM_MLPS, NUM_CNNS = 11, 6
MLP_VALUES = 3 * 5 + 5 + 5 * 2 + 2
CNN_VALUES = 2 * 4 * 3 + 4 + 4 * 7 + 7


@dataclass
class Tiny:
    """What the tiny zoo is made of, as it was before it was written."""

    topologies: list[Topology]
    mlp_rows: np.ndarray
    cnn_rows: np.ndarray
    info: ZooInfo = field(default_factory=lambda: ZooInfo("tiny", "3", "Tiny zoo", "CC0-1.0", "nobody, 1815"))
    columns: tuple[Column, ...] = (
        Column("optimizer", "hyperparameter", "str", "update rule"),
        Column("width", "hyperparameter", "int", "hidden units"),
        Column("test_accuracy", "measurement", "float", "fraction right"),
    )
    ids: list[str] = field(default_factory=lambda: [f"réseau-{index:02d}" for index in range(NUM_MLPS + NUM_CNNS)])

    def __post_init__(self):
        # Two checkpoints of each run.
        self.run_ids = [f"run-{index // 2}" for index in range(len(self.ids))]
        rng = np.random.default_rng(5)
        self.metadata = {
            "optimizer": rng.choice(["sgd", "adam"], len(self.ids)),
            "width": np.arange(len(self.ids)) * 2**40,
            "test_accuracy": rng.random(len(self.ids)),
        }

    def append_to(self, writer: ZooWriter, first: int, last: int) -> None:
        """Appends networks of one structure."""
        part = slice(first, last)
        rows = self.mlp_rows[part] if last <= NUM_MLPS else self.cnn_rows[first - NUM_MLPS : last - NUM_MLPS]
        metadata = {name: values[part] for name, values in self.metadata.items()}
        writer.append(self.topologies[part], rows, ids=self.ids[part], run_ids=self.run_ids[part], metadata=metadata)

    def write(self, path: Path, *, compressed: bool | None = None) -> Path:
        """Writes the zoo."""
        with ZooWriter(path, self.info, columns=self.columns, compressed=compressed) as writer:
            self.append_to(writer, 0, NUM_MLPS)
            self.append_to(writer, NUM_MLPS, NUM_MLPS + NUM_CNNS)
            writer.add_diverged([("run-90", "losses are not finite"), ("run-91", "weights are not finite")])
        return path

    def row(self, index: int) -> np.ndarray:
        """Values of one network."""
        return self.mlp_rows[index] if index < NUM_MLPS else self.cnn_rows[index - NUM_MLPS]


@pytest.fixture(scope="session")
def traced() -> dict[str, Topology]:
    """Two topologies of one structure, and one of another."""

    def mlp(activation):
        return trace(nn.Sequential(nn.Linear(3, 5), activation, nn.Linear(5, 2)), zeros(1, 3)).topology

    cnn = nn.Sequential(nn.Conv2d(2, 4, (3, 1)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 7))
    return {"relu": mlp(nn.ReLU()), "tanh": mlp(nn.Tanh()), "cnn": trace(cnn, zeros(1, 2, 8, 6)).topology}


@pytest.fixture
def tiny(traced) -> Tiny:
    rng = np.random.default_rng(3)
    # Activations alternate, so that the order in the file is not that of the topologies.
    topologies = [traced["tanh" if index % 3 == 1 else "relu"] for index in range(NUM_MLPS)] + [traced["cnn"]] * NUM_CNNS
    mlp_rows = rng.normal(size=(NUM_MLPS, MLP_VALUES)).astype(np.float32)
    cnn_rows = rng.normal(size=(NUM_CNNS, CNN_VALUES)).astype(np.float32)
    # Bits that a lossy way would change: signed zero and the smallest subnormal.
    mlp_rows[0, :2] = -0.0, 1e-45
    return Tiny(topologies, mlp_rows, cnn_rows)


@pytest.fixture(params=[True, False], ids=["compressed", "mapped"])
def tiny_path(tiny, tmp_path, request) -> Path:
    return tiny.write(tmp_path / "tiny.h5", compressed=request.param)


@pytest.fixture
def tiny_zoo(tiny_path) -> Zoo:
    return Zoo(tiny_path)


@pytest.fixture
def seal_again() -> Callable[[Path, Callable[[h5py.File], None]], Path]:
    """Changes the HDF5 content of a zoo file and seals it again: damage that only the schema can find."""

    def change(path: Path, edit: Callable[[h5py.File], None]) -> Path:
        with h5py.File(path, "r+") as file:
            edit(file)
        content = path.read_bytes()[SEAL_BYTES:]
        with path.open("wb") as file:
            write_sealed(file, content, ())
        return path

    return change


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Networks this small train a hundred times slower where two threads fight for a busy core."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="session")
def recipe() -> ClassifierRecipe:
    """Seven runs that train in a moment; runs 3 and 4 diverge."""
    return ClassifierRecipe.model_validate(
        {
            "name": "moment",
            "version": "2",
            "title": "CNNs trained for a moment",
            "description": "for tests",
            "licence": "CC0-1.0",
            "citation": "nobody",
            "num_runs": 7,
            "seed": 35,
            "images": {"corpus": "digits", "split_seed": 1, "num_train": 40, "num_val": 20, "num_test": 30},
            "architecture": {
                "family": "cnn",
                "input_shape": [1, 8, 8],
                "channels": [2, 3],
                "kernel_size": 3,
                "strides": [2, 1],
                "paddings": [0, 0],
                "num_classes": 10,
            },
            "hyperparameters": {
                "activation": {"kind": "choice", "values": ["relu", "tanh"]},
                "initializer": {"kind": "fixed", "value": "he_normal"},
                "init_scale": {"kind": "fixed", "value": 1.0},
                "optimizer": {"kind": "fixed", "value": "sgd"},
                "learning_rate": {"kind": "choice", "values": [0.1, 1e6], "weights": [4, 1]},
                "schedule": {"kind": "fixed", "value": "constant"},
                "weight_decay": {"kind": "fixed", "value": 0.001},
                "dropout": {"kind": "fixed", "value": 0.0},
                "batch_size": {"kind": "fixed", "value": 8},
                "epochs": {"kind": "choice", "values": [5, 9]},
                "train_share": {"kind": "fixed", "value": 1.0},
            },
            "rounding": "bfloat16",
            "largest_weight": 50.0,
        }
    )


@pytest.fixture(scope="session")
def inr_zoo(inr_recipe: InrRecipe, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """A zoo of eleven images, each represented three times."""
    return generate(inr_recipe, tmp_path_factory.mktemp("inr") / "glance.h5", shard_size=8)
