"""Tables of results: tracks apart, ties marked, those without a result last, and no number that the result files lack."""

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import ngbench
from ngbench.evaluation import Result, rescore
from ngbench.evaluation.suite.cells import SuiteCell
from ngbench.evaluation.suite.running import State
from ngbench.evaluation.tables import (
    Question,
    Row,
    as_markdown,
    is_foreign,
    left_out,
    memory,
    overall,
    questions,
    shown_shift,
    transfer_matrix,
    write_tables,
)
from ngbench.methods import MethodInfo, methods
from ngbench.metrics import facts_of
from ngbench.store import open_zoo
from ngbench.tasks import TASKS

SEEDS = (0, 1)


class OfScale:
    """Says the spread of the weights, on which the target depends, with some noise."""

    info = MethodInfo("of-scale", "Of scale", "weights", invariant=True, any_architecture=True, paper="none")
    num_parameters = 1234
    noise = 0.0

    def fit(self, problem, train, val, context):
        self.rng = np.random.default_rng(context.seed)

    def predict(self, networks):
        values = networks.one_structure(reader="of-scale").values.double()
        return values.square().mean(1).sqrt().numpy() + self.noise * self.rng.standard_normal(len(networks))


class Twin(OfScale):
    """Nearly the same, and a little worse."""

    noise = 0.01


class Guess(OfScale):
    """Far worse."""

    noise = 1.0
    num_parameters = 0


class Prober(Guess):
    """As bad, in a track of its own."""

    info = dataclasses.replace(OfScale.info, access="probes", num_probes=6)


class Longer(Twin):
    """Better, with more inputs, and so in another track."""

    info = dataclasses.replace(OfScale.info, access="probes", num_probes=16)


METHODS = {"test-of-scale": OfScale, "test-twin": Twin, "test-guess": Guess, "test-prober": Prober, "test-longer": Longer}
WITHOUT = {
    "test-lost": ("failed", "ValueError: 3 | 4"),
    "test-merger": ("not applicable", "it has\nno predict"),
    "test-slow": ("waiting", None),
}


@pytest.fixture(scope="module")
def states(small_zoo_path, tmp_path_factory):
    """States of a suite of one question whose methods were run in this process, the worst first."""
    out, entries = tmp_path_factory.mktemp("runs"), methods._entries
    quick = TASKS["generalization"].model_copy(update={"name": "test-tables", "baselines": (), "num_resamples": 300})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS._entries, "test-tables", quick)
        for name, cls in METHODS.items():
            patch.setitem(entries, name, cls)
        found = []
        for name in (
            "test-longer",
            "test-guess",
            "mean",
            "test-lost",
            "test-twin",
            "test-prober",
            "test-of-scale",
            "test-merger",
            "test-slow",
        ):
            cell = SuiteCell(
                method=name, task="test-tables", zoo=str(small_zoo_path), target="test_accuracy", seeds=SEEDS, out=str(out)
            )
            status, reason = WITHOUT.get(name, ("done", None))
            if status == "done":
                ngbench.run(name, "test-tables", small_zoo_path, seeds=SEEDS, out=out, device="cpu")
            found.append(State(cell, status, reason))
        yield found


@pytest.fixture(scope="module")
def question(states):
    (found,) = questions(states)
    return found


def test_tables_tell_how_many_cells_are_scored(states):
    told = []
    questions(states, lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len({done for done, _ in told}) > 3
    assert told[-1] == (len(states), len(states))


def folder_of(states, name):
    return Path(states[0].cell.out) / "test-tables/small-v1" / name


@pytest.fixture
def copied(states, tmp_path):
    """The same states, with files that may be spoilt."""
    shutil.copytree(states[0].cell.out, tmp_path / "copy")
    cells = [state.cell.model_copy(update={"out": str(tmp_path / "copy")}) for state in states]
    return [State(cell, state.status, state.reason) for cell, state in zip(cells, states, strict=True)]


def test_rows_stand_track_by_track_the_best_first_and_those_without_a_result_last(question):
    shown = [(row.method, None if row.result is None else row.result.access) for row in question.rows]
    assert shown == [
        ("test-of-scale", "weights"),
        ("test-twin", "weights"),
        ("test-guess", "weights"),
        ("test-prober", "probes-6"),
        ("test-longer", "probes-16"),
        ("mean", "none"),
        ("test-lost", None),
        ("test-merger", None),
        ("test-slow", None),
    ]
    assert [row.reason for row in question.rows[6:]] == ["ValueError: 3 | 4", "it has\nno predict", "waiting"]
    means = [row.result.scores["kendall_tau"].mean for row in question.rows[:3]]
    assert means[0] > means[1] > 0.6 > 0.4 > means[2]


def test_the_best_of_a_track_and_what_may_be_as_good_are_marked_and_what_is_far_worse_is_not(question):
    tied = {row.method: row.is_tied for row in question.rows}
    assert tied == {name: name in ("test-of-scale", "test-twin", "test-prober", "test-longer", "mean") for name in tied}


def lines_of(found):
    """Cells of the rows of a table, by their first."""
    rows = [
        line.strip("| ").split(" | ")
        for line in as_markdown(found).partition("### Mean")[0].splitlines()
        if line.startswith("| ")
    ]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in rows}


def test_every_number_of_a_row_is_that_of_the_result_file_which_the_predictions_give_again(question, states, small_zoo_path):
    shown, metrics = lines_of([question]), TASKS["generalization"].metrics
    headings = [
        facts_of(metrics[0]).title,
        "95% interval",
        "scrambled",
        *(facts_of(name).title for name in metrics[1:]),
        "parameters",
        "fit",
    ]
    assert shown["method"] == headings
    best = {name for name in ("test-of-scale", "test-twin") if question.rows[0].is_tied}
    for row in question.rows[:6]:
        folder = folder_of(states, row.method)
        result, differences = rescore(folder, zoo=open_zoo(small_zoo_path))
        assert differences == []
        assert result == row.result == Result.load(folder)
        scores = [[seed.scores[name] for seed in result.seeds] for name in metrics]
        scores.insert(1, [seed.scrambled_scores[metrics[0]] for seed in result.seeds])
        primary, *others = (f"{np.mean(own):z.3f} ± {np.std(own, ddof=1):.3f}" for own in scores)
        ends = f"{result.interval.low:z.3f} … {result.interval.high:z.3f}"
        expected = [f"**{primary}**" if row.method in best else primary, ends, *others]
        assert shown[f"{row.method} †"][: len(expected)] == expected
        size = {"test-guess": "—", "test-prober": "—", "mean": "1"}.get(row.method, "1,234")
        fit_s = np.mean([seed.fit_s for seed in result.seeds])
        assert shown[f"{row.method} †"][len(expected) :] == [size, f"{fit_s:.0f} s"]


def test_rows_of_a_table_have_the_columns_of_its_heading_whatever_a_reason_says(question):
    text = as_markdown([question]).partition("### Mean rank")[0]
    rows = [line.replace(r"\|", "") for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4 + 6 + 3
    assert {line.count("|") for line in rows} == {rows[0].count("|")}
    assert r"| test-lost | ValueError: 3 \| 4 |" in text
    assert "| test-merger | it has no predict |" in text


def test_tracks_are_headed_once_each(question):
    text = as_markdown([question])
    titles = ["reads weights", "runs the networks on 6 inputs", "runs the networks on 16 inputs", "reads nothing"]
    assert re.findall(r"^\| \*(\w.*)\* \|", text, flags=re.MULTILINE) == titles


def test_a_title_names_what_is_asked_about_where_there_is_a_choice(question):
    assert question.title == f"Predicting generalization on {question.zoo} (not part of the protocol)"
    park = TASKS["generalization"].asked("digits-park")
    assert Question(park, "digits-park", ()).title == "Predicting generalization on digits-park"
    rate = park.asked("digits-park", target="learning_rate")
    title = "Predicting generalization of learning rate on digits-park (not part of the protocol)"
    assert Question(rate, "digits-park", ()).title == title
    task = TASKS["classification"].asked("digits-park", target="optimizer")
    assert Question(task, "digits-park", ()).title == "Classification of optimizer on digits-park"
    assert Question(TASKS["merging"].asked(), "digits-mlp", ()).title == "Merging on digits-mlp"


def test_a_method_is_ranked_within_its_track(question):
    ranks = {row.method: question.rank(row.method) for row in question.rows}
    assert ranks == {
        "test-of-scale": 1.5, "test-twin": 1.5, "test-guess": 3, "test-prober": 1, "test-longer": 1, "mean": 1,
        "test-lost": None, "test-merger": None, "test-slow": None,
    }  # fmt: skip


def fitted_for(question, target, transfers):
    """The table of a classification whose result has transfer scores, one mapping for each seed."""
    result = question.rows[0].result
    seeds = [seed.model_copy(update={"transfer": found}) for seed, found in zip(result.seeds, transfers, strict=True)]
    metrics = {"metrics": ("kendall_tau",), "target": target}
    row = Row("test-of-scale", result.model_copy(update={"seeds": tuple(seeds)}), None)
    return Question(TASKS["classification"].model_copy(update=metrics), "park", (row, Row("mean", None, "failed")))


def test_transfer_is_a_matrix_of_what_was_fitted_for_by_what_was_probed_mean_over_seeds(question):
    first = fitted_for(question, "family", [{"family": 0.9, "corpus": 0.2}, {"family": 0.7, "corpus": 0.3}])
    second = fitted_for(question, "corpus", [{"family": 0.5, "corpus": 0.6}, {"family": 0.5, "corpus": 0.7}])
    found = transfer_matrix([question, first, second], "park", "test-of-scale")
    expected = {"family": {"family": 0.8, "corpus": 0.25}, "corpus": {"family": 0.5, "corpus": 0.65}}
    assert found == {target: pytest.approx(row) for target, row in expected.items()}
    text = as_markdown([question, first, second])
    assert text.count("### Transfer of") == 1
    heading, *rows = text.partition("### Transfer of test-of-scale on park: accuracy of linear probes\n\n")[2].splitlines()[:4]
    assert heading == "| fitted for | probed for family | probed for corpus |"
    assert rows[1:] == ["| family | 0.800 | 0.250 |", "| corpus | 0.500 | 0.650 |"]
    assert "Transfer" not in as_markdown([question])


def place(question, *scores, task="generalization", tied=()):
    """A table of one track with methods a, b, … of these scores."""
    result = question.rows[0].result
    made = [
        result.model_copy(update={"scores": {"kendall_tau": result.scores["kendall_tau"].model_copy(update={"mean": score})}})
        for score in scores
    ]
    asked = question.task.model_copy(update={"name": task, "metrics": ("kendall_tau",)})
    rows = [Row(name, own, None, name in tied) for name, own in zip("abcdef", made, strict=False)]
    return Question(asked, "zoo", tuple(rows))


def as_mae(row):
    """The same number as an error."""
    scores = {"mae": row.result.scores["kendall_tau"]}
    return dataclasses.replace(row, result=row.result.model_copy(update={"scores": scores, "primary": "mae"}))


def test_methods_that_are_tied_or_equal_share_the_mean_of_their_places(question):
    found = place(question, 0.9, 0.8, 0.7, 0.5, 0.5, 0.3, tied=("a", "c"))
    assert [found.rank(name) for name in "abcdef"] == [1.5, 3, 1.5, 4.5, 4.5, 6]
    lower = Question(found.task.model_copy(update={"metrics": ("mae",)}), "zoo", tuple(map(as_mae, found.rows)))
    assert [lower.rank(name) for name in "bdef"] == [6, 4.5, 4.5, 3]


def test_a_task_of_many_questions_counts_as_much_as_one_of_a_single(question):
    many = [place(question, 0.9, 0.1, task="many") for _ in range(3)]
    single = place(question, 0.1, 0.9, 0.5, task="single")
    found = overall([*many, single])
    assert [(standing.method, standing.rank) for standing in found] == [("b", 1.5), ("a", 2.0)]
    assert {standing.rivals for standing in found} == {"1 to 2"}
    assert "| b | reads weights | 1.50 | 1 to 2 |" in as_markdown([*many, single])


def test_only_methods_that_did_everything_have_a_mean_rank(question):
    rows = {row.method: row for row in question.rows}
    order = ("test-guess", "test-of-scale", "test-prober")
    other = Question(question.task, "another", (*(rows[name] for name in order), Row("test-twin", None, "failed")))
    found = overall([question, other])
    assert [(s.method, s.rank, s.rivals) for s in found] == [
        ("test-prober", 1.0, "0"),
        ("test-of-scale", 1.25, "1 to 2"),
        ("test-guess", 2.5, "1 to 2"),
    ]
    assert "Mean rank" not in as_markdown([Question(question.task, "none", (Row("mean", None, "failed"),))])


def test_rows_with_fewer_seeds_than_the_protocol_asks_for_are_marked_and_a_line_says_so(question):
    text = as_markdown([question])
    assert "| test-guess † |" in text
    assert "† Fewer seeds than the 3 that the protocol asks for." in text
    enough = Question(question.task.model_copy(update={"num_seeds": 2}), question.zoo, question.rows)
    assert "†" not in as_markdown([enough])


def test_the_line_about_the_best_stands_only_where_one_is_marked(question):
    assert "**Bold**" in as_markdown([question])
    alone = Question(question.task, question.zoo, tuple(row for row in question.rows if row.method == "test-prober"))
    assert "**" not in as_markdown([alone])


@pytest.mark.parametrize(
    ("task", "zoo", "target", "expected"),
    [
        ("generalization", "digits-cnn", None, False),
        ("generalization", "digits-cnn", "learning_rate", True),
        ("classification", "digits-park", "activation", False),
        ("classification", "digits-park", "norm", True),
        ("merging", "digits-mlp", None, False),
        ("merging", "digits-cnn", None, True),
    ],
)
def test_what_the_protocol_does_not_name_is_foreign_to_it(task, zoo, target, expected):
    assert is_foreign(TASKS[task].asked(zoo, target=target), zoo) is expected


def test_baselines_that_cannot_read_a_zoo_are_left_out():
    assert left_out(TASKS["retrieval"].asked("digits-park"), open_zoo("digits-park")) == ("flat-cosine",)
    assert left_out(TASKS["retrieval"].asked("digits-inr"), open_zoo("digits-inr")) == ()


@pytest.mark.parametrize(("peaks", "shown"), [((0, 999_999), "< 1 MB"), ((3e6, 2.4e9), "2,400 MB"), ((None, None), "—")])
def test_memory_below_what_can_be_told_is_said_to_be_so(question, peaks, shown):
    result = question.rows[0].result
    seeds = [s.model_copy(update={"peak_memory_bytes": peak}) for s, peak in zip(result.seeds, peaks, strict=True)]
    assert memory(result.model_copy(update={"seeds": tuple(seeds)})) == shown


@pytest.mark.parametrize(
    ("file", "spoil", "reason"),
    [
        ("result.json", lambda path: path.write_text(path.read_text()[:-9]), "is no Result that this ngbench can read"),
        ("result.json", Path.unlink, "has no result.json; expected a folder"),
        ("seed-1/predictions.npz", Path.unlink, "no predictions file"),
        ("seed-0/predictions.npz", lambda path: path.write_bytes(b"PK"), "cannot be read as predictions"),
    ],
)
def test_a_file_that_is_broken_is_the_reason_of_its_row_alone(copied, file, spoil, reason):
    spoil(folder_of(copied, "test-of-scale") / file)
    (found,) = questions(copied)
    rows = {row.method: row for row in found.rows}
    assert rows["test-of-scale"].result is None
    assert reason in rows["test-of-scale"].reason
    assert [row.method for row in found.rows[:2]] == ["test-twin", "test-guess"]
    assert rows["test-twin"].is_tied


def test_a_zoo_that_is_gone_is_the_reason_of_all_of_its_rows(states, tmp_path):
    cells = [state.cell.model_copy(update={"zoo": str(tmp_path / "gone.h5")}) for state in states[:2]]
    (found,) = questions([State(cell, "failed", "no such file") for cell in cells])
    assert [(row.method, row.reason) for row in found.rows] == [("test-longer", "no such file"), ("test-guess", "no such file")]


def test_tables_are_written_beside_the_results(question, tmp_path):
    path = write_tables([question, question], tmp_path / "new", "few")
    assert path == tmp_path / "new/few.md"
    assert path.read_text(encoding="utf-8") == as_markdown([question, question])


@pytest.mark.parametrize(("mean", "text"), [(None, "—"), (0.0, "0"), (0.1234, "0.123"), (0.00002, "2e-05")])
def test_a_shift_too_small_for_three_digits_is_told_by_its_power_of_ten(mean, text):
    assert shown_shift(mean) == text
