import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from ngbench.zoo.transfer import TransferSplit

METADATA = {"width": np.array([8, 9, 3, 4, 70]), "family": np.array(["mlp", "mlp", "cnn", "cnn", "gru"])}


def split(**content):
    return TypeAdapter(TransferSplit).validate_python(content)


def test_networks_above_the_limit_of_their_group_are_held_out():
    found = split(kind="above", column="width", within="family", limits={"mlp": 8, "cnn": 3})
    assert found.held_out(METADATA).tolist() == [False, True, False, True, False]
    assert found.columns == {"width": ("int", "float"), "family": ("str",)}
    assert str(found) == "tests on width above 8 (mlp), 3 (cnn)"


def test_networks_of_some_values_are_held_out():
    found = split(kind="one_of", column="family", values=["cnn", "gru"])
    assert found.held_out(METADATA).tolist() == [False, False, True, True, True]
    assert found.columns == {"family": ("str",)}
    assert str(found) == "tests on family cnn, gru"


@pytest.mark.parametrize("content", [{"kind": "below", "column": "a"}, {"kind": "one_of", "column": "a", "values": []}])
def test_other_kinds_and_nothing_to_hold_out_are_refused(content):
    with pytest.raises(ValidationError):
        split(**content)
