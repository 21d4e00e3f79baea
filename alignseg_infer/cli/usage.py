"""Wrong usage: says what is wrong, how the command is written, and what was probably meant."""

import argparse
import contextlib
import re
import shlex
import sys
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

from alignseg_infer.backends import CHECKPOINT_SUFFIXES, ONNX_SUFFIX
from alignseg_infer.cli.translation import translate
from alignseg_infer.demo import DEMO
from alignseg_infer.files.reading import user_path
from alignseg_infer.text import near_words, printable
from alignseg_infer.trt.engine_file import ENGINE_SUFFIXES

MODEL_SUFFIXES = (ONNX_SUFFIX, *CHECKPOINT_SUFFIXES, *ENGINE_SUFFIXES)
WRONG_USAGE = 2  # exit code
ONE_LINE = 10_000  # characters, so that a usage is not wrapped
# What other programs call these options. They are too different from ours to be misspellings.
OTHER_NAMES = {
    "--output": "--destination",
    "--out-dir": "--destination",
    "--output-dir": "--destination",
    "--save-dir": "--destination",
    "--alpha": "--opacity",
    "--imgsz": "--size",
    "--limit": "--max-images",
    "--fps": "--rate",
    "--gpu": "--device",
    "--fp16": "--precision",
    "--half": "--precision",
}


class CommandParser(argparse.ArgumentParser):
    """A parser whose errors say what was probably meant instead of listing all options."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments; unknown ones are an error of this command, reported before others."""
        args = sys.argv[1:] if args is None else args
        self._require_known_options(args)
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"{unknown[0]!r} is one argument too many{self._advise_side_by_side()}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and exit with code 2."""
        self.fail(translate(message, self), f"{self.prog} --help")

    def fail(self, problem: str, advice: str) -> NoReturn:
        """Print how the command is written, what is wrong, and what to type; exit with code 2."""
        needed = [
            action for action in self._actions if action.required or not action.option_strings
        ]
        formatter = argparse.HelpFormatter(self.prog, width=ONE_LINE)
        formatter.add_usage(None, needed, [])
        usage = formatter.format_help().strip()
        said = f"error: {printable(problem)}\n  try: {printable(advice)}"
        self.exit(WRONG_USAGE, f"{usage} [options]\n{said}\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Ignore that help cannot be printed, as argparse itself does from Python 3.11 on."""
        with contextlib.suppress(OSError):
            super()._print_message(message, file)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Say which choice was probably meant, as argparse itself does from Python 3.14 on."""
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        option = action.option_strings[-1] if action.option_strings else ""
        near = near_words(str(value), known, most=2)
        advice = near or self._options_like(option, only_others=True)
        told = f"; did you mean {' or '.join(advice)}?" if advice else ""
        raise argparse.ArgumentError(
            action, f"invalid choice: {str(value)!r}{told} (choose from {', '.join(known)})"
        )

    def _require_known_options(self, arguments: Sequence[str]) -> None:
        """Check options before argparse does, which first asks for arguments that are missing."""
        before_end = takewhile(lambda text: text != "--", arguments)
        if self._subparsers is not None:  # what follows the command belongs to the command
            before_end = takewhile(lambda text: text.startswith("-"), before_end)
        for text in before_end:
            name = text.partition("=")[0]
            if re.match(r"-[^\s\d.]", text) and " " not in name and not self._is_option(name):
                near = self._options_like(name)
                told = f"; did you mean {near[0]}?" if near else ""
                if self._subparsers is not None:
                    told += "; options of a command follow its name"
                self.error(f"there is no option {name}{told}")

    def _is_option(self, name: str) -> bool:
        known = self._option_string_actions
        if name.startswith("--"):
            return any(option.startswith(name) for option in known)
        return name[:2] in known

    def _options_like(self, name: str, *, only_others: bool = False) -> list[str]:
        """Return the options that `name` may mean, each as it is shown in the usage."""
        known = self._option_string_actions
        other = OTHER_NAMES.get(name)
        near = [] if only_others else near_words(name, (key for key in known if key[:2] == "--"))
        found = [other] if other in known else near
        return ["/".join(known[option].option_strings) for option in found if option]

    def _advise_side_by_side(self) -> str:
        several = [
            action.dest
            for action in self._actions
            if action.nargs == "+" and not action.option_strings
        ]
        return f"; write all {several[0]} side by side" if several else ""


def require_order(arguments: argparse.Namespace, typed: Sequence[str]) -> None:
    """Check that no model was written behind the images or the source that it should segment.

    Args:
        arguments: What `typed` was parsed into, with the command's parser in ``parser``.
        typed: The words of the command line.
    """
    names = [action.dest for action in arguments.parser._actions if not action.option_strings]
    if names[:1] != ["model"] or not names[1:] or _looks_like_model(str(arguments.model)):
        return
    given = getattr(arguments, names[1])
    sources = map(str, given if isinstance(given, list) else [given])
    models = [source for source in sources if _looks_like_model(source)]
    if len(models) == 1:
        words = _put_first(typed, models[0], str(arguments.model), arguments.parser)
        arguments.parser.fail(
            f"{arguments.model} stands where the model belongs, and the model {models[0]} after it",
            shlex.join(["alignseg", *words]),
        )


def _looks_like_model(text: str) -> bool:
    return text == DEMO or Path(text).suffix.lower() in MODEL_SUFFIXES


def _put_first(
    typed: Sequence[str], model: str, first: str, parser: argparse.ArgumentParser
) -> list[str]:
    """Return the words with `model` in front of `first`; neither is the value of an option."""
    options = parser._option_string_actions.items()
    takes_value = {option for option, action in options if action.nargs != 0}
    free = [at for at in range(len(typed)) if at == 0 or typed[at - 1] not in takes_value]
    places = {str(user_path(typed[at])): at for at in reversed(free)}
    place, taken = places[str(user_path(first))], places[str(user_path(model))]
    words = [word for at, word in enumerate(typed) if at != taken]
    return [*words[:place], typed[taken], *words[place:]]
