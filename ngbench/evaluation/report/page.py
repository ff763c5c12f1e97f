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
from ngbench.evaluation.report.runs import Asked, Run, Unread, by_question, find_runs
from ngbench.evaluation.report.scores import commit, environment_table, rank_table, unread_table
from ngbench.evaluation.report.sections import Answered, question_section, transfer_section
from ngbench.evaluation.result import read_json
from ngbench.progress import Stages, silent_stages


def write_report(paths: Sequence[Path], out: Path, *, zoos: Sequence[Path] = (), stages: Stages = silent_stages) -> Path:
    """Writes a page about runs and audits; a run that cannot be read is named at its end with the reason.

    Args:
        paths: Run folders or folders above some, and files of `ngbench audit`.
        out: The page.
        zoos: Files of zoos that runs were made on and that are not released.
        stages: Told of each question as its runs are scored again.

    Returns:
        The path of the page.

    Raises:
        ResultError: A path holds no run or audit, or none of all can be read.
    """
    runs, unread, audits = _found(paths)
    asked, homeless = by_question(runs, zoos)
    unread = [*unread, *homeless]
    if unread and not asked and not audits:
        raise ResultError(f"none of {len(unread)} runs can be shown; the first, {unread[0].folder}: {unread[0].reason}")
    shown = [run for one in asked for run in one.runs.values()]
    sections = [*_sections(asked, audits, stages=stages), *_about(shown, unread)]
    text = rendered_page(sections, about=_facts(paths, asked, shown))
    temporary = out.with_name(f".{out.name}.partial")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return out


def _sections(asked: Sequence[Asked], audits: Mapping[Path, Audit], *, stages: Stages) -> list[Section]:
    methods = list(dict.fromkeys(run.result.method for one in asked for run in one.runs.values()))
    answered = [Answered.of(one, methods, progress=stages(f"{one.exam.task.name} on {one.exam.zoo.name}")) for one in asked]
    tables = [found.table for found in answered]
    ranks, progress = rank_table(tables), stages("pictures")
    sections = [Section("All questions", "", (ranks,))] if ranks else []
    for done, found in enumerate(answered):
        progress(done, len(answered), found.table.title)
        sections.append(question_section(found))
    progress(len(answered), len(answered))
    places = dict.fromkeys((table.zoo, table.task.split) for table in tables)
    sections += filter(None, (transfer_section(tables, zoo, split) for zoo, split in places))
    return sections + [audit_section(path, audit) for path, audit in audits.items()]


def _about(runs: Sequence[Run], unread: Sequence[Unread]) -> list[Section]:
    """Where runs took place, and which are not shown."""
    places = [Section("Runs", "", (environment_table(runs),))] if runs else []
    lead = "Found in the folders, and not shown."
    return places + ([Section("Left out", lead, (unread_table(unread),))] if unread else [])


def _facts(paths: Sequence[Path], asked: Sequence[Asked], runs: Sequence[Run]) -> dict[str, str]:
    """What the page is about, by what each fact is called."""
    commits = dict.fromkeys(filter(None, (commit(run.result.environment) for run in runs)))
    zoos = dict.fromkeys(f"{one.exam.zoo.name} version {one.exam.zoo.version}" for one in asked)
    found = {
        "from": ", ".join(map(str, paths)),
        "zoos": ", ".join(zoos),
        "commit" if len(commits) == 1 else "commits": ", ".join(commits),
        "runs": f"{len(runs):,}, scored again from their saved predictions" if runs else "",
    }
    return {name: text for name, text in found.items() if text}


def rendered_page(sections: Sequence[Section], *, about: Mapping[str, str]) -> str:
    """The HTML of sections; every text of theirs is escaped.

    Args:
        sections: In their order.
        about: Facts about all of them, by what each is called.
    """
    created = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    content = {"title": "Methods that read neural networks", "created": created, "version": __version__}
    content |= {"sections": sections, "about": about, "style": template("page.css")}
    return page_environment().get_template("page.html").render(content)


def template(name: str) -> str:
    """The text of a file of the report: ``page.css`` is how pages look, ``pictures.html`` how pictures are drawn."""
    return (resources.files(__package__ or "") / name).read_text(encoding="utf-8")


def page_environment(*loaders: jinja2.BaseLoader) -> jinja2.Environment:
    """Where pages are rendered: every text is escaped, and a name that is not known is a fault.

    Args:
        loaders: Of further templates, which come before those of the report.
    """
    loader = jinja2.ChoiceLoader([*loaders, jinja2.FunctionLoader(template)])
    options = {"trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.StrictUndefined}
    return jinja2.Environment(loader=loader, autoescape=True, **options)


def _found(paths: Sequence[Path]) -> tuple[list[Run], list[Unread], dict[Path, Audit]]:
    """Runs, each once, those that cannot be read, and audits."""
    found, audits = dict[Path, Run | Unread](), dict[Path, Audit]()
    for path in paths:
        if path.is_dir():
            found |= {run.folder.resolve(): run for run in find_runs(path)}
        elif path.is_file():
            audits[path] = read_json(path, Audit)
        else:
            raise ResultError(
                f"{str(path)!r} does not exist; expected a folder of runs, or a file that `ngbench audit --out` wrote"
            )
    runs = [run for run in found.values() if isinstance(run, Run)]
    return runs, [run for run in found.values() if isinstance(run, Unread)], audits
