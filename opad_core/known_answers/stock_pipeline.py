"""diffusers' own one-step pipeline on the networks of a base, to compare images with."""

import copy
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, EulerDiscreteScheduler
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from opad_core.bases.loading import Base
from opad_core.networks.schedule import T_MAX


class StockPipeline:
    """diffusers' pipeline with one step and no guidance."""

    def __init__(self, base: Base, scheduler: EulerDiscreteScheduler | DDPMScheduler) -> None:
        transformers_logging.set_verbosity_error()  # the next import warns about torchvision, which is not needed
        from diffusers import StableDiffusionPipeline

        self._base = base
        self.unet = with_shared_weights(base.student.unet)
        self.unet.set_attn_processor(AttnProcessor2_0())  # the base's own processors take keys and values
        self.vae = with_shared_weights(base.vae)
        decodes = isinstance(self.vae, AutoencoderKL)  # the pipeline supports no other autoencoder
        self.pipeline = StableDiffusionPipeline(
            vae=self.vae if decodes else None,
            text_encoder=base.text.encoder,
            tokenizer=base.text.tokenizer,
            unet=self.unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        self.pipeline.set_progress_bar_config(disable=True)
        self._timesteps = [T_MAX] if isinstance(scheduler, DDPMScheduler) else None
        self._output_type = "np" if decodes else "latent"
        self._postprocess = VaeImageProcessor().postprocess

    def images(self, prompts: list[str], seeds: list[int]) -> np.ndarray:
        """Return images [b, r, r, 3], float32 in [0, 1]."""
        return self._run(seeds, prompt=prompts)

    def images_of_embedded(self, text_states: Tensor, seeds: list[int]) -> np.ndarray:
        """Return images for text states [b, tokens, d] that were encoded before."""
        return self._run(seeds, prompt_embeds=text_states)

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> Tensor:
        """Return text states [b, tokens, d]."""
        states: Tensor = self.pipeline.encode_prompt(prompts, self._base.device, 1, False)[0]
        return states

    @torch.no_grad()
    def _run(self, seeds: list[int], **text: Any) -> np.ndarray:
        side = self._base.latent_shape[-1] * self.pipeline.vae_scale_factor
        if self._base.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        generated = self.pipeline(
            **text,
            height=side,
            width=side,
            num_inference_steps=1,
            timesteps=self._timesteps,
            guidance_scale=0.0,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type=self._output_type,
            return_dict=False,
        )[0]
        if self._output_type == "np":
            return generated
        pixels = self.vae.decode(generated / self.vae.config.scaling_factor, return_dict=False)[0]
        return self._postprocess(pixels, output_type="np")


def published_scheduler(base: Base) -> EulerDiscreteScheduler | DDPMScheduler:
    """Return the scheduler that a student's publisher runs it with, with the configuration of its scheduler file.

    SD-Turbo has an Euler scheduler with trailing spacing, which starts a single step at t = 999 and ignores the offset,
    which diffusers wants to be 1. AMD runs its student, whose file names PNDM, with DDPM's scheduler at t = 999.
    """
    config = base.scheduler_config("student")
    if config["_class_name"] != "EulerDiscreteScheduler":
        ddpm: DDPMScheduler = DDPMScheduler.from_config(config)
        return ddpm
    scheduler: EulerDiscreteScheduler = EulerDiscreteScheduler.from_config(
        config, timestep_spacing="trailing", steps_offset=1
    )
    return scheduler


def with_shared_weights(network: Any) -> Any:
    """Return a copy of a network that uses the memory of the same weights. Changes of a module stay in the copy."""
    shared: dict[int, Any] = {id(x): nn.Parameter(x.detach(), requires_grad=False) for x in network.parameters()}
    shared |= {id(x): x.detach() for x in network.buffers()}
    return copy.deepcopy(network, shared)
