"""A base: the frozen networks that concepts are learned on, as one folder with a manifest of hashes.

    teacher/unet teacher/scheduler student/unet student/scheduler vae text_encoder tokenizer
    discriminators/{dino,dinov2,clip} identity/projection.safetensors manifest.json
    text_projection/projection.safetensors, in bases whose CLIP compares images with text
    fast_decoder, optional, with a manifest of its own (`bases.fast_decoder`)

Only this module knows the VAE's scale. Parts load on first use, so an engine never reads the teacher, or all parts of a
task at once (`Base.load`). Weights are safetensors; nothing is unpickled.
"""

import copy
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection, Dinov2Model, ViTModel
from transformers.utils import logging as transformers_logging

from opad_core.bases.fast_decoder import FAST_DECODER, verified_fast_decoder
from opad_core.bases.manifest import Manifest, read_manifest
from opad_core.bases.networks import read_network, verified
from opad_core.bases.precision import Precision, Task, dtype_of
from opad_core.errors import OpadError, UnusableDeviceError
from opad_core.networks.channels_last import use_channels_last
from opad_core.networks.denoiser import Denoiser
from opad_core.networks.feature_networks import Backbone, ClassToken, IdentityTokens
from opad_core.networks.schedule import first_scale, read_schedule
from opad_core.networks.text_encoder import TextEncoder

SHIPPED = Path(__file__).parents[1] / "nano" / "base"
FETCHED = ("sd-turbo", "sd-turbo-2.1-base", "nitro-1-sd")
"""Names of the bases that `python -m opad_core fetch` installs. Their recipes are in `bases.fetch.recipes`."""
PARTS: dict[Task, tuple[str, ...]] = {
    "generation": ("student", "text", "vae"),
    "training": ("teacher", "student", "identity", "dinov2", "text", "vae", "dino"),
}
"""The parts of a base that a task uses, the largest first."""


class Base:
    """The frozen networks of a base; use `load_base`. They are in float32 unless `dtype` is a half precision.

    Then each UNet has a fixed one: the teacher bfloat16, because SD 2.1's attention overflows float16; the student
    float16, because its one step multiplies rounding errors by 14.6, which is visible grain in bfloat16. Feature
    networks are in bfloat16, which has the range of float32; they take and return float32.
    """

    def __init__(self, folder: Path, manifest: Manifest, device: torch.device, dtype: torch.dtype) -> None:
        self.folder, self.manifest, self.device, self.dtype = folder, manifest, device, dtype

    def load(self, task: Task) -> None:
        """Load the networks of a task at once, each in a thread. Networks that a task needs rarely load on first use.

        Raises OpadError for a missing or damaged file, as the first use does.
        """
        parts = PARTS[task]
        with ThreadPoolExecutor(len(parts)) as threads:
            list(threads.map(partial(getattr, self), parts))

    @cached_property
    def text(self) -> TextEncoder:
        encoder = self._network(CLIPTextModel, self._verified("text_encoder"), self.dtype)
        tokenizer = CLIPTokenizer.from_pretrained(self._verified("tokenizer"))
        if len(tokenizer) != encoder.config.vocab_size:
            raise OpadError(
                f"the tokenizer of {self.folder} knows {len(tokenizer)} words, its text encoder "
                f"{encoder.config.vocab_size}; the folder is damaged or mixed"
            )
        return TextEncoder(tokenizer, encoder)

    @cached_property
    def vae(self) -> AutoencoderKL | AutoencoderTiny | AutoencoderDC:
        folder = self._verified("vae")
        kind = json.loads((folder / "config.json").read_text())["_class_name"]
        network = {c.__name__: c for c in (AutoencoderKL, AutoencoderTiny, AutoencoderDC)}[kind]
        return self._network(network, folder, self.dtype)

    @cached_property
    def fast_decoder(self) -> AutoencoderTiny | None:
        """A small network that decodes the same latents; None if it is not installed. Raises OpadError if damaged."""
        if not (self.folder / FAST_DECODER).is_dir():
            return None
        folder = verified_fast_decoder(self.folder, self.manifest)
        return self._network(AutoencoderTiny, folder, self.dtype)

    @cached_property
    def no_fast_decoder(self) -> str | None:
        """Why there is no usable fast decoder, in a sentence for people; None if there is one."""
        try:
            if self.fast_decoder is not None:
                return None
        except OpadError as error:
            return str(error).replace(f"{self.folder}/", "")
        name = self.manifest.name
        remedy = f"; `python -m opad_core fetch {name}` adds it" if name in FETCHED else ""
        return self.manifest.no_fast_decoder or f"the base {name!r} has no fast decoder here{remedy}"

    @cached_property
    def teacher(self) -> Denoiser:
        return self._denoiser("teacher", half=torch.bfloat16)

    @cached_property
    def student(self) -> Denoiser:
        return self._denoiser("student", half=torch.float16)

    @cached_property
    def dino(self) -> Backbone:
        return self._class_token("dino")

    @cached_property
    def dinov2(self) -> Backbone:
        return self._class_token("dinov2")

    @cached_property
    def identity(self) -> Backbone:
        """IP-Adapter's image encoder and projection, phi in L_id and D3: pixels to [b, tokens, d]."""
        folder = self._verified("discriminators/clip")
        clip = self._network(CLIPVisionModelWithProjection, folder, self._dtype(half=torch.bfloat16))
        tensors = load_file(self._verified("identity") / "projection.safetensors")
        inner, embedding = tensors["proj.weight"].shape
        projection, norm = nn.Linear(embedding, inner), nn.LayerNorm(inner // self.manifest.identity_tokens)
        projection.load_state_dict({"weight": tensors["proj.weight"], "bias": tensors["proj.bias"]})
        norm.load_state_dict({"weight": tensors["norm.weight"], "bias": tensors["norm.bias"]})
        tokens = IdentityTokens(clip, projection, norm, self.manifest.identity_tokens)
        return self._backbone("clip", tokens.to(clip.dtype))

    @property
    def backbones(self) -> tuple[Backbone, Backbone, Backbone]:
        """The frozen networks of D1, D2 and D3."""
        return self.dino, self.dinov2, self.identity

    @cached_property
    def text_projection(self) -> Tensor | None:
        """CLIP's projection of pooled text embeddings, [embedding, d]; None if the base has none."""
        return self._text_projection.get("weight")

    @cached_property
    def last_text_layer(self) -> nn.Module | None:
        """CLIP's last text layer if the text encoder lacks it, as SD 2.1's does; else None."""
        weights = {name.removeprefix("layer."): x for name, x in self._text_projection.items() if name != "weight"}
        if not weights:
            return None
        layer = copy.deepcopy(self.text.encoder.encoder.layers[-1]).float()
        layer.load_state_dict(weights)
        return layer

    @cached_property
    def _text_projection(self) -> dict[str, Tensor]:
        path = "text_projection/projection.safetensors"
        if path not in self.manifest.files:
            return {}
        tensors = load_file(self._verified("text_projection") / "projection.safetensors")
        return {name: x.float().to(self.device) for name, x in tensors.items()}

    @torch.no_grad()
    def embedded_prompts(self, prompts: list[str]) -> Tensor | None:
        """Return CLIP's unit-length text embeddings [b, d] of prompts without a placeholder.

        None if the base has no text projection.
        """
        if self.text_projection is None:
            return None
        return F.normalize(self.text.pooled_embedding(prompts, self.last_text_layer) @ self.text_projection.T, dim=-1)

    @torch.no_grad()
    def embedded_images(self, x: Tensor) -> Tensor:
        """Return CLIP's image embeddings [b, d], unit length, of pixels [b, 3, r, r] in [-1, 1]."""
        return F.normalize(self.identity.embedding(x), dim=-1)

    def text_fit(self, x: Tensor, prompts: list[str]) -> Tensor | None:
        """Return the cosines [b] of pixels [b, 3, r, r] in [-1, 1] with prompts without a placeholder.

        None if the base has no text projection.
        """
        words = self.embedded_prompts(prompts)
        return None if words is None else (self.embedded_images(x) * words).sum(-1)

    def use_channels_last(self) -> None:
        """Lay the networks of a training out as a GPU's convolutions read them. Call it before they are compiled."""
        use_channels_last((self.teacher.unet, self.student.unet, self.vae, *self.backbones))

    def with_networks(self, change: Callable[[Any], Any]) -> "Base":
        """Return this base with `change(network)` in place of each network of a training."""
        twin = copy.copy(self)
        dino, dinov2, identity = map(change, self.backbones)
        twin.__dict__.update(
            text=TextEncoder(self.text.tokenizer, change(self.text.encoder)),
            vae=change(self.vae),
            teacher=self.teacher.with_unet(change(self.teacher.unet)),
            student=self.student.with_unet(change(self.student.unet)),
            dino=dino,
            dinov2=dinov2,
            identity=identity,
        )
        return twin

    @property
    def loss_scale_device(self) -> torch.device | None:
        """The device, if gradients pass through half precision and the loss has to be scaled; else None."""
        return None if self.dtype == torch.float32 else self.device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.student.latent_shape

    def posterior_noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Return the noise [count, c, h, w] with which `encode` samples, on the CPU."""
        return torch.randn((count, *self.latent_shape), generator=generator)

    def encode(self, x: Tensor, noise: Tensor) -> Tensor:
        """Encode pixels [b, 3, r, r] in [-1, 1] to scaled latents [b, c, h, w].

        If the VAE has a posterior, they are sampled from it with `noise` [b, c, h, w] ~ N(0, 1).
        """
        encoded = self.vae.encode(x.to(self.vae.dtype))
        if isinstance(self.vae, AutoencoderTiny):
            latents = encoded.latents
        elif isinstance(self.vae, AutoencoderDC):
            latents = encoded.latent
        else:
            mean, std = encoded.latent_dist.mean, encoded.latent_dist.std
            latents = mean + std * noise.to(mean)
        scaled: Tensor = latents.float() * self.vae.config.scaling_factor
        return scaled

    def decode(self, z: Tensor) -> Tensor:
        """Decode scaled latents to float32 pixels, about [-1, 1], not clamped. Gradients flow through."""
        return decode(self.vae, z)

    def scheduler_config(self, role: str) -> dict[str, Any]:
        """Return the configuration of the teacher's or the student's scheduler."""
        config: dict[str, Any] = json.loads((self._verified(f"{role}/scheduler") / "scheduler_config.json").read_text())
        return config

    def schedule(self, role: str) -> tuple[Tensor, str]:
        """Return abar [steps], float32 on the CPU, and the prediction type of the teacher or the student."""
        return read_schedule(self.scheduler_config(role))

    def _denoiser(self, role: str, *, half: torch.dtype) -> Denoiser:
        unet = self._network(UNet2DConditionModel, self._verified(f"{role}/unet"), self._dtype(half))
        abar, prediction_type = self.schedule(role)
        scale = first_scale(self.scheduler_config(role))
        return Denoiser(unet, abar.to(self.device), prediction_type, first_scale=scale)

    def _dtype(self, half: torch.dtype) -> torch.dtype:
        """Return `half` if the base is in a half precision, else its own dtype."""
        return half if self.dtype in (torch.float16, torch.bfloat16) else self.dtype

    def _class_token(self, name: str) -> Backbone:
        folder, dtype = self._verified(f"discriminators/{name}"), self._dtype(half=torch.bfloat16)
        if json.loads((folder / "config.json").read_text())["model_type"] == "dinov2":
            network = self._network(Dinov2Model, folder, dtype)
        else:
            network = self._network(ViTModel, folder, dtype, add_pooling_layer=False)
        return self._backbone(name, ClassToken(network))

    def _backbone(self, name: str, network: nn.Module) -> Backbone:
        preprocessing = self.manifest.backbones[name]
        return Backbone(
            network, input_size=preprocessing["input"], mean=preprocessing["mean"], std=preprocessing["std"]
        ).to(self.device)

    def _network(self, kind: Any, folder: Path, dtype: torch.dtype, **options: Any) -> Any:
        return read_network(kind, folder, dtype, self.device, **options)

    def _verified(self, part: str) -> Path:
        return verified(self.folder, self.manifest, part)


def decode(vae: Any, z: Tensor) -> Tensor:
    """Decode scaled latents to float32 pixels, about [-1, 1], not clamped.

    TAESD was trained on scaled latents, so its scaling factor is 1.
    """
    decoded: Tensor = vae.decode((z / vae.config.scaling_factor).to(vae.dtype)).sample
    return decoded.float()


def base_folder(name: str, bases: Path | None) -> Path:
    """Return the folder of a base by its name or path; `bases` is the folder of fetched bases.

    Raises OpadError for a base that has not been fetched.
    """
    if name == "nano":
        return SHIPPED
    if name not in FETCHED:
        return Path(name)
    if bases is None:
        raise OpadError(f"the base {name!r} needs the folder of fetched bases: load_base({name!r}, bases=...)")
    if not (bases / name / "manifest.json").is_file():
        raise OpadError(
            f"the base {name!r} is not at {bases / name} (OPAD_BASES_DIR changes the folder); "
            f"fetch it once, about 13 GB, with `python -m opad_core fetch {name}`"
        )
    return bases / name


def load_base(name: str, *, bases: Path | None = None, device: str = "auto", precision: Precision = "float32") -> Base:
    """Load a base by its name (`nano`, `sd-turbo`) or the path of its folder. "auto" uses a GPU if there is one.

    `bases` is the folder of fetched bases. Raises OpadError if the base is missing, damaged or of another format.
    """
    transformers_logging.disable_progress_bar()  # one bar per part, for loads of milliseconds
    folder = base_folder(name, bases)
    return Base(folder, read_manifest(folder), device_named(device), dtype_of(precision))


def device_named(name: str) -> torch.device:
    """Return the device; "auto" is a GPU if there is one, else the CPU. Raises UnusableDeviceError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UnusableDeviceError(f"there is no device {name!r}; use auto, cpu, cuda, or cuda:1 for a GPU") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        what = (
            f"finds {found} GPU{'s' * (found != 1)}, counted from 0" if torch.version.cuda else "is built without CUDA"
        )
        raise UnusableDeviceError(
            f"there is no device {name!r}: PyTorch {torch.__version__} {what}; use auto or cpu, or install a driver "
            "and a build of PyTorch for your GPU"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UnusableDeviceError(f"there is no device {name!r} on this machine; use auto or cpu")
    return device
