"""From a recipe to a zoo file: trains part by part, keeps each finished part, and packs them in the end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from ngbench.cluster import Executor
from ngbench.errors import RecipeError, TrainingError
from ngbench.graph import Topology, trace
from ngbench.graph.layout import pack
from ngbench.progress import Progress, silent
from ngbench.store.atomic_file import disk_errors
from ngbench.store.reader import Zoo
from ngbench.store.schema import ZooInfo
from ngbench.store.shards import Shards
from ngbench.store.writer import ZooWriter
from ngbench.zoo.architectures import Architecture, build, example_input
from ngbench.zoo.executor import run_parts
from ngbench.zoo.fit import fit
from ngbench.zoo.recipe import ClassifierRecipe, InrRecipe
from ngbench.zoo.run import run_of
from ngbench.zoo.train import train
from ngbench.zoo.trained import TrainedNetworks


def generate(
    recipe: ClassifierRecipe | InrRecipe,
    out: str | Path,
    *,
    shard_size: int | None = None,
    progress: Progress = silent,
    device: str = "cpu",
    limit: int | None = None,
    num_workers: int = 1,
    executor: Executor = "local",
) -> Zoo:
    """Trains all runs of a recipe and writes them to a zoo file.

    Parts stand in ``<out>.parts`` until the file is complete. Stopped at any moment and called again, it goes on after
    the last finished part, and the file is the same, byte for byte, as if it had never been stopped. Where the file
    already stands, it is opened.

    Args:
        recipe: What to train.
        out: The zoo file to write.
        shard_size: Most runs of a part, which is what is lost when it is stopped; a part has networks of one architecture. None
            for as many as train well side by side on the device.
        progress: Told the optimisation steps done and to do, summed over networks.
        device: A torch device.
        limit: Train only the first runs of the recipe, as many as this.
        num_workers: Processes of this machine that train side by side; the file does not depend on it.
        executor: Where parts are trained: on this machine, or on a Ray cluster; this machine alone writes files.

    Raises:
        RecipeError: The limit or shard size is below 1, the file is of another recipe, or its parts are.
        TrainingError: No run gave a finite network.
        ClusterError: The Ray cluster cannot be used.
        StoreFormatError: A part cannot be read.
        StoreWriteError: The disk is full.
    """
    path = Path(out)
    for name, number in (("limit", limit), ("shard_size", shard_size)):
        if number is not None and number < 1:
            raise RecipeError(f"{name} is {number}; expected at least 1")
    if limit is not None:
        recipe = recipe.model_copy(update={"num_runs": min(limit, recipe.num_runs)})
    shards = Shards(path.with_name(f"{path.name}.parts"), recipe, shard_size or _shard_size(recipe, device))
    if not path.exists():
        shards.open()
        _train_missing(shards, progress=progress, device=device, num_workers=num_workers, executor=executor)
        # In the folder of the parts, so that what a killed process leaves goes with them.
        packed = shards.folder / path.name
        _write(shards, packed)
        with disk_errors(path):
            packed.replace(path)
    zoo = Zoo(path)
    if zoo.info != _info(recipe):
        raise RecipeError(
            f"{str(path)!r} already holds zoo {zoo.name!r} version {zoo.version} of another recipe; expected "
            f"recipe {recipe.name!r} version {recipe.version} with {recipe.num_runs} runs; choose another output or delete it"
        )
    shards.remove()
    return zoo


def _shard_size(recipe: ClassifierRecipe | InrRecipe, device: str) -> int:
    if torch.device(device).type == "cpu":
        return 400
    return 8192 if isinstance(recipe, InrRecipe) else 1024


def _train_missing(shards: Shards, *, progress: Progress, device: str, num_workers: int, executor: Executor) -> None:
    num_steps = [sum(run_of(shards.recipe, index).num_steps for index in runs) for runs in shards.runs]
    missing = {shard: runs for shard, runs in enumerate(shards.runs) if not shards.finished(shard)}
    done = [0 if shard in missing else steps for shard, steps in enumerate(num_steps)]

    def report(shard: int, steps: int, text: str) -> None:
        done[shard] = steps
        left = sum(now < whole for now, whole in zip(done, num_steps, strict=True))
        progress(sum(done), sum(num_steps), text or f"{left} of {len(num_steps)} parts to do")

    work = partial(_train, shards.recipe, device)
    for shard, trained in run_parts(work, missing, num_workers=num_workers, report=report, executor=executor, device=device):
        shards.save(shard, trained)
        report(shard, num_steps[shard], "")


def _train(recipe: ClassifierRecipe | InrRecipe, device: str, runs: Sequence[int], progress: Progress) -> TrainedNetworks:
    if isinstance(recipe, InrRecipe):
        return fit(recipe, runs, progress=progress, device=device)
    return train(recipe, runs, progress=progress, device=device)


def _write(shards: Shards, path: Path) -> None:
    recipe = shards.recipe
    columns = [column for column in recipe.columns if column.name != "run_id"]
    topologies: dict[tuple[Architecture, str], Topology] = {}
    diverged: list[tuple[str, str]] = []
    with ZooWriter(path, _info(recipe), columns=columns, splits=recipe.splits, split_by=recipe.split_by) as writer:
        for shard in range(len(shards.runs)):
            trained = shards.load(shard)
            diverged += trained.diverged
            if not len(trained):
                continue
            topology_of = _topologies(trained, topologies)
            rows = pack(topology_of[0], {name: torch.from_numpy(values) for name, values in trained.parameters.items()}).numpy()
            metadata = {column.name: trained.metadata[column.name] for column in columns}
            run_ids = trained.metadata["run_id"].tolist()
            writer.append(topology_of, rows, ids=trained.ids, run_ids=run_ids, metadata=metadata, functional=trained.functional)
        writer.add_diverged(diverged)
        if len(diverged) == recipe.num_runs * recipe.networks_per_run:
            raise TrainingError(
                f"all {recipe.num_runs} runs of recipe {recipe.name!r} diverged, {diverged[0][0]} because its {diverged[0][1]}"
            )


def _topologies(trained: TrainedNetworks, known: dict[tuple[Architecture, str], Topology]) -> list[Topology]:
    """The topology of each network, traced once for each architecture and activation and then `known`."""
    keys = [(trained.architecture, activation) for activation in trained.activations]
    for architecture, activation in sorted(set(keys) - set(known), key=lambda key: key[1]):
        module = build(architecture, activation)
        known[architecture, activation] = trace(module, example_input(architecture)).topology
    return [known[key] for key in keys]


def _info(recipe: ClassifierRecipe | InrRecipe) -> ZooInfo:
    return ZooInfo(recipe.name, recipe.version, recipe.title, recipe.licence, recipe.citation, recipe.model_dump(mode="json"))
