import json
from collections import Counter

import pytest
from PIL import Image

from opad_core.bases.fetch.description import SCENE_PROMPTS
from opad_core.errors import OpadError
from opad_core.tables.protocols import LIVE_PROMPTS, OBJECT_PROMPTS, SUBJECTS, subjects_of


def photo(folder, name="00.jpg"):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), "red").save(folder / name)


def test_dreambooth_has_thirty_subjects_of_which_nine_live():
    assert len(SUBJECTS) == 30
    assert Counter(SUBJECTS.values()) & Counter(("cat", "dog") * 9) == Counter(cat=2, dog=7)


def test_dreambooth_has_twenty_five_prompts_of_each_kind():
    assert len(set(OBJECT_PROMPTS)) == len(set(LIVE_PROMPTS)) == 25
    assert OBJECT_PROMPTS[:20] == SCENE_PROMPTS
    assert len(set(OBJECT_PROMPTS) & set(LIVE_PROMPTS)) == 15, "ten scenes and five properties"
    assert all(prompt.count("{}") == 1 for prompt in (*OBJECT_PROMPTS, *LIVE_PROMPTS))


def test_the_subjects_that_are_there_have_their_noun_and_the_prompts_of_their_kind(tmp_path):
    for name in ("dog6", "wolf_plushie", "my holiday"):
        photo(tmp_path / name)
    live, plushie = subjects_of("dreambooth", [tmp_path])
    assert (live.name, live.class_noun, live.prompts) == ("dog6", "dog", LIVE_PROMPTS)
    assert (plushie.name, plushie.class_noun, plushie.prompts) == ("wolf_plushie", "stuffed animal", OBJECT_PROMPTS)
    assert live.read().references[0].size == (64, 64)


def test_nanos_protocol_takes_a_folder_for_each_concept(tmp_path):
    photo(tmp_path / "mug")
    (tmp_path / "mug" / "class.txt").write_text("mug\n")
    [mug] = subjects_of("nano", [tmp_path / "mug"])
    assert (mug.name, mug.class_noun, mug.prompts) == ("mug", "mug", ())


def write_dataset(folder, **changes):
    entry = {
        "instance_prompt": "photo of a <new1> barn", "class_prompt": "barn", "class_data_dir": "./x",
        "instance_data_dir": "./benchmark_dataset/scene_barn", "prompt_filename": "prompts/barn.txt",
    }  # fmt: skip
    absent = entry | {"instance_data_dir": "./benchmark_dataset/absent"}
    (folder / "dataset.json").write_text(json.dumps([absent, entry | changes]))
    (folder / "prompts").mkdir(exist_ok=True)
    (folder / "prompts" / "barn.txt").write_text("photo of a {}. \n\n{} on a sandy beach.\n")
    photo(folder / "benchmark_dataset" / "scene_barn")


def test_customconcept101_reads_the_published_list(tmp_path):
    write_dataset(tmp_path)
    [barn] = subjects_of("customconcept101", [tmp_path])
    assert (barn.name, barn.class_noun) == ("scene_barn", "barn")
    assert barn.prompts == ("photo of a {}.", "{} on a sandy beach.")
    assert len(barn.read().references) == 1


@pytest.mark.parametrize(
    ("protocol", "prepare", "said"),
    [
        ("dreambooth", lambda folder: photo(folder / "me"), "has a folder for none of DreamBooth's subjects, such as"),
        ("dreambooth", lambda folder: folder.rmdir(), "there is no folder"),
        ("customconcept101", lambda folder: None, "has no dataset.json"),
        ("customconcept101", lambda folder: (folder / "dataset.json").write_text("{"), "is not CustomConcept101's"),
        ("customconcept101", lambda folder: (folder / "dataset.json").write_text("[[]]"), "is not CustomConcept101's"),
        ("customconcept101", lambda folder: write_dataset(folder, instance_data_dir="y"), "photos of none of the 2"),
        ("customconcept101", lambda folder: write_dataset(folder, prompt_filename="prompts/z.txt"), "z.txt is missing"),
    ],
)
def test_another_folder_is_refused_in_a_sentence(tmp_path, protocol, prepare, said):
    folder = tmp_path / "dataset"
    folder.mkdir()
    prepare(folder)
    with pytest.raises(OpadError, match=said):
        subjects_of(protocol, [folder])


def test_a_dataset_is_one_folder_and_a_prompt_has_one_place_for_the_name(tmp_path):
    with pytest.raises(OpadError, match="takes one folder, that of the dataset; got 2"):
        subjects_of("dreambooth", [tmp_path, tmp_path])
    write_dataset(tmp_path)
    (tmp_path / "prompts" / "barn.txt").write_text("{} beside a {}\n")
    with pytest.raises(OpadError, match=r"without exactly one \{\}: \{\} beside a \{\}"):
        subjects_of("customconcept101", [tmp_path])
