"""What a module that reads neural graphs does around its layers: read a batch, pool, and give results in the batch's order."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from baselines.reading.encoding import Encoder, Reading, Vocabulary
from baselines.reading.pooling import Pooling, check_outputs
from ngbench.loading import GraphBatch


class GraphReader(nn.Module, ABC):
    """A module from neural graphs to numbers; its layers are between `encoder` and `pooling`, and `read_out` comes last."""

    vocabulary: Vocabulary
    encoder: Encoder
    pooling: Pooling
    read_out: nn.Module

    @abstractmethod
    def node_vectors(self, reading: Reading) -> Tensor:
        """``[nodes, graphs, channels]``; when a network's neurons are permuted, they permute alike."""

    def forward(self, batch: GraphBatch) -> Tensor:
        """``[graphs, outputs]``, in the order of the batch."""
        return self.read_out(self.embed(batch))

    def embed(self, batch: GraphBatch) -> Tensor:
        """What is read out, ``[graphs, features]``, in the order of the batch.

        Raises:
            GraphError: Output nodes are to be concatenated, and a network has more of them than any in training.
        """
        if self.pooling.kind == "cat":
            check_outputs(batch, self.vocabulary.num_outputs)
        readings = self.encoder.read(batch)
        pooled = torch.cat([self.pooling(self.node_vectors(reading), reading) for reading in readings])
        return pooled[torch.cat([reading.index for reading in readings]).argsort()]

    def embed_nodes(self, batch: GraphBatch) -> list[Tensor]:
        """The nodes of each network in canonical order, ``[nodes, channels]``."""
        readings = self.encoder.read(batch)
        nodes = [of_one for reading in readings for of_one in reading.wiring.split(self.node_vectors(reading))]
        return [nodes[row] for row in torch.cat([reading.index for reading in readings]).argsort().tolist()]
