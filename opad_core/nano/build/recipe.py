"""How much each stage does: `FULL` made the weights in this repository, `SMOKE` only proves that the recipe runs."""

FULL = {
    "pictures": 80_000,
    "vae_steps": 2400,
    "clip_steps": 600,
    "dino_steps": 320,
    "dinov2_steps": 350,
    "text_steps": 500,
    "teacher_steps": 1500,
    "coding_steps": 1500,
    "student_steps": 0,
}
SMOKE = {
    "pictures": 128,
    "vae_steps": 4,
    "clip_steps": 3,
    "dino_steps": 3,
    "dinov2_steps": 3,
    "text_steps": 2,
    "teacher_steps": 3,
    "coding_steps": 2,
    "student_steps": 2,
}
