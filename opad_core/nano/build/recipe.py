"""Number of steps and images of each stage. `GPU` trained the weights in this repository, `SMOKE` only tests the code.

`CPU` takes about eight hours on two cores and sees a fifth to an eighth as many images.
"""

CPU = {
    "batch": 16,
    "images": 120_000,
    "vae_steps": 5000,
    "clip_steps": 600,
    "dino_steps": 300,
    "dinov2_steps": 300,
    "coding_steps": 11_250,
    "teacher_steps": 2900,
    "decoder_steps": 2000,
    "tasks": 16,
    "adapt_steps": 3300,
    "classifier_steps": 1200,
    "judge_steps": 500,
}
GPU = CPU | {
    "batch": 256,
    "vae_steps": 4600,
    "coding_steps": 3700,
    "decoder_steps": 1800,
    "teacher_steps": 1500,
    "tasks": 128,
    "adapt_steps": 2400,
}
SMOKE = {
    "batch": 16,
    "images": 128,
    "vae_steps": 4,
    "clip_steps": 3,
    "dino_steps": 3,
    "dinov2_steps": 3,
    "coding_steps": 2,
    "teacher_steps": 2,
    "decoder_steps": 2,
    "tasks": 16,
    "adapt_steps": 2,
    "classifier_steps": 2,
    "judge_steps": 2,
}
