from __future__ import annotations

import pytest
import yaml
from pydantic import ValidationError

from ngbench.evaluation.speed.cases import CASES
from ngbench.evaluation.speed.configurations import Configuration, configurations, device_kind, reference_code
from ngbench.methods import make_method, methods


@pytest.mark.parametrize("name", list(configurations()))
def test_a_configuration_is_of_a_case_and_makes_its_method(name):
    configuration = configurations()[name]
    assert configuration.case in CASES
    if configuration.method in methods:
        config = make_method(configuration.method, configuration.settings).config
        assert config.encoding == "fourier"
        assert config.clip == 0


def test_settings_that_configurations_share_are_theirs():
    found = configurations()
    assert (found["inr-gnn-d32"].settings["reverse_edges"], found["inr-gnn-d64"].settings["channels"]) == ("true", "64")
    assert "reverse_edges" not in found["cnn-gnn"].settings
    assert found["cnn-t"].settings["attention_channels"] == "256"


def test_figures_of_the_authors_code_stand_by_device():
    reference = configurations()["inr-gnn-d32"].reference
    assert (reference.cuda.train, reference.cuda.train_mended, reference.cpu.train) == (1715, 3349, 12.6)
    assert configurations()["wide-gnn"].reference.cpu.train is None
    assert set(reference_code().machines) == {device_kind("cuda:1"), device_kind("cpu")}


def test_an_unknown_key_of_a_configuration_is_refused():
    content = yaml.safe_load(
        "{name: a, what: b, case: inr, method: mean, settings: {}, speed: 3, reference: {num_parameters: 1}}"
    )
    with pytest.raises(ValidationError, match="speed"):
        Configuration.model_validate(content)
