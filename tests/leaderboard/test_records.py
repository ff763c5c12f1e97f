"""Records of accepted submissions: what is kept, and that wrong files are refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest

from leaderboard.records import Record, load_records, packed, unpacked
from leaderboard.score import score
from ngbench.errors import SubmissionError

ACCEPTANCE = {"date": "2026-11-23", "archive_sha256": "a" * 64, "ngbench": "0.2.0.dev1+g12ab"}


@pytest.fixture
def record(submitted, zoos):
    return score(submitted(), zoos, date="2026-11-23")


def test_a_record_is_read_as_it_was_written_and_takes_few_kilobytes(record, tmp_path):
    path = record.save(tmp_path)
    assert path == tmp_path / "test" / "record.json"
    assert Record.load(path) == record
    assert path.stat().st_size < 12_000
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]


def test_draws_are_kept_but_for_the_rounding_of_single_precision(record):
    draws = np.random.default_rng(1).uniform(-1, 1, 1000)
    np.testing.assert_allclose(unpacked(packed(draws)), draws, atol=1e-7)
    resamples = record.rows[0].resamples
    assert resamples.score == record.rows[0].interval.score
    assert resamples.interval(0.95).low == pytest.approx(record.rows[0].interval.low, abs=1e-6)
    assert len(resamples.draws) == 1000


def test_all_records_of_a_folder_are_read_by_name(record, tmp_path):
    for name in ("b-second", "a-first"):
        record.model_copy(update={"name": name}).save(tmp_path)
    (tmp_path / "notes").mkdir()
    assert [found.name for found in load_records(tmp_path)] == ["a-first", "b-second"]
    assert load_records(tmp_path / "none") == ()


def test_the_published_records_are_read():
    assert load_records()


def test_a_record_in_a_folder_of_another_name_is_refused(record, tmp_path):
    record.save(tmp_path)
    (tmp_path / "test").rename(tmp_path / "moved")
    with pytest.raises(SubmissionError, match="moved/record.json: has name 'test'; expected 'moved', as its folder"):
        load_records(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("format_version", 2, "record: format_version: input should be 1, got 2"),
        ("name", "../x", "record: name: expected a name of at most 64 letters"),
        ("rows", [], "record: rows: tuple should have at least 1 item"),
        ("extra", 1, "record: extra: extra inputs are not permitted, got 1"),
        ("history", [{**ACCEPTANCE, "date": "2026-02-30"}], "record: history.0.date: value error, day "),
        ("history", [{**ACCEPTANCE, "ngbench": "<b>"}], "record: history.0.ngbench: string should match pattern"),
        ("history", [{**ACCEPTANCE, "ngbench": "1" * 41}], "record: history.0.ngbench: string should match pattern"),
    ],
)
def test_a_file_that_is_no_record_is_refused_by_key_and_value(record, tmp_path, key, value, fault):
    path = record.save(tmp_path)
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(SubmissionError) as error:
        Record.load(path)
    assert fault in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("draws", "fault"),
    [
        ("!!", "no base64"),
        (packed(np.array([1.0, np.nan])), "2 draws, not all of them finite"),
        ("", "0 draws"),
        ("AAA=", "buffer"),
    ],
)
def test_draws_that_are_none_are_refused(record, tmp_path, draws, fault):
    path = record.save(tmp_path)
    content = json.loads(path.read_text())
    content["rows"][0]["draws"] = draws
    path.write_text(json.dumps(content))
    with pytest.raises(SubmissionError, match=f"record: rows.0.draws: .*{fault}"):
        Record.load(path)


def test_a_record_that_is_not_there_is_said_by_path(tmp_path):
    with pytest.raises(SubmissionError, match="none.json: cannot be read .No such file"):
        Record.load(tmp_path / "none.json")
