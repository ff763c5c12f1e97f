"""Small CNN Zoo (Unterthiner et al. 2020, arXiv:2002.11448): one architecture, 30,000 runs on each of four corpora.

Layout: ``weights.npy`` ``[rows, 4970]``, ``metrics.csv.gz`` with a row for each, ``layout.csv`` with the place of each
parameter in a row: biases before kernels, kernels in TensorFlow's order.
"""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ngbench.errors import ForeignZooError
from ngbench.store.published.record import Evaluation, Part, PublishedNetwork, PublishedZoo, RemoteFile
from ngbench.store.published.restricted import find_one, number, read_lines, read_npy, read_table, whole
from ngbench.zoo.architectures import Cnn, build, example_input
from ngbench.zoo.columns import Column

if TYPE_CHECKING:
    from torch import Tensor, nn

# path here, name in the file, stored shape, axes that bring it to PyTorch's order
_LAYOUT = (
    ("conv0.bias", "sequential/conv2d/bias:0", (16,), (0,)),
    ("conv0.weight", "sequential/conv2d/kernel:0", (3, 3, 1, 16), (3, 2, 0, 1)),
    ("conv1.bias", "sequential/conv2d_1/bias:0", (16,), (0,)),
    ("conv1.weight", "sequential/conv2d_1/kernel:0", (3, 3, 16, 16), (3, 2, 0, 1)),
    ("conv2.bias", "sequential/conv2d_2/bias:0", (16,), (0,)),
    ("conv2.weight", "sequential/conv2d_2/kernel:0", (3, 3, 16, 16), (3, 2, 0, 1)),
    ("head.bias", "sequential/dense/bias:0", (10,), (0,)),
    ("head.weight", "sequential/dense/kernel:0", (16, 10), (1, 0)),
)
_NUM_VALUES = 4970
_FINAL_EPOCH = 86
REFERENCE = "nfn-gs"
# column here, column in the file
_TEXTS = {
    "activation": "config.activation",
    "initializer": "config.w_init",
    "bias_initializer": "config.b_init",
    "optimizer": "config.optimizer",
}
_NUMBERS = {
    "init_std": "config.init_std",
    "learning_rate": "config.learning_rate",
    "l2_penalty": "config.l2reg",
    "dropout": "config.dropout",
    "train_share": "config.train_fraction",
    "train_accuracy": "train_accuracy",
    "test_accuracy": "test_accuracy",
    "train_loss": "train_loss",
    "test_loss": "test_loss",
}
_COLUMNS = (
    Column("epoch", "hyperparameter", "int", "passes over the training images before this checkpoint"),
    Column("activation", "hyperparameter", "str", "nonlinearity after each convolution"),
    Column("initializer", "hyperparameter", "str", "distribution of the initial weights"),
    Column("bias_initializer", "hyperparameter", "str", "initial biases"),
    Column("optimizer", "hyperparameter", "str", "update rule"),
    Column("init_std", "hyperparameter", "float", "standard deviation of the initial weights, where the initializer has one"),
    Column("learning_rate", "hyperparameter", "float", "learning rate"),
    Column("l2_penalty", "hyperparameter", "float", "factor of the squared weights in the loss"),
    Column("dropout", "hyperparameter", "float", "share of activations dropped"),
    Column("train_share", "hyperparameter", "float", "share of the training images that the run sees"),
    Column("train_accuracy", "measurement", "float", "fraction right on the training images, as published"),
    Column("test_accuracy", "measurement", "float", "fraction right on the test images, as published"),
    Column("train_loss", "measurement", "float", "cross-entropy in nats on the training images, as published"),
    Column("test_loss", "measurement", "float", "cross-entropy in nats on the test images, as published"),
)
_SPLIT_SHA256 = {
    "cifar10": "04fb71937dc796fc64f6306457de9d95f0d2d8a343db856213b965a4953a4f67",
    "fashion_mnist": "0d13165d28963acdac000d3d033da58b5719920f7d19aadf310173823053b021",
    "mnist": "b516aea9d62a8c8f2acb5b92abfedc4c1f0c2f6f9afd716835ec75103c25cf3b",
    "svhn": "c1dcfc521f38071bb4ac2af4866a38a4d2d468630ef60bb70f9ae75c681fc60c",
}


@dataclass(frozen=True)
class SmallCnn:
    """Three convolutions of 16 channels, stride 2 and no padding, global average pooling and a linear head.

    Its input has one channel, the mean of the colours, in [-1, 1].

    Args:
        image_size: Height and width of an image.
        activation: ``"relu"`` or ``"tanh"``.
    """

    image_size: int
    activation: str

    @property
    def _architecture(self) -> Cnn:
        return Cnn(
            family="cnn",
            input_shape=(1, self.image_size, self.image_size),
            channels=(16, 16, 16),
            kernel_size=3,
            strides=(2, 2, 2),
            paddings=(0, 0, 0),
            num_classes=10,
        )

    def module(self) -> nn.Module:
        """See `ngbench.store.published.Architecture`."""
        return build(self._architecture, self.activation)

    def example_input(self) -> tuple[Tensor, ...]:
        """See `ngbench.store.published.Architecture`."""
        return (example_input(self._architecture),)


def read(folder: Path, *, image_size: int) -> Iterator[PublishedNetwork]:
    """The checkpoints in the order of their rows.

    Raises:
        ForeignZooError: The layout is another one, rows and metrics do not agree, or an activation is unknown.
    """
    weights_path = find_one(folder, "weights.npy")
    home, weights = weights_path.parent, read_npy(weights_path)
    if weights.ndim != 2 or weights.shape[1] != _NUM_VALUES:
        raise ForeignZooError(f"{str(weights_path)!r} has shape {weights.shape}; expected [rows, {_NUM_VALUES}]")
    _check_layout(home / "layout.csv")
    metrics = home / "metrics.csv.gz"
    parts = _reference_parts(folder, metrics, num_rows=len(weights))
    row = -1
    for row, metric in enumerate(_rows(metrics)):
        if row == len(weights):
            break
        activation = metric["config.activation"]
        if activation not in ("relu", "tanh"):
            raise ForeignZooError(f"row {row} of {str(metrics)!r} has activation {activation!r}; expected 'relu' or 'tanh'")
        metadata = _metadata(metric, where=f"row {row} of {str(metrics)!r}")
        run_id = metric["modeldir"]
        yield PublishedNetwork(
            f"{run_id}/{metadata['epoch']}",
            run_id,
            SmallCnn(image_size, activation),
            _parameters(weights[row]),
            metadata,
            {REFERENCE: parts[row]} if row in parts else {},
        )
    if row + 1 != len(weights):
        raise ForeignZooError(f"{str(metrics)!r} has {row + 1} rows; expected {len(weights)}, one for each row of weights.npy")


def _rows(path: Path) -> Iterator[dict[str, str]]:
    if not path.exists():
        raise ForeignZooError(f"there is no {str(path)!r}; expected it beside weights.npy")
    return read_table(path, columns=(*_TEXTS.values(), *_NUMBERS.values(), "modeldir", "step"))


def _metadata(metric: Mapping[str, str], *, where: str) -> dict[str, Any]:
    return {
        "epoch": whole(metric["step"], where=f"'step' in {where}"),
        **{name: metric[column] for name, column in _TEXTS.items()},
        **{name: number(metric[column], where=f"{column!r} in {where}") for name, column in _NUMBERS.items()},
    }


def _parameters(row: np.ndarray) -> dict[str, np.ndarray]:
    parameters, start = {}, 0
    for path, _, shape, order in _LAYOUT:
        size = int(np.prod(shape))
        parameters[path] = np.ascontiguousarray(row[start : start + size].reshape(shape).transpose(order))
        start += size
    return parameters


def _check_layout(path: Path) -> None:
    if not path.exists():
        raise ForeignZooError(f"there is no {str(path)!r}; expected it beside weights.npy")
    found, expected, start = [], [], 0
    for row in read_table(path, columns=("varname", "start_idx", "end_idx", "size", "shape")):
        try:
            shape = tuple(ast.literal_eval(row["shape"]))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise ForeignZooError(
                f"{str(path)!r} gives {row['varname']!r} the shape {row['shape'][:80]!r}; expected a tuple"
            ) from None
        found.append((row["varname"], row["start_idx"], row["end_idx"], shape))
    for _, name, shape, _ in _LAYOUT:
        stop = start + int(np.prod(shape))
        expected.append((name, str(start), str(stop), shape))
        start = stop
    if found != expected:
        wrong = next((pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]), (len(found), len(expected)))
        raise ForeignZooError(f"{str(path)!r} places {wrong[0]}; expected {wrong[1]}; the zoo is not the one that was published")


def _reference_parts(folder: Path, metrics: Path, *, num_rows: int) -> dict[int, Part]:
    """The part of each row in the split of NFN (Zhou et al. 2023, arXiv:2302.14040, experiments/data_utils.py).

    Final checkpoints in the order of the split file: the second half is for test, the first is shuffled by seed 0 and its last
    fifth is for validation. Differs from their code where row 0 is a final checkpoint: theirs takes it twice, because it reads
    the file's header as a row.
    """
    files = [path for path in folder.rglob("*_split.csv") if path.is_file()]
    if not files:
        return {}
    path = find_one(folder, "*_split.csv")
    order = [whole(line.strip(), where=f"line {place} of {str(path)!r}") for place, line in enumerate(read_lines(path), start=1)]
    order = order[1:] if len(order) == num_rows + 1 else order
    if sorted(order) != list(range(num_rows)):
        raise ForeignZooError(f"{str(path)!r} has no order of the {num_rows} rows of weights.npy; expected each row once")
    is_final = [row["step"] == str(_FINAL_EPOCH) for row in _rows(metrics)]
    if len(is_final) != num_rows:
        raise ForeignZooError(f"{str(metrics)!r} has {len(is_final)} rows; expected {num_rows}, one for each row of weights.npy")
    final = [row for row in order if is_final[row]]
    half = len(final) // 2
    first = final[:half]
    random.Random(0).shuffle(first)
    num_train = int(0.8 * len(first))
    return {
        **dict.fromkeys(first[:num_train], "train"),
        **dict.fromkeys(first[num_train:], "val"),
        **dict.fromkeys(final[half:], "test"),
    }


def _zoo(corpus: str, archive: str, hub: str, *, image_size: int, title: str) -> PublishedZoo:
    root = "https://raw.githubusercontent.com/AllanYangZhou/nfn/main/experiments/predict_gen_data_splits"
    return PublishedZoo(
        f"small-cnn-{corpus.replace('_', '-')}",
        f"Small CNN Zoo on {title}: 30,000 runs of one CNN at nine epochs",
        "CC-BY-4.0",
        "Unterthiner et al. 2020, Predicting Neural Network Accuracy from Weights, arXiv:2002.11448",
        "https://github.com/google-research/google-research/tree/master/dnn_predict_accuracy",
        _COLUMNS,
        partial(read, image_size=image_size),
        files=(
            RemoteFile(f"{archive}.tar.xz", f"https://storage.googleapis.com/gresearch/smallcnnzoo-dataset/{archive}.tar.xz"),
            RemoteFile(f"{corpus}_split.csv", f"{root}/{corpus}_split.csv", _SPLIT_SHA256[corpus]),
        ),
        references=(REFERENCE,),
        evaluation=Evaluation(hub, (0.5,), (0.5,)),
    )


MNIST = _zoo("mnist", "mnist", "ylecun/mnist", image_size=28, title="MNIST")
FASHION_MNIST = _zoo("fashion_mnist", "fashion_mnist", "zalando-datasets/fashion_mnist", image_size=28, title="Fashion-MNIST")
CIFAR10 = _zoo("cifar10", "cifar10", "uoft-cs/cifar10", image_size=32, title="CIFAR-10 in grey")
SVHN = _zoo("svhn", "svhn_cropped", "ufldl-stanford/svhn", image_size=32, title="SVHN in grey")
