"""A UNet with its noise schedule that takes the text as keys and values.

Text reaches a UNet only through cross-attention. Here the keys and values of every layer are inputs, so one frozen UNet
serves all concepts, mixed in one batch.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from opad_core.errors import OpadError
from opad_core.networks.schedule import T_MAX, predict_x0

KeysValues = dict[str, tuple[Tensor, Tensor]]
"""Per cross-attention layer: keys and values, each [b, tokens, inner]."""


_BLOCKS = {
    "DownBlock2D", "CrossAttnDownBlock2D", "UNetMidBlock2DCrossAttn", "UpBlock2D", "CrossAttnUpBlock2D",
}  # fmt: skip
_UNUSED = (
    "class_embed_type", "addition_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim", "time_embedding_act_fn",
    "center_input_sample",
)  # fmt: skip
"""Options of diffusers' UNet that change its forward pass and that `Denoiser` does not implement."""


class _CrossAttention:
    """Cross-attention of one layer that takes its keys and values as input: those at `index` of its block's layers."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Sequence[tuple[Tensor, Tensor]],
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        query, key, value = (
            x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for x in (attn.to_q(hidden_states), *encoder_hidden_states[self.index])
        )
        attended = F.scaled_dot_product_attention(query, key.to(query), value.to(query))
        projected: Tensor = attn.to_out[0](attended.transpose(1, 2).flatten(2))
        return projected


class Denoiser:
    """A frozen UNet with its noise schedule. Text enters as keys and values.

    `first_scale` is the factor of the noise that its one step reads (`schedule.first_scale`).
    Raises OpadError for a UNet with blocks or inputs that Stable Diffusion does not have.
    """

    def __init__(self, unet: UNet2DConditionModel, abar: Tensor, prediction_type: str, *, first_scale: float) -> None:
        self.unet = unet.eval()
        for parameter in unet.parameters():
            parameter.requires_grad = False
        self.abar = abar
        self.prediction_type = prediction_type
        self.first_scale = first_scale
        self._blocks = {
            **{f"down_blocks.{i}": block for i, block in enumerate(unet.down_blocks)},
            "mid_block": unet.mid_block,
            **{f"up_blocks.{i}": block for i, block in enumerate(unet.up_blocks)},
        }
        kinds = {type(block).__name__ for block in self._blocks.values()}
        if foreign := sorted(kinds - _BLOCKS) + [name for name in _UNUSED if unet.config.get(name)]:
            raise OpadError(f"the base's UNet has {', '.join(foreign)}, which OPAD does not support")
        self.layers = [name.removesuffix(".processor") for name in unet.attn_processors if ".attn2." in name]
        self._layers_of = {
            name: [layer for layer in self.layers if layer.startswith(f"{name}.")] for name in self._blocks
        }
        processors = unet.attn_processors
        for layers in self._layers_of.values():
            processors |= {f"{layer}.processor": _CrossAttention(index) for index, layer in enumerate(layers)}
        unet.set_attn_processor(processors)

    def with_unet(self, unet: UNet2DConditionModel) -> "Denoiser":
        """Return a denoiser with the same schedule and another UNet."""
        return Denoiser(unet, self.abar, self.prediction_type, first_scale=self.first_scale)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        size = self.unet.config.sample_size
        return (self.unet.config.in_channels, size, size)

    def keys_values(self, text_states: Tensor) -> KeysValues:
        """Apply the pretrained projections to text states [b, tokens, d]; float32."""
        keys_values = {}
        for layer in self.layers:
            attention = self.unet.get_submodule(layer)
            key, value = (text_states @ to.weight.float().T for to in (attention.to_k, attention.to_v))
            keys_values[layer] = (key, value)
        return keys_values

    def predict(self, z_t: Tensor, t: Tensor, keys_values: KeysValues) -> Tensor:
        """Return the raw prediction (epsilon or v) for latents [b, 4, h, w] at integer timesteps [b]."""
        return self.predict_at(z_t, self.time_embedding(t), keys_values)

    def time_embedding(self, t: Tensor) -> Tensor:
        """Return the embedding [b, d] of integer timesteps [b]."""
        embedding: Tensor = self.unet.time_embedding(self.unet.time_proj(t).to(self.unet.dtype))
        return embedding

    def predict_at(self, z_t: Tensor, time_embedding: Tensor, keys_values: KeysValues) -> Tensor:
        """Return the raw prediction for latents [b, 4, h, w] at the time with this embedding, [b, d] or [1, d].

        Calls the blocks of diffusers' UNet in the order of its `forward`, and gives each block the keys and values of
        its own layers.
        """
        unet = self.unet
        x = unet.conv_in(z_t.to(unet.dtype))
        skips = [x]
        for name, block in self._blocks.items():
            inputs = {"hidden_states": x, "temb": time_embedding}
            if layers := self._layers_of[name]:
                inputs["encoder_hidden_states"] = [keys_values[layer] for layer in layers]
            if name.startswith("down_blocks"):
                x, new_skips = block(**inputs)
                skips += new_skips
            elif name == "mid_block":
                x = block(**inputs)
            else:
                count = len(block.resnets)
                inputs["res_hidden_states_tuple"] = tuple(skips[-count:])
                del skips[-count:]
                x = block(**inputs, upsample_size=skips[-1].shape[2:] if skips else None)
        prediction: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))
        return prediction

    def denoise(self, z_t: Tensor, t: Tensor, keys_values: KeysValues) -> Tensor:
        """Predict x0 in one evaluation, float32."""
        return predict_x0(self.predict(z_t, t, keys_values), z_t, t, self.abar, self.prediction_type)

    def one_step(self, eps: Tensor, keys_values: KeysValues) -> Tensor:
        """Generate in one step: noise [b, 4, h, w] ~ N(0, 1) to clean latents, float32."""
        t = torch.full((eps.shape[0],), T_MAX, device=eps.device)
        return self.denoise(self.first_scale * eps, t, keys_values)
