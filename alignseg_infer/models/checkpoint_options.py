"""Facts that a user can give about a checkpoint. This module does not import PyTorch."""

from dataclasses import dataclass

from alignseg_infer.backports import StrEnum
from alignseg_infer.choices import convert_choices
from alignseg_infer.errors import OptionError
from alignseg_infer.spec.model import ChannelOrder, ClassSpec, NormKind, SamplingConvention


class Weights(StrEnum):
    """Which copy of the weights: their average over training, or those of the last step."""

    EMA = "ema"
    RAW = "raw"


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """The user's facts about a checkpoint; None takes the file's fact or our assumption.

    Attributes:
        convention: Sampling convention of the code that trained the weights.
        norm: How normalisation weights are used.
        classes: Names and colours.
        channel_order: Channel order of the input.
        mean: Mean to subtract from pixels in 0..255, one number per channel in that order.
        std: Standard deviation to divide by, one number per channel.
        weights: Which copy to take from a file that has both; None for the averaged one, which
            training code evaluates and publishes.
        threshold: Probability above which a pixel is foreground, between 0 and 1, for a network
            with one class; None for 0.5. Its logit is subtracted, so confidence is relative to it:
            both classes have 0.5 where the network's probability is the threshold.

    Raises:
        OptionError: A value cannot be used.
    """

    convention: SamplingConvention | None = None
    norm: NormKind | None = None
    classes: ClassSpec | None = None
    channel_order: ChannelOrder | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    weights: Weights | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        convert_choices(self)
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _three_numbers(name, value))
        if self.threshold is not None and not _is_share(self.threshold):
            raise OptionError(
                f"threshold={self.threshold!r}",
                "a probability above 0 and below 1",
                "threshold=0.5",
            )


def _three_numbers(name: str, value: object) -> tuple[float, ...]:
    numbers = value if isinstance(value, list | tuple) else ()
    if len(numbers) != 3 or not all(isinstance(number, int | float) for number in numbers):
        raise OptionError(
            f"{name}={value!r}",
            "three numbers, one for each channel",
            f"{name}=(104.0, 116.7, 122.7)",
        )
    return tuple(float(number) for number in numbers)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < 1
