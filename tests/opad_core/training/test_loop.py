import dataclasses
import time

import pytest
import torch

from opad_core.adapters.key_value import pretrained_projections
from opad_core.bases.loading import load_base
from opad_core.config import ABLATIONS, override, preset
from opad_core.errors import DivergedError, OpadError
from opad_core.generation.bundle import read_bundle
from opad_core.methods.opad.anchor import drift
from opad_core.methods.opad.collaboration import as_pixels
from opad_core.methods.opad.discriminator import discriminator_head
from opad_core.random_streams import stream
from opad_core.training.augmentation_cache import JUDGES
from opad_core.training.loop import Training, TrainingStopped, train


def learn(base, references, *, stop_after=None, resume=None, seed=1, name="default", **changes):
    config = override(preset(name, base.manifest.presets), changes)
    steps = []
    data = train(
        base, references, "dog", config, seed=seed, resume=resume,
        report=steps.append, should_stop=lambda: stop_after is not None and len(steps) >= stop_after,
    )  # fmt: skip
    return data, steps


def with_scenes(base, share):
    return override(preset("default", base.manifest.presets), {"scene_share": share, "batch_size": 4})


@pytest.mark.parametrize("name", ["default", "paper"])
def test_a_training_resumed_after_any_iteration_ends_like_an_undisturbed_one(base, references, name):
    states = []
    looking = {"eval_every": 2} if name == "default" else {}
    config = override(preset(name, base.manifest.presets), looking)
    undisturbed = train(
        base, references, "dog", config, seed=1,
        report=lambda progress: states.append(progress.save()), should_stop=lambda: False,
    )  # fmt: skip
    for iteration, state in enumerate(states, start=1):  # within each stage and on their border, which lies at 4
        resumed, _ = learn(base, references, name=name, resume=state, **looking)
        assert resumed == undisturbed, f"differs when resumed after iteration {iteration}"


def test_a_training_stopped_before_its_first_iteration_can_go_on(base, references):
    with pytest.raises(TrainingStopped) as stopped:
        learn(base, references, stop_after=0)
    assert learn(base, references, resume=stopped.value.state)[0] == learn(base, references)[0]


def test_another_seed_learns_something_else(base, references):
    assert learn(base, references, seed=1)[0] != learn(base, references, seed=2)[0]


def test_only_keys_values_token_and_heads_move(base, references):
    networks = [base.teacher.unet, base.student.unet, base.text.encoder, base.vae, *base.backbones]
    before = [{n: x.clone() for n, x in network.state_dict().items()} for network in networks]
    training = Training(base, references, "dog", preset("default", base.manifest.presets), seed=1)
    state = training.state
    trained = {
        "token": [state.token_row], "teacher": list(state.teacher.parameters()),
        "student": list(state.student.parameters()), "heads": list(state.heads.parameters()),
    }  # fmt: skip
    starts = {name: [p.detach().clone() for p in parameters] for name, parameters in trained.items()}
    training.iterate()
    for network, states in zip(networks, before, strict=True):
        assert all(torch.equal(x, states[n]) for n, x in network.state_dict().items())
    for name, parameters in trained.items():
        moved = [not torch.equal(p, start) for p, start in zip(parameters, starts[name], strict=True)]
        assert all(moved), f"{name}: {moved.count(False)} of {len(moved)} did not move"


def test_the_student_never_moves_the_token(base, references):
    training = Training(base, references, "dog", preset("default", base.manifest.presets), seed=1)
    before = training.state.token_row.detach().clone()
    eps = torch.randn(2, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    training.step_student(eps, *training._student_texts(["a photo of a <concept>"] * 2))
    assert torch.equal(training.state.token_row, before)


def test_strict_collaboration_learns_from_samples_alone(base, references):
    training = Training(base, references, "dog", preset("paper", base.manifest.presets), seed=1)
    training.state.step = training.config.iterations
    training.draw_samples()
    learned, real = training._collaborative_batches(training._batch(training.photos, "photos"))
    assert torch.equal(learned.pixels, real.pixels)
    assert len(training.state.sample_prompts) == training.config.samples


def test_gated_collaboration_keeps_the_best_and_the_photos_stay_real(base, references):
    training = Training(base, references, "dog", preset("default", base.manifest.presets), seed=1)
    training.state.step = training.config.iterations
    training.draw_samples()
    assert len(training.state.sample_prompts) == training.config.samples * training.config.kept_share
    _, real = training._collaborative_batches(training._batch(training.photos, "photos"))
    expected = training._batch(training.photos, "real", canvas=False)
    assert real.features.keys() == expected.features.keys() == set(JUDGES)
    assert all(torch.equal(real.features[judge], expected.features[judge]) for judge in JUDGES)


def test_progress_tells_stage_losses_and_shows_the_last_picture(base, references):
    _, steps = learn(base, references)
    assert [p.stage for p in steps] == ["distillation"] * 4 + ["collaborative"] * 2
    assert set(steps[0].losses) == {
        "rec", "adv_dino", "adv_dinov2", "adv_clip", "id", "mse", "swd", "d_dino", "d_dinov2", "d_clip",
    }  # fmt: skip
    assert steps[-1].preview.size == (4 * 64, 64)  # four scene prompts


def test_a_divergence_is_an_error_that_names_the_loss(base, references):
    with pytest.raises(DivergedError, match="not a finite number, also at lower rates"):
        learn(base, references, lr_student=1e30, clip_norm=1e30, iterations=8)


def test_a_first_divergence_is_rolled_back_and_goes_on_at_half_the_rates(base, references):
    """One iteration reads a weight that is not a number, as a fault in a GPU's memory would have it."""
    config = preset("default", base.manifest.presets)
    weight, steps, faulty = base.student.unet.conv_in.bias, [], True
    whole = weight.detach().clone()

    def before_each_iteration():
        nonlocal faulty
        with torch.no_grad():
            now = faulty and len(steps) == 2
            weight.copy_(torch.full_like(whole, torch.nan) if now else whole)
            faulty = faulty and not now
        return False

    data = train(
        base, references, "dog", config, seed=1, report=steps.append, should_stop=before_each_iteration
    )  # fmt: skip
    assert [p.step for p in steps] == [1, 2, 1, 2, 3, 4, 5, 6]
    again = Training(base, references, "dog", config, seed=1)
    again.state.load(steps[-1].save(), fingerprint=again.fingerprint)
    assert again.state.rate == 0.5
    assert all(p.isfinite().all() for p in read_bundle(data).projections.parameters())


def test_a_later_divergence_is_rolled_back_to_the_newest_sound_state(base, references, monkeypatch):
    """A state is kept every second iteration; the fourth reads a weight that is not a number."""
    monkeypatch.setattr("opad_core.training.loop.SOUND_EVERY", 2)
    own = load_base(str(base.folder), device="cpu")
    weight, steps, faults = own.student.unet.conv_in.bias, [], iter([False, False, False, True])
    whole = weight.detach().clone()

    def before_each_iteration():
        with torch.no_grad():
            weight.copy_(torch.full_like(whole, torch.nan) if next(faults, False) else whole)
        return False

    config = preset("default", own.manifest.presets)
    train(own, references, "dog", config, seed=1, report=steps.append, should_stop=before_each_iteration)
    assert [p.step for p in steps] == [1, 2, 3, 3, 4, 5, 6]


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


def test_rates_fall_over_the_last_share_of_the_iterations(base, references):
    config = override(preset("default", base.manifest.presets), {"lr_decay": 0.5})
    training = Training(base, references, "dog", config, seed=1)  # 4 + 2 iterations
    factors = []
    for step in range(config.total_iterations):
        training.state.step = step
        factors.append(training._rate())
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


def test_too_many_levels_for_the_resolution_are_refused(base, references):
    with pytest.raises(OpadError, match="swd_levels=5 leaves 4 pixels"):
        learn(base, references, swd_levels=5)


def test_the_bundle_tells_how_it_was_made(base, references):
    data, _ = learn(base, references)
    bundle = read_bundle(data)
    assert (bundle.class_noun, bundle.base_sha256) == ("dog", base.manifest.sha256)
    assert bundle.manifest["seed"] == 1
    expected = dataclasses.asdict(preset("default", base.manifest.presets))
    assert bundle.manifest["config"]["iterations"] == expected["iterations"]


def test_some_of_the_students_prompts_name_training_scenes(base, references):
    plain = ["a photo of a <concept>"] * 4
    training = Training(base, references, "dog", with_scenes(base, 0.5), seed=1)
    named = training._with_scenes(plain)
    assert named[2:] == plain[2:]
    assert set(named[:2]) <= {"a <concept> at sunset", "a <concept> in the desert"}
    without = Training(base, references, "dog", with_scenes(base, 0.0), seed=1)
    assert without._with_scenes(plain) == plain


def test_the_discriminators_judge_no_picture_of_a_scene(base, references):
    training = Training(base, references, "dog", with_scenes(base, 0.5), seed=1)
    eps = torch.randn(4, *base.latent_shape, generator=torch.Generator().manual_seed(0))
    _, fakes = training.step_student(eps, *training._student_texts(["a photo of a <concept>"] * 4))
    assert {len(feature) for feature in fakes.features.values()} == {2}


def looks_of(network, run):
    """Side of the pictures and whether a gradient flowed, for each time `run` used the network."""
    seen = []
    hook = network.register_forward_pre_hook(lambda _, given: seen.append((given[0].shape[-1], given[0].requires_grad)))
    run()
    hook.remove()
    return seen


@pytest.mark.parametrize("reuse", [True, False])
def test_discriminators_see_the_students_pictures_again_only_as_published(base, references, reuse):
    config = override(preset("default", base.manifest.presets), {"reuse_features": reuse})
    training = Training(base, references, "dog", config, seed=1)
    training.draw_banks()
    seen = looks_of(base.backbones[0], training.iterate)
    assert seen == [(64, True)] if reuse else [(64, True), (64, False)]


@pytest.mark.parametrize(("resize", "passes"), [("bicubic", 1), ("bilinear", 2)])
def test_identity_and_third_discriminator_share_a_pass_where_they_see_the_same(base, references, resize, passes):
    config = override(preset("default", base.manifest.presets), {"identity_resize": resize})
    training = Training(base, references, "dog", config, seed=1)
    training.draw_banks()
    assert looks_of(base.identity, training.iterate).count((64, True)) == passes


@pytest.mark.parametrize("augmentation_cache", [0, 4])
def test_half_the_side_is_decoded_and_judged(base, references, bank):
    config = override(preset("default", base.manifest.presets), {"decode_crop": 0.5, "augmentation_cache": bank})
    training = Training(base, references, "dog", config, seed=1)
    sides = {side for side, _ in looks_of(base.backbones[0], training.iterate)}
    cells = {side for side, _ in looks_of(base.vae.decoder, training.iterate)}
    assert (sides, cells) == ({32}, {base.latent_shape[-1] // 2})


def looked_at(base, references, *, seed, every, steps, **changes):
    """The score and the bundle of each look at a training's average, and its iteration, without the loop under test."""
    config = override(
        preset("default", base.manifest.presets), {"eval_every": every, "lr_student": 0.05, **changes}
    )  # fmt: skip
    training, looks = Training(base, references, "dog", config, seed=seed), []
    for step in range(1, steps + 1):
        if step > config.iterations and training.state.sample_pixels is None:
            training.draw_samples()
        training.iterate()
        if step % every == 0:
            bundle = training.bundle()
            looks.append((training._selection.score(read_bundle(bundle)), bundle, step))
    return looks


@pytest.mark.parametrize("seed", [1, 2])
def test_the_bundle_is_the_best_that_was_looked_at(base, references, seed):
    data, steps = learn(base, references, seed=seed, eval_every=2, lr_student=0.05)
    looks = looked_at(base, references, seed=seed, every=2, steps=len(steps))
    assert len({score for score, _, _ in looks}) == 3
    assert data == max(looks)[1]


def test_a_training_ends_after_as_many_looks_without_a_better_one_as_patience_allows(base, references):
    looks = looked_at(base, references, seed=2, every=1, steps=12, iterations=40)
    ends = {}
    for patience in (1, 2, 3):
        without = 0
        for i in range(12):
            without = 0 if i == 0 or looks[i][0] > max(score for score, _, _ in looks[:i]) else without + 1
            if without == patience:
                ends[patience] = i + 1
                break
    assert ends.keys() >= {1, 2}, [score for score, _, _ in looks]
    for patience, end in ends.items():
        _, steps = learn(
            base, references, seed=2, eval_every=1, patience=patience, iterations=40, lr_student=0.05
        )  # fmt: skip
        assert len(steps) == end


def test_a_preview_is_drawn_every_few_iterations_and_at_the_end(base, references, monkeypatch):
    monkeypatch.setattr("opad_core.training.loop.PREVIEW_EVERY", 4)
    _, steps = learn(base, references)
    assert [p.preview is not None for p in steps] == [False, False, False, True, False, True]


def test_the_heads_start_from_their_own_streams(base, references):
    """A bundle depends on the names of the streams: another name is another training."""
    training = Training(base, references, "dog", preset("default", base.manifest.presets), seed=3)
    for k, head in enumerate(training.state.heads):
        again = discriminator_head(head[0].in_features, generator=stream(3, 0, f"head-{k}"))
        assert all(map(torch.equal, head.parameters(), again.parameters()))


LOSSES = {"rec", "adv_dino", "adv_dinov2", "adv_clip", "id", "mse", "swd", "d_dino", "d_dinov2", "d_clip"}


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("no-teacher", {"id", "mse", "swd"}),
        ("no-dino", {"adv_dino", "d_dino"}),
        ("no-dinov2", {"adv_dinov2", "d_dinov2"}),
        ("no-clip", {"adv_clip", "d_clip"}),
        ("no-discriminators", {loss for loss in LOSSES if loss.startswith(("adv_", "d_"))}),
        ("no-id", {"id"}),
        ("no-mse", {"mse"}),
        ("no-swd", {"swd"}),
        ("no-shared-text-encoder", set()),
        ("one-shot", set()),
    ],
)
def test_an_ablation_takes_away_what_it_names(base, references, name, missing):
    config = override(preset("paper", base.manifest.presets), ABLATIONS[name])
    training = Training(base, references, "dog", config, seed=1)
    assert set(training.iterate()) == LOSSES - missing


def test_without_the_shared_text_encoder_the_student_keeps_the_row_where_v_star_starts(base, references):
    config = override(
        preset("paper", base.manifest.presets), ABLATIONS["no-shared-text-encoder"] | {"initializer_lookup": "word"}
    )
    training = Training(base, references, "dog", config, seed=1)
    training.iterate()
    assert torch.equal(read_bundle(training.bundle()).token_row, base.text.embedding_of("dog"))
    assert not torch.equal(training.state.token_row, base.text.embedding_of("dog"))


def test_one_shot_learns_from_the_first_photo_alone(base, references):
    config = override(preset("paper", base.manifest.presets), ABLATIONS["one-shot"])
    alone = Training(base, references, "dog", config, seed=1)
    again = Training(base, references[:1], "dog", config, seed=1)
    assert {name: loss.item() for name, loss in alone.iterate().items()} == {
        name: loss.item() for name, loss in again.iterate().items()
    }


def test_teacher_first_moves_one_network_at_a_time(base, references):
    config = override(preset("paper", base.manifest.presets), {**ABLATIONS["teacher-first"], "iterations": 2})
    training = Training(base, references, "dog", config, seed=1)
    teachers, students = [], []
    for _ in range(config.distillation_iterations):
        before = [
            [p.detach().clone() for p in m.parameters()] for m in (training.state.teacher, training.state.student)
        ]
        training.iterate()
        after = [list(m.parameters()) for m in (training.state.teacher, training.state.student)]
        moved = [not all(map(torch.equal, a, b)) for a, b in zip(after, before, strict=True)]
        teachers.append(moved[0])
        students.append(moved[1])
    assert teachers == [True, True, False, False]
    assert students == [False, False, True, True]


def test_gated_samples_fit_their_prompts_where_enough_do(base, references):
    training = Training(base, references, "dog", preset("default", base.manifest.presets), seed=1)
    training.draw_samples()
    kept = as_pixels(training.state.sample_pixels, base)
    plain = [prompt.replace("<concept>", "dog") for prompt in training.state.sample_prompts]
    strict = dataclasses.replace(training.config, collaboration="strict")
    everything = Training(base, references, "dog", strict, seed=1)
    everything.draw_samples()
    prompts = [prompt.replace("<concept>", "dog") for prompt in everything.state.sample_prompts]
    fits = base.text_fit(as_pixels(everything.state.sample_pixels, base), prompts)
    # An unmoved student draws the gate's own pictures, so that half of them pass and half are kept. A cosine of
    # float32 networks differs by some 1e-5 between batches of other sizes.
    assert float(base.text_fit(kept, plain).min()) >= float(fits.median()) - 1e-4


def moved_words(base, references, anchor):
    config = override(
        preset("default", base.manifest.presets),
        {"lambda_kv_preservation": anchor, "lr_student": 1e-2, "lr_teacher": 1e-2},
    )
    training = Training(base, references, "dog", config, seed=1)
    for _ in range(4):
        training.iterate()
    roles = ((training.state.student, base.student), (training.state.teacher, base.teacher))
    return [drift(training.anchors, projections, denoiser).item() for projections, denoiser in roles]


def test_anchored_words_keep_their_keys_and_values(base, references):
    for free, anchored in zip(moved_words(base, references, 0.0), moved_words(base, references, 100.0), strict=True):
        assert anchored < 0.7 * free  # 0.3 in a trial; an anchor without effect would leave them equal


def test_the_targets_time_comes_from_its_share_of_the_schedule(base, references):
    training = Training(base, references, "dog", with_scenes(base, 0.0), seed=1)
    drawn = torch.cat([training._times(f"try-{k}", 0.6, 1.0) for k in range(50)])
    assert 600 <= int(drawn.min()) < 650
    assert 950 < int(drawn.max()) <= 999


def test_a_picture_with_a_late_time_is_not_compared(base, references):
    """Seed 2 draws the times 818 and 353 for the first iteration."""
    aligned_alone = {"lambda_adv": (0.0, 0.0, 0.0), "lambda_id": 0.0, "lambda_swd": 0.0, "target_weight": "uniform"}
    moved = {}
    for name, changes in {
        "all": {},
        "none late": {"max_target_timestep": 0.99},
        "one late": {"max_target_timestep": 0.6},
        "both late": {"target_timestep_range": (0.6, 1.0), "max_target_timestep": 0.6},
    }.items():
        config = override(
            preset("default", base.manifest.presets), {"max_target_timestep": 1.0} | aligned_alone | changes
        )
        training = Training(base, references, "dog", config, seed=2)
        times = training._times("student-time", *config.target_timestep_range).tolist()
        losses = training.iterate()
        late = [time >= config.max_target_timestep * 1000 for time in times]
        moved[name] = (late, losses.get("mse"), [x.detach() for x in training.state.student.parameters()])
    assert [sum(late) for late, *_ in moved.values()] == [0, 0, 1, 2]
    start = pretrained_projections(base.student).parameters()
    assert moved["both late"][1] is None
    assert all(torch.equal(*pair) for pair in zip(moved["both late"][2], start, strict=True))
    assert all(torch.equal(*pair) for pair in zip(moved["all"][2], moved["none late"][2], strict=True))
    assert moved["one late"][1] not in (None, moved["all"][1])


def test_half_precision_learns_what_single_precision_learns(base, references):
    """Of a loss so weak that its gradient, unscaled, is below what float16 can tell from nothing."""
    weak = {
        "lambda_mse": 1e-3,
        "lambda_id": 0.0,
        "lambda_swd": 0.0,
        "lambda_adv": (0.0, 0.0, 0.0),
        "lambda_kv_preservation": 0.0,
    }
    gradients = []
    for precision in ("float32", "half"):
        at = load_base(str(base.folder), device="cpu", precision=precision)
        training = Training(at, references, "dog", override(preset("default", at.manifest.presets), weak), seed=1)
        eps = torch.randn(2, *at.latent_shape, generator=torch.Generator().manual_seed(0))
        training.step_student(eps, *training._student_texts(["a photo of a <concept>"] * 2))
        gradients.append(torch.cat([p.grad.flatten() for p in training.state.student.parameters()]))
    single, half = gradients
    # Rounding of float16 and, in the teacher, bfloat16.
    assert torch.cosine_similarity(single, half, dim=0) > 0.99
    assert half.norm() == pytest.approx(float(single.norm()), rel=0.05)


def half(base):
    return load_base(str(base.folder), device="cpu", precision="half")


def briefly(base):
    """Half precision takes a CPU ten times as long."""
    changes = {
        "iterations": 3,
        "collaborative_iterations": 0,
        "batch_size": 1,
        "scene_share": 0.0,
        "augmentation_cache": 2,
    }
    return override(preset("default", base.manifest.presets), changes)


def test_a_gradient_that_overflows_skips_a_step_and_halves_the_loss_scale(base, references):
    at = half(base)
    training = Training(at, references, "dog", briefly(at), seed=1)
    scale = 2.0**40  # of a loss near 1; float16 ends at 2^16
    training.state.scaler.load_state_dict(training.state.scaler.state_dict() | {"scale": scale})
    start = [p.detach().clone() for p in training.state.student.parameters()]
    losses = training.iterate()
    assert all(torch.equal(p, s) for p, s in zip(training.state.student.parameters(), start, strict=True))
    assert all(loss.isfinite() for loss in losses.values())
    assert (training.state.scaler.get_scale(), training.state.overflows) == (scale / 2, 1)


def test_a_skipped_step_is_no_divergence(base, references):
    """One iteration's pictures are no numbers, as when a network overflows half precision: nothing is rolled back."""
    at, steps = half(base), []
    weight, broken = at.student.unet.conv_in.bias, [False, True, False, False]
    whole = weight.detach().clone()

    def before_each_iteration():
        with torch.no_grad():
            weight.copy_(torch.full_like(whole, torch.inf) if broken[len(steps)] else whole)
        return False

    train(
        at, references, "dog", briefly(at), seed=1,
        report=steps.append, should_stop=before_each_iteration,
    )  # fmt: skip
    assert [p.step for p in steps] == [1, 2, 3]
    assert set(steps[1].losses) == {"rec"}
    again = Training(at, references, "dog", briefly(at), seed=1)
    again.state.load(steps[-1].save(), fingerprint=again.fingerprint)
    assert (again.state.rate, again.state.scaler.get_scale(), again.state.overflows) == (1.0, 512.0, 0)


def test_overflows_without_end_are_a_divergence(base, references, monkeypatch):
    monkeypatch.setattr("opad_core.training.loop.MAX_OVERFLOWS", 2)
    at = half(base)
    with torch.no_grad():
        at.student.unet.conv_in.bias.fill_(torch.inf)
    steps = []
    with pytest.raises(DivergedError, match="2 steps in a row overflowed half precision, also at lower rates"):
        train(
            at, references, "dog", briefly(at), seed=1,
            report=steps.append, should_stop=lambda: False,
        )  # fmt: skip
    assert [p.step for p in steps] == [1, 1]  # rolled back once, to the start


def test_half_precision_resumes_with_its_loss_scale_bit_for_bit(base, references):
    """With a scale that overflows at first and grows back every second step."""
    at, states = half(base), []
    config = briefly(at)

    def learn_from(state):
        training = Training(at, references, "dog", config, seed=1)
        training.state.scaler.load_state_dict(
            training.state.scaler.state_dict() | {"scale": 2.0**20, "growth_interval": 2}
        )
        if state is not None:
            training.state.load(state, fingerprint=training.fingerprint)
        while training.state.step < config.iterations:
            states.append((training.state.step, training.state.save(fingerprint=training.fingerprint)))
            training.iterate()
        return training.state.save(fingerprint=training.fingerprint), training.state.scaler.get_scale()

    undisturbed, scale = learn_from(None)
    assert scale < 2.0**20
    for _, state in list(states[1:]):
        assert learn_from(state) == (undisturbed, scale)
