from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ngbench.errors import GraphError, WeightsError
from ngbench.evaluation.use.networks import OwnModule, read_state_dict, write_state_dict

FILE = """
import torch
from torch import nn
def net():
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.zeros(1, 3)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "own_networks_file.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield OwnModule("own_networks_file:net")
    sys.modules.pop("own_networks_file", None)


def entries(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).state_dict()


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.safetensors"])
def test_what_is_written_is_read_again(tmp_path, name):
    given = {**entries(), "count": torch.tensor(7)}
    given["tied"] = given["0.weight"]
    write_state_dict(given, tmp_path / name)
    found = read_state_dict(tmp_path / name)
    assert set(found) == set(given)
    assert all(torch.equal(found[key], given[key]) and found[key].dtype == given[key].dtype for key in given)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    write_state_dict(entries(), tmp_path / "a.pt")
    before = (tmp_path / "a.pt").read_bytes()

    def fail(self, target):
        raise OSError("no room")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no room"):
        write_state_dict(entries(1), tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_checkpoints_of_training_loops_are_read(tmp_path, key, prefix):
    torch.save({key: {prefix + name: values for name, values in entries().items()}, "epoch": 3}, tmp_path / "a.pt")
    assert set(read_state_dict(tmp_path / "a.pt")) == set(entries())


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("run"),))


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("gone.pt", lambda path: None, "cannot read weights from .*gone.pt .No such file"),
        ("gone.safetensors", lambda path: None, "cannot read weights from .*gone.safetensors .No such file"),
        ("junk.pt", lambda path: path.write_bytes(b"hello"), "junk.pt is not read by torch .KeyError."),
        ("empty.pt", lambda path: path.write_bytes(b""), "empty.pt is not read by torch .EOFError."),
        ("junk.safetensors", lambda path: path.write_bytes(b"hello"), "junk.safetensors is no safetensors file"),
        ("module.pt", lambda path: torch.save(nn.Linear(2, 3), path), "module.pt holds more than tensors"),
        ("evil.pt", lambda path: torch.save({"a": Evil()}, path), "evil.pt holds more than tensors"),
        ("number.pt", lambda path: torch.save({"a": 3}, path), "holds a int under 'a'"),
        ("list.pt", lambda path: torch.save([torch.ones(2)], path), "holds a list; expected a state dict"),
        ("sparse.pt", lambda path: torch.save({"a": torch.eye(3).to_sparse()}, path), "holds a Tensor under 'a'; .* plain"),
        ("nothing.pt", lambda path: torch.save({}, path), "holds a dict; expected a state dict"),
    ],
)
def test_files_that_are_no_state_dicts_are_refused_and_run_nothing(tmp_path, monkeypatch, name, write, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name)
    with pytest.raises(WeightsError, match=message):
        read_state_dict(tmp_path / name)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "message"), [("a.txt", "ends in .pt, .pth or .safetensors"), ("no/a.pt", "a folder that exists")]
)
def test_names_that_cannot_be_written_are_refused(tmp_path, name, message):
    with pytest.raises(WeightsError, match=message):
        write_state_dict(entries(), tmp_path / name)


def test_a_network_has_the_weights_of_its_file_or_its_own(module, tmp_path):
    save_file(entries(4), tmp_path / "a.safetensors")
    graph = module.network(tmp_path / "a.safetensors")
    assert torch.equal(graph.block("0").squeeze(-1), load_file(tmp_path / "a.safetensors")["0.weight"])
    assert module.network(None).topology == graph.topology


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.pop("2.bias"), "weights in .*a.pt do not fit own_networks_file:net: state dict lacks '2.bias'"),
        (lambda e: e.update(extra=torch.ones(1)), "has entries 'extra' that the topology lacks"),
        (lambda e: e.update({"2.bias": torch.ones(3)}), r"'2.bias' has shape \(3,\); expected \(2,\)"),
        (lambda e: e.update({"2.bias": torch.tensor([1.0, torch.nan])}), "'2.bias' of .* has 1 of 2 values that are not finite"),
        (lambda e: e.update({"0.bias": torch.full((5,), torch.inf)}), "'0.bias' of .* has 5 of 5 values that are not finite"),
    ],
)
def test_weights_that_do_not_fit_or_are_not_finite_are_refused(module, tmp_path, change, message):
    changed = dict(entries())
    change(changed)
    torch.save(changed, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match=message):
        module.network(tmp_path / "a.pt")


def test_networks_are_read_in_float32_and_run_on_inputs_under_any_name(module):
    half = {name: values.half() for name, values in entries().items()}
    torch.save(half, "half.pt")
    dataset = module.dataset([module.network(Path("half.pt"))], ["half"])
    assert dataset.bundles[0].values.dtype == torch.float32
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    net.load_state_dict(half)
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(dataset.bundles[0].activations(inputs)[-2:, 0].T, net(inputs).detach())


def test_an_exported_program_is_read_but_not_run(module):
    torch.export.save(torch.export.export(module.source.module, (torch.zeros(1, 3),)), "a.pt2")
    exported = OwnModule("a.pt2")
    assert exported.network(None).topology.num_values == module.graph.topology.num_values
    with pytest.raises(GraphError, match="networks of a.pt2 cannot be run on inputs"):
        _ = exported.program
