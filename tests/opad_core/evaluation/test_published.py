"""The published metrics, with tiny random networks of the real classes."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTokenizer, Dinov2Model, ViTModel

from opad_core.bases.metric_networks import CLIP_B32, CLIP_L336, DINO_S16, DINOV2_L14, METRICS
from opad_core.errors import OpadError
from opad_core.evaluation.published import PUBLISHED, PublishedMetrics, all_pairs, middle_of, own_prompt, squashed
from tests.metric_networks import SIDES, write_metrics

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BICUBIC, BILINEAR = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR
PROMPTS = ["a dog in the snow", "a dog on the beach", "a red dog"]
EXACT = 1e-5
"""Float32 with other batch sizes."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    write_metrics(folder)
    return folder


@pytest.fixture(scope="module")
def metrics(bases):
    return PublishedMetrics(bases, torch.device("cpu"))


@pytest.fixture(scope="module")
def images():
    return noise(3, (64, 64), seed=1)


@pytest.fixture(scope="module")
def photos():
    """Two photos that are no squares."""
    return noise(1, (90, 60), seed=2) + noise(1, (60, 80), seed=3)


def noise(count, size, *, seed):
    generator = np.random.default_rng(seed)
    tints = generator.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    return [Image.fromarray(tint).resize(size, BICUBIC) for tint in tints]


def normalized(image, mean, std):
    pixels = (np.asarray(image, dtype=np.float64) / 255 - mean) / std
    return torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None]


@torch.no_grad()
def clip_features(bases, name, image):
    clip = CLIPModel.from_pretrained(bases / METRICS / name)
    pixels = normalized(image, CLIP_MEAN, CLIP_STD)
    return F.normalize(clip.visual_projection(clip.vision_model(pixels).pooler_output), dim=-1)[0]


@torch.no_grad()
def text_features(bases, name, prompt):
    clip = CLIPModel.from_pretrained(bases / METRICS / name)
    tokens = CLIPTokenizer.from_pretrained(bases / METRICS / name)(prompt, return_tensors="pt")
    return F.normalize(clip.text_projection(clip.text_model(**tokens).pooler_output), dim=-1)[0]


@torch.no_grad()
def class_token(network, image):
    pixels = normalized(image, IMAGENET_MEAN, IMAGENET_STD)
    options = {"interpolate_pos_encoding": True} if isinstance(network, ViTModel) else {}
    return F.normalize(network(pixels, **options).last_hidden_state[:, 0], dim=-1)[0]


def pair_means(images, photos, *, lowest):
    cosines = np.array([[float(x @ y) for y in photos] for x in images])
    assert cosines.min() < -0.05, "clamping changes the mean"
    return cosines.clip(min=lowest).mean()


def test_opads_scores_are_those_computed_pair_by_pair(bases, metrics, images, photos):
    def prepared(image):
        return image.resize((512, 512), BICUBIC).resize((SIDES[CLIP_L336],) * 2, BICUBIC)

    def dino_prepared(image):
        return image.resize((512, 512), BILINEAR).resize((224, 224), BILINEAR)

    scores = metrics.scores(images, photos, PROMPTS)
    mine, theirs = ([clip_features(bases, CLIP_L336, prepared(image)) for image in group] for group in (images, photos))
    words = [text_features(bases, CLIP_L336, prompt) for prompt in PROMPTS]
    fits = [float(x @ y) for x, y in zip(mine, words, strict=True)]
    assert scores["opad_clip_t"] == pytest.approx(np.mean(fits), abs=EXACT)
    assert scores["opad_clip_i"] == pytest.approx(pair_means(mine, theirs, lowest=0), abs=EXACT)
    dinov2 = Dinov2Model.from_pretrained(bases / METRICS / DINOV2_L14).eval()
    mine, theirs = ([class_token(dinov2, dino_prepared(image)) for image in group] for group in (images, photos))
    assert scores["opad_dino"] == pytest.approx(pair_means(mine, theirs, lowest=0), abs=EXACT)


def test_dreambooths_scores_are_those_computed_pair_by_pair(bases, metrics, images, photos):
    side = SIDES[CLIP_B32]

    def prepared(image):
        sizes = {(64, 64): (side, side), (90, 60): (side * 3 // 2, side), (60, 80): (side, side * 4 // 3)}
        scaled = image.resize(sizes[image.size], BICUBIC)
        left, top = round((scaled.width - side) / 2), round((scaled.height - side) / 2)
        return scaled.crop((left, top, left + side, top + side))

    def dino_prepared(image):
        sizes = {(64, 64): (256, 256), (90, 60): (384, 256), (60, 80): (256, 341)}
        scaled = image.resize(sizes[image.size], BICUBIC)
        boxes = {(256, 256): (16, 16), (384, 256): (80, 16), (256, 341): (16, 58)}
        left, top = boxes[scaled.size]
        return scaled.crop((left, top, left + 224, top + 224))

    scores = metrics.scores(images, photos, PROMPTS)
    mine, theirs = ([clip_features(bases, CLIP_B32, prepared(image)) for image in group] for group in (images, photos))
    words = [text_features(bases, CLIP_B32, prompt) for prompt in PROMPTS]
    fits = [float(x @ y) for x, y in zip(mine, words, strict=True)]
    assert scores["dreambooth_clip_t"] == pytest.approx(np.mean(fits), abs=EXACT)
    assert scores["dreambooth_clip_i"] == pytest.approx(pair_means(mine, theirs, lowest=-1), abs=EXACT)
    dino = ViTModel.from_pretrained(bases / METRICS / DINO_S16, add_pooling_layer=False).eval()
    mine, theirs = ([class_token(dino, dino_prepared(image)) for image in group] for group in (images, photos))
    assert scores["dreambooth_dino"] == pytest.approx(pair_means(mine, theirs, lowest=-1), abs=EXACT)
    assert scores.keys() == PUBLISHED.keys()


def test_each_cosine_is_clamped_before_the_mean():
    images, photos = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[1.0, 0.0], [-0.8, 0.6], [-1.0, 0.0]])
    # cosines: 1, -.8, -1 and .6, 0, -.6
    assert all_pairs(images, photos, clamped=True) == pytest.approx((1 + 0.6) / 6)
    assert all_pairs(images, photos, clamped=False) == pytest.approx((1 - 0.8 - 1 + 0.6 + 0 - 0.6) / 6)


def test_an_image_is_compared_with_its_own_prompt_and_not_clamped():
    images, prompts = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[-1.0, 0.0], [0.6, 0.8]])
    assert own_prompt(images, prompts) == pytest.approx((-1 + 1) / 2)


def test_a_wide_photo_is_squashed_for_opad_and_cut_for_dreambooth():
    """Thirds of red, green and blue: squashed, all are there; the middle of 2 to 1 shows mostly green."""
    photo = Image.new("RGB", (300, 150))
    for third, color in enumerate(("red", "lime", "blue")):
        photo.paste(color, (100 * third, 0, 100 * third + 100, 150))
    whole, middle = squashed(photo, 60, bicubic=True), middle_of(photo, short_side=75, crop=60)
    assert [whole.getpixel((x, 30)) for x in (5, 30, 55)] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert middle.size == (60, 60)
    # 300 x 150 becomes 150 x 75, whose middle is 45 to 105 from the left; red ends at 50
    assert [middle.getpixel((x, 30)) for x in (1, 12, 48, 58)] == [(255, 0, 0), (0, 255, 0), (0, 255, 0), (0, 0, 255)]


def test_a_missing_or_damaged_folder_is_named(bases, tmp_path):
    with pytest.raises(OpadError, match=r"`python -m opad_core fetch metrics` downloads them"):
        PublishedMetrics(tmp_path, torch.device("cpu"))
    folder = write_metrics(tmp_path)
    weights = folder / DINO_S16 / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(OpadError, match="differs from the hash in its manifest"):
        PublishedMetrics(tmp_path, torch.device("cpu"))
