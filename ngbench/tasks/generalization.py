"""Generalization: how accurate is a network on unseen data, from its weights alone (Unterthiner et al., 2020)?"""

from ngbench.tasks.task import Task

GENERALIZATION = Task(
    name="generalization",
    title="Predicting generalization",
    question="What is the network's test accuracy, read off its weights?",
    kind="regression",
    target="test_accuracy",
    target_label="test accuracy (fraction)",
    target_bounds=(0.0, 1.0),
    metrics=("kendall_tau", "spearman", "r2", "mae"),
    default_zoo="digits-cnn",
    baselines=("mean", "hyperparameters"),
    max_epochs=60,
    num_candidates=8,
)
