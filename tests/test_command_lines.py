import argparse

import pytest

import opad_core.__main__
import worker.cli


def explained(parser: argparse.ArgumentParser) -> list[str]:
    """Every option and argument of the parser and its commands; fails at the first that has no help."""
    found = []
    for action in parser._actions:  # argparse has no other way to list them
        if isinstance(action, argparse._SubParsersAction):
            assert {choice.dest for choice in action._choices_actions} == action.choices.keys(), "a command has no help"
            found += [name for command in action.choices.values() for name in explained(command)]
        else:
            name = f"{parser.prog} {action.option_strings or action.dest}"
            assert action.help, f"{name} has no help"
            found.append(name)
    return found


@pytest.mark.parametrize("parser", [opad_core.__main__.command_line(), worker.cli.command_line()], ids=lambda p: p.prog)
def test_every_option_has_help(parser):
    assert len(explained(parser)) > 15
