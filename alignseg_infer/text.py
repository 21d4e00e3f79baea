"""Names as terminals, Markdown and plots show them, and what a misspelt one may mean."""

import difflib
import re
from collections.abc import Iterable, Sequence

# What terminals obey instead of showing: C0 and C1, ends of lines, changes of the direction of
# writing; and lone surrogates, which no encoding has. Names of files may hold all of these.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# What Markdown obeys wherever it stands: marks, formulas, links, HTML tags and entities.
_MARK = re.compile(r"[\\|*`$]|\](?=\()|<(?=[A-Za-z/!?])|&(?=#?\w+;)")
_ENTITIES = {"<": "&lt;", "&": "&amp;"}


def near_words(word: str, known: Iterable[str], most: int = 1) -> list[str]:
    """Return the known words that `word` may be a misspelling of, the nearest first."""
    lower = {each.lower(): each for each in known}
    return [lower[near] for near in difflib.get_close_matches(word.lower(), lower, n=most)]


def version_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a release: (10, 13, 3, 9) for ``10.13.3.9.post1``; none for no text."""
    release = re.split(r"[^\d.]", text)[0]
    return tuple(map(int, re.findall(r"\d+", release)))


def printable(text: str) -> str:
    r"""Return `text` in one line that a terminal shows and does not obey: ESC becomes ``\x1b``."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def printable_lines(text: str) -> str:
    """Return lines as `printable` does. Only lines that begin with two spaces are lines of ours."""
    return "\n".join(map(printable, re.split("\n(?=  )", text)))


def markdown_text(text: str) -> str:
    """Return `text` in one line that Markdown shows as it is, in a table too."""
    return _MARK.sub(lambda match: _ENTITIES.get(match[0], f"\\{match[0]}"), printable(text))


def plot_text(text: str) -> str:
    """Return `text` in one line that Matplotlib shows as it is; ``$...$`` would be a formula."""
    return printable(text).replace("$", r"\$")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, one line for the header and one for each row, of plain text.

    The text does not end with a newline.
    """
    lines = [[markdown_text(cell) for cell in line] for line in (header, *rows)]
    lines.insert(1, ["---"] * len(header))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def first_few(names: list[str], shown: int = 6) -> str:
    """Join the first few names, and say how many more there are."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f", and {more} more" if more > 0 else "")
