import os
import subprocess
import sys

import pytest

from api.domain.image_scorer import load_scorer

SCORE = "from api.domain.image_scorer import load_scorer; load_scorer('api.domain.image_scorer:open_nsfw')"


def test_the_classifier_sends_no_telemetry(tmp_path):
    """The library queues what it sends in a file below the home folder, with a machine id."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH")}  # it keeps quiet in CI
    subprocess.run([sys.executable, "-c", SCORE], env={**kept, "HOME": str(tmp_path)}, check=True, timeout=120)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("name", ["nobody.has:this", "json:missing", "json", "", "json:dumps", "os:sep", "math:sqrt"])
def test_a_name_that_is_no_scorer_gets_a_sentence(name):
    """The last ones exist and return no score for an image, or take none."""
    with pytest.raises(ValueError, match=f"^OPAD_IMAGE_SCORER={name} cannot be loaded .*; name another as"):
        load_scorer(name)
