"""Settings for the whole suite, a small zoo file that the tests of the later stages share, and a browser for those of pages."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import settings

if TYPE_CHECKING:
    from ngbench.zoo.recipe import ClassifierRecipe, InrRecipe

# A machine under load draws slowly, which is no fault of the code; and a run is the same on every machine.
settings.register_profile("ngbench", deadline=None, derandomize=True, database=None)
settings.load_profile("ngbench")

# The tests' networks are tiny: a second thread costs more than it brings, and much more where cores are shared.
torch.set_num_threads(1)

# Where there is no GPU, Triton interprets its programs; it must know before it is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

NUM_NETWORKS = 150

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
OFFLINE = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]


@pytest.fixture(scope="module")
def browser():
    """A Chromium; where none is installed its tests are skipped, unless NGBENCH_BROWSER=1 says that there is one."""
    missing = pytest.fail if os.environ.get("NGBENCH_BROWSER") == "1" else pytest.skip
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        missing('playwright is not installed: pip install "ngbench[test]"')
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        missing(f"no browser is installed: expected one of {', '.join(BROWSERS)} on the PATH")
    # Chromium refuses to run as root inside its sandbox
    arguments = [*OFFLINE, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def opens(browser):
    """Opens a page in a window of its own; the tab, and all that it said and asked for."""
    with contextlib.ExitStack() as stack:

        def opens(path, viewport, scheme="light", **options):
            context = browser.new_context(viewport=viewport, color_scheme=scheme, **options)
            stack.callback(context.close)
            tab, said, asked = context.new_page(), [], []
            tab.on("console", lambda message: said.append(message.text))
            tab.on("pageerror", lambda error: said.append(str(error)))
            tab.on("dialog", lambda dialog: said.append(dialog.message))
            tab.on("request", lambda request: asked.append(request.url))
            tab.goto(path.as_uri())
            return SimpleNamespace(tab=tab, said=said, asked=asked)

        yield opens


@pytest.fixture
def interpreted_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run on a CPU too, for tests that ask for it.

    Triton 3.6 makes an integer of an array of one number, which numpy 2.4 refuses, and multiplies the bits of bfloat16.
    """
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    language = pytest.importorskip("triton.language")
    if torch.cuda.is_available():
        return
    monkeypatch.setenv("NGBENCH_INTERPRET_KERNELS", "1")
    patch_tensor, multiply = interpreter._patch_lang_tensor, interpreter.InterpreterBuilder.create_dot

    def patch(tensor, scope) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda scalar: scalar.handle.data.item())

    def in_float32(handle):
        if handle.dtype.scalar != language.bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), language.float32)

    def create_dot(builder, left, right, *rest):
        return multiply(builder, in_float32(left), in_float32(right), *rest)

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


@pytest.fixture(scope="session")
def small_zoo_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A zoo of untrained networks of one structure, whose target follows from the scale of their weights."""
    from ngbench.store import ZooInfo, ZooWriter
    from ngbench.testing import fake_dataset
    from ngbench.zoo.columns import COLUMNS

    dataset = fake_dataset(num_graphs=NUM_NETWORKS, seed=3)
    bundle = dataset.bundles[0]
    path = tmp_path_factory.mktemp("zoo") / "small.h5"
    columns = [COLUMNS[name] for name in ("activation", "init_scale", "test_accuracy")]
    info = ZooInfo(name="small", version="1", title="Fakes", licence="MIT", citation="none", recipe=None)
    with ZooWriter(path, info, columns=columns) as writer:
        writer.append(
            [bundle.variants[int(variant)] for variant in bundle.variant],
            bundle.values.numpy(),
            ids=dataset.ids,
            metadata={**dataset.hyperparameters, "test_accuracy": dataset.targets},
        )
    return path


@pytest.fixture(scope="session")
def split_zoo_path(small_zoo_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small zoo, with a split that holds one activation out."""
    from ngbench.store import ZooWriter, open_zoo
    from ngbench.zoo.transfer import OneOf

    small = open_zoo(small_zoo_path)
    split = OneOf(kind="one_of", column="activation", values=("tanh",))
    path = tmp_path_factory.mktemp("split") / "split.h5"
    with ZooWriter(path, small.info, columns=list(small.columns.values()), splits={"tanh-held-out": split}) as writer:
        topologies = [graph.topology for graph in small]
        writer.append(topologies, small.values(slice(None)), ids=small.ids, metadata=dict(small.metadata))
    return path


@pytest.fixture(scope="session")
def mixed_recipe() -> ClassifierRecipe:
    """Twelve runs of five architectures of four families, on three corpora, that train in a moment."""
    from ngbench.zoo.recipe import ClassifierRecipe

    image = [1, 8, 8]
    hyperparameters = {
        "activation": {"kind": "choice", "values": ["relu", "tanh"]},
        "initializer": {"kind": "fixed", "value": "he_normal"},
        "init_scale": {"kind": "log_uniform", "low": 0.6, "high": 1.5},
        "optimizer": {"kind": "choice", "values": ["momentum", "adam"]},
        "learning_rate": {"kind": "fixed", "value": 0.02},
        "schedule": {"kind": "fixed", "value": "cosine"},
        "weight_decay": {"kind": "fixed", "value": 0.001},
        "dropout": {"kind": "choice", "values": [0.0, 0.2]},
        "batch_size": {"kind": "fixed", "value": 16},
        "epochs": {"kind": "choice", "values": [2, 3]},
        "train_share": {"kind": "fixed", "value": 1.0},
    }
    return ClassifierRecipe.model_validate(
        {
            "name": "mixed",
            "version": "4",
            "title": "Networks of four families trained for a moment",
            "description": "for tests",
            "licence": "CC0-1.0",
            "citation": "nobody",
            "num_runs": 12,
            "seed": 9,
            "images": {
                "corpus": ["digits", "digits-rotated", "digits-range"],
                "split_seed": 1,
                "num_train": 64,
                "num_val": 20,
                "num_test": 30,
            },
            "architectures": [
                {"family": "mlp", "input_shape": image, "width": 5, "depth": 2, "norm": "batch", "num_classes": 10},
                {"family": "resnet", "input_shape": image, "width": 3, "depth": 2, "kernel_size": 3, "num_classes": 10},
                {
                    "family": "transformer", "input_shape": image, "width": 6, "depth": 1, "num_heads": 2, "patch_size": 4,
                    "pooling": "token", "num_classes": 2,
                },
                {
                    "family": "cnn", "input_shape": image, "kernel_size": 3, "num_classes": 2,
                    "vary": {"channels": [[2, 4], [3, 3]], "strides": [[2, 1]], "paddings": [[0, 1]], "norm": ["batch"]},
                },
            ],
            "hyperparameters": hyperparameters,
            "rounding": "bfloat16",
            "largest_weight": 100.0,
            "splits": {
                "narrow-to-wide": {
                    "kind": "above", "column": "width", "within": "family", "limits": {"mlp": 5, "resnet": 2, "cnn": 3}
                },
                "family-held-out": {"kind": "one_of", "column": "family", "values": ["transformer"]},
            },
        }
    )  # fmt: skip


@pytest.fixture(scope="session")
def inr_recipe() -> InrRecipe:
    """Thirty-three fits of eleven images, three each, that take a moment."""
    from ngbench.zoo.recipe import InrRecipe

    hyperparameters = {
        "optimizer": {"kind": "fixed", "value": "adam"},
        "learning_rate": {"kind": "choice", "values": [0.002, 0.004]},
        "schedule": {"kind": "fixed", "value": "cosine"},
        "weight_decay": {"kind": "fixed", "value": 0.0},
        "num_steps": {"kind": "choice", "values": [20, 45]},
    }
    return InrRecipe.model_validate(
        {
            "name": "glance",
            "version": "6",
            "title": "SIRENs fitted for a moment",
            "description": "for tests",
            "licence": "CC0-1.0",
            "citation": "nobody",
            "kind": "inr",
            "num_runs": 33,
            "seed": 8,
            "corpus": "digits",
            "fits_per_image": 3,
            "initialization": "independent",
            "architecture": {"family": "siren", "width": 5, "depth": 2, "omega": 20, "num_channels": 1},
            "hyperparameters": hyperparameters,
            "rounding": "bfloat16",
            "largest_weight": 100.0,
        }
    )
