"""Writes the pages: an overview, one for each question and each submission, and the history, with their data."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from leaderboard.data import as_csv, as_json
from leaderboard.grids import answer_grid, fit_grid, further_grid, overview_grid, rank_grid, score_grid, tracks_of
from leaderboard.records import Acceptance, Record
from leaderboard.site.charts import board_charts, submission_charts
from leaderboard.tables import Board, boards, standings, standings_of_tasks, unanswered
from ngbench import __version__
from ngbench.errors import ConfigError
from ngbench.evaluation.report.page import page_environment, template
from ngbench.evaluation.tables import track_title

FILES = ".ngbench-site"
"""Names the files of a site, so that the next one removes those that it no longer has, and no others."""

NUM_RECENT = 5
"""Acceptances that the overview shows."""


def write_site(records: Sequence[Record], folder: Path) -> Path:
    """Writes the site into a folder that is empty, does not exist, or holds an earlier one.

    Args:
        records: Accepted submissions, of different names.
        folder: Of the site.

    Returns:
        The path of its first page.

    Raises:
        ConfigError: The folder holds other files, or is a file.
    """
    before = _files_before(folder)
    content = dict(_content(records))
    for name, text in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    for name in before - content.keys():
        (folder / name).unlink(missing_ok=True)
    (folder / FILES).write_text("".join(f"{name}\n" for name in sorted(content)), encoding="utf-8")
    return folder / "index.html"


def _files_before(folder: Path) -> set[str]:
    """Files of the site that the folder holds, none where it is empty or does not exist."""
    if folder.is_dir() and (folder / FILES).is_file():
        names = (folder / FILES).read_text(encoding="utf-8").splitlines()
        return {name for name in names if (folder / name).resolve().is_relative_to(folder.resolve())}
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"{str(folder)!r} is a file, or holds files that are no page of a leaderboard; expected a new or empty folder, or "
            "one that `ngbench leaderboard --html` wrote"
        )
    return set()


def _content(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """The files of the site, by path."""
    found, render = boards(records), Renderer()
    yield "index.html", render("index.html", "", **_overview(records, found))
    yield "submissions.html", render("submissions.html", "", current="submissions", records=_newest_first(records))
    yield "history.html", render("history.html", "", current="history", accepted=_accepted(records))
    for board in found:
        yield board.href, render("board.html", "../", **_board(board))
        yield f"tables/{board.slug}.csv", as_csv([board])
        yield f"tables/{board.slug}.json", as_json([board])
    for record in records:
        yield f"submissions/{record.name}.html", render("submission.html", "../", **_submission(record, found))
        yield f"submissions/{record.name}.json", record.model_dump_json(indent=2) + "\n"
    yield "data/leaderboard.csv", as_csv(found)
    yield "data/leaderboard.json", as_json(found)


def _overview(records: Sequence[Record], found: Sequence[Board]) -> dict[str, Any]:
    named = {record.name: record for record in records}
    current, missing = [board for board in found if board.is_current], unanswered(found)
    ranks = rank_grid(standings(found), named, id="overall", title="Mean rank within its track")
    tasks = [
        (title, rank_grid(own, named, id=f"overall-{place}", title=f"Mean rank within its track, {title}"))
        for place, (title, own) in enumerate(standings_of_tasks(found).items())
    ]
    return {
        "current": "overview",
        "numbers": {
            "submissions": len(records),
            "questions": len(current),
            "fits, scored again": sum(len(scores.seeds) for record in records for scores in record.rows),
            "last accepted": max((record.history[-1].date for record in records), default="—"),
        },
        "ranks": ranks,
        "tasks": tasks,
        "missing": missing,
        "boards": current,
        "former": [board for board in found if not board.is_current],
        "overview": overview_grid(current, records),
        "recent": _accepted(records)[:NUM_RECENT],
    }


def _board(board: Board) -> dict[str, Any]:
    counts = sorted({own.num_test for own in board.scores.values()})
    return {
        "current": "",
        "board": board,
        "grid": score_grid(board, "../"),
        "further": further_grid(board, "../"),
        "charts": board_charts(board),
        "num_test": ", ".join(f"{count:,}" for count in counts),
    }


def _submission(record: Record, found: Sequence[Board]) -> dict[str, Any]:
    own = [board for board in found if record.name in board.scores]
    return {
        "current": "",
        "record": record,
        "tracks": [(track.partition("-")[0], track_title(track)) for track in tracks_of(record)],
        "hardware": ", ".join(dict.fromkeys(scores.hardware for scores in record.rows)),
        "trained_on": ", ".join(dict.fromkeys(" and ".join(scores.trained_on) for scores in record.rows)),
        "grid": answer_grid(own, record.name, "../"),
        "charts": submission_charts(own, record.name),
        "fits": [(board, fit_grid(board, record.name), board.scores[record.name].settings) for board in own],
    }


def _newest_first(records: Sequence[Record]) -> list[Record]:
    return sorted(records, key=lambda record: record.history[-1].date, reverse=True)


def _accepted(records: Sequence[Record]) -> list[tuple[Record, Acceptance]]:
    """Every archive that was scored, the newest first."""
    every = [(record, acceptance) for record in records for acceptance in record.history]
    return sorted(every, key=lambda item: item[1].date, reverse=True)


class Renderer:
    """Renders templates: with style and script inside, and a policy by which a browser runs and asks for nothing else."""

    def __init__(self) -> None:
        self._environment = page_environment(jinja2.PackageLoader("leaderboard", "site/templates"))
        self._environment.filters |= {"linked": _linked, "track_title": track_title, "kind": _kind}
        style, script = template("page.css") + _file("site.css"), _file("site.js")
        policy = {
            "default-src": "'none'",
            "style-src": _hash(style),
            "script-src": _hash(script),
            "img-src": "data:",
            "base-uri": "'none'",
            "form-action": "'none'",
        }
        self._always = {
            # the text of both is ours, and hashed as it stands
            "style": Markup(style),
            "script": Markup(script),
            "policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
            "icon": f"data:image/svg+xml;base64,{base64.b64encode(_file('icon.svg').encode()).decode()}",
            "version": __version__,
        }

    def __call__(self, name: str, root: str, **content: Any) -> str:
        """The text of a page.

        Args:
            name: Of the template.
            root: From the page to the folder of the site.
            **content: What the template shows.
        """
        return self._environment.get_template(name).render({**self._always, "root": root, **content})


def _file(name: str) -> str:
    return (resources.files("leaderboard.site") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What a content security policy knows a text within the page by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _kind(track: str) -> str:
    return track.partition("-")[0]


def _linked(text: str) -> Markup:
    """A text, as a link where it is an address of the web."""
    if not re.fullmatch(r"https?://[^\s<>\"']+", text):
        return Markup.escape(text)
    return Markup('<a href="{0}" rel="noopener nofollow ugc">{0}</a>').format(text)
