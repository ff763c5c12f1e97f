import importlib
import sys

import pytest

from ngbench.evaluation.sources import files_of
from ngbench.methods import method_class

METHOD = """
import numpy
import zebra.stripes
from zebra.food import grass

class Method:
    def fit(self):
        from . import late
"""
FILES = {
    "__init__.py": "",
    "method.py": METHOD,
    "other_method.py": "from zebra import method\n",
    "stripes.py": "",
    "late.py": "from .deep.sea import fish\n",
    "food/__init__.py": "",
    "food/grass.py": "from ..shared import number\n",
    "food/meat.py": "",
    "shared.py": "number = 3\n",
    "deep/__init__.py": "",
    "deep/sea.py": "fish = 1\n",
}
READ = {"__init__.py", "method.py", "stripes.py", "late.py", "food/__init__.py", "food/grass.py", "shared.py", "deep/__init__.py"}


@pytest.fixture
def zebra(tmp_path, monkeypatch):
    for name, text in FILES.items():
        path = tmp_path / "zebra" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "zebra"
    for name in [name for name in sys.modules if name.partition(".")[0] == "zebra"]:
        del sys.modules[name]


def test_what_a_method_imports_of_its_package_decides_directly_or_through_others_or_late(zebra):
    found = files_of(importlib.import_module("zebra.method").Method)
    assert {file.relative_to(zebra).as_posix() for file in found} == READ | {"deep/sea.py"}


def test_a_method_alone_in_a_file_is_that_file(tmp_path, monkeypatch):
    (tmp_path / "lone_method.py").write_text("import json\nclass Method: ...\n")
    (tmp_path / "json.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    cls = importlib.import_module("lone_method").Method
    assert files_of(cls) == {tmp_path / "lone_method.py"}


def test_a_class_without_a_file_has_none():
    assert files_of(type("Method", (), {"__module__": "nowhere"})) == frozenset()


def test_a_baseline_is_decided_by_what_baselines_share_and_by_no_other_baseline():
    names = {file.name for file in files_of(method_class("ng-gnn"))}
    assert {"ng_gnn.py", "training.py", "message_passing.py"} <= names
    assert not {"ng_t.py", "deepset.py", "trivial.py"} & names
