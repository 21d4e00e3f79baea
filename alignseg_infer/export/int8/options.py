"""Options for converting a model to INT8. Loads neither ONNX nor ONNX Runtime."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alignseg_infer.arrays import Size
from alignseg_infer.choices import choose, convert_choices
from alignseg_infer.datasets.addresses import plain_place
from alignseg_infer.datasets.image_sets import DEFAULT_MAX_IMAGES
from alignseg_infer.errors import OptionError
from alignseg_infer.export.int8.histograms import DEFAULT_METHOD, CalibrationMethod
from alignseg_infer.files.reading import user_path
from alignseg_infer.pixels.encoded import MAX_PIXELS
from alignseg_infer.spec.model import Precision, Target


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions:
    """How a model is calibrated.

    Attributes:
        method: How the range of each tensor is chosen.
        size: Network input size, as `Predictor` takes it; None for the model's own if it is
            fixed, else the images'.
        cache: File that stores the measured values after each image; None for one in the folder
            of `files.caches.cache_folder`.
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
        keep_float: Blocks or layers that are not quantised, such as ``stem``, ``layer4`` or
            ``RRB2b.inner``.
        target: Which hardware the graph is for.
    """

    keep_float: tuple[str, ...] = ()
    target: Target = Target.TENSORRT


@dataclass(frozen=True, kw_only=True)
class Int8Options:
    """How a model is converted to INT8.

    Attributes:
        source: Images to calibrate with, as `choose_images` takes them.
        max_images: Maximum number of images to calibrate with.
        calibration: How ranges are found.
        quantization: What stays in float in any case.
        budget: Maximum percentage of the calibration images' pixels that may get another label
            than in FP32; None for no limit. Blocks stay in float until it is met.
        max_pixels: The largest number of pixels of an image file.
        keep_matrices: Whether a graph for CPUs goes on upsampling by matrices if the FP32 file
            does. Resize is faster.

    Raises:
        OptionError: The budget is negative.
    """

    source: str | Path
    max_images: int = DEFAULT_MAX_IMAGES
    calibration: CalibrationOptions = field(default_factory=CalibrationOptions)
    quantization: QuantizationOptions = field(default_factory=QuantizationOptions)
    budget: float | None = None
    max_pixels: int = MAX_PIXELS
    keep_matrices: bool = False

    def __post_init__(self) -> None:
        if self.budget is not None:
            require_budget(self.budget)


def require_budget(budget: float) -> None:
    """Raise OptionError if `budget` is negative or not a number."""
    if not budget >= 0:  # true for NaN too
        raise OptionError(f"int8_budget={budget:g}", "0 or more percent", "int8_budget=0.5")


def int8_options_for(
    precision: Precision | None,
    *,
    calibration: str | Path | None = None,
    max_calibration_images: int = DEFAULT_MAX_IMAGES,
    calibration_method: str = DEFAULT_METHOD,
    calibration_size: str | int | Size | None = None,
    calibration_cache: str | Path | None = None,
    keep_float: Sequence[str] = (),
    int8_budget: float | None = None,
    max_pixels: int = MAX_PIXELS,
    target: str | None = None,
) -> Int8Options | None:
    """Return the INT8 options that arguments of commands and functions ask for; None without INT8.

    Raises:
        OptionError: INT8 lacks an argument, or an argument of INT8 was given without it.
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
        source=plain_place(calibration),
        max_images=max_calibration_images,
        calibration=CalibrationOptions(
            method=choose(CalibrationMethod, calibration_method, "calibration_method"),
            size=calibration_size,
            cache=None if calibration_cache is None else user_path(calibration_cache),
        ),
        quantization=QuantizationOptions(
            keep_float=tuple(keep_float),
            target=choose(Target, target or Target.TENSORRT, "target"),
        ),
        budget=int8_budget,
        max_pixels=max_pixels,
    )


def needs_int8(name: str) -> OptionError:
    """Return the error for an INT8 option that was given without INT8."""
    return OptionError(
        f"{name}= was given without precision='int8'",
        "INT8 options only with INT8",
        "precision='int8'; or verification= if these images are for comparing labels",
    )


def needs_calibration() -> OptionError:
    """Return the error for INT8 without images to calibrate with."""
    return OptionError(
        "precision='int8' was asked for without images to calibrate with",
        "about 100 images like those the model will see: a folder, a list, or a video",
        "calibration=FOLDER",
    )
