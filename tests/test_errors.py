from __future__ import annotations

import inspect

import pytest

from ngbench import errors
from ngbench.errors import NgbenchError, UnknownNameError

EVERY_ERROR = [error for _, error in inspect.getmembers(errors, inspect.isclass) if error.__module__ == errors.__name__]


@pytest.mark.parametrize("error", EVERY_ERROR)
def test_every_error_is_an_ngbench_error_and_says_what_to_do(error):
    assert issubclass(error, NgbenchError)
    assert error is NgbenchError or ": " in error.__doc__.splitlines()[0]


def test_an_unknown_name_is_met_with_the_close_one_and_all_known_ones():
    error = UnknownNameError("method", "ng-gcn", ["ng-gnn", "flat-mlp", "mean"])
    assert str(error) == "unknown method 'ng-gcn': did you mean 'ng-gnn'? known: flat-mlp, mean, ng-gnn"


def test_several_close_names_are_all_offered_closest_first():
    error = UnknownNameError("zoo", "digits-cn", ["digits-mlp", "digits-cnn", "mnist-inr"])
    assert "did you mean 'digits-cnn' or 'digits-mlp'? known:" in str(error)


def test_a_name_like_no_other_gets_no_guess():
    assert str(UnknownNameError("task", "xyz", ["generalization"])) == "unknown task 'xyz': known: generalization"


def test_an_empty_registry_is_named_as_such():
    assert str(UnknownNameError("zoo", "digits-cnn", [])) == "unknown zoo 'digits-cnn': known: none"


def test_an_unknown_name_keeps_its_parts_for_programs():
    error = UnknownNameError("task", "merge", iter(["merging", "generalization"]))
    assert (error.kind, error.name, error.known) == ("task", "merge", ("generalization", "merging"))
