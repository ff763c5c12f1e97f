"""What a fitted method expects of people's own networks, with an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ngbench.errors import ConfigError, MethodError
from ngbench.evaluation.kept import KeptRun
from ngbench.evaluation.use.networks import OwnModule
from ngbench.graph import NeuralGraph


@dataclass(frozen=True)
class Answer:
    """What is expected of one network.

    Args:
        network: Its name.
        value: The number, or for classes the name of the most probable.
        low: Lower end of the interval; None for classes.
        high: Its upper end.
        spread: Standard deviation over the seeds of the run, unbiased; None for classes, and for one seed.
        probabilities: By class; empty for a number.
        objections: Why the network is unlike those of training, so that neither number nor interval can be relied on.
    """

    network: str
    value: float | str
    low: float | None
    high: float | None
    spread: float | None
    probabilities: dict[str, float]
    objections: tuple[str, ...]


def predict(
    run: KeptRun, module: OwnModule, graphs: Sequence[NeuralGraph], *, names: Sequence[str], level: float = 0.95
) -> list[Answer]:
    """The mean of the seeds' predictions for networks.

    The interval of a number is that of split conformal prediction (Lei et al. 2018, arXiv:1604.04173, Section 2.2): as far
    around the mean as the seeds' mean was wrong for a share `level` of the validation networks, within the task's bounds. It
    covers that share of networks drawn as those of the zoo were, and perhaps a little less, since epochs were selected on the
    same networks.

    Args:
        run: A fitted method.
        module: Of the networks.
        graphs: The networks.
        names: What they are called, ``[graphs]``.
        level: Share of networks whose answer the interval should contain.

    Raises:
        ConfigError: The level is no share.
        MethodError: The run's task asks for no prediction.
        NgbenchError: The method cannot read these networks.
    """
    if not 0 < level < 1:
        raise ConfigError(f"level is {level!r}; expected a share between 0 and 1, such as 0.95")
    if run.first.kind not in ("regression", "classification"):
        raise MethodError(f"{run.folder} is a run of {run.first.task}, which predicts nothing; expected one that does")
    objections = [run.domain.objections(graph) for graph in graphs]
    networks = module.dataset([run.domain.in_words_of_training(graph) for graph in graphs], names)
    values = run.ask("predict", networks)
    if run.first.kind == "classification":
        return [_class(run, name, row, why) for name, row, why in zip(names, values.mean(axis=0), objections, strict=True)]
    radius = conformal_radius(run.residuals(), level)
    return [_number(run, name, row, radius, why) for name, row, why in zip(names, values.T, objections, strict=True)]


def conformal_radius(residuals: np.ndarray, level: float) -> float:
    """The k-th smallest of n residuals, k the next whole number from (n + 1) times the level; infinite where that exceeds n."""
    rank = math.ceil((len(residuals) + 1) * level)
    return float(np.sort(residuals)[rank - 1]) if rank <= len(residuals) else math.inf


def _number(run: KeptRun, name: str, values: np.ndarray, radius: float, objections: tuple[str, ...]) -> Answer:
    """The answer of the seeds' predictions ``[seeds]``."""
    least, most = run.first.bounds
    mean = float(values.mean())
    spread = float(values.std(ddof=1)) if len(values) > 1 else None
    return Answer(name, mean, max(least, mean - radius), min(most, mean + radius), spread, {}, objections)


def _class(run: KeptRun, name: str, probabilities: np.ndarray, objections: tuple[str, ...]) -> Answer:
    of_classes = dict(zip(run.first.classes, probabilities.tolist(), strict=True))
    return Answer(name, max(of_classes, key=of_classes.__getitem__), None, None, None, of_classes, objections)
