import copy

import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from opad_core.adapters.key_value import pretrained_projections


def test_keys_and_values_as_inputs_equal_stock_cross_attention_in_a_mixed_batch(base):
    student = base.student
    stock = copy.deepcopy(student.unet)
    stock.set_attn_processor(AttnProcessor2_0())
    prompts = ["a photo of a dog", "a mug on the beach", "a robot in the snow"]
    text_states = base.text.encode(prompts, [""] * 3, [None] * 3)
    z_t = torch.randn(3, *student.latent_shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([999, 500, 20])
    # Each request's keys and values are computed alone, as for three concepts, then batched.
    projections = pretrained_projections(student)
    alone = [projections(text_states[i : i + 1]) for i in range(3)]
    mixed = {n: tuple(torch.cat([kv[n][side] for kv in alone]) for side in (0, 1)) for n in student.layers}
    with torch.no_grad():
        expected = stock(z_t, t, encoder_hidden_states=text_states).sample
        torch.testing.assert_close(student.predict(z_t, t, mixed), expected, atol=1e-5, rtol=0)
