"""One run: the test split is scored once, with its permuted twins; what is finished is kept, what is interrupted goes on."""

import dataclasses
import json
import time

import numpy as np
import pytest
from scipy.stats import kendalltau

import ngbench
from ngbench.errors import ConfigError, NgbenchError, PredictionsError, ResultError, SplitError, UnknownNameError
from ngbench.evaluation import Predictions, Result, SeedResult, identity, protocol, rescore, run_beside_baselines
from ngbench.evaluation.plots import draw_predictions
from ngbench.evaluation.result import Spread
from ngbench.loading import GraphDataset
from ngbench.methods import MethodInfo, methods
from ngbench.store import ZooInfo, ZooWriter, open_zoo
from ngbench.tasks import TASKS
from ngbench.testing import fake_dataset
from ngbench.zoo.columns import COLUMNS

CALLS = []


class Recorder:
    """Predicts the norm of the value row, and notes what it was given."""

    info = MethodInfo("recorder", "Recorder", "weights", invariant=True, any_architecture=True, paper="none")
    num_parameters = 7

    def fit(self, problem, train, val, context):
        CALLS.append(("fit", context.seed, train.targets is not None, val.targets is not None, len(train), len(val)))

    def predict(self, networks):
        CALLS.append(("predict", networks.targets is None, len(networks)))
        values = np.zeros(len(networks))
        for bundle in networks.bundles:
            values[bundle.index.numpy()] = bundle.values.double().square().sum(1).sqrt().numpy()
        return values


class FirstWeight(Recorder):
    """Reads one weight: whatever it says changes when neurons are permuted."""

    info = dataclasses.replace(Recorder.info, name="first-weight", invariant=False)

    def predict(self, networks):
        return networks.one_structure(reader="first-weight").values[:, 0].double().numpy()


class Broken(Recorder):
    def predict(self, networks):
        return np.full(len(networks), np.nan)


class Interrupted(Recorder):
    def fit(self, problem, train, val, context):
        if context.seed == 1:
            raise KeyboardInterrupt
        super().fit(problem, train, val, context)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    """The methods and the task of this file, for its own tests only."""
    CALLS.clear()
    for cls in (Recorder, FirstWeight, Broken, Interrupted):
        monkeypatch.setitem(methods._entries, f"test-{cls.__name__.lower()}", cls)
    quick = TASKS["generalization"].model_copy(update={"name": "test-quick", "baselines": ("mean",)})
    monkeypatch.setitem(TASKS._entries, "test-quick", quick)


@pytest.fixture
def result(small_zoo_path, tmp_path):
    return ngbench.run("test-recorder", "test-quick", small_zoo_path, seeds=[0, 1], out=tmp_path)


FOLDER = "test-quick/small-v1/test-recorder"
SEEDS = (0, 1)


def test_the_scores_are_those_of_an_independent_computation(result, small_zoo_path):
    zoo = open_zoo(small_zoo_path)
    rows = zoo.split("test")
    norms = np.linalg.norm(zoo.values(rows).astype(np.float64), axis=1)
    expected = kendalltau(norms, zoo.metadata["test_accuracy"][rows]).statistic
    assert result.scores["kendall_tau"].mean == pytest.approx(expected, abs=1e-12)
    assert result.scores["kendall_tau"].std == 0.0
    assert result.interval.low < expected < result.interval.high
    assert result.zoo_sha256 == zoo.sha256
    assert result.seeds[0].num_test == len(rows)
    assert result.seeds[0].num_parameters == 7


def test_targets_of_the_test_split_are_withheld_and_each_seed_is_fitted_once(result, small_zoo_path):
    zoo = open_zoo(small_zoo_path)
    num_train, num_val, num_test = (len(zoo.split(part)) for part in ("train", "val", "test"))
    assert [call for call in CALLS if call[0] == "fit"] == [("fit", seed, True, True, num_train, num_val) for seed in (0, 1)]
    assert all(withheld for name, withheld, *_ in CALLS if name == "predict")
    sizes = [call[2] for call in CALLS if call[0] == "predict"]
    assert sizes == [num_test] * 4 + [num_val] + [num_test] * 4 + [num_val]


def test_an_invariant_method_keeps_its_score_when_neurons_are_permuted(result):
    assert result.seeds[0].largest_shift < 1e-9
    for name, spread in result.scores.items():
        assert result.scrambled_scores[name].mean == pytest.approx(spread.mean, rel=1e-9)


def test_a_method_that_reads_positions_does_not(small_zoo_path, tmp_path):
    result = ngbench.run("test-firstweight", "test-quick", zoo=small_zoo_path, out=tmp_path)
    assert result.seeds[0].largest_shift > 0.01
    assert result.scrambled_scores["kendall_tau"] != result.scores["kendall_tau"]


def test_what_is_finished_is_read_and_not_fitted_again(result, small_zoo_path, tmp_path):
    CALLS.clear()
    again = ngbench.run("test-recorder", "test-quick", zoo=small_zoo_path, seeds=[1, 0, 2], out=tmp_path)
    assert [call[1] for call in CALLS if call[0] == "fit"] == [2]
    assert again.seeds[1] == result.seeds[0]


def test_changed_code_or_settings_are_fitted_again(result, small_zoo_path, tmp_path, monkeypatch):
    CALLS.clear()
    monkeypatch.setattr(identity, "source_digest", lambda cls: "other code")
    ngbench.run("test-recorder", "test-quick", zoo=small_zoo_path, out=tmp_path)
    assert [call[1] for call in CALLS if call[0] == "fit"] == [0]


def test_an_interruption_keeps_the_finished_seeds(small_zoo_path, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        ngbench.run("test-interrupted", "test-quick", zoo=small_zoo_path, seeds=[0, 1, 2], out=tmp_path)
    folder = tmp_path / "test-quick/small-v1/test-interrupted"
    assert sorted(path.name for path in folder.iterdir()) == ["seed-0", "seed-1"]
    assert not (folder / "result.json").exists()
    monkeypatch.setattr(Interrupted, "fit", Recorder.fit)
    CALLS.clear()
    ngbench.run("test-interrupted", "test-quick", zoo=small_zoo_path, seeds=[0, 1, 2], out=tmp_path)
    assert [call[1] for call in CALLS if call[0] == "fit"] == [1, 2]


def test_the_seconds_of_an_interrupted_fit_count(small_zoo_path, tmp_path, monkeypatch):
    def slow(self, problem, train, val, context):
        time.sleep(0.3)
        raise KeyboardInterrupt

    monkeypatch.setattr(Interrupted, "fit", slow)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            ngbench.run("test-interrupted", "test-quick", small_zoo_path, out=tmp_path)
    monkeypatch.setattr(Interrupted, "fit", Recorder.fit)
    result = ngbench.run("test-interrupted", "test-quick", small_zoo_path, out=tmp_path)
    assert 0.6 < result.seeds[0].fit_s < 3
    folder = tmp_path / "test-quick/small-v1/test-interrupted/seed-0"
    assert sorted(path.name for path in folder.iterdir()) == ["predictions.npz", "seed.json", "val-predictions.npz"]


def test_predictions_that_are_not_finite_are_refused_and_nothing_is_kept(small_zoo_path, tmp_path):
    with pytest.raises(PredictionsError, match="are not finite"):
        ngbench.run("test-broken", "test-quick", zoo=small_zoo_path, out=tmp_path)
    assert not list((tmp_path / "test-quick/small-v1/test-broken/seed-0").iterdir())


def test_trivial_baselines_stand_beside_the_result(small_zoo_path, tmp_path):
    results = run_beside_baselines("test-recorder", zoo=small_zoo_path, out=tmp_path).results
    assert {r.method for r in results} == {"test-recorder", *TASKS["generalization"].baselines}
    assert results[0].method == "test-recorder"
    assert set(results[0].differences) == set(TASKS["generalization"].baselines)
    by_name = {r.method: r for r in results}
    for name, difference in results[0].differences.items():
        scores = [r.scores["kendall_tau"].mean for r in (results[0], by_name[name])]
        assert difference.score == pytest.approx(scores[0] - scores[1], abs=1e-12)
        assert difference.low <= difference.score <= difference.high


def test_a_result_of_fewer_seeds_does_not_take_the_place_of_one_of_more(result, small_zoo_path, tmp_path, monkeypatch):
    fewer = ngbench.run("test-recorder", "test-quick", small_zoo_path, seeds=(1,), out=tmp_path)
    assert [seed.seed for seed in fewer.seeds] == [1]
    assert Result.load(tmp_path / FOLDER) == result
    more = ngbench.run("test-recorder", "test-quick", small_zoo_path, seeds=(0, 1, 2, 3), out=tmp_path)
    assert Result.load(tmp_path / FOLDER) == more
    # of other code each takes the place of what stands there
    monkeypatch.setattr(identity, "source_digest", lambda cls: "another")
    other = ngbench.run("test-recorder", "test-quick", small_zoo_path, seeds=(1,), out=tmp_path)
    assert Result.load(tmp_path / FOLDER) == other


def test_what_other_versions_of_libraries_made_is_fitted_again(result, small_zoo_path, tmp_path, monkeypatch):
    num_fits = len(CALLS)
    monkeypatch.setattr(identity, "versions_of", lambda packages: dict.fromkeys(packages, "99.0"))
    assert not measured(small_zoo_path, tmp_path)
    ngbench.run("test-recorder", "test-quick", small_zoo_path, seeds=SEEDS, out=tmp_path)
    assert len(CALLS) > num_fits


def measured(zoo_path, out, seeds=None):
    zoo = open_zoo(zoo_path)
    task = TASKS["test-quick"].asked(zoo.name)
    device = protocol.checked_device(None)
    return identity.is_measured(task, zoo, "test-recorder", SEEDS if seeds is None else seeds, out=out, device=device)


@pytest.mark.parametrize("gone", ["predictions.npz", "val-predictions.npz", "seed.json"])
def test_a_run_without_the_files_that_it_follows_from_is_not_measured(result, small_zoo_path, tmp_path, gone):
    assert measured(small_zoo_path, tmp_path)
    assert measured(small_zoo_path, tmp_path, SEEDS[:1])
    assert not measured(small_zoo_path, tmp_path, (*SEEDS, 17))
    (tmp_path / FOLDER / f"seed-{SEEDS[-1]}" / gone).unlink()
    assert not measured(small_zoo_path, tmp_path)


def test_a_saved_result_loads_and_follows_from_its_predictions(result, small_zoo_path, tmp_path):
    folder = tmp_path / FOLDER
    assert Result.load(folder) == result
    again, differences = rescore(folder, zoo=open_zoo(small_zoo_path))
    assert again == result
    assert differences == []


def test_a_number_that_does_not_follow_from_the_predictions_is_found(result, small_zoo_path, tmp_path):
    folder = tmp_path / FOLDER
    fields = json.loads((folder / "result.json").read_text())
    fields["seeds"][1]["scores"]["mae"] = 0.25
    (folder / "result.json").write_text(json.dumps(fields))
    _, differences = rescore(folder, zoo=open_zoo(small_zoo_path))
    own = SeedResult.model_validate(fields["seeds"][1]).scores["mae"]
    assert [(d.seed, d.name, d.stored) for d in differences] == [(1, "seed.json scores mae", own), (1, "scores mae", own)]
    assert own == 0.25


def test_a_result_of_another_zoo_is_not_rescored(result, tmp_path):
    folder = tmp_path / FOLDER
    fields = json.loads((folder / "result.json").read_text())
    fields["zoo_sha256"] = "0" * 64
    (folder / "result.json").write_text(json.dumps(fields))
    with pytest.raises((ResultError, UnknownNameError), match=r"small"):
        rescore(folder)


def test_a_folder_without_a_readable_result_is_refused(tmp_path):
    with pytest.raises(ResultError, match=r"has no result\.json"):
        Result.load(tmp_path)
    (tmp_path / "result.json").write_text('{"format_version": 1}')
    with pytest.raises(ResultError, match=r"no Result that this ngbench can read \(format_version"):
        Result.load(tmp_path)


def test_the_same_networks_get_the_same_twins_everywhere(small_zoo_path):
    zoo = open_zoo(small_zoo_path)
    rows = zoo.split("test")
    salt = protocol.orbit_salt(1)
    twins = GraphDataset.from_zoo(zoo, rows).scrambled(salt=salt).bundles[0].values
    some = GraphDataset.from_zoo(zoo, rows[[5, 2]]).scrambled(salt=salt).bundles[0].values
    np.testing.assert_array_equal(some[0], twins[5])
    np.testing.assert_array_equal(some[1], twins[2])


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1]])
def test_seeds_that_make_no_sense_are_refused(small_zoo_path, tmp_path, seeds):
    with pytest.raises(ConfigError, match=r"seeds are \["):
        ngbench.run("test-recorder", "test-quick", zoo=small_zoo_path, seeds=seeds, out=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "ng-gn"}, "did you mean 'ng-gnn'"),
        ({"method": "mean", "task": "generalisation"}, "did you mean 'generalization'"),
        ({"method": "mean", "zoo": "digit-cnn"}, "did you mean 'digits-cnn'"),
    ],
)
def test_unknown_names_come_with_suggestions(tmp_path, arguments, message):
    with pytest.raises(NgbenchError, match=message):
        ngbench.run(**arguments, out=tmp_path)


def test_a_run_on_another_split_fits_and_scores_its_parts_in_a_folder_of_its_own(split_zoo_path, tmp_path):
    zoo = open_zoo(split_zoo_path)
    default = ngbench.run("test-recorder", "test-quick", split_zoo_path, out=tmp_path)
    CALLS.clear()
    result = ngbench.run("test-recorder", "test-quick", split_zoo_path, split="tanh-held-out", out=tmp_path)
    num_train, num_val, num_test = (len(zoo.split(part, "tanh-held-out")) for part in ("train", "val", "test"))
    assert [call for call in CALLS if call[0] == "fit"] == [("fit", 0, True, True, num_train, num_val)]
    assert (default.split, result.split) == ("default", "tanh-held-out")
    assert result.seeds[0].num_test == num_test == (zoo.metadata["activation"] == "tanh").sum()
    folder = tmp_path / "test-quick/small-v1-tanh-held-out/test-recorder"
    assert Result.load(folder) == result
    assert Result.load(tmp_path / FOLDER) == default
    assert Predictions.load(folder / "seed-0/predictions.npz").about["split"] == "tanh-held-out"


def test_a_result_on_another_split_follows_from_its_predictions(split_zoo_path, tmp_path):
    result = ngbench.run("test-recorder", "test-quick", split_zoo_path, split="tanh-held-out", out=tmp_path)
    folder = tmp_path / "test-quick/small-v1-tanh-held-out/test-recorder"
    again, differences = rescore(folder, zoo=open_zoo(split_zoo_path))
    assert (again, differences) == (result, [])
    assert draw_predictions(result, open_zoo(split_zoo_path), folder).read_bytes().startswith(b"\x89PNG")


def test_a_split_that_the_zoo_lacks_is_refused_before_anything_is_fitted(split_zoo_path, tmp_path):
    with pytest.raises(SplitError, match="zoo 'small' has no split 'wide'; expected one of default, tanh-held-out"):
        ngbench.run("test-recorder", "test-quick", split_zoo_path, split="wide", out=tmp_path)
    assert CALLS == []


def test_answers_outside_what_the_task_asks_for_are_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"column 'psnr' of zoo 'digits-inr' has numbers from \d+.* from 0 to 1: choose another"
    ):
        ngbench.run("mean", "generalization", "digits-inr", target="psnr", out=tmp_path)


def test_a_zoo_without_the_target_is_refused(small_zoo_path, tmp_path, monkeypatch):
    other = TASKS["generalization"].model_copy(update={"name": "other", "zoos": {"small": ("test_loss",)}})
    monkeypatch.setitem(TASKS._entries, "other", other)
    with pytest.raises(SplitError, match="zoo 'small' has no column 'test_loss' for task 'other'"):
        ngbench.run("test-recorder", "other", small_zoo_path, out=tmp_path)


@pytest.mark.parametrize("device", ["tpu9", "cuda:97"])
def test_a_device_that_the_machine_lacks_is_refused(small_zoo_path, tmp_path, device):
    with pytest.raises(ConfigError, match=f"device is '{device}'; expected one that this machine has: cpu"):
        ngbench.run("test-recorder", "test-quick", small_zoo_path, device=device, out=tmp_path)


def test_a_zoo_too_small_for_its_split_is_refused(tmp_path):
    dataset = fake_dataset(num_graphs=3)
    info = ZooInfo(name="tiny", version="1", title="Fakes", licence="MIT", citation="none", recipe=None)
    with ZooWriter(tmp_path / "tiny.h5", info, columns=[COLUMNS["test_accuracy"]]) as writer:
        bundle = dataset.bundles[0]
        topologies = [bundle.variants[int(variant)] for variant in bundle.variant]
        writer.append(topologies, bundle.values.numpy(), ids=dataset.ids, metadata={"test_accuracy": dataset.targets})
    with pytest.raises(
        SplitError, match=r"split 'default' of zoo 'tiny' has \d train, \d val, \d test networks; expected at least two"
    ):
        ngbench.run("test-recorder", "test-quick", tmp_path / "tiny.h5", out=tmp_path)


def test_the_spread_over_seeds_is_the_unbiased_one():
    assert Spread.of([1.0, 2.0, 4.0]).std == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert Spread.of([1.5]) == Spread(mean=1.5, std=None)


def test_predictions_name_their_origin(result, tmp_path, small_zoo_path):
    about = Predictions.load(tmp_path / FOLDER / "seed-1" / "predictions.npz").about
    assert about == {
        "method": "test-recorder", "task": "test-quick", "task_version": 1, "zoo": "small",
        "zoo_sha256": open_zoo(small_zoo_path).sha256, "split": "default", "target": "test_accuracy", "seed": 1,
    }  # fmt: skip


@pytest.mark.parametrize(("call", "doing"), [("fit", "fitted"), ("predict", "asked about the test networks")])
def test_a_fault_in_a_method_ends_with_a_line_that_names_it(small_zoo_path, tmp_path, monkeypatch, call, doing):
    def fail(*args, **kwargs):
        raise ZeroDivisionError("3 /\n0")

    monkeypatch.setattr(Recorder, call, fail)
    with pytest.raises(ZeroDivisionError) as caught:
        ngbench.run("test-recorder", "test-quick", small_zoo_path, out=tmp_path)
    assert caught.value.__notes__ == [f"method 'test-recorder' failed while it was {doing}: ZeroDivisionError: 3 / 0"]


def test_settings_beyond_the_budget_are_refused_before_anything_is_fitted(small_zoo_path, tmp_path):
    text = "setting 'epochs' of method 'flat-mlp' is 61, beyond the budget of task 'generalization'; expected at most 60 epochs"
    with pytest.raises(ConfigError, match=text):
        ngbench.run("flat-mlp", "generalization", small_zoo_path, settings={"epochs": "61"}, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_fit_that_another_task_asked_for_is_no_result_and_says_so(result, tmp_path):
    folder = tmp_path / FOLDER
    (folder / "result.json").unlink()
    text = "test-recorder has no result.json; expected .* finished: its seeds were fitted for another task, such as retrieval"
    with pytest.raises(ResultError, match=text):
        Result.load(folder)


def test_a_result_that_is_no_json_is_refused_with_what_is_wrong(tmp_path):
    (tmp_path / "result.json").write_text("no")
    with pytest.raises(ResultError, match=r"result\.json is no Result that this ngbench can read \(Invalid JSON: "):
        Result.load(tmp_path)
