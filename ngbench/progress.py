"""How long work tells its caller how far it is; the command line draws it, a library caller may ignore it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called as work advances: ``progress(done, total, text)``, units of work done and a short text such as a metric."""

    def __call__(self, done: int, total: int, text: str = "", /) -> None:
        """Tells how much is done."""


class Stages(Protocol):
    """Called as each stage of a longer work begins, with its label; gives the stage's own `Progress`."""

    def __call__(self, label: str, /) -> Progress:
        """Begins a stage."""
        ...


def silent(done: int, total: int, text: str = "", /) -> None:
    """A `Progress` that shows nothing."""


def silent_stages(label: str, /) -> Progress:
    """`Stages` that show nothing."""
    return silent
