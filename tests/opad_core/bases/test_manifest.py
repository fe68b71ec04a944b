import json

import pytest

from opad_core.bases.loading import load_base
from opad_core.errors import OpadError


def test_a_manifest_of_an_older_format_is_refused(tmp_path):
    """Format 1 named fields of the presets that no longer exist."""
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "name": "sd-turbo"}))
    with pytest.raises(OpadError, match="has format 1, and this version reads format 2; fetch the base again"):
        load_base(str(tmp_path), device="cpu")
