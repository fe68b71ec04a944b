"""The training loop of OPAD (supplement, Algorithm 1), top to bottom: distillation, then the collaborative stage.

Each iteration: the teacher learns the concept from photos (L_rec); the student makes pictures in one step and is
pulled towards what the teacher makes of them (L_id, L_mse, L_swd, weighted by c(t) = abar_t) and towards the photos
by three discriminators (L_adv); the discriminators learn to tell photos from the student's pictures.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from opad_core.adapters.key_value import KeyValueProjections, pretrained_projections
from opad_core.bases.captions import scenes_of
from opad_core.bases.loading import Base
from opad_core.config import OpadConfig
from opad_core.errors import DivergedError, OpadError
from opad_core.generation.bundle import read_bundle, write_bundle
from opad_core.generation.generator import ImageRequest, OneStepGenerator
from opad_core.methods.opad.alignment import alignment_losses, alignment_weight, identity_tokens, teacher_target
from opad_core.methods.opad.anchor import anchor_states, drift
from opad_core.methods.opad.collaboration import draw_samples
from opad_core.methods.opad.discriminator import discriminator_head
from opad_core.methods.opad.losses import discriminator_loss, generator_loss, reconstruction_loss
from opad_core.networks.denoiser import Denoiser
from opad_core.networks.schedule import add_noise, training_target
from opad_core.networks.text_encoder import PLACEHOLDER
from opad_core.pixels import reference_pixels
from opad_core.random_streams import stream
from opad_core.selection import Selection
from opad_core.training.augmentation import Batch, Example, indices_at, photo_examples
from opad_core.training.augmentation_cache import JUDGES, Judged, Views, feature_of, window
from opad_core.training.divergence import Watch
from opad_core.training.state import TrainingState

PREVIEW_EVERY = 25
"""Iterations between two previews; four pictures cost about a tenth of an iteration."""
SOUND_EVERY = 50
"""Iterations between two states that a divergence is rolled back to."""
ROLLBACK_RATE = 0.5
"""Factor on every learning rate after that."""
FIRST_SCALE = 1024.0
"""Factor on the student's losses where the networks they go through are in half precision: a pixel's share of a mean
over 512 x 512 of them is 1.3e-6, and float16 has nothing between 6e-8 and 0. It halves with each overflow."""
SCALE_GROWS_AFTER = 200
"""Steps without an overflow after which the factor doubles."""
MAX_OVERFLOWS = 20
"""Overflows in a row that are a divergence: by then the factor is 2^-10, and no gradient overflows for its sake."""
PREVIEW_SEED = 7
PREVIEW_PICTURES = 4


@dataclass(frozen=True)
class Progress:
    """What a watcher learns after an iteration."""

    step: int
    """Iterations done, of both stages."""
    total_steps: int
    stage: str
    """"distillation" or "collaborative"."""
    losses: dict[str, float]
    seconds_per_step: float
    preview: Image.Image | None
    """Pictures of the averaged student at fixed seeds, side by side; every PREVIEW_EVERY iterations."""
    save: Callable[[], bytes]
    """The state after this iteration, to be given to `train(resume=...)`; call it before returning."""


class TrainingStopped(Exception):
    """`should_stop` said so; carries the state to go on from."""

    def __init__(self, state: bytes) -> None:
        super().__init__("the training was stopped")
        self.state = state


def train(
    base: Base,
    references: list[Image.Image],
    class_noun: str,
    config: OpadConfig,
    *,
    seed: int,
    report: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    resume: bytes | None = None,
) -> bytes:
    """Learns a concept from 1-100 references and returns its bundle, as bytes.

    `report` is called after every iteration, `should_stop` before each. The result depends on the arguments alone:
    a training that was stopped and resumed ends, on the CPU, bit for bit like one that was not.

    With `config.eval_every` the bundle holds the best of the looked-at averages, else the last iterate's.

    Raises OpadError for a class noun that the base does not know, OtherTrainingError for a foreign state,
    DivergedError when it diverges a second time (the first is rolled back), TrainingStopped when asked to stop.
    """
    if base.manifest.nouns is not None and class_noun not in base.manifest.nouns:
        raise OpadError(f"the base {base.manifest.name!r} does not know the class noun {class_noun!r}")
    training = Training(base, references, class_noun, config, seed=seed)
    if resume is not None:
        training.state.load(resume, fingerprint=training.fingerprint)
    state = training.state

    watch, sound = Watch(), state.save(fingerprint=training.fingerprint)
    started, first_step = time.monotonic(), state.step
    while state.step < config.total_iterations and not (config.patience and state.stale >= config.patience):
        if should_stop():
            raise TrainingStopped(state.save(fingerprint=training.fingerprint))
        if state.step == config.distillation_iterations and state.sample_pixels is None:
            training.draw_samples()
        losses = training.iterate()
        if trouble := watch.trouble(losses) or training.overflow_trouble():
            diverged = f"the training diverged at iteration {state.step}: {trouble}"
            if state.rate < 1:
                raise DivergedError(f"{diverged}, also at lower rates; try other photos, or lower lr_student")
            state.load(sound, fingerprint=training.fingerprint)
            state.rate, watch = ROLLBACK_RATE, Watch()
            continue
        if training.look_is_due:
            training.look()
        if state.step % SOUND_EVERY == 0:
            sound = state.save(fingerprint=training.fingerprint)
        show = state.step % PREVIEW_EVERY == 0 or state.step == config.total_iterations
        report(
            Progress(
                step=state.step,
                total_steps=config.total_iterations,
                stage="distillation" if state.step <= config.distillation_iterations else "collaborative",
                losses={name: float(value) for name, value in losses.items()},
                seconds_per_step=(time.monotonic() - started) / max(1, state.step - first_step),
                preview=training.preview() if show else None,
                save=lambda: state.save(fingerprint=training.fingerprint),
            )
        )
    return training.bundle(state.best)


class Training:
    """The networks and the state of one training; `iterate` is one iteration of Algorithm 1."""

    def __init__(
        self, base: Base, references: list[Image.Image], class_noun: str, config: OpadConfig, *, seed: int
    ) -> None:
        self.base, self.class_noun, self.config, self.seed = base, class_noun, config, seed
        decoded = round(base.latent_shape[-1] * config.decode_crop) * base.manifest.resolution // base.latent_shape[-1]
        coarsest = decoded >> (config.swd_levels - 1)
        if coarsest <= config.swd_patch // 2:
            raise OpadError(
                f"swd_levels={config.swd_levels} leaves {coarsest} pixels of {decoded}, too few for "
                f"patches of {config.swd_patch}; take fewer levels or a smaller swd_patch"
            )
        if config.scene_share and not base.manifest.training_scenes:
            raise OpadError(
                f"scene_share={config.scene_share} asks for training scenes; the base {base.manifest.name!r} names none"
            )
        templates = list(config.templates) or base.manifest.templates
        references = references[: config.max_references or len(references)]
        look_up = base.text.entry_of if config.initializer_lookup == "entry" else base.text.embedding_of
        self.start_row = look_up(config.initializer_word or class_noun).to(base.device)
        self.null_states = base.text.encode([""], [""], [None]).detach()
        self.anchors = anchor_states(base, class_noun)
        self._views = Views(base, config, seed=seed)
        self.state = self._initial_state()
        self.fingerprint = self._fingerprint(references)
        self.photo_pixels = reference_pixels(
            references, base.manifest.resolution, keep_aspect=config.keep_aspect
        ).to(base.device)  # fmt: skip
        scenes = scenes_of(base, self.photo_pixels, class_noun) if config.scene_captions else [""] * len(references)
        self.photos = photo_examples(references, scenes, templates, keep_aspect=config.keep_aspect)
        self._selection = Selection(base, self.photo_pixels, class_noun)
        self._samples: list[Example] = []

    def iterate(self) -> dict[str, Tensor]:
        """One iteration in place; the mean losses by name, those that have a weight."""
        config, step = self.config, self.state.step
        photos = self._batch(self.photos, "photos")
        learned, real = photos, photos
        if step >= config.distillation_iterations:
            learned, real = self._collaborative_batches(photos)
        elif not config.canvas_for_discriminators:
            real = self._batch(self.photos, "real", canvas=False)
        eps = torch.randn(
            (config.batch_size, *self.base.latent_shape), generator=self._stream("noise")
        ).to(self.base.device)  # fmt: skip

        losses: dict[str, Tensor] = {}
        alone = config.teacher_first and step < config.iterations
        at_rest = config.teacher_first and config.iterations <= step < config.distillation_iterations
        # Prompts of the real side, so that the student is asked for the framing that the discriminators call real; and
        # before the teacher's step moves V*, as published.
        texts = self._student_texts(self._with_scenes(real.prompts))
        if not at_rest:
            losses["rec"] = self.step_teacher(learned, eps, self._encode(learned.prompts, self.state.token_row))
        if not alone:
            student_losses, fakes = self.step_student(eps, *texts)
            if not self._half or all(loss.isfinite() for loss in student_losses.values()):
                losses |= student_losses
                losses |= self.step_discriminators(real.rows(list(range(self._scenes, config.batch_size))), fakes)
            self._average_student()
        self.state.step += 1
        return losses

    def step_teacher(self, batch: Batch, eps: Tensor, text_states: Tensor) -> Tensor:
        """Lines 6-11: the teacher's K/V and V* learn from the pictures (L_rec). The gradient of V* ends here."""
        config, teacher = self.config, self.base.teacher
        z_real = batch.latents
        if z_real is None:
            assert batch.pixels is not None
            with torch.no_grad():
                z_real = self.base.encode(batch.pixels.to(self.base.device), self._stream("vae"))
        t = self._times("teacher-time", *config.teacher_timestep_range).to(self.base.device)
        prediction = teacher.predict(add_noise(z_real, eps, t, teacher.abar), t, self.state.teacher(text_states))
        target = training_target(z_real, eps, t, teacher.abar, teacher.prediction_type)
        loss = reconstruction_loss(prediction, target, batch.mask.to(prediction.device)).mean()
        # L_rec sums over the latents' channels, every other loss is a mean.
        anchored = loss + self.base.latent_shape[0] * self._anchored(self.state.teacher, self.base.teacher)
        self._descend("teacher", anchored, [*self.state.teacher.parameters(), self.state.token_row])
        return loss.detach()

    def step_student(
        self, eps: Tensor, student_states: Tensor, teacher_states: Tensor
    ) -> tuple[dict[str, Tensor], Judged]:
        """Lines 14-21: the student's K/V learn from the discriminators and from the teacher's correction.

        The text states [b, tokens, d] carry no gradient: the student never moves V*. Returns the losses and the
        pictures that were judged, detached: for the discriminators' own step.
        """
        config = self.config
        z_student = self.base.student.one_step(eps, self.state.student(student_states))
        decoded = window(z_student.shape[-1], config.decode_crop, self._stream("window"))
        x_student = self.base.decode(z_student[decoded])
        losses: dict[str, Tensor] = {}
        total = x_student.new_zeros(())
        identity = identity_tokens(self.base, config, x_student) if config.lambda_id else None
        judged = Judged(x_student[self._scenes :])
        if identity is not None and config.identity_resize == config.discriminator_resize:
            judged.features["clip"] = identity[self._scenes :]
        for name, backbone, head, weight in zip(
            JUDGES, self.base.backbones, self.state.heads, config.lambda_adv, strict=True
        ):
            if weight:
                feature = judged.feature(config, name, backbone)
                losses[f"adv_{name}"] = generator_loss(head(feature.flatten(1))).mean()
                total = total + weight * losses[f"adv_{name}"]

        if config.lambda_id or config.lambda_mse or config.lambda_swd:
            times = self._times("student-time", *config.target_timestep_range)
            last = config.max_target_timestep * len(self.base.teacher.abar)
            rows = [row for row, time in enumerate(times.tolist()) if time < last]
            if rows:
                t = times[rows].to(self.base.device)
                c_t = alignment_weight(config, self.base.teacher.abar[t])
                z_target = teacher_target(
                    self.base.teacher, self.state.teacher, z_student.detach()[rows], eps[rows], t,
                    text_states=teacher_states[rows], null_states=self.null_states, guidance=config.guidance,
                )  # fmt: skip
                with torch.no_grad():
                    x_target = self.base.decode(z_target[decoded])
                aligned = alignment_losses(
                    self.base, config,
                    z_student=z_student[rows], x_student=x_student[rows],
                    identity=None if identity is None else identity[rows],
                    z_target=z_target, x_target=x_target, filters=self._stream("swd"),
                )  # fmt: skip
                for name, (weight, per_sample) in aligned.items():
                    losses[name] = per_sample.mean()
                    total = total + weight * (c_t * per_sample).sum() / len(times)
        if losses:
            total = total + self._anchored(self.state.student, self.base.student)
            self._descend("student", total, list(self.state.student.parameters()), scaler=self.state.scaler)
        return {name: loss.detach() for name, loss in losses.items()}, judged.detached(features=config.reuse_features)

    def step_discriminators(self, photos: Batch, fakes: Judged) -> dict[str, Tensor]:
        """Lines 22-25: the heads learn to tell the photos from the student's pictures."""
        config, losses = self.config, {}
        real = Judged(None, photos.features)
        if photos.pixels is not None:
            pixels = photos.pixels.to(self.base.device)
            real = Judged(pixels[window(pixels.shape[-1], config.decode_crop, self._stream("real-window"))])
        for name, backbone, head, weight in zip(
            JUDGES, self.base.backbones, self.state.heads, config.lambda_adv, strict=True
        ):
            if weight:
                with torch.no_grad():
                    features = [judged.feature(config, name, backbone).flatten(1) for judged in (real, fakes)]
                loss = discriminator_loss(*map(head, features)).mean()
                self._descend(f"d_{name}", loss, [])
                losses[f"d_{name}"] = loss.detach()
        return losses

    def draw_banks(self) -> None:
        """The photos' views, where the config keeps some, now rather than in the first iteration."""
        self._batch(self.photos, "photos")
        self._batch(self.photos, "real", canvas=False)

    def draw_samples(self) -> None:
        """The collaborative stage's pictures, kept in the state."""
        state = self.state
        state.sample_pixels, state.sample_prompts = draw_samples(
            self.base,
            read_bundle(self.bundle()),
            self.config,
            prompts=[
                self.photos[i].prompt
                for i in indices_at(len(self.photos), 0, batch_size=self.config.samples, seed=self.seed)
            ],
            seeds=torch.randint(2**62, (self.config.samples,), generator=self._stream("samples")).tolist(),
            photos=self.photo_pixels,
        )

    def preview(self) -> Image.Image:
        """The averaged student on the base's first scene prompts at fixed seeds, side by side."""
        bundle = read_bundle(self.bundle())
        prompts = [p.format(PLACEHOLDER) for p in self.base.manifest.scene_prompts[:PREVIEW_PICTURES]]
        requests = [ImageRequest(bundle, prompt, PREVIEW_SEED + i) for i, prompt in enumerate(prompts)]
        return Image.fromarray(torch.from_numpy(OneStepGenerator(self.base).generate(requests)).permute(1, 0, 2, 3)
                               .flatten(1, 2).numpy())  # fmt: skip

    def overflow_trouble(self) -> str | None:
        """What is wrong, in words, when the student's step in half precision overflows again and again."""
        overflows = self.state.overflows
        return f"{overflows} steps in a row overflowed half precision" if overflows >= MAX_OVERFLOWS else None

    @property
    def _half(self) -> bool:
        return self.base.dtype != torch.float32

    @property
    def look_is_due(self) -> bool:
        """Whether `eval_every` wants a look at the averaged student as it is now."""
        every, step = self.config.eval_every, self.state.step
        return bool(every) and (step % every == 0 or step == self.config.total_iterations)

    def look(self) -> None:
        """Score the averaged student and keep it if it is the best so far."""
        state = self.state
        score = self._selection.score(read_bundle(self.bundle()))
        state.stale += 1
        if score > state.best_score:
            state.best, state.best_score, state.stale = [x.clone() for x in state.student_average], score, 0

    def bundle(self, average: list[Tensor] | None = None) -> bytes:
        """Of the student's average as it is, or of one that was kept."""
        *projections, token_row = average or self.state.student_average
        averaged = KeyValueProjections(
            {
                layer: (to_k, to_v)
                for layer, to_k, to_v in zip(
                    self.state.student.layers,
                    projections[: len(projections) // 2],
                    projections[len(projections) // 2 :],
                    strict=True,
                )
            }
        )
        return write_bundle(
            token_row=token_row if self.config.shared_text_encoder else self.start_row,
            projections=averaged,
            class_noun=self.class_noun,
            base=self.base.manifest.name,
            base_sha256=self.base.manifest.sha256,
            config=self.config,
            seed=self.seed,
        )

    def _initial_state(self) -> TrainingState:
        config, device = self.config, self.base.device
        token_row = nn.Parameter(self.start_row.clone())
        teacher = pretrained_projections(self.base.teacher).to(device)
        student = pretrained_projections(self.base.student).to(device)
        probe = torch.zeros(1, 3, self.base.manifest.resolution, self.base.manifest.resolution, device=device)
        with torch.no_grad():
            widths = [
                feature_of(config, name, backbone, probe).flatten(1).shape[1]
                for name, backbone in zip(JUDGES, self.base.backbones, strict=True)
            ]
        heads = nn.ModuleList(
            discriminator_head(width, generator=stream(self.seed, 0, f"head-{k}")) for k, width in enumerate(widths)
        ).to(device)

        def adamw(groups: list[dict[str, object]]) -> torch.optim.AdamW:
            groups = [{**group, "initial_lr": group["lr"]} for group in groups]
            return torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, weight_decay=config.weight_decay)

        optimizers = {
            "teacher": adamw(
                [
                    {"params": list(teacher.parameters()), "lr": config.lr_teacher},
                    {"params": [token_row], "lr": config.lr_token, "weight_decay": config.token_weight_decay},
                ]
            ),
            "student": adamw([{"params": list(student.parameters()), "lr": config.lr_student}]),
        }
        for name, head in zip(("d_dino", "d_dinov2", "d_clip"), heads, strict=True):
            optimizers[name] = adamw([{"params": list(head.parameters()), "lr": config.lr_discriminator}])
        return TrainingState(
            token_row=token_row,
            teacher=teacher,
            student=student,
            heads=heads,
            optimizers=optimizers,
            student_average=[parameter.detach().clone() for parameter in (*student.parameters(), token_row)],
            scaler=GradScaler(
                device.type, init_scale=FIRST_SCALE, growth_interval=SCALE_GROWS_AFTER, enabled=self._half
            ),
        )

    def _collaborative_batches(self, photos: Batch) -> tuple[Batch, Batch]:
        """What the teacher learns from and what the discriminators call real, in the collaborative stage."""
        if not self._samples:
            assert self.state.sample_pixels is not None
            self._samples = [
                Example(Image.fromarray(pixels.numpy()), prompt)
                for pixels, prompt in zip(self.state.sample_pixels, self.state.sample_prompts, strict=True)
            ]
        if self.config.collaboration == "strict":
            samples = self._batch(self._samples, "samples")
            if self.config.canvas_for_discriminators:
                return samples, samples
            return samples, self._batch(self._samples, "real-samples", canvas=False)
        own = torch.rand(self.config.batch_size, generator=self._stream("mix")) < self.config.reference_share
        learned = photos.mixed(self._batch(self._samples, "samples"), own.tolist())
        return learned, self._batch(self.photos, "real", canvas=self.config.canvas_for_discriminators)

    def _batch(self, examples: list[Example], name: str, *, canvas: bool = True) -> Batch:
        return self._views.batch(examples, name, self.state.step, canvas=canvas)

    @property
    def _scenes(self) -> int:
        """How many pictures of a batch, its first, are asked for in a scene. No photo shows the thing there, so
        the teacher alone judges them."""
        return int(self.config.scene_share * self.config.batch_size)

    def _with_scenes(self, prompts: list[str]) -> list[str]:
        if not self._scenes:
            return prompts
        scenes = self.base.manifest.training_scenes
        drawn = torch.randint(len(scenes), (self._scenes,), generator=self._stream("scenes")).tolist()
        return [scenes[k].format(PLACEHOLDER) for k in drawn] + prompts[self._scenes :]

    @torch.no_grad()
    def _student_texts(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Text states of the student's prompts: for the student, and for the teacher that corrects it."""
        states = self._encode(prompts, self.state.token_row)
        return states if self.config.shared_text_encoder else self._encode(prompts, self.start_row), states

    def _encode(self, prompts: list[str], token_row: Tensor) -> Tensor:
        return self.base.text.encode(prompts, [self.class_noun] * len(prompts), [token_row] * len(prompts))

    def _descend(
        self, name: str, loss: Tensor, clipped: list[nn.Parameter], *, scaler: GradScaler | None = None
    ) -> None:
        """One step of an optimizer; a `scaler` scales the loss on its way back and skips a step that overflows."""
        optimizer = self.state.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        scaler = scaler or GradScaler(enabled=False)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if clipped:
            nn.utils.clip_grad_norm_(clipped, self.config.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self._rate()
        scaler.step(optimizer)
        if scaler.is_enabled():
            scale = scaler.get_scale()
            scaler.update()
            self.state.overflows = self.state.overflows + 1 if scaler.get_scale() < scale else 0

    def _rate(self) -> float:
        """Factor on every learning rate."""
        config = self.config
        if not config.lr_decay:
            return self.state.rate
        left = (config.total_iterations - self.state.step) / config.total_iterations
        return self.state.rate * min(1.0, left / config.lr_decay)

    @torch.no_grad()
    def _average_student(self) -> None:
        """EMA with a warm-up, so that the first iterations do not hold the average at the pretrained weights."""
        decay = min(self.config.ema_decay, (1 + self.state.step) / (10 + self.state.step))
        for average, parameter in zip(self.state.student_average, self.state.averaged_parameters(), strict=True):
            average.lerp_(parameter, 1 - decay)

    def _anchored(self, projections: KeyValueProjections, denoiser: Denoiser) -> Tensor:
        if not self.config.lambda_kv_preservation:
            return self.anchors.new_zeros(())
        return self.config.lambda_kv_preservation * drift(self.anchors, projections, denoiser)

    def _times(self, name: str, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Integer times [b] on the CPU, uniform over that share of the schedule."""
        count = len(self.base.teacher.abar)
        return torch.randint(
            round(low * count), round(high * count), (self.config.batch_size,), generator=self._stream(name)
        )

    def _stream(self, name: str) -> torch.Generator:
        return stream(self.seed, self.state.step, name)

    def _fingerprint(self, references: list[Image.Image]) -> str:
        digest = hashlib.sha256()
        digest.update(json.dumps([dataclasses.asdict(self.config), self.seed, self.class_noun]).encode())
        digest.update(self.base.manifest.sha256.encode())
        for picture in references:
            digest.update(picture.convert("RGB").tobytes())
        return digest.hexdigest()
