"""Implicit neural representations of DWSNets, NFN and the Neural Field Arena, from files in their layouts."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch

from ngbench.errors import ForeignZooError
from ngbench.graph import restore
from ngbench.store import PUBLISHED, import_zoo, verify
from ngbench.store.published.dws_inr import DwsInr
from ngbench.store.published.neural_field_arena import ArenaSiren
from ngbench.store.published.nfn_siren import NfnSiren

POINTS = torch.tensor([[-1.0, 0.25], [0.5, -0.75], [0.1, 0.9]])


def dws(seed, **extra):
    rng = torch.Generator().manual_seed(seed)
    shapes = {"seq.0": (32, 2), "seq.1": (32, 32), "seq.2": (1, 32)}
    weights = {f"{name}.weight": torch.randn(shape, generator=rng) / 30 for name, shape in shapes.items()}
    biases = {f"{name}.bias": torch.randn(shape[0], generator=rng) / 30 for name, shape in shapes.items()}
    return {path: (weights | biases)[path] for name in shapes for path in (f"{name}.weight", f"{name}.bias")} | extra


def save(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)


def in_numpy(layers, points, *, omega):
    hidden = points.double().numpy()
    for weight, bias in layers[:-1]:
        hidden = np.sin(omega * (hidden @ np.asarray(weight, dtype=np.float64).T + np.asarray(bias)))
    return hidden @ np.asarray(layers[-1][0]).T + np.asarray(layers[-1][1])


def computed(architecture, graph):
    module = architecture.module()
    module.load_state_dict(restore(graph))
    with torch.no_grad():
        return module(POINTS).numpy()


@pytest.fixture
def fashion(tmp_path):
    for half, images in (("train", range(5)), ("test", range(3))):
        for image in images:
            save(tmp_path / f"files/fmnist_inrs/{half}/model_{image}.pth", dws(image + 50 * (half == "test"), label=image % 4))
    splits = {"train": ["train/model_0", "train/model_3", "train/model_4"], "val": ["train/model_1"], "test": ["test/model_2"]}
    content = {part: {"path": [f"fmnist_inrs/{name}.pth" for name in names]} for part, names in splits.items()}
    (tmp_path / "files/fmnist_splits.json").write_text(json.dumps(content))
    return tmp_path / "files"


def test_a_fashion_network_keeps_values_function_label_and_part(fashion, tmp_path):
    zoo = import_zoo(PUBLISHED["dws-inr-fashion-mnist"], fashion, tmp_path / "zoo.h5")
    assert zoo.ids.tolist() == [f"test-0000{i}" for i in range(3)] + [f"train-0000{i}" for i in range(5)]
    assert zoo.metadata["label"].tolist() == [0, 1, 2, 0, 1, 2, 3, 0]
    assert zoo.ids[zoo.split("train", "ng-fmnist")].tolist() == ["train-00000", "train-00003", "train-00004"]
    assert zoo.ids[zoo.split("val", "ng-fmnist")].tolist() == ["train-00001"]
    state = dws(4)
    assert all(torch.equal(values, state[path]) for path, values in restore(zoo[7]).items())
    layers = [(state[f"seq.{i}.weight"], state[f"seq.{i}.bias"]) for i in range(3)]
    assert np.allclose(computed(DwsInr(), zoo[7]), in_numpy(layers, POINTS, omega=30) + 0.5, atol=1e-5)
    assert all(check.passed for check in verify(zoo))


def test_the_authors_list_of_paths_is_a_reference_split_too(fashion, tmp_path):
    (fashion / "fmnist_splits.json").unlink()
    lists = {"train": ["/home/me/train/model_1.pth"], "val": [], "test": ["test/model_0.pth"]}
    (fashion / "fmnist_inrs/splits.json").write_text(json.dumps(lists))
    zoo = import_zoo(PUBLISHED["dws-inr-fashion-mnist"], fashion, tmp_path / "zoo.h5")
    assert zoo.ids[zoo.split("train", "ng-fmnist")].tolist() == ["train-00001"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda folder: save(folder / "fmnist_inrs/train/model_1.pth", dws(0)), "has label None; expected a whole number"),
        (lambda folder: save(folder / "fmnist_inrs/train/other.pth", dws(0)), "other.pth' has another name than published"),
        (
            lambda folder: (folder / "fmnist_splits.json").write_text(
                '{"train": ["test/model_0"], "val": ["test/model_0"], "test": []}'
            ),
            "has 'test/model_0' in train and val",
        ),
        (lambda folder: (folder / "fmnist_splits.json").write_text('{"train": 3}'), "has no parts train, val and test"),
        (
            lambda folder: (folder / "fmnist_splits.json").write_text('{"train": 3, "val": [], "test": []}'),
            "holds a int in part 'train'",
        ),
        (
            lambda folder: save(folder / "fmnist_inrs/test/model_0.pth", dws(0, label=1, extra=torch.ones(2))),
            "that the topology lacks",
        ),
    ],
)
def test_fashion_files_of_another_layout_are_refused(fashion, tmp_path, change, text):
    change(fashion)
    with pytest.raises(ForeignZooError, match=text):
        import_zoo(PUBLISHED["dws-inr-fashion-mnist"], fashion, tmp_path / "zoo.h5")


def test_an_mnist_network_has_its_label_from_the_folder_even_below_a_folder_called_train(tmp_path):
    for name in ("training_7_00012", "testing_2_3"):
        save(tmp_path / f"train/mnist-inrs/mnist_png_{name}/checkpoints/last.pth", dws(8))
    zoo = import_zoo(PUBLISHED["dws-inr-mnist"], tmp_path / "train", tmp_path / "zoo.h5")
    assert zoo.metadata["half"].tolist() == ["test", "train"]
    assert zoo.metadata["label"].tolist() == [2, 7]
    assert zoo.run_ids.tolist() == ["test-00003", "train-00012"]


def test_an_mnist_folder_of_another_name_is_refused(tmp_path):
    save(tmp_path / "files/mnist_7/checkpoints/last.pth", dws(8))
    with pytest.raises(ForeignZooError, match="stands in 'mnist_7'; expected mnist_png_<half>_<label>_<image>"):
        import_zoo(PUBLISHED["dws-inr-mnist"], tmp_path / "files", tmp_path / "zoo.h5")


def nfn(seed, num_channels):
    rng = torch.Generator().manual_seed(seed)
    shapes = {"net.0.linear": (32, 2), "net.1.linear": (32, 32), "net.2": (num_channels, 32)}
    found = {}
    for name, shape in shapes.items():
        found |= {f"{name}.weight": torch.randn(shape, generator=rng) / 30, f"{name}.bias": torch.randn(shape[0], generator=rng)}
    return found


def test_augmented_copies_of_an_image_stay_together_and_out_of_the_test(tmp_path):
    for name in ("5s/net44999", "5s/net45000", "3s/net59999", "aug0_5s/net44999", "aug1_5s/net45000"):
        save(tmp_path / f"files/siren_cifar_wts/randinit_smaller_{name}.pth", nfn(len(name), 3))
    zoo = import_zoo(PUBLISHED["nfn-siren-cifar10"], tmp_path / "files", tmp_path / "zoo.h5")
    parts = dict(zip(zoo.ids.tolist(), zoo.parts("nfn-index").tolist(), strict=True))
    expected = {"image-44999/0": 0, "image-44999/1": 0, "image-45000/0": 1, "image-45000/2": -1, "image-59999/0": 2}
    assert parts == expected
    assert len(set(zoo.run_ids.tolist())) == 3
    state = nfn(len("3s/net59999"), 3)
    layers = [(state[f"{name}.weight"], state[f"{name}.bias"]) for name in ("net.0.linear", "net.1.linear", "net.2")]
    row = zoo.ids.tolist().index("image-59999/0")
    assert zoo.metadata["label"][row] == 3
    assert np.allclose(computed(NfnSiren(3), zoo[row]), in_numpy(layers, POINTS, omega=30), atol=1e-4)


def test_a_siren_of_other_channels_or_name_is_refused(tmp_path):
    save(tmp_path / "grey/randinit_smaller_5s/net1.pth", nfn(1, 1))
    with pytest.raises(
        ForeignZooError, match=r"'image-00001/0' of zoo 'nfn-siren-cifar10' is not built as NfnSiren\(num_channels=3\)"
    ):
        import_zoo(PUBLISHED["nfn-siren-cifar10"], tmp_path / "grey", tmp_path / "zoo.h5")
    save(tmp_path / "named/randinit_5s/net1.pth", nfn(1, 3))
    with pytest.raises(ForeignZooError, match="net1.pth' has another name than published"):
        import_zoo(PUBLISHED["nfn-siren-cifar10"], tmp_path / "named", tmp_path / "zoo.h5")


CONFIG = [
    ["kernel_net_0.linear.bias", [5]],
    ["kernel_net_0.linear.kernel", [2, 5]],
    ["kernel_net_1.linear.bias", [5]],
    ["kernel_net_1.linear.kernel", [5, 5]],
    ["output_linear.bias", [3]],
    ["output_linear.kernel", [5, 3]],
]


def arena(path, start, stop, *, config=CONFIG, **changed):
    path.parent.mkdir(parents=True, exist_ok=True)
    num_values = sum(int(np.prod(shape)) for _, shape in CONFIG)
    params = np.random.default_rng(start).normal(size=(stop - start, num_values)).astype(np.float32)
    content = {"params": params, "labels": np.arange(start, stop) % 10} | changed
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            if values is not None:
                file[name] = values
        file.create_dataset("param_config", (1,), dtype=h5py.string_dtype())[0] = json.dumps(config)
    return params


def test_a_field_of_the_arena_keeps_its_function_place_and_part(tmp_path):
    later = arena(tmp_path / "files/mnist_10000-10004.hdf5", 10_000, 10_004)
    arena(tmp_path / "files/mnist_9998-10000.hdf5", 9_998, 10_000)
    arena(tmp_path / "files/mnist_59999-60001.hdf5", 59_999, 60_001)
    zoo = import_zoo(PUBLISHED["neural-field-arena-mnist"], tmp_path / "files", tmp_path / "zoo.h5")
    assert zoo.metadata["signal_index"].tolist() == [9998, 9999, 10000, 10001, 10002, 10003, 59999, 60000]
    assert zoo.parts("arena-index").tolist() == [0] * 6 + [1, 2]
    row = later[3].astype(np.float64)
    layers = [
        (row[5:15].reshape(2, 5).T, row[:5]),
        (row[20:45].reshape(5, 5).T, row[15:20]),
        (row[48:].reshape(5, 3).T, row[45:48]),
    ]
    assert np.allclose(computed(ArenaSiren((2, 5, 5, 3)), zoo[5]), in_numpy(layers, POINTS, omega=8), atol=1e-4)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"params": np.zeros((3, 63), np.float32)}, "has 3 rows and 4 labels; expected 4 by its name"),
        ({"params": np.zeros((4, 62), np.float32)}, "has rows of 62 values; its param_config has"),
        ({"params": np.zeros((4, 63), np.int64)}, "has 'params' as int64 of 2 axes; expected kind 'f' of 2 axes"),
        ({"labels": None}, "has no dataset 'labels' of its own"),
        ({"labels": h5py.ExternalLink("other.hdf5", "labels")}, "has no dataset 'labels' of its own"),
        ({"config": [["weights", [2, 5]]]}, r"has \"\['weights', \[2, 5\]\]\" in param_config"),
        ({"config": [["output_linear.bias", [3, 1]]]}, r"gives 'output_linear.bias' the shape \[3, 1\]; expected 1 axes"),
        ({"config": [["output_linear.kernel", [3]]]}, r"gives 'output_linear.kernel' the shape \[3\]; expected 2 axes"),
        ({"config": CONFIG[::-1]}, "expected the layers of a SIREN, bias before kernel"),
    ],
)
def test_arena_files_of_another_layout_are_refused(tmp_path, changed, text):
    arena(tmp_path / "files/mnist_0-4.hdf5", 0, 4, **changed)
    with pytest.raises(ForeignZooError, match=text):
        import_zoo(PUBLISHED["neural-field-arena-mnist"], tmp_path / "files", tmp_path / "zoo.h5")


def test_an_arena_file_without_one_text_of_its_layout_is_refused(tmp_path):
    arena(tmp_path / "files/mnist_0-4.hdf5", 0, 4)
    with h5py.File(tmp_path / "files/mnist_0-4.hdf5", "r+") as file:
        del file["param_config"]
        file.create_dataset("param_config", (2,), dtype=h5py.string_dtype())
    with pytest.raises(ForeignZooError, match="has 2 entries of param_config; expected one text"):
        import_zoo(PUBLISHED["neural-field-arena-mnist"], tmp_path / "files", tmp_path / "zoo.h5")


def test_a_damaged_arena_file_is_refused(tmp_path):
    arena(tmp_path / "files/mnist_0-4.hdf5", 0, 4)
    path = tmp_path / "files/mnist_0-4.hdf5"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ForeignZooError, match="is no HDF5 file, or damaged"):
        import_zoo(PUBLISHED["neural-field-arena-mnist"], tmp_path / "files", tmp_path / "zoo.h5")
    path.unlink()
    with pytest.raises(ForeignZooError, match="holds no file <prefix>_<start>-<end>.hdf5"):
        import_zoo(PUBLISHED["neural-field-arena-mnist"], tmp_path / "files", tmp_path / "zoo.h5")
