"""Stage `pack`: write the finished networks as a base folder."""

from typing import Any

from opad_core.bases import captions
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
from opad_core.nano.build.vocabulary import (
    CAPTION_SCENES,
    NOUNS,
    SCENE_PROMPTS,
    TEMPLATES,
    TRAINING_SCENES,
    Template,
    all_words,
)

_SMALL: dict[str, Any] = {
    # K/V of this base are 0.36 M weights, not 25.6 M: they bear, and in a few minutes need, larger steps.
    "lr_student": 3e-3,
    "lr_teacher": 8e-3,
    "lr_token": 5e-3,
    "batch_size": 4,
    # 64 and 32 pixels; below that a patch of 11 covers the picture. 32 projections were a quarter of an iteration.
    "swd_levels": 2,
    "swd_projections": 8,
    # Its captions know no "far away" and no "zoomed in".
    "size_words": False,
    # At 500 times the published rate the published decay would take 5 % of V*; its vocabulary has whole words alone.
    "token_weight_decay": 0.0,
    "initializer_lookup": "word",
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
        # A teacher of 10 M weights saturates at 7.5, and once it knows the concept its own opinion is enough.
        "guidance": 1.0,
        # abar_t leaves the times at which the teacher knows the concept and the student does not hardly any weight;
        # of 100 iterations the mug's stripes came with this and a dark shape without.
        "target_weight": "uniform",
        "target_timestep_range": [0.6, 1.0],
        # What is decided at the other times reaches no target.
        "teacher_timestep_range": [0.4, 1.0],
        # Feature networks of 0.8 M weights are fooled by colours that no photo has: at weight 1 they led there.
        "lambda_adv": [0.02, 0.02, 0.02],
        "lambda_id": 0.02,
        "lambda_swd": 0.01,
        # Without it every scene became the photos' mean background within 250 iterations.
        "lambda_kv_preservation": 1.0,
        # The base draws on a grid of patches; a photo moved or scaled off it is another set of latents.
        "canvas_probability": 0.0,
        "crop_scale": [1.0, 1.0],
        # A mug's handle and any lettering have a side; flips ask one step for both at once.
        "flip_probability": 0.0,
        # So that a view is one of the photos, which are square here, and no network looks at it twice.
        "keep_aspect": True,
        "augmentation_cache": 100,
        # What a prompt says of the ground, the concept need not learn.
        "scene_captions": True,
        # A student that meets the photos' scenes alone forgets to draw others.
        "scene_share": 0.5,
        # Pictures have the size and the statistics that the feature networks expect; so L_id and D3 share one pass.
        "normalize_backbones": True,
        "discriminator_resize": "bicubic",
        "identity_resize": "bicubic",
        # Lab is defined on [0, 1].
        "swd_unit_range": True,
        # Reals that the student drew let the adversarial gradient vanish.
        "collaboration": "gated",
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
        "templates": list(captions.TEMPLATES),
        "scene_prompts": list(SCENE_PROMPTS),
        "caption_scenes": list(CAPTION_SCENES),
        "training_scenes": list(TRAINING_SCENES),
        "presets": PRESETS,
        "licenses": dict.fromkeys(_PARTS, "Apache-2.0"),
    }
