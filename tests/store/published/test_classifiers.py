"""CNN Wild Park, Model Zoos, Small Transformer Zoo and Deep-Align, from files in their layouts."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from ngbench.errors import ForeignZooError
from ngbench.graph import restore
from ngbench.store import PUBLISHED, import_zoo
from ngbench.store.published.deep_align import AlignCnn, AlignMlp
from ngbench.store.published.model_zoos import PopulationCnn
from ngbench.store.published.resnet18 import Resnet18
from ngbench.store.published.small_transformer import SmallTransformer
from ngbench.store.published.wild_park import ParkCnn


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def module_of(architecture, graph):
    module = architecture.module().eval()
    counters = {path: values for path, values in module.state_dict().items() if not values.is_floating_point()}
    module.load_state_dict({**restore(graph), **counters})
    return module


def random_state(architecture, seed):
    rng = torch.Generator().manual_seed(seed)
    shapes = architecture.module().state_dict()
    return {path: torch.randn(values.shape, generator=rng) / 9 for path, values in shapes.items() if values.is_floating_point()}


PARK = ParkCnn((3, 4, 8, 16, 8), (3, 5, 3, 7), (1,) * 4, (1, 2, 1, 3), (-1, -1, 0, 1), ("relu", "tanh", "none", "gelu"), 10)


class Node:
    """A list of OmegaConf as it is pickled: entries in `_content`, each with its `_val`."""

    def __init__(self, **state):
        self.__dict__ |= state


@pytest.fixture
def omegaconf(monkeypatch):
    """Pickles of a module that no one has when they are read."""
    module = types.ModuleType("create_random_cnns")
    module.Node = type("Node", (Node,), {"__module__": "create_random_cnns"})
    monkeypatch.setitem(sys.modules, "create_random_cnns", module)

    def node(value):
        if isinstance(value, dict):
            return module.Node(_metadata=None, _content={key: node(entry) for key, entry in value.items()})
        if isinstance(value, list):
            return module.Node(_metadata=None, _parent=None, _content=[node(entry) for entry in value])
        return module.Node(_val=value)

    return node


def park_config(**changed):
    config = {"n_layers": 4, "n_classes": 10, "channels": list(PARK.channels), "kernel_size": list(PARK.kernel_sizes)}
    config |= {"stride": list(PARK.strides), "padding": list(PARK.paddings), "residual": list(PARK.skips)}
    return config | {"activation": list(PARK.activations)} | changed


def nested(depth):
    return [nested(depth - 1)] if depth else 3


def park(path, node, *, seed=1, **changed):
    content = {"model": random_state(PARK, seed), "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}}}
    content |= {"config": node(park_config()), "iteration": 40, "last_result": {"test/acc": 0.625, "test/loss": 1.5, "x": None}}
    save(path, {key: value for key, value in (content | changed).items() if value is not ...})


def test_a_network_of_the_park_adds_its_skips_before_the_activation(omegaconf, tmp_path, monkeypatch):
    for trial, seed in (("a", 1), ("b", 2)):
        park(tmp_path / f"files/cifar10_zooV2/{trial}/checkpoint_000040/checkpoint.pt", omegaconf, seed=seed)
    splits = {part: {"path": [], "score": [], "step": []} for part in ("train", "val", "test")}
    splits["val"]["path"] = ["cifar10_zooV2/b/checkpoint_000040/checkpoint.pt"]
    (tmp_path / "files/cnn_park_splits.json").write_text(json.dumps(splits))
    monkeypatch.delitem(sys.modules, "create_random_cnns")
    zoo = import_zoo(PUBLISHED["cnn-wild-park"], tmp_path / "files", tmp_path / "zoo.h5")
    assert zoo.ids.tolist() == ["a/checkpoint_000040", "b/checkpoint_000040"]
    assert zoo.parts("ng-wild-park").tolist() == [-1, 1]
    assert {name: zoo.metadata[name][0].item() for name in ("epoch", "depth", "num_skips", "test_accuracy")} == {
        "epoch": 40, "depth": 4, "num_skips": 2, "test_accuracy": 0.625
    }  # fmt: skip
    assert zoo.metadata["activations"][0] == "relu,tanh,none,gelu"
    state, images = random_state(PARK, 1), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    conv = [
        lambda x, i=i: nn.functional.conv2d(x, state[f"layers.{i}.weight"], state[f"layers.{i}.bias"], padding="same")
        for i in range(4)
    ]
    first = conv[0](images).relu()
    second = conv[1](first).tanh()
    third = conv[2](second)
    third[:, :4] += first
    fourth = nn.functional.gelu(conv[3](third) + second)
    expected = fourth.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]
    with torch.no_grad():
        assert torch.allclose(module_of(PARK, zoo[0])(images), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"iteration": ...}, r"lacks \['iteration'\]"),
        ({"iteration": 1.5}, "'iteration' in .* is 1.5; expected a whole number"),
        ({"config": park_config(channels=nested(25))}, "a configuration is nested more than 20 deep; expected lists and numbers"),
        ({"last_result": 3}, "holds no state dict or no result"),
        ({"config": 3}, "has None as 'channels'; expected a list"),
        ({"config": park_config(kernel_size=[3, 5])}, "has lists for .* layers; expected one entry a layer"),
        ({"config": park_config(activation=["relu", "tanh", "none", "step"])}, "has activation 'step'"),
        ({"config": park_config(residual=[-1, -1, 0, 3])}, r"has skips \(-1, -1, 0, 3\)"),
        ({"config": park_config(channels=[3, 4, 10**9, 16, 8])}, "has sizes .*1000000000"),
        ({"config": park_config(channels=[3, 4, 8, 16, 9])}, "is not built as ParkCnn"),
    ],
)
def test_files_of_the_park_with_other_content_are_refused(omegaconf, tmp_path, changed, text):
    park(tmp_path / "files/zoo/a/c/checkpoint.pt", omegaconf, **changed)
    with pytest.raises(ForeignZooError, match=text):
        import_zoo(PUBLISHED["cnn-wild-park"], tmp_path / "files", tmp_path / "zoo.h5")


class Bomb:
    """Writes a file when it is unpickled without restriction."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_that_would_run_code_runs_nothing(omegaconf, tmp_path):
    park(tmp_path / "files/zoo/a/c/checkpoint.pt", omegaconf, config=Bomb(tmp_path / "harm"))
    with pytest.raises(ForeignZooError, match="as 'channels'; expected a list"):
        import_zoo(PUBLISHED["cnn-wild-park"], tmp_path / "files", tmp_path / "zoo.h5")
    save(tmp_path / "siren/randinit_smaller_5s/net1.pth", {"net.0.weight": Bomb(tmp_path / "harm")})
    with pytest.raises(ForeignZooError, match="holds more than tensors"):
        import_zoo(PUBLISHED["nfn-siren-mnist"], tmp_path / "siren", tmp_path / "zoo.h5")
    assert not (tmp_path / "harm").exists()
    torch.load(tmp_path / "siren/randinit_smaller_5s/net1.pth", weights_only=False)
    assert (tmp_path / "harm").exists()


def test_a_checkpoint_of_the_park_that_is_no_dictionary_is_refused(tmp_path):
    for content in (3, [1, 2], torch.ones(3)):
        save(tmp_path / "files/zoo/a/c/checkpoint.pt", content)
        with pytest.raises(ForeignZooError, match=r"lacks \['model', 'config', 'iteration', 'last_result'\]; expected model"):
            import_zoo(PUBLISHED["cnn-wild-park"], tmp_path / "files", tmp_path / "zoo.h5")


def test_a_split_of_the_park_without_paths_is_refused(omegaconf, tmp_path):
    park(tmp_path / "files/zoo/a/c/checkpoint.pt", omegaconf)
    (tmp_path / "files/cnn_park_splits.json").write_text('{"train": {"path": "x"}}')
    with pytest.raises(ForeignZooError, match="has no list of paths in part 'train'"):
        import_zoo(PUBLISHED["cnn-wild-park"], tmp_path / "files", tmp_path / "zoo.h5")


def population(folder, name, architecture, *, nlin="tanh", epochs=(0, 5), **changed):
    home = folder / f"tune_zoo_mnist/NN_tune_trainable_{name}"
    home.mkdir(parents=True)
    config = {"model::type": "CNN", "model::nlin": nlin, "model::init_type": "uniform", "optim::optimizer": "adam"}
    config |= {"optim::lr": 3e-4, "optim::wd": 0, "model::dropout": 0.0, "seed": 7}
    lines = [{"training_iteration": e, "test_acc": e / 10, "train_acc": 0.9, "test_loss": 1.0, "config": config} for e in epochs]
    (home / "result.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (home / "params.json").write_text(json.dumps(config | changed))
    for epoch in epochs:
        save(home / f"checkpoint_{epoch:06d}/checkpoints", random_state(architecture, epoch))
    return home


@pytest.mark.parametrize("has_dropout", [False, True])
def test_a_small_cnn_of_the_model_zoos_pools_before_its_activation(tmp_path, has_dropout):
    architecture = PopulationCnn("CNN", 1, "tanh", has_dropout)
    population(tmp_path / "files", "b", architecture)
    (tmp_path / "files/tune_zoo_mnist/dataset.pt").write_bytes(b"images, not networks")
    zoo = import_zoo(PUBLISHED["model-zoos-mnist"], tmp_path / "files", tmp_path / "zoo.h5")
    assert zoo.ids.tolist() == ["NN_tune_trainable_b/0", "NN_tune_trainable_b/5"]
    assert zoo.metadata["test_accuracy"].tolist() == [0.0, 0.5]
    assert zoo.metadata["learning_rate"].tolist() == [3e-4] * 2
    assert zoo.topologies[0].num_values == 2464
    state, images = random_state(architecture, 5), torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    places = (0, 4, 8, 11, 14) if has_dropout else (0, 3, 6, 9, 11)
    (w1, b1), (w2, b2), (w3, b3), (w4, b4), (w5, b5) = [
        (state[f"module_list.{i}.weight"], state[f"module_list.{i}.bias"]) for i in places
    ]
    hidden = nn.functional.max_pool2d(nn.functional.conv2d(images, w1, b1), 2).tanh()
    hidden = nn.functional.max_pool2d(nn.functional.conv2d(hidden, w2, b2), 2).tanh()
    hidden = nn.functional.conv2d(hidden, w3, b3).tanh().flatten(1)
    expected = (hidden @ w4.T + b4).tanh() @ w5.T + b5
    with torch.no_grad():
        assert torch.allclose(module_of(architecture, zoo[1])(images), expected, atol=1e-5)


def test_large_and_residual_networks_have_their_published_parameters(tmp_path):
    large = PopulationCnn("CNN3", 3, "gelu", True)
    population(tmp_path / "files", "a", large, epochs=(21,), nlin="gelu")
    zoo = import_zoo(PUBLISHED["model-zoos-cifar10-sample"], tmp_path / "files", tmp_path / "zoo.h5")
    assert zoo.topologies[0].num_values == 10_853
    state = Resnet18(3, 100).module().state_dict()
    paths = {path for path in state if path.endswith("weight")}
    assert {"conv1.weight", "layer2.0.downsample.0.weight", "layer4.1.bn2.weight", "fc.weight"} <= paths
    assert sum(values.numel() for values in Resnet18(3, 10).module().parameters()) == 11_173_962


def test_a_preprocessed_set_gives_its_own_split(tmp_path, monkeypatch):
    module = types.ModuleType("checkpoints_to_datasets.dataset_base")
    module.ModelDatasetBase = type("ModelDatasetBase", (Node,), {"__module__": module.__name__})
    monkeypatch.setitem(sys.modules, "checkpoints_to_datasets", types.ModuleType("checkpoints_to_datasets"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    architecture, content = PopulationCnn("CNN", 1, "relu", False), {}
    for part, seeds in (("trainset", (1, 2)), ("valset", (3,)), ("testset", (4,))):
        properties = {
            "training_iteration": [9] * len(seeds),
            "test_acc": [seed / 8 for seed in seeds],
            "model::nlin": ["relu"] * len(seeds),
        }
        states = [random_state(architecture, seed) for seed in seeds]
        paths = [tmp_path / f"tune/run-{seed // 2}-{part}" for seed in seeds]
        content[part] = module.ModelDatasetBase(data_in=states, paths=paths, properties=properties, epochs=[9])
    save(tmp_path / "files/dataset_mnist_hyp_fix.pt", content)
    monkeypatch.delitem(sys.modules, module.__name__)
    zoo = import_zoo(PUBLISHED["model-zoos-mnist"], tmp_path / "files", tmp_path / "zoo.h5")
    assert zoo.ids.tolist() == ["run-0-trainset/9", "run-1-trainset/9", "run-1-valset/9", "run-2-testset/9"]
    assert zoo.parts("model-zoos").tolist() == [0, 0, 1, 2]
    assert zoo.metadata["test_accuracy"].tolist() == [0.125, 0.25, 0.375, 0.5]
    expected = random_state(architecture, 3)
    assert all(torch.equal(values, expected[path]) for path, values in restore(zoo[2]).items())


def test_files_of_the_model_zoos_with_other_content_are_refused(tmp_path):
    published, out = PUBLISHED["model-zoos-mnist"], tmp_path / "zoo.h5"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ForeignZooError, match="holds no result.json and no"):
        import_zoo(published, tmp_path / "empty", out)
    architecture = PopulationCnn("CNN", 1, "tanh", False)
    for name, given in (("step", "step"), ("list", ["tanh"])):
        population(tmp_path / name, "a", architecture, **{"model::nlin": given})
        with pytest.raises(ForeignZooError, match=re.escape(f"has model::nlin {given!r}; expected one of")):
            import_zoo(published, tmp_path / name, out)
    home = population(tmp_path / "lines", "a", architecture)
    (home / "result.json").write_text("{}\n")
    with pytest.raises(ForeignZooError, match="'training_iteration' in .* is None; expected a whole number"):
        import_zoo(published, tmp_path / "lines", out)
    (home / "result.json").write_text("\n")
    with pytest.raises(ForeignZooError, match="has no line with an epoch"):
        import_zoo(published, tmp_path / "lines", out)
    (home / "result.json").write_text("{5\n")
    with pytest.raises(ForeignZooError, match="is no JSON"):
        import_zoo(published, tmp_path / "lines", out)
    home = population(tmp_path / "other", "a", architecture, epochs=(3,))
    save(home / "checkpoint_000003/checkpoints", {"module_list.0.weight": torch.zeros(8, 1, 3, 3)})
    with pytest.raises(ForeignZooError, match=r"first convolution of shape \(8, 1, 3, 3\)"):
        import_zoo(published, tmp_path / "other", out)
    for state, text in (
        ({"module_list.0.bias": torch.zeros(8)}, "holds module_list.0.bias; expected a CNN as module_list.0, ... or a ResNet-18"),
        (
            {"conv1.weight": torch.zeros(8), "fc.bias": torch.zeros(3)},
            r"conv1.weight of shape \(8,\), fc.bias of \(3,\)",
        ),
    ):
        save(home / "checkpoint_000003/checkpoints", state)
        with pytest.raises(ForeignZooError, match=text):
            import_zoo(published, tmp_path / "other", out)
    (home / "params.json").write_text("[]")
    with pytest.raises(ForeignZooError, match="a' has no configuration; expected params.json, or config in result.json"):
        import_zoo(published, tmp_path / "other", out)
    (home / "params.json").write_text("{}")
    (home / "checkpoint_000003/checkpoints").unlink()
    with pytest.raises(ForeignZooError, match="lacks the file 'checkpoints'"):
        import_zoo(published, tmp_path / "other", out)
    save(tmp_path / "vectors/a.pt", {"trainset": {"data_in": [torch.ones(3)], "paths": ["a"], "properties": {}}})
    with pytest.raises(ForeignZooError, match="holds a ndarray as network 0; expected a state dict"):
        import_zoo(published, tmp_path / "vectors", out)
    save(tmp_path / "vectors/a.pt", {"trainset": {"data_in": [{}], "paths": ["a", "b"], "properties": {}}})
    with pytest.raises(ForeignZooError, match="has no list 'paths' of 1 entries"):
        import_zoo(published, tmp_path / "vectors", out)
    for sets in ({"data_in": 3, "properties": {}}, {"data_in": [], "properties": []}, 3):
        save(tmp_path / "vectors/a.pt", {"trainset": sets})
        with pytest.raises(ForeignZooError, match="'trainset' in .*a.pt' has no lists data_in and properties; expected a set"):
            import_zoo(published, tmp_path / "vectors", out)
    save(tmp_path / "vectors/a.pt", {"x": 1})
    with pytest.raises(ForeignZooError, match="has no trainset, valset or testset"):
        import_zoo(published, tmp_path / "vectors", out)


STZ = SmallTransformer(True, 10)


def transformers(folder, *, accuracy="test_top1_accuracy", names=("r1_75_9123.pt", "r1_best1_9300.pt", "r2_75_1135.pt")):
    rows = []
    for seed, name in enumerate(names):
        save(folder / f"MNIST-Transformers/mnist/{name}", random_state(STZ, seed))
        row = {"seed": 3, "optimizer": "adam", "lr": 0.001, "w_init_std": 0.1, "l2_regularize": 1e-8, "train_fraction": 0.9}
        row |= {"dropout": 0.05, "ckpt_epoch": name.split("_")[1], "ckpt_file": f"/home/me/mnist/{name}", accuracy: 0.9}
        rows.append(row)
    save(folder / "MNIST-Transformers/mnist/not_75_in.pt", random_state(STZ, 99))
    path = folder / "MNIST-Transformers/metadata/mnist.csv"
    path.parent.mkdir()
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows[::-1])


def test_a_small_transformer_has_no_residuals_and_norms_without_parameters(tmp_path):
    transformers(tmp_path / "files")
    zoo = import_zoo(PUBLISHED["small-transformer-mnist"], tmp_path / "files", tmp_path / "zoo.h5")
    assert zoo.ids.tolist() == ["r1/75", "r1/best1", "r2/75"]
    assert zoo.run_ids.tolist() == ["r1", "r1", "r2"]
    assert zoo.metadata["train_share"].tolist() == [0.9] * 3
    state, images = random_state(STZ, 1), torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    tokens = nn.functional.conv2d(images, state["embedding.conv1.weight"], state["embedding.conv1.bias"], stride=4)
    tokens = tokens.flatten(2).transpose(1, 2) + state["embedding.pos_embedding"]

    def norm(x):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()

    for block in range(2):
        p = f"encoder.{block}."
        query, key, value = (norm(tokens) @ state[f"{p}attention.{name}.weight"].T for name in ("queries", "keys", "values"))
        heads = []
        for head in (slice(0, 16), slice(16, 32)):
            shares = (query[..., head] @ key[..., head].transpose(1, 2) / 4).softmax(-1)
            heads.append(shares @ value[..., head])
        mixed = torch.cat(heads, -1) @ state[f"{p}attention.out_projection.weight"].T
        hidden = (norm(mixed) @ state[f"{p}fc1.weight"].T + state[f"{p}fc1.bias"]).relu()
        tokens = hidden @ state[f"{p}fc2.weight"].T + state[f"{p}fc2.bias"]
    hidden = (norm(tokens).mean(1) @ state["classifier.fc1.weight"].T + state["classifier.fc1.bias"]).relu()
    expected = hidden @ state["classifier.fc2.weight"].T + state["classifier.fc2.bias"]
    with torch.no_grad():
        assert torch.allclose(module_of(STZ, zoo[1])(images), expected, atol=1e-4)


def test_small_transformers_without_file_name_or_accuracy_are_refused(tmp_path):
    published, out = PUBLISHED["small-transformer-mnist"], tmp_path / "zoo.h5"
    transformers(tmp_path / "a")
    (tmp_path / "a/MNIST-Transformers/mnist/r2_75_1135.pt").unlink()
    with pytest.raises(ForeignZooError, match="names 'r2_75_1135.pt', which .* lacks"):
        import_zoo(published, tmp_path / "a", out)
    transformers(tmp_path / "b", names=("r1_last_10.pt",))
    with pytest.raises(ForeignZooError, match="names 'r1_last_10.pt'; expected <run>_<epoch>_<accuracy>.pt"):
        import_zoo(published, tmp_path / "b", out)
    transformers(tmp_path / "c", accuracy="score")
    with pytest.raises(ForeignZooError, match="has no accuracy; expected one of the columns test_top1_accuracy, test_accuracy"):
        import_zoo(published, tmp_path / "c", out)


def test_classifiers_for_merging_keep_their_values_and_loss(tmp_path):
    mlp = AlignMlp((784, 128, 128, 128, 10))
    for name, extra in (("a/1", {"label": {"test_loss": 0.25}}), ("a/2", {}), ("b/1", {"label": {}})):
        save(tmp_path / f"files/mnist_models/{name}.pth", random_state(mlp, len(name)) | extra)
    zoo = import_zoo(PUBLISHED["deep-align-mnist-mlp"], tmp_path / "files", tmp_path / "zoo.h5")
    assert zoo.ids.tolist() == ["mnist_models/a/1", "mnist_models/a/2", "mnist_models/b/1"]
    assert zoo.topologies[0].num_values == 134_794
    assert zoo.metadata["test_loss"][0] == 0.25
    assert np.isnan(zoo.metadata["test_loss"][1:]).all()
    save(tmp_path / "cnns/x.pth", random_state(AlignCnn(), 5))
    cnns = import_zoo(PUBLISHED["deep-align-cifar10-cnn"], tmp_path / "cnns", tmp_path / "cnns.h5")
    assert cnns.topologies[0].num_values == 311_690
    with pytest.raises(ForeignZooError, match=r"expected an MLP of 3072 inputs as seq.0, seq.2, \.\.\."):
        import_zoo(PUBLISHED["deep-align-cifar10-mlp"], tmp_path / "files", tmp_path / "zoo.h5")
