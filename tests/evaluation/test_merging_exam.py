"""The exam of merging on a zoo that is trained for a moment, from asking a method to scores from the file alone."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from baselines.matching import ActivationMatching, Naive
from ngbench.errors import PredictionsError
from ngbench.evaluation.exam import orbit_salt
from ngbench.evaluation.merging import MergingExam, _check_alike
from ngbench.evaluation.predictions import Predictions
from ngbench.graph import symmetry
from ngbench.loading import GraphDataset, ZooPrograms
from ngbench.methods import Budget, Problem, RunContext
from ngbench.metrics import facts_of
from ngbench.store import generate, open_zoo
from ngbench.tasks import TASKS, MergingPlan
from ngbench.zoo.recipe import load_recipe

SHORT = {"epochs": 4, "learning_rate": 0.01}
FEW = {"num_pairs": 4, "num_recoveries": 2, "num_triples": 2, "num_sets": 1}


@pytest.fixture(scope="module")
def exam(tmp_path_factory):
    recipe = load_recipe("digits-mlp")
    short = {name: recipe.hyperparameters[name].model_copy(update={"value": value}) for name, value in SHORT.items()}
    design = recipe.architecture.model_copy(update={"width": 12, "depth": 2})
    update = {"num_runs": 64, "architecture": design, "hyperparameters": {**recipe.hyperparameters, **short}}
    path = tmp_path_factory.mktemp("merging") / "small.h5"
    generate(recipe.model_copy(update=update), path)
    plan = TASKS["merging"].plan(MergingPlan).model_copy(update=FEW)
    return MergingExam(TASKS["merging"].model_copy(update={"merging": plan}), open_zoo(path))


def asked(exam, method):
    networks = GraphDataset.from_zoo(exam.zoo, exam.rows)
    scrambled = [exam.ask(method, networks.scrambled(salt=orbit_salt(copy))) for copy in range(2)]
    return Predictions(exam.ids, exam.ask(method, networks), np.stack(scrambled), {"method": "test"})


@torch.no_grad()
def activations(networks):
    (bundle,) = networks.bundles
    images = bundle.programs.inputs(100, seed=0)
    found = dict(zip(bundle.index.tolist(), bundle.activations(images).transpose(0, 1).numpy(), strict=True))
    return [found[place] for place in range(len(networks))]


EMBEDS = SimpleNamespace(info=SimpleNamespace(name="test", access="probes"), embed_nodes=activations)
STANDS = SimpleNamespace(
    info=SimpleNamespace(name="test", access="probes"),
    match=lambda first, second: [symmetry.group(first.bundles[0].topology).identity() for _ in first.ids],
)


def test_rows_are_named_by_kind_and_networks(exam):
    assert len(set(exam.ids)) == len(exam.ids) == 4 + 2 * 4 + 2 * 3 + 7
    first, second = exam.items.pairs[0]
    assert exam.ids[0] == f"pair: {exam.items.networks.ids[first]}, {exam.items.networks.ids[second]}"
    assert exam.ids[5].startswith("copy: ")
    assert exam.ids[5].endswith(" copied with noise 0.1")
    assert exam.ids[-1].startswith("set 0: ")
    assert exam.row_shape == (1 + 12 + 12 + 10,)


def test_scores_of_scrambled_networks_are_the_same_where_a_method_is_invariant_and_differ_where_it_is_not(exam):
    invariant, stands = (exam.score(asked(exam, method)) for method in (EMBEDS, STANDS))
    assert invariant.scrambled_scores["midpoint_accuracy"] == pytest.approx(invariant.scores["midpoint_accuracy"], abs=0.01)
    assert stands.scrambled_scores["barrier_area"] != pytest.approx(stands.scores["barrier_area"], rel=1e-3)
    assert invariant.scores["endpoint_accuracy"] == pytest.approx(stands.scores["endpoint_accuracy"])
    assert invariant.scores["midpoint_accuracy"] > stands.scores["midpoint_accuracy"]
    assert np.isnan(invariant.shifts).all()


OF_UNEQUAL = [
    "barrier_unequal",
    "endpoint_accuracy_unequal",
    "midpoint_accuracy_unequal",
    "midpoint_accuracy_unequal_repaired",
]


def test_what_is_measured_is_what_the_task_lists_but_for_unequal_widths_that_the_zoo_lacks(exam):
    measured = exam.measured(asked(exam, STANDS).values).metrics
    assert sorted((*measured, *OF_UNEQUAL)) == sorted((*exam.task.metrics, *exam.task.more_metrics))


def test_a_zoo_of_one_topology_is_asked_what_it_was_before_widths_could_be_unequal():
    exam = MergingExam(TASKS["merging"], open_zoo("digits-mlp"))
    # of version 1 of the task, before plans of optimal transport
    names = "065e240a58c8618cd7bdaf0b9ffda424ac84e5bc350333763690112f113c0dda"
    assert hashlib.sha256("\n".join(exam.ids).encode()).hexdigest() == names
    assert exam.row_shape == (203,)
    assert exam.items.unequal.shape == (0, 2)


def test_seeds_or_copies_of_which_only_some_leave_out_unequal_widths_are_refused():
    found = [{"midpoint_accuracy": 0.5, "barrier_unequal": 0.1}, {"midpoint_accuracy": 0.5}]
    _check_alike(found[:1] * 2, "seeds")
    with pytest.raises(PredictionsError, match="some seeds of the predictions leave out pairs of unequal widths, and others do"):
        _check_alike(found, "seeds")


@pytest.mark.slow
def test_networks_of_a_zoo_of_many_widths_are_transported_and_a_matcher_leaves_them_out():
    plan = TASKS["merging"].plan(MergingPlan).model_copy(update={**FEW, "num_test_images": 100, "num_points": 3})
    park = MergingExam(TASKS["merging"].asked("digits-park").model_copy(update={"merging": plan}), open_zoo("digits-park"))
    networks = GraphDataset.from_zoo(park.zoo, park.rows)
    method = ActivationMatching()
    method.fit(Problem("merging", None, True), networks, networks, RunContext(seed=0, budget=Budget(1, 1)))
    assert len(park.items.unequal) == FEW["num_pairs"]
    assert all(name.startswith("unequal: ") for name in park.ids[-4:])
    transported, left_out = (park.measured(park.ask(asked, networks)).metrics for asked in (method, Naive()))
    assert all(np.isfinite(transported[name]) for name in OF_UNEQUAL)
    recorded = park.zoo.metadata["test_accuracy"][park.rows][park.items.unequal].mean()
    assert transported["endpoint_accuracy_unequal"] == pytest.approx(recorded, abs=0.1)
    assert set(transported) - set(left_out) == set(OF_UNEQUAL)


def test_the_worst_scrambled_copy_is_reported(exam):
    scored = exam.score(asked(exam, STANDS))
    copies = [exam.measured(values, copy=copy).metrics["midpoint_accuracy"] for copy, values in enumerate(scored.scrambled)]
    assert copies[0] != copies[1]
    assert scored.scrambled_scores["midpoint_accuracy"] == min(copies)


def test_endpoints_have_the_accuracies_that_the_zoo_recorded(exam):
    scored = exam.measured(asked(exam, STANDS).values)
    recorded = exam.zoo.metadata["test_accuracy"][exam.rows][exam.items.pairs].mean(1)
    np.testing.assert_allclose(scored.of_pairs["endpoint_accuracy"], recorded, atol=1e-6)


def test_predictions_score_alike_from_their_file(exam, tmp_path):
    predictions = asked(exam, EMBEDS)
    predictions.save(tmp_path / "predictions.npz")
    again = MergingExam(exam.task, exam.zoo).score(Predictions.load(tmp_path / "predictions.npz"))
    expected = exam.score(predictions)
    assert again.scores == expected.scores
    assert again.scrambled_scores == expected.scrambled_scores


def test_matchings_of_a_hostile_file_are_refused(exam, tmp_path):
    predictions = asked(exam, STANDS)
    predictions.scrambled[1, 2, 3:5] = [10**9, -7]
    predictions.save(tmp_path / "predictions.npz")
    with pytest.raises(PredictionsError, match="is no symmetry of their topology: what is said of group 'linear0'"):
        exam.score(Predictions.load(tmp_path / "predictions.npz"))


def test_matchings_of_fewer_nodes_are_refused(exam):
    whole = asked(exam, STANDS)
    short = Predictions(whole.ids, whole.values[:, 1:], whole.scrambled[:, :, 1:], {})
    with pytest.raises(PredictionsError, match=r"what is said of a row of task 'merging' has shape \[34\]; expected \[35\]"):
        exam.score(short)


def test_the_interval_holds_the_mean_over_pairs(exam):
    scored = exam.score(asked(exam, EMBEDS))
    found = exam.resamples("test", [scored, scored])
    assert found.score == pytest.approx(scored.scores["midpoint_accuracy"])
    interval = found.interval()
    assert interval.low < found.score < interval.high


def test_images_are_those_of_the_zoo_s_test_part(exam):
    images = exam._images[""]
    expected, labels = ZooPrograms(exam.zoo).labelled("test")
    assert len(images.test.labels) == len(labels)
    assert torch.equal(images.test.labels.sort().values, labels.sort().values)
    assert images.train.shape == (512, *expected.shape[1:])


def test_numbers_of_merging_lie_within_the_bounds_that_are_said(exam):
    found = exam.score(asked(exam, Naive())).scores
    for name, value in found.items():
        low, high = facts_of(name).bounds
        assert low <= value <= high
    assert facts_of("barrier").bounds[0] == 0 > facts_of("barrier_area").bounds[0]
