"""Every setting, variable, command and program has its place in the documentation."""

import argparse
import re
from pathlib import Path

import worker.cli
from api.domain.settings import Settings
from bench import method_settings

REPOSITORY = Path(__file__).parents[1]
EXAMPLE = REPOSITORY / ".env.example"
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", EXAMPLE, *(REPOSITORY / "docs").glob("*.md")]
SOURCES = {"", ".Dockerfile", ".py", ".sh", ".yaml"}
DOCUMENTED = "\n".join(page.read_text() for page in PAGES)

ADDRESSES = {"home", "database_url", "redis_url", "s3_endpoint"}
"""Settings whose line in the example shows a form or nothing, since `opad up` fills them in."""


def test_every_setting_is_in_the_example_with_its_default(monkeypatch):
    lines = dict(re.findall(r"^#(OPAD_\w+)=(\S*)", EXAMPLE.read_text(), re.MULTILINE))
    assert lines.keys() == {f"OPAD_{name.upper()}" for name in Settings.model_fields}
    for name, field in Settings.model_fields.items():
        if name not in ADDRESSES and (text := lines[f"OPAD_{name.upper()}"]):
            monkeypatch.setenv(f"OPAD_{name.upper()}", text)
            assert getattr(Settings(_env_file=None), name) == field.default, name


def test_every_variable_is_in_a_page():
    named = {name for text in sources() for name in re.findall(r"\bOPAD_[A-Z0-9_]*[A-Z0-9]\b", text)}
    assert len(named) > 50
    assert {name for name in named if not is_documented(name)} == set()


def test_every_program_is_in_a_page():
    modules = [".".join(file.relative_to(REPOSITORY).with_suffix("").parts) for file in programs()]
    assert len(modules) > 10
    assert [name for name in modules if not is_documented(name.removesuffix(".__main__"))] == []


def test_every_command_of_opad_is_in_a_page():
    assert [name for name in commands(worker.cli.command_line()) if not is_documented(name)] == []


def test_the_page_of_the_methods_settings_is_what_the_code_says():
    assert method_settings.PAGE.read_text() == method_settings.page(), "run `python -m bench.method_settings`"


def is_documented(name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", DOCUMENTED) is not None


def sources() -> list[str]:
    """Return the text of every source, script and compose file."""
    folders = (".ci", "api", "bench", "docker", "migrations", "opad_core", "tests", "worker")
    files = [file for folder in folders for file in (REPOSITORY / folder).rglob("*") if file.suffix in SOURCES]
    files += [REPOSITORY / "Makefile", *REPOSITORY.glob("*.y*ml")]
    return [file.read_text() for file in files if file.is_file()]


def programs() -> list[Path]:
    """Return the modules of the installed packages that can be run."""
    files = [
        file for folder in ("api", "migrations", "opad_core", "worker") for file in (REPOSITORY / folder).rglob("*.py")
    ]
    return [file for file in files if '\nif __name__ == "__main__":' in file.read_text()]


def commands(parser: argparse.ArgumentParser) -> list[str]:
    """Return the commands that lead to an action, such as `opad key create`."""
    subparsers = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not subparsers:
        return [parser.prog]
    return [name for action in subparsers for command in action.choices.values() for name in commands(command)]
