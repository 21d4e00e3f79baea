"""What is asked of a tuning."""

import math
from dataclasses import dataclass

from alignseg_infer.arrays import Size
from alignseg_infer.choices import convert_choices
from alignseg_infer.errors import OptionError
from alignseg_infer.pixels.encoded import MAX_PIXELS
from alignseg_infer.tuning.candidates import Goal

DEFAULT_SECONDS = 120.0
DEFAULT_IMAGES = 8
DEFAULT_BATCH = 4  # images per call, where many are to be fast


@dataclass(frozen=True, kw_only=True)
class TuningOptions:
    """What is to be fast, on what, and how long may be measured.

    Attributes:
        goal: ``"latency"`` of one image, or ``"throughput"`` of many.
        seconds: About how long to measure; at least one candidate and five rounds at the end.
        size: Size of the network's input, as `Predictor` takes it.
        batch: Images per call that compete with single ones, for throughput only; None for 4.
            There must be as many images.
        min_agreement: Share of the pixels, 0..1, that must get the same label as in FP32; None for
            0.999 (FP32), 0.995 (FP16 and bfloat16) or 0.98 (INT8).
        max_images: Maximum number of images, spread evenly over the source.
        max_pixels: The largest number of pixels of an image file.

    Raises:
        OptionError: A value cannot be used.
    """

    goal: Goal = Goal.LATENCY
    seconds: float = DEFAULT_SECONDS
    size: str | int | Size | None = None
    batch: int | None = None
    min_agreement: float | None = None
    max_images: int = DEFAULT_IMAGES
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        convert_choices(self)
        if not 0 < self.seconds < math.inf:
            raise OptionError(
                f"seconds={self.seconds}", "more than 0", f"seconds={DEFAULT_SECONDS:.0f}"
            )
        if self.min_agreement is not None and not 0 < self.min_agreement <= 1:
            raise OptionError(
                f"min_agreement={self.min_agreement}",
                "a share of the pixels, above 0 and up to 1",
                "min_agreement=0.99",
            )
        if self.batch is not None and (self.goal is Goal.LATENCY or self.batch < 2):
            raise OptionError(
                f"batch={self.batch} was given with goal={self.goal.value!r}",
                "2 images per call or more, and only where many images are to be fast",
                f"goal={Goal.THROUGHPUT.value!r} with batch={DEFAULT_BATCH}",
            )

    @property
    def batches(self) -> list[int]:
        """How many images per call compete."""
        return [1] if self.goal is Goal.LATENCY else [1, self.batch or DEFAULT_BATCH]
