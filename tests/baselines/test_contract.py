from __future__ import annotations

from dataclasses import replace

import pytest

from baselines.flat_mlp import FlatMLP
from ngbench.errors import MethodError
from ngbench.methods import method_class, methods
from ngbench.testing import check_method


@pytest.mark.parametrize("name", list(methods))
def test_every_registered_method_keeps_the_rules(name):
    check_method(name)
    assert method_class(name).info.name == name


def test_the_first_methods_are_registered():
    assert {"mean", "hyperparameters", "weight-statistics", "flat-mlp", "ng-gnn"} <= set(methods)


class ClaimsInvariance(FlatMLP):
    """The control: flattened weights change with the order of neurons."""

    info = replace(FlatMLP.info, invariant=True)


def test_flattened_weights_fail_the_check_of_invariance():
    assert not FlatMLP.info.invariant
    with pytest.raises(MethodError, match="predictions of method 'flat-mlp' move by up to .* when hidden neurons are permuted"):
        check_method(ClaimsInvariance)
