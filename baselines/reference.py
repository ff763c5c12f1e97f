"""Models trained with the authors' code, https://github.com/mkofinas/neural-graphs, in the terms of ours."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from baselines.reading.encoding import Encoding, Vocabulary
from baselines.reading.reader import GraphReader
from ngbench.errors import ConfigError
from ngbench.loading import GraphBatch, GraphBundle

Reader = TypeVar("Reader", bound=GraphReader)

Weights = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""From parameters under the authors' names to those under ours."""

ACTIVATIONS = ("none", "relu", "gelu", "silu", "tanh", "sigmoid", "leaky_relu")

_NEEDED_OF_CONSTRUCTOR = {
    "zero_out_bias": False,
    "zero_out_weights": False,
    "use_pos_embed": True,
    "input_layers": 1,
    "num_probe_features": 0,
    "linear_as_conv": True,
    "flattening_method": None,
}

_NEEDED_OF_GNN = {
    "norm": "layernorm",
    "act": "silu",
    "update_edge_attr": True,
    "final_edge_update": False,
    "modulate_edges": True,
    "gating_edges": False,
}

_NEEDED_OF_TRANSFORMER = {
    "node_update_type": "rt",
    "use_cls_token": False,
    "use_ln": True,
    "modulate_v": True,
}

_KNOWN_OF_TRANSFORMER = {
    *_NEEDED_OF_TRANSFORMER,
    *("d_attn_hid", "d_edge", "d_edge_hid", "d_in", "d_node", "d_node_hid", "d_out", "d_out_hid"),
    *("disable_edge_updates", "dropout", "graph_constructor", "input_channels", "layer_layout", "n_heads", "n_layers"),
    *("num_classes", "pooling_layer_idx", "pooling_method", "rev_edge_features", "tfixit_init"),
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
    """Options of our NG-GNN for those of theirs.

    Raises:
        ConfigError: Theirs has an option that ours lacks.
    """
    backbone = config["gnn_backbone"]
    _check("gnn_backbone.", backbone, _NEEDED_OF_GNN)
    options = {"channels": config["d_hid"], "num_layers": backbone["num_layers"], "dropout": backbone["dropout"]}
    return {**_options_of_encoding(config), **options}


def ng_t_options(theirs: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """Options of our NG-T for those of theirs.

    Args:
        theirs: Parameters by their names.
        config: Their options.

    Raises:
        ConfigError: Theirs has an option that ours lacks.
    """
    for name in config:
        if name not in _KNOWN_OF_TRANSFORMER and not name.startswith("_"):
            raise ConfigError(
                f"the reference model has an option {name!r}, which is {config[name]!r}; "
                f"expected one of {', '.join(sorted(_KNOWN_OF_TRANSFORMER))}"
            )
    _check("", config, _NEEDED_OF_TRANSFORMER)
    return {
        **_options_of_encoding(config),
        "node_channels": config["d_node"],
        "edge_channels": config["d_edge"],
        "attention_channels": config["d_attn_hid"],
        "num_heads": config["n_heads"],
        "num_layers": config["n_layers"],
        "node_hidden": config["d_node_hid"],
        "edge_hidden": config["d_edge_hid"],
        "read_out_hidden": config["d_out_hid"],
        "read_out_layers": sum(name.startswith("proj_out.") and name.endswith(".weight") for name in theirs) - 1,
        "edge_updates": not config["disable_edge_updates"],
        "dropout": config["dropout"],
    }


def _check(section: str, options: Mapping[str, Any], needed: Mapping[str, Any]) -> None:
    for name, value in needed.items():
        if options.get(name, value) != value:
            raise ConfigError(f"{section}{name} of the reference model is {options[name]!r}; expected {value!r}")


def _options_of_encoding(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options of reading and pooling networks, which both models have."""
    constructor = config["graph_constructor"]
    _check("graph_constructor.", constructor, _NEEDED_OF_CONSTRUCTOR)
    pooling = config["pooling_method"], config["pooling_layer_idx"]
    if pooling not in (("cat", "last"), ("mean", "all")):
        raise ConfigError(
            f"the reference model pools by {pooling[0]!r} over {pooling[1]!r}; expected 'cat' over 'last' or 'mean' over 'all'"
        )
    options = {"encoding": "linear", "reverse_edges": config["rev_edge_features"], "pooling": config["pooling_method"]}
    if constructor["sin_emb"]:
        frequencies = {"num_frequencies": constructor["sin_emb_dim"], "frequency_scale": float(constructor["inp_factor"])}
        options |= {"encoding": "fourier", **frequencies}
    return options


def restored(
    make: Callable[..., Reader], options: Encoding, *, theirs: Mapping[str, Tensor], config: Mapping[str, Any], weights: Weights
) -> Reader:
    """A module of ours with the parameters of theirs, in float64.

    Args:
        make: Class of the module.
        options: Those of ours.
        theirs: Parameters by their names.
        config: Options of theirs.
        weights: From their parameters to ours.
    """
    constants = LayerConstants(**config["graph_constructor"]["stats"])
    module = make(options, _vocabulary(theirs, config), constants, num_outputs=config["d_out"]).double().eval()
    module.load_state_dict(weights({name: tensor.double() for name, tensor in theirs.items()}))
    return module


def _vocabulary(theirs: Mapping[str, Tensor], config: Mapping[str, Any]) -> Vocabulary:
    """What their model was sized for."""
    constructor = config["graph_constructor"]
    inr = constructor.get("inr_model")
    num_inputs = inr["in_features"] if inr else config["input_channels"]
    num_outputs = inr["out_features"] if inr else config["num_classes"]
    side = math.isqrt(constructor["d_edge_in"])
    return Vocabulary(
        num_inputs=num_inputs,
        num_hidden_layers=len(theirs["construct_graph.pos_embed"]) - num_inputs - num_outputs,
        num_outputs=num_outputs,
        kernel=() if side == 1 else (side, side),
        features=("bias",),
        activations=ACTIVATIONS if "construct_graph.act_emb.embedding.weight" in theirs else (),
        operations=(),
        mean_num_nodes=1.0,
        mean_log_degree=float(theirs.get("gnn.convs.0.aggr_module.avg_deg_log", 1.0)),
    )


def _linear(theirs: Mapping[str, Tensor], name: str, *layers: str) -> dict[str, Tensor]:
    """Linear layers that follow one another, as one of a name."""
    weight, bias = theirs[f"{layers[0]}.weight"], theirs[f"{layers[0]}.bias"]
    for layer in layers[1:]:
        weight, bias = theirs[f"{layer}.weight"] @ weight, theirs[f"{layer}.weight"] @ bias + theirs[f"{layer}.bias"]
    return {f"{name}.weight": weight, f"{name}.bias": bias}


def _encoder(theirs: Mapping[str, Tensor], options: Mapping[str, Any], *, edge_channels: int) -> dict[str, Tensor]:
    construct = "construct_graph"
    position = theirs[f"{construct}.pos_embed"]
    ours = {
        "encoder.position": position,
        "encoder.direction": position.new_zeros(1 + options["reverse_edges"], edge_channels),
        "encoder.operation": position.new_zeros(0, edge_channels),
        "encoder.depth": position.new_zeros(0, position.shape[1]),
        "encoder.activation": theirs.get(f"{construct}.act_emb.embedding.weight", position.new_zeros(0, position.shape[1])),
    }
    for kind, encoder, last in (("weight", "encoder.edges", "proj_edge_in"), ("bias", "encoder.nodes", "proj_node_in")):
        if options["encoding"] == "fourier":
            ours[f"{encoder}.0.frequencies"] = theirs[f"{construct}.proj_{kind}.0.b"]
            ours |= _linear(theirs, f"{encoder}.1", f"{construct}.proj_{kind}.1", f"{construct}.{last}")
        else:
            ours |= _linear(theirs, encoder, f"{construct}.proj_{kind}.0", f"{construct}.{last}")
    return ours


def ng_gnn_weights(theirs: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Parameters of their NG-GNN under our names; linear layers that follow one another become one.

    Args:
        theirs: Parameters by their names.
        options: What `ng_gnn_options` gives.
    """
    ours = _encoder(theirs, options, edge_channels=options["channels"])
    for index in range(options["num_layers"]):
        layer, conv, update = f"layers.{index}", f"gnn.convs.{index}", f"gnn.edge_update.{index - 1}"
        ours |= _linear(theirs, f"{layer}.film", f"{conv}.edge_encoder")
        ours |= _linear(theirs, f"{layer}.node", f"{conv}.post_nns.0.0", f"{conv}.lin")
        bias = theirs[f"{conv}.pre_nns.0.0.bias"]
        weights, biases = list(theirs[f"{conv}.pre_nns.0.0.weight"].chunk(2, 1)), [bias, torch.zeros_like(bias)]
        if index > 0:
            ours |= _linear(theirs, f"{layer}.edge_in", f"{update}.lin_e")
            ours |= _linear(theirs, f"{layer}.edge_out", f"{update}.lin1")
            ours.update({f"norms.{index - 1}.{part}": theirs[f"gnn.norms.{index - 1}.{part}"] for part in ("weight", "bias")})
            # as a target for the edge and for the message, then as a source
            weights = [theirs[f"{update}.lin_t.weight"], weights[0], theirs[f"{update}.lin_s.weight"], weights[1]]
            biases = [theirs[f"{update}.lin_t.bias"], biases[0], theirs[f"{update}.lin_s.bias"], biases[1]]
        ours.update({f"{layer}.ends.weight": torch.cat(weights), f"{layer}.ends.bias": torch.cat(biases)})
    for index in (0, 2, 4):
        ours |= _linear(theirs, f"read_out.{index}", f"proj_out.{index}")
    return ours


def ng_t_weights(theirs: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    """Parameters of their NG-T under our names; linear layers that follow one another become one.

    Args:
        theirs: Parameters by their names.
        options: What `ng_t_options` gives.
    """
    ours = _encoder(theirs, options, edge_channels=options["edge_channels"])
    for index in range(options["num_layers"]):
        layer, attention = f"layers.{index}", f"layers.{index}.self_attn"
        # theirs has queries, keys and values of each head beside one another
        of_nodes = theirs[f"{attention}.qkv_node.weight"].unflatten(0, (options["num_heads"], 3, -1))
        ours[f"{layer}.of_nodes.weight"] = of_nodes.transpose(0, 1).flatten(0, 2)
        ours[f"{layer}.of_pairs.weight"] = theirs[f"{attention}.qkv_edge.weight"]
        ours |= _linear(theirs, f"{layer}.attended", f"{attention}.proj_out", f"{layer}.lin0")
        ours |= _linear(theirs, f"{layer}.outer", f"{layer}.node_mlp.2")
        ours[f"{layer}.inner.weight"] = theirs[f"{layer}.node_mlp.0.weight"]
        for norm in range(2):
            ours |= _linear(theirs, f"{layer}.norms.{norm}", f"{layer}.node_ln{norm}")
        if options["edge_updates"] and index < options["num_layers"] - 1:
            ours |= _pair_update(theirs, f"{layer}.pair_update", f"{layer}.edge_updates")
    for index in range(0, 2 * options["read_out_layers"] + 1, 2):
        ours |= _linear(theirs, f"read_out.{index}", f"proj_out.{index}")
    return ours


def _pair_update(theirs: Mapping[str, Tensor], update: str, layer: str) -> dict[str, Tensor]:
    first, second = f"{layer}.edge_mlp0", f"{layer}.edge_mlp1"
    ours = {
        f"{update}.inner0.weight": theirs[f"{first}.lin0_e.weight"],
        f"{update}.inner1.weight": theirs[f"{second}.0.weight"],
        f"{update}.ends.weight": torch.cat([theirs[f"{first}.lin0_{end}.weight"] for end in "st"]),
        f"{update}.ends.bias": torch.cat(
            [theirs[f"{first}.lin0_s.bias"] + theirs[f"{first}.lin0_e.bias"], theirs[f"{first}.lin0_t.bias"]]
        ),
    }
    for index, outer in enumerate((f"{first}.lin1", f"{second}.2")):
        ours |= _linear(theirs, f"{update}.outer{index}", outer)
        ours |= _linear(theirs, f"{update}.norm{index}", f"{layer}.eln{index}")
    return ours
