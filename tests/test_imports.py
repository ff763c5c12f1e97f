from __future__ import annotations

import subprocess
import sys

import pytest

import ngbench

HELP = """
import contextlib, sys
from ngbench.cli import main
sys.argv = ["ngbench", "--help"]
with contextlib.suppress(SystemExit):
    main()
"""
HEAVY = ("torch", "sklearn", "scipy.stats", "matplotlib")


def heavy_modules_after(statement):
    """Which of the heavy packages a fresh interpreter has loaded after the statement."""
    report = f"import sys; print(*(name for name in {HEAVY} if name in sys.modules), sep=',', file=sys.stderr)"
    finished = subprocess.run([sys.executable, "-c", f"{statement}\n{report}"], capture_output=True, text=True, check=True)
    return finished.stderr.strip().splitlines()[-1:] or [""]


def test_the_probe_sees_a_heavy_package_that_is_loaded():
    assert heavy_modules_after("import scipy.stats") == ["scipy.stats"]


@pytest.mark.parametrize(
    "statement",
    [
        "import ngbench",
        "import ngbench.metrics; list(ngbench.metrics.METRICS.values())",
        HELP,
    ],
    ids=["import", "metrics", "help"],
)
def test_no_heavy_package_is_loaded_by(statement):
    assert heavy_modules_after(statement) == [""]


def test_the_public_names_are_listed_before_they_are_loaded():
    assert {"open_zoo", "run", "__version__"} <= set(dir(ngbench))


def test_an_unknown_attribute_is_refused_by_name():
    with pytest.raises(AttributeError, match="module 'ngbench' has no attribute 'open_zo'"):
        ngbench.open_zo  # noqa: B018
