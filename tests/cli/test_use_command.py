"""``ngbench predict``, ``ngbench search`` and ``ngbench merge`` as a user types them."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from ngbench.cli import main
from ngbench.graph import restore
from ngbench.store import open_zoo

FILE = """
import torch
from torch import nn

class Net(nn.Module):
    # the networks of the small zoo, under other names
    def __init__(self, activation=nn.ReLU):
        super().__init__()
        self.left, self.right, self.act = nn.Conv2d(1, 6, (3, 2)), nn.Conv2d(6, 4, (3, 2)), activation()
        self.out = nn.Linear(4, 5)
    def forward(self, x):
        return self.out(self.act(self.right(self.act(self.left(x)))).mean((2, 3)))

def net():
    return Net(), torch.zeros(1, 1, 8, 8)

def mish():
    return Net(nn.Mish), torch.zeros(1, 1, 8, 8)

def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.ReLU(), nn.Linear(7, 10)), torch.zeros(1, 1, 8, 8)

def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 10)), torch.zeros(1, 1, 8, 8)
"""
NAMES = {"conv0": "left", "conv1": "right", "head": "out"}
ROW = 22


def ngbench(*arguments, exit_code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], terminal_width=200)
    assert result.exit_code == exit_code, result.output
    return result


@pytest.fixture(scope="module")
def runs(small_zoo_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    settings = ["--set", "model=perceptron", "--set", "epochs=2"]
    for method, options in (("weight-statistics", settings), ("flat-mlp", ["--set", "epochs=1", "--set", "width=7"])):
        ngbench("run", "--method", method, "--zoo", small_zoo_path, "--out", out, "--seeds", 2, "--device", "cpu", *options)
    folders = {path.name.rpartition("-")[0]: path for path in (out / "generalization/small-v1").glob("*-*-*")}
    return folders | {"out": out}


@pytest.fixture
def place(tmp_path, monkeypatch, small_zoo_path):
    """The current folder, with a module and weights of a network of the zoo, of one five times as large, and of an MLP."""
    (tmp_path / "own_command_file.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    entries = restore(open_zoo(small_zoo_path)[ROW])
    own = {f"{NAMES[path.split('.')[0]]}.{path.split('.')[1]}": values.clone() for path, values in entries.items()}
    torch.save(own, "own.pt")
    torch.save({name: 50 * values for name, values in own.items()}, "large.pt")
    torch.save({**own, "out.bias": torch.full((5,), torch.nan)}, "nan.pt")
    torch.save(nn.Linear(2, 3), "pickled.pt")
    for seed, name in enumerate(("a.pt", "b.pt")):
        torch.manual_seed(seed)
        torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.ReLU(), nn.Linear(7, 10)).state_dict(), name)
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 10)).state_dict(), "wide.pt")
    yield tmp_path
    sys.modules.pop("own_command_file", None)


def test_predict_prints_a_row_for_each_network_and_warns_of_those_outside(runs, place):
    result = ngbench("predict", "--run", runs["weight-statistics"], "own_command_file:net", "own.pt", "large.pt")
    assert "weight-statistics of small, 2 seeds" in result.stdout
    rows = [line for line in result.stdout.splitlines() if ".pt" in line]
    assert [line.split()[0] for line in rows] == ["own.pt", "large.pt"]
    assert ["outside" in line for line in rows] == [False, True]
    assert "warning: large.pt is unlike the networks that the method was fitted on" in result.stderr
    assert "root mean square" in result.stderr


def test_a_network_of_the_zoo_is_predicted_as_in_the_zoo_whatever_its_modules_are_called(runs, place, small_zoo_path):
    from ngbench.evaluation.kept import open_run
    from ngbench.loading import GraphDataset

    for name in ("weight-statistics", "flat-mlp"):
        found = json.loads(ngbench("predict", "--run", runs[name], "own_command_file:net", "own.pt", "--json").stdout)
        networks = GraphDataset.from_zoo(open_zoo(small_zoo_path), np.array([ROW]))
        expected = open_run(runs[name]).ask("predict", networks).mean()
        (network,) = found["networks"]
        assert network["value"] == pytest.approx(expected, abs=1e-12)
        assert network["low"] <= network["value"] <= network["high"]
        assert (found["method"], found["target"], found["seeds"]) == (name, "test_accuracy", 2)


def test_a_module_is_predicted_as_its_factory_makes_it_where_no_weights_are_named(runs, place):
    result = ngbench("predict", "--run", runs["weight-statistics"], "own_command_file:mish")
    assert "own_command_file:mish" in result.stdout
    assert "activation mish was never seen in training" in result.stderr


def test_search_finds_the_network_itself_first(runs, place, small_zoo_path):
    arguments = [
        "search",
        "--run",
        runs["weight-statistics"],
        "own_command_file:net",
        "own.pt",
        "--zoo",
        small_zoo_path,
        "--top",
        3,
    ]
    first, second, third = json.loads(ngbench(*arguments, "--top", 3, "--json").stdout)["networks"]
    assert first["id"] == str(open_zoo(small_zoo_path).ids[ROW])
    assert first["similarity"] == pytest.approx(1)
    assert first["similarity"] >= second["similarity"] >= third["similarity"]
    shown = ngbench(*arguments, "--top", 3).stdout
    assert "test accuracy" in shown
    assert [line.split()[0] for line in shown.splitlines()[1:]] == [hit["id"] for hit in (first, second, third)]


@pytest.mark.parametrize("out", ["merged.pt", "merged.safetensors"])
def test_merge_prints_both_barriers_and_writes_a_state_dict(place, out):
    from ngbench.evaluation.use import read_state_dict

    result = ngbench("merge", "a.pt", "b.pt", "--module", "own_command_file:mlp", "--images", "digits", "--out", out, "--repair")
    for text in ("as they are", "aligned", "repaired", "neurons of B", f"written  {out}"):
        assert text in result.stdout
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.ReLU(), nn.Linear(7, 10))
    net.load_state_dict(read_state_dict(place / out))


def test_merge_gives_json_and_takes_a_dataset_of_ones_own_scale(place):
    arguments = ["merge", "a.pt", "b.pt", "--module", "own_command_file:mlp", "--images", "digits", "--out", "m.pt"]
    found = json.loads(ngbench(*arguments, "--mean", "0.3", "--std", "0.4", "--json").stdout)
    assert (found["nodes"], found["repaired"], found["out"]) == (7, None, "m.pt")
    assert found["after"]["barrier"] >= 0
    assert found["before"]["losses"] != json.loads(ngbench(*arguments, "--json").stdout)["before"]["losses"]


def test_merge_of_a_wider_network_says_that_nothing_lies_between_both_as_they_are(place):
    arguments = ["merge", "a.pt", "wide.pt", "--module", "own_command_file:mlp", "--module-b", "own_command_file:wide"]
    arguments += ["--images", "digits", "--out", "m.pt"]
    shown = ngbench(*arguments).stdout
    before = next(line.split() for line in shown.splitlines() if line.startswith("as they are"))
    assert [place for place, word in enumerate(before[3:]) if word == "—"] == [0, 2, 5]
    for text in ("transported", "A and B differ in width", "spread   9 neurons of B over those of A", "written  m.pt"):
        assert text in shown
    found = json.loads(ngbench(*arguments, "--json").stdout)
    assert (found["before"]["barrier"], found["moved"], found["nodes"]) == (None, None, 9)
    assert found["before"]["accuracies"][0] == found["after"]["accuracies"][0]
    nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.ReLU(), nn.Linear(7, 10)).load_state_dict(torch.load("m.pt"))


def test_merge_of_a_network_with_itself_moves_none_of_its_neurons(place):
    arguments = ["merge", "a.pt", "a.pt", "--module", "own_command_file:mlp", "--images", "digits", "--out", "m.pt"]
    for by in ("naive", "weight-matching"):
        assert "moved    0 of 7 neurons of B" in ngbench(*arguments, "--by", by).stdout


MERGE = ["merge", "a.pt", "b.pt", "--module", "own_command_file:mlp", "--images", "digits"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "--run", "weight-statistics", "own_command_file:net", "gone.pt"], "cannot read weights from gone.pt"),
        (["predict", "--run", "weight-statistics", "own_command_file:net", "pickled.pt"], "holds more than tensors"),
        (["predict", "--run", "weight-statistics", "own_command_file:net", "nan.pt"], "'out.bias' of nan.pt has 5 of 5 values"),
        (["predict", "--run", "weight-statistics", "own_command_file:net", "a.pt"], "weights in a.pt do not fit"),
        (["predict", "--run", "weight-statistics", "own_command_file:nett"], "did you mean 'net'"),
        (["predict", "--run", "weight-statistics", "--level", "95", "own_command_file:net"], "level is 95.0; expected a share"),
        (["predict", "--run", "flat-mlp", "own_command_file:mlp", "a.pt"], "asked for another architecture"),
        (["predict", "--run", "out", "own_command_file:net"], "has no fitted method"),
        (["search", "--run", "weight-statistics", "own_command_file:net", "--zoo", "gone.h5"], "gone.h5"),
        ([*MERGE, "--out", "m.txt"], "expected a name that ends in .pt"),
        ([*MERGE, "--out", "no/m.pt"], "expected a folder that exists"),
        ([*MERGE, "--out", "a.pt"], "--out is a.pt, which is one of the networks to merge"),
        ([*MERGE, "--out", "m.pt", "--by", "wight-matching"], "did you mean 'weight-matching'"),
        ([*MERGE, "--out", "m.pt", "--by", "flat-mlp"], "'flat-mlp' neither matches nor embeds nodes"),
        ([*MERGE, "--out", "m.pt", "--mean", "dark"], "--mean is 'dark'; expected numbers"),
        ([*MERGE, "--out", "m.pt", "--images", "gone"], "no images 'gone'"),
        (["merge", "own.pt", *MERGE[2:], "--out", "m.pt"], "weights in own.pt do not fit"),
        (
            ["merge", "a.pt", "wide.pt", *MERGE[3:], "--module-b", "own_command_file:wide", "--out", "m.pt", "--by", "naive"],
            "method 'naive' embeds no nodes, by which alone networks of different widths are brought together",
        ),
    ],
)
def test_a_mistake_in_use_gets_one_sentence_and_exit_code_two_and_writes_nothing(runs, place, arguments, message):
    before = (place / "a.pt").read_bytes()
    result = ngbench(*(runs.get(argument, argument) for argument in arguments), exit_code=2)
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert (place / "a.pt").read_bytes() == before
    assert not list(place.glob("m.*"))
