"""``ngbench leaderboard`` as a user types it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from leaderboard.testing import benchmark_questions, fake_record
from ngbench.cli import main

# merging comes last
EVERY = sorted(benchmark_questions(), key=lambda question: question.task == "merging")


def leaderboard(*arguments, exit_code=0, width=220):
    result = CliRunner().invoke(main, ["leaderboard", *map(str, arguments)], env={"COLUMNS": str(width)})
    assert result.exit_code == exit_code, result.output
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Records of four submissions, one with a name that the terminal might take for colour, and one with a long one."""
    path = tmp_path_factory.mktemp("submissions")
    fake_record("one", dict.fromkeys(EVERY, 0.8)).save(path)
    fake_record("two", dict.fromkeys(EVERY, 0.5), about={"title": "[red]two[/red]"}).save(path)
    fake_record("long", dict.fromkeys(EVERY[-1:], 0.3), about={"title": "a long name " * 6}).save(path)
    fake_record("other", dict.fromkeys(EVERY[:2], 0.9), track="probes-8", num_seeds=2).save(path)
    return path


def test_tables_are_printed_track_by_track_and_the_overall_rank_below(folder):
    text = leaderboard("--submissions", folder).stdout
    assert text.count("permuted") == len(EVERY)
    table = text[text.index("Merging on digits-mlp") :]
    assert table.index("reads weights") < table.index("ONE") < table.index("[red]two[/red]")
    assert "★ 0.800 ± 0.010" in table
    overall = text[text.index("Mean rank within its track") :]
    assert "1.00" in overall
    assert "OTHER" not in overall
    assert "† fewer seeds" in text[: text.index("Mean rank")]


def test_no_number_is_cut_on_a_narrow_terminal(folder):
    text = leaderboard("--submissions", folder, "--task", "merging", width=80).stdout
    assert text.count("…") == 1
    assert "  a long name a long name a lon…  " in text
    assert all(len(line) <= 80 for line in text.splitlines() if "ONE" in line)
    assert "★ 0.800 ± 0.010" in text


def test_only_the_tables_of_a_task_or_zoo_are_printed(folder):
    text = leaderboard("--submissions", folder, "--task", "retrieval", "--zoo", "digits-inr").stdout
    assert text.count("permuted") == 1
    assert "Retrieval of label on digits-inr" in text
    assert "Mean rank" not in text
    assert "no accepted submission answers that" in leaderboard("--submissions", folder, "--zoo", "digits-none").stdout


def test_json_is_the_tables(folder):
    found = json.loads(leaderboard("--submissions", folder, "--task", "merging", "--json").stdout)
    assert [row["submission"] for row in found["questions"][0]["rows"]] == ["one", "two", "long"]


def test_a_site_is_written(folder, tmp_path):
    out = leaderboard("--submissions", folder, "--html", tmp_path / "site").stdout
    assert out.strip().endswith(str(tmp_path / "site" / "index.html"))
    assert "[red]two[/red]" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")


def test_several_folders_stand_in_one_table_unless_names_collide(folder, tmp_path):
    fake_record("mine", {EVERY[0]: 0.95}).save(tmp_path)
    found = json.loads(leaderboard("--submissions", folder, "--with", tmp_path, "--json").stdout)
    names = {row["submission"] for question in found["questions"] for row in question["rows"]}
    assert names == {"one", "two", "long", "other", "mine"}
    result = leaderboard("--submissions", folder, "--with", folder, exit_code=2)
    assert "two folders hold a submission 'long'" in result.stderr


def test_an_empty_folder_has_no_submission(tmp_path):
    assert "no submission has been accepted yet" in leaderboard("--submissions", tmp_path).stdout


def test_a_folder_that_does_not_exist_is_one_red_line(tmp_path):
    result = leaderboard("--submissions", tmp_path / "none", exit_code=2)
    assert "none' is no folder; expected one that holds a folder with a record.json for each" in result.stderr


def test_an_unknown_task_is_one_red_line(folder):
    assert "'mergin'" in leaderboard("--submissions", folder, "--task", "mergin", exit_code=2).stderr


def test_a_site_is_about_everything(folder, tmp_path):
    result = leaderboard("--submissions", folder, "--task", "merging", "--html", tmp_path / "site", exit_code=2)
    assert "expected none of --task, --zoo and --json beside it" in result.stderr
    assert not (tmp_path / "site").exists()


def test_the_published_submissions_are_shown_where_no_folder_is_named():
    leaderboard()
