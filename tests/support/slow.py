"""Cases of a test that ``-m slow`` runs, beside those that always run."""

from typing import Any

import pytest


def all_slow(*cases: Any) -> list[Any]:
    """Return `cases` of a parametrized test as ones that ``-m slow`` runs."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for case in cases
    ]
