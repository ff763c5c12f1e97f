"""A pull request adds an archive and its record, and whatever the record says otherwise than the archive is found."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from leaderboard.entry import faults_of_entry
from leaderboard.records import Record
from leaderboard.score import score

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github/workflows/submission.yaml"


@pytest.fixture
def entry(submitted, zoos, tmp_path):
    """What a pull request adds for a sound submission."""
    folder, archive = tmp_path / "submissions/mine", submitted()
    score(archive, zoos, name="mine", date="2026-11-23").save(folder.parent)
    shutil.copy(archive, folder / "submission.zip")
    return folder


def change(entry, edit):
    """Changes the record in place."""
    content = json.loads((entry / "record.json").read_text())
    edit(content)
    (entry / "record.json").write_text(json.dumps(content))


def test_a_record_that_follows_from_its_archive_is_sound(entry, zoos):
    assert faults_of_entry(entry, zoos) == ()


def test_every_changed_number_is_found_by_its_place(entry, zoos):
    def better(content):
        row = content["rows"][0]
        row["scores"]["kendall_tau"]["mean"] += 0.01
        row["seeds"][2]["scores"]["mae"] = 0.0
        row["seeds"][0]["num_parameters"] = 5
        content["about"]["title"] = "Best"
        content["flags"] = ["looks good"]

    change(entry, better)
    found = " | ".join(faults_of_entry(entry, zoos))
    for place in ("rows.0.scores.kendall_tau.mean", "rows.0.seeds.2.scores.mae 0.0;", "rows.0.seeds.0.num_parameters 5;"):
        assert f"record has {place}" in found
    assert "record has about.title 'Best'; its archive gives 'Test'" in found
    assert "record has flags.0 'looks good'; its archive gives None" in found


def test_draws_by_which_ties_are_marked_are_compared_too(entry, zoos):
    record = Record.load(entry / "record.json")
    from leaderboard.records import packed

    draws = record.rows[0].resamples.draws
    change(entry, lambda content: content["rows"][0].update(draws=packed(draws + 1e-5)))
    assert faults_of_entry(entry, zoos) == ()
    change(entry, lambda content: content["rows"][0].update(draws=packed(draws + 0.05)))
    (fault,) = faults_of_entry(entry, zoos)
    assert fault.startswith("record has rows.0.draws")


def test_the_history_is_that_of_the_leaderboard_and_this_archive(entry, zoos):
    known = Record.load(entry / "record.json")
    change(entry, lambda content: content["history"][0].update(archive_sha256="a" * 64))
    (fault,) = faults_of_entry(entry, zoos)
    assert fault.startswith("record names archives aaaaaaaaaaaa; expected ")
    # accepted before, it has to be kept
    (fault,) = faults_of_entry(entry, zoos, known=[known])
    assert f"expected {known.history[0].archive_sha256[:12]}, {known.history[0].archive_sha256[:12]}" in fault


def test_a_copy_of_another_submission_is_refused(entry, zoos):
    other = Record.load(entry / "record.json").model_copy(update={"name": "theirs"})
    assert any("those of submission 'theirs'" in fault for fault in faults_of_entry(entry, zoos, known=[other]))


def test_folders_with_anything_else_are_refused(entry, zoos):
    (entry / "run.py").write_text("")
    (fault,) = faults_of_entry(entry, zoos)
    assert "mine holds 'record.json', 'run.py', 'submission.zip'; expected submission.zip and record.json" in fault
    (entry / "run.py").unlink()
    (entry / "submission.zip").rename(entry.parent / "elsewhere.zip")
    (entry / "submission.zip").symlink_to(entry.parent / "elsewhere.zip")
    assert "links among them" in faults_of_entry(entry, zoos)[0]
    assert "mine holds 'record.json'" not in faults_of_entry(entry.parent / "gone", zoos)[0]
    (entry / "submission.zip").unlink()
    (entry / "submission.zip").write_bytes(b"no zip")
    assert faults_of_entry(entry, zoos)[0]


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load(WORKFLOW.read_text())


def test_the_workflow_runs_no_code_of_a_pull_request_and_has_no_rights(workflow):
    # YAML reads the key "on" as true
    assert workflow[True] == {"pull_request": {"paths": ["leaderboard/submissions/**"]}}
    assert workflow["permissions"] == {"contents": "read"}
    assert not re.search(r"secrets\.|pull_request_target|\$\{\{[^}]*(title|body|head_ref|head\.ref)", WORKFLOW.read_text())
    (job,) = workflow["jobs"].values()
    assert "permissions" not in job
    checkouts = [step["with"] for step in job["steps"] if step.get("uses", "").startswith("actions/checkout")]
    assert [own["persist-credentials"] for own in checkouts] == [False, False]
    assert checkouts[0]["ref"] == "${{ github.event.pull_request.base.sha }}"
    assert all(step["working-directory"] == "trusted" for step in job["steps"] if "run" in step)


def git(folder, *arguments):
    # what the machine is set to must not decide a test
    own = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", folder, *own, *arguments], check=True, capture_output=True)


@pytest.mark.parametrize(("refused", "expected"), [((), 0), (("theirs",), 1)])
def test_the_workflow_validates_every_submission_that_changed(workflow, tmp_path, refused, expected):
    proposed, trusted, bin_ = (tmp_path / name for name in ("proposed", "trusted", "bin"))
    for folder in (proposed, trusted, bin_):
        folder.mkdir()
    git(proposed, "init", "--quiet")
    for name in ("old", "mine"):
        (proposed / "leaderboard/submissions" / name).mkdir(parents=True)
        (proposed / "leaderboard/submissions" / name / "record.json").write_text("{}")
    git(proposed, "add", "-A")
    git(proposed, "commit", "--quiet", "-m", "before")
    for name in ("mine", "theirs"):
        (proposed / "leaderboard/submissions" / name).mkdir(exist_ok=True)
        for file in ("record.json", "submission.zip"):
            (proposed / "leaderboard/submissions" / name / file).write_text(f"new {name}")
    git(proposed, "add", "-A")
    git(proposed, "commit", "--quiet", "-m", "after")
    pattern = " | ".join(f"*/{name}" for name in refused) or "-"
    (bin_ / "ngbench").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/typed\ncase "$2" in {pattern}) exit 2;; esac\n')
    (bin_ / "ngbench").chmod(0o755)
    script = workflow["jobs"]["validate"]["steps"][-1]["run"]
    environment = {"PATH": f"{bin_}:/usr/bin:/bin", "PROPOSED": str(proposed), "HOME": str(tmp_path)}
    done = subprocess.run(["bash", "-c", script], cwd=trusted, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == expected, done.stderr
    assert (tmp_path / "typed").read_text().splitlines() == [
        f"validate {proposed}/leaderboard/submissions/{name} --known leaderboard/submissions" for name in ("mine", "theirs")
    ]
    # a name that a shell or a page could read otherwise
    (proposed / "leaderboard/submissions/a b$(id)").mkdir()
    (proposed / "leaderboard/submissions/a b$(id)/record.json").write_text("{}")
    git(proposed, "add", "-A")
    git(proposed, "commit", "--quiet", "-m", "hostile")
    done = subprocess.run(["bash", "-c", script], cwd=trusted, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "::error::" in done.stdout
