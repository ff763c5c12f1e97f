"""Every error that ngbench raises on purpose, named by what the user must do.

The command line prints one of these as one line and exits with code 2; any other exception is a fault of ngbench itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class NgbenchError(Exception):
    """Root of all errors that a user can mend; its text is one sentence that says how."""


class UnknownNameError(NgbenchError):
    """A name that is not registered: choose one of the names that the text offers.

    Args:
        kind: What was looked up, for example ``"method"``.
        name: The name that was asked for.
        known: The names that exist.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        close = difflib.get_close_matches(name, self.known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
        super().__init__(f"unknown {kind} {name!r}: {hint}known: {', '.join(self.known) or 'none'}")

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, tuple[str, ...]]]:
        return type(self), (self.kind, self.name, self.known)


class RegistrationError(NgbenchError):
    """Two things were registered under one name, or an entry point does not load: rename or repair it."""


class UnsupportedLayerError(NgbenchError):
    """A module has an operation that no neural graph can express yet: change the module or open an issue."""


class SourceError(NgbenchError):
    """A module cannot be found, made or read: name one that exists, as ``package.module:factory`` or a safe ``.pt2`` file."""


class WeightsError(NgbenchError):
    """A file of weights cannot be read or written, or does not fit its module: name a state dict of tensors for it."""


class PictureError(NgbenchError):
    """A picture cannot be written: choose a folder that exists, and a format that the text names."""


class GraphError(NgbenchError):
    """Values and topology do not fit together: pass values of the named shape."""


class RecipeError(NgbenchError):
    """A recipe file is wrong: mend the named key."""


class ImagesError(NgbenchError):
    """An image corpus cannot be read: pass another folder or hub id."""


class TrainingError(NgbenchError):
    """Training cannot go on: lower the learning rate, or see the named network."""


class ClusterError(NgbenchError):
    """A Ray cluster cannot be used, or its workers die: install Ray, or name a cluster that has what the text asks for."""


class StoreFormatError(NgbenchError):
    """A zoo file is truncated, corrupt, foreign or newer than this ngbench: fetch it again or upgrade."""


class StoreWriteError(NgbenchError):
    """A zoo file cannot be written: make room on the disk, or mend the named network."""


class CardError(NgbenchError):
    """A zoo has no data card to complete: write one, with the markers."""


class ChecksumError(NgbenchError):
    """A zoo file is not the one that was released under its name: fetch it again."""


class HubError(NgbenchError):
    """The Hugging Face Hub cannot be reached or refuses: check the name, the network, the endpoint and the token."""


class DownloadError(NgbenchError):
    """A file does not come from where it is offered: run again, which goes on, or fetch it by hand and import it."""


class ForeignZooError(NgbenchError):
    """Files of a published zoo are missing, damaged, unsafe or laid out otherwise than published: fetch them again."""


class SplitError(NgbenchError):
    """A split is missing, overlaps, or cuts a run in two: use a split that the zoo has."""


class WithheldError(NgbenchError):
    """The host of a zoo keeps its answers: hand predictions in, or name the answer file if you are the host."""


class ConfigError(NgbenchError):
    """An option of a method or a run has a wrong name or value: use one that the text names."""


class MethodError(NgbenchError):
    """A method cannot be loaded, or cannot do what was asked of it: choose another method or task."""


class NotApplicableError(MethodError):
    """A method does not offer what a task asks for, or cannot read the networks of a zoo: it has no score there."""


class PredictionsError(NgbenchError):
    """Predictions do not match the test split: give one finite row for each id, once."""


class ResultError(NgbenchError):
    """A result file or run folder cannot be read: name a folder that ``ngbench run`` wrote."""


class SubmissionError(NgbenchError):
    """A submission, or a record of one, breaks the rules: mend all that the text names.

    Args:
        faults: Everything that is wrong, a sentence each.
        source: Which file.
    """

    def __init__(self, faults: Sequence[str], source: str):
        self.faults, self.source = tuple(faults), source
        super().__init__(f"{source}: {'; '.join(self.faults)}")

    def __reduce__(self) -> tuple[type[SubmissionError], tuple[tuple[str, ...], str]]:
        return type(self), (self.faults, self.source)


class AuditError(NgbenchError):
    """An audit cannot be trusted: a group element changed what a network computes, so that nothing follows from what moved."""
