"""``ngbench report`` as a user types it."""

from __future__ import annotations

from click.testing import CliRunner

from ngbench.cli import main


def ngbench(*arguments, exit_code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], terminal_width=200)
    assert result.exit_code == exit_code, result.output
    return result


def test_a_page_about_runs_is_written(small_zoo_path, tmp_path):
    ngbench("run", "--method", "mean", "--zoo", small_zoo_path, "--out", tmp_path / "runs", "--seeds", 2)
    page = tmp_path / "own.html"
    result = ngbench("report", tmp_path / "runs", "--zoo", small_zoo_path, "--out", page)
    assert str(page) in result.stdout
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert "hyperparameters" in text
    assert [path.name for path in tmp_path.iterdir()] != [page.name]
    assert not list(tmp_path.glob(".*partial"))


def test_a_folder_without_runs_is_one_red_line(tmp_path):
    result = ngbench("report", tmp_path, "--out", tmp_path / "page.html", exit_code=2)
    assert f"error: folder '{tmp_path}' holds no result.json" in result.stderr
    assert "`ngbench run` wrote" in result.stderr


def test_a_page_in_a_folder_that_does_not_exist_is_refused_before_anything_is_read(tmp_path):
    result = ngbench("report", tmp_path / "none", "--out", tmp_path / "missing" / "page.html", exit_code=2)
    assert "missing/page.html is a folder, or in one that does not exist" in result.stderr
