"""Runs are grouped by what they answer, on the zoo that they were made on, under names that differ."""

import shutil

import pytest

from ngbench.errors import ResultError
from ngbench.evaluation.report.runs import by_question, find_runs


def test_runs_are_grouped_by_task_in_the_order_of_the_kinds(planted):
    asked = by_question(find_runs(planted.runs), planted.zoos)
    assert [one.task.name for one in asked] == ["generalization", "classification", "retrieval"]
    assert [len(one.runs) for one in asked] == [8, 3, 3]
    assert [one.zoo.sha256 for one in asked] == [planted.exams[one.task.name].zoo.sha256 for one in asked]


def test_questions_stand_in_the_order_in_which_their_task_names_them(planted, tmp_path):
    for target in ("corpus", "family", "something", "activation"):
        folder = shutil.copytree(planted.runs / "classification" / "good", tmp_path / target)
        text = (folder / "result.json").read_text().replace('"target": "label"', f'"target": "{target}"')
        (folder / "result.json").write_text(text.replace('"zoo": "digits-inr"', '"zoo": "digits-park"'))
    shutil.copytree(planted.runs / "classification" / "good", tmp_path / "label")
    asked = by_question(find_runs(tmp_path), planted.zoos)
    assert [one.task.target for one in asked] == ["label", "corpus", "family", "activation", "something"]


def test_runs_of_one_method_are_named_by_folder_and_then_by_path(planted, tmp_path):
    folder = planted.runs / "generalization" / "good"
    for name in ("a/one", "a/two", "b/two"):
        shutil.copytree(folder, tmp_path / name)
    (asked,) = by_question(find_runs(tmp_path), planted.zoos)
    assert list(asked.runs) == ["one", str(tmp_path / "a" / "two"), str(tmp_path / "b" / "two")]


def test_a_zoo_that_is_not_at_hand_is_asked_for(planted):
    runs = find_runs(planted.runs / "generalization")
    with pytest.raises(ResultError, match="zoo 'small', which is not released; name its file with --zoo"):
        by_question(runs, [])


def test_a_zoo_of_the_same_name_and_other_content_is_refused(planted):
    runs = find_runs(planted.runs / "retrieval")
    with pytest.raises(ResultError, match="zoo 'digits-inr'.*--zoo"):
        by_question(runs, [])
