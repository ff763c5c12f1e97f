"""Proves again what a zoo file claims: that it is whole, finite, fairly split, and that its networks do what is recorded."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ngbench.errors import NgbenchError, StoreFormatError
from ngbench.graph import restore
from ngbench.store.held_out import held_out_path
from ngbench.store.reader import Zoo
from ngbench.store.released import RELEASED
from ngbench.store.schema import PLACEHOLDERS
from ngbench.store.seal import check_content
from ngbench.store.splits import NO_PART, PARTS, assign, transfer
from ngbench.zoo.architectures import build
from ngbench.zoo.fit import grey_values, points_of
from ngbench.zoo.images import ImageSplits, load_images
from ngbench.zoo.recipe import ClassifierRecipe, InrRecipe, parse_recipe
from ngbench.zoo.run import Fit, Run, run_of

_NETWORKS_AT_ONCE = 1024
# Two logits this close, relative to the largest, may swap when another build of torch sums in another order.
_TIE = 1e-5
# How far the rendering of an image, in grey values from 0 to 1, may be from that of another build of torch.
_RENDERING = 1e-4


@dataclass(frozen=True)
class Check:
    """What one proof found.

    Args:
        name: What was to be proved.
        passed: Whether it holds.
        detail: The figures, or the first fault.
    """

    name: str
    passed: bool
    detail: str


class _FaultFound(NgbenchError):
    """A claim does not hold: the text says where."""


def verify(zoo: Zoo, *, sample: int = 64, seed: int = 0) -> list[Check]:
    """Checks a zoo; what fails is reported, not raised.

    A damaged file gives the first check only, and a zoo without a recipe, or a public file without the recipe's seed, gives no
    check of accuracy or error.

    Args:
        zoo: An open zoo.
        sample: Networks to evaluate again.
        seed: Which ones.
    """
    checks = [_check("checksum", partial(_checksum, zoo))]
    if not checks[0].passed:
        return checks
    checks += [_check("finite values", partial(_finite, zoo)), _check("unique ids", partial(_unique_ids, zoo))]
    for name in zoo.splits:
        checks.append(_check(f"split {name}: by {zoo.split_by or 'run'}", partial(_split_by_key, zoo, name)))
        checks.append(_check(f"split {name}: by orbit", partial(_split_by_orbit, zoo, name)))
        if zoo.info.recipe is not None and (zoo.info.withheld is None or name == "default"):
            checks.append(_check(f"split {name}: by rule", partial(_split_by_rule, zoo, name)))
    if zoo.info.withheld is not None:
        checks.append(_check("withheld answers", partial(_withheld, zoo)))
    elif zoo.info.recipe is not None:
        checks.append(_check("recorded columns", partial(_columns, zoo)))
        quality = "error" if "psnr" in zoo.columns else "accuracy"
        checks.append(_check(f"recorded {quality}", partial(_quality, zoo, sample, seed)))
        if held_out_path(zoo.path).exists():
            checks.append(_check("outputs on held-out inputs", partial(_held_out, zoo, sample, seed)))
    return checks


def _check(name: str, proof: Callable[[], str]) -> Check:
    try:
        return Check(name, True, proof())
    except NgbenchError as error:
        return Check(name, False, str(error))


def _checksum(zoo: Zoo) -> str:
    check_content(zoo.path, zoo.seal)
    released = RELEASED[zoo.name] if zoo.name in RELEASED else None  # noqa: SIM401 - get() of a Registry raises
    if released is not None and released.sha256 == zoo.sha256:
        return f"sha256 {zoo.sha256}, as released under the name {released.name} version {released.version}"
    if released is not None and released.path == zoo.path:
        raise _FaultFound(f"sha256 {zoo.sha256}; expected {released.sha256}, as released under the name {released.name}")
    return f"sha256 {zoo.sha256}, not a released file"


def _batches(zoo: Zoo) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows and their values ``[rows, values]``, all networks once, a topology at a time."""
    for index in range(len(zoo.topologies)):
        rows = np.flatnonzero(zoo.topology_index == index)
        for start in range(0, len(rows), _NETWORKS_AT_ONCE):
            batch = rows[start : start + _NETWORKS_AT_ONCE]
            yield batch, zoo.values(batch)


def _finite(zoo: Zoo) -> str:
    num_values = 0
    for rows, values in _batches(zoo):
        faulty = rows[~np.isfinite(values).all(axis=1)]
        if len(faulty):
            raise _FaultFound(
                f"network {str(zoo.ids[faulty[0]])!r} has values that are not finite; {len(faulty)} networks have such"
            )
        num_values += values.size
    return f"{num_values:,} values of {len(zoo):,} networks"


def _unique_ids(zoo: Zoo) -> str:
    ids, counts = np.unique(zoo.ids, return_counts=True)
    if counts.max() > 1:
        raise _FaultFound(f"network id {str(ids[counts.argmax()])!r} stands {counts.max()} times")
    return f"{len(ids):,} ids of {len(np.unique(zoo.run_ids)):,} runs"


def _split_by_key(zoo: Zoo, name: str) -> str:
    parts = zoo.parts(name)
    allowed = range(len(PARTS)) if name == "default" else range(NO_PART, len(PARTS))
    num_outside = int((~np.isin(parts, allowed)).sum())
    if num_outside:
        raise _FaultFound(f"{num_outside} networks stand in none of {', '.join(PARTS)}")
    _check_apart(zoo, name, zoo.split_keys)
    counts = {**{part: parts == index for index, part in enumerate(PARTS)}, "none": parts == NO_PART}
    return ", ".join(f"{part} {count.sum():,}" for part, count in counts.items() if part != "none" or count.any())


def _split_by_orbit(zoo: Zoo, name: str) -> str:
    """No network of one part is a permuted network of another, possibly with signs flipped.

    Such a change moves the values of a row and flips signs, so the sorted magnitudes tell networks apart and stay the same.
    """
    orbits = np.empty(len(zoo), dtype="S16")
    for rows, values in _batches(zoo):
        ordered = np.sort(np.abs(values), axis=1)
        orbits[rows] = [hashlib.blake2b(row.tobytes(), digest_size=8).hexdigest() for row in ordered]
    _check_apart(zoo, name, orbits)
    return f"{len(np.unique(orbits)):,} networks that differ by more than a permutation"


def _split_by_rule(zoo: Zoo, name: str) -> str:
    """The parts are those that run ids, or the column in their place, and the recipe's columns give."""
    recipe, expected = _recipe(zoo), assign(zoo.name, zoo.split_keys)
    if zoo.split_by != recipe.split_by:
        raise _FaultFound(f"the split is by {zoo.split_by or 'run id'}; expected by {recipe.split_by or 'run id'}")
    if name != "default":
        if name not in recipe.splits:
            raise _FaultFound(f"the recipe has no split of this name; expected one of {', '.join(('default', *recipe.splits))}")
        expected = transfer(expected, recipe.splits[name].held_out(zoo.metadata))
    wrong = np.flatnonzero(zoo.parts(name) != expected)
    if len(wrong):
        parts = [*PARTS, "none"]
        row, got, want = wrong[0], parts[zoo.parts(name)[wrong[0]]], parts[expected[wrong[0]]]
        raise _FaultFound(f"network {str(zoo.ids[row])!r} stands in {got}; expected {want}; {len(wrong)} networks stand wrong")
    return f"{len(zoo):,} networks stand where the rule puts them"


def _withheld(zoo: Zoo) -> str:
    """What is withheld of networks holds nothing but placeholders."""
    assert zoo.info.withheld is not None
    columns = zoo.info.withheld.columns
    for name in columns:
        if name in (zoo.split_by, "run_index"):
            continue
        told, nothing = zoo.metadata[name][zoo.withheld(name)], PLACEHOLDERS[zoo.columns[name].dtype]
        is_told = ~np.isnan(told) if told.dtype.kind == "f" else told != nothing
        if is_told.any():
            raise _FaultFound(f"column {name!r} is told of {int(is_told.sum())} of {len(told)} networks; expected {nothing!r}")
    if zoo.functional_names:
        raise _FaultFound(f"stored outputs {', '.join(zoo.functional_names)} are told; expected none")
    num_sealed = int(zoo.withheld(columns[0]).sum()) if columns else 0
    return f"{len(columns)} columns of {num_sealed:,} networks; the answer file has sha256 {zoo.info.withheld.commitment}"


def _check_apart(zoo: Zoo, name: str, keys: np.ndarray) -> None:
    """Networks that agree in their key stand in one part of the split; some of them may stand in none."""
    parts = zoo.parts(name)
    rows = np.flatnonzero(parts != NO_PART)
    if not len(rows):
        return
    _, groups = np.unique(keys, return_inverse=True)
    first = np.full(groups.max() + 1, len(zoo))
    np.minimum.at(first, groups[rows], rows)
    torn = rows[parts[rows] != parts[first[groups[rows]]]]
    if len(torn):
        row, mate, names = torn[0], first[groups[torn[0]]], [*PARTS, "none"]
        raise _FaultFound(
            f"network {str(zoo.ids[row])!r} of {names[parts[row]]} and network {str(zoo.ids[mate])!r} of {names[parts[mate]]} "
            f"belong together; {len(torn)} networks are torn so"
        )


def _recipe(zoo: Zoo) -> ClassifierRecipe | InrRecipe:
    return parse_recipe(zoo.info.recipe or {}, source=f"the recipe in {str(zoo.path)!r} cannot be read")


def _columns(zoo: Zoo) -> str:
    """What is recorded of how a network was made is what its recipe says of its run."""
    recipe = _recipe(zoo)
    names = [column.name for column in recipe.columns if column.role != "measurement"]
    recorded = {"run_id": zoo.run_ids, **{name: zoo.metadata[name] for name in names if name != "run_id"}}
    for row, index in enumerate(recorded["run_index"].tolist()):
        run = run_of(recipe, index)
        expected = run.columns
        if "epoch" in names and isinstance(run, Run):
            got = int(recorded["epoch"][row])
            if got not in run.checkpoints:
                raise _FaultFound(
                    f"network {str(zoo.ids[row])!r} has epoch {got}; expected one of {run.checkpoints} by its recipe"
                )
            expected["epoch"] = got
        for name in names:
            got, want = recorded[name][row].item(), expected[name]
            # the last bit of an exponential differs between mathematical libraries
            if got != want and not (isinstance(want, float) and math.isclose(got, want, rel_tol=1e-9)):
                raise _FaultFound(f"network {str(zoo.ids[row])!r} has {name} {got!r}; expected {want!r} by its recipe")
    return f"{len(names)} columns of {len(zoo):,} networks are what the recipe says"


def _quality(zoo: Zoo, sample: int, seed: int) -> str:
    """A sample of networks does what is recorded of it."""
    recipe = _recipe(zoo)
    rows = np.sort(np.random.default_rng(seed).choice(len(zoo), min(sample, len(zoo)), replace=False)).tolist()
    return _errors(zoo, recipe, rows) if isinstance(recipe, InrRecipe) else _accuracies(zoo, recipe, rows)


def _accuracies(zoo: Zoo, recipe: ClassifierRecipe, rows: list[int]) -> str:
    recorded = zoo.metadata["test_accuracy"]
    runs = [Run.of(recipe, index) for index in zoo.metadata["run_index"][rows].tolist()]
    images = {corpus: load_images(recipe.images, corpus) for corpus in sorted({run.corpus for run in runs})}
    for row, run in zip(rows, runs, strict=True):
        accuracy, slack = _evaluate(zoo, row, run, images=images[run.corpus])
        if abs(accuracy - recorded[row]) > slack + 1e-9:
            raise _FaultFound(f"network {str(zoo.ids[row])!r} has test accuracy {accuracy:.4f}; recorded is {recorded[row]:.4f}")
    return f"{len(rows)} networks evaluated on {recipe.images.num_test} test images"


@torch.no_grad()
def _errors(zoo: Zoo, recipe: InrRecipe, rows: list[int]) -> str:
    """The loss, the decibels and the stored image of each network follow from its weights."""
    points, images = torch.from_numpy(points_of(recipe.images)), grey_values(recipe.images)
    loss, decibels, stored = zoo.metadata["loss"], zoo.metadata["psnr"], zoo.functional(recipe.corpus)
    for row, index in zip(rows, zoo.metadata["run_index"][rows].tolist(), strict=True):
        fit, name = Fit.of(recipe, index), str(zoo.ids[row])
        rendered = _module(zoo, row, fit)(points).double().numpy()
        error = float(np.sqrt(np.square(rendered - images[fit.image_index]).mean()))
        if abs(error - math.sqrt(loss[row])) > _RENDERING:
            raise _FaultFound(
                f"network {name!r} has a root mean squared error of {error:.5f}; recorded is {math.sqrt(loss[row]):.5f}"
            )
        if not math.isclose(10 ** (-decibels[row] / 10), loss[row], rel_tol=1e-6):
            raise _FaultFound(f"network {name!r} has psnr {decibels[row]:.2f} dB; expected that of its loss {loss[row]:.4g}")
        off = float(np.abs(rendered.ravel() - stored[row]).max())
        if off > _RENDERING + np.abs(stored[row]).max() * 2**-11:
            raise _FaultFound(f"network {name!r} renders values that are up to {off:.5f} away from its stored image")
    return f"{len(rows)} networks rendered at {len(points)} points"


@torch.no_grad()
def _held_out(zoo: Zoo, sample: int, seed: int) -> str:
    """No network was trained on the inputs, and a sample of networks gives for them what is held."""
    held, recipe = zoo.held_out, _recipe(zoo)
    assert held is not None, "the file is there"
    inputs = torch.from_numpy(held.inputs)
    if isinstance(recipe, ClassifierRecipe):
        seen = {image.tobytes() for corpus in recipe.images.corpora for image in load_images(recipe.images, corpus).train_images}
        num_seen = sum(image.tobytes() in seen for image in held.inputs)
        if num_seen:
            raise _FaultFound(f"{num_seen} of {len(inputs)} inputs are training images; expected held-out ones")
    chosen = np.sort(np.random.default_rng(seed).choice(len(held.rows), min(sample, len(held.rows)), replace=False))
    for place, index in zip(chosen.tolist(), zoo.metadata["run_index"][held.rows[chosen]].tolist(), strict=True):
        row, stored = int(held.rows[place]), held.outputs[place]
        given = _module(zoo, row, run_of(recipe, index))(inputs)
        given = (given.softmax(-1) if isinstance(recipe, ClassifierRecipe) else given).numpy()
        if given.shape != stored.shape or np.abs(given - stored).max() > _RENDERING:
            raise _FaultFound(f"network {str(zoo.ids[row])!r} gives other outputs than those in {str(held_out_path(zoo.path))!r}")
    return f"{len(chosen)} of {len(held.rows)} networks run again on {len(inputs)} inputs that none was trained on"


def _module(zoo: Zoo, row: int, run: Run | Fit) -> torch.nn.Module:
    """A stored network as a plain torch module.

    Raises:
        StoreFormatError: Its parameters are not those of the architecture that its recipe names.
    """
    activation = run.hyperparameters.get("activation", run.architecture.activations[0])
    module = build(run.architecture, activation).eval()
    state_dict = restore(zoo[row])
    counters = {path: value for path, value in module.state_dict().items() if not value.is_floating_point()}
    expected = {path: tuple(value.shape) for path, value in module.state_dict().items()}
    got = {path: tuple(value.shape) for path, value in {**counters, **state_dict}.items()}
    if expected != got:
        raise StoreFormatError(f"network {str(zoo.ids[row])!r} has parameters {got}; expected {expected} by its recipe")
    module.load_state_dict({**counters, **state_dict})
    return module


@torch.no_grad()
def _evaluate(zoo: Zoo, row: int, run: Run, *, images: ImageSplits) -> tuple[float, float]:
    """Test accuracy of a stored network as a plain torch module, and the share of images whose class is a tie."""
    logits = _module(zoo, row, run)(torch.from_numpy(images.test_images))
    first, second = logits.topk(2, dim=1).values.unbind(1)
    ties = first - second <= _TIE * logits.abs().amax(dim=1)
    right = logits.argmax(dim=1) == torch.from_numpy(images.test_labels)
    return right.double().mean().item(), ties.double().mean().item()
