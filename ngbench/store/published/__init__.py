"""Takes the files of a zoo as its authors published them; gives its networks one by one, with what is recorded of each.

One module a zoo. Files are read as hostile: no pickle runs code, no archive writes outside its folder.
"""

from ngbench.registry import Registry
from ngbench.store.published.record import Architecture, Evaluation, HubModels, PublishedNetwork, PublishedZoo, RemoteFile

PUBLISHED: Registry[PublishedZoo] = Registry("published zoo")

# module, and in it each zoo
_MODULES = {
    "small_cnn": {
        "small-cnn-mnist": "MNIST",
        "small-cnn-fashion-mnist": "FASHION_MNIST",
        "small-cnn-cifar10": "CIFAR10",
        "small-cnn-svhn": "SVHN",
    },
    "dws_inr": {
        "dws-inr-mnist": "MNIST",
        "dws-inr-fashion-mnist": "FASHION_MNIST",
    },
    "wild_park": {
        "cnn-wild-park": "WILD_PARK",
    },
    "nfn_siren": {
        "nfn-siren-mnist": "MNIST",
        "nfn-siren-fashion-mnist": "FASHION_MNIST",
        "nfn-siren-cifar10": "CIFAR10",
    },
    "model_zoos": {
        "model-zoos-cifar10-sample": "CIFAR10_SAMPLE",
        "model-zoos-mnist": "MNIST",
        "model-zoos-fashion-mnist": "FASHION_MNIST",
        "model-zoos-svhn": "SVHN",
        "model-zoos-usps": "USPS",
        "model-zoos-cifar10": "CIFAR10",
        "model-zoos-stl10": "STL10",
        "model-zoos-cifar100-resnet18": "CIFAR100_RESNET18",
        "model-zoos-tiny-imagenet-resnet18": "TINY_IMAGENET_RESNET18",
    },
    "small_transformer": {
        "small-transformer-mnist": "MNIST",
        "small-transformer-ag-news": "AG_NEWS",
    },
    "deep_align": {
        "deep-align-mnist-mlp": "MNIST_MLP",
        "deep-align-cifar10-mlp": "CIFAR10_MLP",
        "deep-align-cifar10-cnn": "CIFAR10_CNN",
    },
    "neural_field_arena": {
        "neural-field-arena-mnist": "MNIST",
        "neural-field-arena-cifar10": "CIFAR10",
        "neural-field-arena-micro-imagenet": "MICRO_IMAGENET",
        "neural-field-arena-shapenet": "SHAPENET",
    },
    "lora_ws": {
        "lora-ws-1k": "LORA_WS_1K",
    },
    "model_j": {
        "model-j-supvit": "SUPVIT",
        "model-j-dino": "DINO",
        "model-j-mae": "MAE",
    },
}
FAMILIES = {module.replace("_", "-"): tuple(zoos) for module, zoos in _MODULES.items()}
"""Names of published zoos by family; those of a family are read alike and have one data card."""

for _module, _zoos in _MODULES.items():
    for _name, _entry in _zoos.items():
        PUBLISHED.register(_name, f"{__name__}.{_module}:{_entry}")

__all__ = ["FAMILIES", "PUBLISHED", "Architecture", "Evaluation", "HubModels", "PublishedNetwork", "PublishedZoo", "RemoteFile"]
