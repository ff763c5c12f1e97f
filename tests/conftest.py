"""Settings for the whole suite, and a small zoo file that the tests of the later stages share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import settings

# A machine under load draws slowly, which is no fault of the code; and a run is the same on every machine.
settings.register_profile("ngbench", deadline=None, derandomize=True, database=None)
settings.load_profile("ngbench")

# The tests' networks are tiny: a second thread costs more than it brings, and much more where cores are shared.
torch.set_num_threads(1)

NUM_NETWORKS = 150


@pytest.fixture(scope="session")
def small_zoo_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo of untrained networks of one structure, whose target follows from the scale of their weights."""
    from ngbench.store import ZooInfo, ZooWriter
    from ngbench.testing import fake_dataset
    from ngbench.zoo.columns import COLUMNS

    dataset = fake_dataset(num_graphs=NUM_NETWORKS, seed=3)
    bundle = dataset.bundles[0]
    path = tmp_path_factory.mktemp("zoo") / "small.h5"
    columns = [COLUMNS[name] for name in ("activation", "init_scale", "test_accuracy")]
    info = ZooInfo(name="small", version="1", title="Fakes", licence="MIT", citation="none", recipe=None)
    with ZooWriter(path, info, columns=columns) as writer:
        writer.append(
            [bundle.variants[int(variant)] for variant in bundle.variant],
            bundle.values.numpy(),
            ids=dataset.ids,
            metadata={**dataset.hyperparameters, "test_accuracy": dataset.targets},
        )
    return path
