"""A competition from end to end: a host seals a zoo, a stranger answers for the public file, and the host scores."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import kendalltau

import ngbench
from leaderboard.records import load_records
from leaderboard.seal import seal
from ngbench.cli import main
from ngbench.errors import ConfigError, WithheldError
from ngbench.evaluation import Predictions, Result, exam_of, rescore
from ngbench.evaluation.audit.measure import target_of
from ngbench.evaluation.networks import networks_of
from ngbench.methods import MethodInfo, methods
from ngbench.store import ZooInfo, ZooWriter, open_zoo
from ngbench.store.answers import Answers
from ngbench.tasks import TASKS
from ngbench.testing import ONE_STRUCTURE, fake_dataset
from ngbench.zoo.columns import COLUMNS

NUM_NETWORKS, SEEDS = 90, (0, 1, 2)


class OfScale:
    """Says the spread of the weights with some noise; a class by its terciles."""

    info = MethodInfo("of-scale", "Of scale", "weights", invariant=False, any_architecture=True, paper="none")
    num_parameters = 3

    def fit(self, problem, train, val, context):
        self.classes, self.rng = len(problem.classes), np.random.default_rng(context.seed)

    def predict(self, networks):
        values = networks.one_structure(reader="of-scale").values.double()
        said = values.square().mean(1).sqrt().numpy() + 0.01 * self.rng.standard_normal(len(networks))
        if not self.classes:
            return said
        likely = np.exp(-9 * np.abs(said[:, None] - np.linspace(0.1, 0.4, self.classes)))
        return likely / likely.sum(1, keepdims=True)


@pytest.fixture(scope="module", autouse=True)
def _registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(methods._entries, "test-of-scale", OfScale)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A zoo that only its host has."""
    dataset = fake_dataset(ONE_STRUCTURE, num_graphs=NUM_NETWORKS, seed=13)
    bundle, names = dataset.bundles[0], ("activation", "init_scale", "optimizer", "test_accuracy")
    scale = dataset.hyperparameters["init_scale"]
    optimizer = np.array(["sgd", "adam", "momentum"])[np.searchsorted(np.quantile(scale, [1 / 3, 2 / 3]), scale)]
    path = tmp_path_factory.mktemp("whole") / "secret.h5"
    info = ZooInfo("secret", "2", "Fakes", "MIT", "none")
    with ZooWriter(path, info, columns=[COLUMNS[name] for name in names]) as writer:
        topologies = [bundle.variants[int(variant)] for variant in bundle.variant]
        metadata = {**dataset.hyperparameters, "optimizer": optimizer, "test_accuracy": dataset.targets}
        writer.append(topologies, bundle.values.numpy(), ids=dataset.ids, metadata=metadata)
    return open_zoo(path)


@pytest.fixture(scope="module")
def sealed(whole, tmp_path_factory):
    return seal(whole, tmp_path_factory.mktemp("sealed"), targets=["test_accuracy", "optimizer"])


@pytest.fixture(scope="module")
def run(sealed, tmp_path_factory):
    """Of the stranger, who has the public file alone."""
    out = tmp_path_factory.mktemp("runs")
    result = ngbench.run("test-of-scale", "generalization", sealed.public, seeds=SEEDS, out=out)
    return result, out / "generalization/secret-v2-sealed/test-of-scale"


def typed(*arguments, exit_code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], terminal_width=200)
    assert result.exit_code == exit_code, result.output
    return result


def true_answers(whole, sealed):
    """The accuracy of each sealed network by its public name, from the whole zoo and the host's list of names."""
    answers, accuracy = Answers.load(sealed.answers), dict(zip(whole.ids.tolist(), whole.metadata["test_accuracy"], strict=True))
    return {id: accuracy[name] for id, name in zip(answers.ids.tolist(), answers.names.tolist(), strict=True)}


def test_a_run_on_a_public_file_keeps_predictions_and_no_scores(run, sealed):
    result, folder = run
    assert not result.is_scored
    assert (result.scores, result.scrambled_scores, result.differences) == ({}, {}, {})
    assert all(seed.val_score > 0.3 and seed.mean_shift > 0 and seed.num_test == sealed.num_networks for seed in result.seeds)
    assert Result.load(folder) == result
    predictions = Predictions.load(folder / "seed-1/predictions.npz")
    assert all(id.startswith("sealed-") for id in predictions.ids)
    assert not [path for path in folder.parent.iterdir() if path != folder], "baselines were fitted with nothing to compare"


def test_what_is_finished_is_not_fitted_again(run, sealed, monkeypatch):
    monkeypatch.setattr(OfScale, "fit", None)
    again = ngbench.run("test-of-scale", "generalization", sealed.public, seeds=SEEDS, out=run[1].parents[2])
    assert again.seeds == run[0].seeds


def test_the_host_finds_the_scores_that_follow_from_the_whole_zoo(run, whole, sealed):
    result, folder = run
    completed, differences = rescore(folder, zoo=open_zoo(sealed.public, answers=sealed.answers))
    assert differences == []
    truth = true_answers(whole, sealed)
    for seed in completed.seeds:
        predictions = Predictions.load(folder / f"seed-{seed.seed}/predictions.npz")
        expected = kendalltau(predictions.values, [truth[id] for id in predictions.ids]).statistic
        assert seed.scores["kendall_tau"] == pytest.approx(expected, abs=1e-12)
        assert seed.val_score == result.seeds[seed.seed].val_score
    assert completed.interval.low < completed.scores["kendall_tau"].mean < completed.interval.high


def test_predictions_that_were_changed_are_found_by_the_public_file_alone(run, sealed, tmp_path):
    import shutil

    folder = tmp_path / "test-of-scale"
    shutil.copytree(run[1], folder)
    path = folder / "seed-2/predictions.npz"
    found = Predictions.load(path)
    Predictions(found.ids, found.values + 0.5, found.scrambled, found.about).save(path)
    _, differences = rescore(folder, zoo=open_zoo(sealed.public))
    assert {(part.seed, part.name) for part in differences} == {(2, "mean_shift"), (2, "largest_shift")}
    _, differences = rescore(run[1], zoo=open_zoo(sealed.public))
    assert differences == []


def test_a_submission_is_valid_for_all_and_scored_by_the_host(run, whole, sealed, tmp_path):
    archive = tmp_path / "mine.zip"
    keys = ("--author", "A. Name", "--no-external-data", "--zoo", sealed.public)
    assert "valid" in typed("submit", run[1], *keys, "--out", archive).output
    refused = typed("validate", archive, "--score", "--zoo", sealed.public, exit_code=2)
    assert "the zoo withholds the answers; its host scores submissions" in refused.output
    board = tmp_path / "submissions"
    board.mkdir()
    typed("validate", archive, "--zoo", sealed.public, "--answers", sealed.answers, "--accept", board, "--name", "mine")
    (record,) = load_records(board)
    completed, _ = rescore(run[1], zoo=open_zoo(sealed.public, answers=sealed.answers))
    assert record.rows[0].scores == completed.scores
    # seeds are drawn anew for each name of a method
    assert record.rows[0].interval.score == completed.interval.score
    assert record.rows[0].interval.low == pytest.approx(completed.interval.low, abs=0.05)
    assert record.flags == ()


def test_a_stranger_who_had_the_answers_is_flagged(run, whole, sealed, tmp_path):
    import shutil

    folder, truth = tmp_path / "secret-v2-sealed/test-of-scale", true_answers(whole, sealed)
    shutil.copytree(run[1], folder)
    for seed in SEEDS:
        found = Predictions.load(folder / f"seed-{seed}/predictions.npz")
        values = np.array([truth[id] for id in found.ids])
        Predictions(found.ids, values, found.scrambled, found.about).save(folder / f"seed-{seed}/predictions.npz")
    archive = tmp_path / "oracle.zip"
    typed("submit", folder, "--author", "A", "--no-external-data", "--zoo", sealed.public, "--out", archive)
    shown = typed("validate", archive, "--zoo", sealed.public, "--answers", sealed.answers, "--score").output
    assert "predictions equal the labels" in " ".join(shown.split())


def test_an_answer_file_without_its_public_file_is_refused(run, sealed, small_zoo_path):
    refused = typed("validate", "x.zip", "--zoo", small_zoo_path, "--answers", sealed.answers, exit_code=2)
    assert "belong to none of the zoos" in refused.output
    refused = typed("evaluate", run[1], "--answers", sealed.answers, exit_code=2)
    assert "is given without --zoo" in refused.output


def test_the_commands_say_that_the_host_scores(run, sealed):
    out = run[1].parents[2]
    shown = typed("run", "--method", "test-of-scale", "--zoo", sealed.public, "--seeds", 3, "--out", out).output
    assert f"{sealed.num_networks} test networks, whose answers the zoo withholds: its host scores" in shown
    assert f"on the val split {np.mean([seed.val_score for seed in run[0].seeds]):.3f}, shift 0." in shown
    assert f"to hand them in: ngbench submit {run[1]}" in shown
    parsed = json.loads(
        typed("run", "--method", "test-of-scale", "--zoo", sealed.public, "--seeds", 3, "--out", out, "--json").stdout
    )
    assert [result["scores"] for result in parsed["results"]] == [{}]
    shown = typed("evaluate", run[1], "--zoo", sealed.public).output
    assert "withholds the answers: its host scores, with --answers" in shown
    shown = typed("evaluate", run[1], "--zoo", sealed.public, "--answers", sealed.answers).output
    assert "τ_b" in shown
    refused = typed("report", run[1], "--zoo", sealed.public, "--out", out / "report.html", exit_code=2)
    assert "withholds the answers to it, which only its host can score" in refused.output


def test_info_tells_what_is_withheld_and_verify_passes(sealed):
    shown = " ".join(typed("zoo", "info", sealed.public).output.split())
    assert "withheld of the test networks of split default: optimizer, test_accuracy" in shown
    assert sealed.commitment in shown
    assert "nan" not in shown
    assert "withheld answers: 2 columns" in typed("zoo", "verify", sealed.public).output


def test_sealing_says_where_the_files_are_and_what_is_not_secret(whole, tmp_path):
    shown = typed("zoo", "seal", whole.path, "--target", "test_accuracy", "--out", tmp_path / "new").output
    for text in ("secret-v2-sealed.h5", "secret-v2-sealed-answers.npz", "keep it to yourself", "withheld test_accuracy"):
        assert text in shown
    assert "not secret" not in shown


def test_classes_are_told_by_training_networks_alone(sealed, tmp_path):
    public, answered = open_zoo(sealed.public), open_zoo(sealed.public, answers=sealed.answers)
    task = TASKS["classification"].asked("secret", target="optimizer")
    exam, host = exam_of(task, public), exam_of(task, answered)
    assert exam.classes == host.classes == ("adam", "momentum", "sgd")
    assert exam.is_withheld
    assert not host.is_withheld
    result = ngbench.run("test-of-scale", "classification", sealed.public, target="optimizer", out=tmp_path)
    assert not result.is_scored
    (folder,) = tmp_path.glob("classification/*/test-of-scale")
    completed, differences = rescore(folder, zoo=answered)
    assert differences == []
    said = Predictions.load(folder / "seed-0/predictions.npz")
    names = dict(zip(answered.ids.tolist(), answered.metadata["optimizer"].tolist(), strict=True))
    right = [host.classes[row.argmax()] == names[id] for id, row in zip(said.ids, said.values, strict=True)]
    assert completed.scores["accuracy"].mean == pytest.approx(np.mean(right))


def test_methods_are_not_shown_columns_that_are_kept_back(sealed):
    public = open_zoo(sealed.public)
    task = TASKS["generalization"].asked("secret")
    for part in ("train", "test"):
        assert set(networks_of(task, public, public.split(part)).hyperparameters) == {"activation", "init_scale"}


def test_the_answers_cannot_be_had_by_another_door(sealed):
    public = open_zoo(sealed.public)
    exam = exam_of(TASKS["generalization"].asked("secret"), public)
    with pytest.raises(WithheldError, match=rf"withholds 'test_accuracy' of {sealed.num_networks} of {sealed.num_networks}"):
        _ = exam.targets
    retrieval = exam_of(TASKS["retrieval"].asked("secret", target="optimizer"), public)
    with pytest.raises(WithheldError, match="withholds 'optimizer'"):
        _ = retrieval.labels
    with pytest.raises(WithheldError, match="withholds 'test_accuracy' of its test networks; expected a zoo that tells it"):
        target_of(public)


def test_a_zoo_that_tells_its_answers_is_scored_as_before(whole):
    exam = exam_of(TASKS["generalization"].asked("secret"), whole)
    assert not exam.is_withheld
    assert len(exam.targets) == len(exam.rows)
    with pytest.raises(ConfigError, match="asked about no column"):
        TASKS["merging"].asked("secret", target="optimizer")
