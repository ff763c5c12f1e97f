"""Every number of a result follows again from the files of its run, and one that was changed anywhere is found."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import pytest

import ngbench
from ngbench.errors import PredictionsError
from ngbench.evaluation import Predictions, Result, rescore
from ngbench.evaluation.rescoring import ARITHMETIC, FORWARD_PASS, numbers_of, tolerance_of
from ngbench.evaluation.suite.cells import SuiteCell
from ngbench.evaluation.suite.process import measure
from ngbench.evaluation.suite.running import State
from ngbench.evaluation.tables import questions
from ngbench.methods import MethodInfo, methods
from ngbench.progress import silent_stages
from ngbench.store import open_zoo
from ngbench.tasks import TASKS

SEEDS = (2, 5)
BASELINES = ("mean", "test-other")


class OfScale:
    """Says the spread of the weights with some noise."""

    info = MethodInfo("of-scale", "Of scale", "weights", invariant=False, any_architecture=True, paper="none")
    num_parameters = 3
    noise = 0.01

    def fit(self, problem, train, val, context):
        self.rng = np.random.default_rng(context.seed)

    def predict(self, networks):
        values = networks.one_structure(reader="of-scale").values.double()
        return values.square().mean(1).sqrt().numpy() + self.noise * self.rng.standard_normal(len(networks))


class Other(OfScale):
    noise = 0.3


@pytest.fixture(scope="module", autouse=True)
def _registered():
    quick = TASKS["generalization"].model_copy(update={"name": "test-quick", "baselines": BASELINES, "num_resamples": 60})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(methods._entries, "test-of-scale", OfScale)
        patch.setitem(methods._entries, "test-other", Other)
        patch.setitem(TASKS._entries, "test-quick", quick)
        yield


@pytest.fixture(scope="module")
def finished(_registered, small_zoo_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    ngbench.run("test-of-scale", "test-quick", small_zoo_path, seeds=SEEDS, out=out)
    return out / "test-quick/small-v1"


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the run and of those beside it, to be spoilt."""
    shutil.copytree(finished, tmp_path / "runs")
    return tmp_path / "runs/test-of-scale"


@pytest.fixture
def zoo(small_zoo_path):
    return open_zoo(small_zoo_path)


def leaves(value, path=()):
    """Every number of a JSON, by its path."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in parts:
            yield from leaves(part, (*path, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path


def test_a_run_that_nobody_touched_follows_again(folder, zoo):
    result, differences = rescore(folder, zoo=zoo)
    assert differences == []
    # of each seed 8 scores, validation, two shifts and a count; of all 8 spreads and 3 intervals
    assert numbers_of(result) == 2 * (8 + 1 + 2 + 1) + 8 * 2 + 3 * 4


def test_every_number_of_the_result_that_is_changed_is_found(folder, zoo):
    fields = json.loads((folder / "result.json").read_text())
    told = ("settings", "environment", "format_version")
    paths = [path for path in leaves(fields) if path[0] not in told]
    assert len(paths) > 60
    for path in paths[:: 1 if len(paths) < 40 else 3]:
        spoilt = copy.deepcopy(fields)
        place = spoilt
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] += 1e-6 if isinstance(place[path[-1]], float) else 1
        if path[-1] == "seed":
            continue
        (folder / "result.json").write_text(json.dumps(spoilt))
        found = rescore(folder, zoo=zoo)[1]
        assert found, path
        assert all(str(path[-1]) in difference.name for difference in found), (path, found)


def test_rounding_of_another_library_is_no_difference(folder, zoo):
    fields = json.loads((folder / "result.json").read_text())
    fields["interval"]["low"] += 1e-13
    fields["scores"]["mae"]["std"] *= 1 + 1e-12
    (folder / "result.json").write_text(json.dumps(fields))
    assert rescore(folder, zoo=zoo)[1] == []


@pytest.mark.parametrize("file", ["predictions.npz", "val-predictions.npz"])
@pytest.mark.parametrize(("key", "value"), [("zoo_sha256", "0" * 64), ("seed", 3), ("target", "init_scale"), ("task", "other")])
def test_predictions_that_are_about_something_else_are_found(folder, zoo, file, key, value):
    path = folder / "seed-5" / file
    kept = Predictions.load(path)
    before = kept.about[key]
    Predictions(kept.ids, kept.values, kept.scrambled, {**kept.about, key: value}).save(path)
    (difference,) = rescore(folder, zoo=zoo)[1]
    assert (difference.seed, difference.name) == (5, f"{file} about {key}")
    assert (difference.stored, difference.found) == (before, value)


def test_changed_predictions_change_what_follows_from_them_alone(folder, zoo):
    path = folder / "seed-2/val-predictions.npz"
    kept = Predictions.load(path)
    Predictions(kept.ids, -kept.values, kept.scrambled, kept.about).save(path)
    (difference,) = rescore(folder, zoo=zoo)[1]
    assert (difference.seed, difference.name) == (2, "val_score")
    assert difference.found == pytest.approx(-difference.stored, abs=1e-12)


def test_a_baseline_that_says_otherwise_changes_the_difference_to_it(folder, zoo):
    path = folder.parent / "test-other/seed-2/predictions.npz"
    kept = Predictions.load(path)
    Predictions(kept.ids, -kept.values, kept.scrambled, kept.about).save(path)
    found = rescore(folder, zoo=zoo)[1]
    assert {difference.name for difference in found} == {f"differences test-other {end}" for end in ("score", "low", "high")}
    path.unlink()
    (difference,) = rescore(folder, zoo=zoo)[1]
    assert difference.name == "difference to test-other"
    assert "seed-2/predictions.npz" in difference.found


def test_a_baseline_of_another_question_is_none(folder, zoo):
    path = folder.parent / "mean/seed-5/predictions.npz"
    kept = Predictions.load(path)
    Predictions(kept.ids, kept.values, kept.scrambled, {**kept.about, "split": "other"}).save(path)
    (difference,) = rescore(folder, zoo=zoo)[1]
    assert difference.name == "difference to mean"
    assert "'split': 'other'" in difference.found


def test_predictions_for_validation_that_are_gone_are_said_by_name(folder, zoo):
    (folder / "seed-2/val-predictions.npz").unlink()
    with pytest.raises(PredictionsError, match=r"no predictions file .*seed-2/val-predictions\.npz"):
        rescore(folder, zoo=zoo)


def test_only_where_networks_are_run_there_is_room_for_more_than_rounding(zoo):
    park, inr = open_zoo("digits-park"), open_zoo("digits-inr")
    assert tolerance_of(TASKS["generalization"], zoo) == tolerance_of(TASKS["retrieval"], inr) == ARITHMETIC
    assert tolerance_of(TASKS["merging"], zoo) == tolerance_of(TASKS["retrieval"], park) == FORWARD_PASS


def test_results_of_a_suite_carry_the_differences_to_all_baselines(small_zoo_path, tmp_path, zoo):
    cells = [
        SuiteCell(
            method=name, task="test-quick", zoo=str(small_zoo_path), target="test_accuracy", seeds=seeds, out=str(tmp_path),
            device="cpu",
        )
        for name, seeds in (("test-of-scale", SEEDS), ("mean", (*SEEDS, 7)), ("test-other", SEEDS[:1]))
    ]  # fmt: skip
    for cell in cells:
        measure(cell, silent_stages)
    folder = tmp_path / "test-quick/small-v1/test-of-scale"
    assert Result.load(folder).differences == {}
    (table,) = questions([State(cell, "done") for cell in cells])
    # the other baseline lacks a seed
    stored = Result.load(folder)
    assert set(stored.differences) == {"mean"}
    assert next(row.result for row in table.rows if row.method == "test-of-scale") == stored
    assert rescore(folder, zoo=zoo) == (stored, [])
    beside = ngbench.run("test-of-scale", "test-quick", small_zoo_path, seeds=SEEDS, out=tmp_path, device="cpu")
    assert beside.differences["mean"] == stored.differences["mean"]
    assert set(beside.differences) == set(BASELINES)
    questions([State(cell, "done") for cell in cells])
    assert Result.load(folder).differences["mean"] == stored.differences["mean"]
