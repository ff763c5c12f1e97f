"""Tables of records: one for each question, in the order of the benchmark, with the ranks and ties of tables of runs."""

from __future__ import annotations

import numpy as np
import pytest

from leaderboard.records import unpacked
from leaderboard.tables import as_result, boards, standings, standings_of_tasks, time_of_network_s, unanswered
from leaderboard.testing import benchmark_questions, fake_record
from ngbench.evaluation.result import Result

EVERY = benchmark_questions()
FIRST = next(question for question in EVERY if question.task == "generalization")


def everything(name, mean, **fields):
    return fake_record(name, dict.fromkeys(EVERY, mean), **fields)


@pytest.fixture(scope="module")
def records():
    some = dict.fromkeys(EVERY[:3], 0.9)
    return [
        everything("far", 0.5),
        everything("near", 0.7995),
        everything("best", 0.8),
        fake_record("partial", some),
        everything("prober", 0.7, track="probes-8"),
        everything("wider", 0.9, track="probes-16"),
    ]


def test_there_is_a_board_for_each_question_in_the_order_of_the_benchmark(records):
    found = boards(records)
    assert {board.asked for board in found} == set(EVERY)
    assert list(dict.fromkeys(board.asked.task for board in found)) == [
        "generalization",
        "classification",
        "retrieval",
        "merging",
    ]
    park = [board.asked.target for board in found if board.asked.task == "classification" and board.asked.zoo == "digits-park"]
    assert park == ["corpus", "family", "optimizer", "activation"]
    assert len({board.slug for board in found}) == len(found) == 10
    assert boards(records[::-1]) != []
    assert [board.asked for board in boards(records[::-1])] == [board.asked for board in found]


def test_tracks_are_apart_and_the_best_stands_first(records):
    merging = boards(records)[-1]
    assert merging.tracks == {"weights": ["best", "near", "far"], "probes-8": ["prober"], "probes-16": ["wider"]}


def test_what_the_paired_bootstrap_cannot_tell_from_the_best_is_tied_and_what_it_can_is_not(records):
    merging = boards(records)[-1]
    assert merging.best == {"weights": ["best", "near"], "probes-8": ["prober"], "probes-16": ["wider"]}
    assert [merging.table.rank(name) for name in ("best", "near", "far", "prober")] == [1.5, 1.5, 3, 1]
    # their own intervals overlap by far: only what they have in common tells the third from them
    low, high = merging.scores["far"].interval, merging.scores["best"].interval
    close = everything("close", 0.78)
    again = boards([*records, close])[-1]
    assert again.scores["close"].interval.high > again.scores["best"].interval.low
    assert "close" not in again.best["weights"]
    assert low.high < high.low


def test_a_lead_is_the_difference_to_the_best_other_draw_by_draw(records):
    merging = boards(records)[-1]
    other, found = merging.lead("far")
    assert other == "best"
    draws = unpacked(merging.scores["far"].draws) - unpacked(merging.scores["best"].draws)
    assert found.score == pytest.approx(-0.3)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(draws, [2.5, 97.5])))
    other, found = merging.lead("best")
    assert (other, found.holds_zero) == ("near", True)
    assert merging.lead("prober") is None


def test_a_lead_is_above_zero_for_the_better_whatever_the_direction_of_the_metric():
    def lower(record):
        rows = tuple(row.model_copy(update={"higher_is_better": False}) for row in record.rows)
        return record.model_copy(update={"rows": rows})

    up = boards([fake_record("low", {FIRST: 0.2}), fake_record("high", {FIRST: 0.6})])[0]
    assert up.lead("high")[1].score == pytest.approx(0.4)
    down = boards([lower(fake_record("low", {FIRST: 0.2})), lower(fake_record("high", {FIRST: 0.6}))])[0]
    assert down.lead("high")[1].score == pytest.approx(-0.4)


def test_an_overall_rank_has_only_who_answered_everything(records):
    found = boards(records)
    assert unanswered(found) == []
    ranks = {standing.method: (standing.rank, standing.num_rivals) for standing in standings(found)}
    # partial has no rank, and is ahead of the others in three of the five questions about classes
    assert "partial" not in ranks
    assert set(ranks) == {"best", "near", "far", "prober", "wider"}
    assert ranks["prober"] == (1.0, (0, 0))
    assert ranks["best"][0] == pytest.approx(((3 * 2 + 2 * 1.5) / 5 + 3 * 1.5) / 4)
    assert ranks["near"][0] == pytest.approx(((3 * 3 + 2 * 1.5) / 5 + 3 * 1.5) / 4)
    assert ranks["far"][0] == pytest.approx(((3 * 4 + 2 * 3) / 5 + 3 * 3) / 4)


def test_where_a_question_has_no_answer_nobody_has_an_overall_rank_but_the_whole_tasks_have():
    merging = [question for question in EVERY if question.task == "merging"]
    rest = [question for question in EVERY if question.task != "merging"]
    found = boards([fake_record("one", dict.fromkeys(rest, 0.5)), fake_record("two", dict.fromkeys(rest, 0.4))])
    assert unanswered(found) == ["Merging on digits-mlp"]
    assert standings(found) == []
    assert {title: [s.method for s in own] for title, own in standings_of_tasks(found).items()} == {
        title: ["one", "two"] for title in ("Predicting generalization", "Classification", "Retrieval")
    }
    assert len(merging) == 1


@pytest.mark.parametrize(
    "update",
    [{"zoo_sha256": "f" * 64}, {"task_version": 7}, {"split": "other"}, {"target": "width"}],
    ids=lambda u: next(iter(u)),
)
def test_another_version_split_or_column_has_a_board_of_its_own_that_counts_for_nothing(update):
    other = FIRST.model_copy(update=update)
    one, two = boards([fake_record("one", {FIRST: 0.5, other: 0.6}), fake_record("two", {FIRST: 0.4})])
    assert (one.is_current, two.is_current) == (True, False)
    assert one.slug != two.slug
    assert list(one.scores) == ["one", "two"]
    assert list(two.scores) == ["one"]
    assert two.table.task.version == other.task_version


def test_a_row_as_a_result_has_the_numbers_of_the_record():
    record = fake_record("own", {FIRST: 0.625}, num_seeds=4, permuted=0.125)
    (row,) = record.rows
    result = as_result(record, row)
    assert isinstance(result, Result)
    assert result.scores == row.scores
    assert result.scrambled_scores["kendall_tau"].mean == pytest.approx(0.5)
    assert (result.interval, result.access, result.method) == (row.interval, "weights", "own")
    assert [seed.fit_s for seed in result.seeds] == [12.5, 13.5, 14.5, 15.5]
    assert result.mean_shift == pytest.approx(0.0625)


def test_time_is_told_for_each_test_network():
    (row,) = fake_record("own", {FIRST: 0.5}).rows
    assert time_of_network_s(row) == pytest.approx(0.5 / 250)


def test_of_no_records_there_is_no_board():
    assert boards([]) == []
    assert standings([]) == []
    assert len(unanswered([])) == len(EVERY)
