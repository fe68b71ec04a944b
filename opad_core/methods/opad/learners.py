"""The parts of an OPAD training that the iteration in `methods.opad.method` uses: adapters, optimizers, batches."""

from torch import Tensor, nn

from opad_core.adapters.key_value import KeyValueAdapter, pretrained_projections
from opad_core.bases.loading import Base
from opad_core.errors import OpadError
from opad_core.methods.kv_preservation import kv_preservation_loss, other_words
from opad_core.methods.opad.batches import OpadBatches
from opad_core.methods.opad.config import OpadConfig
from opad_core.methods.opad.discriminator import discriminators_of
from opad_core.networks.denoiser import Denoiser
from opad_core.training.data import TrainingData
from opad_core.training.method import Method
from opad_core.training.optimizer import Optimizer


class OpadLearners(Method):
    """Two adapters that share the row of V*, the discriminators, the optimizers and the batches."""

    name = "opad"

    def __init__(self, data: TrainingData, config: OpadConfig, *, seed: int) -> None:
        """Start from pretrained weights and the class noun. Raises OpadError for settings that do not fit the base."""
        base = data.base
        _check_fits(config, base)
        self.base, self.config, self.class_noun = base, config, data.class_noun
        self.teacher = KeyValueAdapter.initial(base.teacher, data.start_row)
        # Without a shared text encoder the student's V* stays at its initial value.
        row = (
            self.teacher.token_row if config.shared_text_encoder else nn.Parameter(data.start_row, requires_grad=False)
        )
        self.adapter = self.student = KeyValueAdapter(pretrained_projections(base.student), row)
        self.discriminators = discriminators_of(base, config, seed=seed)
        self.batches = OpadBatches(data, config, self.discriminators, seed=seed)
        self.null_states = base.text.encode([""], [""], [None]).detach()
        self.other_words = other_words(base, data.class_noun)
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

    def stage(self, number: int) -> str:
        return "distillation" if number < self.config.distillation_iterations else "collaborative"

    def prepare(self) -> None:
        self.batches.prepare()

    def state(self) -> dict[str, Tensor]:
        return self.batches.state()

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self.batches.load_state(tensors)

    def preservation(self, adapter: KeyValueAdapter, denoiser: Denoiser) -> Tensor:
        """Return the weighted preservation loss of an adapter, a scalar; 0 if it has no weight."""
        if not self.config.lambda_kv_preservation:
            return self.other_words.new_zeros(())
        loss = kv_preservation_loss(self.other_words, adapter.projections, denoiser)
        return self.config.lambda_kv_preservation * loss


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
