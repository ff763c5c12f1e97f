"""A pull request adds an archive and its record, and whatever the record says otherwise than the archive is found."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from leaderboard.entry import _differences, _tolerances, faults_of_entry
from leaderboard.records import Record, packed
from leaderboard.score import score
from leaderboard.testing import benchmark_questions, fake_record

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / ".github/workflows/submission.yaml"


def accepted(archive, zoos, folder, **given):
    """Writes what a pull request adds for a sound submission."""
    score(archive, zoos, **{"name": folder.name, "date": "2026-11-23", **given}).save(folder.parent)
    shutil.copy(archive, folder / "submission.zip")
    return folder


@pytest.fixture
def entry(submitted, zoos, tmp_path):
    return accepted(submitted(), zoos, tmp_path / "submissions/mine")


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


def test_a_score_of_a_regression_that_is_half_a_thousandth_higher_is_found(entry, zoos):
    def higher(content):
        row = content["rows"][0]
        row["seeds"][1]["scores"]["kendall_tau"] += 0.0005
        row["interval"]["score"] += 0.0005

    change(entry, higher)
    first, second = faults_of_entry(entry, zoos)
    assert first.startswith("record has rows.0.seeds.1.scores.kendall_tau 0.")
    assert second.startswith("record has rows.0.interval.score 0.")


def test_scores_for_which_networks_run_may_differ_by_the_rounding_of_these_and_no_others(zoo):
    asked = {question.task: question for question in benchmark_questions()}
    stored, again = (fake_record("own", {asked["merging"]: mean, asked["generalization"]: mean}) for mean in (0.5, 0.5004))
    zoos = {question.zoo_sha256: zoo for question in asked.values()}
    faults = list(_differences(stored, again, _tolerances(again, zoos)))
    assert faults[0].startswith("record has rows.1.seeds.0.scores.kendall_tau 0.49; its archive gives 0.49")
    assert not any("rows.0" in fault for fault in faults)


def test_draws_by_which_ties_are_marked_are_compared_too(entry, zoos):
    draws = Record.load(entry / "record.json").rows[0].resamples.draws
    change(entry, lambda content: content["rows"][0].update(draws=packed(draws + 1e-7)))
    assert faults_of_entry(entry, zoos) == ()
    change(entry, lambda content: content["rows"][0].update(draws=packed(draws + 1e-5)))
    (fault,) = faults_of_entry(entry, zoos)
    assert fault.startswith("record has rows.0.draws")


def test_a_setting_that_is_called_draws_is_text_as_others_are(submitted, zoos, tmp_path):
    entry = accepted(submitted(settings={"draws": "many"}), zoos, tmp_path / "submissions/mine")
    assert faults_of_entry(entry, zoos) == ()
    change(entry, lambda content: content["rows"][0]["settings"].update(draws="few"))
    assert faults_of_entry(entry, zoos) == ("record has rows.0.settings.draws 'few'; its archive gives 'many'",)


def test_the_history_is_that_of_the_leaderboard_and_this_archive(entry, zoos):
    own = Record.load(entry / "record.json").history[0]
    change(entry, lambda content: content["history"][0].update(archive_sha256="a" * 64))
    (fault,) = faults_of_entry(entry, zoos)
    assert fault.startswith("record names archives aaaaaaaaaaaa; expected ")
    # accepted before, it has to be kept
    known = Record.load(entry / "record.json")
    change(entry, lambda content: content["history"][0].update(archive_sha256=own.archive_sha256))
    (fault,) = faults_of_entry(entry, zoos, known=[known])
    assert f"expected aaaaaaaaaaaa, {own.archive_sha256[:12]}: those accepted before" in fault


def test_a_published_entry_and_one_that_is_accepted_again_are_sound(entry, zoos):
    known = Record.load(entry / "record.json")
    assert faults_of_entry(entry, zoos, known=[known]) == ()
    score(entry / "submission.zip", zoos, name="mine", known=[known], date="2026-11-24", note="again").save(entry.parent)
    again = Record.load(entry / "record.json")
    assert [(own.date, own.note) for own in again.history] == [("2026-11-24", "again")]


def test_an_update_leaves_what_the_history_says_of_archives_before(entry, submitted, zoos):
    known, archive = Record.load(entry / "record.json"), submitted(claimed={"mae": 0.5}, name="second.zip")
    accepted(archive, zoos, entry, known=[known], note="second")
    assert faults_of_entry(entry, zoos, known=[known]) == ()
    change(entry, lambda content: content["history"][0].update(date="2026-01-02", note="first"))
    first = known.history[0]
    assert faults_of_entry(entry, zoos, known=[known]) == (
        f"record says {{'date': '2026-01-02', 'ngbench': '{first.ngbench}', 'note': 'first'}} of archive "
        f"{first.archive_sha256[:12]}; expected {{'date': '2026-11-23', 'ngbench': '{first.ngbench}', 'note': None}}, as it was "
        "accepted before",
    )


def test_a_day_that_is_to_come_is_refused(entry, zoos):
    change(entry, lambda content: content["history"][0].update(date="2999-01-01"))
    (fault,) = faults_of_entry(entry, zoos)
    assert fault.startswith("record was accepted on 2999-01-01; expected a day up to today, 20")


def test_a_copy_of_another_submission_is_refused(entry, zoos):
    other = Record.load(entry / "record.json").model_copy(update={"name": "theirs"})
    assert any("those of submission 'theirs'" in fault for fault in faults_of_entry(entry, zoos, known=[other]))


def test_folders_with_anything_else_are_refused(entry, zoos):
    (entry / "run.py").write_text("")
    (fault,) = faults_of_entry(entry, zoos)
    assert "mine holds 'record.json', 'run.py', 'submission.zip'; expected submission.zip and record.json" in fault
    (entry / "run.py").unlink()
    (entry / "submission.zip").rename(entry.parent / "elsewhere.zip")
    assert faults_of_entry(entry, zoos) == (
        "mine holds 'record.json'; expected submission.zip and record.json; make the archive again by `ngbench submit`",
    )
    (entry / "submission.zip").symlink_to(entry.parent / "elsewhere.zip")
    assert "links among them" in faults_of_entry(entry, zoos)[0]
    assert "mine holds 'record.json'" not in faults_of_entry(entry.parent / "gone", zoos)[0]
    (entry / "submission.zip").unlink()
    (entry / "submission.zip").write_bytes(b"no zip")
    assert faults_of_entry(entry, zoos)[0]


def test_a_folder_that_is_a_link_or_has_a_name_with_a_blank_is_refused(entry, zoos):
    (entry.parent / "linked").symlink_to(entry)
    assert faults_of_entry(entry.parent / "linked", zoos) == (
        "linked is a link; expected a folder with submission.zip and record.json",
    )
    (fault,) = faults_of_entry(entry.rename(entry.parent / "my method"), zoos)
    assert fault.startswith("acceptance: name: expected a name of at most 64 letters")
    assert fault.endswith("got 'my method'")


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


@pytest.fixture
def pull_request(workflow, tmp_path):
    """The submissions of a repository, and what the workflow says of them as they are then changed."""
    proposed, trusted, bin_ = (tmp_path / name for name in ("proposed", "trusted", "bin"))
    for folder in (proposed, trusted, bin_):
        folder.mkdir()
    git(proposed, "init", "--quiet")
    submissions = proposed / "leaderboard/submissions"
    for name in ("old", "mine"):
        (submissions / name).mkdir(parents=True)
        (submissions / name / "record.json").write_text("{}")
    git(proposed, "add", "-A")
    git(proposed, "commit", "--quiet", "-m", "before")

    def check(refused=()):
        git(proposed, "add", "-A")
        git(proposed, "commit", "--quiet", "-m", "after")
        pattern = " | ".join(f"*/{name}" for name in refused) or "-"
        (bin_ / "ngbench").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/typed\ncase "$2" in {pattern}) exit 2;; esac\n')
        (bin_ / "ngbench").chmod(0o755)
        script = workflow["jobs"]["validate"]["steps"][-1]["run"]
        environment = {"PATH": f"{bin_}:/usr/bin:/bin", "PROPOSED": str(proposed), "HOME": str(tmp_path)}
        return subprocess.run(["bash", "-c", script], cwd=trusted, env=environment, capture_output=True, text=True, check=False)

    return submissions, check


@pytest.mark.parametrize(("refused", "expected"), [((), 0), (("theirs",), 1)])
def test_the_workflow_validates_every_submission_that_changed(pull_request, tmp_path, refused, expected):
    submissions, check = pull_request
    for name in ("mine", "theirs"):
        (submissions / name).mkdir(exist_ok=True)
        for file in ("record.json", "submission.zip"):
            (submissions / name / file).write_text(f"new {name}")
    done = check(refused)
    assert done.returncode == expected, done.stderr
    assert (tmp_path / "typed").read_text().splitlines() == [
        f"validate {submissions / name} --known leaderboard/submissions" for name in ("mine", "theirs")
    ]


def test_the_workflow_refuses_a_name_that_a_shell_or_a_page_could_read_otherwise(pull_request):
    submissions, check = pull_request
    (submissions / "a b$(id)").mkdir()
    (submissions / "a b$(id)/record.json").write_text("{}")
    done = check()
    assert done.returncode == 1
    assert "::error::a file outside of leaderboard/submissions/NAME/" in done.stdout


def test_the_workflow_refuses_what_is_no_folder_and_sees_that_one_is_gone(pull_request, tmp_path):
    submissions, check = pull_request
    (submissions / "old").rename(submissions / "renamed")
    (submissions / "linked").symlink_to("mine")
    (submissions / "bare.zip").write_text("archive")
    done = check()
    assert done.returncode == 1
    for name in ("bare.zip", "linked", "old"):
        assert f"::error::leaderboard/submissions/{name} is no folder; expected one with submission.zip" in done.stdout
    assert (tmp_path / "typed").read_text() == f"validate {submissions / 'renamed'} --known leaderboard/submissions\n"
