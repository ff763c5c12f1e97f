import pytest
import torch

from ngbench.zoo.replay import Stepper


class Counting:
    """Adds the number of the step to the first numbers of a row, as many as are active."""

    def __init__(self, device):
        self.row, self.number = torch.zeros(5, device=device), torch.ones(1, dtype=torch.int64, device=device)

    def step(self, num_active):
        self.row[:num_active] += self.number
        self.number += 1


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_steps_are_taken_one_after_another_with_those_that_are_active(device):
    counting = Counting(device)
    stepper = Stepper(counting.step, torch.device(device))
    for num_steps, num_active in ((2, 5), (7, 5), (1, 3), (8, 2)):
        stepper.take(num_steps, num_active)
    sums = [sum(range(1, 1 + last)) for last in (9, 10, 18)]
    assert counting.row.tolist() == [sums[2], sums[2], sums[1], sums[0], sums[0]]
    assert counting.number.item() == 19
