import numpy as np
import torch

from ngbench.zoo import batches
from ngbench.zoo.batches import StackedBatches
from ngbench.zoo.run import Run

NUM_IMAGES = 1000


def test_pieces_put_together_are_the_batches_of_each_run(small_recipe, monkeypatch):
    recipe = small_recipe({"batch_size": 11})
    runs = sorted((Run.of(recipe, index) for index in range(3)), key=lambda run: -run.num_steps)
    assert len({run.num_steps for run in runs}) > 1
    monkeypatch.setattr(batches, "_INDICES_A_PIECE", 3 * 11 * 4)
    stacked = StackedBatches(runs, NUM_IMAGES, device=torch.device("cpu"))
    assert stacked.piece_size == 4
    for step in range(runs[0].num_steps):
        if step % 4 == 0:
            stacked.load()
        active = sum(run.num_steps > step for run in runs)
        found = stacked.at(torch.tensor([step % 4]), active)
        assert found.dtype == torch.int64
        np.testing.assert_array_equal(found.numpy(), [run.batches(NUM_IMAGES)[step] for run in runs[:active]])


def test_batches_are_epochs_one_after_another(small_recipe):
    run = Run.of(small_recipe({"batch_size": 7, "epochs": 3}), 2)
    drawn = run.batches(NUM_IMAGES).ravel()
    seen = np.sort(run.train_rows(NUM_IMAGES))
    for epoch in range(len(drawn) // run.num_train):
        own = drawn[epoch * run.num_train : (epoch + 1) * run.num_train]
        np.testing.assert_array_equal(np.sort(own), seen)
        assert not np.array_equal(own, seen)
