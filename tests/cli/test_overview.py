"""The live table of a suite: a sign for each cell, how many are settled, and the time left."""

import io
import sys
import threading

import pytest
from rich.console import Console

from ngbench.cli import overview
from ngbench.cli.overview import SIGNS, Overview, live_overview
from ngbench.evaluation.suite.cells import Suite, SuiteCell
from ngbench.evaluation.suite.running import State

METHODS, ZOOS = ("ng-gnn", "deepset", "mean"), ("digits-cnn", "digits-park")


@pytest.fixture
def clock(monkeypatch):
    """A clock that is moved by hand."""
    seconds = [100.0]
    monkeypatch.setattr(overview.time, "monotonic", lambda: seconds[0])
    return seconds


@pytest.fixture
def cells():
    options = {"task": "generalization", "target": "test_accuracy", "seeds": (0,), "out": "runs"}
    return [SuiteCell(method=method, zoo=zoo, **options) for zoo in ZOOS for method in METHODS]


def drawn(found, *, width=80):
    file = io.StringIO()
    Console(file=file, width=width, highlight=False).print(found)
    return file.getvalue().splitlines()


def rows(found):
    lines = [line.split() for line in drawn(found)]
    return {line[0]: line[1:] for line in lines if line and line[0] in METHODS}


def test_each_cell_has_the_sign_of_its_state_in_the_column_of_its_question(cells):
    found = Overview(cells)
    assert rows(found) == {method: [] for method in METHODS}
    statuses = ("done", "running", "failed", "not applicable", "left out", "waiting")
    for cell, status in zip(cells, statuses, strict=True):
        found(State(cell, status, share=0.37))
    assert rows(found) == {"ng-gnn": ["✓", "—"], "deepset": ["37%", "○"], "mean": ["✗", "·"]}
    assert len(set(SIGNS.values())) == len(SIGNS) == len(statuses)


def test_questions_are_named_by_number_and_what_runs_says_how_far_it_is(cells):
    found = Overview(cells)
    found(State(cells[4], "running", share=0.5, text="deepset, seed 0, epoch 3"))
    lines = " ".join(" ".join(drawn(found)).split())
    assert lines.startswith("1 generalization test_accuracy digits-cnn; 2 generalization test_accuracy digits-park")
    assert "generalization test_accuracy on digits-park: deepset, seed 0, epoch 3 50%" in lines


def last(found):
    return drawn(found)[-1].strip()


def test_the_time_left_follows_from_what_was_settled_since_the_first_cell_began(cells, clock):
    found = Overview(cells)
    assert last(found) == "0 of 6 cells"
    for cell in cells[:2]:
        found(State(cell, "done"))
    clock[0] += 1000
    for cell in cells[2:]:
        found(State(cell, "waiting"))
    assert last(found) == "2 of 6 cells"
    found(State(cells[2], "running"))
    clock[0] += 90
    assert last(found) == "2 of 6 cells"
    found(State(cells[2], "done"))
    assert last(found) == "3 of 6 cells, 0.7 a minute, about 4 min left"
    found(State(cells[3], "failed"))
    clock[0] += 30
    assert last(found) == "4 of 6 cells, 1.0 a minute, about 2 min left"


def test_the_whole_shipped_suite_fits_eighty_columns():
    found = Overview(Suite.load("digits").cells((0, 1, 2), out="runs", device="cpu"))
    cells = Suite.load("digits").cells((0, 1, 2), out="runs", device="cpu")
    for number, cell in enumerate(cells):
        found(State(cell, "running" if number < 2 else "done", share=1.0, text=f"{cell.method}, seed 2, epoch 60, loss 0.1234"))
    lines = drawn(found, width=80)
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    for method in found.methods:
        (row,) = [line.split() for line in lines if line.split()[:1] == [method]]
        asked = [question for question in found.questions if (question, method) in found.states]
        assert len(row) == 1 + len(asked)


def test_it_is_drawn_at_the_end_on_standard_error_and_not_where_it_shall_be_quiet(cells, capsys):
    for quiet in (False, True):
        with live_overview(cells, quiet=quiet) as found:
            for cell in cells:
                found(State(cell, "done"))
        shown = capsys.readouterr()
        assert shown.out == ""
        assert ("6 of 6 cells" in shown.err) != quiet


@pytest.fixture
def _switching():
    """Threads that take turns at nearly every instruction."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_switching")
def test_cells_may_come_in_while_another_thread_draws():
    cells = [
        SuiteCell(method=f"method-{number}", task="merging", zoo="digits-mlp", target=None, seeds=(0,), out="runs")
        for number in range(3000)
    ]
    found, faults = Overview(cells), []

    def count():
        try:
            while found.num_settled < len(cells):
                pass
        except RuntimeError as error:
            faults.append(error)

    thread = threading.Thread(target=count)
    thread.start()
    for cell in cells:
        found(State(cell, "done"))
    thread.join(timeout=20)
    assert faults == []
