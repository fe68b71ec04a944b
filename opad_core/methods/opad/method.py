"""OPAD (supplement, Algorithm 1): a multi-step teacher and a one-step student learn a concept together.

In each iteration the teacher learns from the references (L_rec). The student generates images in one step. It learns
from the teacher's corrections of these images (L_id, L_mse, L_swd, weighted by c(t) = abar_t) and from three
discriminators (L_adv). The discriminators learn to tell references from the student's images.
"""

import torch
from torch import Tensor

from opad_core.methods.opad.alignment import aligned, identity_tokens
from opad_core.methods.opad.discriminator import DiscriminatorInputs
from opad_core.methods.opad.inputs import draw_inputs
from opad_core.methods.opad.learners import OpadLearners
from opad_core.methods.reconstruction import latents_of, reconstruction, tokens_of
from opad_core.networks.resampling import cropped
from opad_core.training.method import Hook, Inputs, Step


class Opad(OpadLearners):
    """Algorithm 1. Each function names the lines of the paper that it implements, `draw` the names of the inputs."""

    def draw(self, step: Step) -> Inputs:
        return draw_inputs(self.data, self.config, self.batches, self.teacher_samples, step)

    def learn(self, inputs: Inputs, part: Hook) -> dict[str, Tensor]:
        losses = {}
        student_learns = "prompts.ids" in inputs
        if student_learns:  # the student uses V* as it is before the teacher's step, as published
            student_text, teacher_text = self.student_prompts(inputs)
        if "learned.t" in inputs:
            with part("teacher"):
                losses["rec"], total = self.teacher_loss(inputs)
                self.optimizers["teacher"].step(total)
        if student_learns:
            with part("student"):
                student_losses, total, fakes = self.student_losses(inputs, student_text, teacher_text)
                if student_losses:
                    self.optimizers["student"].step(total)
            with part("discriminators"):
                skip = self.overflowed(student_losses)
                losses |= student_losses
                for name, loss in self.discriminator_losses(inputs, fakes).items():
                    self.optimizers[name].step(loss, skip=skip)
                    losses[name] = loss
        return {name: loss.detach() for name, loss in losses.items()}

    @torch.no_grad()
    def student_prompts(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Return the text states [b, tokens, d] of the student's prompts, with the student's and the teacher's V*."""
        tokens = tokens_of(inputs, "prompts")
        student_text = self.student.token_states(self.base.text, tokens)
        if self.config.shared_text_encoder:
            return student_text, student_text
        return student_text, self.teacher.token_states(self.base.text, tokens)

    def teacher_loss(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Lines 6-11: the teacher's K/V and V* learn from the batch. Only this loss trains V*.

        Returns the mean of L_rec, and what the optimizer minimizes.
        """
        base = self.base
        z_real = latents_of(base, inputs, "learned")
        text_states = self.teacher.token_states(base.text, tokens_of(inputs, "learned"))
        keys_values = self.teacher.keys_values(text_states, base.teacher)
        loss = reconstruction(
            base.teacher, z_real, inputs["eps"], inputs["learned.t"], keys_values, inputs["learned.mask"]
        ).mean()
        # L_rec is a sum over latent channels, every other loss a mean.
        return loss, loss + base.latent_shape[0] * self.preservation(self.teacher, base.teacher)

    def student_losses(
        self, inputs: Inputs, student_text: Tensor, teacher_text: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, DiscriminatorInputs]:
        """Lines 14-21: the student's K/V learn from the discriminators and the teacher's target.

        The text states [b, tokens, d] carry no gradient. Returns the mean losses, what the optimizer minimizes, and the
        detached images for the discriminators.
        """
        config, base = self.config, self.base
        z_student = base.student.one_step(inputs["eps"], self.student.keys_values(student_text, base.student))
        crop = inputs["crop.rows"], inputs["crop.columns"]
        x_student = base.decode(cropped(z_student, *crop))
        identity = identity_tokens(base, config, x_student) if config.lambda_id else None
        fakes = DiscriminatorInputs(x_student[config.scene_prompts :])
        if identity is not None and config.identity_resize == config.discriminator_resize:
            fakes.features["clip"] = identity[config.scene_prompts :]
        terms = {}
        for discriminator in self.discriminators:
            loss = discriminator.generator_loss(fakes).mean()
            terms[f"adv_{discriminator.name}"] = loss, discriminator.weight * loss
        if "target.compared" in inputs:
            terms |= aligned(
                base, config, inputs, self.teacher.projections, z_student=z_student, x_student=x_student,
                identity=identity, text_states=teacher_text, null_states=self.null_states,
            )  # fmt: skip
        total = sum((weighted for _, weighted in terms.values()), start=x_student.new_zeros(()))
        total = total + self.preservation(self.student, base.student)
        losses = {name: loss for name, (loss, _) in terms.items()}
        return losses, total, fakes.detached(features=config.reuse_features)

    def discriminator_losses(self, inputs: Inputs, fakes: DiscriminatorInputs) -> dict[str, Tensor]:
        """Lines 22-25: the heads learn to tell the real batch from the student's images. Returns the mean losses."""
        real = {name.removeprefix("real."): x for name, x in inputs.items() if name.startswith("real.")}
        reals = DiscriminatorInputs(real.pop("pixels", None), real)
        return {f"d_{d.name}": d.loss(reals, fakes).mean() for d in self.discriminators}
