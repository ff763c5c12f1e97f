"""Files of every released format version load for ever, with the numbers that they had.

A golden file is never made again: when a format has a new version, a file of that version joins those that are here.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from leaderboard.archive import Archive
from leaderboard.records import Record
from leaderboard.score import score
from leaderboard.validate import known_zoos
from ngbench.evaluation.result import Result
from ngbench.metrics import METRICS
from ngbench.store import open_zoo

GOLDEN = Path(__file__).parent / "golden"
SHA256 = {
    "record-v1.json": "2a7dfcd70dcdcc25ed4df14128ad80f2529cee1e1b5d7982818c16a666e7b0c3",
    "result-v2.json": "5c23ca43e6671b27e87f3557d1b5811c534a2b935737893b4fb481eb290658fc",
    "sealed-v1-answers.npz": "b32683b05688ba9cc61f9bc6a7118e86771050f0bdc9567ed1fddea24487bbd4",
    "sealed-v1.h5": "477712c3ba7386f9857b5e7fc06688d2cdcf0e5282737478d7709ac236f50764",
    "submission-v1.zip": "5f7f56738e0c0bdc64091ad697aea6b869cf5ed43fa66179420a46769f7d6563",
}
SEEDS = (0, 1, 2)
QUESTION = "generalization on digits-cnn about test_accuracy"


def test_golden_files_are_what_they_were():
    assert {path.name for path in GOLDEN.iterdir()} == set(SHA256)
    for name, sha256 in SHA256.items():
        assert hashlib.sha256((GOLDEN / name).read_bytes()).hexdigest() == sha256, f"{name} was changed; add a new file instead"


@pytest.fixture(scope="module")
def archive():
    return Archive.open(GOLDEN / "submission-v1.zip")


def test_a_submission_of_version_1_says_what_it_said(archive):
    assert archive.faults == ()
    submission = archive.submission
    assert submission.format_version == 1
    assert (submission.about.title, submission.about.authors) == ("Spread of weights", ("A. Golden",))
    assert not submission.about.external_data
    (answers,) = submission.answers
    assert (str(answers.question), answers.track, answers.hardware) == (QUESTION, "weights", "two cores")
    assert answers.question.zoo_sha256 == "eac36666988d0319a23d149ede850996b521f82feaa25e5c5c5c8efecd92c85b"
    assert dict(answers.settings) == {"noise": "0.002"}
    first = answers.fits[0]
    assert tuple(fit.seed for fit in answers.fits) == SEEDS
    assert (first.fit_s, first.predict_s, first.peak_memory_bytes, dict(first.claimed)) == (
        0.25,
        0.125,
        2**20,
        {"kendall_tau": 0.5},
    )


def test_predictions_of_version_1_are_worth_what_they_were(archive):
    zoo = open_zoo("digits-cnn")
    truth = dict(zip(zoo.ids.tolist(), zoo.metadata["test_accuracy"].tolist(), strict=True))
    for path, expected in zip(archive.submission.paths, (0.4406389494684624, None, None), strict=True):
        predictions, faults = archive.predictions(path)
        assert faults == []
        assert predictions.scrambled.shape == (3, 907)
        found = METRICS["kendall_tau"](predictions.values, [truth[id] for id in predictions.ids])
        assert found == pytest.approx(expected or 0.4405, abs=1e-9 if expected else 1e-3)


def test_a_record_of_version_1_is_read_as_it_was():
    record = Record.load(GOLDEN / "record-v1.json")
    assert (record.format_version, record.name, record.flags) == (1, "spread-of-weights", ())
    (row,) = record.rows
    assert (str(row.question), row.track, row.primary, row.num_test) == (QUESTION, "weights", "kendall_tau", 907)
    assert row.scores["kendall_tau"].mean == 0.4405667511117996
    assert row.scores["kendall_tau"].std == 0.00011182564414089482
    assert row.interval.low == 0.39882338848237714
    assert row.resamples.draws.shape == (1000,)
    assert row.resamples.score == row.interval.score
    assert len(record.differences) == 3
    assert "claims kendall_tau 0.5" in record.differences[0]
    assert [entry.date for entry in record.history] == ["2026-11-23"]


def test_a_result_of_version_2_is_read_as_it_was():
    result = Result.model_validate_json((GOLDEN / "result-v2.json").read_bytes())
    assert (result.format_version, result.method, result.access, result.is_scored) == (2, "mean", "none", True)
    assert tuple(seed.seed for seed in result.seeds) == SEEDS
    assert result.scores["mae"].mean == 0.2609798233659985
    assert result.interval.confidence == 0.95
    assert all(seed.num_test == 907 and seed.num_parameters == 1 for seed in result.seeds)


def test_a_sealed_zoo_of_version_1_opens_with_its_answers():
    public = open_zoo(GOLDEN / "sealed-v1.h5")
    test = public.split("test")
    assert public.info.withheld.commitment == SHA256["sealed-v1-answers.npz"]
    assert public.withheld("test_accuracy").nonzero()[0].tolist() == test.tolist() == [18, 19]
    answered = open_zoo(GOLDEN / "sealed-v1.h5", answers=GOLDEN / "sealed-v1-answers.npz")
    assert answered.metadata["test_accuracy"][test].tolist() == [0.45, 0.85]
    assert answered.metadata["test_accuracy"][:4].tolist() == [0.0, 0.05, 0.1, 0.15]


@pytest.mark.slow
def test_a_submission_of_version_1_is_scored_as_it_was():
    found = score(GOLDEN / "submission-v1.zip", known_zoos(), name="spread-of-weights", date="2026-11-23")
    before = Record.load(GOLDEN / "record-v1.json")
    assert found.rows[0].scores["kendall_tau"].mean == pytest.approx(before.rows[0].scores["kendall_tau"].mean, abs=1e-9)
    assert found.rows[0].interval.low == pytest.approx(before.rows[0].interval.low, abs=1e-6)
    assert [seed.fingerprint for seed in found.rows[0].seeds] == [seed.fingerprint for seed in before.rows[0].seeds]
