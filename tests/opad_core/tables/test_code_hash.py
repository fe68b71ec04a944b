from itertools import count

import pytest

from opad_core.tables import code_hash


@pytest.fixture
def package(tmp_path):
    """Write a small opad_core of three modules, of which `method` imports `loss`, and change one before each hash."""
    modules = {
        "method": "from opad_core.loss import weigh\nX = weigh(1)\n",
        "loss": '"""A loss."""\ndef weigh(x):\n    """Return it."""\n    return x * 2\n',
        "other": "Y = 1\n",
    }
    numbers = count()

    def put(name, text):
        modules[name] = text
        folder = tmp_path / str(next(numbers)) / "opad_core"
        folder.mkdir(parents=True)
        for module, source in modules.items():
            (folder / f"{module}.py").write_text(source)
        return code_hash.code_hash(["opad_core.method"], root=folder.parent)

    return put


def test_it_changes_with_what_is_executed_also_indirectly(package):
    before = package("other", "Y = 1\n")
    assert package("loss", "def weigh(x):\n    return x * 3\n") != before
    assert package("loss", "def weigh(x):\n    return x * 2\n") == before
    assert package("method", "from opad_core.loss import weigh\nX = weigh(2)\n") != before


def test_documentation_and_other_modules_do_not_count(package):
    before = package("other", "Y = 1\n")
    assert package("other", "Y = 2\n") == before
    assert package("loss", '"""Another text."""\ndef weigh(x):\n    # a remark\n    return x * 2\n') == before


def test_a_method_has_another_hash_than_another_and_does_not_know_it():
    lora, dreambooth = (code_hash.code_hash([f"opad_core.methods.{name}"]) for name in ("lora", "dreambooth"))
    assert lora != dreambooth
    assert "opad_core.methods.dreambooth" not in code_hash.imports(code_hash.ROOT, "opad_core.methods.lora")


def test_weights_count(tmp_path):
    file, hashes = tmp_path / "weights", set()
    for content in (b"1", b"2"):
        file.write_bytes(content)
        hashes.add(code_hash.code_hash(["opad_core.errors"], weights=[file]))
    assert len(hashes) == 2
