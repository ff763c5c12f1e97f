"""What the README tells a stranger to type, from ten lines of a method to a page of the leaderboard, word for word."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(marker):
    """The block of the README behind a comment."""
    (found,) = re.findall(rf"<!-- ci: {re.escape(marker)} -->\n```\w+\n(.*?)```", README, flags=re.DOTALL)
    return found


def test_the_method_of_the_readme_is_about_ten_lines():
    code = [
        line for line in block("my_file.py").splitlines() if line.strip() and not line.startswith(("import", "from", "class"))
    ]
    assert len(code) <= 10
    compile(block("my_file.py"), "my_file.py", "exec")


@pytest.mark.slow
def test_a_stranger_sees_a_method_of_ten_lines_on_the_local_page(tmp_path):
    (tmp_path / "my_file.py").write_text(block("my_file.py"))
    command = tmp_path / "ngbench"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m ngbench.cli "$@"\n')
    command.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block("submission")],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": "160"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "valid    my-method.zip" in done.stdout
    assert (tmp_path / "board/my-method/record.json").exists()
    pages = {page.relative_to(tmp_path / "site").as_posix(): page.read_text() for page in (tmp_path / "site").rglob("*.html")}
    assert "My method" in pages["index.html"]
    assert any("A. Name" in page for page in pages.values())
