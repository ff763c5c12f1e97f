"""``ngbench protocol`` as a user types it."""

import pytest
from click.testing import CliRunner

from ngbench.cli import main
from ngbench.tasks import TASKS


def ngbench(*arguments, exit_code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], terminal_width=200)
    assert result.exit_code == exit_code, result.output
    return result


def test_all_tasks_are_printed_once_each():
    shown = ngbench("protocol").stdout
    assert shown.startswith("# The protocol\n")
    assert [shown.count(f"\n## {task.title}\n") for task in TASKS.values()] == [1] * len(TASKS)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_task_that_is_named_is_printed_alone(name):
    shown = ngbench("protocol", name).stdout
    assert [task for task in TASKS if f"## {TASKS[task].title}\n" in shown] == [name]
    assert shown.endswith("\n")
    assert not shown.endswith("\n\n")


def test_tasks_are_printed_in_the_order_in_which_they_are_named():
    shown = ngbench("protocol", "retrieval", "merging").stdout
    assert [line for line in shown.splitlines() if line.startswith("## ")] == ["## Retrieval", "## Merging"]


def test_an_unknown_task_gets_one_sentence_and_exit_code_two():
    assert "unknown task 'retrival': did you mean 'retrieval'" in ngbench("protocol", "retrival", exit_code=2).stderr
