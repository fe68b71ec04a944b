"""Bundles from strangers are refused in one sentence, by the reader and by the command line."""

import pytest

from opad_core.__main__ import main
from opad_core.errors import OpadError
from opad_core.generation.bundle import read_bundle
from tests.hostile_bundles import HOSTILE
from tests.opad_core.generation.test_generation import random_bundle


@pytest.fixture(scope="module")
def good(base):
    return random_bundle(base, 1)


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_bundle_is_refused_in_one_sentence(good, what):
    damage, words = HOSTILE[what]
    with pytest.raises(OpadError, match=words) as refused:
        read_bundle(damage(good))
    assert "bundle" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("command", ["generate", "export"])
def test_a_command_that_reads_a_hostile_bundle_writes_nothing(good, base, tmp_path, capsys, command):
    (tmp_path / "concept.safetensors").write_bytes(HOSTILE["giant shape"][0](good))
    given = [command, "--concept", str(tmp_path), "--out", str(tmp_path / "out"), "--base", str(base.folder)]
    assert main([*given, *(["--prompt", "a <concept>"] if command == "generate" else [])]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("opad: not a concept bundle: ")
    assert not (tmp_path / "out").exists()
