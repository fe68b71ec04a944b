"""The parts of an OPAD training that the iteration in `methods.opad.method` uses: adapters, optimizers, batches."""

import math

import torch
from torch import Tensor, nn

from opad_core.adapters.key_value import KeyValueAdapter, pretrained_projections
from opad_core.bases.loading import Base
from opad_core.errors import OpadError
from opad_core.methods.kv_preservation import KeyValuePreservation, other_words, projections_of
from opad_core.methods.opad.batches import OpadBatches
from opad_core.methods.opad.config import OpadConfig
from opad_core.methods.opad.discriminator import discriminators_of
from opad_core.methods.opad.teacher_samples import STATE, TeacherSamples
from opad_core.networks.denoiser import Denoiser
from opad_core.training.data import TrainingData
from opad_core.training.method import Method
from opad_core.training.optimizer import Optimizer


class OpadLearners(Method):
    """Two adapters that share the row of V*, the discriminators, the optimizers and the batches."""

    name = "opad"

    def __init__(self, data: TrainingData, config: OpadConfig, *, seed: int, networks: Base | None = None) -> None:
        """Start from pretrained weights and the class noun. Raises OpadError for settings that do not fit the base.

        `networks` are the compiled networks of the base, with which `learn` computes; None: those of the base.
        """
        base = networks or data.base
        _check_fits(config, base)
        self.data, self.base, self.config = data, base, config
        self.teacher_adapter = self.teacher = KeyValueAdapter.initial(base.teacher, data.start_row)
        # Without a shared text encoder the student's V* stays at its initial value.
        row = (
            self.teacher.token_row if config.shared_text_encoder else nn.Parameter(data.start_row, requires_grad=False)
        )
        self.adapter = self.student = KeyValueAdapter(pretrained_projections(base.student), row)
        self.discriminators = discriminators_of(data.base, config, seed=seed, backbones=base.backbones)
        self.batches = OpadBatches(data, config, self.discriminators, seed=seed)
        self.null_states = data.base.text.encode([""], [""], [None]).detach()
        self.teacher_samples = TeacherSamples(
            data, config, self.teacher, null_states=self.null_states, seed=seed
        )  # fmt: skip
        self.other_words = other_words(data.base, data.class_noun)
        self._preservation = (
            {denoiser: KeyValuePreservation(self.other_words, denoiser) for denoiser in (base.teacher, base.student)}
            if config.lambda_kv_preservation
            else {}
        )
        decay, clip_norm = config.weight_decay, config.clip_norm
        token = ([self.teacher.token_row], config.lr_token, config.token_weight_decay)
        teacher = (self.teacher.projections.parameters(), config.lr_teacher, decay)
        student = (self.student.projections.parameters(), config.lr_student, decay)
        self.optimizers = {
            "teacher": Optimizer([teacher, token], clip_norm=clip_norm),
            "student": Optimizer([student], clip_norm=clip_norm, scales_loss_on=base.loss_scale_device),
        }
        for d in self.discriminators:
            self.optimizers[f"d_{d.name}"] = Optimizer([(d.head.parameters(), config.lr_discriminator, decay)])

    def overflowed(self, losses: dict[str, Tensor]) -> Tensor | None:
        """Return 1 if a loss is not finite in half precision, else 0, as a scalar; None in float32.

        An overflow skips the steps of student and discriminators. In float32 it is a divergence.
        """
        if self.base.loss_scale_device is None or not losses:
            return None
        return (~torch.stack([loss.isfinite() for loss in losses.values()]).all()).float()

    def valid(self, losses: dict[str, float]) -> dict[str, float]:
        rec = {name: loss for name, loss in losses.items() if name == "rec"}
        skipped = not all(math.isfinite(loss) for name, loss in losses.items() if name not in rec)
        return rec if skipped and self.base.loss_scale_device is not None else losses

    def stage(self, number: int) -> str:
        return "distillation" if number < self.config.distillation_iterations else "collaborative"

    def prepare(self) -> None:
        self.batches.prepare()

    def state(self) -> dict[str, Tensor]:
        return self.batches.state() | self.teacher_samples.state()

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self.batches.load_state({name: x for name, x in tensors.items() if name != STATE})
        self.teacher_samples.load_state(tensors)

    def preservation(self, adapter: KeyValueAdapter, denoiser: Denoiser) -> Tensor:
        """Return the weighted preservation loss of an adapter, a scalar; 0 if it has no weight."""
        if not self._preservation:
            return self.other_words.new_zeros(())
        return self.config.lambda_kv_preservation * self._preservation[denoiser].loss(projections_of(adapter, denoiser))


def _check_fits(config: OpadConfig, base: Base) -> None:
    latents = base.latent_shape[-1]
    decoded = round(latents * config.decode_crop) * base.manifest.resolution // latents
    coarsest = decoded >> (config.swd_levels - 1)
    if coarsest <= config.swd_patch // 2:
        raise OpadError(
            f"swd_levels={config.swd_levels} leaves {coarsest} pixels of {decoded}, too few for "
            f"patches of {config.swd_patch}; use fewer levels or a smaller swd_patch"
        )
    if config.scene_share and not base.manifest.training_scenes:
        raise OpadError(
            f"scene_share={config.scene_share} needs training scenes, and the base {base.manifest.name!r} has none"
        )
