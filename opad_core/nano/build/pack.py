"""Stage `pack`: write the finished networks as a base folder."""

from typing import Any

from opad_core.nano.build.architecture import (
    IdentityProjection,
    Parts,
    build_clip,
    build_dino,
    build_dinov2,
    write_base,
)
from opad_core.nano.build.autoencoder import load_vae
from opad_core.nano.build.features import world_tokenizer
from opad_core.nano.build.stage import Build
from opad_core.nano.build.student import load_student
from opad_core.nano.build.teacher import load_teacher
from opad_core.nano.build.vocabulary import NOUNS, SCENE_PROMPTS, TEMPLATES, all_words

# Fields of OpadConfig where the method's own number means nothing at 64 pixels.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {"swd_levels": 2, "size_words": False},
    "paper": {"swd_levels": 2},
}
_PARTS = ("teacher", "student", "vae", "text_encoder", "dino", "dinov2", "clip", "identity")


def pack(build: Build) -> None:
    """Into `base/` of the build folder; copy it to opad_core/nano/base to ship it."""
    write_base(build.folder / "base", load_parts(build), vocabulary=manifest_vocabulary())


def load_parts(build: Build) -> Parts:
    """Every network from its stage's checkpoint."""
    teacher, text_encoder = load_teacher(build)
    dino, dinov2, clip, identity = build_dino(), build_dinov2(), build_clip(), IdentityProjection()
    build.load("dino", "dino", dino)
    build.load("dinov2", "dinov2", dinov2)
    build.load("clip", "clip", clip)
    build.load("clip", "identity", identity)
    return Parts(
        tokenizer=world_tokenizer(build),
        text_encoder=text_encoder,
        vae=load_vae(build),
        teacher=teacher,
        student=load_student(build),
        dino=dino,
        dinov2=dinov2,
        clip=clip,
        identity=identity,
    )


def manifest_vocabulary() -> dict[str, Any]:
    return {
        "nouns": list(NOUNS),
        "words": all_words(),
        "templates": [template.text for template in TEMPLATES],
        "scene_prompts": list(SCENE_PROMPTS),
        "presets": PRESETS,
        "licences": dict.fromkeys(_PARTS, "Apache-2.0"),
    }
