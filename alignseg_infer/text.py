"""Text that is shown to people: tables in Markdown, and what a misspelt word may mean."""

import difflib
from collections.abc import Iterable, Sequence


def near_words(word: str, known: Iterable[str], most: int = 1) -> list[str]:
    """Return the known words that `word` may be a misspelling of, the nearest first."""
    lower = {each.lower(): each for each in known}
    return [lower[near] for near in difflib.get_close_matches(word.lower(), lower, n=most)]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, one line for the header and one for each row.

    The text does not end with a newline.
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )
