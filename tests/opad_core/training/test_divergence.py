import torch

from opad_core.training.divergence import DivergenceCheck


def checked(values, name="mse"):
    """Return what the check says after each value."""
    check = DivergenceCheck()
    return [check.trouble([{name: value}]) for value in values]


def test_a_divergence_is_noticed_within_ten_iterations():
    results = checked([1.0] * 20 + [50.0] * 10)
    assert results[:20] == [None] * 20
    # Two of ten values at 50 give a mean of 10.8.
    assert results[21] == "mse rose to 11 times its lowest value"


def test_a_divergence_in_the_middle_of_a_report_is_noticed():
    check = DivergenceCheck()
    assert check.trouble([{"mse": 1.0}, {"mse": float("inf")}, {"mse": 1.0}]) == "mse is not a finite number"


def test_ten_times_the_lowest_mean_is_a_divergence_and_less_is_not():
    assert not any(checked([1.0] * 20 + [9.9] * 10))
    assert checked([1.0] * 20 + [10.2] * 10)[-1] == "mse rose to 10 times its lowest value"


def test_a_value_that_is_not_finite_is_noticed_at_once():
    assert checked([1.0, float("nan")])[1] == "mse is not a finite number"
    assert checked([float("inf")], name="adv_dino")[0] == "adv_dino is not a finite number"


def test_noise_around_a_falling_loss_is_no_trouble():
    noise = torch.rand(500, generator=torch.Generator().manual_seed(0)) * 4
    assert not any(checked([(1 + float(n)) / (1 + i / 50) for i, n in enumerate(noise)]))


def test_adversarial_losses_may_rise():
    assert not any(checked([0.1] * 20 + [30.0] * 20, name="adv_dino"))
