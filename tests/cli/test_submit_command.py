"""``ngbench submit`` and ``ngbench validate`` as a user types them."""

from __future__ import annotations

import json
import zipfile

import pytest
from click.testing import CliRunner

from leaderboard.records import load_records
from ngbench.cli import main

ABOUT = ("--author", "A. Name", "--author", "<b>B</b>", "--no-external-data")


def ngbench(*arguments, exit_code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], terminal_width=200)
    assert result.exit_code == exit_code, result.output
    return result


@pytest.fixture(scope="module")
def runs(small_zoo_path, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    ngbench("run", "--method", "mean", "--zoo", small_zoo_path, "--out", out, "--seeds", 3)
    return out


def test_runs_are_packed_validated_scored_and_accepted(runs, small_zoo_path, tmp_path):
    out, accepted = tmp_path / "own.zip", tmp_path / "accepted"
    own = ("--zoo", small_zoo_path)
    (tmp_path / "about.yaml").write_text("title: From a file\npaper: 'Name 2026'\n")
    found = ngbench(
        "submit", runs, "--method", "mean", *ABOUT, "--about", tmp_path / "about.yaml", "--title", "Mean", "--out", out, *own
    )
    assert "packed   generalization on small about test_accuracy, none, 3 seeds" in found.stdout
    assert f"valid    {out}" in found.stdout
    assert f"valid    {out}" in ngbench("validate", out, *own).stdout
    refused = ngbench("validate", out, "--score", "--name", "My Method", *own, exit_code=2)
    assert "fault    acceptance: name: expected a name of at most 64 letters" in refused.stderr
    scored = ngbench("validate", out, "--accept", accepted, *own)
    assert "kendall_tau" in scored.stdout
    assert "differs" not in scored.stdout
    (record,) = load_records(accepted)
    assert (record.name, record.about.authors, record.about.paper) == ("mean", ("A. Name", "<b>B</b>"), "Name 2026")
    assert (record.about.external_data, record.about.code) == (False, None)


def test_faults_are_a_line_each_and_end_with_2(runs, small_zoo_path, tmp_path):
    out, own = tmp_path / "own.zip", ("--zoo", small_zoo_path)
    ngbench("submit", runs, "--method", "mean", *ABOUT, "--out", out, *own)
    with zipfile.ZipFile(out, "a") as file:
        file.writestr("../evil", "x")
        file.writestr("evil.py", "x")
    for more in ((), ("--score",)):
        found = ngbench("validate", out, *own, *more, exit_code=2)
        assert found.stderr.count("fault    ") == 2
        assert "fault    '../evil' has a path that leads out of the archive" in found.stderr
        assert f"refused  {out}: 2 faults" in found.stderr


def test_runs_on_a_zoo_that_is_not_known_are_refused(runs, tmp_path):
    found = ngbench("submit", runs, "--method", "mean", *ABOUT, "--out", tmp_path / "own.zip", exit_code=2)
    assert "is known; expected that of one of digits-cnn version 1 (eac36666988d…)" in found.stderr


def test_metadata_that_are_lacking_are_one_red_line(runs, tmp_path):
    found = ngbench("submit", runs, "--method", "mean", "--out", tmp_path / "own.zip", exit_code=2)
    assert "error: metadata: about: authors: field required; about: external_data: field required; the keys are" in found.stderr


def test_the_schema_is_printed_as_json():
    schema = json.loads(ngbench("validate", "--schema").stdout)
    assert schema["title"] == "ngbench submission"
    assert schema["properties"]["format_version"]["const"] == 1


def test_folders_that_cannot_be_written_to_or_are_not_there_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    found = ngbench("validate", tmp_path / "own.zip", "--accept", tmp_path / "file", exit_code=2)
    assert f"error: --accept {tmp_path / 'file'} cannot be written to" in found.stderr
    found = ngbench("validate", tmp_path / "own.zip", "--known", tmp_path / "none", exit_code=2)
    assert f"error: --known {tmp_path / 'none'} is no folder; expected one that has a folder with a record.json" in found.stderr


def test_a_command_without_a_file_and_an_archive_of_another_ending_are_refused(tmp_path):
    assert "error: no file is named; expected a .zip" in ngbench("validate", exit_code=2).stderr
    found = ngbench("submit", tmp_path, "--out", tmp_path / "own.tar", exit_code=2)
    assert "own.tar is no .zip in a folder that exists" in found.stderr
