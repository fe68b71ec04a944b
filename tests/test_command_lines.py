import ast
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PROGRAMS = ("api", "bench", "docker", "migrations", "opad_core", "tests", "worker")


def parser_calls() -> list[tuple[str, set[str | None]]]:
    """Return every call that adds a command or an option to a command line, and the names of its keyword arguments."""
    found = []
    for program in PROGRAMS:
        for file in (REPOSITORY / program).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                if node.func.attr in ("add_argument", "add_parser"):
                    found.append((f"{file.name}: {ast.unparse(node)}", {word.arg for word in node.keywords}))
    return found


def test_every_command_and_option_has_help():
    calls = parser_calls()
    assert len(calls) > 60
    assert [call for call, keywords in calls if "help" not in keywords] == []
