"""Tables of the page hold what the results say: all metrics, transfer, ranks."""

import dataclasses
import math
from dataclasses import replace

import pytest

from ngbench.evaluation import Result
from ngbench.evaluation.report.runs import Unread
from ngbench.evaluation.report.scores import (
    MOST_FURTHER,
    MOST_METRICS,
    commit,
    cost_table,
    rank_table,
    score_tables,
    transfer_table,
    unread_table,
)
from ngbench.evaluation.report.sections import transfer_section
from ngbench.evaluation.result import Spread
from ngbench.evaluation.tables import Question, Row
from ngbench.metrics import facts_of
from ngbench.tasks import TASKS


@pytest.fixture
def result(planted):
    return Result.load(planted.runs / "classification" / "good")


def texts(table):
    return [[cell.text for cell in row] for rows in table.parts.values() for row in rows]


def test_every_metric_of_a_task_of_many_stands_in_one_of_its_tables(result):
    task = TASKS["merging"].asked()
    numbers = {name: Spread(mean=place / 100, std=None) for place, name in enumerate(task.metrics)}
    found = result.model_copy(update={"scores": numbers, "scrambled_scores": numbers, "primary": task.primary.name})
    tables = score_tables(Question(task, "digits-mlp", (Row("good", found, None), Row("gone", None, "failed"))))
    assert len(tables) == 1 + math.ceil((len(task.metrics) - MOST_METRICS) / MOST_FURTHER)
    first, *further = tables
    titles = [facts_of(name).title for name in task.metrics]
    assert [h for h in first.headings if h in titles] + [h for t in further for h in t.headings[1:]] == titles
    shown = [text for table in tables for heading, text in zip(table.headings, texts(table)[0], strict=True) if heading in titles]
    assert shown == [f"{place / 100:.3f}" for place in range(len(titles))]
    assert texts(first)[1] == ["gone", "failed"]
    assert all(len(texts(table)) == 1 for table in further)


def test_a_metric_that_a_result_lacks_is_a_dash(result):
    task = TASKS["classification"].asked()
    scores = {name: spread for name, spread in result.scores.items() if name != "ece"}
    rows = (Row("good", result.model_copy(update={"scores": scores}), None),)
    assert texts(score_tables(Question(task, "digits-inr", rows))[0])[0][-1] == "—"


def test_costs_of_almost_nothing_are_said_to_be_below_what_is_told(result):
    seeds = [seed.model_copy(update={"fit_s": 0.004, "predict_s": 12.4, "peak_memory_bytes": 0}) for seed in result.seeds]
    rows = (Row("good", result.model_copy(update={"seeds": tuple(seeds)}), None),)
    assert texts(cost_table(Question(TASKS["classification"], "digits-inr", rows))) == [
        ["good", "1,234", "< 0.01 s", "12 s", "< 1 MB", "2 (0, 1)"]
    ]


def probed(result, target, scores):
    seeds = [seed.model_copy(update={"transfer": scores}) for seed in result.seeds]
    row = Row("good", result.model_copy(update={"seeds": tuple(seeds)}), None)
    return Question(TASKS["classification"].asked("digits-park", target=target), "digits-park", (row,))


def test_transfer_is_a_table_with_a_part_for_each_method_and_its_own_target_marked(result):
    tables = [probed(result, "corpus", {"corpus": 0.5, "family": 0.75}), probed(result, "family", {"family": 1.0})]
    table = transfer_table(tables, "digits-park")
    assert table.headings == ("fitted for", "probed for corpus", "probed for family")
    assert texts(table) == [["corpus", "0.500", "0.750"], ["family", "—", "1.000"]]
    assert list(table.parts) == ["good"]
    marks = [[(cell.is_best, cell.share) for cell in row[1:]] for row in table.parts["good"]]
    assert marks == [[(True, 0.5), (False, 0.75)], [(False, None), (True, 1.0)]]
    section = transfer_section(tables, "digits-park")
    assert (section.title, section.blocks) == ("Transfer on digits-park", (table,))
    wide = [replace(table, task=table.task.model_copy(update={"split": "narrow-to-wide"})) for table in tables[:1]]
    assert transfer_section([*tables, *wide], "digits-park") == section
    assert (
        transfer_section([*tables, *wide], "digits-park", "narrow-to-wide").title
        == "Transfer on digits-park, split narrow-to-wide"
    )
    assert transfer_section(tables, "digits-inr") is None
    assert transfer_section([probed(result, "corpus", {})], "digits-park") is None


def test_ranks_stand_beside_their_track_and_rivals_where_there_are_several_questions(result):
    one = Question(TASKS["classification"].asked(), "digits-inr", (Row("good", result, None), Row("other", result, None)))
    assert rank_table([one]) is None
    table = rank_table([one, one])
    assert texts(table) == [["good", "reads weights", "1.50", "1"], ["other", "reads weights", "1.50", "1"]]
    assert table.has_words == (False, True, False, False)


def test_a_commit_is_shortened_and_its_changes_are_said(result):
    environment = result.environment.model_copy(update={"git_commit": 40 * "a" + "+changes"})
    assert commit(environment) == 12 * "a" + "+changes"
    assert commit(environment.model_copy(update={"git_commit": None})) == ""


def test_runs_that_are_not_shown_stand_with_their_reasons(tmp_path):
    assert texts(unread_table([Unread(tmp_path / "old", "too old")])) == [[str(tmp_path / "old"), "too old"]]


def test_the_best_of_several_is_marked_and_one_alone_is_not(result):
    row = Row("good", result, None, is_tied=True)
    question = Question(TASKS["classification"].asked(), "digits-inr", (row, Row("other", result, None)))
    first, second = score_tables(question)[0].parts["reads weights"]
    assert [first[1].is_best, second[1].is_best] == [True, False]
    assert "★" in score_tables(question)[0].note
    alone = dataclasses.replace(question, rows=(row,))
    assert "★" not in score_tables(alone)[0].note
