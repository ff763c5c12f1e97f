from __future__ import annotations

import sys

import pytest

from ngbench.errors import RegistrationError, UnknownNameError
from ngbench.registry import Registry, load_object

GROUP = "registry_test.methods"


@pytest.fixture
def registry():
    registry = Registry("method")
    registry.register("ng-gnn", 17)
    registry.register("flat-mlp", 29)
    return registry


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An importable module ``registry_test_package`` with ``ANSWER = 42`` and ``broken`` beside it, which lacks an import."""
    (tmp_path / "registry_test_package.py").write_text("ANSWER = 42\n")
    (tmp_path / "registry_test_broken.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("registry_test_package", None)


def install_entry_points(folder, **points):
    """What pip leaves behind of a package that declares entry points."""
    info = folder / "registry_test_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: registry-test-package\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines, ""]))


def test_entries_are_found_by_name_and_listed_in_order(registry):
    assert (registry["ng-gnn"], registry["flat-mlp"]) == (17, 29)
    assert list(registry) == ["flat-mlp", "ng-gnn"]
    assert len(registry) == 2
    assert "ng-gnn" in registry
    assert "mean" not in registry


def test_an_unknown_name_is_refused_with_the_close_one(registry):
    with pytest.raises(UnknownNameError, match=r"unknown method 'ng-gn': did you mean 'ng-gnn'\? known: flat-mlp, ng-gnn"):
        registry["ng-gn"]


def test_two_entries_under_one_name_collide(registry):
    with pytest.raises(RegistrationError, match="two entries are registered as method 'ng-gnn': 17 and 31; rename one"):
        registry.register("ng-gnn", 31)
    assert registry["ng-gnn"] == 17


def test_the_same_entry_may_be_registered_twice(registry):
    registry.register("ng-gnn", 17)
    assert len(registry) == 2


def test_a_path_loads_only_when_it_is_asked_for(registry, package):
    registry.register("lazy", "registry_test_package:ANSWER")
    assert "lazy" in registry
    assert list(registry) == ["flat-mlp", "lazy", "ng-gnn"]
    assert "registry_test_package" not in sys.modules
    assert registry["lazy"] == 42
    assert "registry_test_package" in sys.modules


def test_entry_points_of_installed_packages_are_entries(package):
    install_entry_points(package, theirs="registry_test_package:ANSWER")
    registry = Registry("method", entry_point_group=GROUP)
    registry.register("ours", 17)
    assert list(registry) == ["ours", "theirs"]
    assert "registry_test_package" not in sys.modules
    assert registry["theirs"] == 42


def test_entry_points_of_other_groups_are_not_read(package):
    install_entry_points(package, theirs="registry_test_package:ANSWER")
    assert list(Registry("method", entry_point_group="registry_test.tasks")) == []
    assert list(Registry("method")) == []


def test_an_entry_point_under_a_taken_name_collides(package):
    install_entry_points(package, ours="registry_test_package:ANSWER")
    registry = Registry("method", entry_point_group=GROUP)
    registry.register("ours", 17)
    with pytest.raises(RegistrationError, match="method 'ours': 17 and 'registry_test_package:ANSWER'"):
        len(registry)


def test_an_entry_point_that_does_not_load_is_listed_but_refused_when_asked_for(package):
    install_entry_points(package, gone="registry_test_gone:Method", there="registry_test_package:ANSWER")
    registry = Registry("method", entry_point_group=GROUP)
    assert list(registry) == ["gone", "there"]
    assert registry["there"] == 42
    with pytest.raises(RegistrationError, match="'registry_test_gone:Method' does not load: No module named 'registry_test_go"):
        registry["gone"]


def test_a_module_whose_own_import_is_missing_is_named_with_that_import(package):
    with pytest.raises(RegistrationError, match="registry_test_broken:Method' does not load: No module named 'no_such_dep"):
        load_object("registry_test_broken:Method", kind="method")


def test_a_missing_attribute_is_named_with_its_module(package):
    with pytest.raises(RegistrationError, match="module 'registry_test_package' has no attribute 'QUESTION'"):
        load_object("registry_test_package:QUESTION", kind="method")


@pytest.mark.parametrize("path", ["registry_test_package", "registry_test_package:", ":ANSWER", ""])
def test_a_path_of_another_form_is_refused(path):
    with pytest.raises(RegistrationError, match=f"method path '{path}' is not of the form 'package.module:Name'"):
        load_object(path, kind="method")
