"""Other ways to generate personalized images in one step, around the same weights as the engine's.

They are the stock `StableDiffusionPipeline` of diffusers, eager and compiled; LoRAs that are swapped in place or
selected by name; and PEFT's batches in which each image has its own LoRA.
"""

import copy
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.attention_processor import AttnProcessor2_0
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch import Tensor, nn

from opad_core import Base
from opad_core.networks.schedule import T_MAX

Lora = dict[str, Tensor]
"""A UNet LoRA in diffusers' names, on the CPU."""
STEPS = T_MAX + 1


class StockPipeline:
    """diffusers' pipeline with one step, trailing spacing and no guidance."""

    def __init__(self, base: Base) -> None:
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
            scheduler=scheduler_of(base),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        self.pipeline.set_progress_bar_config(disable=True)
        self._output_type = "np" if decodes else "latent"
        self._postprocess = VaeImageProcessor().postprocess

    def compile(self) -> None:
        """Compile both networks, as diffusers' documentation advises. CUDA graphs need a GPU."""
        mode = "reduce-overhead" if self._base.device.type == "cuda" else "default"
        self.unet.compile(mode=mode, fullgraph=True, dynamic=False)
        self.vae.decode = torch.compile(self.vae.decode, mode=mode, fullgraph=True, dynamic=False)

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
            guidance_scale=0.0,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type=self._output_type,
            return_dict=False,
        )[0]
        if self._output_type == "np":
            return generated
        pixels = self.vae.decode(generated / self.vae.config.scaling_factor, return_dict=False)[0]
        return self._postprocess(pixels, output_type="np")


class HotSwapped(StockPipeline):
    """The pipeline with one LoRA whose weights are replaced in place. All LoRAs have the rank of the first one."""

    def __init__(self, base: Base, first: Lora) -> None:
        super().__init__(base)
        self.pipeline.enable_lora_hotswap(target_rank=rank_of(first))
        self.pipeline.load_lora_weights(dict(first), adapter_name="concept")

    def swap(self, lora: Lora) -> None:
        self.pipeline.load_lora_weights(dict(lora), adapter_name="concept", hotswap=True)


class Selected(StockPipeline):
    """The pipeline with every LoRA loaded, of which one is active."""

    def __init__(self, base: Base, loras: list[Lora]) -> None:
        super().__init__(base)
        for number, lora in enumerate(loras):
            self.pipeline.load_lora_weights(dict(lora), adapter_name=f"concept{number}")

    def select(self, number: int) -> None:
        self.pipeline.set_adapters(f"concept{number}")


class MixedBatches(StockPipeline):
    """The pipeline with a PEFT model as its UNet, which takes the name of a LoRA for each image of a batch."""

    def __init__(self, base: Base, loras: list[Lora]) -> None:
        super().__init__(base)
        self._names = ["" for _ in loras]
        config = LoraConfig(
            r=rank_of(loras[0]),
            lora_alpha=rank_of(loras[0]),
            target_modules=sorted({name.removeprefix("unet.").split(".lora_")[0] for name in loras[0]}),
            rank_pattern={name: rank for name, rank in ranks_of(loras[0]).items() if rank != rank_of(loras[0])},
            alpha_pattern={name: rank for name, rank in ranks_of(loras[0]).items() if rank != rank_of(loras[0])},
        )
        model = get_peft_model(self.unet, config, adapter_name="concept0", autocast_adapter_dtype=False)
        for number, lora in enumerate(loras):
            if number:
                model.add_adapter(f"concept{number}", config, autocast_adapter_dtype=False)
            renamed = {f"base_model.model.{name.removeprefix('unet.')}": x for name, x in lora.items()}
            set_peft_model_state_dict(model, renamed, adapter_name=f"concept{number}")
        model.eval()
        model.register_forward_pre_hook(
            lambda module, args, options: (args, options | {"adapter_names": self._names}), with_kwargs=True
        )
        self.pipeline.unet = model

    def select(self, numbers: list[int]) -> None:
        """Choose the LoRA of each image of the next batches."""
        self._names = [f"concept{number}" for number in numbers]


def with_shared_weights(network: Any) -> Any:
    """Return a copy of a network that uses the memory of the same weights. Changes of a module stay in the copy."""
    shared: dict[int, Any] = {id(x): nn.Parameter(x.detach(), requires_grad=False) for x in network.parameters()}
    shared |= {id(x): x.detach() for x in network.buffers()}
    return copy.deepcopy(network, shared)


def scheduler_of(base: Base) -> EulerDiscreteScheduler:
    """Return diffusers' scheduler for the student's noise schedule."""
    abar = base.student.abar.double().cpu()
    betas = 1 - torch.cat([abar[:1], abar[1:] / abar[:-1]])
    return EulerDiscreteScheduler(
        num_train_timesteps=STEPS,
        trained_betas=betas.tolist(),
        prediction_type=base.student.prediction_type,
        timestep_spacing="trailing",
        steps_offset=1,
    )


def ranks_of(lora: Lora) -> dict[str, int]:
    """Return the rank of each projection, by its name in the UNet."""
    return {
        name.removeprefix("unet.").removesuffix(".lora_A.weight"): len(x)
        for name, x in lora.items()
        if name.endswith("lora_A.weight")
    }


def rank_of(lora: Lora) -> int:
    return max(ranks_of(lora).values())
