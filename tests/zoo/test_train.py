import re
from dataclasses import replace

import numpy as np
import pytest
import torch

import ngbench.zoo.train as training
from ngbench.errors import ImagesError, RecipeError, TrainingError
from ngbench.zoo.architectures import Cnn, Mlp, ParkCnn, Resnet, Transformer, build
from ngbench.zoo.columns import COLUMNS, DESIGN_COLUMNS
from ngbench.zoo.evaluate import evaluate
from ngbench.zoo.images import load_images
from ngbench.zoo.optimizers import OPTIMIZERS
from ngbench.zoo.recipe import ClassifierRecipe, load_recipe
from ngbench.zoo.run import Run
from ngbench.zoo.stack import parameter_shapes, unflatten
from ngbench.zoo.train import train
from ngbench.zoo.trained import TrainedNetworks

TORCH_OPTIMIZERS = {
    "sgd": lambda p, lr, decay: torch.optim.SGD(p, lr, weight_decay=decay),
    "momentum": lambda p, lr, decay: torch.optim.SGD(p, lr, momentum=0.9, weight_decay=decay),
    "rmsprop": lambda p, lr, decay: torch.optim.RMSprop(p, lr, weight_decay=decay),
    "adam": lambda p, lr, decay: torch.optim.Adam(p, lr, weight_decay=decay),
    "adamw": lambda p, lr, decay: torch.optim.AdamW(p, lr, weight_decay=decay),
}


class MaskedDropout(torch.nn.Module):
    """Drops what the run's keys say; positions count over height, width, channels, as the masks are defined."""

    def __init__(self, rate, keys):
        super().__init__()
        self.rate, self.keys, self.step = rate, keys, 0

    def forward(self, hidden):
        images, channels, *places = hidden.shape
        size = hidden.numel()
        bits = np.arange((size + 1) // 2, dtype=np.uint32) + np.uint32(int(self.keys[self.step]) % 2**32)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            bits = (bits ^ (bits >> np.uint32(shift))) * np.uint32(factor)
        kept = bits.view("<i2")[:size] >= round(self.rate * 65536) - 32768
        mask = torch.from_numpy(kept.reshape(images, *places, channels)).movedim(-1, 1)
        self.step += 1
        return hidden * mask / (1 - self.rate)


def train_alone(recipe, index):
    """One network through torch's own modules and optimisers, float64."""
    run = Run.of(recipe, index)
    chosen, images = run.hyperparameters, load_images(recipe.images, run.corpus)
    module = build(run.architecture, chosen["activation"]).double()
    dropouts = [name for name, layer in module.named_children() if isinstance(layer, torch.nn.Dropout)]
    keys = run.dropout_keys(len(dropouts))
    for number, name in enumerate(dropouts):
        setattr(module, name, MaskedDropout(chosen["dropout"], keys[:, number]))
    norms = torch.nn.BatchNorm1d | torch.nn.BatchNorm2d | torch.nn.LayerNorm
    scales = [f"{name}.weight" for name, layer in module.named_modules() if isinstance(layer, norms)]
    start = torch.from_numpy(run.initial_weights(parameter_shapes(module), ones=scales))
    parameters = {path: values[0] for path, values in unflatten(start[None], parameter_shapes(module)).items()}
    assert all((parameters[path] == 1).all() for path in scales)
    module.load_state_dict({**module.state_dict(), **parameters})
    pixels, labels = torch.from_numpy(images.train_images).double(), torch.from_numpy(images.train_labels)
    optimizer = TORCH_OPTIMIZERS[chosen["optimizer"]](module.parameters(), chosen["learning_rate"], chosen["weight_decay"])
    for step, rows in enumerate(run.batches(len(labels))):
        if chosen["schedule"] == "cosine":
            optimizer.param_groups[0]["lr"] = chosen["learning_rate"] * np.cos(np.pi * step / run.num_steps / 2) ** 2
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(pixels[rows]), labels[rows]).backward()
        optimizer.step()
    return run, module.state_dict()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_stacked_networks_equal_networks_trained_alone(small_recipe, optimizer, dropout):
    fixed = {"optimizer": optimizer, "learning_rate": 0.01, "dropout": dropout, "epochs": 7, "batch_size": 16, "init_scale": 1.0}
    recipe = small_recipe(fixed, rounding="none")
    stacked = train(recipe, range(5), dtype=torch.float64)
    steps = []
    for row in range(5):
        run, expected = train_alone(recipe, row)
        steps.append(run.num_steps)
        for path, values in expected.items():
            np.testing.assert_allclose(stacked.parameters[path][row], values.numpy(), rtol=0, atol=1e-10)
    assert min(steps) < 40 < max(steps)


IMAGE = (1, 8, 8)
FAMILIES = {
    "mlp": Mlp(family="mlp", input_shape=IMAGE, width=5, depth=2, norm="none", num_classes=10),
    "mlp with batch norm": Mlp(family="mlp", input_shape=IMAGE, width=5, depth=2, norm="batch", num_classes=10),
    "mlp with layer norm": Mlp(family="mlp", input_shape=IMAGE, width=5, depth=3, norm="layer", num_classes=2),
    "cnn with batch norm": Cnn(
        family="cnn",
        input_shape=IMAGE,
        channels=(3, 4),
        kernel_size=3,
        strides=(2, 1),
        paddings=(1, 0),
        num_classes=2,
        norm="batch",
    ),
    "cnn of a park": ParkCnn(
        family="park_cnn",
        input_shape=IMAGE,
        channels=(4, 2, 3, 5),
        kernel_sizes=(3, 5, 1, 3),
        layer_activations=("gelu", "none", "tanh", "relu"),
        skips=(-1, -1, 0, 1),
        num_classes=10,
    ),
    "resnet": Resnet(family="resnet", input_shape=IMAGE, width=3, depth=2, kernel_size=3, num_classes=10),
    "transformer of means": Transformer(
        family="transformer", input_shape=IMAGE, width=6, depth=2, num_heads=3, patch_size=4, pooling="mean", num_classes=2
    ),
    "transformer with a class token": Transformer(
        family="transformer", input_shape=IMAGE, width=4, depth=1, num_heads=2, patch_size=2, pooling="token", num_classes=10
    ),
}
CORPORA = ("digits", "digits-inverted", "digits-rotated", "digits-parity", "digits-range")


@pytest.mark.parametrize("name", FAMILIES)
def test_stacked_networks_of_every_family_equal_networks_trained_alone(small_recipe, name):
    activation = "tanh" if "tanh" in FAMILIES[name].activations else FAMILIES[name].activations[0]
    fixed = {"activation": activation, "dropout": 0.3, "epochs": 5, "batch_size": 16, "init_scale": 1.0}
    fixed |= {"optimizer": "momentum", "learning_rate": 0.02}
    images = {**small_recipe().images.model_dump(), "corpus": CORPORA}
    recipe = small_recipe(fixed, rounding="none", images=images, architecture=FAMILIES[name])
    stacked = train(recipe, range(8), dtype=torch.float64)
    assert len(set(stacked.metadata["corpus"])) > 1
    for row in range(8):
        run, expected = train_alone(recipe, row)
        assert stacked.metadata["corpus"][row] == run.corpus
        trained = {path: values for path, values in expected.items() if not path.endswith("num_batches_tracked")}
        assert set(stacked.parameters) == set(trained)
        for path, values in trained.items():
            np.testing.assert_allclose(stacked.parameters[path][row], values.numpy(), rtol=0, atol=1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_networks_trained_on_cuda_are_those_of_a_processor_in_float64_and_those_trained_alone(small_recipe, activation):
    """Within the rounding of the head's products; dropping other units must show."""
    fixed = {"activation": activation, "dropout": 0.3, "epochs": 4, "batch_size": 16, "init_scale": 1.0}
    fixed |= {"optimizer": "momentum", "learning_rate": 0.01}
    design = Cnn(family="cnn", input_shape=IMAGE, channels=(5, 3), kernel_size=3, strides=(2, 2), paddings=(1, 0), num_classes=10)
    recipe = small_recipe(fixed, rounding="none", architecture=design)
    stacked, alone = train(recipe, range(5), device="cuda"), train(recipe, [3], device="cuda")
    exact = train(recipe, range(5), dtype=torch.float64)
    others = train(small_recipe(fixed | {"dropout": 0.0}, rounding="none", architecture=design), range(5), dtype=torch.float64)
    for path, values in exact.parameters.items():
        np.testing.assert_allclose(stacked.parameters[path], values, rtol=0, atol=5e-3)
        np.testing.assert_allclose(alone.parameters[path][0], values[3], rtol=0, atol=5e-3)
    assert max(np.abs(others.parameters[path] - values).max() for path, values in exact.parameters.items()) > 0.02
    again = train(recipe, range(5), device="cuda")
    assert all(np.array_equal(values, again.parameters[path]) for path, values in stacked.parameters.items())


def test_measurements_are_those_of_the_plain_module_whatever_the_family(mixed_recipe):
    for first in range(5):
        networks = train(mixed_recipe, range(first, 12, 5))
        for row, index in enumerate(range(first, 12, 5)):
            run, module = Run.of(mixed_recipe, index), networks.module_of(row)
            images = load_images(mixed_recipe.images, run.corpus)
            logits, wanted = module(torch.from_numpy(images.test_images)), torch.from_numpy(images.test_labels)
            accuracy = (logits.argmax(1) == wanted).float().mean().item()
            assert networks.metadata["test_accuracy"][row] == pytest.approx(accuracy)
            for values in networks.parameters.values():
                assert torch.equal(torch.from_numpy(values).bfloat16().float(), torch.from_numpy(values))


def test_products_may_be_rounded_while_networks_train_and_not_while_they_are_measured(small_recipe, monkeypatch):
    """By the two switches of TF32, of which convolutions have one of their own; a GPU's rounding changed recorded accuracies."""
    seen = {"train": set(), "measure": set()}

    def allowed():
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    def spy(owner, name, stage):
        inner = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **k: (seen[stage].add(allowed()), inner(*a, **k))[1])

    spy(training._StackTrainer, "_step", "train")
    spy(training, "score", "measure")
    before = allowed()
    train(small_recipe({"epochs": 1}), [0])
    assert seen == {"train": {(True, True)}, "measure": {(False, False)}}
    assert allowed() == before


def test_networks_say_how_they_were_built(mixed_recipe):
    networks = train(mixed_recipe, [4, 9])
    found = {name: networks.metadata[name].tolist() for name in DESIGN_COLUMNS if name != "corpus"}
    assert found == {
        "family": ["cnn"] * 2, "width": [3] * 2, "depth": [2] * 2, "kernel_size": [3] * 2, "norm": ["batch"] * 2,
        "num_classes": [2] * 2, "num_parameters": [27 + 6 + 81 + 6 + 8] * 2,
    }  # fmt: skip
    assert set(networks.metadata["corpus"]) == {"digits-range"}
    assert [column.name for column in mixed_recipe.columns] == list(networks.metadata)
    for column in mixed_recipe.columns:
        assert all(column.allows(value) for value in networks.metadata[column.name].tolist())


def test_runs_of_several_architectures_are_not_trained_in_one_call(mixed_recipe):
    with pytest.raises(TrainingError, match="runs 0 and 3 of recipe 'mixed' have different architectures; expected runs of one"):
        train(mixed_recipe, [0, 5, 3])


@pytest.mark.parametrize("first", range(5))
def test_rounded_networks_of_every_family_do_not_depend_on_what_is_trained_with_them(mixed_recipe, first):
    indices = range(first, 12, 5)
    together = train(mixed_recipe, indices)
    for row, index in enumerate(indices):
        alone = train(mixed_recipe, [index])
        for path, values in together.parameters.items():
            assert np.array_equal(alone.parameters[path][0], values[row])
        for name, values in together.metadata.items():
            assert alone.metadata[name][0] == values[row]


def test_network_does_not_depend_on_what_is_trained_with_it():
    # digits-cnn itself, whose matrices fill whole lines of 64 bytes; unrounded, because rounding hides differences
    content = load_recipe("digits-cnn").model_dump(mode="json")
    content["hyperparameters"] |= {
        "epochs": {"kind": "fixed", "value": 2},
        "train_share": {"kind": "uniform", "low": 0.1, "high": 0.5},
    }
    recipe = ClassifierRecipe.model_validate({**content, "rounding": "none"})
    together = train(recipe, range(40))
    for part in ([0], [7], [3, 4], [31, 2, 5, 8, 38, 15, 16, 17], range(1, 40)):
        apart = train(recipe, part)
        assert apart.metadata["run_index"].tolist() == sorted(part)
        for path, values in together.parameters.items():
            assert np.array_equal(apart.parameters[path], values[sorted(part)])
        for name, values in together.metadata.items():
            assert np.array_equal(apart.metadata[name], values[sorted(part)])


def test_other_seed_gives_other_networks(small_recipe):
    one, other = train(small_recipe(seed=1), [0]), train(small_recipe(seed=2), [0])
    assert not np.array_equal(one.parameters["head.weight"], other.parameters["head.weight"])


def test_metadata_has_every_column_with_its_type_and_range(small_recipe):
    networks = train(small_recipe(), range(9))
    assert set(networks.metadata) == set(COLUMNS)
    for name, column in COLUMNS.items():
        assert networks.metadata[name].dtype.kind == {"int": "i", "float": "f", "str": "U"}[column.dtype]
        assert all(column.allows(value) for value in networks.metadata[name].tolist())
    assert len(networks) == 9
    assert networks.diverged == ()


def test_measurements_are_those_of_the_rounded_networks(small_recipe):
    recipe = small_recipe()
    networks, images = train(recipe, range(6)), load_images(recipe.images)
    for row in range(6):
        module = networks.module_of(row)
        assert not module.training
        for split, pixels, labels in (
            ("test", images.test_images, images.test_labels),
            ("val", images.val_images, images.val_labels),
        ):
            logits, wanted = module(torch.from_numpy(pixels)), torch.from_numpy(labels)
            assert networks.metadata[f"{split}_accuracy"][row] == pytest.approx(
                (logits.argmax(1) == wanted).float().mean().item()
            )
            loss = torch.nn.functional.cross_entropy(logits, wanted).item()
            assert networks.metadata[f"{split}_loss"][row] == pytest.approx(loss, rel=1e-4)
        seen = Run.of(recipe, row).train_rows(1000)
        right = module(torch.from_numpy(images.train_images[seen])).argmax(1).numpy() == images.train_labels[seen]
        assert networks.metadata["train_accuracy"][row] == pytest.approx(right.mean())
        for values in networks.parameters.values():
            assert torch.equal(torch.from_numpy(values).bfloat16().float(), torch.from_numpy(values))


def test_public_evaluation_gives_the_recorded_accuracy_bit_for_bit(small_recipe):
    recipe = small_recipe()
    networks, images = train(recipe, range(8)), load_images(recipe.images)
    for activation in set(networks.metadata["activation"]):
        rows = np.flatnonzero(networks.metadata["activation"] == activation)
        parameters = {path: values[rows] for path, values in networks.parameters.items()}
        accuracy, loss = evaluate(
            build(recipe.architecture, activation), parameters, images=images.test_images, labels=images.test_labels
        )
        assert np.array_equal(accuracy, networks.metadata["test_accuracy"][rows])
        assert np.array_equal(loss, networks.metadata["test_loss"][rows])


def test_training_learns(small_recipe):
    fixed = {"optimizer": "adam", "learning_rate": 0.02, "epochs": 15, "dropout": 0.0, "train_share": 0.5, "init_scale": 1.0}
    networks = train(small_recipe({**fixed, "activation": "tanh", "weight_decay": 0.0}), range(3))
    assert networks.metadata["test_accuracy"].min() > 0.7
    untrained = train(small_recipe({**fixed, "learning_rate": 1e-9}), range(3))
    assert untrained.metadata["test_accuracy"].max() < 0.3


@pytest.mark.parametrize(
    ("rate", "limit", "reason"),
    [
        (
            1e6,
            1e30,
            "(weights reach nan|weights reach inf|losses are not finite) after [0-9]+ steps of sgd with learning rate 1e\\+06",
        ),
        (0.1, 1e-3, r"weights reach [0-9.]+ after [0-9]+ steps of sgd with learning rate 0\.1"),
    ],
)
def test_diverged_runs_are_recorded_and_left_out(small_recipe, rate, limit, reason):
    fixed = {"optimizer": "sgd", "learning_rate": rate, "activation": "relu", "init_scale": 1.0}
    networks = train(small_recipe(fixed, largest_weight=limit), [4, 2])
    assert len(networks) == 0
    assert networks.parameters["conv0.weight"].shape == (0, 3, 1, 3, 3)
    assert [run_id for run_id, _ in networks.diverged] == ["digits-cnn-00002", "digits-cnn-00004"]
    for _, text in networks.diverged:
        assert re.fullmatch(reason, text)


def test_one_diverged_run_leaves_the_others_as_they_are(small_recipe):
    recipe = small_recipe()
    whole = train(recipe, range(6))
    sizes = np.max([np.abs(values).reshape(6, -1).max(axis=1) for values in whole.parameters.values()], axis=0)
    limit = float(np.sort(sizes)[-2])
    rest = train(small_recipe(largest_weight=limit), range(6))
    kept = np.flatnonzero(sizes <= limit)
    assert [run_id for run_id, _ in rest.diverged] == [whole.metadata["run_id"][sizes.argmax()]]
    assert np.array_equal(rest.parameters["head.weight"], whole.parameters["head.weight"][kept])
    assert np.array_equal(rest.metadata["run_id"], whole.metadata["run_id"][kept])


def test_progress_rises_to_the_total(small_recipe):
    recipe, calls = small_recipe(), []
    train(recipe, range(7), progress=lambda *call: calls.append(call))
    total = sum(Run.of(recipe, index).num_steps for index in range(7))
    assert {call[1] for call in calls} == {total}
    assert [call[0] for call in calls] == sorted({call[0] for call in calls})
    assert calls[-1][0] == total
    assert calls[-1][2].endswith("networks")


@pytest.mark.parametrize("indices", [[], [3, 3]])
def test_no_run_or_one_twice_is_refused(small_recipe, indices):
    with pytest.raises(TrainingError, match=f"at least one run index and none twice, got \\[{', '.join(map(str, indices))}\\]"):
        train(small_recipe(), indices)


def test_run_beyond_the_recipe_is_refused_before_training(small_recipe):
    with pytest.raises(RecipeError, match="runs 0 to 4, got run index 5"):
        train(small_recipe(num_runs=5), [0, 5])


def test_images_of_another_shape_than_the_architecture_are_refused(small_recipe):
    recipe = small_recipe()
    content = recipe.model_dump(mode="json")
    content["architecture"]["input_shape"] = [1, 9, 8]
    with pytest.raises(ImagesError, match=r"images of shape \(1, 8, 8\), but the architecture takes \(1, 9, 8\)"):
        train(type(recipe).model_validate(content), [0])


@pytest.mark.parametrize(("num_classes", "shift", "labels"), [(7, 0, "0 to 9"), (10, -1, "-1 to 8")])
def test_labels_that_the_architecture_has_no_output_for_are_refused(small_recipe, monkeypatch, num_classes, shift, labels):
    content = small_recipe().model_dump(mode="json")
    content["architecture"]["num_classes"] = num_classes
    recipe = ClassifierRecipe.model_validate(content)
    images = load_images(recipe.images)
    shifted = replace(images, test_labels=images.test_labels + shift, train_labels=images.train_labels + shift)
    monkeypatch.setattr("ngbench.zoo.train.load_images", lambda *_: replace(shifted, val_labels=images.val_labels + shift))
    with pytest.raises(ImagesError, match=rf"corpus 'digits' has labels {labels}, but .* num_classes {num_classes}; .* change"):
        train(recipe, [0])


def test_rows_that_do_not_fit_together_are_refused(small_recipe):
    networks = train(small_recipe(), [0, 1])
    with pytest.raises(TrainingError, match=r"one row a network each, got .*'head.bias': 1"):
        TrainedNetworks(
            **{**vars(networks), "parameters": {**networks.parameters, "head.bias": networks.parameters["head.bias"][:1]}}
        )


def test_checkpoints_are_the_run_as_it_passes_them(small_recipe):
    fixed = {"epochs": 3, "batch_size": 16, "train_share": 0.1, "schedule": "constant", "dropout": 0.2, "activation": "relu"}
    recipe = small_recipe(fixed, rounding="none", checkpoints=[0, 1, 3])
    networks = train(recipe, range(2, 5), dtype=torch.float64)
    assert networks.metadata["epoch"].tolist() == [0, 1, 3] * 3
    assert networks.metadata["run_index"].tolist() == [2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert networks.ids[:4] == [
        "digits-cnn-00002-e000",
        "digits-cnn-00002-e001",
        "digits-cnn-00002-e003",
        "digits-cnn-00003-e000",
    ]
    runs = [Run.of(recipe, index) for index in range(2, 5)]
    # 100 images, 16 a step
    assert runs[0].kept_at == (0, 6, 19)
    start = np.stack([run.initial_weights({path: v.shape[1:] for path, v in networks.parameters.items()}) for run in runs])
    stacked = np.concatenate([values.reshape(9, -1) for values in networks.parameters.values()], axis=1)
    np.testing.assert_array_equal(stacked[::3], start)
    for rows, epochs in ((slice(1, None, 3), 1), (slice(2, None, 3), 3)):
        alone = train(small_recipe(fixed | {"epochs": epochs}, rounding="none"), range(2, 5), dtype=torch.float64)
        for path, values in alone.parameters.items():
            np.testing.assert_allclose(networks.parameters[path][rows], values, rtol=0, atol=1e-12)
        assert networks.metadata["test_loss"][rows].tolist() == pytest.approx(alone.metadata["test_loss"].tolist())


def test_a_run_that_diverges_leaves_the_checkpoints_before(small_recipe):
    fixed = {"epochs": 2, "batch_size": 16, "optimizer": "sgd", "learning_rate": 1e6, "activation": "relu", "dropout": 0.0}
    networks = train(small_recipe(fixed, checkpoints=[0, 1, 2]), [4, 7])
    assert networks.metadata["epoch"].tolist() == [0, 0]
    assert [name for name, _ in networks.diverged] == [f"digits-cnn-0000{run}-e00{epoch}" for run in (4, 7) for epoch in (1, 2)]
    steps = Run.of(small_recipe(fixed, checkpoints=[0, 1, 2]), 4).kept_at[1]
    assert f"after {steps} steps of sgd with learning rate 1e+06" in networks.diverged[0][1]
