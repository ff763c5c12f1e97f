"""Suites: what is asked of whom."""

import pytest

from ngbench.errors import ConfigError, UnknownNameError
from ngbench.evaluation.suite.cells import LeftOut, Suite
from ngbench.evaluation.suite.running import State, by_question
from ngbench.methods import CALLS, method_class, methods
from ngbench.store import RELEASED, open_zoo
from ngbench.tasks import TASKS


def test_an_unknown_suite_gets_close_names():
    with pytest.raises(UnknownNameError, match="unknown suite 'digit': did you mean 'digits'"):
        Suite.load("digit")


@pytest.fixture
def suite():
    return Suite(
        version=2,
        name="few",
        title="Few",
        tasks=("generalization", "classification"),
        zoos=("digits-park",),
        methods=("ng-t", "flat-mlp"),
        left_out={"ng-t": LeftOut(zoos=("digits-park",), reason="too slow"), "mean": LeftOut(zoos=("digits-cnn",), reason="no")},
    )


def test_a_suite_asks_every_method_about_every_target_of_its_zoos_and_baselines_last(suite):
    cells = suite.cells((0, 2), out="here", device="cpu")
    targets = TASKS["classification"].zoos["digits-park"]
    questions = [("generalization", "digits-park", "test_accuracy")]
    questions += [("classification", "digits-park", target) for target in targets]
    assert list(by_question([State(found) for found in cells])) == questions
    assert [found.method for found in cells[:10]] == ["ng-t"] * 5 + ["flat-mlp"] * 5
    assert {found.method for found in cells[10:]} == {"mean", "hyperparameters", "majority"}
    assert len(cells) == 2 * 5 + 2 + 2 * 4
    assert {(found.seeds, found.out, found.device) for found in cells} == {((0, 2), "here", "cpu")}
    assert {(found.method, found.left_out) for found in cells if found.left_out} == {("ng-t", "too slow")}


def test_methods_that_are_named_stand_in_place_of_the_suites_own(suite):
    cells = suite.cells((1,), methods=("deepset", "mean"), out="here", device=None)
    asked = [found.method for found in cells if found.task == "generalization"]
    assert asked == ["deepset", "mean", "hyperparameters"]


def test_a_method_that_is_not_known_and_seeds_that_cannot_be_measured_are_refused_before_anything_runs(suite):
    with pytest.raises(UnknownNameError, match="unknown method 'deepsett': did you mean 'deepset'"):
        suite.cells((0,), methods=("deepsett",), out="here", device=None)
    with pytest.raises(ConfigError, match=r"seeds are \[3, 3\]; expected one or more different numbers"):
        suite.cells((3, 3), out="here", device=None)


def test_the_shipped_suite_names_what_there_is():
    shipped = Suite.load("digits")
    assert shipped.name == "digits"
    assert set(shipped.tasks) == set(TASKS)
    assert set(shipped.zoos) <= set(RELEASED)
    assert set(shipped.left_out) <= set(shipped.methods) <= set(methods)
    assert all(set(left_out.zoos) <= set(shipped.zoos) for left_out in shipped.left_out.values())


def test_the_cells_of_the_shipped_suite_are_unique_and_the_baselines_are_among_them():
    cells = Suite.load("digits").cells((0,), out="here", device=None)
    keys = [(found.question, found.method) for found in cells]
    assert len(set(keys)) == len(keys)
    asked = {(name, zoo, target) for name in TASKS for zoo, of in TASKS[name].zoos.items() for target in of or (None,)}
    assert {question for question, _ in keys} == asked
    assert {(question, name) for question in asked for name in TASKS[question[0]].baselines} <= set(keys)
    for _, zoo, target in asked:
        assert target is None or target in open_zoo(zoo).columns


def test_every_kind_of_question_of_the_shipped_suite_has_a_method_that_learns():
    learning = Suite.load("digits").methods
    for task in TASKS.values():
        able = [name for name in learning if any(hasattr(method_class(name), call) for call in CALLS[task.kind])]
        assert len(able) >= 2, task.name
