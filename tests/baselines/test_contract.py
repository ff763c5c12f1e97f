from __future__ import annotations

import re
from dataclasses import replace

import pytest

from baselines.flat_mlp import FlatMLP
from ngbench.errors import ConfigError, MethodError
from ngbench.methods import make_method, method_class, methods
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


@pytest.mark.parametrize(
    ("name", "setting", "text"),
    [
        ("ng-gnn", "num_layers=0", "num_layers is 0; expected a number above 0"),
        ("ng-gnn", "clip=-1", "clip is -1.0; expected a number from 0 upward"),
        ("ng-gnn", "dropout=1.5", "dropout is 1.5; expected a share, at least 0 and below 1"),
        ("ng-t", "num_heads=0", "num_heads is 0; expected a number above 0"),
        ("ng-t", "num_heads=3", "attention_channels is 64 with num_heads 3; expected a multiple of it"),
        ("deepset", "clip=0", "clip is 0.0; expected a number above 0"),
        ("matrix-cnn", "channels=0", "channels is 0; expected a number above 0"),
        ("flat-mlp", "dropout=1", "dropout is 1.0; expected a share, at least 0 and below 1"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_built(name, setting, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        make_method(name, dict([setting.split("=")]))
