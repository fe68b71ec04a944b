import dataclasses
import json
import time

import pytest
import torch
from safetensors.torch import load, save

from opad_core.adapters.key_value import KeyValueAdapter
from opad_core.bases.loading import load_base
from opad_core.errors import DivergedError, OldCheckpointError, OpadError
from opad_core.generation.bundle import read_bundle
from opad_core.methods.custom_diffusion import CustomDiffusionConfig
from opad_core.methods.opad.config import preset
from opad_core.methods.train import new_training, train
from opad_core.training.config import override
from opad_core.training.loop import TrainingStopped


def learn(base, references, *, stop_after=None, resume=None, seed=1, name="default", keep_teacher=None, **changes):
    config = override(preset(name, base.manifest.presets), changes)
    steps = []
    data = train(
        base, references, "dog", config, seed=seed, resume=resume,
        report=steps.append, should_stop=lambda: stop_after is not None and len(steps) >= stop_after,
        keep_teacher=keep_teacher,
    )  # fmt: skip
    return data, steps


@pytest.fixture(scope="module")
def undisturbed(base, references):
    """Return the bundle of `learn(base, references)` and its reports."""
    return learn(base, references)


@pytest.mark.parametrize("name", ["default", "paper"])
def test_a_resumed_training_gives_the_same_bytes_as_an_uninterrupted_one(roomy, references, name):
    base, states = roomy, []
    evaluating = {"eval_every": 2} if name == "default" else {}
    config = override(preset(name, base.manifest.presets), evaluating)
    uninterrupted = train(
        base, references, "dog", config, seed=1,
        report=lambda progress: states.append(progress.snapshot().to_bytes()), should_stop=lambda: False,
    )  # fmt: skip
    for iteration, state in enumerate(states, start=1):  # within each stage and between them, after iteration 4
        resumed, _ = learn(base, references, name=name, resume=state, **evaluating)
        assert resumed == uninterrupted, f"differs when resumed after iteration {iteration}"


def test_the_teacher_is_kept_where_it_is_asked_for(base, references, undisturbed):
    kept = []
    alone, _ = undisturbed
    assert learn(base, references, keep_teacher=kept.append)[0] == alone
    [teacher] = map(read_bundle, kept)
    assert (teacher.network, read_bundle(alone).network) == ("teacher", "student")
    training = new_training(base, references, "dog", preset("default", base.manifest.presets), seed=1)
    for _ in range(training.config.total_iterations):
        training.iterate()
    expected = training.method.teacher.tensors()
    assert all(torch.equal(x, expected[name]) for name, x in teacher.adapter.tensors().items())
    untouched = KeyValueAdapter.initial(base.teacher, training.data.start_row).tensors()
    assert not torch.equal(expected["token_row"], untouched["token_row"])


def test_a_method_without_a_teacher_refuses_to_keep_one_before_it_learns(base, references):
    reports = []
    with pytest.raises(OpadError, match="the method 'custom_diffusion' trains no teacher to keep"):
        train(
            base, references, "dog", CustomDiffusionConfig(), seed=1, report=reports.append,
            should_stop=lambda: False, keep_teacher=reports.append,
        )  # fmt: skip
    assert reports == []


def test_a_training_stopped_before_its_first_iteration_can_continue(base, references, undisturbed):
    with pytest.raises(TrainingStopped) as stopped:
        learn(base, references, stop_after=0)
    assert learn(base, references, resume=stopped.value.state)[0] == undisturbed[0]


def test_another_seed_learns_something_else(base, references, undisturbed):
    assert undisturbed[0] != learn(base, references, seed=2)[0]


def test_progress_has_stage_and_losses_and_ends_with_a_preview(undisturbed):
    _, steps = undisturbed
    assert [p.stage for p in steps] == ["distillation"] * 4 + ["collaborative"] * 2
    assert set(steps[0].losses[0]) == {
        "rec", "adv_dino", "adv_dinov2", "adv_clip", "id", "mse", "swd", "d_dino", "d_dinov2", "d_clip",
    }  # fmt: skip
    assert steps[-1].preview.size == (4 * 64, 64)  # four scene prompts


def test_reports_of_several_iterations_have_the_losses_of_each(base, references, undisturbed, monkeypatch):
    monkeypatch.setattr("opad_core.training.loop.MAX_REPORT_SECONDS", 1e9)  # on a busy machine, too
    alone, reports = undisturbed
    assert [p.step for p in reports] == [1, 2, 3, 4, 5, 6]  # 4 + 2 iterations
    steps = []
    data = train(
        base, references, "dog", preset("default", base.manifest.presets), seed=1,
        report=steps.append, should_stop=lambda: False, report_every=3,
    )  # fmt: skip
    # The first report comes after one iteration, whose time is not known before. Reports end with a stage.
    assert [p.step for p in steps] == [1, 3, 4, 6]
    assert [p.stage for p in steps] == ["distillation"] * 3 + ["collaborative"]
    each = [losses for progress in reports for losses in progress.losses]
    assert [losses for progress in steps for losses in progress.losses] == each
    assert data == alone


def test_a_divergence_is_an_error_that_names_the_loss(base, references):
    with pytest.raises(DivergedError, match="not a finite number, also at lower learning rates"):
        learn(base, references, lr_student=1e30, clip_norm=1e30, iterations=8)


def nan_in(base, occasions):
    """A `should_stop` that stops never. The iterations that it precedes read a weight that is NaN where `occasions`, in
    order, say so, as after a fault in GPU memory."""
    weight, occasions = base.student.unet.conv_in.bias, iter(occasions)
    whole = weight.detach().clone()

    def should_stop():
        with torch.no_grad():
            weight.copy_(torch.full_like(whole, torch.nan) if next(occasions, False) else whole)
        return False

    return should_stop


def test_a_first_divergence_is_rolled_back_and_halves_the_learning_rates(base, references):
    config, steps = preset("default", base.manifest.presets), []
    data = train(
        base, references, "dog", config, seed=1,
        report=steps.append, should_stop=nan_in(base, [False, False, True]),
    )  # fmt: skip
    assert [p.step for p in steps] == [1, 2, 1, 2, 3, 4, 5, 6]
    again = new_training(base, references, "dog", config, seed=1)
    again.load(steps[-1].snapshot())
    assert again.lr_scale == 0.5
    assert all(p.isfinite().all() for p in read_bundle(data).adapter.parameters())


def test_a_later_divergence_is_rolled_back_to_the_last_good_state(base, references, monkeypatch):
    """A state is kept every second iteration. The fourth iteration reads a weight that is NaN."""
    monkeypatch.setattr("opad_core.training.loop.GOOD_STATE_EVERY", 2)
    own, steps = load_base(str(base.folder), device="cpu"), []
    config = preset("default", own.manifest.presets)
    train(
        own, references, "dog", config, seed=1,
        report=steps.append, should_stop=nan_in(own, [False, False, False, True]),
    )  # fmt: skip
    assert [p.step for p in steps] == [1, 2, 3, 3, 4, 5, 6]


def test_samples_from_before_a_rollback_are_not_learned_from(base, references):
    """The second collaborative iteration reads a weight that is NaN, so the samples are generated anew."""
    own, steps, states = load_base(str(base.folder), device="cpu"), [], []

    def report(progress):
        steps.append(progress.step)
        states.append(progress.snapshot().to_bytes())

    config = preset("default", own.manifest.presets)
    data = train(
        own, references, "dog", config, seed=1,
        report=report, should_stop=nan_in(own, [False] * 5 + [True]),
    )  # fmt: skip
    assert steps == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 6]
    assert learn(own, references, resume=states[5])[0] == data


def test_seconds_per_step_are_those_of_this_run(base, references):
    started = time.monotonic()
    _, steps = learn(base, references)
    whole = time.monotonic() - started
    assert all(0 < p.seconds_per_step * p.step <= whole for p in steps)
    assert [p.seconds_per_step * p.step for p in steps] == sorted(p.seconds_per_step * p.step for p in steps)
    with pytest.raises(TrainingStopped) as stopped:
        learn(base, references, stop_after=3)
    started = time.monotonic()
    _, rest = learn(base, references, resume=stopped.value.state)
    assert rest[0].step == 4
    assert all(0 < p.seconds_per_step * (p.step - 3) <= time.monotonic() - started for p in rest)


def test_learning_rates_fall_in_the_last_share_of_the_iterations(base, references):
    config = override(preset("default", base.manifest.presets), {"lr_decay": 0.5})
    training = new_training(base, references, "dog", config, seed=1)  # 4 + 2 iterations
    factors = []
    for step in range(config.total_iterations):
        training.step = step
        factors.append(training._scheduled_lr_scale())
    assert factors == pytest.approx([1, 1, 1, 1, 2 / 3, 1 / 3])


def test_a_state_of_another_training_is_refused(base, references):
    with pytest.raises(TrainingStopped) as stopped:
        learn(base, references, stop_after=1)
    with pytest.raises(OpadError, match="another training"):
        learn(base, references[:3], resume=stopped.value.state)


def test_an_unknown_noun_is_refused(base, references):
    config = preset("default", base.manifest.presets)
    with pytest.raises(OpadError, match="'unicorn'"):
        train(base, references, "unicorn", config, seed=1, report=lambda p: None, should_stop=lambda: False)


def test_the_bundle_says_how_it_was_trained(base, undisturbed):
    bundle = read_bundle(undisturbed[0])
    assert (bundle.class_noun, bundle.base_sha256) == ("dog", base.manifest.sha256)
    assert bundle.manifest["seed"] == 1
    expected = dataclasses.asdict(preset("default", base.manifest.presets))
    assert bundle.manifest["config"]["iterations"] == expected["iterations"]


def evaluated(base, references, *, seed, every, steps, **changes):
    """Return score, bundle and iteration of each evaluation, without the loop under test."""
    config = override(
        preset("default", base.manifest.presets), {"eval_every": every, "lr_student": 0.05, **changes}
    )  # fmt: skip
    training, evaluations = new_training(base, references, "dog", config, seed=seed), []
    for step in range(1, steps + 1):
        training.iterate()
        if step % every == 0:
            bundle = training.bundle()
            evaluations.append((training._evaluation.score(read_bundle(bundle)), bundle, step))
    return evaluations


def test_the_bundle_is_the_one_with_the_best_score(roomy, references):
    data, steps = learn(roomy, references, seed=2, eval_every=2, lr_student=0.05)
    evaluations = evaluated(roomy, references, seed=2, every=2, steps=len(steps))
    assert data == max(evaluations)[1] != evaluations[-1][1]
    assert [(p.total_steps, p.ended_early) for p in steps] == [(6, None)] * 6


@pytest.fixture(scope="module")
def curve(roomy, references):
    """Twelve scores of one training, an evaluation after each iteration."""
    return [score for score, _, _ in evaluated(roomy, references, seed=2, every=1, steps=12, iterations=40)]


def stops_at(curve, patience, min_gain):
    """Return the first iteration at which the best score rose too little in the last `patience` evaluations."""
    for step in range(patience + 1, len(curve) + 1):
        if max(curve[:step]) - max(curve[: step - patience]) <= min_gain:
            return step
    return None


ENDING = {"eval_every": 1, "patience": 2, "iterations": 40, "lr_student": 0.05}


@pytest.fixture(scope="module")
def ended(roomy, references):
    """Return the bundle and the reports of a training that ends early."""
    return learn(roomy, references, seed=2, **ENDING)


def test_a_training_ends_when_its_score_stops_rising(roomy, references, curve, ended):
    for patience in (1, 2):
        end = stops_at(curve, patience, 0.0)
        assert end is not None, curve
        _, steps = ended if patience == 2 else learn(roomy, references, seed=2, **ENDING | {"patience": patience})
        assert len(steps) == end
        assert [p.total_steps for p in steps] == [42] * (end - 1) + [end]
        assert [p.ended_early for p in steps[:-1]] == [None] * (end - 1)
        assert steps[-1].ended_early.startswith(f"Learned after {end} of at most 42 iterations: ")
        assert steps[-1].preview is not None


def test_a_training_continues_while_its_score_rises(roomy, references, curve):
    """With a patience as long as the rise, the end is where the score has fallen for that long."""
    patience = 1 + max(range(len(curve)), key=lambda step: curve[step])
    assert stops_at(curve[:patience], patience, 0.0) is None
    with pytest.raises(TrainingStopped):
        learn(
            roomy, references, stop_after=patience, seed=2, eval_every=1, patience=patience, iterations=40,
            lr_student=0.05,
        )  # fmt: skip


def test_a_resumed_training_ends_early_at_the_same_iteration_with_the_same_bytes(roomy, references, ended):
    uninterrupted, steps = ended
    for stop_after in (1, len(steps) - 1):
        with pytest.raises(TrainingStopped) as stopped:
            learn(roomy, references, stop_after=stop_after, seed=2, **ENDING)
        resumed, rest = learn(roomy, references, resume=stopped.value.state, seed=2, **ENDING)
        assert resumed == uninterrupted
        assert len(rest) == len(steps) - stop_after


def test_a_preview_comes_every_few_iterations_and_at_the_end(base, references, monkeypatch):
    monkeypatch.setattr("opad_core.training.loop.PREVIEW_EVERY", 4)
    _, steps = learn(base, references)
    assert [p.preview is not None for p in steps] == [False, False, False, True, False, True]


def test_a_checkpoint_of_an_older_version_is_refused_by_its_format(base, references):
    """Format 4 was safetensors with the state as JSON, too."""
    old = save({"token_row": torch.zeros(4)}, metadata={"state": json.dumps({"format": 4, "step": 3, "rate": 1.0})})
    with pytest.raises(OldCheckpointError, match="has format 4; this version reads format 6"):
        learn(base, references, resume=old)


def test_a_checkpoint_without_a_part_is_refused(base, references):
    with pytest.raises(TrainingStopped) as stopped:
        learn(base, references, stop_after=1)
    tensors = load(stopped.value.state)
    header = json.loads(stopped.value.state[8 : 8 + int.from_bytes(stopped.value.state[:8], "little")])
    del tensors["optimizer.student.0"]
    with pytest.raises(OpadError, match="lacks a part of the state"):
        learn(base, references, resume=save(tensors, metadata=header["__metadata__"]))
