"""OPAD: adversarial concept distillation for one-step diffusion personalization."""
