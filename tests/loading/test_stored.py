from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from ngbench.errors import GraphError
from ngbench.loading import GraphDataset, Normalization, StoredValues
from ngbench.store import Zoo, ZooInfo, ZooWriter
from ngbench.testing import cnn_topology, mlp_topology

NUM_MLPS, NUM_CNNS = 23, 14
ROWS = np.random.default_rng(4).permutation(NUM_MLPS + NUM_CNNS)[:31]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A mapped zoo of two structures, one of them with two activations."""
    path = tmp_path_factory.mktemp("stored") / "two.h5"
    mlps = [mlp_topology((3, 5, 2), activation=name) for name in ("relu", "tanh")]
    cnn = cnn_topology((1, 4, 3), num_classes=6)
    rng = np.random.default_rng(2)
    with ZooWriter(path, ZooInfo("two", "1", "Two", "MIT", "none"), compressed=False) as writer:
        for topologies, count in (([mlps[i % 2] for i in range(NUM_MLPS)], NUM_MLPS), ([cnn] * NUM_CNNS, NUM_CNNS)):
            rows = rng.normal(size=(count, topologies[0].num_values)).astype(np.float32)
            writer.append(topologies, rows, ids=[f"{topologies[0].num_values}-{i}" for i in range(count)])
    return Zoo(path)


@pytest.fixture(scope="module")
def loaded(zoo):
    return GraphDataset.from_zoo(zoo, ROWS)


@pytest.fixture
def stored(zoo):
    return GraphDataset.from_zoo(zoo, ROWS, loaded=False)


@pytest.fixture
def read(monkeypatch):
    """The numbers of rows that a zoo was asked for, call by call."""
    counts, values = [], Zoo.values

    def counting(self, rows):
        counts.append(len(rows))
        return values(self, rows)

    monkeypatch.setattr(Zoo, "values", counting)
    return counts


def assert_same_batch(batch, expected):
    assert len(batch.bundles) == len(expected.bundles)
    for own, other in zip(batch.bundles, expected.bundles, strict=True):
        assert not own.is_stored
        assert torch.equal(own.values, other.values)
        assert torch.equal(own.variant, other.variant)
        assert torch.equal(own.index, other.index)
        assert own.variants == other.variants


def test_batches_are_those_of_the_loaded_networks_and_read_only_their_own_rows(loaded, stored, read):
    pairs = zip(stored.batches(6, rng=np.random.default_rng(1)), loaded.batches(6, rng=np.random.default_rng(1)), strict=True)
    for (positions, batch), (expected_positions, expected) in pairs:
        assert np.array_equal(positions, expected_positions)
        assert_same_batch(batch, expected)
    assert sum(read) == len(ROWS)
    assert max(read) <= 6


def test_making_a_dataset_moving_it_and_withholding_from_it_read_nothing(stored, read):
    for networks in (stored, stored.without_targets(), stored.without_activations(), stored.to("cpu")):
        assert all(bundle.is_stored for bundle in networks.bundles)
        assert [tuple(bundle.values.shape) for bundle in networks.bundles] == [
            (len(bundle.index), bundle.topology.num_values) for bundle in stored.bundles
        ]
    assert stored.bundles[0].to("meta").values.device.type == "meta"
    assert stored.bundles[0].to("meta").is_stored
    assert read == []


def test_scrambled_networks_are_those_of_the_loaded_ones_and_scrambled_as_they_are_read(loaded, stored, read):
    twins, expected = stored.scrambled(salt="s"), loaded.scrambled(salt="s")
    assert read == []
    positions = np.array([30, 2, 17, 2])
    assert_same_batch(twins.batch(positions), expected.batch(positions))
    assert not torch.equal(twins.batch(positions).bundles[0].values, loaded.batch(positions).bundles[0].values)


@pytest.mark.parametrize(
    ("ask", "num_rows"),
    [
        (lambda values: values[torch.tensor([4, 0, -1])], 3),
        (lambda values: values[torch.arange(len(values)) % 5 == 1], 4),
        (lambda values: values.index_select(0, torch.tensor([2, 2])), 2),
        (lambda values: values[-2], 1),
        (lambda values: values[3:9:2], 3),
        (lambda values: values[5:], 13),
        (lambda values: values[:, 2:7], 18),
        (lambda values: values.double(), 18),
        (lambda values: 1 - values, 18),
        (lambda values: values.square().mean(1), 18),
        (lambda values: values.clone(), 18),
        (lambda values: torch.cat([values, values]), 36),
        (lambda values: torch.stack(list(values)), 18),
    ],
)
def test_what_is_asked_of_stored_values_is_what_a_tensor_gives_and_reads_no_more_rows(loaded, stored, read, ask, num_rows):
    dense = loaded.bundles[0].values
    values = stored.bundles[0].values
    assert isinstance(values, StoredValues)
    assert len(dense) == 18
    assert torch.equal(ask(values), ask(dense))
    assert sum(read) == num_rows


def test_all_stored_values_become_an_array_where_numpy_asks_for_them(loaded, stored, read):
    assert np.array_equal(np.quantile(stored.bundles[0].values, 0.3, axis=0), np.quantile(loaded.bundles[0].values, 0.3, axis=0))
    assert np.array_equal(stored.bundles[0].values.numpy(), loaded.bundles[0].values.numpy())
    assert sum(read) == 36


def test_stored_values_cannot_be_changed_in_place(stored):
    match = "the values of 18 networks stay in their file and cannot be changed in place by aten.mul_.Tensor; expected"
    with pytest.raises(GraphError, match=match):
        stored.bundles[0].values.mul_(2)


def test_a_dataset_travels_to_another_process_as_the_path_of_its_zoo(loaded, stored):
    content = pickle.dumps(stored.scrambled(salt="s"))
    positions = np.array([8, 1])
    assert_same_batch(pickle.loads(content).batch(positions), loaded.scrambled(salt="s").batch(positions))
    assert copy.deepcopy(stored).bundles[0].is_stored


def test_a_zoo_is_loaded_up_to_a_size_and_stays_in_its_file_above(zoo, monkeypatch):
    num_bytes = sum(4 * zoo.topologies[index].num_values for index in zoo.topology_index[ROWS])
    for limit, is_stored in ((num_bytes, False), (num_bytes - 1, True)):
        monkeypatch.setattr("ngbench.loading.dataset.LOADED_BYTES", limit)
        assert [bundle.is_stored for bundle in GraphDataset.from_zoo(zoo, ROWS).bundles] == [is_stored] * 2


@pytest.mark.parametrize("at_once", [1, 200, 2**24])
def test_normalization_is_the_same_however_many_networks_are_measured_at_once(loaded, stored, read, monkeypatch, at_once):
    expected = Normalization.fit(loaded)
    monkeypatch.setattr("ngbench.loading.batch.VALUES_AT_ONCE", at_once)
    found = Normalization.fit(stored)
    assert {kind: pytest.approx(numbers, rel=1e-12) for kind, numbers in expected.by_kind.items()} == found.by_kind
    assert sum(read) == len(ROWS)
    single, expected = (replace(networks, bundles=networks.bundles[:1]) for networks in (stored, loaded))
    of_structure = next(iter(Normalization.fit(single).by_structure.values()))
    assert np.allclose(of_structure, next(iter(Normalization.fit(expected).by_structure.values())), rtol=1e-12)


LIMITED = """
import resource, sys
import numpy as np
import torch
import ngbench.loading.batch
from ngbench.loading import GraphDataset, Normalization
from ngbench.store import Zoo

torch.set_num_threads(1)
ngbench.loading.batch.VALUES_AT_ONCE = 2**18
zoo, limit = Zoo(sys.argv[2]), int(sys.argv[3])
linear = torch.nn.Linear(zoo.topologies[0].num_values, 1)
optimizer = torch.optim.SGD(linear.parameters(), lr=1e-3)

def fit(rows):
    networks = GraphDataset.from_zoo(zoo, rows, loaded=sys.argv[1] == "loaded").scrambled(salt="limit")
    normalization, num_seen = Normalization.fit(networks), 0
    for epoch in range(2):
        for positions, batch in networks.batches(64, rng=np.random.default_rng(epoch)):
            loss = linear(normalization(batch).bundles[0].values).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            num_seen += len(positions)
    return num_seen

# what is imported when it is first used
fit(np.arange(200))
# what the process may take from here on; pages of a mapped file are the system's to drop and do not count
now = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (now + limit, now + limit))
print(fit(np.arange(len(zoo))))
"""


@pytest.fixture(scope="module")
def large_path(tmp_path_factory):
    """A mapped zoo of 96 MiB of values."""
    topology, path = mlp_topology((64, 32, 16)), tmp_path_factory.mktemp("large") / "large.h5"
    num_networks = 96 * 2**20 // (4 * topology.num_values)
    with ZooWriter(path, ZooInfo("large", "1", "Large", "MIT", "none"), compressed=False) as writer:
        rows = np.random.default_rng(6).normal(size=(num_networks, topology.num_values)).astype(np.float32)
        writer.append(topology, rows, ids=[str(row) for row in range(num_networks)])
    return path


@pytest.mark.parametrize("way", ["stored", "loaded"])
def test_a_zoo_larger_than_memory_trains_where_its_values_are_stored_and_only_there(large_path, way, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [sys.executable, "-c", LIMITED, way, str(large_path), str(32 * 2**20)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if way == "loaded":
        assert finished.returncode == 1
        assert "MemoryError" in finished.stderr or "not enough memory" in finished.stderr
    else:
        assert finished.returncode == 0, finished.stderr
        assert int(finished.stdout) == 2 * len(Zoo(large_path))
