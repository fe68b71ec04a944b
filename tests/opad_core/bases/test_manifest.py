import json
from dataclasses import replace

import pytest

from opad_core.bases.loading import SHIPPED, load_base
from opad_core.bases.manifest import read_manifest
from opad_core.errors import OpadError
from opad_core.nano.build.pack import LIMITS


def test_a_manifest_of_an_older_format_is_refused(tmp_path):
    """Format 1 named fields of the presets that no longer exist."""
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 1, "name": "sd-turbo"}))
    with pytest.raises(OpadError, match="has format 1, and this version reads format 2; fetch the base again"):
        load_base(str(tmp_path), device="cpu")


def test_the_shipped_base_names_its_limits_which_do_not_change_its_hash():
    manifest = read_manifest(SHIPPED)
    assert manifest.limits == LIMITS
    assert replace(manifest, limits=None).sha256 == manifest.sha256
