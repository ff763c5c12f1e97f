"""Files that would run code when torch loads them; each leaves a mark if it does."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile

import pytest
import torch
from torch import nn

from ngbench.errors import SourceError
from ngbench.graph.program_file import load_program

NAME = "net"


class Marker:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """The files of a good archive."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("programs") / f"{NAME}.pt2"
    module = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    batch = torch.export.Dim("batch", min=2, max=64)
    torch.export.save(torch.export.export(module, (torch.zeros(4, 3),), dynamic_shapes=({0: batch},)), path)
    with zipfile.ZipFile(path) as archive:
        return {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def written(tmp_path, members):
    """Writes an archive with some of its files replaced."""

    def write(**changes):
        path = tmp_path / f"{NAME}.pt2"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in (members | changes).items():
                if content is not None:
                    archive.writestr(f"{NAME}/{name}", content)
        return path

    return write


def with_text(members, old, new):
    """The graph with a piece of its text replaced, which must be there."""
    text = members["models/model.json"].decode()
    assert old in text
    return {"models/model.json": text.replace(old, new).encode()}


def test_an_archive_that_is_written_again_loads(written):
    program = load_program(written())
    assert list(program.state_dict) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_the_control_would_run_code_without_the_check(written, tmp_path):
    buffer = io.BytesIO()
    torch.save(((Marker(tmp_path / "mark"),), {}), buffer)
    path = written(**{"data/sample_inputs/model.pt": buffer.getvalue()})
    with pytest.raises(Exception):  # noqa: B017, PT011 - what torch raises after it ran the code is of no interest
        torch.export.load(path)
    assert (tmp_path / "mark").exists()


def test_pickled_example_inputs_are_refused_and_not_run(written, tmp_path):
    buffer = io.BytesIO()
    torch.save(((Marker(tmp_path / "mark"),), {}), buffer)
    with pytest.raises(SourceError, match="holds example inputs that are no tensors, which could run code when it is loaded"):
        load_program(written(**{"data/sample_inputs/model.pt": buffer.getvalue()}))
    assert not (tmp_path / "mark").exists()


def test_pickled_weights_are_refused(written, members, tmp_path):
    config = json.loads(members["data/weights/model_weights_config.json"])
    config["config"]["0.bias"]["use_pickle"] = True
    buffer = io.BytesIO()
    torch.save(Marker(tmp_path / "mark"), buffer)
    changes = {"data/weights/model_weights_config.json": json.dumps(config), "data/weights/weight_1": buffer.getvalue()}
    with pytest.raises(SourceError, match="holds '0.bias' as a pickle, which could run code"):
        load_program(written(**changes))
    assert not (tmp_path / "mark").exists()


def test_pickled_objects_are_refused(written, members, tmp_path):
    config = json.loads(members["data/weights/model_weights_config.json"])["config"]["0.bias"]
    changes = {
        "data/constants/model_constants_config.json": json.dumps({"config": {"thing": config | {"path_name": "opaque_obj_0"}}}),
        "data/constants/opaque_obj_0": pickle.dumps(Marker(tmp_path / "mark")),
    }
    with pytest.raises(SourceError, match="holds the file 'data/constants/opaque_obj_0', which could run code"):
        load_program(written(**changes))
    del changes["data/constants/opaque_obj_0"]
    with pytest.raises(SourceError, match="holds 'thing' as a pickle"):
        load_program(written(**changes))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["data/aotinductor/model/model.so", "data/weights/model.pt", "models/other.json"])
def test_other_files_are_refused(written, name):
    with pytest.raises(SourceError, match=f"holds the file '{name}', which could run code"):
        load_program(written(**{name: b"x"}))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"name": "input"', '"name": "input=open(1)"', "holds the name 'input=open(1)', which could run code"),
        ("torch.ops.aten.relu.default", "eval('1')", "holds the target \"eval('1')\", which could run code"),
        ("positive=True, integer=True)", "positive=True) if open(1) else (0)", "holds the size \"Symbol('"),
        ("builtins.tuple", "os.path", "holds an input or output of type os.path, which could run code"),
        ('"relu": {', '"metadata": {"sizes": [{"as_expr": {"expr_str": "open(1)"}}]}, "relu": {', "holds the size 'open(1)'"),
    ],
    ids=["placeholder", "operator", "size", "container", "hidden"],
)
def test_code_in_the_place_of_names_is_refused(written, members, old, new, message):
    with pytest.raises(SourceError) as refused:
        load_program(written(**with_text(members, old, new)))
    assert message in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_refused(tmp_path, content):
    path = tmp_path / "net.pt2"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=f"{path} is not read by torch .*; expected a file that torch.export.save wrote"):
        load_program(path)


def test_an_archive_without_a_graph_is_refused(written):
    with pytest.raises(SourceError, match="is not read by torch"):
        load_program(written(**{"models/model.json": None}))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SourceError, match="there is no file '.*gone.pt2'; expected a .pt2 file that torch.export.save wrote"):
        load_program(tmp_path / "gone.pt2")
