"""The shell of every method that trains a torch module; a method adds its options, its module, and what it claims."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import nn

from baselines.fitting import training
from baselines.fitting.saved import Saved
from baselines.fitting.steps import Forward, Stepper
from baselines.fitting.training import Training
from ngbench.errors import MethodError
from ngbench.loading import GraphDataset
from ngbench.methods import MethodInfo, Problem, RunContext


class TrainedMethod(ABC):
    """A method that is a torch module, trained by `training.train`.

    The module takes a `GraphBatch` and gives ``[graphs, outputs]`` in the order of the batch, and has ``embed(batch)``, which
    gives ``[graphs, features]`` in that order. It may also have ``embed_nodes(batch)``, a list of ``[nodes, channels]`` in that
    order.

    Args:
        config: Options; the defaults of `Config` if None.
    """

    info: MethodInfo
    Config: ClassVar[Any]
    Survey: ClassVar[type]
    """A frozen dataclass of all that sizes the module, which JSON can hold."""

    def __init__(self, config: Training | None = None):
        self.config: Any = config or self.Config()
        if getattr(self.config, "num_probes", 0):
            self.info = replace(self.info, access="probes", num_probes=self.config.num_probes)
        self._module: nn.Module | None = None
        self._problem: Problem | None = None
        self._survey: Any = None

    @abstractmethod
    def survey(self, train: GraphDataset) -> Any:
        """What the module is sized by, of the training networks: a `Survey`."""

    @abstractmethod
    def module_for(self, survey: Any, *, num_outputs: int) -> nn.Module:
        """A module of random weights that gives so many outputs for each network."""

    def build(self, train: GraphDataset, *, num_outputs: int) -> nn.Module:
        """A module for networks like those of training that gives so many outputs for each, its weights random."""
        self._survey = self.survey(train)
        module = self.module_for(self._survey, num_outputs=num_outputs)
        self.measure(module, train)
        return module

    def measure(self, module: nn.Module, train: GraphDataset) -> None:  # noqa: B027 most have nothing to measure
        """Takes from the training networks what of the module is neither sized nor learned, but kept with its weights."""

    def save(self, folder: Path) -> None:
        """Writes what was trained into a folder that exists: see `baselines.fitting.saved`.

        Raises:
            MethodError: The method has not been fitted.
        """
        arrays = self.module.state_dict()
        if self._problem is None or self._survey is None:
            raise MethodError(f"{self.info.name} has no problem that it was fitted for; expected a call of fit before save")
        Saved(self.info.name, self.config, self._problem, self._survey, arrays).write(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The method that `save` wrote; it predicts and embeds the same, to the bit.

        Raises:
            ResultError: The folder holds something else; the text says what.
        """
        saved = Saved.read(folder, method=cls.info.name, config=cls.Config, survey=cls.Survey)
        method = cls(saved.config)
        with training.seeded(0):
            module = method.module_for(saved.survey, num_outputs=saved.problem.num_outputs)
        saved.fill(module)
        method._module, method._problem, method._survey = module.eval(), saved.problem, saved.survey
        return method

    @property
    def module(self) -> Any:
        """The trained module.

        Raises:
            MethodError: The method has not been fitted.
        """
        if self._module is None:
            raise MethodError(f"{self.info.name} has not been fitted; expected a call of fit before this one")
        return self._module

    @property
    def num_parameters(self) -> int:
        """Number of learned numbers."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def fit(self, problem: Problem, train: GraphDataset, val: GraphDataset, context: RunContext) -> None:
        """Trains on `train` and keeps the epoch that is best on `val`.

        Raises:
            TrainingError: The loss is not finite, or a checkpoint cannot be used.
        """
        with training.seeded(context.seed):
            module = self.build(train, num_outputs=problem.num_outputs)
        training.train(module, settings=self.config, problem=problem, train=train, val=val, context=context)
        self._module, self._problem = module, problem

    def stepper(self, problem: Problem, train: GraphDataset, context: RunContext) -> Stepper:
        """Steps of training one by one, of a fresh module, for measurements of speed."""
        with training.seeded(context.seed):
            module = self.build(train, num_outputs=problem.num_outputs)
        state = training.TrainingState(module.to(context.device), self.config, run="")
        return Stepper(state, problem, train.to(context.device))

    def steps(self, problem: Problem, train: GraphDataset, context: RunContext, *, batch_size: int) -> Iterator[int]:
        """See `ngbench.methods.TrainsBySteps`; the steps have the largest learning rate."""
        stepper = self.stepper(problem, train, context)
        self._module, self._problem = stepper.state.module, problem
        return self._steps(stepper, context, batch_size)

    def _steps(self, stepper: Stepper, context: RunContext, batch_size: int) -> Iterator[int]:
        training.keep_memory()
        for positions in training.endless_positions(len(stepper.train), batch_size, context.seed):
            with training.kernel_threads(self.config.num_threads):
                stepper.step(positions, rate=self.config.learning_rate)
            yield len(positions)

    @torch.no_grad()
    def forwards(self, networks: GraphDataset, context: RunContext, *, batch_size: int) -> Iterator[int]:
        """See `ngbench.methods.TrainsBySteps`."""
        forward = Forward(self.module.eval(), networks.to(context.device))
        for positions in training.endless_positions(len(networks), batch_size, context.seed):
            with training.kernel_threads(self.config.num_threads), self.config.autocast(context.device), self.config.tf32():
                for part in forward.batches(positions):
                    forward(part).cpu()
            yield len(positions)

    def predict(self, networks: GraphDataset) -> np.ndarray:
        """One prediction for each network, float64 ``[graphs]``, or the probability of each class ``[graphs, classes]``.

        Raises:
            MethodError: The method has not been fitted.
        """
        module = training.in_float64(self.module)
        if self._problem is None:
            raise MethodError(f"{self.info.name} has no problem to predict for; expected a call of fit before predict")
        return training.predict(module, networks, problem=self._problem, num_threads=self.config.num_threads)

    @torch.no_grad()
    def embed(self, networks: GraphDataset) -> np.ndarray:
        """What the last layers read of each network, float64 ``[graphs, features]``."""
        module = training.in_float64(self.module)
        with training.kernel_threads(self.config.num_threads):
            return np.concatenate([module.embed(batch).cpu().numpy() for batch in Forward(module, networks).graph_batches()])


class EmbeddingMethod(TrainedMethod):
    """A trained method whose module has ``embed_nodes`` besides."""

    @torch.no_grad()
    def embed_nodes(self, networks: GraphDataset) -> list[np.ndarray]:
        """For each network its nodes in canonical order, float64 ``[nodes, channels]``; they permute as its neurons do."""
        module = training.in_float64(self.module)
        batches = Forward(module, networks).graph_batches()
        with training.kernel_threads(self.config.num_threads):
            return [nodes.cpu().numpy() for batch in batches for nodes in module.embed_nodes(batch)]
