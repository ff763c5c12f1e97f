from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

import baselines
import leaderboard
import ngbench
from ngbench.testing import check_method

PACKAGES = (ngbench, baselines, leaderboard)


def module_names(package):
    folder = Path(package.__file__).parent
    paths = (path.relative_to(folder.parent).with_suffix("") for path in sorted(folder.rglob("*.py")) if path.stem != "__main__")
    return [".".join(path.parts).removesuffix(".__init__") for path in paths]


@pytest.mark.parametrize("name", [name for package in PACKAGES for name in module_names(package)])
def test_every_module_imports_and_its_docstring_examples_hold(name):
    if name.endswith("_kernels"):
        pytest.importorskip("triton")
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_method_in_contributing_keeps_the_invariants_that_it_claims():
    text = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    namespace = {}
    exec(text.split("```python\n")[1].split("```")[0], namespace)
    check_method(namespace["WeightNorm"])


def test_examples_are_found_and_a_wrong_one_fails():
    assert doctest.testmod(importlib.import_module("ngbench.metrics.rank")).attempted >= 2
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    assert doctest.DocTestRunner(verbose=False).run(wrong, out=lambda text: None).failed == 1
