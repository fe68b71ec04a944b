"""IP-Adapter in one step, as a row of the tables: TCD's LoRA on SDXL, since IP-Adapter has no SD-Turbo version.

The paper names the pairing (TCD and SDXL, one step) and nothing else of it. Inferred: the adapter for CLIP ViT-H, which
is OPAD's too, at diffusers' scale of 1; all photos at once; the class noun in the prompt; 1024 pixels; no guidance, as
TCD's page has it. One step has no noise to add, so TCD's `eta` has no effect.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from diffusers import StableDiffusionXLPipeline, TCDScheduler
from PIL import Image

from opad_core.errors import OpadError
from opad_core.reference_folder import shown
from opad_core.tables.study import write_image

SDXL, LORA, ADAPTER = "stabilityai/stable-diffusion-xl-base-1.0", "h1t/TCD-SDXL-LoRA", "h94/IP-Adapter"
LORA_FILE = "pytorch_lora_weights.safetensors"
ADAPTER_FOLDER, ADAPTER_FILE = "sdxl_models", "ip-adapter_sdxl_vit-h.safetensors"
ENCODER = "models/image_encoder"
FILES = {
    SDXL: ("model_index.json",),
    LORA: (LORA_FILE,),
    ADAPTER: (f"{ADAPTER_FOLDER}/{ADAPTER_FILE}", f"{ENCODER}/config.json", f"{ENCODER}/model.safetensors"),
}
"""What is read of each repository; of SDXL also the folders that model_index.json names."""


def check_weights(folder: Path) -> None:
    """Raise OpadError that says what to download, unless the folder has the weights and peft is installed."""
    for name, files in FILES.items():
        if missing := [file for file in files if not (folder / name / file).is_file()]:
            wanted = " ".join(files) if name != SDXL else "--include '*.json' '*.txt' '*.fp16.safetensors'"
            raise OpadError(
                f"{shown(folder / name / missing[0])} is missing; "
                f"`hf download {name} {wanted} --local-dir {shown(folder / name)}` downloads it"
            )
    if find_spec("peft") is None:
        raise OpadError("TCD's LoRA needs the package peft, which is not installed; run pip install peft")


class IpAdapter:
    """The pipeline. On a GPU it is in half precision."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Read the weights in `folder/<owner>/<name>`. Raises OpadError if they are missing or do not fit together."""
        check_weights(folder)
        half = any((folder / SDXL / "unet").glob("*.fp16.safetensors"))
        try:
            pipeline = StableDiffusionXLPipeline.from_pretrained(
                folder / SDXL, variant="fp16" if half else None, use_safetensors=True, local_files_only=True,
                dtype=torch.float16 if device.type == "cuda" else torch.float32,
            )  # fmt: skip
            pipeline.scheduler = TCDScheduler.from_config(pipeline.scheduler.config)
            pipeline.load_lora_weights(folder / LORA, weight_name=LORA_FILE, local_files_only=True)
            pipeline.fuse_lora()
            pipeline.load_ip_adapter(
                str(folder / ADAPTER), subfolder=ADAPTER_FOLDER, weight_name=ADAPTER_FILE, image_encoder_folder=ENCODER,
                local_files_only=True,
            )  # fmt: skip
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise OpadError(f"IP-Adapter's weights in {shown(folder)} cannot be loaded: {error}") from error
        self.pipeline = pipeline.to(device)
        self.pipeline.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def image(self, references: Sequence[Image.Image], prompt: str, seed: int) -> Image.Image:
        """Generate an image in one step from all photos."""
        generated: Image.Image = self.pipeline(
            prompt, ip_adapter_image=[list(references)], num_inference_steps=1, guidance_scale=0.0,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]  # fmt: skip
        return generated


def make_missing(
    adapter: IpAdapter, references: Sequence[Image.Image], prompts: Sequence[str], files: list[list[Path]]
) -> None:
    """Write the images that are missing: a list of files for each prompt, one for each seed from 0."""
    for prompt, of_prompt in zip(prompts, files, strict=True):
        for seed, file in enumerate(of_prompt):
            if not file.is_file():
                write_image(adapter.image(references, prompt, seed), file)
