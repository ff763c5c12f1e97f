import pytest
import torch

from ngbench.zoo.recipe import ClassifierRecipe, load_recipe


@pytest.fixture
def small_recipe():
    """Makes digits-cnn with few channels, so that a network trains in milliseconds, and any other key changed."""
    content = load_recipe("digits-cnn").model_dump(mode="json")
    content["architecture"] |= {"channels": [3, 4, 5]}
    content["hyperparameters"] |= {
        "epochs": {"kind": "log_int", "low": 1, "high": 3},
        "batch_size": {"kind": "choice", "values": [7, 11]},
        "train_share": {"kind": "uniform", "low": 0.05, "high": 0.12},
    }

    def make(hyperparameters: dict | None = None, **keys) -> ClassifierRecipe:
        changed = {name: {"kind": "fixed", "value": value} for name, value in (hyperparameters or {}).items()}
        return ClassifierRecipe.model_validate({**content, **keys, "hyperparameters": {**content["hyperparameters"], **changed}})

    return make


@pytest.fixture(autouse=True)
def one_thread():
    """Threads of a busy machine wait for each other in every small product, which takes ten times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
