"""The functions of the public door. Each loads what it needs when it is called.

Commands of the same name (``alignseg export-onnx``, ``export-trt``, ``verify``, ``video``) do the
same with options of the same names.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from alignseg_infer.arrays import Image, Size, plain_value
from alignseg_infer.predictor import Predictor
from alignseg_infer.spec.model import ClassSpec

if TYPE_CHECKING:
    from alignseg_infer.export.make import EngineReport, OnnxReport
    from alignseg_infer.progress import ProgressBars
    from alignseg_infer.spec.verification import Verification
    from alignseg_infer.trt.builder.progress import Phase, PhaseBars
    from alignseg_infer.video.frames import FrameSource
    from alignseg_infer.video.process import VideoSummary

StepProgress: TypeAlias = Callable[[str, int, int], None]
Shape: TypeAlias = tuple[int, int, int]


def export_onnx(
    model: str | Path,
    destination: str | Path,
    *,
    precision: str | None = None,
    output: str | None = None,
    size: Size | None = None,
    batch: int | None = None,
    sampler: str | None = None,
    upsampling: str | None = None,
    opset: int | None = None,
    rewrites: bool | None = None,
    fuse: bool | None = None,
    with_offsets: bool | None = None,
    calibration: str | Path | None = None,
    max_calibration_images: int = 128,
    calibration_method: str = "percentile",
    calibration_size: str | int | Size | None = None,
    calibration_cache: str | Path | None = None,
    keep_float: Sequence[str] = (),
    int8_budget: float | None = None,
    verification: str | Path | None = None,
    max_verification_images: int = 8,
    convention: str | None = None,
    norm: str | None = None,
    classes: str | Path | ClassSpec | None = None,
    channel_order: str | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    progress: StepProgress | None = None,
) -> "OnnxReport":
    """Export a checkpoint to ONNX, or write a float32 ``.onnx`` as fp16 or int8.

    The file appears after it was compared: a float32 graph with PyTorch, another one with the
    float32 graph. ::

        export_onnx("CS_scenes.pth", "alignseg.onnx", size=(1024, 2048))

    Args:
        model: A checkpoint (``.pth``, ``.pt``, ``.safetensors``), or with `precision` also a
            float32 ``.onnx``; ``demo`` for the one that comes with the package.
        destination: The ``.onnx`` file to write.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``; None for fp32.
        output: ``"logits"`` at 1/4 size, or ``"labels"`` at input size; None for logits.
        size: Fixed (height, width) of the network's input; None for any.
        batch: Fixed batch size; None for any.
        sampler: How offset sampling is written: ``"native"``, ``"gather"`` or ``"plugin"``; None
            for native.
        upsampling: ``"matrices"``, for CPUs, or ``"resize"``, for GPUs; None for what suits the
            sampler.
        opset: 16 to 19; None for 18. An int8 graph always has 19.
        rewrites: Whether to apply the exact rewrites that save work; None for True.
        fuse: With the sampler plugin, whether an alignment is one node; None for True.
        with_offsets: Whether the graph also returns the learned offset fields; None for False.
        calibration: For int8, images like those the model will see: a folder, a ``.txt`` list, or
            a video.
        max_calibration_images: How many of them to use at most, spread evenly.
        calibration_method: How ranges are chosen: ``"percentile"``, ``"minmax"`` or ``"entropy"``.
        calibration_size: Size of the network's input then, as `Predictor` takes it.
        calibration_cache: File that keeps what was seen, so that a run that was cut goes on.
        keep_float: Blocks not to quantise.
        int8_budget: Percent of the calibration images' pixels that may get another label at most;
            blocks stay in float until it is met.
        verification: Images to compare labels on; None for those of `calibration`, else streets
            that are drawn.
        max_verification_images: How many of them to use at most, spread evenly.
        convention: Sampling convention the weights were trained with, if the file does not say:
            ``"release-2021-12"``, ``"release-2021-05"`` or ``"standard"``.
        norm: Use of normalisation weights: ``"inplace-abn"`` or ``"batch-norm"``.
        classes: ``"cityscapes"``, ``"ade20k"``, ``"voc"``, a ``.json`` file, or a table.
        channel_order: ``"bgr"`` or ``"rgb"``.
        mean: Subtracted from pixels of 0..255, in that order.
        std: Then divided by.
        progress: Called with what is counted, how many are done, and of how many.

    Returns:
        The path, the facts in the file, what was assumed of the checkpoint, and the comparisons.

    Raises:
        OptionError, SizeError: Something cannot be done as asked.
        ModelError: The model cannot be used.
        DatasetError: Images cannot be used.
        MissingDependencyError: A package is not installed.
        ExportError: The graph cannot be made as asked, or does not compute what it should.
        OutputError: The file cannot be written.
    """
    from alignseg_infer.export.make import make_onnx
    from alignseg_infer.export.recipe import recipe_for

    recipe = recipe_for(
        precision=precision,
        graph={
            "output": output,
            "size": size,
            "batch": batch,
            "sampler": sampler,
            "upsampling": upsampling,
            "opset": opset,
            "rewrites": rewrites,
            "fuse": fuse,
            "with_offsets": with_offsets,
        },
        checkpoint={
            "convention": convention,
            "norm": norm,
            "classes": classes,
            "channel_order": channel_order,
            "mean": mean,
            "std": std,
        },
        int8={
            "calibration": calibration,
            "max_calibration_images": max_calibration_images,
            "calibration_method": calibration_method,
            "calibration_size": calibration_size,
            "calibration_cache": calibration_cache,
            "keep_float": keep_float,
            "int8_budget": int8_budget,
        },
        verification=verification,
        max_verification_images=max_verification_images,
    )
    return make_onnx(model, destination, recipe, bars=_bars(progress))


def export_engine(
    model: str | Path,
    destination: str | Path,
    *,
    flavour: str = "tensorrt",
    precision: str | None = None,
    size: Size | None = None,
    batch: int | None = None,
    min_shape: Shape | None = None,
    opt_shape: Shape | None = None,
    max_shape: Shape | None = None,
    workspace: int | None = None,
    optimization_level: int | None = None,
    tf32: bool = False,
    timing_cache: str | Path | None = None,
    version_compatible: bool = False,
    hardware_compatibility: str = "none",
    compute_capabilities: Sequence[str] = (),
    plugin: str | Path | None = None,
    embed_plugin: bool = False,
    output: str | None = None,
    sampler: str | None = None,
    upsampling: str | None = None,
    opset: int | None = None,
    rewrites: bool | None = None,
    fuse: bool | None = None,
    with_offsets: bool | None = None,
    calibration: str | Path | None = None,
    max_calibration_images: int = 128,
    calibration_method: str = "percentile",
    calibration_size: str | int | Size | None = None,
    calibration_cache: str | Path | None = None,
    keep_float: Sequence[str] = (),
    int8_budget: float | None = None,
    verification: str | Path | None = None,
    max_verification_images: int = 8,
    convention: str | None = None,
    norm: str | None = None,
    classes: str | Path | ClassSpec | None = None,
    channel_order: str | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    progress: StepProgress | None = None,
) -> "EngineReport":
    """Build a TensorRT engine from a checkpoint or an exported model, and verify it.

    The engine is compared with the float32 graph where a GPU can run it; one that fails is not
    written. Without such a GPU it is built, not verified, and the report says so. ::

        export_engine("CS_scenes.pth", "alignseg.engine", precision="fp16", size=(1024, 2048))

    Args:
        model: A checkpoint, or an ``.onnx`` of this package; ``demo`` for the one in it.
        destination: The ``.engine``, ``.plan`` or ``.trt`` file to write; its facts go beside it.
        flavour: ``"tensorrt"``, which builds on the GPU that will run the engine, or
            ``"tensorrt-rtx"``, which builds anywhere.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``; None for what the model is.
        size: As in `export_onnx`. With neither `batch` nor `opt_shape`, the batch is 1.
        batch: As in `export_onnx`.
        min_shape: Smallest (images, height, width) it takes; None for `opt_shape`.
        opt_shape: The one it is fastest at; None for a graph of fixed size and batch.
        max_shape: The largest it takes; None for `opt_shape`.
        workspace: MiB of GPU memory an algorithm may use; None for all there is.
        optimization_level: 0 (built soonest) to 5 (searched longest); None for TensorRT's.
        tf32: Whether float32 convolutions may round to 10 bits of mantissa.
        timing_cache: File of measurements that later builds use again; tensorrt only.
        version_compatible: Whether later versions of TensorRT run it too; tensorrt only.
        hardware_compatibility: ``"none"``, ``"ampere-plus"`` or ``"same-compute-capability"``;
            tensorrt only.
        compute_capabilities: GPUs it is for, such as ``["8.9", "12.0"]``; tensorrt-rtx only.
        plugin: Library of TensorRT plugins, for the sampler plugin.
        embed_plugin: Whether to put that library into the engine.
        output: As in `export_onnx`, like what follows.
        sampler: See there.
        upsampling: See there; None for resize, since engines run on GPUs.
        opset: See there.
        rewrites: See there.
        fuse: See there.
        with_offsets: See there.
        calibration: See there.
        max_calibration_images: See there.
        calibration_method: See there.
        calibration_size: See there.
        calibration_cache: See there.
        keep_float: See there.
        int8_budget: See there.
        verification: See there.
        max_verification_images: See there.
        convention: See there.
        norm: See there.
        classes: See there.
        channel_order: See there.
        mean: See there.
        std: See there.
        progress: Called with what is counted, how many are done, and of how many.

    Returns:
        The path, the engine's facts, what was assumed of the checkpoint, and the comparisons.

    Raises:
        AlignSegError: As `export_onnx` does.
        BuildError: TensorRT does not take the graph, or its plugins are not there.
        VerificationError: The engine does not label images as the float32 graph does.
    """
    from alignseg_infer.arrays import InputShape
    from alignseg_infer.export.make import make_engine
    from alignseg_infer.export.recipe import recipe_for
    from alignseg_infer.trt.builder.options import BuildOptions, profile_from

    smallest, best, largest = (
        None if shape is None else InputShape(*shape) for shape in (min_shape, opt_shape, max_shape)
    )
    options = BuildOptions(
        flavour=flavour,  # type: ignore[arg-type]  # takes strings
        profile=profile_from(smallest, best, largest),
        workspace=workspace,
        timing_cache=_path(timing_cache),
        version_compatible=version_compatible,
        hardware_compatibility=hardware_compatibility,  # type: ignore[arg-type]  # takes strings
        compute_capabilities=tuple(compute_capabilities),
        optimization_level=optimization_level,
        tf32=tf32,
        plugin=_path(plugin),
        embed_plugin=embed_plugin,
    )
    recipe = recipe_for(
        precision=precision,
        graph={
            "output": output,
            "size": size,
            "batch": batch,
            "sampler": sampler,
            "upsampling": upsampling,
            "opset": opset,
            "rewrites": rewrites,
            "fuse": fuse,
            "with_offsets": with_offsets,
        },
        checkpoint={
            "convention": convention,
            "norm": norm,
            "classes": classes,
            "channel_order": channel_order,
            "mean": mean,
            "std": std,
        },
        int8={
            "calibration": calibration,
            "max_calibration_images": max_calibration_images,
            "calibration_method": calibration_method,
            "calibration_size": calibration_size,
            "calibration_cache": calibration_cache,
            "keep_float": keep_float,
            "int8_budget": int8_budget,
        },
        verification=verification,
        max_verification_images=max_verification_images,
    )
    return make_engine(
        model, destination, recipe, options, bars=_bars(progress), phases=_phases(progress)
    )


def verify(
    model: str | Path,
    against: str | Path,
    images: str | Path | Sequence[Image] | None = None,
    *,
    max_images: int = 8,
    size: Size | Sequence[Size] = (),
    device: str | None = None,
    dataset: str | None = None,
    root: str | Path | None = None,
    split: str | None = None,
    progress: StepProgress | None = None,
) -> "Verification":
    """Compare a model with the float32 one it was made from, on images.

    An engine's facts say afterwards how it was verified, or that it was not. ::

        verify("alignseg_int8.onnx", "alignseg.onnx", "leftImg8bit/val").rows

    Args:
        model: An ``.onnx`` file or an engine.
        against: The float32 ``.onnx`` it was made from, or ``demo``.
        images: A folder, a ``.txt`` list or a video; or BGR images (H, W, 3) uint8. None for
            those of `dataset`, else streets that are drawn, which show gross errors only.
        max_images: How many of them to use at most, spread evenly.
        size: (height, width) of the network's input, or several, for an ``.onnx`` of any size.
            Engines run at the corners of their profile.
        device: Where `model` runs; None for what its kind implies.
        dataset: Layout of labelled images, to compare mean IoU too: ``"cityscapes"``,
            ``"ade20k"`` or ``"folder"``.
        root: The dataset's folder.
        split: ``"train"``, ``"val"`` or ``"test"``; None for val.
        progress: Called with what is counted, how many are done, and of how many.

    Returns:
        What was compared; all of it met the thresholds.

    Raises:
        VerificationError: Labels differ in too many pixels, or mean IoU drops too far.
        ModelError: The two are not one model, or cannot be used.
        DatasetError: Images cannot be used.
        OptionError: An option cannot be used.
    """
    from alignseg_infer.export.verification.options import VerificationOptions
    from alignseg_infer.export.verification.record import verify_and_record

    size = plain_value(size)
    one_size = len(size) == 2 and all(isinstance(side, int) for side in size)
    options = VerificationOptions(
        images=Path(images) if isinstance(images, str) else images,
        max_images=max_images,
        size=(size,) if one_size else tuple(size),  # type: ignore[arg-type]
        device=device,
        dataset=dataset,  # type: ignore[arg-type]  # takes strings
        root=_path(root),
        split=split,
    )
    shown = None if progress is None else partial(progress, "images")
    return verify_and_record(model, against, options, shown)


def segment_video(
    model: "Predictor | str | Path",
    source: "str | Path | FrameSource",
    destination: str | Path,
    *,
    opacity: float = 0.5,
    legend: bool = False,
    side_by_side: bool = False,
    smoothing: float = 0.0,
    crf: int = 20,
    audio: bool = True,
    rate: Fraction | float | None = None,
    max_frames: int | None = None,
    seconds: float | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> "VideoSummary":
    """Segment a video, camera, stream, folder of images or drawn drive into an H.264 video.

    ::

        segment_video("alignseg.onnx", "drive.mp4", "segmented.mp4", legend=True)

    Args:
        model: A predictor, or what `Predictor` takes.
        source: A video file, a folder of images, the index of a webcam (``"0"``), the address of a
            stream, or ``"streets"`` for a drawn drive; or a source that is open, which is closed.
        destination: The video to write: .mp4, .mov, .m4v or .mkv.
        opacity: Of the classes' colours over the frame, 0..1.
        legend: Whether class names and colours stand below.
        side_by_side: Whether the frame itself stands to the left.
        smoothing: Weight of earlier frames' logits, 0 (none) to below 1.
        crf: Quality of the H.264 encoder, 0 (lossless, largest) to 51.
        audio: Whether the audio of a file is copied.
        rate: Frames per second of a folder or a drawn drive; None for 25.
        max_frames: How many frames to write at most; None for all.
        seconds: Of the source, at most; None for all, and for 4 of a drawn drive.
        progress: Called with how many frames are done, and of how many (None: not known).

    Returns:
        What was written, and how long it took.

    Raises:
        VideoError: The source cannot be read to its end.
        OutputError: The video cannot be written.
        OptionError: An option cannot be used.
        AlignSegError: As `Predictor` does.
    """
    from alignseg_infer.video.options import VideoOptions
    from alignseg_infer.video.process import segment_source
    from alignseg_infer.video.sources import drive_seconds, open_source

    options = VideoOptions(
        opacity=opacity,
        legend=legend,
        side_by_side=side_by_side,
        smoothing=smoothing,
        crf=crf,
        audio=audio,
        max_frames=max_frames,
        seconds=seconds,
    )
    predictor = model if isinstance(model, Predictor) else Predictor(model)
    if isinstance(source, str | Path):
        source = open_source(source, rate=rate, seconds=drive_seconds(seconds, max_frames, rate))
    return segment_source(predictor, source, destination, options, progress)


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else Path(path)


def _bars(progress: StepProgress | None) -> "ProgressBars":
    def bar(what: str) -> AbstractContextManager[Callable[[int, int], None] | None]:
        return nullcontext(None if progress is None else partial(progress, what))

    return bar


def _phases(progress: StepProgress | None) -> "PhaseBars":
    def show(phase: "Phase") -> None:
        if progress is not None:
            progress(phase.name, phase.done, phase.steps)

    return lambda: nullcontext(show)
