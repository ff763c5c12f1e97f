"""Scores follow from the predictions alone; copies are refused, and answers in the place of predictions flagged."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import kendalltau
from sklearn.metrics import accuracy_score, mean_absolute_error

from leaderboard.records import load_records
from leaderboard.score import _suspicion, fingerprint, name_of, score
from ngbench.errors import SubmissionError
from ngbench.evaluation.retrieval import RetrievalExam
from ngbench.metrics import tied_with_best
from ngbench.tasks import TASKS

DATE = "2026-11-23"


def replaced(predictions, values):
    return dataclasses.replace(predictions, values=values, scrambled=np.stack([values] * 3))


def test_scores_are_those_of_an_independent_library(submitted, said, exams, zoos):
    record = score(submitted(title="Fine Method, 2nd"), zoos, date=DATE)
    (row,) = record.rows
    targets = exams["generalization"].targets
    assert (record.name, record.differences, record.flags) == ("fine-method-2nd", (), ())
    assert (row.primary, row.higher_is_better, row.num_test) == ("kendall_tau", True, len(targets))
    for found in row.seeds:
        own = said(found.seed).values
        assert found.scores["kendall_tau"] == pytest.approx(kendalltau(own, targets).statistic, abs=1e-12)
        assert found.scores["mae"] == pytest.approx(mean_absolute_error(targets, own), abs=1e-12)
        assert (found.num_parameters, found.fit_s, found.predict_s) == (11, 1.5, 0.25)
        assert found.mean_shift == found.largest_shift == 0.0
    taus = [found.scores["kendall_tau"] for found in row.seeds]
    assert row.scores["kendall_tau"].mean == pytest.approx(np.mean(taus))
    assert row.scores["kendall_tau"].std == pytest.approx(np.std(taus, ddof=1))
    assert row.interval.score == pytest.approx(np.mean(taus))
    assert row.interval.low < row.interval.score < row.interval.high


def test_a_classification_is_scored_by_class(submitted, said, exams, zoos):
    (row,) = score(submitted(task="classification"), zoos, date=DATE).rows
    own = said(7, "classification").values.argmax(1)
    assert row.seeds[2].scores["accuracy"] == accuracy_score(exams["classification"].targets, own) < 1
    assert row.primary == "accuracy"


def test_the_scrambled_score_is_that_of_the_worst_copy_and_the_shift_how_far_answers_moved(submitted, said, exams, zoos):
    own = said(5)
    scrambled = own.scrambled.copy()
    scrambled[1] = -own.values
    (row,) = score(submitted({5: dataclasses.replace(own, scrambled=scrambled)}), zoos, date=DATE).rows
    found = row.seeds[1]
    tau = kendalltau(-own.values, exams["generalization"].targets).statistic
    assert found.scrambled_scores["kendall_tau"] == pytest.approx(tau, abs=1e-12)
    assert found.largest_shift == pytest.approx(2 * np.abs(own.values).max())
    assert row.seeds[0].scrambled_scores == row.seeds[0].scores


def test_claimed_numbers_change_nothing_and_those_that_differ_are_told(submitted, said, exams, zoos):
    honest = score(submitted(), zoos, date=DATE)
    claimed = {"kendall_tau": 0.999, "accuracy": 1.0}
    boasting = score(submitted(claimed=claimed), zoos, date=DATE)
    assert boasting.rows == honest.rows
    assert len(boasting.differences) == 6
    first, second = boasting.differences[:2]
    tau = kendalltau(said(2).values, exams["generalization"].targets).statistic
    assert first == (
        f"generalization on small about test_accuracy, seed 2: claims kendall_tau 0.999; its predictions give {tau:.6g}"
    )
    assert second.endswith("seed 2: claims accuracy 1.0000, which the task does not measure")


def test_claims_that_are_true_but_for_rounding_of_sums_are_no_difference(submitted, said, exams, zoos):
    (row,) = score(submitted(), zoos, date=DATE).rows
    first = row.seeds[0]
    claims = {name: value * (1 + 1e-12) for name, value in first.scores.items()}
    record = score(submitted(claimed=claims), zoos, date=DATE)
    seeds = [sentence.split(", ")[1].split(":")[0] for sentence in record.differences]
    assert seeds == ["seed 5"] * 4 + ["seed 7"] * 4


def test_an_archive_with_faults_is_refused_with_all_of_them(submitted, said, zoos):
    path = submitted({2: replaced(said(2), said(2).values * np.nan)}, seeds=(2, 5))
    with pytest.raises(SubmissionError) as error:
        score(path, zoos, date=DATE)
    assert len(error.value.faults) == 3
    assert error.value.source == str(path)


def test_a_zoo_that_withholds_its_answers_cannot_be_scored(submitted, zoos, monkeypatch):
    def unscored(exam, predictions):
        values, scrambled = predictions.aligned(exam.ids)
        return SimpleNamespace(values=values, scrambled=scrambled, scores={}, scrambled_scores={})

    monkeypatch.setattr("ngbench.evaluation.exam.PredictionExam.score", unscored)
    with pytest.raises(SubmissionError, match="about test_accuracy: the zoo withholds the answers; its host scores submissions"):
        score(submitted(), zoos, date=DATE)


@pytest.fixture
def first(submitted, zoos):
    """An accepted submission."""
    return score(submitted(title="First"), zoos, date=DATE)


def test_a_copy_of_another_submission_is_refused_by_name_and_seed(submitted, said, zoos, first):
    path = submitted({9: replaced(said(9), said(5).values)}, title="Second", seeds=(9, 11, 12))
    with pytest.raises(SubmissionError) as error:
        score(path, zoos, date=DATE, known=[first])
    assert error.value.faults == (
        "generalization on small about test_accuracy: the predictions of seed 9 are those of submission 'first', seed 5; "
        "expected the method's own",
    )


@pytest.mark.parametrize(
    "hide",
    [
        lambda own, order: dataclasses.replace(
            own, ids=tuple(own.ids[row] for row in order), values=own.values[order], scrambled=own.scrambled[:, order]
        ),
        lambda own, order: replaced(own, own.values + 1e-12),
        lambda own, order: replaced(own, own.values.astype(np.float32)),
    ],
    ids=["order", "noise", "type"],
)
def test_a_copy_is_found_in_another_order_with_a_little_noise_and_as_another_type(submitted, said, zoos, first, hide):
    order = np.random.default_rng(3).permutation(len(said(5).ids))
    copied = {seed: hide(said(seed), order) for seed in (2, 5, 7)}
    with pytest.raises(SubmissionError, match="are those of submission 'first', seed"):
        score(submitted(copied, title="Second"), zoos, date=DATE, known=[first])


def test_predictions_that_differ_are_no_copy(submitted, zoos, first):
    assert score(submitted(title="Second", seeds=(3, 4, 6)), zoos, date=DATE, known=[first]).name == "second"


def test_the_same_submission_may_be_scored_again_and_has_a_history(submitted, zoos, first):
    again = score(submitted(title="First", claimed={"mae": 0.5}), zoos, date="2026-12-01", known=[first], note="a claim")
    assert [accepted.date for accepted in again.history] == [DATE, "2026-12-01"]
    assert again.history[1].note == "a claim"
    assert again.rows == first.rows


def test_an_archive_that_is_scored_again_stands_in_the_history_once(submitted, zoos, first):
    other = score(submitted(title="First", claimed={"mae": 0.5}), zoos, date="2026-12-01", known=[first])
    again = score(submitted(title="First"), zoos, date="2026-12-02", known=[other])
    assert [accepted.date for accepted in again.history] == ["2026-12-01", "2026-12-02"]
    assert again.history[1].archive_sha256 == first.history[0].archive_sha256


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"name": "My own"}, "name: expected a name of at most 64 letters, digits, dots, hyphens and underscores, got 'My own'"),
        ({"name": ""}, "name: expected a name of at most 64 letters, digits, dots, hyphens and underscores, got ''"),
        ({"note": ""}, "note: string should have at least 1 character, got ''"),
        ({"note": "two\nlines"}, "note: expected one line of text without control characters, got 'two\\nlines'"),
        ({"note": "x" * 301}, "note: string should have at most 300 characters, got 'xxx"),
        ({"date": "2026-02-30"}, "date: value error, day "),
    ],
)
def test_a_name_note_or_day_that_no_record_may_have_is_refused_before_scoring(submitted, zoos, monkeypatch, given, fault):
    monkeypatch.setattr("ngbench.evaluation.exam.PredictionExam.score", None)
    with pytest.raises(SubmissionError) as error:
        score(submitted(), zoos, **{"date": DATE, **given})
    (sentence,) = error.value.faults
    assert sentence.startswith(f"acceptance: {fault}")


def test_the_name_of_another_author_is_taken(submitted, zoos, first):
    path = submitted(title="first", authors=("B. Other",))
    with pytest.raises(SubmissionError, match="a submission of A. Name has the name 'first'; expected another name"):
        score(path, zoos, date=DATE, known=[first])


def test_answers_in_the_place_of_predictions_are_flagged(submitted, said, exams, zoos):
    told = {seed: replaced(said(seed), exams["generalization"].targets.copy()) for seed in (2, 5)}
    record = score(submitted(told), zoos, date=DATE)
    number = len(exams["generalization"].targets)
    assert record.flags == tuple(
        f"generalization on small about test_accuracy, seed {seed}: its predictions equal the labels of {number} of {number} "
        "test networks"
        for seed in (2, 5)
    )


def test_labels_of_three_quarters_of_the_networks_are_flagged_and_a_lucky_few_are_not(submitted, said, exams, zoos):
    targets, own = exams["generalization"].targets, said(5).values
    rows = np.arange(len(own))
    for share, is_flagged in ((4 / 3, True), (8, False)):
        mixed = np.where(rows < len(own) / share, targets, own)
        assert bool(score(submitted({5: replaced(said(5), mixed)}), zoos, date=DATE).flags) == is_flagged


def test_classes_that_are_certain_and_right_are_flagged_and_those_that_err_once_are_not(submitted, said, exams, zoos):
    certain = np.eye(2)[exams["classification"].targets]
    record = score(submitted({7: replaced(said(7, "classification"), certain)}, task="classification"), zoos, date=DATE)
    assert record.flags == (
        "classification on small about activation, seed 7: its predictions equal the labels: every class with probability 1",
    )
    certain[4] = certain[4, ::-1]
    again = score(submitted({7: replaced(said(7, "classification"), certain)}, task="classification"), zoos, date=DATE)
    assert again.flags == ()


def test_embeddings_that_are_one_for_each_class_are_flagged(zoo):
    exam = RetrievalExam(TASKS["retrieval"].asked("small", target="activation"), zoo)
    planted = np.eye(5)[exam.labels + 1]
    assert _suspicion(exam, SimpleNamespace(values=planted)) == "its embeddings equal the labels: one for each class"
    planted[3, 4] = 0.25
    assert _suspicion(exam, SimpleNamespace(values=planted)) is None
    assert _suspicion(exam, SimpleNamespace(values=np.ones_like(planted))) is None


def test_where_the_answer_stands_in_the_structure_nothing_is_flagged(submitted, said, exams, zoos, monkeypatch):
    task = TASKS["classification"].model_copy(update={"in_structure": ("activation",)})
    monkeypatch.setitem(TASKS._entries, "classification", task)
    certain = np.eye(2)[exams["classification"].targets]
    record = score(submitted({7: replaced(said(7, "classification"), certain)}, task="classification"), zoos, date=DATE)
    assert record.flags == ()


def test_signs_of_html_stay_the_text_that_they_are(submitted, zoos, tmp_path):
    title = "<script>alert('x')</script> & \"more\""
    record = score(submitted(title=title, authors=("<b>A</b>",)), zoos, date=DATE)
    assert (record.about.title, record.about.authors) == (title, ("<b>A</b>",))
    assert record.name == "script-alert-x-script-more"
    record.save(tmp_path / "accepted")
    assert load_records(tmp_path / "accepted") == (record,)


@pytest.mark.parametrize(
    ("title", "name"),
    [("NG-GNN (ours)", "ng-gnn-ours"), ("Ünïcode", "unicode"), ("../..", "method-"), ("名前", "method-"), ("x" * 80, "x" * 60)],
)
def test_a_title_gives_the_name_of_a_folder(title, name):
    assert name_of(title).startswith(name)
    assert len(name_of(title)) <= 60
    assert name_of(title) == name_of(title)


def test_different_titles_without_letters_have_different_names():
    assert name_of("名前") != name_of("題名")


def test_a_fingerprint_counts_four_decimals_of_the_largest_power_of_ten():
    values = np.array([[0.12341, -0.9], [0.5, 0.25]])
    assert fingerprint(values) == fingerprint(values + 1e-7) != fingerprint(values + 2e-4)
    assert fingerprint(values) == fingerprint(10 * values) != fingerprint(3 * values)
    assert fingerprint(values) != fingerprint(values.ravel())
    assert len({fingerprint(np.full(4, value)) for value in (0.0, 5e-324, 1e-12, 0.3, 0.7, 1.7e308)}) > 3


def test_records_of_a_question_are_compared_by_paired_draws(submitted, said, zoos):
    rows = {}
    for title, noise in (("Near", 0.02), ("Same", 0.02), ("Far", 2.0)):
        offset = 0.0 if title == "Near" else 1e-3
        found = {seed: said(seed, noise=noise) for seed in (2, 5, 7)}
        shifted = {seed: replaced(own, own.values + offset * np.arange(len(own.ids))) for seed, own in found.items()}
        rows[title] = score(submitted(shifted, title=title), zoos, date=DATE).rows[0].resamples
    best, ties = tied_with_best(rows, higher_is_better=True)
    assert best in ("Near", "Same")
    assert "Far" not in ties
