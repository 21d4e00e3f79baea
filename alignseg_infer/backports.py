"""What Python has had since 3.11, for Python 3.10 too."""

import sys

if sys.version_info >= (3, 11):
    from enum import StrEnum
    from importlib.metadata import packages_distributions
    from typing import NotRequired, Self
else:
    import importlib.metadata
    from enum import Enum

    from typing_extensions import NotRequired, Self

    class StrEnum(str, Enum):
        """An enum whose members are texts: ``str(member)`` is its value."""

        __str__ = str.__str__

    def packages_distributions() -> dict[str, list[str]]:
        """Return the distributions of each import name; 3.10's own misses most wheels."""
        found: dict[str, list[str]] = {}
        for one in importlib.metadata.distributions():
            for name in {path.parts[0].removesuffix(".py") for path in one.files or ()}:
                found.setdefault(name, []).append(one.metadata["Name"])
        return found


__all__ = ["NotRequired", "Self", "StrEnum", "packages_distributions"]
