"""What the library calls parameters, in the words of a command: ``size=(512, 1024)``.

The library names a parameter ``size=`` or, with a value, ``size=(512, 1024)``, as Python writes it.
A command whose option has that name says ``--size``, or ``--size 512x1024``. Names that are no
option of the command stay as they are.
"""

import argparse
import ast
import re

from alignseg_infer.errors import AlignSegError

_PARAMETER = re.compile(
    r"""(?<![\w.-])(?P<name>[a-z][a-z0-9_]*)=
    (?P<value>'[^']*'|"[^"]*"|\([^()]*\)|\[[^][]*\]|[^\s,;:()'"]*[^\s,;:.()'"])?""",
    re.VERBOSE,
)


def translate_error(error: AlignSegError, parser: argparse.ArgumentParser) -> None:
    """Rewrite the parts of `error` in the words of the command that `parser` reads."""
    parts = (error.problem, error.expected, error.fix)
    error.args = tuple(translate(part, parser) for part in parts)
    error.problem, error.expected, error.fix = error.args


def translate(text: str, parser: argparse.ArgumentParser) -> str:
    """Return `text` with parameters that are options of the command written as such."""
    options = {action.dest: action for action in parser._actions if action.option_strings}

    def replace(match: re.Match[str]) -> str:
        action = options.get(match["name"])
        return match[0] if action is None else _typed(action, match["value"])

    return _PARAMETER.sub(replace, text)


def _typed(action: argparse.Action, text: str | None) -> str:
    """The option as it is typed, with the value that Python wrote as `text`."""
    value = None if text is None else _value(text)
    option = action.option_strings[-1 if value is False else 0]
    if text is None or isinstance(value, bool):
        return option
    if isinstance(value, tuple | list):
        separator = " " if action.nargs else ("," if isinstance(value, list) else "x")
        value = separator.join(map(str, value))
    return f"{option} {value}"


def _value(text: str) -> object:
    """The value, or `text` where it is no literal of Python, such as ``FOLDER`` or ``1/3``."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text[1:-1].replace(", ", " ") if text[0] in "([" else text
