"""The table of scores on narrow terminals: fewer columns, and no number cut."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rich.console import Console

from ngbench.cli.run import score_table
from ngbench.evaluation.result import Spread
from ngbench.tasks import TASKS


def result(task, method, *, std=None, shift=0.25):
    names = TASKS[task].metrics
    scores = {name: Spread(mean=0.125 * (1 + number % 7), std=std) for number, name in enumerate(names)}
    return SimpleNamespace(
        task=task, method=method, primary=names[0], target=None, zoo="some-zoo", zoo_version="1", split="default",
        seeds=(SimpleNamespace(seed=0, num_test=46),) * (1 if std is None else 3), scores=scores, scrambled_scores=scores,
        interval=SimpleNamespace(confidence=0.95, score=0.125, low=0.118, high=0.133), mean_shift=shift,
        shown=lambda name: f"{scores[name].mean:.3f}",
    )  # fmt: skip


def drawn(results, width):
    screen = Console(width=width, highlight=False)
    made, listed = score_table(results, screen)
    with screen.capture() as capture:
        screen.print(made)
    return capture.get(), listed


@pytest.mark.parametrize("task", sorted(TASKS))
@pytest.mark.parametrize("std", [None, 0.012])
def test_no_number_is_cut_at_eighty_columns_and_every_method_has_one_line(task, std):
    results = [result(task, name, std=std) for name in ("activation-matching", "weight-statistics")]
    text, listed = drawn(results, 80)
    assert "…" not in text
    lines = [line for line in text.splitlines() if line.startswith(("activation", "weight"))]
    assert len(lines) == 2
    primary = "0.125 [0.118, 0.133]" if std is None else "0.125 ± 0.012"
    assert all(primary in line and len(line) <= 80 for line in lines)
    assert listed == list(TASKS[task].metrics[: len(listed)])
    assert len(listed) >= 2


def test_a_wide_terminal_has_more_columns():
    results = [result("merging", "naive")]
    assert len(drawn(results, 80)[1]) < len(drawn(results, 160)[1]) == 7


def test_a_method_of_ones_own_is_named_by_its_class():
    text, _ = drawn([result("generalization", "my_package.some.module:Mine")], 80)
    assert "\nMine " in text
    assert "my_package" not in text


def test_shift_is_a_column_only_where_there_is_one():
    assert "shift" in drawn([result("retrieval", "naive")], 80)[0]
    assert "shift" not in drawn([result("merging", "naive", shift=None)], 80)[0]
