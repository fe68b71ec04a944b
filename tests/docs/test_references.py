"""What README and docs name exists: files, links, modules, commands with their options, settings, tests.

Decisions are history: their links must work, but the files that they name may have moved since.
"""

import argparse
import re
from functools import cache
from pathlib import Path

import pytest

import opad_core.command_line
import worker.cli
from api.domain.consent import STATEMENT
from api.domain.settings import Settings

ROOT = Path(__file__).parents[2]
CURRENT = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "examples" / "README.md"]
PAGES = [*CURRENT, *ROOT.glob("docs/decisions/*.md")]
PACKAGES = ("api", "bench", "migrations", "opad_core", "tests", "worker")
FOLDERS = (*PACKAGES, "docker", "docs", "examples")
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")
DOTTED = re.compile(rf"(?<![\w/.])(?:{'|'.join(PACKAGES)})(?:\.[a-z_]+\w*)+")
SLASHED = re.compile(rf"(?<![\w/.])(?:{'|'.join(FOLDERS)})(?:/[\w.-]*\w)+")
TESTS = re.compile(r"`((?:tests/)?[\w/.]+)`: ([a-z ]*[a-z])")


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def code_of(page: Path) -> list[str]:
    """The page's code spans, and the lines of its code blocks."""
    text = page.read_text()
    blocks = re.findall(r"^    (\S.*)$", text, re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", text) + blocks


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub makes of the page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_relative_link_leads_somewhere(page):
    for match in LINK.finditer(page.read_text()):
        target, _, anchor = (match[1] or match[2]).partition("#")
        if target.startswith(("http://", "https://")):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{target} is no file"
        assert not anchor or anchor in anchors_of(file), f"{target} has no heading #{anchor}"


@pytest.mark.parametrize("page", CURRENT, ids=page_id)
def test_every_file_that_a_page_names_exists(page):
    for path in SLASHED.findall(page.read_text()):
        assert (ROOT / path).exists(), f"{path} is not there"


def test_every_test_that_the_pages_of_faults_and_of_security_name_exists():
    """They name a test by its file or folder and some words of its name: "`test_api`: disk is full"."""
    pages = [ROOT / "docs" / "reliability.md", ROOT / "docs" / "security.md"]
    for place, words in TESTS.findall("\n".join(page.read_text() for page in pages)):
        path = ROOT / place if "/" in place else ROOT / "tests" / "faults" / f"{place}.py"
        source = "\n".join(file.read_text() for file in (path.rglob("*.py") if path.is_dir() else [path]))
        assert re.search(rf"def test_\w*{words.replace(' ', '_')}", source), f"{place} has no test: {words}"


@pytest.mark.parametrize("page", CURRENT, ids=page_id)
def test_every_module_that_a_page_names_exists(page):
    for span in code_of(page):
        for name in DOTTED.findall(span):
            if name.rpartition(".")[2] in ("py", "json", "md", "toml", "in"):
                continue
            assert is_module_or_its_attribute(name), f"`{span}` names {name}, which is not there"


def is_module_or_its_attribute(name: str) -> bool:
    parent, _, last = name.rpartition(".")
    if module_file(name) is not None:
        return True
    file = module_file(parent)
    return file is not None and re.search(rf"\b{last}\b", file.read_text()) is not None


def module_file(name: str) -> Path | None:
    path = ROOT / name.replace(".", "/")
    found = [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]
    return found[0] if found else None


def targets_of_make() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", CURRENT, ids=page_id)
def test_every_target_of_make_exists(page):
    named = {target for span in code_of(page) for target in re.findall(r"\bmake ([a-z-]+)", span)}
    assert named <= targets_of_make()


def commands_of(parser: argparse.ArgumentParser) -> dict[str, set[str]]:
    """The options of the parser's commands by the commands' words: `key create` for a command of a command."""
    found = {"": {option for action in parser._actions for option in action.option_strings}}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, command in action.choices.items():
                found |= {f"{word} {rest}".strip(): options for rest, options in commands_of(command).items()}
    return found


COMMANDS = [
    ("python -m opad_core", commands_of(opad_core.command_line.command_line())),
    ("python -m worker.cli", commands_of(worker.cli.command_line())),
    ("opad", commands_of(worker.cli.command_line())),
]


@pytest.mark.parametrize("page", CURRENT, ids=page_id)
@pytest.mark.parametrize(("program", "commands"), COMMANDS, ids=[program for program, _ in COMMANDS])
def test_every_command_and_its_options_exist(page, program, commands):
    for span in code_of(page):
        line = re.search(rf"(?:^|[\s/]){re.escape(program)} (.*)", span.partition("#")[0])
        if line is None:
            continue
        for words in line[1].split(" | "):
            command = max((name for name in commands if f"{words} ".startswith(f"{name} ".lstrip())), key=len)
            assert command or words.startswith(("--", "COMMAND")), f"`{span}`: there is no such command"
            for option in re.findall(r"--[a-z][\w-]*", words):
                assert option in commands[command], f"`{span}`: there is no option {option}"


@pytest.mark.parametrize("page", [page for page in CURRENT if page.name != "CHANGELOG.md"], ids=page_id)
def test_every_command_of_a_code_block_runs_as_written(page):
    """A shell finds our programs in `.venv/bin` only, and curl would send keys for this machine to a proxy."""
    for line in re.findall(r"^    (\S.*)$", page.read_text(), re.MULTILINE):
        words = re.sub(r"^(?:[A-Z_]+=\S* )*", "", line)  # without the variables before a command
        assert not re.match(r"(?:python|pip|pytest|opad) ", words), f"write .venv/bin/ before: {line}"
        if words.startswith("curl "):
            assert words.startswith("curl --noproxy '*' "), line


@pytest.mark.parametrize("page", CURRENT, ids=page_id)
def test_a_doctor_is_named_with_its_program(page):
    """There are two: `opad doctor` and `python -m opad_core doctor`."""
    assert not [span for span in code_of(page) if span.startswith("doctor")]


def test_every_command_that_a_message_names_exists():
    files = [file for folder in ("api", "opad_core", "worker") for file in (ROOT / folder).rglob("*.py")]
    texts = "\n".join(file.read_text() for file in files if "nano/build" not in str(file))
    for program, commands in COMMANDS:
        named = set(re.findall(rf"`{re.escape(program)} ([a-z]+(?: [a-z]+)?)", texts))
        assert named
        assert [words for words in named if not {words, words.split()[0]} & commands.keys()] == []


def test_the_page_on_care_quotes_the_statement_of_consent():
    quoted = re.findall(r"^> (.*)$", (ROOT / "docs" / "care.md").read_text(), re.MULTILINE)
    assert " ".join(quoted) == STATEMENT


def test_every_screenshot_has_a_caption():
    """The table of docs/dashboard.md says which ones show a real training and which ones seeded data."""
    text = (ROOT / "docs" / "dashboard.md").read_text()
    table = text.partition("| screenshots | caption |")[2].partition("\n\n")[0]
    taken = {file.name.rsplit("-", 2)[0] for file in (ROOT / "docs" / "screenshots").glob("*.png")}
    assert sorted(re.findall(r"`([a-z-]+)`", table)) == sorted(taken)


@pytest.mark.parametrize("page", [page for page in CURRENT if page.name != "CHANGELOG.md"], ids=page_id)
def test_every_setting_and_variable_that_a_page_names_exists(page):
    named = set(re.findall(r"\bOPAD_[A-Z0-9_]*[A-Z0-9]\b", page.read_text()))
    assert named - {f"OPAD_{field.upper()}" for field in Settings.model_fields} <= variables_of_the_sources()


@cache
def variables_of_the_sources() -> set[str]:
    files = [file for folder in (*PACKAGES, "docker", ".ci") for file in (ROOT / folder).rglob("*") if file.is_file()]
    files = [file for file in (*files, *ROOT.glob("*.y*ml")) if file.suffix in (".py", ".sh", ".yaml", ".yml", "")]
    texts = (file.read_text() for file in files)
    return {name for text in texts for name in re.findall(r"\bOPAD_[A-Z0-9_]*[A-Z0-9]\b", text)}
