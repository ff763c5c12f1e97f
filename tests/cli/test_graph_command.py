"""``ngbench graph show`` as a user types it."""

import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from ngbench.cli import main
from ngbench.graph import Topology, symmetry, trace

MODELS = """
import torch
from torch import nn

def mlp():
    return nn.Sequential(nn.Linear(3, 7), nn.ReLU(), nn.Linear(7, 2)), torch.zeros(1, 3)

def deep():
    layers = [part for _ in range(40) for part in (nn.Linear(5, 5), nn.Tanh())]
    return nn.Sequential(*layers), torch.zeros(1, 5)

def long_names():
    module = nn.Sequential()
    module.add_module("a_layer_whose_name_is_longer_than_most[red]", nn.Linear(3, 7))
    module.add_module("another_layer_with_a_name_that_is_even_longer", nn.Linear(7, 2))
    return module, torch.zeros(1, 3)

def spectrum():
    class Spectrum(nn.Linear):
        def forward(self, x):
            return torch.linalg.det(super().forward(x)[:, :1, None])
    return Spectrum(3, 4)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "160")
    yield tmp_path
    sys.modules.pop("my_models", None)


def show(*arguments, exit_code=0):
    result = CliRunner().invoke(main, ["graph", "show", *map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    return result


def test_groups_blocks_and_symmetry_are_shown():
    lines = show("my_models:mlp").stdout.splitlines()
    assert lines[0] == "my_models:mlp: 12 nodes in 3 groups, 35 edges in 2 blocks, 44 parameters"
    rows = [line.split() for line in lines]
    assert ["1", "0", "7", "hidden", "relu", "1", "#1", "bias"] in rows
    assert ["2", "1", "2", "dense", "linear", "14", ".weight"] in rows
    assert ["#1", "0", "7", "1"] in rows
    assert ["symmetry", "S_7"] in rows
    # 7! = 5040 = e^8.5 = 10^3.7
    assert ["order", "e^8.5", "=", "10^3.7"] in rows


def test_layers_that_repeat_stand_in_one_row_unless_all_are_asked_for():
    folded, whole = (show("my_models:deep", *options).stdout for options in ([], ["--all"]))
    assert "(×39)" in folded
    assert "(×" not in whole
    assert len(whole.splitlines()) - len(folded.splitlines()) > 100


def test_nothing_is_cut_off_on_a_narrow_terminal(monkeypatch):
    wide = show("my_models:long_names").stdout
    monkeypatch.setenv("COLUMNS", "72")
    narrow = show("my_models:long_names").stdout
    assert "most[red]" in wide
    assert "…" not in narrow
    assert len(narrow.splitlines()) > len(wide.splitlines())
    assert sorted(wide.replace("\n", "").replace(" ", "")) == sorted(narrow.replace("\n", "").replace(" ", ""))


def test_json_is_the_topology_and_nothing_else():
    topology = Topology.from_json(show("my_models:mlp", "--json").stdout)
    assert [group.size for group in topology.groups] == [3, 7, 2]


@pytest.mark.parametrize("options", [[], ["--style", "ribbons"]])
def test_a_picture_is_written(folder, options):
    show("my_models:mlp", "--picture", folder / "out.svg", *options)
    assert b"<svg" in (folder / "out.svg").read_bytes()


def test_a_pt2_file_is_shown_with_its_own_inputs(folder):
    module = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3),)), folder / "net.pt2")
    shown = show("net.pt2").stdout
    assert "net.pt2: 11 nodes in 3 groups" in shown
    assert f"symmetry  {symmetry.group(trace(module, torch.zeros(1, 3)).topology)}" in shown


@pytest.mark.slow
def test_a_file_in_the_current_folder_is_found(folder):
    command = [sys.executable, "-m", "ngbench.cli", "graph", "show", "my_models:mlp", "--picture", "out.png"]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert "symmetry  S_7" in found.stdout
    assert (folder / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["my_models"], "'my_models' names no module"),
        (["my_modelz:mlp"], "'my_modelz:mlp' does not load: No module named 'my_modelz'"),
        (["my_models:mpl"], "module 'my_models' has no attribute 'mpl'; did you mean 'mlp'?"),
        (["my_models:spectrum"], "gives Spectrum and no example input; expected --input"),
        (["my_models:spectrum", "--input", "1x3"], "operation 'linalg_det' is not supported"),
        (["my_models:mlp", "--input", "1x4"], "does not run under torch.export with inputs of shape (1, 4)"),
        (["my_models:mlp", "--input", "one"], "input 'one' is no shape"),
        (["my_models:mlp", "--picture", "out.gif"], "picture 'out.gif' ends with '.gif'; expected one of .svg, .pdf, .png"),
        (["my_models:mlp", "--picture", "no/out.svg"], "there is no folder 'no'"),
        (["gone.pt2"], "there is no file 'gone.pt2'"),
    ],
)
def test_a_mistake_gets_one_sentence_and_exit_code_two(arguments, message):
    result = show(*arguments, exit_code=2)
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""
