"""Reads the Markdown pages: their blocks of code, commands, links and headings."""

import argparse
import re
import runpy
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from alignseg_infer.cli import main

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "plugins" / "README.md"]
OTHERS = [ROOT / "CHANGELOG.md", ROOT / "tests/data/README.md", *(ROOT / ".github").glob("*.md")]
LANGUAGES = {"bash", "python", "cpp"}
EXPENSIVE = {"export-onnx", "export-trt", "verify", "sensitivity"}  # half a minute each

_BLOCK = re.compile(
    r"^(?:<!-- not run: ([^\n]+) -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        language: What the fence names, such as ``bash``.
        text: The lines between the fences.
        reason: Why it is not run, from the comment ``<!-- not run: REASON -->`` on the line above;
            None if it is run.
    """

    language: str
    text: str
    reason: str | None

    @property
    def is_run(self) -> bool:
        return self.reason is None and self.language in {"bash", "python"}

    @property
    def is_expensive(self) -> bool:
        return any(EXPENSIVE.intersection(words) for words in commands_of(self))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks_of(page: Path) -> list[Block]:
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(language, text, reason or None) for reason, language, text in found]


def commands_of(block: Block) -> list[list[str]]:
    """The words of each command of a ``bash`` block."""
    if block.language != "bash":
        return []
    lines = block.text.replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in line.split(" && ")]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def prose_of(page: Path) -> str:
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def links_of(page: Path) -> list[str]:
    return [link for link in _LINK.findall(prose_of(page)) if "://" not in link]


def anchors_of(page: Path) -> set[str]:
    """What GitHub calls the headings in a link."""
    headings = _HEADING.findall(prose_of(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


class _OptionsParsed(BaseException):
    """Ends a program that has parsed its options."""


def parse_options(words: Sequence[str]) -> bool:
    """Let the program parse its options, and stop it then.

    Returns:
        Whether it is one of our programs.

    Raises:
        SystemExit: It does not know an option, or misses one.
    """
    starts = [at for at, word in enumerate(words) if word in {"alignseg", "python", "python3"}]
    if not starts:
        return False
    program, *arguments = words[starts[0] :]
    with pytest.MonkeyPatch.context() as patch:
        parse_args = argparse.ArgumentParser.parse_args

        def parse_and_stop(*args: Any, **kwargs: Any) -> NoReturn:
            parse_args(*args, **kwargs)
            raise _OptionsParsed

        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        try:
            if program == "alignseg":
                main(arguments)
            elif arguments[0] == "-c":
                compile(arguments[1], "-c", "exec")
                return True
            elif arguments[:2] in (["-m", "pytest"], ["-m", "pip"]):
                return False
            elif arguments[0] == "-m":
                patch.setattr(sys, "argv", arguments[1:])
                runpy.run_module(arguments[1], run_name="__main__")
            else:
                patch.setattr(sys, "argv", arguments)
                runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
        except _OptionsParsed:
            return True
    raise AssertionError(f"{words} parsed no options")
