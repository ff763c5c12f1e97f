import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ngbench.errors import RecipeError, TrainingError
from ngbench.zoo.fit import fit, grey_values, points_of, psnr, render
from ngbench.zoo.run import Fit
from ngbench.zoo.stack import parameter_shapes


@torch.no_grad()
def rendered_one_by_one(networks):
    """Every pixel of every network on its own, float64 ``[networks, 8, 8]``."""
    modules = [networks.module_of(row).double() for row in range(len(networks))]
    at = [-1 + 2 * place / 7 for place in range(8)]
    return np.array([[[m(torch.tensor([y, x]).double()).item() for x in at] for y in at] for m in modules])


def test_errors_and_stored_images_are_those_of_the_modules(inr_recipe):
    networks = fit(inr_recipe, [0, 1, 7, 32])
    assert networks.metadata["image_index"].tolist() == [0, 0, 2, 10]
    assert networks.metadata["fit_index"].tolist() == [0, 1, 1, 2]
    digits = load_digits()
    assert networks.metadata["label"].tolist() == digits.target[[0, 0, 2, 10]].tolist()
    expected = rendered_one_by_one(networks)
    loss = np.square(expected - digits.images[[0, 0, 2, 10]] / 16).mean((1, 2))
    np.testing.assert_allclose(networks.metadata["loss"], loss, rtol=1e-4)
    np.testing.assert_allclose(networks.metadata["psnr"], -10 * np.log10(loss), rtol=1e-4)
    stored = networks.functional["digits"]
    assert (stored.shape, stored.dtype) == ((4, 64), np.float16)
    np.testing.assert_allclose(stored, expected.reshape(4, 64), atol=1e-3)


def test_an_image_is_better_known_after_more_steps(inr_recipe):
    def after(num_steps):
        steps = {"num_steps": {"kind": "fixed", "value": num_steps}}
        content = inr_recipe.model_dump() | {"hyperparameters": inr_recipe.model_dump()["hyperparameters"] | steps}
        return fit(type(inr_recipe).model_validate(content), range(6)).metadata["psnr"]

    assert (after(150) > after(5) + 3).all()


def test_a_fit_is_that_of_torch_on_the_module_alone(inr_recipe):
    recipe = inr_recipe.model_copy(update={"rounding": "none"})
    found = fit(recipe, [4, 5], dtype=torch.float64)
    run = Fit.of(recipe, 4)
    module = found.module_of(0).double()
    shapes = parameter_shapes(module)
    flat = torch.from_numpy(run.initial_weights(shapes))
    torch.nn.utils.vector_to_parameters(flat, module.parameters())
    optimizer = torch.optim.Adam(module.parameters(), run.hyperparameters["learning_rate"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.num_steps)
    points, wanted = torch.from_numpy(points_of("digits")).double(), torch.from_numpy(grey_values("digits")[1].copy()).double()
    for _ in range(run.num_steps):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(module(points), wanted).backward()
        optimizer.step()
        schedule.step()
    for path, values in module.named_parameters():
        np.testing.assert_allclose(found.parameters[path][0], values.detach().numpy(), rtol=1e-6, atol=1e-9)


def test_a_network_does_not_depend_on_the_others_of_the_call(inr_recipe):
    recipe = inr_recipe.model_copy(update={"rounding": "none"})
    together, alone = fit(recipe, range(9), dtype=torch.float64), fit(recipe, [6], dtype=torch.float64)
    for path, values in alone.parameters.items():
        np.testing.assert_allclose(values[0], together.parameters[path][6], rtol=1e-7, atol=1e-10)


def test_weights_are_rounded_before_they_are_measured(inr_recipe):
    networks = fit(inr_recipe, [2])
    for values in networks.parameters.values():
        assert np.array_equal(torch.from_numpy(values).bfloat16().float().numpy(), values)


def test_fits_start_apart_or_from_the_same_weights(inr_recipe):
    shapes = {"linear0.weight": (5, 2), "linear0.bias": (5,)}
    shared = inr_recipe.model_copy(update={"initialization": "shared"})
    own = [Fit.of(inr_recipe, index).initial_weights(shapes) for index in (0, 1)]
    same = [Fit.of(shared, index).initial_weights(shapes) for index in (0, 1)]
    assert not np.array_equal(*own)
    assert np.array_equal(*same)


def test_a_fit_that_goes_beyond_the_largest_weight_is_set_aside(inr_recipe):
    networks = fit(inr_recipe.model_copy(update={"largest_weight": 1e-3}), [3, 8])
    assert len(networks) == len(networks.functional["digits"]) == 0
    rate = Fit.of(inr_recipe, 3).hyperparameters["learning_rate"]
    assert [run_id for run_id, _ in networks.diverged] == ["glance-00003", "glance-00008"]
    assert networks.diverged[0][1].startswith("weights reach 0.")
    assert networks.diverged[0][1].endswith(f"steps of adam with learning rate {rate:.3g}")


def test_progress_counts_the_steps_of_all_networks(inr_recipe):
    calls = []
    fit(inr_recipe, range(5), progress=lambda done, total, text="": calls.append((done, total)))
    total = sum(Fit.of(inr_recipe, index).num_steps for index in range(5))
    assert calls[-1] == (total, total)


@pytest.mark.parametrize("indices", [[], [3, 3]])
def test_runs_are_named_once(inr_recipe, indices):
    with pytest.raises(TrainingError, match=rf"at least one run index and none twice, got \[{', '.join(map(str, indices))}\]"):
        fit(inr_recipe, indices)


def test_a_run_beyond_the_recipe_is_refused(inr_recipe):
    with pytest.raises(RecipeError, match="recipe 'glance' has runs 0 to 32, got run index 33"):
        fit(inr_recipe, [33])


def test_points_and_values_agree_on_the_order_of_pixels():
    points, values = points_of("digits"), grey_values("digits")
    assert (points.shape, values.shape) == ((64, 2), (1797, 64, 1))
    place = 8 * 2 + 5
    np.testing.assert_allclose(points[place], [-1 + 2 * 2 / 7, -1 + 2 * 5 / 7], rtol=1e-6)
    assert values[31, place, 0] == load_digits().images[31, 2, 5] / 16


def test_networks_are_rendered_at_any_points(inr_recipe):
    networks, points = fit(inr_recipe, [0, 3]), torch.tensor([[0.3, -0.4], [0.1, 0.9], [-1.0, 1.0]])
    outputs = render(networks.architecture, {k: torch.from_numpy(v) for k, v in networks.parameters.items()}, points)
    assert outputs.shape == (2, 3, 1)
    with torch.no_grad():
        torch.testing.assert_close(outputs[1], networks.module_of(1)(points), rtol=1e-4, atol=1e-5)


def test_psnr_of_no_error_is_finite():
    assert psnr(np.array([0.01, 0.0]))[0] == pytest.approx(20)
    assert np.isfinite(psnr(np.array([0.0]))).all()
