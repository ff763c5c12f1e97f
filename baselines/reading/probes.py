"""Probe features: what every neuron gives for a few inputs, as numbers on its node.

Kofinas et al., ICLR 2024, "Probe features": inputs are pushed through the networks, and the activations of all neurons become
further node features; the inputs are learned. Here they may also be random, or drawn from data.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ngbench.errors import ConfigError, GraphError
from ngbench.graph import Topology
from ngbench.graph.topology import Role
from ngbench.loading import GraphBundle, GraphDataset

Kind = Literal["learned", "random", "data"]

_ROLES = get_args(Role)
_FITTED_ON = 32
"""Networks of each structure from which the size of activations is told."""


class ProbeFeatures(nn.Module):
    """Activations of all nodes on probes, each divided by the usual size for its role, then squashed by the inverse of sinh.

    Networks whose inputs have a shape that training lacked get random probes.

    Args:
        kind: ``"learned"`` with the method, ``"random"`` or ``"data"``, which both stay as they are.
        num_probes: Probes.
        seed: Seeds random probes, and learned ones at the start.
        shapes: Of the networks' inputs, the batch left out; each has probes of its own, which start at random.
    """

    scale: Tensor

    def __init__(self, kind: Kind, num_probes: int, *, seed: int = 0, shapes: Sequence[tuple[int, ...]] = ()):
        super().__init__()
        if kind not in get_args(Kind) or num_probes < 1:
            raise ConfigError(
                f"probes are {kind!r} and {num_probes} in number; expected one of {', '.join(get_args(Kind))}, and at least 1"
            )
        self.kind, self.num_probes, self.seed = kind, num_probes, seed
        self.shapes = tuple(shapes)
        starts = {_key(shape): _random(num_probes, shape, seed=seed).clone() for shape in self.shapes}
        self.probes = nn.ParameterDict(
            {key: nn.Parameter(start, requires_grad=kind == "learned") for key, start in starts.items()}
        )
        self.register_buffer("scale", torch.ones(len(_ROLES)))

    @classmethod
    def fit(
        cls, train: GraphDataset, kind: Kind, num_probes: int, *, seed: int = 0, inputs: Tensor | None = None
    ) -> ProbeFeatures:
        """Probes for the networks of the training split.

        Args:
            train: The training split; its networks must know their programs.
            kind: As of the class.
            num_probes: As of the class.
            seed: As of the class.
            inputs: ``[probes, *input shape]`` that probes from data are, and learned ones start from; None to draw them from
                what the networks were trained on for ``"data"``, and to start learned ones at random.

        Raises:
            GraphError: The networks cannot be run on inputs, or probes from data are wanted and no inputs are known that fit.
        """
        shapes = sorted({shape for bundle in train.bundles for shape in bundle.input_shapes})
        features = cls(kind, num_probes, seed=seed, shapes=shapes)
        features.measure(train, inputs=inputs)
        return features

    @torch.no_grad()
    def measure(self, train: GraphDataset, *, inputs: Tensor | None = None) -> None:
        """Starts the probes from inputs, where there are any, and takes the usual size of activations; arguments as of `fit`.

        Raises:
            GraphError: As of `fit`.
        """
        if self.kind == "data" and inputs is None:
            inputs = _inputs(train, self.num_probes, self.seed)
        if inputs is not None:
            for shape in self.shapes:
                if tuple(inputs.shape) != (self.num_probes, *shape):
                    raise GraphError(f"inputs of shape {tuple(inputs.shape)} are no probes; expected {(self.num_probes, *shape)}")
                self.probes[_key(shape)].copy_(inputs)
        self.scale.copy_(self._usual_sizes(train))

    def forward(self, bundle: GraphBundle) -> Tensor:
        """``[nodes, graphs, probes]`` of networks whose values are as they are stored, without noise or normalisation."""
        found = self._activations(bundle)
        return torch.asinh(found / self.scale.to(found)[_roles(bundle.topology, found.device), None, None])

    def _activations(self, bundle: GraphBundle) -> Tensor:
        shapes = bundle.input_shapes
        device = bundle.values.device
        inputs = (
            self.probes[_key(shape)]
            if _key(shape) in self.probes
            else _random(self.num_probes, shape, seed=self.seed, device=device)
            for shape in shapes
        )
        return bundle.activations(tuple(probes.to(bundle.values) for probes in inputs))

    @torch.no_grad()
    def _usual_sizes(self, train: GraphDataset) -> Tensor:
        """For each role the root mean square of its nodes' activations in the median network, since a few may have diverged."""
        squares: dict[int, list[Tensor]] = {number: [] for number in range(len(_ROLES))}
        for bundle in train.bundles:
            found, roles = self._activations(_first(bundle)).square().mean(2), _roles(bundle.topology, torch.device("cpu"))
            for role in roles.unique().tolist():
                squares[role].append(found[roles == role].mean(0))
        medians = [torch.cat(parts).nanmedian().sqrt() if parts else torch.tensor(0.0) for parts in squares.values()]
        return torch.stack([median if median > 0 else torch.tensor(1.0) for median in medians])


@lru_cache(maxsize=64)
def _random(num_probes: int, shape: tuple[int, ...], *, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Random probes ``[probes, *shape]``; kept, since what is recorded as a CUDA graph may not copy from a CPU."""
    return torch.randn(num_probes, *shape, generator=torch.Generator().manual_seed(seed)).to(device)


def _first(bundle: GraphBundle) -> GraphBundle:
    """The first networks of a bundle."""
    kept = slice(_FITTED_ON)
    return GraphBundle(bundle.variants, bundle.variant[kept], bundle.values[kept], bundle.index[kept], bundle.programs)


def _inputs(train: GraphDataset, num_probes: int, seed: int) -> Tensor:
    inputs = getattr(train.bundles[0].programs, "inputs", None)
    if inputs is None:
        raise GraphError(
            "probes from data are drawn from what a zoo's networks were trained on, and these networks come from no "
            "zoo; expected inputs, or probes 'learned' or 'random'"
        )
    return inputs(num_probes, seed=seed)


@lru_cache(maxsize=1024)
def _roles(topology: Topology, device: torch.device) -> Tensor:
    """Number of each node's role, int64 ``[nodes]``."""
    sizes = torch.tensor([group.size for group in topology.groups])
    return torch.tensor([_ROLES.index(group.role) for group in topology.groups]).repeat_interleave(sizes).to(device)


def _key(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "number"
