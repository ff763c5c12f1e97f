"""One training run, of a classifier or of an implicit neural representation: every random draw that makes its network."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ngbench.errors import ImagesError
from ngbench.zoo.architectures import ClassifierArchitecture, Siren, num_parameters
from ngbench.zoo.hub_images import HubImages
from ngbench.zoo.images import load_corpus
from ngbench.zoo.initializers import initialize, initialize_siren
from ngbench.zoo.recipe import ClassifierRecipe, InrRecipe

# streams of a run's seed; stream 0 draws the hyper-parameters
_INITIAL_WEIGHTS, _BATCH_ORDER, _DROPOUT, _CORPUS = 1, 2, 3, 4


@dataclass(frozen=True)
class Run:
    """What one classifier is made from.

    Args:
        run_id: Name of the run.
        index: Its number in the recipe.
        seed: Of its random draws.
        architecture: What its network is built as.
        corpus: What it is trained on.
        hyperparameters: By column name.
        num_train: Images that it trains on.
        num_steps: Optimisation steps that it takes.
        checkpoints: Epochs after which its network is kept; none where it is kept at the end only.
    """

    run_id: str
    index: int
    seed: int
    architecture: ClassifierArchitecture
    corpus: str
    hyperparameters: Mapping[str, Any]
    num_train: int
    num_steps: int
    checkpoints: tuple[int, ...] = ()

    @classmethod
    def of(cls, recipe: ClassifierRecipe, index: int) -> Run:
        """The run of a recipe with an index.

        Raises:
            RecipeError: The recipe has no such run.
        """
        sample: dict[str, Any] = recipe.sample(index)
        num_train = max(1, round(sample["train_share"] * recipe.images.num_train))
        num_steps = max(1, round(sample["epochs"] * num_train / sample["batch_size"]))
        seed, architecture = recipe.run_seed(index), recipe.architecture_of(index)
        corpora = recipe.corpora_for(architecture)
        corpus = corpora[int(np.random.default_rng([seed, _CORPUS]).integers(len(corpora)))]
        return cls(recipe.run_id(index), index, seed, architecture, corpus, sample, num_train, num_steps, recipe.checkpoints)

    @property
    def kept_at(self) -> tuple[int, ...]:
        """After how many steps its network is kept, in order; the last is its end."""
        batch_size = self.hyperparameters["batch_size"]
        before = (round(epoch * self.num_train / batch_size) for epoch in self.checkpoints[:-1])
        return (*(min(step, self.num_steps) for step in before), self.num_steps)

    @property
    def stack(self) -> tuple[Any, ...]:
        """Runs that agree in this can share their matrix products."""
        return self.architecture, self.hyperparameters["activation"], self.hyperparameters["batch_size"]

    @property
    def columns(self) -> dict[str, Any]:
        """What is known of the network before it is trained, by column name; more than a zoo of one architecture stores."""
        names = ("family", "width", "depth", "kernel_size", "norm", "num_classes")
        identity = {"run_id": self.run_id, "run_index": self.index, "seed": self.seed, "corpus": self.corpus}
        design = {name: getattr(self.architecture, name) for name in names}
        return {**identity, **design, "num_parameters": num_parameters(self.architecture), **self.hyperparameters}

    def initial_weights(self, shapes: Mapping[str, tuple[int, ...]], *, ones: Collection[str] = ()) -> np.ndarray:
        """Flat float64 ``[parameters]`` for parameters of these shapes; those at the paths `ones` are scales of norms."""
        kind, scale = self.hyperparameters["initializer"], self.hyperparameters["init_scale"]
        return initialize(shapes, np.random.default_rng([self.seed, _INITIAL_WEIGHTS]), kind=kind, scale=scale, ones=ones)

    def train_rows(self, num_images: int) -> np.ndarray:
        """Which of the training images the run sees, int64 ``[num_train]``."""
        return np.random.default_rng([self.seed, _BATCH_ORDER]).permutation(num_images)[: self.num_train]

    def batches(self, num_images: int) -> np.ndarray:
        """Training images of each step, int64 ``[num_steps, batch_size]``.

        The run's images in a new random order for each epoch, one after another, cut into batches that may span two epochs.
        """
        return next(self.batch_pieces(num_images, self.num_steps))

    def batch_pieces(self, num_images: int, num_steps: int) -> Iterator[np.ndarray]:
        """The `batches` of so many steps after another; the last piece may have fewer."""
        rng = np.random.default_rng([self.seed, _BATCH_ORDER])
        rows = rng.permutation(num_images)[: self.num_train]
        drawn, batch_size = np.empty(0, dtype=np.int64), self.hyperparameters["batch_size"]
        for first in range(0, self.num_steps, num_steps):
            wanted = min(num_steps, self.num_steps - first) * batch_size
            epochs = [rng.permutation(rows) for _ in range(-(-max(0, wanted - len(drawn)) // self.num_train))]
            drawn = np.concatenate([drawn, *epochs])
            yield drawn[:wanted].reshape(-1, batch_size)
            drawn = drawn[wanted:]

    def dropout_keys(self, num_dropouts: int) -> np.ndarray:
        """Keys of the masks of each step and dropout layer, int32 ``[num_steps, num_dropouts]``."""
        rng = np.random.default_rng([self.seed, _DROPOUT])
        return rng.integers(-(1 << 31), 1 << 31, size=(self.num_steps, num_dropouts), dtype=np.int32)


@dataclass(frozen=True)
class Fit:
    """What one implicit neural representation is made from.

    Args:
        run_id: Name of the fit.
        index: Its number in the recipe.
        seed: Of its random draws.
        initial_seed: Of its initial weights: its own, or the recipe's where all fits start from the same weights.
        architecture: What its network is built as.
        images: Where its image is from, as `load_corpus` reads it.
        image_index: Which image that is.
        fit_index: Its number among the fits of the image.
        hyperparameters: By column name.
    """

    run_id: str
    index: int
    seed: int
    initial_seed: int
    architecture: Siren
    images: str | HubImages
    image_index: int
    fit_index: int
    hyperparameters: Mapping[str, Any]

    @classmethod
    def of(cls, recipe: InrRecipe, index: int) -> Fit:
        """The fit of a recipe with an index.

        Raises:
            RecipeError: The recipe has no such run.
        """
        seed, (image, fit) = recipe.run_seed(index), divmod(index, recipe.fits_per_image)
        initial_seed = seed if recipe.initialization == "independent" else recipe.seed
        sample, architecture = recipe.sample(index), recipe.architecture_of(index)
        return cls(recipe.run_id(index), index, seed, initial_seed, architecture, recipe.images, image, fit, sample)

    @property
    def num_steps(self) -> int:
        """Optimisation steps that it takes."""
        return self.hyperparameters["num_steps"]

    @property
    def columns(self) -> dict[str, Any]:
        """What is known of the network before it is fitted, by column name.

        Raises:
            ImagesError: There are fewer images than the recipe has.
        """
        labels = load_corpus(self.images)[1]
        if self.image_index >= len(labels):
            raise ImagesError(
                f"run {self.run_id!r} is of image {self.image_index}; expected one of the {len(labels)} that there are"
            )
        label = int(labels[self.image_index])
        identity = {"run_id": self.run_id, "run_index": self.index, "seed": self.seed, "label": label}
        return {**identity, "image_index": self.image_index, "fit_index": self.fit_index, **self.hyperparameters}

    def initial_weights(self, shapes: Mapping[str, tuple[int, ...]]) -> np.ndarray:
        """Flat float64 ``[parameters]`` for parameters of these shapes."""
        rng = np.random.default_rng([self.initial_seed, _INITIAL_WEIGHTS])
        return initialize_siren(shapes, rng, omega=self.architecture.omega)


def run_of(recipe: ClassifierRecipe | InrRecipe, index: int) -> Run | Fit:
    """The run of a recipe of either kind with an index.

    Raises:
        RecipeError: The recipe has no such run.
    """
    return Fit.of(recipe, index) if isinstance(recipe, InrRecipe) else Run.of(recipe, index)
