import os
import subprocess
import sys

SCORE = "from api.domain.image_scorer import load_scorer; load_scorer('api.domain.image_scorer:open_nsfw')"


def test_the_classifier_sends_no_telemetry(tmp_path):
    """The library queues what it sends in a file below the home folder, with a machine id."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH")}  # it keeps quiet in CI
    subprocess.run([sys.executable, "-c", SCORE], env={**kept, "HOME": str(tmp_path)}, check=True, timeout=120)
    assert list(tmp_path.rglob("*")) == []
