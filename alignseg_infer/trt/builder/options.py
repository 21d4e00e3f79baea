"""Options of a build, checked before TensorRT is loaded."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from alignseg_infer.arrays import InputShape
from alignseg_infer.backports import StrEnum
from alignseg_infer.choices import convert_choices
from alignseg_infer.errors import OptionError
from alignseg_infer.pixels.preprocess import require_input_size
from alignseg_infer.spec.model import MAX_BATCH, ExportSpec
from alignseg_infer.trt.engine_file import Profile
from alignseg_infer.trt.flavours import Flavour, require_option_of

MAX_OPTIMIZATION_LEVEL = 5
MEBIBYTE = 1 << 20
MAX_WORKSPACE = 1 << 20  # MiB
# Of all images of one call. 64x2048x4096 and 1024x512x1024 have as many.
MAX_PROFILE_PIXELS = 1 << 29
# A network of 256 decoder channels in float16 needs 1.4 GB for an image of 1024x2048.
BYTES_A_PIXEL = 700
MUCH_MEMORY = 24e9  # bytes; what large consumer GPUs have


class HardwareCompatibility(StrEnum):
    """The other GPUs that an engine runs on; TensorRT's ``HardwareCompatibilityLevel``.

    ``ampere-plus`` means every GPU since Ampere, but the engine is slower.
    ``same-compute-capability`` means every GPU of the same compute capability.
    """

    NONE = "none"
    AMPERE_PLUS = "ampere-plus"
    SAME_COMPUTE_CAPABILITY = "same-compute-capability"


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How to build an engine.

    Attributes:
        flavour: Which TensorRT.
        profile: Input shapes it takes; None if the graph takes only one.
        workspace: MiB of GPU memory an algorithm may use; None for all there is.
        timing_cache: File of measurements that later builds use again; TensorRT only.
        version_compatible: Whether later versions should run it too; TensorRT only.
        hardware_compatibility: The other GPUs it should run on; TensorRT only.
        compute_capabilities: GPUs to build for, e.g. ``("8.9", "12.0")``; TensorRT for RTX only.
            Empty for its default, `flavours.RTX_DEFAULT`.
        optimization_level: 0 (fastest build) to 5 (longest search); None for TensorRT's default, 3.
        tf32: Whether float32 convolutions and products may round their inputs to 10 bits of
            mantissa (TF32), which is TensorRT's default but not ours.
        plugin: Library of TensorRT plugins; None for the default of `find_plugin_library`.
        embed_plugin: Whether to put the library into the engine, so that it needs no file of
            plugins where it runs. TensorRT does this only for version-compatible engines.

    Raises:
        OptionError, SizeError: A value cannot be used.
    """

    flavour: Flavour = Flavour.TENSORRT
    profile: Profile | None = None
    workspace: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatibility: HardwareCompatibility = HardwareCompatibility.NONE
    compute_capabilities: tuple[str, ...] = ()
    optimization_level: int | None = None
    tf32: bool = False
    plugin: Path | None = None
    embed_plugin: bool = False

    def __post_init__(self) -> None:
        convert_choices(self)
        given = {
            "timing_cache": self.timing_cache is not None,
            "version_compatible": self.version_compatible,
            "hardware_compatibility": (
                self.hardware_compatibility is not HardwareCompatibility.NONE
            ),
            "compute_capabilities": bool(self.compute_capabilities),
            "plugin": self.plugin is not None,
            "embed_plugin": self.embed_plugin,
        }
        for option in filter(given.__getitem__, given):
            require_option_of(self.flavour, option)
        if self.profile is not None:
            _require_ordered(self.profile)
        if self.workspace is not None and not 1 <= self.workspace <= MAX_WORKSPACE:
            raise OptionError(
                f"workspace={self.workspace!r}", f"1 to {MAX_WORKSPACE} MiB", "workspace=4096"
            )
        if self.embed_plugin and not self.version_compatible:
            raise OptionError(
                "embed_plugin=True without version_compatible=True",
                "both options: TensorRT puts libraries only into version-compatible engines "
                "(NvInfer.h, setPluginsToSerialize)",
                "embed_plugin=True with version_compatible=True, or neither",
            )
        level = self.optimization_level
        if level is not None and not 0 <= level <= MAX_OPTIMIZATION_LEVEL:
            raise OptionError(
                f"optimization_level={level!r}",
                f"0 to {MAX_OPTIMIZATION_LEVEL}",
                "optimization_level=3",
            )


def _require_ordered(profile: Profile) -> None:
    for shape in (profile.minimum, profile.optimum, profile.maximum):
        require_input_size((shape.height, shape.width))
        if not 1 <= shape.batch <= MAX_BATCH:
            raise OptionError(
                f"a batch of {shape.batch} in {shape}",
                f"1 to {MAX_BATCH}",
                f"1x{shape.height}x{shape.width}",
            )
    needed = memory_estimate(profile.maximum)
    if needed > BYTES_A_PIXEL * MAX_PROFILE_PIXELS:
        raise OptionError(
            f"max_shape={shape_text(profile.maximum)} would take about {needed / 1e9:,.0f} GB of "
            "GPU memory with 256 channels in float16",
            f"at most {MAX_PROFILE_PIXELS:,} pixels in all images, about "
            f"{BYTES_A_PIXEL * MAX_PROFILE_PIXELS / 1e9:,.0f} GB, more than any GPU has",
            f"smaller batches or images: {_describe_profile(_shrink(profile))}",
        )
    if profile.optimum not in profile:
        raise OptionError(
            _describe_profile(profile),
            "images, height and width that do not shrink from smallest to best to largest",
            "min_shape=(1, 256, 512) opt_shape=(1, 512, 1024) max_shape=(4, 1024, 2048)",
        )


def profile_from(
    smallest: InputShape | None, best: InputShape | None, largest: InputShape | None
) -> Profile | None:
    """Return the input shapes of an engine; the smallest and largest may be left out.

    Raises:
        OptionError: Only the smallest or the largest was given.
    """
    if best is not None:
        return Profile(smallest or best, best, largest or best)
    given = largest or smallest
    if given is not None:
        raise OptionError(
            "min_shape= or max_shape= without opt_shape=",
            "also the input shape the engine is to be fastest at",
            f"opt_shape={shape_text(given)}",
        )
    return None


def memory_estimate(shape: InputShape) -> float:
    """Return about how many bytes of GPU memory an input of this shape takes, in float16."""
    return float(BYTES_A_PIXEL * shape.batch * shape.height * shape.width)


def _shrink(profile: Profile) -> Profile:
    """Return the profile with batches so small that the largest shape has few enough pixels."""
    most = MAX_PROFILE_PIXELS // (profile.maximum.height * profile.maximum.width)
    shapes = (profile.minimum, profile.optimum, profile.maximum)
    return Profile(*(dataclasses.replace(shape, batch=min(shape.batch, most)) for shape in shapes))


def _describe_profile(profile: Profile) -> str:
    return (
        f"min_shape={shape_text(profile.minimum)} opt_shape={shape_text(profile.optimum)} "
        f"max_shape={shape_text(profile.maximum)}"
    )


def profile_for(export: ExportSpec, asked: Profile | None) -> Profile:
    """Return the input shapes of an engine for a graph.

    Args:
        export: The export that made the graph, with the shapes it takes.
        asked: The shapes that the user wants; None if the graph leaves no choice.

    Raises:
        OptionError: The graph does not take these shapes, or no shapes were given for a graph that
            takes several.
    """
    if asked is None:
        return _require_only_profile(export)
    for shape in (asked.minimum, asked.optimum, asked.maximum):
        wrong_size = export.size not in (None, (shape.height, shape.width))
        if wrong_size or export.batch not in (None, shape.batch):
            raise OptionError(
                f"input shape {shape} for a graph of {_describe_shapes(export)}",
                "shapes that the graph takes",
                "another min_shape=, opt_shape= or max_shape=, or export the model for any size",
            )
    return asked


def _require_only_profile(export: ExportSpec) -> Profile:
    if export.size is None or export.batch is None:
        height, width = export.size or (512, 1024)
        raise OptionError(
            f"the graph takes {_describe_shapes(export)}, and no input shape was given",
            "the shape at which the engine is fastest, and optionally the smallest and largest",
            f"opt_shape=({export.batch or 1}, {height}, {width})",
        )
    shape = InputShape(export.batch, *export.size)
    return Profile(shape, shape, shape)


def _describe_shapes(export: ExportSpec) -> str:
    size = "any size" if export.size is None else f"size {export.size[0]}x{export.size[1]}"
    return f"{size} and " + ("any batch" if export.batch is None else f"batch {export.batch}")


def shape_text(shape: InputShape) -> str:
    """Return `shape` as Python writes it: ``(1, 512, 1024)``."""
    return str(dataclasses.astuple(shape))


def shape_tuple(shape: InputShape) -> tuple[int, int, int, int]:
    """Return `shape` as the dimensions of the input tensor, (N, 3, H, W)."""
    batch, height, width = dataclasses.astuple(shape)
    return batch, 3, height, width
