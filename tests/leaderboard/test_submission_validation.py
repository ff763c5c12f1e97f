"""What breaks the rules of a submission is said by name, and all of it at once."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from leaderboard import validate as module
from leaderboard.archive import predictions_bytes, write_archive
from leaderboard.submission import About, Submission
from leaderboard.validate import check_content, exam_for, inspect, known_zoos, validate
from ngbench.errors import PredictionsError, SubmissionError
from ngbench.evaluation import Predictions
from ngbench.evaluation.merging import MergingExam
from ngbench.evaluation.retrieval import RetrievalExam
from ngbench.store import RELEASED, open_zoo
from ngbench.tasks import TASKS, MergingPlan

PLACE = "predictions/generalization/small-test_accuracy/seed-5.npz"


def with_values(predictions, values):
    values = np.asarray(values)
    return dataclasses.replace(predictions, values=values, scrambled=np.stack([values] * 3))


def with_rows(predictions, rows, ids=None):
    ids = tuple(predictions.ids[row] for row in rows) if ids is None else ids
    return Predictions(ids, predictions.values[rows], predictions.scrambled[:, rows], predictions.about)


@pytest.mark.parametrize("task", ["generalization", "classification"])
def test_nothing_is_wrong_with_what_follows_the_rules(submitted, zoos, task):
    path = submitted(task=task)
    assert validate(path, zoos) == ()
    (asked,) = inspect(path, zoos).asked
    assert asked.answers.question.task == task
    assert [own.about["seed"] for own in asked.predictions] == [2, 5, 7]


def test_rows_may_stand_in_any_order(submitted, said, zoos):
    backwards = with_rows(said(5), np.arange(len(said(5).ids))[::-1])
    assert validate(submitted({5: backwards}), zoos) == ()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda p: with_rows(p, np.arange(1, len(p.ids))), "1 row is missing ("),
        (lambda p: with_rows(p, np.r_[np.arange(len(p.ids)), 0]), "1 row is there more than once ("),
        (
            lambda p: with_rows(p, np.arange(len(p.ids)), ("<img src=x>", *p.ids[1:])),
            "1 row is not in the test split (<img src=x>)",
        ),
        (lambda p: with_values(p, np.where(np.arange(len(p.ids)) == 3, np.nan, p.values)), "1 of the values are not finite ("),
        (lambda p: with_values(p, np.where(np.arange(len(p.ids)) == 3, -np.inf, p.values)), "1 of the values are not finite ("),
        (lambda p: with_values(p, p.values[:, None]), "has shape [1]; expected []"),
        (lambda p: with_values(p, p.values * 1e300), "values: predictions hold"),
        (lambda p: dataclasses.replace(p, scrambled=p.scrambled[:1]), "expected answers for 3 orbit-scrambled copies"),
        (lambda p: dataclasses.replace(p, scrambled=p.scrambled[:0]), "expected answers for 3 orbit-scrambled copies"),
        (lambda p: dataclasses.replace(p, scrambled=p.scrambled[:, 1:]), "expected copies of shape ("),
        (lambda p: dataclasses.replace(p, scrambled=np.array(1.0)), "scrambled predictions have shape (); expected copies"),
        (lambda p: dataclasses.replace(p, scrambled=p.scrambled * np.nan), "of the scrambled are not finite ("),
        (
            lambda p: dataclasses.replace(p, about={**p.about, "zoo_sha256": "0" * 64}),
            "it is about zoo_sha256 '0000000000000000000000000000000000000000000000000000000000000000'; expected '",
        ),
        (lambda p: dataclasses.replace(p, about={**p.about, "task": "merging"}), "it is about task 'merging'; expected 'general"),
        (
            lambda p: dataclasses.replace(p, about={**p.about, "seed": 7}),
            "it is about seed 7; expected 5, as submission.json has",
        ),
        (lambda p: dataclasses.replace(p, about={"seed": 5}), "it is about task None; expected 'generalization'"),
    ],
)
def test_wrong_predictions_are_said_by_file(submitted, said, zoos, change, fault):
    found = inspect(submitted({5: change(said(5))}), zoos)
    assert found.asked == ()
    assert all(sentence.startswith(f"{PLACE}: ") for sentence in found.faults)
    assert any(fault in sentence for sentence in found.faults), found.faults


def test_names_of_rows_do_not_steer_a_terminal_and_are_cut(submitted, said, zoos):
    rows = np.arange(len(said(5).ids))
    named = with_rows(said(5), rows, ("\x1b[2J\u202e", "z" * 5000, *said(5).ids[2:]))
    _, sentence = validate(submitted({5: named}), zoos)
    assert sentence.isprintable()
    assert "(\\x1b[2J\\u202e, zzz" in sentence
    assert len(sentence) == 600


def test_predictions_of_no_rows_at_all_are_refused(submitted, said, zoos):
    faults = validate(submitted({5: with_rows(said(5), np.arange(0))}), zoos)
    assert any(f"{len(said(5).ids)} rows are missing (" in sentence for sentence in faults)


def test_what_is_no_probability_is_refused(submitted, said, zoos):
    own = said(5, "classification")
    (sentence, *_) = validate(submitted({5: with_values(own, 2 * own.values)}, task="classification"), zoos)
    assert "seed-5.npz: values: predictions hold" in sentence
    assert "rows that are no probabilities" in sentence


def test_everything_is_said_at_once(submitted, said, zoos):
    nan = with_values(said(2), np.full(len(said(2).ids), np.nan))
    other = dataclasses.replace(said(5), about={**said(5).about, "split": "wide"}, scrambled=said(5).scrambled[:2])
    faults = validate(submitted({2: nan, 5: other}, seeds=(2, 5)), zoos)
    parts = [
        "there are fits with 2 seeds; expected at least 3",
        f"{len(nan.ids)} of the values are not finite",
        f"{len(nan.ids)} of the scrambled are not finite",
        "it is about split 'wide'; expected 'default'",
        "scrambled has shape [2, ",
    ]
    assert len(faults) == len(parts)
    for part, sentence in zip(parts, faults, strict=True):
        assert part in sentence


def test_a_seed_that_is_there_twice_is_no_other_fit(submitted, zoos):
    faults = validate(submitted(seeds=(2, 5, 5)), zoos)
    assert "submission.json names predictions/generalization/small-test_accuracy/seed-5.npz 2 times" in faults[0]
    assert "generalization on small about test_accuracy: seed 5 is there 2 times; expected different seeds" in faults
    assert "generalization on small about test_accuracy: there are fits with 2 seeds; expected at least 3" in faults


def test_a_question_that_is_answered_twice_is_refused(answers, said, zoos, tmp_path):
    both = answers(seeds=(2, 5)), answers(seeds=(7, 9))
    files = {own.path(fit): predictions_bytes(said(fit.seed)) for own in both for fit in own.fits}
    about = About(title="Twice", authors=("A. Name",), external_data=False)
    write_archive(tmp_path / "own.zip", Submission(about=about, answers=both), files)
    faults = validate(tmp_path / "own.zip", zoos)
    assert "generalization on small about test_accuracy: it is answered 2 times; expected once, with all fits" in faults


def test_predictions_that_unpack_to_too_much_together_are_not_all_read(submitted, said, zoos, monkeypatch):
    path = submitted()
    one_file_bytes = said(2).values.nbytes + said(2).scrambled.nbytes + 4 * sum(map(len, said(2).ids))
    monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", 3 * one_file_bytes)
    assert validate(path, zoos) == ()
    most = 3 * one_file_bytes - 1
    monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", most)
    found = inspect(path, zoos)
    assert found.faults == (f"the predictions unpack to more than {most:,} bytes; expected smaller ones",)
    assert found.asked == ()


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"task": "generalisation"}, "there is no task 'generalisation'; expected one of"),
        ({"task_version": 9}, "task_version is 9; expected 1"),
        ({"zoo": "digits-cnn"}, "zoo is 'digits-cnn'; expected 'small'"),
        ({"zoo_version": "0"}, "zoo_version is '0'; expected '1'"),
        ({"zoo_sha256": "0" * 64}, "no zoo with sha256 000000000000… is known; expected that of one of small version 1 ("),
        ({"split": "wide"}, "'wide'"),
        ({"target": "family"}, "zoo 'small' has no column 'family'"),
        ({"target": "activation"}, "column 'activation' of zoo 'small' holds text"),
        ({"target": None}, "target is None; expected a column, such as 'test_accuracy'"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(question, zoos, changes, fault):
    asked = question().model_copy(update=changes)
    with pytest.raises(SubmissionError) as error:
        exam_for(asked, zoos)
    assert any(fault in sentence for sentence in error.value.faults), error.value.faults


def test_answers_about_another_version_of_a_zoo_are_refused_with_the_versions_that_are_known(submitted, question, zoos):
    faults = validate(submitted(question=question(zoo_sha256="a" * 64)), zoos)
    assert len(faults) == 1
    assert "generalization on small about test_accuracy: no zoo with sha256 aaaaaaaaaaaa… is known" in faults[0]


def test_a_split_that_is_not_disjoint_by_run_is_refused(question, zoo):
    class OneRun:
        """The zoo, with all networks of one run."""

        run_ids = np.full(len(zoo), "run-7")

        def __getattr__(self, name):
            return getattr(zoo, name)

        def __len__(self):
            return len(zoo)

    with pytest.raises(SubmissionError, match="split 'default' has 1 of runs in train and test, such as 'run-7'; expected none"):
        exam_for(question(), {zoo.sha256: OneRun()})


def test_the_zoos_that_are_known_are_those_that_are_released_and_those_of_a_host(zoo):
    assert set(known_zoos([zoo])) == {release.sha256 for release in RELEASED.values()} | {zoo.sha256}


def test_what_is_no_archive_has_one_fault(tmp_path, zoos):
    (tmp_path / "own.zip").write_text("no")
    assert validate(tmp_path / "own.zip", zoos) == ("has 2 bytes; expected a .zip that `ngbench submit` wrote",)


def test_embeddings_have_any_number_of_features_but_none(zoo):
    exam = RetrievalExam(TASKS["retrieval"].asked("small", target="activation"), zoo)
    embeddings = np.random.default_rng(0).standard_normal((len(exam.ids), 6)).astype(np.float32)
    check_content(exam, embeddings)
    check_content(exam, embeddings.astype(np.float64) * 1e300)
    with pytest.raises(PredictionsError, match=r"shape \[\]; expected \[any\]"):
        check_content(exam, embeddings[:, 0])
    with pytest.raises(PredictionsError, match=rf"embeddings have shape \[{len(exam.ids)}, 0\]"):
        check_content(exam, embeddings[:, :0])


def test_matchings_are_elements_of_the_symmetry_group(zoo):
    few = {"num_pairs": 2, "num_recoveries": 1, "num_triples": 1, "num_sets": 1}
    plan = TASKS["merging"].plan(MergingPlan).model_copy(update=few)
    exam = MergingExam(TASKS["merging"].model_copy(update={"merging": plan}), open_zoo("digits-mlp"))
    nodes = exam.items.topologies[0]
    starts = [*nodes.node_ptr.values(), nodes.num_nodes]
    row = np.concatenate([np.arange(stop - start) for start, stop in itertools.pairwise(starts)])
    matchings = np.tile(row, (len(exam.ids), 1))
    check_content(exam, matchings)
    matchings[3, starts[1]] = 10**9
    with pytest.raises(PredictionsError, match="is no symmetry of their topology"):
        check_content(exam, matchings)
    with pytest.raises(PredictionsError, match="matchings have type float64"):
        check_content(exam, np.tile(row, (len(exam.ids), 1)).astype(np.float64))
