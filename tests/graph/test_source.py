from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from ngbench.errors import SourceError, UnsupportedLayerError
from ngbench.graph import trace
from ngbench.graph.source import example_input, load_graph

FILE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=5):
        super().__init__()
        self.a, self.b = nn.Linear(3, width), nn.Linear(width, 2)
    def forward(self, x, mask=None):
        x = torch.relu(self.a(x))
        return self.b(x if mask is None else x * mask)

class Ids(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.h = nn.Embedding(11, 4), nn.Linear(4, 3)
    def forward(self, ids):
        return self.h(self.e(ids))

class Spectrum(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 5)
    def forward(self, x):
        return torch.linalg.det(self.a(x)[:, :1, None])

instance = Net()
pair = lambda: (Net(), torch.zeros(1, 3))
several = lambda: (Net(), [torch.zeros(1, 3), torch.ones(1, 5)])
named = lambda: (Net(), {"x": torch.zeros(1, 3)})
wrong_example = lambda: (Net(), "1x3")
number = 3
text = lambda: "net"
def needs(width, depth): ...
def fails():
    raise RuntimeError("\\nno weights here\\nsecond line")
"""


@pytest.fixture
def module_name(tmp_path, monkeypatch, request):
    """A module of a name of its own in the current folder."""
    name = f"models_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)


@pytest.mark.parametrize("attribute", ["Net", "instance"])
def test_a_module_or_its_class_is_traced_with_the_input_that_is_given(module_name, attribute):
    graph = load_graph(f"{module_name}:{attribute}", inputs=["1x3"])
    assert [(group.name, group.size) for group in graph.topology.groups] == [("x", 3), ("a", 5), ("b", 2)]


@pytest.mark.parametrize("attribute", ["pair", "several", "named"])
def test_a_factory_may_give_the_example_input(module_name, attribute):
    assert load_graph(f"{module_name}:{attribute}").topology.group("a").size == 5


def test_inputs_are_passed_by_name_and_of_integers(module_name):
    by_name = load_graph(f"{module_name}:Net", inputs=["1x3", "mask=1x5"])
    assert "mask" in {group.name for group in by_name.topology.groups}
    assert load_graph(f"{module_name}:Ids", inputs=["1x7:int"]).topology.group("e").size == 4


@pytest.mark.parametrize(
    ("text", "name", "shape", "dtype"),
    [
        ("2x3", "", (2, 3), torch.float32),
        ("4", "", (4,), torch.float32),
        ("1x7:int", "", (1, 7), torch.int64),
        ("mask=1x7:bool", "mask", (1, 7), torch.bool),
    ],
)
def test_an_input_is_written_as_its_shape(text, name, shape, dtype):
    found, tensor = example_input(text)
    assert (found, tuple(tensor.shape), tensor.dtype) == (name, shape, dtype)


@pytest.mark.parametrize(
    ("path", "inputs", "message"),
    [
        ("models", [], "'models' names no module; expected package.module:factory, or the path of a .pt2 file"),
        ("no_such_module:net", [], "'no_such_module:net' does not load: No module named 'no_such_module'"),
        ("{}:Nett", [], "has no attribute 'Nett'; did you mean 'Net'"),
        ("{}:zzzzzzzz", [], "has no attribute 'zzzzzzzz'; expected the name of a factory"),
        ("{}:number", [], "is a int; expected a module, a module class, or a function"),
        ("{}:text", [], "gave str; expected a torch module, or (module, example_input)"),
        ("{}:needs", [], "needs 'width', 'depth'; expected a factory without required arguments"),
        ("{}:fails", [], "raised RuntimeError: no weights here; expected a factory that gives a module"),
        ("{}:Net", [], "gives Net and no example input; expected --input with the shape of each input (1x3x32x32"),
        ("{}:wrong_example", [], "gave str in its example input; expected a tensor"),
        ("{}:Net", ["1,3"], "input '1,3' is no shape; expected one such as 1x3x32x32"),
        ("{}:Net", ["1x3:half"], "input '1x3:half' is no shape"),
        ("gone.pt2", [], "there is no file 'gone.pt2'"),
        ("gone.pt2", ["1x3"], "gone.pt2 holds its own example inputs; got 1x3 beside it"),
    ],
)
def test_what_is_no_module_is_refused(module_name, path, inputs, message):
    with pytest.raises(SourceError) as refused:
        load_graph(path.format(module_name), inputs=inputs)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_raises_when_it_is_imported_is_refused(tmp_path, monkeypatch):
    (tmp_path / "models_that_raise.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SourceError, match="importing 'models_that_raise' raised ZeroDivisionError: division by zero"):
        load_graph("models_that_raise:net")


def test_a_module_that_is_no_graph_is_refused_by_trace(module_name):
    with pytest.raises(UnsupportedLayerError, match="linalg_det"):
        load_graph(f"{module_name}:Spectrum", inputs=["1x3"])


def test_an_exported_program_gives_the_graph_of_its_module(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 5, 2), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(20, 4)).eval()
    example = torch.zeros(2, 3, 3, 3)
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(module, (example,)), path)
    assert load_graph(str(path)).equal(trace(module, example))
