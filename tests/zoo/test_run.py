import numpy as np
import pytest

from ngbench.zoo.columns import INR_COLUMNS
from ngbench.zoo.run import Fit, Run, run_of


def test_run_sees_its_share_of_the_images_for_its_epochs(small_recipe):
    run = Run.of(small_recipe({"train_share": 0.07, "epochs": 5, "batch_size": 7}), 3)
    assert run.num_train == 70
    assert run.num_steps == 50
    batches = run.batches(1000)
    assert batches.shape == (50, 7)
    for epoch in batches.reshape(5, 70):
        assert np.array_equal(np.sort(epoch), np.sort(run.train_rows(1000)))
    assert not np.array_equal(batches[:10], batches[10:20])


def test_batches_may_span_two_epochs(small_recipe):
    run = Run.of(small_recipe({"train_share": 0.01, "epochs": 3, "batch_size": 7}), 0)
    order = run.batches(1000).ravel()
    assert len(order) == 28 == 7 * run.num_steps
    assert set(order[:10]) == set(order[10:20]) == set(run.train_rows(1000))


def test_training_images_are_drawn_anew_for_each_run(small_recipe):
    recipe = small_recipe({"train_share": 0.5})
    first, second = Run.of(recipe, 0).train_rows(1000), Run.of(recipe, 1).train_rows(1000)
    assert len(set(first)) == 500
    assert len(set(first) & set(second)) == pytest.approx(250, abs=50)


def test_draws_of_a_run_do_not_depend_on_each_other(small_recipe):
    one, more = Run.of(small_recipe({"epochs": 1}), 2), Run.of(small_recipe({"epochs": 3}), 2)
    assert np.array_equal(one.batches(1000), more.batches(1000)[: one.num_steps])
    assert np.array_equal(one.dropout_keys(3), more.dropout_keys(3)[: one.num_steps])
    shapes = {"weight": (4, 6)}
    assert np.array_equal(one.initial_weights(shapes), more.initial_weights(shapes))


def test_each_corpus_that_fits_is_drawn_about_as_often(mixed_recipe):
    recipe = mixed_recipe.model_copy(update={"num_runs": 1000})
    corpora = [Run.of(recipe, index).corpus for index in range(0, 1000, 5)]
    assert set(corpora) == {"digits", "digits-rotated"}
    assert corpora.count("digits") == pytest.approx(100, abs=30)


def test_columns_of_a_run_are_what_is_known_before_training(mixed_recipe):
    run = Run.of(mixed_recipe, 7)
    wanted = {column.name for column in mixed_recipe.columns if column.role != "measurement"}
    assert set(run.columns) == wanted
    assert (run.columns["family"], run.columns["width"], run.columns["num_classes"]) == ("transformer", 6, 2)
    assert run.columns["optimizer"] == run.hyperparameters["optimizer"]


def test_runs_of_either_kind_are_made_from_their_recipe(small_recipe, inr_recipe):
    assert isinstance(run_of(small_recipe(), 2), Run)
    fit = run_of(inr_recipe, 7)
    assert isinstance(fit, Fit)
    assert (fit.image_index, fit.fit_index, fit.run_id) == (2, 1, "glance-00007")
    assert set(fit.columns) == set(INR_COLUMNS) - {"psnr", "loss"}
