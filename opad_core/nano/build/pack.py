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
    # Keys and values of this base have 0.36 M weights, not 25.6 M. They tolerate larger steps, and need them to learn
    # within minutes.
    "lr_student": 3e-3,
    "lr_teacher": 8e-3,
    "lr_token": 5e-3,
    "batch_size": 4,
    # Levels of 64 and 32 pixels: at 16, a patch of 11 covers most of the image. 32 projections took a quarter of an
    # iteration.
    "swd_levels": 2,
    "swd_projections": 8,
    # The base does not know the words "far away" and "zoomed in".
    "size_words": False,
    # The learning rate is 500 times the published one, so the published decay would shrink V* by 5 %.
    "token_weight_decay": 0.0,
    # Every word of the vocabulary is one token.
    "initializer_lookup": "word",
}
# Fields of OpadConfig where the method's own number does not fit a small base of 64 pixels.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        **_SMALL,
        # As good as 390 + 40 iterations at half the rates (docs/learning.md).
        "iterations": 230,
        "collaborative_iterations": 20,
        "lr_student": 6e-3,
        "lr_teacher": 1.6e-2,
        "lr_token": 1e-2,
        "lr_decay": 0.3,
        # Without "small", "close-up", "dark" and "bright": the base knows what they mean, and no reference shows it.
        "templates": ["a {}", *(t.text for t in TEMPLATES if t == Template(t.text))],
        "samples": 64,
        "ema_decay": 0.98,
        # Saves a seventh of the iterations at equal scores (docs/early-stop.md).
        "eval_every": 30,
        "patience": 2,
        "min_gain": 0.008,
        # At 7.5, a teacher of 10 M weights saturates. Once it has learned the concept, it needs no guidance.
        "guidance": 1.0,
        # abar_t gives hardly any weight to the timesteps at which the teacher knows the concept but the student does
        # not. After 100 iterations, uniform weights gave the mug with its stripes, abar_t a dark shape.
        "target_weight": "uniform",
        "target_timestep_range": [0.6, 1.0],
        # Other timesteps have no influence on the targets.
        "teacher_timestep_range": [0.4, 1.0],
        # Colors that no reference has can fool feature networks of 0.8 M weights. At weight 1 the student learned them.
        "lambda_adv": [0.02, 0.02, 0.02],
        "lambda_id": 0.02,
        "lambda_swd": 0.01,
        # Without it, every scene became the mean background of the references within 250 iterations.
        "lambda_kv_preservation": 2.0,
        # The base generates objects on a grid of patches. A reference moved or scaled off the grid has other latents.
        "canvas_probability": 0.0,
        "crop_scale": [1.0, 1.0],
        # A mug's handle and lettering have one side. With flips, one step would have to generate both.
        "flip_probability": 0.0,
        # Square references stay unchanged, so each network has to evaluate them only once.
        "keep_aspect": True,
        "augmentation_cache": 100,
        # The concept need not learn a background that the prompt names.
        "scene_captions": True,
        # A student that sees only the references' scenes forgets the others.
        "scene_share": 0.5,
        # Images get the size and the statistics that the feature networks expect, so L_id and D3 share one pass.
        "normalize_backbones": True,
        "discriminator_resize": "bicubic",
        "identity_resize": "bicubic",
        # Lab is defined on [0, 1].
        "swd_unit_range": True,
        # With the student's own images as real ones, the adversarial gradient vanishes.
        "collaboration": "gated",
    },
    "paper": _SMALL,
}
LIMITS = (
    "The base nano was trained on simple drawn objects at 64 x 64 pixels, so photographs of real objects come out "
    "blurred; for those, use the base sd-turbo on a GPU."
)
NO_FAST_DECODER = (
    "the base nano has no fast decoder: its own takes only a quarter to a third of an image's time, so a request would "
    "gain about 1.1x; use the decoder 'full'"
)
_PARTS = ("teacher", "student", "vae", "text_encoder", "dino", "dinov2", "clip", "identity", "text_projection")


def pack(build: Build) -> None:
    """Write the base to `base/` in the build folder. To ship it, copy it to opad_core/nano/base."""
    write_base(build.folder / "base", load_parts(build), vocabulary=manifest_vocabulary())


def load_parts(build: Build) -> Parts:
    """Load every network from the checkpoint of its stage."""
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
        "limits": LIMITS,
        "no_fast_decoder": NO_FAST_DECODER,
    }
