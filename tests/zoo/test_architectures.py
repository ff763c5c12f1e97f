import pytest
import torch

from ngbench.errors import UnknownNameError
from ngbench.zoo.architectures import ACTIVATIONS, Cnn, build, example_input

CNN = Cnn(family="cnn", input_shape=(2, 9, 11), channels=(3, 5), kernel_size=3, strides=(1, 2), paddings=(1, 0), num_classes=7)


def test_module_maps_the_example_input_to_class_scores():
    module = build(CNN, "relu")
    assert example_input(CNN).shape == (1, 2, 9, 11)
    assert module(example_input(CNN)).shape == (1, 7)


def test_parameters_have_readable_paths_and_the_asked_sizes():
    shapes = {path: tuple(values.shape) for path, values in build(CNN, "tanh").state_dict().items()}
    assert shapes == {
        "conv0.weight": (3, 2, 3, 3),
        "conv0.bias": (3,),
        "conv1.weight": (5, 3, 3, 3),
        "conv1.bias": (5,),
        "head.weight": (7, 5),
        "head.bias": (7,),
    }


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_activation_stands_after_each_convolution(activation):
    module = build(CNN, activation)
    assert type(module.activation0) is type(module.activation1) is getattr(torch.nn, ACTIVATIONS[activation])


def test_dropout_acts_in_training_only():
    module, image = build(CNN, "relu", dropout=0.5), torch.rand(1, 2, 9, 11, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    assert not torch.equal(module(image), module(image))
    assert torch.equal(module.eval()(image), module(image))


def test_unknown_activation_suggests_the_close_one():
    with pytest.raises(UnknownNameError, match="unknown activation 'relo': did you mean .*'relu'"):
        build(CNN, "relo")
