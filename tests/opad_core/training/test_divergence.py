import torch

from opad_core.training.divergence import DivergenceCheck


def seen(values, name="mse"):
    """What a watch says after each value."""
    watch = DivergenceCheck()
    return [watch.trouble({name: torch.tensor(value)}) for value in values]


def test_an_explosion_is_noticed_within_ten_iterations():
    said = seen([1.0] * 20 + [50.0] * 10)
    assert said[:20] == [None] * 20
    # 2 of ten at 50 make a mean of 10.8.
    assert said[21] == "mse rose to 11 times what it was"


def test_ten_times_the_lowest_mean_is_an_explosion_and_less_is_not():
    assert not any(seen([1.0] * 20 + [9.9] * 10))
    assert seen([1.0] * 20 + [10.2] * 10)[-1] == "mse rose to 10 times what it was"


def test_a_number_that_is_none_is_noticed_at_once():
    assert seen([1.0, float("nan")])[1] == "mse is not a finite number"
    assert seen([float("inf")], name="adv_dino")[0] == "adv_dino is not a finite number"


def test_noise_around_a_falling_loss_is_no_trouble():
    noise = torch.rand(500, generator=torch.Generator().manual_seed(0)) * 4
    assert not any(seen([(1 + float(n)) / (1 + i / 50) for i, n in enumerate(noise)]))


def test_adversarial_losses_may_rise():
    assert not any(seen([0.1] * 20 + [30.0] * 20, name="adv_dino"))
