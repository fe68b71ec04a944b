"""Stage `pack`: write the finished networks as a base folder."""

from typing import Any

from opad_core.nano.build.adapting import load_adapted
from opad_core.nano.build.architecture import (
    IdentityProjection,
    Parts,
    build_clip,
    build_dino,
    build_dinov2,
    build_text_projection,
    write_base,
)
from opad_core.nano.build.autoencoder import load_vae
from opad_core.nano.build.features import world_tokenizer
from opad_core.nano.build.stage import Build
from opad_core.nano.build.teacher import load_text_encoder
from opad_core.nano.build.vocabulary import NOUNS, SCENE_PROMPTS, TEMPLATES, Template, all_words

_SMALL: dict[str, Any] = {
    # K/V of this base are 0.36 M weights, not 25.6 M: they bear, and in a few minutes need, larger steps.
    "lr_student": 3e-3,
    "lr_teacher": 8e-3,
    "lr_token": 5e-3,
    "batch_size": 4,
    # 64 and 32 pixels; below that a patch of 11 covers the picture. 32 projections were a quarter of an iteration.
    "swd_levels": 2,
    "swd_projections": 8,
    # D2's part is played by a network for 64 pixels.
    "dinov2_size": 0,
    # Its captions know no "far away" and no "zoomed in".
    "size_words": False,
}
# Fields of OpadConfig where the method's own number means nothing at 64 pixels.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        **_SMALL,
        "iterations": 390,
        "collaborative_iterations": 40,
        "lr_decay": 0.3,
        # "small", "close-up", "dark" and "bright" are exact words here, and say what the photos do not show.
        "templates": ["a {}", *(t.text for t in TEMPLATES if t == Template(t.text))],
        "samples": 64,
        "ema_decay": 0.98,
        # What these feature networks like best is an early average (the teapot's identity .51 instead of .60), and with
        # the anchor no later one forgets its prompts.
        "select_every": 0,
        # A teacher of 10 M weights saturates at 7.5, and once it knows the concept its own opinion is enough.
        "guidance": 1.0,
        # abar_t leaves the times at which the teacher knows the concept and the student does not hardly any weight;
        # of 100 iterations the mug's stripes came with this and a dark shape without.
        "target_weight": "uniform",
        "target_times": [0.6, 1.0],
        "compared_below": 1.0,
        # What is decided at the other times reaches no target.
        "rec_times": [0.4, 1.0],
        # Feature networks of 0.8 M weights are fooled by colours that no photo has: at weight 1 they led there.
        "lambda_adv": [0.02, 0.02, 0.02],
        "lambda_id": 0.02,
        "lambda_swd": 0.01,
        # Without it every scene became the photos' mean background within 250 iterations.
        "lambda_anchor": 1.0,
        # The base draws on a grid of patches; a photo moved or scaled off it is another set of latents.
        "canvas_probability": 0.0,
        "crop_scale": [1.0, 1.0],
    },
    "paper": _SMALL,
}
_PARTS = ("teacher", "student", "vae", "text_encoder", "dino", "dinov2", "clip", "identity", "text_projection")


def pack(build: Build) -> None:
    """Into `base/` of the build folder; copy it to opad_core/nano/base to ship it."""
    write_base(build.folder / "base", load_parts(build), vocabulary=manifest_vocabulary())


def load_parts(build: Build) -> Parts:
    """Every network from its stage's checkpoint."""
    dino, dinov2, clip, identity = build_dino(), build_dinov2(), build_clip(), IdentityProjection()
    build.load("dino", "dino", dino)
    build.load("dinov2", "dinov2", dinov2)
    build.load("clip", "clip", clip)
    build.load("clip", "identity", identity)
    build.load("clip", "text_projection", text_projection := build_text_projection())
    return Parts(
        tokenizer=world_tokenizer(),
        text_encoder=load_text_encoder(build),
        vae=load_vae(build),
        teacher=load_adapted(build, "teacher"),
        student=load_adapted(build, "student"),
        dino=dino,
        dinov2=dinov2,
        clip=clip,
        identity=identity,
        text_projection=text_projection,
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
