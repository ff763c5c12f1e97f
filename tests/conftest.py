"""Settings for the whole suite."""

from __future__ import annotations

from hypothesis import settings

# A machine under load draws slowly, which is no fault of the code; and a run is the same on every machine.
settings.register_profile("ngbench", deadline=None, derandomize=True, database=None)
settings.load_profile("ngbench")
