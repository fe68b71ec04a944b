from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "opad_core"
COMMAND_LINES = {"__main__.py", "nano/build/__main__.py"}


def test_only_the_command_lines_read_the_environment():
    readers = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if any(word in file.read_text() for word in ("os.environ", "getenv", "from os import environ"))
    }
    assert readers == COMMAND_LINES
