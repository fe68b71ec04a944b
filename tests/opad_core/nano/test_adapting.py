import torch

from opad_core.adapters.key_value import pretrained_projections
from opad_core.bases.loading import load_base
from opad_core.nano.build.adapting import INNER, Learners

_THINGS = 16


def learners_of(base, rate=3e-3):
    return Learners(pretrained_projections(base.student).requires_grad_(False), things=_THINGS, rate=rate)


def one_lesson(base, learners, states, eps, goal):
    errors = (base.student.one_step(eps, learners(states)) - goal).square().mean((1, 2, 3))
    errors.sum().backward()
    learners.step(torch.ones(_THINGS, dtype=torch.bool))
    return errors.detach()


def test_each_thing_is_learned_by_keys_and_values_of_its_own():
    """Others' pictures do not show in what one thing learns, and plain prompts keep the network's own."""
    base = load_base("nano", device="cpu")
    states = base.text.encode(["a mug on the beach"] * (_THINGS + 1), [""] * (_THINGS + 1), [None] * (_THINGS + 1))
    generator = torch.Generator().manual_seed(0)
    eps, goal = (torch.randn(_THINGS + 1, *base.latent_shape, generator=generator) for _ in range(2))
    learners, others = learners_of(base), learners_of(base)
    goal_of_others = goal.clone()
    goal_of_others[0] = 0
    one_lesson(base, learners, states, eps, goal)
    one_lesson(base, others, states, eps, goal_of_others)
    start = pretrained_projections(base.student)(states)
    for layer, (key, value) in learners(states).items():
        assert torch.allclose(key[1], others(states)[layer][0][1], atol=1e-6)  # another batch mate, another rounding
        assert not torch.allclose(value[0, 1:], others(states)[layer][1][0, 1:], atol=1e-4)
        assert torch.equal(key[_THINGS], start[layer][0][_THINGS])


def test_a_thing_that_is_through_gives_way_to_the_next():
    base = load_base("nano", device="cpu")
    learners = learners_of(base)
    states = base.text.encode(["a mug"] * _THINGS, [""] * _THINGS, [None] * _THINGS)
    oldest = int(learners.ages.argmax())
    number = int(learners.numbers[oldest])
    eps = torch.randn(_THINGS, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    for _ in range(INNER - int(learners.ages[oldest])):
        one_lesson(base, learners, states, eps, torch.zeros_like(eps))
    assert int(learners.ages[oldest]) == 0
    assert int(learners.numbers[oldest]) == number + _THINGS
    start = pretrained_projections(base.student)(states)
    for layer, (key, value) in learners(states).items():
        assert torch.equal(key[oldest], start[layer][0][oldest])
        assert torch.equal(value[oldest], start[layer][1][oldest])


def test_a_state_goes_on_where_it_was():
    base = load_base("nano", device="cpu")
    states = base.text.encode(["a mug"] * _THINGS, [""] * _THINGS, [None] * _THINGS)
    eps = torch.randn(_THINGS, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    learners, resumed = learners_of(base), learners_of(base)
    one_lesson(base, learners, states, eps, torch.zeros_like(eps))
    resumed.load_state_dict(learners.state_dict())
    assert resumed.ages.tolist() == learners.ages.tolist()
    after = [one_lesson(base, each, states, eps, torch.zeros_like(eps)) for each in (learners, resumed)]
    assert torch.equal(*after)


def test_what_is_shown_elsewhere_teaches_a_thing_nothing():
    """Its age stands still as well, and its Adam goes on as if that picture had not been."""
    base = load_base("nano", device="cpu")
    states = base.text.encode(["a mug"] * _THINGS, [""] * _THINGS, [None] * _THINGS)
    generator = torch.Generator().manual_seed(0)
    eps, goal, other_goal = (torch.randn(_THINGS, *base.latent_shape, generator=generator) for _ in range(3))
    learners, undisturbed = learners_of(base), learners_of(base)
    at_home = torch.arange(_THINGS) != 3
    for of in (learners, undisturbed):
        one_lesson(base, of, states, eps, goal)
    (base.student.one_step(eps, learners(states)) - other_goal).square().mean((1, 2, 3)).sum().backward()
    age = int(learners.ages[3])
    learners.step(at_home)
    assert int(learners.ages[3]) == age
    for of in (learners, undisturbed):
        one_lesson(base, of, states, eps, goal)
    value, as_if, disturbed = (of(states)[base.student.layers[0]][1] for of in (learners, undisturbed, learners))
    assert torch.allclose(value[3], as_if[3], atol=1e-6)
    assert not torch.allclose(disturbed[4], as_if[4], atol=1e-4)
