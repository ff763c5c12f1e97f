from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from dataclasses import dataclass

import pytest

from ngbench.errors import ConfigError, MethodError, NotApplicableError, RegistrationError, UnknownNameError
from ngbench.methods import (
    CALLS,
    Method,
    MethodInfo,
    check_applicable,
    check_budget,
    is_applicable,
    make_method,
    method_class,
    methods,
    why_not_applicable,
)
from ngbench.tasks import TASKS

INFO = MethodInfo(name="probe", title="Probe", access="weights", invariant=False, any_architecture=True, paper="none")


class Bare:
    """A method without settings."""

    info = INFO
    num_parameters = 0

    def fit(self, problem, train, val, context):
        pass

    def predict(self, networks):
        pass


class Configured(Bare):
    """A method with a setting of each kind that text can give, and one that it cannot."""

    @dataclass(frozen=True)
    class Config:
        width: int = 7
        rate: float = 0.5
        pooling: str = "mean"
        residual: bool = True
        widths: tuple[int, ...] = (3, 5)

    def __init__(self, config):
        self.config = config


class Trained(Bare):
    """A method that trains for epochs."""

    @dataclass(frozen=True)
    class Config:
        epochs: int = 30

    def __init__(self, config):
        self.config = config


class Strict(Bare):
    """A method whose settings have a range."""

    @dataclass(frozen=True)
    class Config:
        width: int = 7

        def __post_init__(self):
            if self.width < 1:
                raise ConfigError(f"width is {self.width}; expected at least 1")

    def __init__(self, config):
        self.config = config


NO_METHOD = 17


class Lacking:
    """No method: it cannot be fitted."""

    info = INFO

    def predict(self, networks):
        pass


class OnlyClasses(Bare):
    """A method that says what it is for."""

    info = dataclasses.replace(INFO, kinds=("classification",))


class Silent:
    """A method that can be fitted, and then says nothing."""

    info = INFO

    def fit(self, problem, train, val, context):
        pass


class Matching:
    """A method that matches neurons, and predicts nothing."""

    info = INFO
    num_parameters = 0

    def fit(self, problem, train, val, context):
        pass

    def match(self, first, second):
        pass


@pytest.fixture
def registered(monkeypatch):
    """The registry with the classes of this file and nothing else."""
    entries = {"bare": Bare, "configured": Configured, "strict": Strict, "lacking": Lacking, "number": NO_METHOD}
    entries |= {"only-classes": OnlyClasses, "matching": Matching, "silent": Silent, "trained": Trained, "gone": "gone:Method"}
    monkeypatch.setattr(methods, "_entries", entries)
    monkeypatch.setattr(methods, "_discovered", True)


def test_a_class_that_offers_the_protocol_is_a_method():
    assert isinstance(Bare(), Method)
    assert not isinstance(Lacking(), Method)


@pytest.mark.usefixtures("registered")
def test_without_settings_a_method_has_its_defaults():
    assert type(make_method("bare")) is Bare
    assert make_method("configured").config == Configured.Config()


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("width", "11", 11),
        ("width", " -3 ", -3),
        ("rate", "1e-3", 1e-3),
        ("rate", "2", 2.0),
        ("pooling", "max", "max"),
        ("pooling", "3", "3"),
        ("residual", "false", False),
        ("residual", "False", False),
        ("residual", "0", False),
        ("residual", "true", True),
        ("residual", "1", True),
    ],
)
def test_a_setting_is_read_as_the_type_of_its_default(name, text, value):
    config = make_method("configured", {name: text}).config
    assert getattr(config, name) == value
    assert type(getattr(config, name)) is type(value)
    assert dataclasses.replace(config, **{name: getattr(Configured.Config(), name)}) == Configured.Config()


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("width", "wide", "setting 'width' of method 'configured' is 'wide'; expected int such as 7"),
        ("width", "1.5", "setting 'width' of method 'configured' is '1.5'; expected int such as 7"),
        ("rate", "fast", "setting 'rate' of method 'configured' is 'fast'; expected float such as 0.5"),
        ("residual", "maybe", "setting 'residual' of method 'configured' is 'maybe'; expected true or false such as True"),
        ("widths", "3,5", "setting 'widths' of method 'configured' cannot be set as text; expected to be set in Python"),
        ("with", "3", "method 'configured' has no setting 'with'; expected one of pooling, rate, residual, width, widths"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name_and_text(name, text, message):
    with pytest.raises(ConfigError, match=message):
        make_method("configured", {name: text})


@pytest.mark.usefixtures("registered")
def test_a_method_without_settings_takes_none():
    with pytest.raises(ConfigError, match="method 'bare' has no settings; got width, depth"):
        make_method("bare", {"width": "3", "depth": "5"})


@pytest.mark.usefixtures("registered")
def test_the_range_of_a_setting_is_checked_by_the_method():
    with pytest.raises(ConfigError, match="width is 0; expected at least 1"):
        make_method("strict", {"width": "0"})


@pytest.mark.usefixtures("registered")
def test_what_offers_no_method_is_refused_with_what_it_lacks():
    with pytest.raises(MethodError, match="method 'lacking' is a class without fit; expected a class with info, fit and one of"):
        method_class("lacking")
    expected = "expected a class with info, fit and one of predict, embed, embed_nodes and match"
    with pytest.raises(MethodError, match=f"method 'number' is int; {expected}"):
        method_class("number")


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("name", "task", "reason"),
    [
        ("bare", "retrieval", "it has no embed, and answers classification and generalization alone"),
        ("bare", "merging", "it has no embed_nodes or match, and answers classification and generalization alone"),
        ("only-classes", "generalization", "it answers classification alone"),
        ("matching", "classification", "it has no predict, and answers merging alone"),
        ("silent", "merging", "it has no embed_nodes or match"),
    ],
)
def test_a_method_that_lacks_the_call_or_says_so_is_not_applicable(name, task, reason):
    text = f"method '{name}' is not applicable to {task}: {reason}"
    assert why_not_applicable(name, TASKS[task]) == text
    with pytest.raises(NotApplicableError, match=f"{text}; expected one of "):
        check_applicable(name, TASKS[task])


@pytest.mark.usefixtures("registered")
def test_the_methods_that_are_offered_instead_answer_the_task_and_load():
    with pytest.raises(NotApplicableError) as caught:
        check_applicable("bare", TASKS["merging"])
    offered = str(caught.value).partition("expected one of ")[2].split(", ")
    assert offered == ["matching"]
    with pytest.raises(NotApplicableError, match=r"expected one of bare, configured, strict, trained$"):
        check_applicable("matching", TASKS["generalization"])


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(("epochs", "is_within"), [("1", True), ("60", True), ("61", False), ("100", False)])
def test_settings_beyond_the_budget_of_the_task_are_refused(epochs, is_within):
    text = f"setting 'epochs' of method 'trained' is {epochs}, beyond the budget of task 'merging'; expected at most 60 epochs"
    with nullcontext() if is_within else pytest.raises(ConfigError, match=text):
        check_budget("trained", {"epochs": epochs}, TASKS["merging"])


@pytest.mark.usefixtures("registered")
def test_methods_without_epochs_have_no_budget_to_pass():
    check_budget("bare", None, TASKS["merging"])
    check_budget("configured", {"width": "100"}, TASKS["merging"])


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("name", "kind"),
    [("bare", "regression"), ("bare", "classification"), ("only-classes", "classification"), ("matching", "merging")],
)
def test_a_method_with_one_of_the_calls_is_applicable(name, kind):
    assert is_applicable(name, kind)


@pytest.mark.usefixtures("registered")
def test_a_method_without_predict_is_one_if_it_can_be_fitted():
    assert type(make_method("matching")) is Matching


@pytest.mark.usefixtures("registered")
def test_an_unknown_name_is_refused_with_the_close_one():
    with pytest.raises(UnknownNameError, match="unknown method 'bar': did you mean 'bare'"):
        make_method("bar")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An importable module ``methods_test_package`` with a method, a number and an instance."""
    source = """
        from ngbench.methods import MethodInfo
        class Theirs:
            info = MethodInfo("theirs", "Theirs", "weights", False, True, "none")
            num_parameters = 3
            def fit(self, problem, train, val, context): pass
            def predict(self, networks): pass
        instance = Theirs()
        number = 17
    """
    (tmp_path / "methods_test_package.py").write_text("if True:\n" + source)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("package")
def test_a_method_is_loaded_from_a_path_without_being_registered():
    method = make_method("methods_test_package:Theirs")
    assert method.info.name == "theirs"
    assert isinstance(method, Method)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(("attribute", "text"), [("number", "is int"), ("instance", "is Theirs")])
def test_a_path_to_anything_but_a_class_is_refused_with_what_stands_there(attribute, text):
    with pytest.raises(MethodError, match=f"method 'methods_test_package:{attribute}' {text}; expected a class with info"):
        make_method(f"methods_test_package:{attribute}")


@pytest.mark.usefixtures("package")
def test_a_path_that_leads_nowhere_is_refused_with_what_is_missing():
    with pytest.raises(RegistrationError, match="module 'methods_test_package' has no attribute 'Ours'"):
        make_method("methods_test_package:Ours")
    with pytest.raises(RegistrationError, match="method 'methods_test_nowhere:Theirs' does not load: No module named"):
        make_method("methods_test_nowhere:Theirs")


@pytest.mark.parametrize("name", list(methods))
def test_every_registered_method_offers_the_protocol_and_says_what_it_is(name):
    method = make_method(name)
    # asked of the class: a method that is not fitted may have no number of parameters yet
    assert all(hasattr(type(method), part) for part in ("info", "fit", "num_parameters"))
    assert any(hasattr(type(method), call) for calls in CALLS.values() for call in calls)
    assert isinstance(method.info, MethodInfo)
    assert method.info.name == name
    *others, kinds, num_probes = dataclasses.astuple(method.info)
    assert all(type(value) in (str, bool) and value != "" for value in others)
    assert (num_probes > 0) == (method.info.access == "probes")
    assert set(kinds) <= set(CALLS)
    assert method.info.access in ("none", "hyperparameters", "weights", "probes", "truth")


@pytest.mark.parametrize("name", list(methods))
def test_every_registered_method_has_a_frozen_config_or_none(name):
    config_type = getattr(method_class(name), "Config", None)
    if config_type is not None:
        assert dataclasses.is_dataclass(config_type)
        assert config_type.__dataclass_params__.frozen
        assert make_method(name).config == config_type()


def test_a_setting_that_is_left_open_by_default_is_true_or_false():
    assert make_method("ng-gnn", {"mixed": "true"}).config.mixed is True
    assert make_method("ng-gnn", {"mixed": "false"}).config.mixed is False
    assert make_method("ng-gnn").config.mixed is None
    with pytest.raises(ConfigError, match="setting 'mixed' of method 'ng-gnn' is 'maybe'; expected true or false"):
        make_method("ng-gnn", {"mixed": "maybe"})
