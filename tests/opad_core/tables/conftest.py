import shutil

import pytest

from tests.random_base import add_scene_prompts


@pytest.fixture(scope="module")
def folder(base, references, tmp_path_factory):
    """A base with scene prompts, and the photos of two concepts."""
    folder = tmp_path_factory.mktemp("tables")
    shutil.copytree(base.folder, folder / "base")
    add_scene_prompts(folder / "base")
    for name in ("dog one", "dog two"):
        (folder / name).mkdir()
        for number, photo in enumerate(references):
            photo.save(folder / name / f"{number}.png")
        (folder / name / "class.txt").write_text("dog\n")
    return folder
