"""Tables as data: every number of a record, and no text that a spreadsheet would compute."""

from __future__ import annotations

import csv
import io
import json

import pytest

from leaderboard.data import as_csv, as_json
from leaderboard.tables import boards
from leaderboard.testing import benchmark_questions, fake_record

EVERY = benchmark_questions()
PARK = next(question for question in EVERY if question.target == "optimizer")
MERGING = next(question for question in EVERY if question.task == "merging")


def lines(found):
    return list(csv.DictReader(io.StringIO(as_csv(found))))


def test_csv_has_a_line_for_each_row_with_its_numbers():
    record = fake_record("own", {PARK: 0.75, MERGING: 0.5}, permuted=0.25)
    first, second = lines(boards([record]))
    assert (first["task"], first["zoo"], first["target"]) == ("classification", "digits-park", "optimizer")
    assert first["zoo_sha256"] == PARK.zoo_sha256
    assert float(first["score_accuracy"]) == pytest.approx(0.75)
    assert float(first["permuted_accuracy"]) == pytest.approx(0.5)
    assert float(first["std_accuracy"]) == pytest.approx(0.01)
    assert (first["num_seeds"], float(first["fit_s"]), first["rank"]) == ("3", 13.5, "1.0")
    assert float(first["interval_low"]) == record.rows[0].interval.low
    # what one question has and another has not is empty
    assert (second["task"], second["target"], second["score_accuracy"]) == ("merging", "", "")
    assert float(second["score_midpoint_accuracy"]) == pytest.approx(0.5)


def test_csv_has_the_parameters_of_the_largest_fit():
    record = fake_record("own", {PARK: 0.75})
    (row,) = record.rows
    seeds = tuple(own.model_copy(update={"num_parameters": number}) for own, number in zip(row.seeds, (0, 7000, 50), strict=True))
    (line,) = lines(boards([record.model_copy(update={"rows": (row.model_copy(update={"seeds": seeds}),)})]))
    assert line["num_parameters"] == "7000"


def test_csv_begins_with_what_is_read_first():
    assert as_csv(boards([fake_record("own", {PARK: 0.75})])).startswith("task,zoo,target,track,rank,submission,title,authors,")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@sum"])
def test_a_text_that_a_spreadsheet_would_compute_begins_with_an_apostrophe(text):
    (line,) = lines(boards([fake_record("own", {PARK: 0.75}, about={"title": text, "authors": (text, "b")})]))
    assert line["title"] == f"'{text}"
    assert line["authors"] == f"'{text}; b"
    # numbers are numbers
    (line,) = lines(boards([fake_record("own", {MERGING: -0.5})]))
    assert line["score_midpoint_accuracy"] == "-0.5"


def test_a_name_with_commas_quotes_and_html_comes_back_as_it_was():
    title = 'a, "b" <b>;'
    (line,) = lines(boards([fake_record("own", {PARK: 0.75}, about={"title": title})]))
    assert line["title"] == title


def test_json_has_questions_rows_and_standings():
    records = [fake_record("one", dict.fromkeys(EVERY, 0.75)), fake_record("two", dict.fromkeys(EVERY, 0.5))]
    content = json.loads(as_json(boards(records)))
    assert (content["format_version"], len(content["questions"])) == (1, len(EVERY))
    assert [own["submission"] for own in content["overall"]] == ["one", "two"]
    assert content["overall"][1]["mean_rank"] == 2
    (park,) = [found for found in content["questions"] if found["target"] == "optimizer"]
    assert (park["metric"], park["higher_is_better"], park["is_current"]) == ("accuracy", True, True)
    first = park["rows"][0]
    assert (first["submission"], first["is_best_or_tied"], len(first["seeds"])) == ("one", True, 3)
    assert first["scores"]["accuracy"]["mean"] == pytest.approx(0.75)
    assert park["rows"][1]["is_best_or_tied"] is False


def test_of_no_boards_there_is_an_empty_table():
    assert as_csv([]).strip() == ""
    assert json.loads(as_json([]))["questions"] == []
