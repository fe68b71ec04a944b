import torch

from opad_core.adapters.key_value import pretrained_projections
from opad_core.bases.loading import load_base
from opad_core.nano.build.adapting import INNER_STEPS, TaskProjections

_TASKS = 16


def projections_of(base, lr=3e-3):
    return TaskProjections(pretrained_projections(base.student).requires_grad_(False), tasks=_TASKS, lr=lr)


def one_step(base, task_projections, states, eps, target):
    errors = (base.student.one_step(eps, task_projections(states)) - target).square().mean((1, 2, 3))
    errors.sum().backward()
    task_projections.step(torch.ones(_TASKS, dtype=torch.bool))
    return errors.detach()


def test_each_task_trains_its_own_keys_and_values():
    """The images of one task do not affect another task, and plain prompts use the pretrained projections."""
    base = load_base("nano", device="cpu")
    states = base.text.encode(["a mug on the beach"] * (_TASKS + 1), [""] * (_TASKS + 1), [None] * (_TASKS + 1))
    generator = torch.Generator().manual_seed(0)
    eps, target = (torch.randn(_TASKS + 1, *base.latent_shape, generator=generator) for _ in range(2))
    task_projections, others = projections_of(base), projections_of(base)
    other_target = target.clone()
    other_target[0] = 0
    one_step(base, task_projections, states, eps, target)
    one_step(base, others, states, eps, other_target)
    start = pretrained_projections(base.student)(states)
    for layer, (key, value) in task_projections(states).items():
        assert torch.allclose(key[1], others(states)[layer][0][1], atol=1e-6)  # the rest of the batch changes rounding
        assert not torch.allclose(value[0, 1:], others(states)[layer][1][0, 1:], atol=1e-4)
        assert torch.equal(key[_TASKS], start[layer][0][_TASKS])


def test_a_new_task_replaces_a_finished_one():
    base = load_base("nano", device="cpu")
    task_projections = projections_of(base)
    states = base.text.encode(["a mug"] * _TASKS, [""] * _TASKS, [None] * _TASKS)
    oldest = int(task_projections.inner_steps.argmax())
    number = int(task_projections.task_ids[oldest])
    eps = torch.randn(_TASKS, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    for _ in range(INNER_STEPS - int(task_projections.inner_steps[oldest])):
        one_step(base, task_projections, states, eps, torch.zeros_like(eps))
    assert int(task_projections.inner_steps[oldest]) == 0
    assert int(task_projections.task_ids[oldest]) == number + _TASKS
    start = pretrained_projections(base.student)(states)
    for layer, (key, value) in task_projections(states).items():
        assert torch.equal(key[oldest], start[layer][0][oldest])
        assert torch.equal(value[oldest], start[layer][1][oldest])


def test_a_loaded_state_continues_identically():
    base = load_base("nano", device="cpu")
    states = base.text.encode(["a mug"] * _TASKS, [""] * _TASKS, [None] * _TASKS)
    eps = torch.randn(_TASKS, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    task_projections, resumed = projections_of(base), projections_of(base)
    one_step(base, task_projections, states, eps, torch.zeros_like(eps))
    resumed.load_state_dict(task_projections.state_dict())
    assert resumed.inner_steps.tolist() == task_projections.inner_steps.tolist()
    after = [one_step(base, each, states, eps, torch.zeros_like(eps)) for each in (task_projections, resumed)]
    assert torch.equal(*after)


def test_a_query_image_does_not_train_the_keys_and_values_of_its_task():
    """It does not count as an inner step either, and does not change the Adam state."""
    base = load_base("nano", device="cpu")
    states = base.text.encode(["a mug"] * _TASKS, [""] * _TASKS, [None] * _TASKS)
    generator = torch.Generator().manual_seed(0)
    eps, target, other_target = (torch.randn(_TASKS, *base.latent_shape, generator=generator) for _ in range(3))
    task_projections, undisturbed = projections_of(base), projections_of(base)
    is_support = torch.arange(_TASKS) != 3
    for each in (task_projections, undisturbed):
        one_step(base, each, states, eps, target)
    (base.student.one_step(eps, task_projections(states)) - other_target).square().mean((1, 2, 3)).sum().backward()
    count = int(task_projections.inner_steps[3])
    task_projections.step(is_support)
    assert int(task_projections.inner_steps[3]) == count
    for each in (task_projections, undisturbed):
        one_step(base, each, states, eps, target)
    value, expected = (each(states)[base.student.layers[0]][1] for each in (task_projections, undisturbed))
    assert torch.allclose(value[3], expected[3], atol=1e-6)
    assert not torch.allclose(value[4], expected[4], atol=1e-4)
