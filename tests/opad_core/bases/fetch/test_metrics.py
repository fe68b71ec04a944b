"""Fetch the networks of the published metrics from a mirror of small ones."""

import json
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from opad_core.__main__ import main
from opad_core.bases.fetch import no_network
from opad_core.bases.fetch.metrics import OPENAI_B32, OPENAI_L336, RECIPE, describe_metrics
from opad_core.bases.manifest import hash_of, read_manifest
from opad_core.bases.metric_networks import CLIP_B32, DINO_S16, METRICS
from opad_core.errors import OpadError
from opad_core.evaluation.published import PUBLISHED, PublishedMetrics
from tests.metric_networks import write_metrics, write_metrics_mirror

isolated = pytest.mark.skipif(
    no_network.command("") is None, reason="neither the kernel nor bubblewrap offers a network namespace here"
)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return write_metrics_mirror(tmp_path_factory.mktemp("mirror"))


@pytest.fixture(scope="module")
def fetched(published, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    assert fetch(published, "--to", folder / METRICS) == 0
    return folder


def fetch(mirror, *options):
    return main(["fetch", METRICS, "--from", str(mirror), *map(str, options)])


@isolated
def test_the_fetched_networks_score_images(fetched):
    red = [Image.new("RGB", (64, 64), "red")]
    scores = PublishedMetrics(fetched, torch.device("cpu")).scores(red, red, ["a red dog"])
    assert scores.keys() == PUBLISHED.keys()
    assert scores["opad_dino"] == pytest.approx(1, abs=1e-5), "the image is its own photo; float32"


@isolated
def test_the_pickle_and_its_conversion_are_recorded_and_no_pickle_is_kept(published, fetched):
    manifest, pickle = read_manifest(fetched / METRICS), published / OPENAI_B32.name / "pytorch_model.bin"
    weights = f"{CLIP_B32}/model.safetensors"
    assert manifest.converted[weights]["sha256"] == hash_of(pickle)
    assert manifest.files[weights] == hash_of(fetched / METRICS / weights)
    assert manifest.sources.keys() == {repository.name for repository in RECIPE.repositories}
    theirs = torch.load(pickle, weights_only=True)
    ours = load_file(fetched / METRICS / weights)
    assert theirs.keys() - ours.keys() == {f"{part}_model.embeddings.position_ids" for part in ("text", "vision")}
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())
    assert not list((fetched / METRICS).rglob("*.bin"))


@isolated
def test_a_later_fetch_must_find_the_pickle_that_the_first_recorded(published, fetched, bases, tmp_path, capsys):
    other = shutil.copytree(published, tmp_path / "other")
    pickle = other / OPENAI_L336.name / "pytorch_model.bin"
    tensors = torch.load(pickle, weights_only=True)
    torch.save({**tensors, "logit_scale": tensors["logit_scale"] + 1}, pickle)
    assert fetch(other, "--like", fetched / METRICS) == 1
    said = capsys.readouterr()
    assert "clip-vit-large-patch14-336/pytorch_model.bin differs from that of the given manifest" in said.err
    assert "openai/clip-vit-large-patch14-336 at ce19dc9: none in the repository" in said.out
    assert not (bases / METRICS).exists()
    assert not list(bases.rglob("clip-vit-large-patch14-336/*.bin")), "another try downloads it again"


def test_a_network_in_the_wrong_place_is_named(tmp_path):
    folder = write_metrics(tmp_path)
    config = folder / DINO_S16 / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "dinov2"}))
    with pytest.raises(OpadError, match="the network of dino_s16 is a dinov2, not a vit"):
        describe_metrics(RECIPE, folder)
