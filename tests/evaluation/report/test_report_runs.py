"""Runs are grouped by what they answer, on the zoo that they were made on, under names that differ."""

import re
import shutil

import pytest

from ngbench.evaluation.report.runs import Unread, by_question, find_runs
from ngbench.store import open_zoo


def test_runs_are_grouped_by_task_in_the_order_of_the_kinds(planted):
    asked, unread = by_question(find_runs(planted.runs), planted.zoos)
    assert unread == []
    assert [one.exam.task.name for one in asked] == ["generalization", "classification", "retrieval"]
    assert [len(one.runs) for one in asked] == [8, 3, 3]
    assert [one.exam.zoo.sha256 for one in asked] == [planted.exams[one.exam.task.name].zoo.sha256 for one in asked]


def test_questions_stand_in_the_order_in_which_their_task_names_them(planted, tmp_path):
    for target in ("corpus", "norm", "family", "activation"):
        folder = shutil.copytree(planted.runs / "classification" / "good", tmp_path / target)
        text = (folder / "result.json").read_text().replace('"target": "label"', f'"target": "{target}"')
        text = re.sub('"zoo_sha256": "[0-9a-f]*"', f'"zoo_sha256": "{open_zoo("digits-park").sha256}"', text)
        (folder / "result.json").write_text(text.replace('"zoo": "digits-inr"', '"zoo": "digits-park"'))
    shutil.copytree(planted.runs / "classification" / "good", tmp_path / "label")
    asked, _ = by_question(find_runs(tmp_path), planted.zoos)
    assert [one.exam.task.target for one in asked] == ["label", "corpus", "family", "activation", "norm"]


def test_runs_of_one_method_are_named_by_folder_and_then_by_path(planted, tmp_path):
    folder = planted.runs / "generalization" / "good"
    for name in ("a/one", "a/two", "b/two"):
        shutil.copytree(folder, tmp_path / name)
    ((asked,), _) = by_question(find_runs(tmp_path), planted.zoos)
    assert list(asked.runs) == ["one", str(tmp_path / "a" / "two"), str(tmp_path / "b" / "two")]


def test_runs_on_a_zoo_that_is_not_at_hand_are_left_out_and_its_file_is_asked_for(planted):
    asked, unread = by_question(find_runs(planted.runs / "generalization"), planted.zoos[1:])
    assert asked == []
    assert len(unread) == 8
    assert {run.reason for run in unread} == {"it was made on zoo 'small', which is not released; name its file with --zoo"}


def test_runs_on_a_zoo_of_the_same_name_and_other_content_are_left_out(planted):
    asked, unread = by_question(find_runs(planted.runs), planted.zoos[:1])
    assert [one.exam.task.name for one in asked] == ["generalization"]
    assert len(unread) == 6
    sha256 = planted.exams["retrieval"].zoo.sha256
    assert all(f"made on zoo 'digits-inr' with sha256 {sha256[:12]}" in run.reason for run in unread)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"format_version": 2', '"format_version": 1', "format_version: Input should be 2"),
        ('"task_version": ', '"task_version": 70', "made under version 70"),
        ('"task": "generalization"', '"task": "guessing"', "unknown task 'guessing'"),
        ("{", "", "Invalid JSON"),
        (None, " ", "result.json is empty; expected Result as JSON"),
    ],
)
def test_a_result_that_cannot_be_read_is_left_out_with_the_reason(planted, tmp_path, old, new, reason):
    folder = shutil.copytree(planted.runs / "generalization" / "good", tmp_path / "spoilt")
    shutil.copytree(planted.runs / "generalization" / "mean", tmp_path / "whole")
    text = (folder / "result.json").read_text()
    (folder / "result.json").write_text(new if old is None else text.replace(old, new, 1))
    spoilt, whole = find_runs(tmp_path)
    assert isinstance(spoilt, Unread)
    assert spoilt.folder == folder
    assert reason in spoilt.reason
    assert whole.result.method == "mean"
