import pytest

from opad_core.tables import code_hash


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small opad_core of three modules, of which `method` imports `loss`."""
    monkeypatch.setattr(code_hash, "ROOT", tmp_path)
    (tmp_path / "opad_core").mkdir()
    write = {
        "method": "from opad_core.loss import weigh\nX = weigh(1)\n",
        "loss": '"""A loss."""\ndef weigh(x):\n    """Return it."""\n    return x * 2\n',
        "other": "Y = 1\n",
    }

    def put(name, text):
        (tmp_path / "opad_core" / f"{name}.py").write_text(text)
        for cached in (code_hash._tree, code_hash._meaning, code_hash._imports):
            cached.cache_clear()
        return code_hash.code_hash(["opad_core.method"])

    for name, text in write.items():
        put(name, text)
    yield put
    for cached in (code_hash._tree, code_hash._meaning, code_hash._imports):
        cached.cache_clear()


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
    assert "opad_core.methods.dreambooth" not in code_hash._imports("opad_core.methods.lora")
