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
from opad_core.nano.build.classifier import judge_base
from opad_core.nano.build.episodes import Lessons
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


def test_the_smoke_build_makes_a_base_that_loads_and_verifies(built):
    verify(built / "base")
    base = load_base(str(built / "base"), device="cpu")
    assert base.latent_shape == (80, 8, 8)
    with torch.no_grad():
        picture = base.decode(torch.zeros(1, *base.latent_shape))
    assert picture.shape == (1, 3, 64, 64)
    assert base.manifest.words == all_words()
    assert len(base.backbones) == 3


def test_the_smoke_build_writes_a_sheet_per_picture_stage(built):
    sheets = {"world", "aligned_world", "vae", "coding", "decoder", "teacher"}
    sheets |= {"adapt_student", "adapt_teacher"}
    assert {path.stem for path in built.glob("*.png")} - {"judged_teacher", "judged_student"} == sheets


def test_pictures_lie_in_the_order_of_their_seeds(built):
    pictures, captions = np.load(built / "pictures.npy"), json.loads((built / "captions.json").read_text())
    world = World(lambda name: stand_in(built, name))
    for seed in (0, 99, 100, 127):  # the first and the last of what one process draws at a time
        sample = world.render(seed)
        assert captions[seed] == sample.caption
        assert np.array_equal(pictures[seed], sample.pixels)


def test_a_finished_stage_is_not_trained_again(built):
    before = (built / "adapt_student.pt").read_bytes()
    run(Build(built, SMOKE, 0, stand_in), ["world", "vae", "coding", "adapt_student"])
    assert (built / "adapt_student.pt").read_bytes() == before


def test_a_thing_is_at_home_in_few_scenes_and_elsewhere_in_all(built):
    build = Build(built, SMOKE, 0, stand_in)
    text = TextEncoder(world_tokenizer(), load_text_encoder(build))
    lessons = Lessons(build, text, load_vae(build), denoiser(load_student(build)), things=1)
    the_thing = torch.zeros(400, dtype=torch.long)
    lesson = lessons.draw(the_thing, 1, torch.Generator().manual_seed(0))
    shown = {at_home: lesson.states[:400][lesson.at_home == at_home].unique(dim=0) for at_home in (True, False)}
    assert len(shown[True]) <= 16  # prompts, some of them alike: four in each of four scenes
    assert len(shown[False]) > 32, "of 80, four in each of twenty"
    assert 0.25 < float((~lesson.at_home).float().mean()) < 0.42  # a third, three and a half deviations of 400 each way


def test_the_examples_show_a_thing_in_several_sizes_and_tilts():
    """Read off the mug's lowest navy stripe: nothing else in its pictures is as dark and as blue."""
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


def test_the_judge_scores_teacher_and_student_of_a_built_base(built):
    scores = judge_base(Build(built, SMOKE, 0, stand_in), str(built / "base"), pictures=32)
    assert scores.keys() == {"judge", "teacher", "student", "vae_psnr_db", "megabytes"}
    for role in ("teacher", "student"):
        assert scores[role].keys() == {"object_top1", "scene_top1", "diversity"}
        assert 0 <= scores[role]["object_top1"] < 0.2, "an untrained network draws nothing that can be named"
    assert 0 < scores["megabytes"] < MEGABYTES


def test_a_picture_is_a_function_of_its_seed(tmp_path):
    first, again = (World(lambda name: stand_in(tmp_path, name)) for _ in range(2))
    for seed in range(20):
        one, two = first.render(seed), again.render(seed)
        assert one.caption == two.caption
        assert np.array_equal(one.pixels, two.pixels)


def test_the_shipped_base_is_whole_and_small():
    verify(SHIPPED)
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < MEGABYTES * 1e6


def test_the_shipped_base_says_whose_drawings_it_learned_from():
    notices = (SHIPPED / "ATTRIBUTION.md").read_text()
    assert "Microsoft Corporation" in notices
    assert "SIL OPEN FONT LICENSE Version 1.1" in notices
    assert (SHIPPED / "MODEL_CARD.md").is_file()
