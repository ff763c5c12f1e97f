"""What was fitted, used on people's own networks: takes a run folder and modules with weights, gives answers with warnings.

Knows what a run keeps of a method, and what networks it was fitted on; does not know what is inside a method, or the terminal.
"""

from ngbench.evaluation.domain import Domain
from ngbench.evaluation.kept import KeptRun, keep, open_run
from ngbench.evaluation.use.merge import Merged, merge_networks
from ngbench.evaluation.use.networks import OwnModule, read_state_dict, write_state_dict
from ngbench.evaluation.use.predict import Answer, predict
from ngbench.evaluation.use.search import Hit, search

__all__ = [
    "Answer",
    "Domain",
    "Hit",
    "KeptRun",
    "Merged",
    "OwnModule",
    "keep",
    "merge_networks",
    "open_run",
    "predict",
    "read_state_dict",
    "search",
    "write_state_dict",
]
