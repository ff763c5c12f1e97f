"""ngbench: a trained network is one data point; a suite of zoos, tasks and baselines for learning over neural networks.

``ngbench.open_zoo`` opens a zoo of trained networks, ``ngbench.run`` measures one method on one task.
Importing this package loads neither torch nor scikit-learn: both names load when they are first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ngbench.evaluation import run
    from ngbench.store import open_zoo

__version__ = "0.1.0"

__all__ = ["__version__", "open_zoo", "run"]

_MODULE_OF = {"open_zoo": "ngbench.store", "run": "ngbench.evaluation"}


def __getattr__(name: str) -> Any:
    """Loads ``open_zoo`` or ``run`` from its stage (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
