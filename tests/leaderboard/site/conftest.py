"""A site about planted records: methods of three tracks, one of them with a hostile name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from leaderboard.records import Acceptance, Record
from leaderboard.site import write_site
from leaderboard.testing import benchmark_questions, fake_record

HOSTILE = "<script>alert('title')</script>"


@dataclass(frozen=True)
class Planted:
    """A site and what it is about.

    Args:
        folder: Of the site.
        records: By name.
    """

    folder: Path
    records: dict[str, Record]


@pytest.fixture(scope="session")
def planted_site(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Four methods that read weights, two of them tied on every question, and one each of two other tracks."""
    every = benchmark_questions()
    some = [question for question in every if question.task == "generalization"]
    history = (
        Acceptance(date="2031-05-18", archive_sha256="a" * 64, ngbench="0.1.0", note="<b>first</b>"),
        Acceptance(date="2031-06-02", archive_sha256="b" * 64, ngbench="0.2.0", note="Fits of more seeds"),
    )
    hostile = {
        "title": HOSTILE,
        "authors": ("<img src=x onerror=alert(1)>", "Zoë Second"),
        "external_data": True,
        "description": "</style></script><script>alert('description')</script>",
        "paper": "https://example.org/paper?a=1&b=2",
        "code": "https://example.org/code",
    }
    marks = {"flags": ("looks like <i>another</i>",), "differences": ("claims kendall_tau 0.99, 0.55 follows",)}
    records = [
        fake_record("aleph", dict.fromkeys(every, 0.8)),
        fake_record("beth", dict.fromkeys(every, 0.7995), num_seeds=2),
        fake_record("gimel", dict.fromkeys(every, 0.6), permuted=0.25),
        fake_record("hostile", dict.fromkeys(some, 0.55), about=hostile, history=history, **marks),
        fake_record("prober", dict.fromkeys(every[:7], 0.85), track="probes-8"),
        fake_record("nothing", dict.fromkeys(every, 0.1), track="none"),
    ]
    folder = tmp_path_factory.mktemp("leaderboard") / "site"
    write_site(records, folder)
    return Planted(folder, {record.name: record for record in records})
