"""What Python has had since 3.11, for Python 3.10 too."""

import sys

if sys.version_info >= (3, 11):
    from enum import StrEnum
    from typing import NotRequired, Self
else:
    from enum import Enum

    from typing_extensions import NotRequired, Self

    class StrEnum(str, Enum):
        """An enum whose members are texts: ``str(member)`` is its value."""

        __str__ = str.__str__


__all__ = ["NotRequired", "Self", "StrEnum"]
