"""How a model becomes INT8. Loads neither ONNX nor ONNX Runtime."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alignseg_infer.arrays import Size
from alignseg_infer.choices import choose, convert_choices
from alignseg_infer.datasets.image_sets import DEFAULT_MAX_IMAGES
from alignseg_infer.errors import OptionError
from alignseg_infer.export.int8.histograms import DEFAULT_METHOD, CalibrationMethod
from alignseg_infer.spec.model import Precision


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """How a model is calibrated.

    Attributes:
        method: How ranges are chosen.
        size: Network input size, as `Predictor` takes it; None for the model's own if it is
            fixed, else the images'.
        cache: File that keeps what was seen, after each image; None to keep nothing.
        threads: CPU threads; None for the runtime's choice.
    """

    method: CalibrationMethod = DEFAULT_METHOD
    size: str | int | Size | None = None
    cache: Path | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        convert_choices(self)


@dataclass(frozen=True, kw_only=True)
class QuantizationOptions:
    """Which convolutions are quantised.

    Attributes:
        keep_float: Blocks or layers that are not, such as ``stem``, ``layer4`` or ``RRB2b.inner``.
    """

    keep_float: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Int8Options:
    """How a model becomes INT8.

    Attributes:
        source: Images to calibrate with, as `choose_images` takes them.
        max_images: How many of them to use at most.
        calibration: How ranges are found.
        quantization: What stays float in any case.
        budget: Largest share of the pixels of the calibration images, in percent, that may get
            another label than in FP32; None for no limit. Blocks stay float until it is met.

    Raises:
        OptionError: The budget is negative.
    """

    source: Path
    max_images: int = DEFAULT_MAX_IMAGES
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    quantization: QuantizationOptions = field(default_factory=QuantizationOptions)
    budget: float | None = None

    def __post_init__(self) -> None:
        if self.budget is not None:
            require_budget(self.budget)


def require_budget(budget: float) -> None:
    """Raise OptionError if no drop can be at most `budget`."""
    if not budget >= 0:  # NaN too
        raise OptionError(f"int8_budget={budget:g}", "0 or more percent", "int8_budget=0.5")


def int8_options_for(
    precision: Precision | None,
    *,
    calibration: str | Path | None,
    max_calibration_images: int = DEFAULT_MAX_IMAGES,
    calibration_method: str = DEFAULT_METHOD,
    calibration_size: str | int | Size | None = None,
    calibration_cache: str | Path | None = None,
    keep_float: Sequence[str] = (),
    int8_budget: float | None = None,
) -> Int8Options | None:
    """Return what INT8 needs, from what commands and functions are given; None for no INT8.

    Raises:
        OptionError: Something is missing for INT8, or was given for another precision.
    """
    given: dict[str, object] = {
        "calibration": calibration,
        "calibration_size": calibration_size,
        "calibration_cache": calibration_cache,
        "keep_float": keep_float or None,
        "int8_budget": int8_budget,
    }
    if precision is not Precision.INT8:
        for name in (name for name, value in given.items() if value is not None):
            raise needs_int8(name)
        return None
    if calibration is None:
        raise needs_calibration()
    return Int8Options(
        source=Path(calibration),
        max_images=max_calibration_images,
        calibration=CalibrationOptions(
            method=choose(CalibrationMethod, calibration_method, "calibration_method"),
            size=calibration_size,
            cache=None if calibration_cache is None else Path(calibration_cache),
        ),
        quantization=QuantizationOptions(keep_float=tuple(keep_float)),
        budget=int8_budget,
    )


def needs_int8(name: str) -> OptionError:
    """Return the error for an option of INT8 without INT8."""
    return OptionError(
        f"{name}= was given without precision='int8'",
        "options of INT8 with INT8 only",
        "precision='int8'; images to compare labels on are named with verification=",
    )


def needs_calibration() -> OptionError:
    """Return the error for INT8 without images to calibrate with."""
    return OptionError(
        "precision='int8' was asked for without images to calibrate with",
        "some 100 images like those the model will see: a folder, a list, or a video",
        "calibration=FOLDER",
    )
