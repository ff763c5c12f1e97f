"""What stands in the cells of tables, and how numbers read."""

from __future__ import annotations

import pytest

from leaderboard.grids import (
    MOST_METRICS,
    STRIP_MARGIN,
    STRIP_WIDTH,
    answer_grid,
    cost_cells,
    duration,
    fit_grid,
    further_grid,
    memory,
    overview_grid,
    rank_grid,
    score_grid,
    strip,
    tracks_of,
)
from leaderboard.tables import boards, standings
from leaderboard.testing import benchmark_questions, fake_record

EVERY = benchmark_questions()
CNN = next(question for question in EVERY if question.zoo == "digits-cnn")
MERGING = next(question for question in EVERY if question.task == "merging")


def row_of(grid, name):
    """Texts of a row by heading, the pictures left out."""
    (line,) = [line for part in grid.parts for line in part.lines if line.name == name]
    titles = [column.title for column in grid.columns[1:]]
    return {title: f"{cell.text} {cell.tail}".strip() for title, cell in zip(titles, line.cells, strict=True) if not cell.strip}


def test_a_row_has_its_score_beside_the_permuted_one_and_what_it_cost():
    (board,) = boards([fake_record("own", {CNN: 0.625}, permuted=0.125)])
    found = row_of(score_grid(board, ""), "OWN")
    assert found["Kendall τ_b"] == "0.625 ± 0.010"
    assert found["permuted"] == "0.500 ± 0.010"
    assert found["shift"] == "0.062"
    assert (found["training"], found["per network"], found["memory"]) == ("14 s", "2.0 ms", "7 MB")
    assert found["seeds"] == "3"
    assert found["accepted"] == "2031-05-17"
    assert found["interval"].startswith("0.5")


def test_every_row_has_a_cell_for_every_column():
    records = [fake_record("one", dict.fromkeys(EVERY, 0.75)), fake_record("two", {CNN: 0.5}, track="probes-8")]
    found = boards(records)
    grids = [score_grid(board, "") for board in found]
    grids += [grid for board in found if (grid := further_grid(board, "")) is not None]
    grids += [answer_grid(found, "one", "../"), overview_grid(found, records), fit_grid(found[0], "one")]
    grids.append(rank_grid(standings(found), {record.name: record for record in records}, id="overall", title="Overall"))
    assert len(grids) == 17
    for grid in grids:
        for part in grid.parts:
            assert part.lines
            assert {len(line.cells) + 1 for line in part.lines} == {len(grid.columns)}


def test_what_sets_a_row_apart_is_said_and_fewer_seeds_are_among_it():
    record = fake_record("own", {CNN: 0.5}, num_seeds=2, about={"external_data": True, "authors": ("A", "B")}, flags=("odd",))
    ((part,),) = [score_grid(boards([record])[0], "../").parts]
    (line,) = part.lines
    assert line.flags == ("† fewer seeds", "external data", "flagged")
    assert line.by == "A et al."
    assert line.href == "../submissions/own.html"
    assert "† Fewer seeds than the 3" in score_grid(boards([record])[0], "").note


def test_best_and_tied_are_marked_only_where_there_are_rivals():
    def marked(records):
        grid = score_grid(boards(records)[0], "")
        return [line.name for part in grid.parts for line in part.lines if line.cells[0].is_best]

    one, two, three = (fake_record(name, {CNN: mean}) for name, mean in (("one", 0.8), ("two", 0.7995), ("three", 0.5)))
    assert marked([one, two, three]) == ["ONE", "TWO"]
    assert marked([one]) == []
    assert "★" not in score_grid(boards([one])[0], "").note


def test_metrics_beyond_the_first_have_a_table_of_their_own():
    (board,) = boards([fake_record("own", {MERGING: 0.5})])
    further = further_grid(board, "")
    assert further is not None
    assert len(further.columns) == len(board.table.task.metrics) - MOST_METRICS + 1
    assert further_grid(boards([fake_record("own", {CNN: 0.5})])[0], "") is None
    # matchings are of renumbered nodes, and do not move
    assert "shift" not in [column.title for column in score_grid(board, "").columns]


def test_a_column_is_sorted_first_in_the_direction_of_its_metric():
    (board,) = boards([fake_record("own", {CNN: 0.5})])
    first = {column.title: column.first for column in score_grid(board, "").columns}
    assert first["Kendall τ_b"] == "descending"
    assert first["MAE"] == "ascending"
    assert first["parameters"] == "ascending"
    assert [column.title for column in score_grid(board, "").columns if column.now] == ["Kendall τ_b"]


def test_a_strip_ends_where_the_metric_does():
    (board,) = boards([fake_record("own", {CNN: 1.0}, permuted=1.0)])
    table = board.table
    found = strip(table, "own")
    # the interval goes a little beyond 1, and the scale with it
    assert float(found.high) == pytest.approx(STRIP_WIDTH - STRIP_MARGIN, abs=0.05)
    assert float(found.permuted) == pytest.approx(STRIP_MARGIN, abs=0.05)
    assert float(found.low) < float(found.mean) < float(found.high)


def test_a_method_with_several_tracks_stands_under_all_of_them():
    weights, probes = fake_record("own", {CNN: 0.5}), fake_record("own", {MERGING: 0.5}, track="probes-8")
    record = weights.model_copy(update={"rows": (*probes.rows, *weights.rows)})
    assert tracks_of(record) == ("weights", "probes-8")
    (part,) = overview_grid(boards([record]), [record]).parts
    assert (part.track, part.kind, part.title) == ("weights probes-8", "weights", "reads weights; runs the networks on 8 inputs")


def test_parameters_are_those_of_the_largest_fit():
    (row,) = fake_record("own", {CNN: 0.5}).rows
    seeds = tuple(own.model_copy(update={"num_parameters": number}) for own, number in zip(row.seeds, (0, 7000, 50), strict=True))
    cell, *_ = cost_cells(row.model_copy(update={"seeds": seeds}))
    assert (cell.text, cell.value) == ("7,000", "7000")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 µs"),
        (0.0000354, "35 µs"),
        (0.0041, "4.1 ms"),
        (0.9, "900 ms"),
        (1.5, "1.5 s"),
        (119, "119 s"),
        (120, "2.0 min"),
        (7200, "2.0 h"),
        (360_000, "100 h"),
    ],
)
def test_durations_read_in_their_own_unit(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(None, "—"), (999_999, "< 1 MB"), (7_000_000, "7 MB"), (2_340_000_000, "2.3 GB")]
)
def test_memory_reads_in_megabytes_and_gigabytes(num_bytes, text):
    assert memory(num_bytes) == text
