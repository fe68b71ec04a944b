"""OPAD (supplement, Algorithm 1): a multi-step teacher and a one-step student learn a concept together.

In each iteration the teacher learns from the references (L_rec). The student generates images in one step. It learns
from the teacher's corrections of these images (L_id, L_mse, L_swd, weighted by c(t) = abar_t) and from three
discriminators (L_adv). The discriminators learn to tell references from the student's images.
"""

import torch
from torch import Tensor

from opad_core.methods.opad.alignment import aligned, identity_tokens
from opad_core.methods.opad.discriminator import DiscriminatorInputs
from opad_core.methods.opad.learners import OpadLearners
from opad_core.methods.reconstruction import reconstruction
from opad_core.networks.resampling import random_crop
from opad_core.networks.schedule import random_timesteps
from opad_core.training.augmentation import Batch
from opad_core.training.method import Step


class Opad(OpadLearners):
    """Algorithm 1. Each function names the lines of the paper that it implements."""

    def step(self, step: Step) -> dict[str, Tensor]:
        config, losses = self.config, {}
        distilling = step.number < config.distillation_iterations
        learned, real = self.batches.distillation(step) if distilling else self.batches.collaborative(step)
        eps = torch.randn((config.batch_size, *self.base.latent_shape), generator=step.stream("noise"))
        eps = eps.to(self.base.device)
        # As published, the student gets the prompts of the real batch, and V* as it is before the teacher's step.
        prompts = self.batches.with_scenes(real.prompts, step)
        with torch.no_grad():
            student_text = self.student.text_states(self.base.text, prompts, self.class_noun)
            teacher_text = student_text
            if not config.shared_text_encoder:
                teacher_text = self.teacher.text_states(self.base.text, prompts, self.class_noun)
        if not (config.teacher_first and distilling and step.number >= config.iterations):
            text = self.teacher.text_states(self.base.text, learned.prompts, self.class_noun)
            with step.part("teacher"):
                losses["rec"] = self.step_teacher(step, learned, eps, text)
        if config.teacher_first and step.number < config.iterations:
            return losses
        with step.part("student"):
            student_losses, fakes = self.step_student(step, eps, student_text, teacher_text)
        if self.base.dtype == torch.float32 or all(loss.isfinite() for loss in student_losses.values()):
            losses |= student_losses
            with step.part("discriminators"):
                reals = real.rows(list(range(config.scene_prompts, config.batch_size)))
                losses |= self.step_discriminators(step, reals, fakes)
        return losses

    def step_teacher(self, step: Step, batch: Batch, eps: Tensor, text_states: Tensor) -> Tensor:
        """Lines 6-11: the teacher's K/V and V* learn from the batch (L_rec). Only this step trains V*."""
        config, base = self.config, self.base
        z_real = batch.latents_on(base, step.stream("vae"))
        steps, share = len(base.teacher.abar), config.teacher_timestep_range
        times = random_timesteps(len(eps), steps, share, step.stream("teacher-time"))
        keys_values = self.teacher.keys_values(text_states, base.teacher)
        loss = reconstruction(base.teacher, z_real, eps, times.to(base.device), keys_values, batch.mask).mean()
        # L_rec is a sum over latent channels, every other loss a mean.
        total = loss + base.latent_shape[0] * self.preservation(self.teacher, base.teacher)
        self.optimizers["teacher"].step(total, lr_scale=step.lr_scale)
        return loss.detach()

    def step_student(
        self, step: Step, eps: Tensor, student_text: Tensor, teacher_text: Tensor
    ) -> tuple[dict[str, Tensor], DiscriminatorInputs]:
        """Lines 14-21: the student's K/V learn from the discriminators and the teacher's target.

        The text states [b, tokens, d] carry no gradient. Returns the losses, and the detached images for the
        discriminators' step.
        """
        config, base = self.config, self.base
        z_student = base.student.one_step(eps, self.student.keys_values(student_text, base.student))
        crop = random_crop(z_student.shape[-1], config.decode_crop, step.stream("window"))
        x_student = base.decode(z_student[crop])
        identity = identity_tokens(base, config, x_student) if config.lambda_id else None
        fakes = DiscriminatorInputs(x_student[config.scene_prompts :])
        if identity is not None and config.identity_resize == config.discriminator_resize:
            fakes.features["clip"] = identity[config.scene_prompts :]
        terms = {}
        for discriminator in self.discriminators:
            loss = discriminator.generator_loss(fakes).mean()
            terms[f"adv_{discriminator.name}"] = loss, discriminator.weight * loss
        terms |= aligned(
            base, config, step, self.teacher.projections, z_student=z_student, x_student=x_student, identity=identity,
            crop=crop, eps=eps, text_states=teacher_text, null_states=self.null_states,
        )  # fmt: skip
        if terms:
            total = sum((weighted for _, weighted in terms.values()), start=x_student.new_zeros(()))
            total = total + self.preservation(self.student, base.student)
            self.optimizers["student"].step(total, lr_scale=step.lr_scale)
        losses = {name: loss.detach() for name, (loss, _) in terms.items()}
        return losses, fakes.detached(features=config.reuse_features)

    def step_discriminators(self, step: Step, batch: Batch, fakes: DiscriminatorInputs) -> dict[str, Tensor]:
        """Lines 22-25: the heads learn to tell the real batch from the student's images."""
        reals, losses = self.batches.discriminator_inputs(batch, step), {}
        for discriminator in self.discriminators:
            loss = discriminator.loss(reals, fakes).mean()
            self.optimizers[f"d_{discriminator.name}"].step(loss, lr_scale=step.lr_scale)
            losses[f"d_{discriminator.name}"] = loss.detach()
        return losses
