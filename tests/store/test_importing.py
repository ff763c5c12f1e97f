"""What becomes of networks of any published zoo on their way to a zoo file."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from ngbench.errors import ForeignZooError
from ngbench.store import PublishedZoo, import_zoo
from ngbench.store.importing import reason_left_out
from ngbench.store.published import PublishedNetwork
from ngbench.zoo.columns import Column


@dataclass(frozen=True)
class Line:
    """One linear map."""

    num_inputs: int

    def module(self):
        return nn.Linear(self.num_inputs, 3)

    def example_input(self):
        return (torch.zeros(1, self.num_inputs),)


def line(index, *, num_inputs=2, **parameters):
    rng = np.random.default_rng(index)
    given = {"weight": rng.normal(size=(3, num_inputs)), "bias": rng.normal(size=3)} | parameters
    return PublishedNetwork(f"n{index}", f"run{index // 2}", Line(num_inputs), given, {"index": index})


def zoo_of(*networks):
    columns = (Column("index", "identity", "int", "its number"),)
    return PublishedZoo("lines", "Lines", "MIT", "nobody", "nowhere", columns, lambda folder: iter(networks))


def test_networks_of_several_architectures_come_in_their_order_and_in_float32(tmp_path):
    networks = [line(0), line(1, num_inputs=5), line(2), line(3)]
    zoo = import_zoo(zoo_of(*networks), tmp_path, tmp_path / "zoo.h5")
    assert zoo.ids.tolist() == ["n0", "n1", "n2", "n3"]
    assert zoo.metadata["index"].tolist() == [0, 1, 2, 3]
    assert [zoo.topologies[index].num_values for index in zoo.topology_index] == [9, 18, 9, 9]
    for row, network in enumerate(networks):
        expected = np.concatenate([values.ravel() for values in network.parameters.values()]).astype(np.float32)
        assert sorted(zoo.flat_values([row])[0].tolist()) == sorted(expected.tolist())


def test_the_first_networks_alone_are_taken(tmp_path):
    assert len(import_zoo(zoo_of(line(0), line(1), line(2)), tmp_path, tmp_path / "zoo.h5", limit=2)) == 2
    with pytest.raises(ForeignZooError, match="limit is 0; expected at least 1"):
        import_zoo(zoo_of(line(0)), tmp_path, tmp_path / "none.h5", limit=0)


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e39])
def test_what_float32_does_not_hold_is_left_out_and_recorded(tmp_path, value):
    lost = line(1, bias=np.array([0, value, 1]))
    zoo = import_zoo(zoo_of(line(0), lost, line(2)), tmp_path, tmp_path / "zoo.h5")
    assert zoo.ids.tolist() == ["n0", "n2"]
    assert zoo.diverged == (("run0", "network n1 has values that are not finite"),)
    assert reason_left_out(lost) == zoo.diverged[0][1]
    assert reason_left_out(line(0)) is None
    (tmp_path / "files").mkdir()
    with pytest.raises(ForeignZooError, match="files' holds no finite network of zoo 'lines'; expected at least one"):
        import_zoo(zoo_of(lost), tmp_path / "files", tmp_path / "none.h5")
    assert not (tmp_path / "none.h5").exists()


@pytest.mark.parametrize(
    ("bias", "text"),
    [
        (np.arange(3), "network 'n1' holds int64 in 'bias'; expected real numbers"),
        (np.ones(3, dtype=complex), "network 'n1' holds complex128 in 'bias'; expected real numbers"),
        ([1.0, 2.0, 3.0], "network 'n1' holds list in 'bias'; expected real numbers"),
        (np.ones(4), r"network 'n1' of zoo 'lines' is not built as Line\(num_inputs=2\)"),
    ],
)
def test_parameters_of_another_form_are_refused(tmp_path, bias, text):
    with pytest.raises(ForeignZooError, match=text):
        import_zoo(zoo_of(line(0), line(1, bias=bias)), tmp_path, tmp_path / "zoo.h5")


@pytest.mark.parametrize(
    ("num_inputs", "text"),
    [
        (2**40, r"state-dict entry 'weight' has shape \(3, 2\); expected \(3, 1099511627776\)"),
        (-1, "negative dimension"),
        (2**70, ""),
    ],
)
def test_an_architecture_of_another_size_than_its_network_is_never_built(tmp_path, num_inputs, text):
    claimed = replace(line(0), architecture=Line(num_inputs))
    with pytest.raises(ForeignZooError, match=rf"'n0' of zoo 'lines' is not built as Line\(num_inputs={num_inputs}\) .*{text}"):
        import_zoo(zoo_of(claimed), tmp_path, tmp_path / "zoo.h5")


def test_two_versions_of_a_conversion_are_two_zoos(tmp_path):
    first, second = zoo_of(line(0)), replace(zoo_of(line(0)), version="2")
    assert import_zoo(first, tmp_path, tmp_path / "a.h5").sha256 != import_zoo(second, tmp_path, tmp_path / "b.h5").sha256
