"""What every method that offers `save` keeps: what is loaded answers as what was saved."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from baselines.fitting.saved import ARRAYS_FILE, METHOD_FILE
from baselines.flat_mlp import FlatMLP
from baselines.weight_statistics import WeightStatistics
from ngbench.errors import MethodError, NotApplicableError, ResultError
from ngbench.methods import Budget, Problem, RunContext, check_applicable, make_method, method_class, methods
from ngbench.metrics import ACCURACY, KENDALL_TAU
from ngbench.tasks import TASKS
from ngbench.testing import ONE_STRUCTURE, SEVERAL_STRUCTURES, fake_dataset

CONTEXT = RunContext(seed=3, budget=Budget(max_epochs=1, num_candidates=1))
SAVING = [name for name in methods if hasattr(method_class(name), "save")]
REGRESSION = Problem("regression", KENDALL_TAU, True)
RETRIEVAL = Problem("retrieval", ACCURACY, True, classes=("left", "middle", "right"))
MERGING = Problem("merging", None, True)
CLASSES = Problem("classification", ACCURACY, True, classes=("left", "middle", "right"))
SETTINGS = {
    "ng-gnn": [{}, {"num_probes": "3"}, {"encoding": "fourier"}],
    "weight-statistics": [{"model": "perceptron"}, {"model": "boosting"}],
}


def networks(topologies, problem, *, num_graphs=30, seed=0):
    made = fake_dataset(topologies, num_graphs=num_graphs, seed=seed)
    if problem.classes:
        return replace(made, targets=np.arange(num_graphs) % len(problem.classes))
    return made if problem.kind == "regression" else made.without_targets()


def fitted(name, problem, topologies, **settings):
    # fake networks know no images to be trained to classify
    extra = {"barrier_weight": "0"} if problem.kind == "merging" else {}
    method = make_method(name, {**settings, **extra})
    train, val = (networks(topologies, problem, seed=seed) for seed in (0, 1))
    method.fit(problem, train, val, CONTEXT)
    return method


def cases():
    for name in SAVING:
        for settings in SETTINGS.get(name, [{}]):
            for topologies in (ONE_STRUCTURE, SEVERAL_STRUCTURES)[: 2 if method_class(name).info.any_architecture else 1]:
                for problem in (REGRESSION, CLASSES, RETRIEVAL, MERGING):
                    label = f"{name}-{'-'.join(settings.values())}-{len(topologies)}-{problem.kind}"
                    yield pytest.param(name, problem, topologies, settings, id=label)


@pytest.mark.parametrize(("name", "problem", "topologies", "settings"), list(cases()))
def test_what_is_loaded_answers_to_the_bit_as_what_was_saved(name, problem, topologies, settings, tmp_path):
    try:
        check_applicable(name, next(task for task in TASKS.values() if task.kind == problem.kind))
    except NotApplicableError:
        pytest.skip("not applicable")
    method = fitted(name, problem, topologies, **settings)
    test = networks(topologies, problem, num_graphs=17, seed=2).without_targets()
    method.save(tmp_path)
    loaded = method_class(name).load(tmp_path)
    for call in ("predict", "embed", "embed_nodes"):
        asks = call != "predict" or problem.kind in ("regression", "classification")
        if hasattr(method, call) and asks:
            for before, after in zip(getattr(method, call)(test), getattr(loaded, call)(test), strict=True):
                np.testing.assert_array_equal(after, before)
    assert loaded.info == method.info
    assert loaded.num_parameters == method.num_parameters
    assert getattr(loaded, "config", None) == getattr(method, "config", None)


@pytest.fixture
def saved(tmp_path):
    fitted("flat-mlp", REGRESSION, ONE_STRUCTURE, width="5").save(tmp_path)
    return tmp_path


def edited(folder, change):
    """The folder with its JSON changed."""
    content = json.loads((folder / METHOD_FILE).read_text())
    change(content)
    (folder / METHOD_FILE).write_text(json.dumps(content))
    return folder


def rewritten(folder, change):
    """The folder with its arrays changed, and a sum that fits them."""
    arrays = load_file(folder / ARRAYS_FILE)
    change(arrays)
    save_file(arrays, folder / ARRAYS_FILE)
    digest = hashlib.sha256((folder / ARRAYS_FILE).read_bytes()).hexdigest()
    return edited(folder, lambda content: content.update(arrays_sha256=digest))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format_version=2), r"no saved method of format version 1 \(format_version: Input should be 1\)"),
        (lambda c: c.update(extra=1), r"no saved method of format version 1 \(extra: Extra inputs are not permitted\)"),
        (lambda c: c.update(method="ng-gnn"), "holds method 'ng-gnn'; expected 'flat-mlp'"),
        (lambda c: c["config"].update(depth=3), "does not fit this ngbench \\(depth is missing or unknown\\)"),
        (lambda c: c["config"].pop("width"), "does not fit this ngbench \\(width is missing or unknown\\)"),
        (lambda c: c["config"].update(width="wide"), "does not fit this ngbench \\(width: Input should be a valid integer"),
        (lambda c: c["config"].update(width=-5), "does not fit this ngbench \\(width is -5; expected a number above 0\\)"),
        (lambda c: c["survey"].update(variants=[]), "does not fit this ngbench"),
        (lambda c: c["problem"].update(kind="chess"), "does not fit this ngbench \\(problem has a wrong 'kind'"),
        (lambda c: c["problem"].update(metric="luck"), "does not fit this ngbench \\(unknown metric 'luck'"),
        (lambda c: c["config"].update(width=6), r"'last.weight' of saved method 'flat-mlp' is .*\[1, 5\]; expected .*\[1, 6\]"),
    ],
)
def test_a_file_of_another_version_key_or_value_is_refused(saved, change, message):
    with pytest.raises(ResultError, match=message):
        FlatMLP.load(edited(saved, change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("centre"), "array 'centre' of saved method 'flat-mlp' is missing; expected float32"),
        (lambda a: a.update(more=torch.ones(3)), r"array 'more' of saved method 'flat-mlp' is float32 \[3\]; expected missing"),
        (lambda a: a.update(centre=a["centre"].double()), "array 'centre' of saved method 'flat-mlp' is float64"),
        (lambda a: a.update(centre=a["centre"][1:].clone()), "array 'centre' of saved method 'flat-mlp' is float32"),
    ],
)
def test_arrays_of_other_names_shapes_or_types_are_refused(saved, change, message):
    with pytest.raises(ResultError, match=message):
        FlatMLP.load(rewritten(saved, change))


def test_a_folder_without_files_or_with_damaged_ones_is_refused(saved, tmp_path):
    with pytest.raises(ResultError, match="holds no saved method"):
        FlatMLP.load(tmp_path / "elsewhere")
    damaged = bytearray((saved / ARRAYS_FILE).read_bytes())
    damaged[-1] ^= 1
    (saved / ARRAYS_FILE).write_bytes(damaged)
    with pytest.raises(ResultError, match=r"arrays.safetensors has sha256 .*…; expected .*…"):
        FlatMLP.load(saved)
    pickled = pickle.dumps({"centre": 3})
    (saved / ARRAYS_FILE).write_bytes(pickled)
    edited(saved, lambda content: content.update(arrays_sha256=hashlib.sha256(pickled).hexdigest()))
    with pytest.raises(ResultError, match="is no safetensors file"):
        FlatMLP.load(saved)


def test_what_was_not_fitted_is_not_saved(tmp_path):
    for method in (FlatMLP(), WeightStatistics()):
        with pytest.raises(MethodError, match="has not been fitted"):
            method.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_array_of_trees_that_has_another_type_is_refused(tmp_path):
    fitted("weight-statistics", REGRESSION, ONE_STRUCTURE, model="boosting").save(tmp_path)
    rewritten(tmp_path, lambda arrays: arrays.update({"boosting.value": arrays["boosting.left"].clone()}))
    with pytest.raises(ResultError, match=r"'boosting.value' .* is int64 \[\d+\]; expected 1 axes of type 'f'"):
        WeightStatistics.load(tmp_path)
