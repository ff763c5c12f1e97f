"""One page of HTML that needs nothing else: no script, no request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import jinja2

from ngbench import __version__
from ngbench.errors import ResultError
from ngbench.evaluation.audit import Audit
from ngbench.evaluation.report.audits import audit_section
from ngbench.evaluation.report.blocks import Section
from ngbench.evaluation.report.runs import Run, by_question, find_runs
from ngbench.evaluation.report.scores import environment_table, rank_table
from ngbench.evaluation.report.sections import Answered, question_section
from ngbench.evaluation.result import read_json
from ngbench.progress import Stages, silent_stages


def write_report(paths: Sequence[Path], out: Path, *, zoos: Sequence[Path] = (), stages: Stages = silent_stages) -> Path:
    """Writes a page about runs and audits.

    Args:
        paths: Run folders or folders above some, and files of `ngbench audit`.
        out: The page.
        zoos: Files of zoos that runs were made on and that are not released.
        stages: Told of each question as its runs are scored again.

    Returns:
        The path of the page.

    Raises:
        ResultError: A path holds no run or audit, or a run's zoo is not at hand.
    """
    runs, audits = _found(paths)
    text = rendered_page(_sections(runs, audits, zoos, stages=stages), num_runs=len(runs))
    temporary = out.with_name(f".{out.name}.partial")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return out


def _sections(runs: Sequence[Run], audits: Mapping[Path, Audit], zoos: Sequence[Path], *, stages: Stages) -> list[Section]:
    methods = list(dict.fromkeys(run.result.method for run in runs))
    asked = by_question(runs, zoos)
    answered = [Answered.of(one, methods, progress=stages(f"{one.task.name} on {one.zoo.name}")) for one in asked]
    ranks, progress = rank_table([found.table for found in answered]), stages("pictures")
    sections = [Section("All questions", "", (ranks,))] if ranks else []
    for done, found in enumerate(answered):
        progress(done, len(answered), found.table.title)
        sections.append(question_section(found))
    progress(len(answered), len(answered))
    sections += [audit_section(path, audit) for path, audit in audits.items()]
    return sections + ([Section("Runs", "", (environment_table(runs),))] if runs else [])


def rendered_page(sections: Sequence[Section], *, num_runs: int) -> str:
    """The HTML of sections; every text of theirs is escaped."""
    loader = jinja2.FunctionLoader(_template)
    options = {"trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.StrictUndefined}
    environment = jinja2.Environment(loader=loader, autoescape=True, **options)
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    about = {"title": "Methods that read neural networks", "created": created, "version": __version__}
    about |= {"sections": sections, "num_runs": num_runs, "style": _template("page.css")}
    return environment.get_template("page.html").render(about)


def _template(name: str) -> str:
    return (resources.files(__package__ or "") / name).read_text(encoding="utf-8")


def _found(paths: Sequence[Path]) -> tuple[list[Run], dict[Path, Audit]]:
    """Runs, each once, and audits."""
    runs, audits = dict[Path, Run](), dict[Path, Audit]()
    for path in paths:
        if path.is_dir():
            runs |= {run.folder.resolve(): run for run in find_runs(path)}
        elif path.is_file():
            audits[path] = read_json(path, Audit)
        else:
            raise ResultError(
                f"{str(path)!r} does not exist; expected a folder of runs, or a file that `ngbench audit --out` wrote"
            )
    return list(runs.values()), audits
