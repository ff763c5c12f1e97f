"""Runs and scores: takes methods, a task and a zoo, gives results with their predictions, or scores predictions again.

Knows the protocol; does not know what is inside a method, or how results are shown.
"""

from ngbench.evaluation.evaluate import exam_of
from ngbench.evaluation.identity import run_folder
from ngbench.evaluation.predictions import Predictions
from ngbench.evaluation.protocol import run, run_beside_baselines
from ngbench.evaluation.rescoring import rescore
from ngbench.evaluation.result import Result, SeedResult

__all__ = ["Predictions", "Result", "SeedResult", "exam_of", "rescore", "run", "run_beside_baselines", "run_folder"]
