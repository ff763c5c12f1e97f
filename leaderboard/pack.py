"""Finished runs as the archive of a submission."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from leaderboard.archive import write_archive
from leaderboard.submission import About, Answers, Fit, Question, Submission, faults_of
from ngbench.errors import PredictionsError, ResultError, SubmissionError
from ngbench.evaluation.environment import Environment
from ngbench.evaluation.evaluate import PREDICTIONS_FILE, seed_folder
from ngbench.evaluation.result import RESULT_FILE, Result, SeedResult

LONGEST_SETTING = 300


def pack_runs(runs: Sequence[Path], out: Path, *, about: Mapping[str, Any], method: str | None = None) -> Submission:
    """Packs the predictions of finished runs of one method, and what their results say of it.

    Args:
        runs: Run folders, or folders above some.
        out: The .zip that is written.
        about: The keys of `About`; the title may be left out, and is then the method's own.
        method: The only one whose runs are packed; None where the folders hold no other.

    Raises:
        SubmissionError: There is no run, one of another method, one that no submission can hold, two of one question, or the keys
            are wrong.
        ResultError: A result cannot be read.
        PredictionsError: The predictions of a run are gone.
    """
    found = list(find_results(runs, method))
    _check_one_method([result for _, result in found])
    answers = tuple(answers_of(result) for _, result in found)
    _check_questions(answers)
    described = parse_about({"title": found[0][1].title, **about})
    files = {
        own.path(fit): _content(seed_folder(folder, fit.seed) / PREDICTIONS_FILE)
        for (folder, _), own in zip(found, answers, strict=True)
        for fit in own.fits
    }
    submission = Submission(about=described, answers=answers)
    write_archive(out, submission, files)
    return submission


def find_results(runs: Iterable[Path], method: str | None = None) -> Iterator[tuple[Path, Result]]:
    """Run folders and their results, those in or below some folders, each once.

    Args:
        runs: The folders.
        method: The only one whose results are given; None for all.

    Raises:
        SubmissionError: A folder holds none.
        ResultError: A result cannot be read.
    """
    seen: set[Path] = set()
    for run in runs:
        folders = sorted(path.parent for path in run.rglob(RESULT_FILE))
        loaded = [(folder, Result.load(folder)) for folder in folders]
        chosen = [(folder, result) for folder, result in loaded if method in (None, result.method)]
        if not chosen:
            which = "a run" if method is None else f"a run of method {method!r}"
            raise SubmissionError([f"holds no {RESULT_FILE} of {which}; expected a folder that `ngbench run` finished"], str(run))
        for folder, result in chosen:
            if folder.resolve() not in seen:
                seen.add(folder.resolve())
                yield folder, result


def _check_one_method(results: Sequence[Result]) -> None:
    methods = Counter(result.method for result in results)
    if len(methods) > 1:
        raise SubmissionError(
            [f"hold runs of {', '.join(sorted(methods))}; expected those of one method: name it with --method"], "the run folders"
        )


def _check_questions(answers: Sequence[Answers]) -> None:
    for question, count in Counter(own.question for own in answers).items():
        if count > 1:
            raise SubmissionError([f"{question} is answered by {count} runs; expected one: name its folder"], "the run folders")


def parse_about(keys: Mapping[str, Any]) -> About:
    """What a submission says of its method.

    Args:
        keys: Those of `About`.

    Raises:
        SubmissionError: A key is missing, unknown or has a wrong value; the error has all of them.
    """
    try:
        return About.model_validate(dict(keys))
    except ValidationError as error:
        raise SubmissionError(
            [*faults_of(error, "about"), f"the keys are {', '.join(About.model_fields)}"], "metadata"
        ) from error


def read_about(path: Path) -> dict[str, Any]:
    """The keys of `About` in a YAML or JSON file.

    Raises:
        SubmissionError: There is no such file, or it is no mapping.
    """
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SubmissionError([f"cannot be read ({' '.join(str(error).split())}); expected YAML or JSON"], str(path)) from error
    if not isinstance(content, dict):
        raise SubmissionError([f"holds {type(content).__name__}; expected keys such as title and authors"], str(path))
    return content


def answers_of(result: Result) -> Answers:
    """What a result says of a submission's answers to its question.

    Raises:
        SubmissionError: It says something that a submission may not hold, such as the name of a zoo with a blank in it.
    """
    try:
        return Answers(
            question=_question_of(result),
            track=result.access,
            # methods are fitted on the one and chosen by the other, and shown no more
            trained_on=("train", "val"),
            hardware=_hardware(result.environment),
            settings={name: _as_text(value) for name, value in result.settings.items()},
            fits=tuple(_fit_of(seed) for seed in result.seeds),
        )
    except ValidationError as error:
        source = f"the run of method {result.method!r} on zoo {result.zoo!r}"
        raise SubmissionError(list(faults_of(error, RESULT_FILE)), source) from error


def _question_of(result: Result) -> Question:
    names = ("task", "task_version", "zoo", "zoo_version", "zoo_sha256", "split", "target")
    return Question(**{name: getattr(result, name) for name in names})


def _fit_of(seed: SeedResult) -> Fit:
    return Fit(
        seed=seed.seed,
        num_parameters=seed.num_parameters,
        fit_s=seed.fit_s,
        predict_s=seed.predict_s,
        peak_memory_bytes=seed.peak_memory_bytes,
        claimed={name: score for name, score in seed.scores.items() if math.isfinite(score)},
    )


def _hardware(environment: Environment) -> str:
    threads = f"{environment.num_threads} thread{'' if environment.num_threads == 1 else 's'}"
    return f"{environment.device}, {threads}, {environment.platform}"


def _as_text(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value)
    return text if len(text) <= LONGEST_SETTING else f"{text[: LONGEST_SETTING - 1]}…"


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise PredictionsError(f"no predictions file {path}; expected one that `ngbench run` wrote: run it again") from error
    except OSError as error:
        raise ResultError(f"{path} cannot be read ({error.strerror}); expected predictions that `ngbench run` wrote") from error
