"""Other ways to generate personalized images in one step, around the same weights as the engine's.

They are the stock `StableDiffusionPipeline` of diffusers, eager and compiled; LoRAs that are swapped in place or
selected by name; and PEFT's batches in which each image has its own LoRA.
"""

import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor

from opad_core import Base
from opad_core.known_answers.stock_pipeline import StockPipeline
from opad_core.networks.schedule import T_MAX

Lora = dict[str, Tensor]
"""A UNet LoRA in diffusers' names, on the CPU."""
STEPS = T_MAX + 1


def compile_networks(stock: StockPipeline) -> None:
    """Compile the networks of a pipeline, as diffusers' documentation advises. CUDA graphs need a GPU."""
    mode = "reduce-overhead" if stock.unet.device.type == "cuda" else "default"
    stock.unet.compile(mode=mode, fullgraph=True, dynamic=False)
    stock.vae.decode = torch.compile(stock.vae.decode, mode=mode, fullgraph=True, dynamic=False)


class HotSwapped(StockPipeline):
    """The pipeline with one LoRA whose weights are replaced in place. All LoRAs have the rank of the first one."""

    def __init__(self, base: Base, first: Lora) -> None:
        super().__init__(base, scheduler_of(base))
        self.pipeline.enable_lora_hotswap(target_rank=rank_of(first))
        self.pipeline.load_lora_weights(dict(first), adapter_name="concept")

    def swap(self, lora: Lora) -> None:
        self.pipeline.load_lora_weights(dict(lora), adapter_name="concept", hotswap=True)


class Selected(StockPipeline):
    """The pipeline with every LoRA loaded, of which one is active."""

    def __init__(self, base: Base, loras: list[Lora]) -> None:
        super().__init__(base, scheduler_of(base))
        for number, lora in enumerate(loras):
            self.pipeline.load_lora_weights(dict(lora), adapter_name=f"concept{number}")

    def select(self, number: int) -> None:
        self.pipeline.set_adapters(f"concept{number}")


class MixedBatches(StockPipeline):
    """The pipeline with a PEFT model as its UNet, which takes the name of a LoRA for each image of a batch."""

    def __init__(self, base: Base, loras: list[Lora]) -> None:
        from peft import LoraConfig, get_peft_model, set_peft_model_state_dict  # installed for measurements alone

        super().__init__(base, scheduler_of(base))
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
