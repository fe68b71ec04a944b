import copy
import dataclasses

import pytest

from tests.random_base import MANY_SCENE_PROMPTS


@pytest.fixture(scope="session")
def roomy(base):
    """The random base with scenes to spare for evaluations."""
    roomy = copy.copy(base)
    roomy.manifest = dataclasses.replace(base.manifest, scene_prompts=MANY_SCENE_PROMPTS, caption_scenes=[])
    return roomy
