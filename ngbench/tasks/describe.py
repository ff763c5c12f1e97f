"""The protocol in words, from the same files that the code reads."""

from __future__ import annotations

from collections.abc import Iterable

from ngbench.metrics import facts_of
from ngbench.tasks.task import Task


def as_markdown(tasks: Iterable[Task]) -> str:
    """A section for each task, and what all share, as Markdown."""
    return "\n\n".join(["# The protocol", SHARED, *map(_section, tasks)]) + "\n"


SHARED = """Every method gets the same splits, budget, loss, rule of selection and seeds. The test split is scored once, by the
evaluator, from predictions that are kept; its answers never reach a method. A method that lacks what a task asks for is not
applicable there, which is no score of zero, and has no mean over tasks. Methods are ranked within their track alone: `weights`
reads parameters, `probes` also runs the networks on inputs. Beside each score stands the worst over orbit-scrambled copies of the
test split, in which every network is replaced by an equivalent one. Differences are tested by a paired bootstrap over test
networks and seeds; methods whose difference to the best of their track may be nothing are tied with it."""


def _section(task: Task) -> str:
    zoos = "; ".join(f"`{zoo}`" + (f": {', '.join(targets)}" if targets else "") for zoo, targets in task.zoos.items())
    metrics, more = ([facts_of(name) for name in names] for names in (task.metrics, task.more_metrics))
    rows = {
        "asked of": zoos,
        "answer": {
            "regression": f"a number from {task.target_bounds[0]:g} to {task.target_bounds[1]:g} for each network",
            "classification": "a probability of each class for each network",
            "retrieval": "an embedding of each network; ranked by cosine",
            "merging": "an embedding of each node, by which the evaluator matches two networks, by optimal transport where their "
            "widths are unequal; or the matching itself, of networks of equal widths",
        }[task.kind],
        **({"in the structure itself": ", ".join(task.in_structure) + "; needs no weights"} if task.in_structure else {}),
        "metrics": ", ".join(
            f"{metric.title} ({'higher' if metric.higher_is_better else 'lower'} is better)" for metric in metrics
        ),
        **({"in result files also": "; ".join(metric.title for metric in more)} if more else {}),
        "chosen on validation by": facts_of(task.selection).title,
        "loss": task.loss + (f"; the fits of `{task.fitted_as}` are taken over" if task.fitted_as else ""),
        "budget": f"{task.max_epochs} epochs, or {task.num_candidates} candidates of a method without epochs",
        "seeds": str(task.num_seeds),
        "scrambled copies": str(task.num_scrambled),
        "intervals": f"{task.confidence:.0%}, {task.num_resamples:,} resamples",
        **_plan(task),
        "always in the table": ", ".join(f"`{name}`" for name in task.baselines),
    }
    table = "\n".join(f"| {name} | {text} |" for name, text in rows.items())
    explained = "\n".join(f"* {metric.title}: {metric.description}" for metric in (*metrics, *more))
    return (
        f"## {task.title}\n\n*{task.question}* `{task.name}`, version {task.version}.\n\n| | |\n|---|---|\n{table}\n\n{explained}"
    )


def _plan(task: Task) -> dict[str, str]:
    """Rows of what only tasks of the kind have."""
    if task.retrieval is not None:
        near, inputs = task.retrieval.num_near, task.retrieval.num_inputs
        held = f"of an INR the image, of a classifier probabilities for {inputs} images of all corpora, each once"
        return {"near in function": f"the {near} nearest networks, by outputs on held-out inputs that the zoo holds: {held}"}
    if task.merging is None:
        return {}
    plan = task.merging
    noises, sizes = (", ".join(f"{number:g}" for number in numbers) for numbers in (plan.noises, plan.set_sizes))
    return {
        "drawn": (
            f"{plan.num_pairs} pairs, {plan.num_triples} triples and {plan.num_sets} sets of {plan.largest_set}, each of at most "
            f"{plan.pool_size} networks of one architecture and corpus; where a zoo has such, {plan.num_pairs} pairs also of one "
            "architecture in unequal widths"
        ),
        "copies": f"of {plan.num_recoveries} networks, permuted, with noise of {noises} standard deviations of the weights",
        "merged": f"the first {sizes} networks of each set",
        "lines": f"{plan.num_points} points, both ends among them",
        "run on": (
            f"at most {plan.num_test_images:,} images of the test part; "
            f"for statistics at most {plan.num_train_images:,} of the training part"
        ),
    }
