"""Which engine an ``.onnx`` file should run in, and who builds it. Loads no runtime."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from alignseg_infer.arrays import InputShape, Size
from alignseg_infer.choices import convert_choices
from alignseg_infer.errors import OptionError
from alignseg_infer.pixels.preprocess import SizePolicy
from alignseg_infer.spec.model import (
    MAX_INPUT_SIDE,
    MIN_INPUT_SIDE,
    ExportSpec,
    ModelSpec,
    Precision,
)
from alignseg_infer.trt.builder.options import BuildOptions, shape_text
from alignseg_infer.trt.engine_file import Profile

# For images of any size, from thumbnails to Full HD in either orientation; fastest at 1024x2048,
# the size of Cityscapes, which has nearly as many pixels as Full HD.
ANY_SIZE = ((256, 256), (1024, 2048), (2048, 2048))
MOST_ASPECT = 4  # with a longest side: the other side may be this many times shorter
USUAL_ASPECT = 16 / 9


@dataclass(frozen=True, kw_only=True)
class EngineOrder:
    """The engine that an ``.onnx`` file should run in.

    Attributes:
        precision: What it computes in: ``fp32`` or ``fp16``; None for the precision of the file.
        shapes: Input shapes that it takes; None for those that follow from the rest.
        policy: How the network's input size is chosen.
        tile: Size of a sliding window's tile, if there is one.
        scales: Factors on the input size.
        batch: The most inputs per call.
        check: Called with the file's facts before anything is built; raises what does not fit.
    """

    precision: Precision | None = None
    shapes: Profile | None = None
    policy: SizePolicy = SizePolicy()  # noqa: RUF009 - frozen
    tile: Size | None = None
    scales: tuple[float, ...] = (1.0,)
    batch: int = 1
    check: Callable[[ModelSpec], object] = lambda spec: None

    def __post_init__(self) -> None:
        convert_choices(self)
        if self.shapes is not None and self.batch > self.shapes.maximum.batch:
            largest = dataclasses.replace(self.shapes.maximum, batch=self.batch)
            raise OptionError(
                f"batch={self.batch} with max_shape={shape_text(self.shapes.maximum)}",
                "a batch that the engine takes",
                f"max_shape={shape_text(largest)}, or batch={self.shapes.maximum.batch}",
            )

    def profile_for(self, export: ExportSpec) -> Profile:
        """Return the input shapes that the engine should take.

        They are those that were asked for, or one size if the file, `size`, or a tile fixes it.
        With a longest side, the other side may be up to four times shorter. Images of any size
        may have 256x256 to 2048x2048 pixels.
        """
        if self.shapes is not None:
            return self.shapes
        least, most = export.batch or 1, export.batch or self.batch
        smallest, best, largest = self._sizes(export)
        return Profile(
            InputShape(least, *smallest), InputShape(most, *best), InputShape(most, *largest)
        )

    def _sizes(self, export: ExportSpec) -> tuple[Size, Size, Size]:
        fixed = export.size or self.tile
        if fixed is not None:
            return fixed, fixed, fixed
        smallest, best, largest = self._unscaled_sizes()
        low, high = min(1.0, *self.scales), max(1.0, *self.scales)
        return _scale(smallest, low), best, _scale(largest, high)

    def _unscaled_sizes(self) -> tuple[Size, Size, Size]:
        if self.policy.fixed is not None:
            return (self.policy.fixed,) * 3
        if self.policy.longest_side is None:
            return ANY_SIZE
        side = self.policy.longest_side
        short = max(MIN_INPUT_SIDE, side // MOST_ASPECT)
        usual = max(short, round(side / USUAL_ASPECT))
        return (short, short), (usual, side), (side, side)


def _scale(size: Size, factor: float) -> Size:
    height, width = (
        min(max(round(side * factor), MIN_INPUT_SIDE), MAX_INPUT_SIDE) for side in size
    )
    return height, width


# Builds an engine of an .onnx file: the file, the precision to convert it to (None for its own),
# the options, and the plan file to write.
BuildEngine: TypeAlias = Callable[[Path, Precision | None, BuildOptions, Path], object]
_BUILDERS: list[BuildEngine] = []


def build_engines_with(build: BuildEngine) -> None:
    """Say who builds engines in this process. The rooms that do it are above this one."""
    _BUILDERS.append(build)


@contextmanager
def building_engines_with(build: BuildEngine) -> Iterator[None]:
    """Say who builds engines during the block, such as a command that shows its progress."""
    _BUILDERS.append(build)
    try:
        yield
    finally:
        _BUILDERS.remove(build)


def engine_builder() -> BuildEngine:
    """Return who builds engines: the last one that was named."""
    return _BUILDERS[-1]
