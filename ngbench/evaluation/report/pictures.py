"""From what methods said to pictures: predicted against true, confusion, reliability, maps of embeddings, curves of merging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ngbench.evaluation.exam import Scored
from ngbench.evaluation.report.chart import Axis, Chart, Mark, Matrix, Plot
from ngbench.evaluation.tables import Question
from ngbench.metrics.classification import NUM_BINS
from ngbench.tasks import Task

MOST_DOTS = 600
"""Points of a picture; of more a random choice is drawn."""

UNMOVED = 1e-6
"""Share of the range of the answers below which permuting hidden neurons is not drawn apart."""


def standing(question: Question) -> Chart | None:
    """The primary metric of every method with its interval, beside that on scrambled networks; None without any result."""
    rows = [(name, result, result.interval) for name, result in question.results.items() if result.interval is not None]
    if not rows:
        return None
    metric = question.task.primary
    found = [(own.low, own.high, own.score, result.scrambled_scores[metric.name].mean) for _, result, own in rows]
    low, high, score, scrambled = np.array(found).T
    heights = -np.arange(len(rows), dtype=np.float64)
    arrow = "→" if metric.higher_is_better else "←"
    # from zero, to the best where there is one: pictures of different questions and methods can be compared
    best = metric.bounds[1] if np.isfinite(metric.bounds[1]) else 0.0
    least, most = min(0.0, float(np.min(found))), max(best, float(np.max(found)))
    x = Axis.exact(f"{metric.title} ({arrow} better)", least, most or 1.0)
    plot = Plot(x, Axis.names([name for name, *_ in rows]), height=56 + 28 * len(rows), left=136)
    marks = (
        Mark(plot.bars(low, high, heights), "line", f"{rows[0][2].confidence:.0%} interval"),
        Mark(plot.dots(score, heights), "dots", "as trained"),
        Mark(plot.dots(scrambled, heights - 0.25, shape="diamond"), "dots", "hidden neurons permuted", 1, "diamond"),
    )
    are_several = any(len(result.seeds) > 1 for _, result, _ in rows)
    note = "Mean over seeds; interval over test networks and seeds." if are_several else "Interval over test networks."
    return Chart(f"{metric.title} of all methods", plot, marks, note)


def scatter(title: str, task: Task, targets: np.ndarray, scored: Scored) -> Chart:
    """Predicted against true answers, and those for the scrambled networks where they differ.

    Args:
        title: Whose answers they are.
        task: A regression.
        targets: True answers, ``[graphs]``.
        scored: Of one seed.
    """
    shown = _chosen(len(targets))
    copies = {"as trained": scored.values, "hidden neurons permuted": scored.scrambled[0]}
    if np.abs(scored.shifts).max() <= UNMOVED * np.ptp(targets):
        del copies["hidden neurons permuted"]
    ends = [np.quantile(values, [0.005, 0.995]) for values in copies.values()]
    low, high = min(targets.min(), *(e[0] for e in ends)), max(targets.max(), *(e[1] for e in ends))
    across, up = (Axis.around(f"{word} {task.label()}", float(low), float(high)) for word in ("true", "predicted"))
    plot = Plot(across, up)
    dots = [
        Mark.dots(plot, targets[shown], values[shown], label=name, place=place)
        for place, (name, values) in enumerate(copies.items())
    ]
    outside = sum(int((np.clip(values[shown], plot.y.low, plot.y.high) != values[shown]).sum()) for values in copies.values())
    notes = [
        f"{task.primary.title} {scored.scores[task.primary.name]:.3f}.",
        _shown(len(shown), len(targets)),
        "" if len(copies) > 1 else "Permuting hidden neurons moves no point.",
        f"Beyond the frame: {outside}." if outside else "",
    ]
    guide = Mark(plot.line(np.array([plot.x.low, plot.x.high]), np.array([plot.x.low, plot.x.high])), "guide", "predicted = true")
    return Chart(title, plot, (guide, *reversed(dots)), " ".join(filter(None, notes)))


def confusion(title: str, task: Task, classes: Sequence[str], targets: np.ndarray, scored: Scored) -> Matrix:
    """How often each class was taken for each.

    Args:
        title: Whose answers they are.
        task: A classification.
        classes: Their names.
        targets: True classes, ``[graphs]``.
        scored: Of one seed.
    """
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (targets, scored.values.argmax(axis=1)), 1)
    note = f"Accuracy {scored.scores['accuracy']:.3f}. " if "accuracy" in scored.scores else ""
    note += "Framed: right. The fuller, the larger the share of the row."
    return Matrix(title, counts, tuple(classes), task.label(), note)


def reliability(title: str, targets: np.ndarray, scored: Scored) -> Chart:
    """How often answers are right, by how sure they are, in the bins of the calibration error.

    Args:
        title: Whose answers they are.
        targets: True classes, ``[graphs]``.
        scored: Of one seed.
    """
    confidence, right = scored.values.max(axis=1), scored.values.argmax(axis=1) == targets
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
    counts = np.bincount(bins, minlength=NUM_BINS)
    (full,) = np.nonzero(counts)
    sums = (np.bincount(bins, weights=values, minlength=NUM_BINS)[full] / counts[full] for values in (confidence, right))
    plot = Plot(Axis.exact("confidence", 0, 1), Axis.exact("share", 0, 1))
    edges = full / NUM_BINS
    marks = [
        Mark(
            plot.rectangles(edges, edges + 1 / NUM_BINS, counts[full] / counts.sum()), "area", "of all networks, those so sure", 5
        ),
        Mark(plot.line(np.array([0, 1]), np.array([0, 1])), "guide", "as right as sure"),
        Mark.dots(plot, *sums, label="of those so sure, the right ones"),
    ]
    note = f"ECE {scored.scores['ece']:.3f}, {len(targets):,} networks in {NUM_BINS} bins." if "ece" in scored.scores else ""
    return Chart(title, plot, tuple(marks), note)


def embedding_map(title: str, classes: Sequence[str], labels: np.ndarray, embeddings: np.ndarray) -> Chart:
    """Embeddings in two dimensions, coloured by class: t-SNE of their directions, or the two largest components of a few.

    Args:
        title: Whose embeddings they are.
        classes: Their names.
        labels: Of each network, ``[graphs]``.
        embeddings: ``[graphs, features]``.
    """
    shown = _chosen(len(labels))
    places, name = _flattened(np.asarray(embeddings[shown], dtype=np.float64))
    ends = zip(places.min(axis=0).tolist(), places.max(axis=0).tolist(), strict=True)
    across, up = (Axis.around(f"{name} {k}", *both) for k, both in enumerate(ends, start=1))
    # its units mean nothing
    plot = Plot(replace(across, ticks=()), replace(up, ticks=()), left=24, bottom=24)
    marks = [
        Mark.dots(plot, *places[labels[shown] == number].T, label=label, place=number)
        for number, label in enumerate(classes)
        if (labels[shown] == number).any()
    ]
    return Chart(title, plot, tuple(marks), f"{name} of directions. {_shown(len(shown), len(labels))}".strip())


def _flattened(embeddings: np.ndarray) -> tuple[np.ndarray, str]:
    """Coordinates ``[graphs, 2]`` and what they are."""
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    centred = np.divide(embeddings, length, out=np.zeros_like(embeddings), where=length > 0)
    centred = centred - centred.mean(axis=0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    components = np.pad((left * size)[:, :50], ((0, 0), (0, 2)))
    if len(embeddings) < 30 or len(np.unique(np.round(components, 9), axis=0)) < 30:
        return components[:, :2], "PCA"
    from sklearn.manifold import TSNE

    # t-SNE begins at the components, which it scales by their spread
    found = TSNE(perplexity=min(30, len(embeddings) / 5), init="pca", random_state=0).fit_transform(components)
    return np.asarray(found, dtype=np.float64), "t-SNE"


def lines(
    title: str, x_label: str, y_label: str, x: np.ndarray, curves: Mapping[str, np.ndarray], *, is_share: bool = False
) -> Chart:
    """A line for each method, over an axis that begins at zero.

    Args:
        title: Of the picture.
        x_label: Of what the points differ in.
        y_label: Of what is measured.
        x: Rising, ``[points]``.
        curves: By method, ``[points]``.
        is_share: Whether what is measured ends at one.
    """
    every = np.concatenate(list(curves.values()))
    low, high = min(0.0, float(every.min())), float(every.max())
    y = Axis.exact(y_label, low, 1.0 if high <= 1 and is_share else low + 1.04 * ((high - low) or 1.0))
    plot = Plot(Axis.exact(x_label, float(x[0]), float(x[-1])), y)
    marks = [Mark.line(plot, x, values, label=name, place=place) for place, (name, values) in enumerate(curves.items())]
    return Chart(title, plot, tuple(marks))


def _chosen(count: int) -> np.ndarray:
    """Positions that are drawn, rising."""
    if count <= MOST_DOTS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, MOST_DOTS, replace=False))


def _shown(shown: int, count: int) -> str:
    return f"{shown:,} of {count:,} networks, drawn at random." if shown < count else f"{count:,} networks."
