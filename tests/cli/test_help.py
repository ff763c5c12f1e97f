"""The help of every command fits a terminal and reads as it is meant."""

import click
import pytest
from click.testing import CliRunner

from ngbench.cli import main


def paths(command, path=()):
    """The words that lead to a command and to each one below it."""
    yield path
    for name, below in getattr(command, "commands", {}).items():
        yield from paths(below, (*path, name))


COMMANDS = list(paths(main))


def test_commands_of_groups_are_among_those_that_are_read():
    assert {("run",), ("zoo", "list"), ("graph", "show")} <= set(COMMANDS)
    assert isinstance(main, click.Group)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_help_has_no_line_over_80_characters_and_no_sign_for_click(path):
    result = CliRunner().invoke(main, [*path, "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    assert "\\b" not in result.output
    assert "\b" not in result.output
    assert [line for line in result.output.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("run", "  ngbench run --suite digits --seeds 3    every method on every task"),
        ("predict", "  ngbench predict --run runs/generalization/digits-cnn-v1/ng-gnn \\"),
        ("search", "      my_package.models:small_cnn a.pt --top 5"),
        ("merge", "      --images digits --out merged.pt"),
        ("audit", "  ngbench audit --all --out audit.json"),
        ("report", "  ngbench report runs audit.json           and an audit"),
        ("leaderboard", "  ngbench leaderboard --html site               pages about everything"),
        ("bench", "  growth          a training step on MLPs from 32 to 1024 units wide"),
    ],
)
def test_examples_stand_on_lines_of_their_own(path, line):
    assert line in CliRunner().invoke(main, [path, "--help"], env={"COLUMNS": "80"}).output.splitlines()
