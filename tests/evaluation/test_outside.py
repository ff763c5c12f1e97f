"""Test networks as plain files: a stranger with numpy alone gets what the protocol shows, and nothing of the answers."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ngbench.errors import ConfigError, SplitError
from ngbench.evaluation.exam import orbit_salt
from ngbench.evaluation.outside import PlainNetworks
from ngbench.graph import restore
from ngbench.loading import GraphDataset
from ngbench.store import ZooInfo, ZooWriter, open_zoo
from ngbench.tasks import TASKS
from ngbench.testing import SEVERAL_STRUCTURES, fake_dataset
from ngbench.zoo.columns import COLUMNS

NUM_NETWORKS = 70


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Networks of several structures, one structure after the other."""
    dataset = fake_dataset(SEVERAL_STRUCTURES, num_graphs=NUM_NETWORKS, seed=5)
    path, names = tmp_path_factory.mktemp("zoo") / "motley.h5", ("activation", "init_scale", "test_accuracy")
    with ZooWriter(path, ZooInfo("motley", "2", "Fakes", "MIT", "none"), columns=[COLUMNS[name] for name in names]) as writer:
        for bundle in dataset.bundles:
            rows = bundle.index.numpy()
            metadata = {**dataset.hyperparameters, "test_accuracy": dataset.targets}
            writer.append(
                [bundle.variants[int(variant)] for variant in bundle.variant],
                bundle.values.numpy(),
                ids=[f"n{row}" for row in rows],
                metadata={name: metadata[name][rows] for name in names},
            )
    return open_zoo(path)


@pytest.fixture(scope="module")
def task():
    return TASKS["generalization"].asked("motley")


@pytest.fixture(scope="module")
def arrays(zoo, task, tmp_path_factory):
    with np.load(PlainNetworks.of(task, zoo).save(tmp_path_factory.mktemp("plain") / "test.npz")) as content:
        return dict(content)


def test_values_are_those_of_the_test_networks_row_by_row(zoo, arrays):
    rows = zoo.split("test")
    assert arrays["ids"].tolist() == zoo.ids[rows].tolist()
    for place, row in enumerate(rows.tolist()):
        start, stop = arrays["value_ptr"][place : place + 2]
        np.testing.assert_array_equal(arrays["values"][start:stop], zoo[row].row().numpy())
        assert arrays["topologies"][arrays["topology"][place]] == zoo[row].topology.to_json()


def test_scrambled_copies_are_those_of_the_protocol(zoo, task, arrays):
    assert arrays["scrambled"].shape == (task.num_scrambled, len(arrays["values"]))
    rows = zoo.split("test")
    for copy, flat in enumerate(arrays["scrambled"]):
        expected = GraphDataset.from_zoo(zoo, rows).scrambled(salt=orbit_salt(copy))
        for bundle in expected.bundles:
            for place, values in zip(bundle.index.tolist(), bundle.values, strict=True):
                start, stop = arrays["value_ptr"][place : place + 2]
                np.testing.assert_array_equal(flat[start:stop], values.numpy())
        assert (flat != arrays["values"]).mean() > 0.3


def test_slots_say_which_entry_of_the_state_dict_stands_where(zoo, arrays):
    slots = json.loads(arrays["slots"][arrays["topology"][0]])
    state_dict = restore(zoo[zoo.split("test")[:1]][0])
    values = arrays["values"][: arrays["value_ptr"][1]]
    found = {slot["parameter"]: values[slot["start"] : slot["stop"]].reshape(slot["shape"]) for slot in slots}
    assert set(found) == set(state_dict)
    for path, entry in state_dict.items():
        assert torch.equal(torch.from_numpy(found[path]).reshape(entry.shape), entry)
    assert sum(slot["stop"] - slot["start"] for slot in slots) == len(values)


def test_no_array_holds_an_answer_or_a_column(zoo, arrays):
    assert set(arrays) == {"ids", "values", "scrambled", "value_ptr", "topology", "topologies", "slots", "about"}
    texts = " ".join(str(arrays[name]) for name in ("about", "slots", "topologies"))
    assert not [name for name in ("init_scale", "measurement") if name in texts]
    about = json.loads(str(arrays["about"]))
    assert about == {
        "zoo": "motley",
        "zoo_version": "2",
        "zoo_sha256": zoo.sha256,
        "task": "generalization",
        "task_version": 1,
        "split": "default",
        "target": "test_accuracy",
        "salts": ["ngbench-orbit-1", "ngbench-orbit-2", "ngbench-orbit-3"],
    }


def test_parquet_holds_the_same_a_row_for_each_network_and_copy(zoo, task, arrays, tmp_path):
    table = pq.read_table(PlainNetworks.of(task, zoo).save(tmp_path / "test.parquet"))
    copies, count = 1 + task.num_scrambled, len(arrays["ids"])
    assert table.column("id").to_pylist() == arrays["ids"].tolist() * copies
    assert table.column("copy").to_pylist() == np.repeat(np.arange(copies), count).tolist()
    flat = np.concatenate([arrays["values"], *arrays["scrambled"]])
    np.testing.assert_array_equal(table.column("values").combine_chunks().flatten().to_numpy(), flat)
    assert json.loads(table.schema.metadata[b"about"]) == json.loads(str(arrays["about"]))
    slots = json.loads(table.schema.metadata[b"slots"])
    assert set(slots) == set(table.column("topology").to_pylist()) == set(json.loads(table.schema.metadata[b"topologies"]))


def test_what_is_asked_for_is_not_told_by_the_topology(zoo):
    told = PlainNetworks.of(TASKS["classification"].asked("motley", target="activation"), zoo)
    assert len(told.topologies) < len(PlainNetworks.of(TASKS["generalization"].asked("motley"), zoo).topologies)
    assert not any("tanh" in topology.to_json() for topology in told.topologies)


def test_questions_that_plain_files_cannot_put_are_refused(zoo, task, tmp_path):
    with pytest.raises(ConfigError, match="task 'merging' asks which neurons of two networks correspond"):
        PlainNetworks.of(TASKS["merging"].asked("motley"), zoo)
    with pytest.raises(SplitError, match="no column 'label'"):
        PlainNetworks.of(TASKS["classification"].asked("motley"), zoo)
    with pytest.raises(ConfigError, match=r"ends in '\.csv'; expected \.npz or \.parquet"):
        PlainNetworks.of(task, zoo).save(tmp_path / "test.csv")
