"""What a submission says: who made the method, which questions it answers, and what fitting it took.

These models are the format of ``submission.json``; their JSON schema is published by `json_schema`. Whatever stands here is a
claim: it is shown as text, and no score of a table follows from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    StringConstraints,
    ValidationError,
)

FORMAT_VERSION = 1
FILE = "submission.json"
MIN_SEEDS = 3
"""Fits that a place in a table takes."""

# No control characters and none that turn the direction of writing, by which a name could look like another.
_PRINTED = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$"
_LINK = r"^https?://[^\s<>\x22'\x00-\x20\x7f-\x9f\u2028-\u202e\u2066-\u2069]+$"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
_SHA256 = r"^[0-9a-f]{64}$"
_TRACK = r"^(none|hyperparameters|weights|truth|probes-[1-9][0-9]{0,5})$"

_IN_WORDS = {
    _PRINTED: "expected one line of text without control characters",
    _LINK: "expected a link that begins with http:// or https://",
    _NAME: "expected a name of at most 64 letters, digits, dots, hyphens and underscores",
    _SHA256: "expected a sha256 of 64 hexadecimal digits",
    _TRACK: "expected weights, probes-8 or the like, hyperparameters, none or truth",
}

Text = Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=_PRINTED)]
"""A line that is shown as it stands; it may hold signs that HTML gives a meaning, and is escaped where it is shown."""

Link = Annotated[str, StringConstraints(max_length=300, pattern=_LINK)]
"""An address of the web; no other kind, such as ``javascript:``, may stand behind a link of a page."""

Name = Annotated[str, StringConstraints(pattern=_NAME)]
"""A name of ngbench, such as of a task, a zoo or a column; safe as part of a path."""

Sha256 = Annotated[str, StringConstraints(pattern=_SHA256)]

Track = Annotated[str, StringConstraints(pattern=_TRACK)]
"""What a method reads of a network, as of `ngbench.methods.MethodInfo.track`; tracks are never mixed."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Question(_Record):
    """What is asked of the test networks of a zoo.

    Attributes:
        task: Name of a task.
        task_version: Of its protocol.
        zoo: Name of the zoo.
        zoo_version: Its version.
        zoo_sha256: Of the zoo file, as its seal has it.
        split: Name of the split.
        target: Column that is asked about; None for a task without.
    """

    task: Name
    task_version: PositiveInt
    zoo: Name
    zoo_version: Name
    zoo_sha256: Sha256
    split: Name = "default"
    target: Name | None = None

    @property
    def folder(self) -> str:
        """Where the predictions for it stand in an archive."""
        split = "" if self.split == "default" else f"-{self.split}"
        target = "" if self.target is None else f"-{self.target}"
        return f"predictions/{self.task}/{self.zoo}{split}{target}"

    def __str__(self) -> str:
        about = "" if self.target is None else f" about {self.target}"
        split = "" if self.split == "default" else f", split {self.split}"
        return f"{self.task} on {self.zoo}{about}{split}"


class Fit(_Record):
    """One fit of the method.

    Attributes:
        seed: Of all that is random in it.
        num_parameters: Learned numbers of the method.
        fit_s: Seconds of training, selection included.
        predict_s: Seconds to answer for the test networks once.
        peak_memory_bytes: Most memory; None where it was not measured.
        claimed: Scores as the authors have them, by metric; they are compared with those that follow from the predictions.
    """

    seed: Count
    num_parameters: Count
    fit_s: Seconds
    predict_s: Seconds
    peak_memory_bytes: Count | None = None
    claimed: dict[Name, Finite] = Field(default={}, max_length=100)


class Answers(_Record):
    """What the method says to one question, with several seeds.

    Attributes:
        question: Which.
        track: What the method reads of a network.
        trained_on: Parts of the split that the method was fitted on and chosen by; no run of these is in the test part.
        hardware: What it ran on.
        settings: The method's configuration, as text.
        fits: One for each seed.
    """

    question: Question
    track: Track
    trained_on: tuple[Literal["train", "val"], ...] = Field(min_length=1, strict=False)
    hardware: Text
    settings: dict[Text, Text] = Field(default={}, max_length=200)
    fits: tuple[Fit, ...] = Field(min_length=1, max_length=100, strict=False)

    def path(self, fit: Fit) -> str:
        """Where the predictions of a fit stand in an archive."""
        return f"{self.question.folder}/seed-{fit.seed}.npz"


class About(_Record):
    """Who made which method.

    Attributes:
        title: Name of the method, as it is printed.
        authors: Names of people.
        external_data: Whether it learned from anything but the networks of the zoo that it answers for.
        description: What it does, in a sentence or two.
        paper: Citation, or a link.
        code: Where its code can be read.
    """

    title: Annotated[Text, StringConstraints(max_length=80)]
    authors: tuple[Text, ...] = Field(min_length=1, max_length=100, strict=False)
    external_data: bool
    description: Annotated[Text, StringConstraints(max_length=2000)] | None = None
    paper: Text | None = None
    code: Link | None = None


class Submission(_Record):
    """All that ``submission.json`` says.

    Attributes:
        format_version: Of the file.
        about: Who made which method.
        answers: One for each question.
    """

    format_version: Literal[1] = FORMAT_VERSION
    about: About
    answers: tuple[Answers, ...] = Field(min_length=1, max_length=200, strict=False)

    @property
    def paths(self) -> tuple[str, ...]:
        """Of all predictions in an archive, in the order of the answers and their fits."""
        return tuple(answers.path(fit) for answers in self.answers for fit in answers.fits)


def json_schema() -> dict[str, Any]:
    """The JSON schema of ``submission.json``."""
    made = Submission.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made, "title": "ngbench submission"}


def parse_submission(text: bytes | str) -> tuple[Submission | None, list[str]]:
    """What a ``submission.json`` says, or everything that is wrong with it, a sentence each.

    Args:
        text: The file.

    Returns:
        The submission, None where there are faults; and the faults.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        return None, [f"{FILE} is no JSON ({error}); expected an object as `ngbench validate --schema` describes it"]
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION or isinstance(version, bool):
        newer = "; upgrade ngbench" if isinstance(version, int) and version > FORMAT_VERSION else ""
        return None, [f"{FILE} has format_version {version!r:.40}; expected {FORMAT_VERSION}{newer}"]
    try:
        return Submission.model_validate(content), []
    except ValidationError as error:
        return None, list(faults_of(error, FILE))


def faults_of(error: ValidationError, source: str) -> Iterator[str]:
    """Every fault that a validation found, a sentence each.

    Args:
        error: Of pydantic.
        source: Name of what was validated.
    """
    faults = error.errors(include_url=False)
    # of a list with a wrong entry pydantic also says that it is too short
    inner = {fault["loc"][:length] for fault in faults for length in range(len(fault["loc"]))}
    for fault in faults:
        if fault["loc"] in inner:
            continue
        where = ".".join(str(part) for part in fault["loc"]) or "the whole"
        message = _IN_WORDS.get(fault.get("ctx", {}).get("pattern", ""), fault["msg"][0].lower() + fault["msg"][1:])
        got = "" if fault["type"] == "missing" else f", got {shortened(fault['input'])}"
        yield f"{source}: {where}: {message}{got}"


def shortened(value: Any, most: int = 80) -> str:
    """A value as it may stand in a sentence: one line, with escapes for signs that are not printed, not long."""
    text = ascii(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def plain(sentence: str, most: int = 600) -> str:
    """A sentence as it may be shown in a terminal: names in it that came from a stranger may hold signs that steer one.

    Args:
        sentence: Any text.
        most: Signs that are kept.
    """
    text = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in sentence)
    return text if len(text) <= most else f"{text[: most - 1]}…"
