"""How much each stage does: `FULL` made the weights in this repository, `SMOKE` only proves that the recipe runs."""

FULL = {
    "pictures": 120_000,
    "vae_steps": 5000,
    "clip_steps": 600,
    "dino_steps": 300,
    "dinov2_steps": 300,
    "coding_steps": 11_250,
    "teacher_steps": 2900,
    "decoder_steps": 2000,
    "student_steps": 0,
    "adapt_steps": 3300,
    "judge_steps": 1200,
}
SMOKE = {
    "pictures": 128,
    "vae_steps": 4,
    "clip_steps": 3,
    "dino_steps": 3,
    "dinov2_steps": 3,
    "coding_steps": 2,
    "teacher_steps": 2,
    "decoder_steps": 2,
    "student_steps": 2,
    "adapt_steps": 2,
    "judge_steps": 2,
}
