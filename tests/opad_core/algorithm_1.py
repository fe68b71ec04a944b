"""Algorithm 1 of the paper's supplement, plain and slow, in float64.

The networks are copies of the base's in double precision. Losses, text encoding, attention and optimizer arithmetic are
written here. From the code under test it takes only the names of random streams, and what its caller passes.
"""

import copy
from dataclasses import dataclass

import torch
from torch.func import functional_call
from torch.nn import functional as F

from opad_core.random_streams import stream

DISCRIMINATORS = ("dino", "dinov2", "clip")


class TextAttention:
    """Cross-attention as in Custom Diffusion: keys and values of the first token carry no gradient."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text)
        if encoder_hidden_states is not None:
            key, value = (torch.cat([x[:, :1].detach(), x[:, 1:]], dim=1) for x in (key, value))
        query, key, value = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
        attended = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1) @ value
        return attn.to_out[0](attended.transpose(1, 2).flatten(2))


class PlainAttention:
    """Attention without the detached first token of Custom Diffusion."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        text = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for x in (attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text))
        )
        attended = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1) @ value
        return attn.to_out[0](attended.transpose(1, 2).flatten(2))


class Networks:
    """The base's frozen networks in float64."""

    def __init__(self, base):
        self.base, self.tokenizer = base, base.text.tokenizer
        self.teacher, self.student = (copy.deepcopy(d.unet).double() for d in (base.teacher, base.student))
        for unet in (self.teacher, self.student):
            unet.set_attn_processor(TextAttention())
        self.text, self.vae = copy.deepcopy(base.text.encoder).double(), copy.deepcopy(base.vae).double()
        self.backbones = [copy.deepcopy(backbone.network).double() for backbone in base.backbones]
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        self.abar = base.teacher.abar.double()
        # The code's own table is used, because the one step multiplies its rounding errors. They reach 1e-6 in float32.
        torch.testing.assert_close(self.abar, torch.cumprod(1 - betas, 0), rtol=5e-6, atol=0)

    def encode(self, prompts, row):
        """Return text states [b, tokens, d]; V* is a new entry of the vocabulary, before the noun."""
        table = self.text.get_input_embeddings().weight
        length, ids = self.text.config.max_position_embeddings, []
        for prompt in prompts:
            own = self.tokenizer(prompt.replace("<concept>", "dog dog"), padding="max_length", max_length=length)
            before = self.tokenizer(prompt.partition("<concept>")[0], add_special_tokens=False)
            ids.append(own.input_ids)
            if "<concept>" in prompt:
                ids[-1][1 + len(before.input_ids)] = len(table)
        weights = {"embeddings.token_embedding.weight": torch.cat([table, row[None]])}
        return functional_call(self.text, weights, (torch.tensor(ids),)).last_hidden_state

    def denoising_loss(self, weights, inputs, states):
        """Return eq. 1 of what a method drew from the references; `weights` replace those of the student's UNet."""
        unet = copy.deepcopy(self.base.student.unet).double()
        unet.set_attn_processor(PlainAttention())
        z0 = self.vae.encode(inputs["references.pixels"].double()).latent
        eps, t, mask = (inputs[f"references.{name}"] for name in ("eps", "t", "mask"))
        eps, mask, abar = eps.double(), mask.double(), self.abar.view(-1, 1, 1, 1)[t]
        z_t = abar.sqrt() * z0 + (1 - abar).sqrt() * eps
        predicted = functional_call(unet, weights, (z_t, t, states)).sample
        target = eps if self.base.student.prediction_type == "epsilon" else abar.sqrt() * eps - (1 - abar).sqrt() * z0
        return ((mask * (predicted - target) ** 2).sum((1, 2, 3)) / mask.sum((1, 2, 3))).mean()

    def predict(self, unet, projections, z, t, states):
        return functional_call(unet, projections, (z, t, states)).sample

    def decode(self, z):
        return self.vae.decode(z).sample  # its scaling factor is 1

    def feature(self, k, x, config, resize):
        """Return the features [b, ...] of the k-th frozen network."""
        if x.shape[-1] != 64:
            x = F.interpolate(x, (64, 64), mode=resize, antialias=resize != "area")
        if not config.normalize_backbones:
            return self.backbones[k](x)
        return self.backbones[k]((x / 2 + 0.5 - 0.5) / 0.5)


def swd(x, y, config, generator):
    """MS-SWD per sample: colors and textures at each level of a pyramid, through random filters."""
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    to_xyz = torch.tensor(to_xyz).double() / torch.tensor([0.95047, 1, 1.08883]).double()[:, None]
    kernel = torch.tensor([1, 4, 6, 4, 1]).double() / 16
    kernel = (kernel[:, None] * kernel).expand(3, 1, 5, 5)

    def lab(rgb):
        linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055).clamp(min=1e-9) ** 2.4, rgb / 12.92)
        xyz = torch.einsum("ij,bjhw->bihw", to_xyz, linear)
        f = torch.where(xyz > 0.008856, xyz.clamp(min=1e-9) ** (1 / 3), 7.787 * xyz + 16 / 116)
        return torch.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)

    total = 0
    for level in range(config.swd_levels):
        if level:
            x, y = (F.conv2d(F.pad(i, (2, 2, 2, 2), "reflect"), kernel, stride=2, groups=3) for i in (x, y))
        size, half = config.swd_patch, config.swd_patch // 2
        filters = torch.randn(config.swd_projections, 3, size, size, generator=generator).double()
        filters = filters / filters.square().sum((1, 2, 3), keepdim=True).sqrt()
        padded = (F.pad(lab(i), (half,) * 4, "reflect") for i in (x, y))
        a, b = (F.conv2d(p, filters).flatten(2).sort(-1).values for p in padded)
        total = total + (a - b).abs().mean((1, 2)) / config.swd_levels
    return total


@dataclass
class Iteration:
    losses: dict[str, float]
    gradients: dict[str, list]
    """Gradients by network, as the optimizer should receive them."""


def random_crop(share, size, generator):
    side = max(1, round(share * size))
    top, left = torch.randint(size - side + 1, (2,), generator=generator).tolist()
    return ..., slice(top, top + side), slice(left, left + side)


def clipped(gradients, norm):
    length = torch.cat([g.flatten() for g in gradients]).norm()
    return [g * min(1.0, norm / length.item()) for g in gradients]


def descended(parameters, gradients, moments, *, lr, decay):
    """Return the parameters after a step of AdamW, in float64."""
    after = []
    for parameter, gradient, moment in zip(parameters, gradients, moments, strict=True):
        count = float(moment["step"]) + 1 if moment else 1.0
        first = 0.9 * (moment["exp_avg"].double() if moment else 0) + 0.1 * gradient
        second = 0.999 * (moment["exp_avg_sq"].double() if moment else 0) + 0.001 * gradient**2
        unbiased = first / (1 - 0.9**count), second / (1 - 0.999**count)
        after.append(parameter * (1 - lr * decay) - lr * unbiased[0] / (unbiased[1].sqrt() + 1e-8))
    return after


def algorithm_1(run, nets, before, teacher_after):
    """Return the losses and gradients of one iteration from the state `before`; `teacher_after` makes the target."""
    c, abar, base, step = run.config, nets.abar, run.base, run.step
    b, layers = c.batch_size, run.layers()

    def draw(name):
        return stream(run.seed, step, name)

    def times(name, share):
        return torch.randint(round(share[0] * 1000), round(share[1] * 1000), (b,), generator=draw(name))

    def at(values, t):
        return values[t].view(-1, 1, 1, 1)

    def noisy(z, t):
        return at(abar, t).sqrt() * z + at(1 - abar, t).sqrt() * eps[: len(z)]

    def named(weights):
        half = len(layers)
        keys = {f"{layer}.to_k.weight": w for layer, w in zip(layers, weights[:half], strict=True)}
        return keys | {f"{layer}.to_v.weight": w for layer, w in zip(layers, weights[half:], strict=True)}

    def preservation(weights, unet):
        parts = []
        for name, learned in named(weights).items():
            was = run.other_words() @ unet.get_parameter(name).T
            parts.append((run.other_words() @ learned.T - was).square().mean() / was.square().mean())
        return c.lambda_kv_preservation * sum(parts) / len(parts)

    distilling = step < c.iterations * (1 + c.teacher_first)
    learned = real = run.views("photos")
    if not distilling:
        samples = run.views("samples")
        own = torch.rand(b, generator=draw("mix")) < c.reference_share
        learned = samples if c.collaboration == "strict" else learned.mixed(samples, own.tolist())
        real = samples if c.collaboration == "strict" else real
    if c.collaboration == "gated" and not distilling and c.canvas_for_discriminators:
        real = run.views("real")
    elif not c.canvas_for_discriminators:
        strict = c.collaboration == "strict" and not distilling
        real = run.views("real-samples" if strict else "real", canvas=False)
    eps = torch.randn((b, *base.latent_shape), generator=draw("noise")).double()
    losses, gradients = {}, {}

    # lines 6-11: the teacher
    teacher_is_fixed = c.teacher_first and c.iterations <= step < 2 * c.iterations
    if not teacher_is_fixed:
        kv, row = ([p.requires_grad_() for p in before[name]] for name in ("teacher", "token"))
        z_real = (
            nets.vae.encode(learned.pixels.double()).latent if learned.latents is None else learned.latents.double()
        )
        t1, mask = times("teacher-time", c.teacher_timestep_range), learned.mask.double()
        predicted = nets.predict(nets.teacher, named(kv), noisy(z_real, t1), t1, nets.encode(learned.prompts, row[0]))
        wanted = at(abar, t1).sqrt() * eps - at(1 - abar, t1).sqrt() * z_real
        squares = (mask * (predicted - wanted) ** 2).sum((1, 2, 3)) / mask.sum((1, 2, 3))
        losses["rec"] = squares.mean()
        total = losses["rec"] + z_real.shape[1] * preservation(kv, nets.teacher)
        received = clipped(torch.autograd.grad(total, [*kv, *row]), c.clip_norm)
        gradients |= {"teacher": received[:-1], "token": received[-1:]}
    if c.teacher_first and step < c.iterations:
        return Iteration({name: loss.item() for name, loss in losses.items()}, gradients)

    # lines 14-21: the student; with the text from before the teacher's step
    scenes = int(c.scene_share * b)
    asked = torch.randint(len(base.manifest.training_scenes), (scenes,), generator=draw("scenes")).tolist()
    prompts = [base.manifest.training_scenes[k].format("<concept>") for k in asked] + real.prompts[scenes:]
    sampled = None
    if teacher_is_fixed and any((c.lambda_id, c.lambda_mse, c.lambda_swd)):
        prompts, eps, sampled = run.teacher_samples()
        eps, sampled = eps.double(), sampled.double()
    with torch.no_grad():
        states = nets.encode(prompts, before["token"][0])
        own_states = states if c.shared_text_encoder else nets.encode(prompts, run.start_row())
        nothing = nets.encode([""], before["token"][0])
    kv = [p.requires_grad_() for p in before["student"]]
    last = torch.full((b,), 999)
    z_in = at(1 - abar, last).sqrt() * eps
    predicted = nets.predict(nets.student, named(kv), z_in, last, own_states)
    z_student = at(abar, last).sqrt() * z_in - at(1 - abar, last).sqrt() * predicted
    place = random_crop(c.decode_crop, z_student.shape[-1], draw("window"))
    x_student = nets.decode(z_student[place])
    total = preservation(kv, nets.student) if any((*c.lambda_adv, c.lambda_id, c.lambda_mse, c.lambda_swd)) else None

    def logits(k, feature):
        w1, b1, w2, b2 = before[f"d_{DISCRIMINATORS[k]}"]
        return F.linear(F.relu(F.linear(feature.flatten(1), w1, b1)), w2, b2)

    def cross_entropy(logits, label):
        return -logits.log_softmax(-1)[:, label]  # 1 is real

    for k, name in enumerate(DISCRIMINATORS):
        if c.lambda_adv[k]:
            feature = nets.feature(k, x_student[scenes:], c, c.discriminator_resize)
            losses[f"adv_{name}"] = cross_entropy(logits(k, feature), 1).mean()
            total = total + c.lambda_adv[k] * losses[f"adv_{name}"]
    t2 = times("student-time", c.target_timestep_range)
    rows = [row for row in range(b) if t2[row] < 1000 * c.max_target_timestep or sampled is not None]
    if rows and any((c.lambda_id, c.lambda_mse, c.lambda_swd)):
        t = t2[rows]
        with torch.no_grad():
            z_t = at(abar, t).sqrt() * z_student[rows] + at(1 - abar, t).sqrt() * eps[rows]
            v_text = nets.predict(nets.teacher, named(teacher_after), z_t, t, states[rows])
            v_none = nets.predict(nets.teacher, named(teacher_after), z_t, t, nothing.expand(len(rows), -1, -1))
            v = v_none + c.guidance * (v_text - v_none)
            z_target = at(abar, t).sqrt() * z_t - at(1 - abar, t).sqrt() * v
            if sampled is not None:
                z_target = sampled
            x_target = nets.decode(z_target[place])
        c_t = abar[t] if c.target_weight == "abar" and sampled is None else torch.ones(len(t)).double()
        each = {}
        if c.lambda_id:
            ours, theirs = (nets.feature(2, x, c, c.identity_resize) for x in (x_student[rows], x_target))
            each["id"] = 1 - F.cosine_similarity(ours, theirs, dim=-1).mean(1)
        if c.lambda_mse:
            each["mse"] = 0.5 * (z_student[rows] - z_target).square().mean((1, 2, 3))
        if c.lambda_swd:
            half = 0.5 if c.swd_unit_range else 0.0
            x, y = ((0.5 * i + half if c.swd_unit_range else i) for i in (x_student[rows], x_target))
            each["swd"] = swd(x, y, c, draw("swd"))
        for name, loss in each.items():
            losses[name] = loss.mean()
            total = total + getattr(c, f"lambda_{name}") * (c_t * loss).sum() / b
    if total is not None and total.requires_grad:
        gradients["student"] = clipped(torch.autograd.grad(total, kv), c.clip_norm)

    # lines 22-25: the discriminators
    for k, name in enumerate(DISCRIMINATORS):
        if c.lambda_adv[k]:
            head = [p.requires_grad_() for p in before[f"d_{name}"]]
            if real.pixels is None:
                real_feature = real.features[name][scenes:].double()
            else:
                place = random_crop(c.decode_crop, 64, draw("real-window"))
                real_feature = nets.feature(k, real.pixels[scenes:].double()[place], c, c.discriminator_resize)
            fake_feature = nets.feature(k, x_student[scenes:].detach(), c, c.discriminator_resize)
            of_real, of_fake = (logits(k, feature.detach()) for feature in (real_feature, fake_feature))
            smoothed = c.real_label * cross_entropy(of_real, 1) + (1 - c.real_label) * cross_entropy(of_real, 0)
            loss = (smoothed + cross_entropy(of_fake, 0)).mean() / 2
            losses[f"d_{name}"] = loss
            gradients[f"d_{name}"] = list(torch.autograd.grad(loss, head))
    return Iteration({name: loss.item() for name, loss in losses.items()}, gradients)
