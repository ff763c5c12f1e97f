import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from ngbench.zoo.distributions import Distribution

adapter = TypeAdapter(Distribution)


def draw(content, number=4000):
    distribution, rng = adapter.validate_python(content), np.random.default_rng(5)
    return [distribution.sample(rng) for _ in range(number)]


def test_fixed_is_always_its_value():
    assert set(draw({"kind": "fixed", "value": "relu"})) == {"relu"}


def test_choice_follows_its_weights():
    drawn = draw({"kind": "choice", "values": ["a", "b", "c"], "weights": [1, 2, 5]})
    assert [drawn.count(value) / len(drawn) for value in "abc"] == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.03)


def test_choice_without_weights_is_even():
    drawn = draw({"kind": "choice", "values": [3, 0.5]})
    assert drawn.count(3) / len(drawn) == pytest.approx(1 / 2, abs=0.03)


def test_uniform_has_its_mean_and_bounds():
    drawn = draw({"kind": "uniform", "low": 2, "high": 6})
    assert np.quantile(drawn, [0, 0.25, 0.5, 1]) == pytest.approx([2, 3, 4, 6], abs=0.1)


def test_log_uniform_is_even_in_the_logarithm():
    drawn = draw({"kind": "log_uniform", "low": 0.01, "high": 100})
    assert np.log10(np.quantile(drawn, [0, 0.25, 0.5, 1])) == pytest.approx([-2, -1, 0, 2], abs=0.1)


def test_log_int_reaches_both_ends_and_is_even_in_the_logarithm():
    drawn = draw({"kind": "log_int", "low": 2, "high": 7})
    assert {type(value) for value in drawn} == {int}
    expected = [np.log((value + 1) / value) / np.log(8 / 2) for value in range(2, 8)]
    assert [drawn.count(value) / len(drawn) for value in range(2, 8)] == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"kind": "choice", "values": [1, 2], "weights": [1, 2, 3]}, "2 values need 2 weights, got 3"),
        ({"kind": "choice", "values": []}, "at least 1 item"),
        ({"kind": "choice", "values": [1], "weights": [0]}, "greater than 0"),
        ({"kind": "uniform", "low": 3, "high": 2}, "low must be under high, got 3 and 2"),
        ({"kind": "log_uniform", "low": 0, "high": 2}, "logarithmic range needs low above 0, got 0"),
        ({"kind": "log_int", "low": -1, "high": 2}, "logarithmic range needs low above 0, got -1"),
        ({"kind": "fixed", "value": 1, "weight": 2}, "Extra inputs"),
    ],
)
def test_impossible_distribution_is_refused(content, message):
    with pytest.raises(ValidationError, match=message):
        adapter.validate_python(content)
