"""What takes the place of a result that could not be made."""

import traceback
from dataclasses import dataclass

from alignseg_infer.backports import Self, StrEnum


class OnError(StrEnum):
    """What happens to an image that cannot be segmented: ``raise`` or ``return`` its error."""

    RAISE = "raise"
    RETURN = "return"


@dataclass(frozen=True, eq=False)
class Failure:
    """An image that could not be segmented, in place of its `Segmentation`. It is false.

    Attributes:
        source: Path of the image, as it was given; None for an array, bytes or a PIL image.
        error: What went wrong; an `AlignSegError`, unless the model or an image is of your own.
    """

    source: str | None
    error: Exception

    @classmethod
    def of(cls, source: str | None, error: Exception) -> Self:
        """Make a failure that does not keep the image and other arrays in memory."""
        link: BaseException | None = error
        seen: list[BaseException] = []
        while link is not None and link not in seen:  # causes may form a circle
            traceback.clear_frames(link.__traceback__)
            seen.append(link)
            link = link.__cause__ or link.__context__
        return cls(source, error)

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        name = f"{self.source}, " if self.source else ""
        first, *_ = str(self.error).splitlines() or [""]
        return f"Failure({name}{type(self.error).__name__}: {first})"
