"""Models trained with the authors' code, https://github.com/mkofinas/neural-graphs, in the terms of ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ngbench.errors import ConfigError
from ngbench.loading import GraphBatch, GraphBundle

ACTIVATIONS = ("none", "relu", "gelu", "silu", "tanh", "sigmoid", "leaky_relu")

_NEEDED = {
    ("gnn_backbone", "norm"): "layernorm",
    ("gnn_backbone", "act"): "silu",
    ("gnn_backbone", "update_edge_attr"): True,
    ("gnn_backbone", "final_edge_update"): False,
    ("gnn_backbone", "modulate_edges"): True,
    ("gnn_backbone", "gating_edges"): False,
    ("graph_constructor", "zero_out_bias"): False,
    ("graph_constructor", "zero_out_weights"): False,
    ("graph_constructor", "use_pos_embed"): True,
    ("graph_constructor", "input_layers"): 1,
    ("graph_constructor", "num_probe_features"): 0,
}


@dataclass(frozen=True)
class LayerConstants:
    """Normalises with constants for each layer, the first after the inputs first; None leaves values as they are.

    Args:
        weights_mean: Of each layer's weights.
        weights_std: Of each layer's weights.
        biases_mean: Of each layer's biases.
        biases_std: Of each layer's biases.
    """

    weights_mean: Sequence[float] | None
    weights_std: Sequence[float] | None
    biases_mean: Sequence[float] | None
    biases_std: Sequence[float] | None

    def __call__(self, batch: GraphBatch) -> GraphBatch:
        """The batch with normalised values; the one given is left as it is."""
        return GraphBatch(tuple(replace(bundle, values=self._normalized(bundle)) for bundle in batch.bundles))

    def _normalized(self, bundle: GraphBundle) -> Tensor:
        values, topology = bundle.values.clone(), bundle.topology
        for slot in topology.slots:
            is_weight = slot.feature is None
            group = topology.edge_block(slot.owner).target if is_weight else slot.owner
            mean, std = (self.weights_mean, self.weights_std) if is_weight else (self.biases_mean, self.biases_std)
            if mean is not None and std is not None:
                layer = topology.group(group).layer - 1
                values[:, slot.start : slot.stop].sub_(mean[layer]).div_(std[layer])
        return values


def ng_gnn_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options of our model for those of theirs.

    Raises:
        ConfigError: Theirs has an option that ours lacks.
    """
    for (section, name), needed in _NEEDED.items():
        if config[section][name] != needed:
            raise ConfigError(f"{section}.{name} of the reference model is {config[section][name]!r}; expected {needed!r}")
    pooling = config["pooling_method"], config["pooling_layer_idx"]
    if pooling not in (("cat", "last"), ("mean", "all")):
        raise ConfigError(
            f"the reference model pools by {pooling[0]!r} over {pooling[1]!r}; expected 'cat' over 'last' or 'mean' over 'all'"
        )
    backbone, constructor = config["gnn_backbone"], config["graph_constructor"]
    return {
        "channels": config["d_hid"],
        "num_layers": backbone["num_layers"],
        "encoding": "fourier" if constructor["sin_emb"] else "linear",
        "num_frequencies": constructor["sin_emb_dim"],
        "frequency_scale": float(constructor["inp_factor"]),
        "reverse_edges": config["rev_edge_features"],
        "pooling": config["pooling_method"],
        "dropout": backbone["dropout"],
    }


def ng_gnn_vocabulary(state_dict: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """What their model was sized for, under the names of our vocabulary."""
    constructor = config["graph_constructor"]
    inr = constructor.get("inr_model")
    num_inputs = inr["in_features"] if inr else config["input_channels"]
    num_outputs = inr["out_features"] if inr else config["num_classes"]
    side = math.isqrt(constructor["d_edge_in"])
    return {
        "num_inputs": num_inputs,
        "num_hidden_layers": len(state_dict["construct_graph.pos_embed"]) - num_inputs - num_outputs,
        "num_outputs": num_outputs,
        "kernel": () if side == 1 else (side, side),
        "features": ("bias",),
        "activations": ACTIVATIONS if "construct_graph.act_emb.embedding.weight" in state_dict else (),
        "operations": (),
        "mean_log_degree": float(state_dict["gnn.convs.0.aggr_module.avg_deg_log"]),
    }


def ng_gnn_weights(theirs: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Their parameters under our names; their linear layers that follow one another become one.

    Args:
        theirs: Parameters by their names.
        options: What `ng_gnn_options` gives.
    """
    ours: dict[str, Tensor] = {}

    def put(name: str, *layers: str) -> None:
        weight, bias = theirs[f"{layers[0]}.weight"], theirs[f"{layers[0]}.bias"]
        for layer in layers[1:]:
            weight, bias = theirs[f"{layer}.weight"] @ weight, theirs[f"{layer}.weight"] @ bias + theirs[f"{layer}.bias"]
        ours.update({f"{name}.weight": weight, f"{name}.bias": bias})

    construct, channels = "construct_graph", options["channels"]
    ours["position"] = theirs[f"{construct}.pos_embed"]
    ours["direction"] = ours["position"].new_zeros(1 + options["reverse_edges"], channels)
    ours["operation"] = ours["position"].new_zeros(0, channels)
    ours["depth"] = ours["position"].new_zeros(0, channels)
    ours["activation"] = theirs.get(f"{construct}.act_emb.embedding.weight", ours["position"].new_zeros(0, channels))
    for kind, encoder, last in (("weight", "encode_edges", "proj_edge_in"), ("bias", "encode_nodes", "proj_node_in")):
        if options["encoding"] == "fourier":
            ours[f"{encoder}.0.frequencies"] = theirs[f"{construct}.proj_{kind}.0.b"]
            put(f"{encoder}.1", f"{construct}.proj_{kind}.1", f"{construct}.{last}")
        else:
            put(encoder, f"{construct}.proj_{kind}.0", f"{construct}.{last}")
    for index in range(options["num_layers"]):
        layer, conv, update = f"layers.{index}", f"gnn.convs.{index}", f"gnn.edge_update.{index - 1}"
        put(f"{layer}.film", f"{conv}.edge_encoder")
        put(f"{layer}.node", f"{conv}.post_nns.0.0", f"{conv}.lin")
        bias = theirs[f"{conv}.pre_nns.0.0.bias"]
        weights, biases = list(theirs[f"{conv}.pre_nns.0.0.weight"].chunk(2, 1)), [bias, torch.zeros_like(bias)]
        if index > 0:
            put(f"{layer}.edge_in", f"{update}.lin_e")
            put(f"{layer}.edge_out", f"{update}.lin1")
            ours.update({f"norms.{index - 1}.{part}": theirs[f"gnn.norms.{index - 1}.{part}"] for part in ("weight", "bias")})
            # as a target for the edge and for the message, then as a source
            weights = [theirs[f"{update}.lin_t.weight"], weights[0], theirs[f"{update}.lin_s.weight"], weights[1]]
            biases = [theirs[f"{update}.lin_t.bias"], biases[0], theirs[f"{update}.lin_s.bias"], biases[1]]
        ours.update({f"{layer}.ends.weight": torch.cat(weights), f"{layer}.ends.bias": torch.cat(biases)})
    for index in (0, 2, 4):
        put(f"read_out.{index}", f"proj_out.{index}")
    return ours
