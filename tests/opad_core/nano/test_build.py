import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import opad_core.nano
from opad_core.bases.loading import load_base
from opad_core.nano.build.__main__ import run, smoke
from opad_core.nano.build.adapting import denoiser
from opad_core.nano.build.autoencoder import load_vae
from opad_core.nano.build.classifier import evaluate_base
from opad_core.nano.build.episodes import EpisodeSampler
from opad_core.nano.build.examples import stand_in
from opad_core.nano.build.features import world_tokenizer
from opad_core.nano.build.recipe import SMOKE
from opad_core.nano.build.stage import Build
from opad_core.nano.build.student import load_student
from opad_core.nano.build.teacher import load_text_encoder
from opad_core.nano.build.vocabulary import all_words
from opad_core.nano.build.world import World
from opad_core.networks.text_encoder import TextEncoder

EXAMPLES = Path(__file__).parents[3] / "examples"
SHIPPED = Path(opad_core.nano.__file__).parent / "base"
MEGABYTES = 60


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("build")
    smoke(folder)
    return folder


def verify(folder):
    files = json.loads((folder / "manifest.json").read_text())["files"]
    assert files
    for path, expected in files.items():
        assert hashlib.sha256((folder / path).read_bytes()).hexdigest() == expected, path


@pytest.mark.slow
def test_the_smoke_build_makes_a_base_that_loads_and_verifies(built):
    verify(built / "base")
    base = load_base(str(built / "base"), device="cpu")
    assert base.latent_shape == (80, 8, 8)
    with torch.no_grad():
        image = base.decode(torch.zeros(1, *base.latent_shape))
    assert image.shape == (1, 3, 64, 64)
    assert base.manifest.words == all_words()
    assert len(base.backbones) == 3


@pytest.mark.slow
def test_the_smoke_build_writes_a_sheet_for_each_stage_with_images(built):
    sheets = {"world", "aligned_world", "vae", "coding", "decoder", "teacher"}
    sheets |= {"adapt_student", "adapt_teacher"}
    assert {path.stem for path in built.glob("*.png")} - {"evaluated_teacher", "evaluated_student"} == sheets


@pytest.mark.slow
def test_images_are_in_the_order_of_their_seeds(built):
    images, captions = np.load(built / "pictures.npy"), json.loads((built / "captions.json").read_text())
    world = World(lambda name: stand_in(built, name))
    for seed in (0, 99, 100, 127):  # at the ends of what one process renders at a time
        sample = world.render(seed)
        assert captions[seed] == sample.caption
        assert np.array_equal(images[seed], sample.pixels)


@pytest.mark.slow
def test_a_finished_stage_is_not_trained_again(built):
    before = (built / "adapt_student.pt").read_bytes()
    run(Build(built, SMOKE, 0, stand_in), ["world", "vae", "coding", "adapt_student"])
    assert (built / "adapt_student.pt").read_bytes() == before


@pytest.mark.slow
def test_support_images_show_few_scenes_and_query_images_show_all(built):
    build = Build(built, SMOKE, 0, stand_in)
    text = TextEncoder(world_tokenizer(), load_text_encoder(build))
    sampler = EpisodeSampler(build, text, load_vae(build), denoiser(load_student(build)), tasks=1)
    same_task = torch.zeros(400, dtype=torch.long)
    episodes = sampler.sample(same_task, 1, torch.Generator().manual_seed(0))
    states, is_support = episodes.states[:400], episodes.is_support
    assert len(states[is_support].unique(dim=0)) <= 16  # four prompts for each of four scenes, some of them equal
    assert len(states[~is_support].unique(dim=0)) > 32, "of 80, four for each of twenty scenes"
    # A third, plus or minus three and a half standard deviations of 400 draws.
    assert 0.25 < float((~is_support).float().mean()) < 0.42


def test_the_examples_show_an_object_in_several_sizes_and_tilts():
    """Measures the mug's lowest navy stripe, because nothing else in its images is as dark and as blue."""
    boxes = []
    for number in range(4):
        pixels = np.asarray(Image.open(EXAMPLES / "striped_mug" / f"{number}.png").convert("RGB")).astype(int)
        navy = (pixels[..., 2] > pixels[..., 0] + 40) & (pixels[..., 0] < 50) & (pixels[..., 1] < 70)
        columns = np.flatnonzero(navy.any(0))
        lowest = [int(np.flatnonzero(navy[:, column]).max()) for column in columns[[10, -10]]]
        boxes.append((len(columns), lowest[0] - lowest[1]))
    widths, slopes = zip(*boxes, strict=True)
    assert np.ptp(widths) > 8  # of 256 pixels: 46 to 50 of 64 differ by 12 for the widest part
    assert min(slopes) < -3 < 0 < 3 < max(slopes)


@pytest.mark.slow
def test_evaluation_scores_teacher_and_student_of_a_built_base(built):
    scores = evaluate_base(Build(built, SMOKE, 0, stand_in), str(built / "base"), images=32)
    assert scores.keys() == {"classifier", "teacher", "student", "vae_psnr_db", "megabytes"}
    for role in ("teacher", "student"):
        assert scores[role].keys() == {"object_top1", "scene_top1", "diversity"}
        assert 0 <= scores[role]["object_top1"] < 0.2, "an untrained network generates no recognizable object"
    assert 0 < scores["megabytes"] < MEGABYTES


def test_an_image_is_a_function_of_its_seed(tmp_path):
    first, again = (World(lambda name: stand_in(tmp_path, name)) for _ in range(2))
    for seed in range(20):
        one, two = first.render(seed), again.render(seed)
        assert one.caption == two.caption
        assert np.array_equal(one.pixels, two.pixels)


def test_the_shipped_base_is_complete_and_small():
    verify(SHIPPED)
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < MEGABYTES * 1e6


def test_the_shipped_base_credits_the_drawings_it_learned_from():
    notices = (SHIPPED / "ATTRIBUTION.md").read_text()
    assert "Microsoft Corporation" in notices
    assert "SIL OPEN FONT LICENSE Version 1.1" in notices
    assert (SHIPPED / "MODEL_CARD.md").is_file()
