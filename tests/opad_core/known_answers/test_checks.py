import json
import shutil

import pytest

from opad_core.bases.loading import SHIPPED, load_base
from opad_core.bases.manifest import hash_of
from opad_core.errors import OpadError
from opad_core.known_answers import Outcome, example_photos, known_answers, read_photos, summary
from opad_core.known_answers.learning import short_training
from opad_core.methods.opad.config import preset

IDENTITY = "identity tokens tell objects apart"
PHOTOS = {
    "autoencoder",
    "the teacher denoises photos",
    "DINO tells objects apart",
    "DINOv2 tells objects apart",
    IDENTITY,
}
"""Checks that need photos."""


def outcomes(base, photos):
    """Return the outcome of each check."""
    reported = []
    answers = known_answers(base, photos, report=reported.append)
    assert reported == answers
    return {answer.check: answer for answer in answers}


def with_student_scheduler(folder, **changes):
    """Copy nano to a folder with another configuration of the student's scheduler, and return the base."""
    shutil.copytree(SHIPPED, folder)
    path = "student/scheduler/scheduler_config.json"
    (folder / path).write_text(json.dumps(json.loads((folder / path).read_text()) | changes))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][path] = hash_of(folder / path)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return load_base(str(folder), device="cpu")


def test_nano_passes_every_check_that_applies_to_it():
    answers = outcomes(load_base("nano", device="cpu"), example_photos())
    skipped = [name for name, answer in answers.items() if answer.outcome == Outcome.SKIPPED]
    assert skipped == ["one text encoder for teacher and student"]
    assert {answer.outcome for answer in answers.values()} == {Outcome.SKIPPED, Outcome.PASSED}
    assert summary(list(answers.values())) == f"{len(answers) - 1} passed, 1 skipped"


def test_random_weights_fail_what_needs_trained_ones(base):
    """They have Stable Diffusion's schedule, the type in their own files, and diffusers' arithmetic."""
    answers = outcomes(base, example_photos())
    failed = {name for name, answer in answers.items() if answer.outcome == Outcome.FAILED}
    assert (
        failed
        == {"tokens of the prompts", "padding", "one-step images", "images show what the prompt asks for"} | PHOTOS
    )
    assert all(answers[name].sentence.count(": ") for name in failed)  # what was found, and what it means


def test_without_photos_the_checks_that_need_some_say_so(base):
    answers = outcomes(base, [])
    skipped = {name for name, answer in answers.items() if answer.outcome == Outcome.SKIPPED}
    assert skipped == PHOTOS | {"one text encoder for teacher and student"}
    assert answers["autoencoder"].sentence == "there are no photos here; name a folder of them with --images"
    assert short_training(base, [], preset("default", base.manifest.presets)).outcome == Outcome.SKIPPED


def test_photos_of_one_object_cannot_tell_objects_apart(base):
    answers = outcomes(base, example_photos()[:1])
    assert answers[IDENTITY].outcome == Outcome.SKIPPED
    assert answers["autoencoder"].outcome == Outcome.FAILED


def test_a_student_that_is_read_with_the_wrong_prediction_type_is_found(tmp_path):
    """Its images agree with diffusers', which reads the same file, but they are no images."""
    answers = outcomes(with_student_scheduler(tmp_path / "base", prediction_type="epsilon"), [])
    failed = {name for name, answer in answers.items() if answer.outcome == Outcome.FAILED}
    assert failed >= {"prediction types", "one-step images"}
    assert answers["same images as diffusers"].outcome == Outcome.PASSED
    assert "the student epsilon: published are v_prediction and v_prediction" in answers["prediction types"].sentence


def test_another_noise_schedule_is_found(tmp_path):
    answers = outcomes(with_student_scheduler(tmp_path / "base", beta_schedule="linear"), [])
    assert answers["noise schedule"].outcome == Outcome.FAILED


def test_a_damaged_file_fails_a_check_with_its_name(tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(SHIPPED, folder)
    next((folder / "vae").glob("*.safetensors")).write_bytes(b"damaged")
    answers = outcomes(load_base(str(folder), device="cpu"), example_photos()[:1])
    assert answers["autoencoder"].outcome == Outcome.FAILED
    assert "vae" in answers["autoencoder"].sentence
    assert "install the base again" in answers["autoencoder"].sentence


def test_a_folder_of_photos_is_one_object_and_a_folder_of_folders_many(tmp_path, references):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        references[0].save(tmp_path / name / "0.png")
    (tmp_path / "a" / "class.txt").write_text("mug\n")
    assert [(photo.name, photo.noun, len(photo.images)) for photo in read_photos(tmp_path)] == [
        ("a", "mug", 1),
        ("b", None, 1),
    ]
    [photo] = read_photos(tmp_path / "a")
    assert photo.name == "a"
    with pytest.raises(OpadError, match="there is no folder"):
        read_photos(tmp_path / "none")


@pytest.mark.slow
def test_a_short_training_of_nano_learns():
    base = load_base("nano", device="cpu")
    answer = short_training(base, example_photos(), preset("default", base.manifest.presets))
    assert answer.outcome == Outcome.PASSED, answer.sentence
