import os
import subprocess
import sys

SCORE = "from api.domain.image_scorer import load_scorer; load_scorer('api.domain.image_scorer:open_nsfw')"


def test_the_classifier_tells_nobody_that_it_runs(tmp_path):
    """What its library sends, it first queues in a file below the home folder, beside the number of the machine."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH")}  # it keeps quiet in CI
    subprocess.run([sys.executable, "-c", SCORE], env={**kept, "HOME": str(tmp_path)}, check=True, timeout=120)
    assert list(tmp_path.rglob("*")) == []
