"""The names of `opad_core` that README and the service may use."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import opad_core

WORKER = Path(__file__).parents[2] / "worker"


def test_every_public_name_is_there_and_no_other():
    for name in opad_core.__all__:
        assert getattr(opad_core, name) is not None
    with pytest.raises(AttributeError, match="module 'opad_core' has no attribute 'Unheard'"):
        _ = opad_core.Unheard


def test_a_name_that_needs_no_torch_does_not_load_it():
    command = "import sys, opad_core; opad_core.preset, opad_core.OpadError; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], capture_output=True, text=True).stdout == "False\n"


def test_the_service_uses_only_public_names():
    imported = set()
    for path in WORKER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("opad_core"):
                imported |= {(path.name, node.module, alias.name) for alias in node.names}
    assert len(imported) > 10
    assert {place for place in imported if place[1] != "opad_core" or place[2] not in opad_core.__all__} == set()
