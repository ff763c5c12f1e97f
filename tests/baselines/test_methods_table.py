"""The table of methods in the README of the baselines says what the methods say of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

import baselines
from ngbench.methods import is_applicable, methods
from ngbench.tasks import TASKS

FOLDER = Path(baselines.__file__).parent
LINES = [line.strip("| ").split(" | ") for line in (FOLDER / "README.md").read_text(encoding="utf-8").splitlines() if "|" in line]
ROWS = {cells[0].strip("`"): cells for cells in LINES if len(cells) == 8 and cells[0].startswith("`")}
READS = {"none": "nothing", "truth": "the truth", "hyperparameters": "hyper-parameters", "probes": "256 probes"}
OWN = sorted(name for name in methods if methods[name].__module__.startswith("baselines."))


def test_the_table_lists_every_method_and_no_other():
    assert sorted(ROWS) == OWN
    assert len(OWN) == 15


@pytest.mark.parametrize("name", OWN)
def test_a_row_says_what_the_method_says_of_itself(name):
    _, file, _, tasks, reads, alike, architectures, _ = ROWS[name]
    info = methods[name].info
    answered = {task.name for task in TASKS.values() if is_applicable(name, task.kind)}
    assert methods[name].__module__ == f"baselines.{file.strip('`').removesuffix('.py')}"
    assert (set(TASKS) if tasks == "all four" else set(tasks.split(", "))) == answered
    assert reads == READS.get(info.access, info.access)
    assert (alike, architectures) == tuple("yes" if claim else "no" for claim in (info.invariant, info.any_architecture))
