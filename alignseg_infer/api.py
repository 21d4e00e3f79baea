"""The public functions. Each loads what it needs when it is called.

The commands ``alignseg export-onnx``, ``export-trt``, ``adopt``, ``verify``, ``batch``, ``video``
and ``tune`` do the same, with options of the same names.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace as replace_fields
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from alignseg_infer.arrays import Image, Size, plain_value
from alignseg_infer.backends.engine_order import build_engines_with
from alignseg_infer.choices import check_kinds, choose
from alignseg_infer.datasets.addresses import plain_place
from alignseg_infer.datasets.remapping import Remapping
from alignseg_infer.errors import (
    INSTALL_BATCH,
    INSTALL_BENCH,
    INSTALL_ONNX,
    INSTALL_RAY,
    OptionError,
)
from alignseg_infer.files.reading import user_path
from alignseg_infer.packages import require_packages
from alignseg_infer.pixels.encoded import MAX_PIXELS
from alignseg_infer.predictor import Predictor
from alignseg_infer.results.saving import require_savable
from alignseg_infer.spec.model import ClassSpec, Precision
from alignseg_infer.trt.flavours import Flavour

if TYPE_CHECKING:
    from alignseg_infer.batch.run import BatchSummary, RunImages
    from alignseg_infer.export.make import EngineReport, OnnxReport
    from alignseg_infer.pixels.images import ImageSource
    from alignseg_infer.progress import ProgressBars
    from alignseg_infer.spec.model import ModelSpec
    from alignseg_infer.spec.verification import Verification
    from alignseg_infer.trt.builder.options import BuildOptions
    from alignseg_infer.trt.builder.progress import Phase, PhaseBars
    from alignseg_infer.trt.engine_file import EngineFacts
    from alignseg_infer.tuning import TuningReport
    from alignseg_infer.video.frames import FrameSource
    from alignseg_infer.video.process import VideoSummary

StepProgress: TypeAlias = Callable[[str, int, int], None]
Shape: TypeAlias = tuple[int, int, int]


@check_kinds
def export_onnx(
    model: str | Path,
    destination: str | Path,
    *,
    precision: str | None = None,
    target: str | None = None,
    output: str | None = None,
    output_size: str | None = None,
    label_type: str | None = None,
    layout: str | None = None,
    input: str | None = None,
    remap: str | Path | Remapping | None = None,
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
    min_agreement: float | None = None,
    convention: str | None = None,
    norm: str | None = None,
    classes: str | Path | ClassSpec | None = None,
    channel_order: str | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    weights: str | None = None,
    threshold: float | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: StepProgress | None = None,
) -> "OnnxReport":
    """Export a checkpoint to ONNX, or convert a float32 ``.onnx`` to fp16 or int8.

    The file is compared before it appears: a float32 graph with PyTorch, an fp16 or int8 graph with
    the float32 graph, and a graph in another form (`output` to `input`) with the plain one. ::

        export_onnx("CS_scenes.pth", "alignseg.onnx", size=(1024, 2048))

    Args:
        model: A checkpoint (``.pth``, ``.pt``, ``.safetensors``), or ``demo`` for the one that
            comes with the package. With the precision fp16 or int8, or another form, also a
            float32 ``.onnx``.
        destination: The ``.onnx`` file to write.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``; None for fp32.
        target: Hardware that the graph is for, ``"cpu"`` or ``"tensorrt"``. With int8, cpu makes a
            float32 graph with unsigned INT8, which ONNX Runtime and OpenVINO run in integers; None
            and tensorrt make a float16 graph with signed INT8. A CPU takes no fp16.
        output: ``"logits"`` at 1/4 of the input size, ``"labels"`` at the input size, or
            ``"probabilities"``; None for logits.
        output_size: Size of probabilities: ``"image"``, the input size, or ``"quarter"``, 1/4 of
            it; None for image.
        label_type: Number format of labels: ``"uint8"``, ``"uint16"``, ``"int32"`` or ``"int64"``;
            None for the smallest unsigned one.
        layout: Order of the output's axes, ``"nchw"`` or ``"nhwc"``, in which labels have a channel
            axis of 1; None for nchw, and for labels without a channel axis.
        input: Images that the graph takes: ``"float32"``, (N, 3, H, W), normalised; or
            ``"uint8-bgr"`` or ``"uint8-rgb"``, (N, H, W, 3), which it normalises. None for float32.
        remap: A ``.json`` file, or a `Remapping`, that renames, merges or leaves out classes. A
            graph that returns labels applies it itself; `Predictor` applies it to the others.
        size: Fixed (height, width) of the network's input; None for any size.
        batch: Fixed batch size; None for any.
        sampler: How the graph samples at offsets: ``"native"`` (GridSample), ``"gather"`` (index
            arithmetic) or ``"plugin"`` (TensorRT plugins); ``"auto"`` for native or gather,
            whichever small graphs show to be right in ONNX Runtime; None for native.
        upsampling: How the graph upsamples features: ``"matrices"``, for CPUs, or ``"resize"``,
            for GPUs and int8 on CPUs; None for what suits target, precision and sampler.
        opset: 16 to 19; None for 18. An int8 graph always has 19.
        rewrites: Whether to apply the exact rewrites that save work; None for True.
        fuse: With the sampler plugin, whether an alignment is one node; None for True.
        with_offsets: Whether the graph also returns the learned offset fields; None for False.
        calibration: Images to calibrate int8 with, like those the model will see: a folder, a
            glob, a ``.txt`` list, the manifest of a batch, an address such as
            ``"s3://bucket/photos"``, or a video.
        max_calibration_images: Maximum number of images to calibrate with, spread evenly over
            `calibration`.
        calibration_method: How to choose the range of each tensor: ``"percentile"``, ``"minmax"``
            or ``"entropy"``.
        calibration_size: Size of the network's input during calibration, as `Predictor` takes it.
        calibration_cache: File that keeps the measured ranges, so that an interrupted calibration
            can continue; None for one in ``$ALIGNSEG_CACHE`` or the user's cache folder.
        keep_float: Blocks that are not quantised.
        int8_budget: Maximum percentage of the calibration images' pixels that may get another
            label than in FP32. Blocks stay in float until it is met.
        verification: Images to compare labels on; None for those of `calibration`, or for drawn
            streets if there are none.
        max_verification_images: Maximum number of images to compare labels on, spread evenly.
        min_agreement: Share of the pixels that must get the same label as in float32, 0..1, for an
            fp16 or int8 file to be written; None for 0.995 (fp16) or 0.98 (int8). A file below it
            is kept as ``NAME.rejected.onnx``.
        convention: Sampling convention that the weights were trained with, if the file does not
            contain it: ``"release-2021-12"``, ``"release-2021-05"`` or ``"standard"``.
        norm: Use of normalisation weights: ``"inplace-abn"`` or ``"batch-norm"``.
        classes: Class names and colours: ``"cityscapes"``, ``"ade20k"``, ``"voc"``, a ``.json``
            file, or a table.
        channel_order: Channel order of the network's input: ``"bgr"`` or ``"rgb"``.
        mean: Values to subtract from pixels of 0..255, one for each channel in that order.
        std: Values to divide by after that, one for each channel.
        weights: Which weights to take from a file that has both: ``"ema"``, their average over
            training, or ``"raw"``, those of the last step; None for the average.
        threshold: Probability above which a pixel is foreground, for a network with one class,
            which was trained with a sigmoid; None for 0.5. Confidence is relative to it.
        max_pixels: The largest number of pixels of an image file; larger ones are refused.
        progress: Called with what is counted, how many of them are done, and the total.

    Returns:
        The path, the facts in the file, what was assumed about the checkpoint, and the
        comparisons.

    Raises:
        OptionError, SizeError: An argument cannot be used, or not with the others.
        ModelError: The model cannot be used.
        DatasetError: Images cannot be used.
        MissingDependencyError: A package is not installed.
        ExportError: The graph cannot be made with these arguments, or computes wrong results.
        OutputError: The file cannot be written.
    """
    arguments = locals()  # all parameters by name, of which the recipe takes its own
    from alignseg_infer.export.make import make_onnx
    from alignseg_infer.export.recipe import recipe_for

    recipe = recipe_for(arguments)
    return make_onnx(model, destination, recipe, bars=_bars(progress))


@check_kinds
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
    output_size: str | None = None,
    label_type: str | None = None,
    layout: str | None = None,
    input: str | None = None,
    remap: str | Path | Remapping | None = None,
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
    min_agreement: float | None = None,
    convention: str | None = None,
    norm: str | None = None,
    classes: str | Path | ClassSpec | None = None,
    channel_order: str | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    weights: str | None = None,
    threshold: float | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: StepProgress | None = None,
) -> "EngineReport":
    """Build a TensorRT engine from a checkpoint or an exported model, and verify it.

    Where a GPU can run the engine, it is compared with the float32 graph, and an engine that fails
    is not written. Without such a GPU the engine is not verified, and the report says so. ::

        export_engine("CS_scenes.pth", "alignseg.engine", precision="fp16", size=(1024, 2048))

    Args:
        model: A checkpoint, an ``.onnx`` that this package exported, or ``demo`` for the
            ``.onnx`` that comes with the package.
        destination: The ``.engine``, ``.plan`` or ``.trt`` file to write. Its facts are written to
            a ``.json`` file beside it.
        flavour: ``"tensorrt"``, which builds on the GPU that will run the engine, or
            ``"tensorrt-rtx"``, which builds on any machine.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``; None for the precision of the model.
        size: As in `export_onnx`. With neither `batch` nor `opt_shape`, the batch is 1.
        batch: As in `export_onnx`.
        min_shape: Smallest (images, height, width) that the engine accepts; None for `opt_shape`.
        opt_shape: The (images, height, width) that the engine is fastest for; None for a graph of
            fixed size and batch.
        max_shape: Largest (images, height, width) that the engine accepts; None for `opt_shape`.
        workspace: MiB of GPU memory that one algorithm may use; None for all.
        optimization_level: 0 (builds fastest) to 5 (searches longest); None for TensorRT's default.
        tf32: Whether float32 convolutions may round to 10 bits of mantissa.
        timing_cache: File of time measurements that later builds use again; tensorrt only.
        version_compatible: Whether later versions of TensorRT can run the engine too; tensorrt
            only.
        hardware_compatibility: The other GPUs that the engine runs on: ``"none"``,
            ``"ampere-plus"`` or ``"same-compute-capability"``; tensorrt only.
        compute_capabilities: Compute capabilities of the GPUs to build for, such as
            ``["8.9", "12.0"]``; tensorrt-rtx only.
        plugin: Library of TensorRT plugins, for the sampler plugin.
        embed_plugin: Whether to store that library in the engine.
        output: As in `export_onnx`.
        output_size: As in `export_onnx`.
        label_type: As in `export_onnx`.
        layout: As in `export_onnx`.
        input: As in `export_onnx`.
        remap: As in `export_onnx`.
        sampler: As in `export_onnx`, but ``"auto"`` asks TensorRT.
        upsampling: As in `export_onnx`, but None means resize, since engines run on GPUs.
        opset: As in `export_onnx`.
        rewrites: As in `export_onnx`.
        fuse: As in `export_onnx`.
        with_offsets: As in `export_onnx`.
        calibration: As in `export_onnx`.
        max_calibration_images: As in `export_onnx`.
        calibration_method: As in `export_onnx`.
        calibration_size: As in `export_onnx`.
        calibration_cache: As in `export_onnx`.
        keep_float: As in `export_onnx`.
        int8_budget: As in `export_onnx`.
        verification: As in `export_onnx`.
        max_verification_images: As in `export_onnx`.
        min_agreement: As in `export_onnx`, also for the engine; None for 0.999 if it is fp32.
        convention: As in `export_onnx`.
        norm: As in `export_onnx`.
        classes: As in `export_onnx`.
        channel_order: As in `export_onnx`.
        mean: As in `export_onnx`.
        std: As in `export_onnx`.
        weights: As in `export_onnx`.
        threshold: As in `export_onnx`.
        max_pixels: As in `export_onnx`.
        progress: Called with what is counted, how many of them are done, and the total.

    Returns:
        The path, the engine's facts, what was assumed about the checkpoint, and the comparisons.

    Raises:
        AlignSegError: As `export_onnx` does.
        BuildError: TensorRT does not accept the graph, or its plugins are missing.
        VerificationError: The engine does not label images like the float32 graph.
    """
    arguments = locals()  # all parameters by name, of which the recipe takes its own
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
    recipe = recipe_for(arguments)
    return make_engine(
        model, destination, recipe, options, bars=_bars(progress), phases=_phases(progress)
    )


@check_kinds
def adopt_engine(
    engine: str | Path,
    model: str | Path,
    *,
    flavour: str = "tensorrt",
    device: str = "cuda",
    version_compatible: bool = False,
    plugin: str | Path | None = None,
) -> "EngineFacts":
    """Write the facts of an engine that another tool built, such as trtexec, so that it can run.

    The engine is loaded, and its tensors are compared with the model's: names, types, number of
    classes, fixed size and batch. Nothing tells whether it computes the same, so it counts as not
    verified until `verify` has compared it. ::

        adopt_engine("alignseg.engine", "alignseg.onnx")
        verify("alignseg.engine", "alignseg.onnx", "leftImg8bit/val")

    Args:
        engine: The plan file. Its facts are written to a ``.json`` file beside it.
        model: The ``.onnx`` of this package that it was built from.
        flavour: ``"tensorrt"`` or ``"tensorrt-rtx"``: what built it.
        device: ``"cuda"`` or ``"cuda:1"``: the GPU that built it.
        version_compatible: Whether it was built for later versions of TensorRT too
            (``--versionCompatible``). It contains code then, which is run.
        plugin: Library of TensorRT plugins, if the model needs them.

    Returns:
        The facts.

    Raises:
        EngineError: The engine cannot be loaded, does not fit the model, or has its facts already.
        ModelFileError: The model cannot be read, or was not exported by this package.
        DeviceError: There is no driver, or no such GPU.
        MissingDependencyError: A package is not installed.
        OptionError: An argument cannot be used.
        OutputError: The facts cannot be written.
    """
    require_packages(("onnx",), INSTALL_ONNX)
    from alignseg_infer.trt.adopting import adopt_engine as adopt

    return adopt(
        user_path(engine),
        user_path(model),
        flavour=choose(Flavour, flavour, "flavour"),
        device=device,
        version_compatible=version_compatible,
        plugin=_path(plugin),
    )


@check_kinds
def adopt_onnx(model: str | Path, like: str | Path) -> "ModelSpec":
    """Write the metadata of an ``.onnx`` file into one that another tool made from it.

    Optimisers may drop the metadata that `Predictor` needs. Both files label drawn streets first,
    and must agree. ::

        adopt_onnx("sanitized.onnx", "alignseg.onnx")

    Args:
        model: The ``.onnx`` file without metadata. It is changed.
        like: The ``.onnx`` of this package that it was made from, or ``demo``.

    Returns:
        The facts that are in both files now.

    Raises:
        ModelFileError: A file cannot be used, `model` has its metadata already, or it computes
            something else.
        VerificationError: It returns values that are not finite, or of another shape.
        MissingDependencyError: A package is not installed.
        OutputError: `model` cannot be written.
    """
    require_packages(("onnx", "onnx_ir"), INSTALL_ONNX)
    from alignseg_infer.demo import model_path
    from alignseg_infer.export.adopting import adopt_onnx as adopt

    return adopt(user_path(model), model_path(like))


@check_kinds
def verify(
    model: str | Path,
    against: str | Path | None = None,
    images: str | Path | Sequence[Image] | None = None,
    *,
    max_images: int = 8,
    size: Size | Sequence[Size] = (),
    device: str | None = None,
    runtime: str | None = None,
    precision: str | None = None,
    dataset: str | None = None,
    root: str | Path | None = None,
    split: str | None = None,
    max_pixels: int = MAX_PIXELS,
    min_agreement: float | None = None,
    progress: StepProgress | None = None,
) -> "Verification":
    """Check that a model labels images like the float32 model that it was made from.

    For an engine, the result is also recorded in the engine's facts. ::

        verify("alignseg_int8.onnx", "alignseg.onnx", "leftImg8bit/val").rows
        verify("alignseg.onnx", images="leftImg8bit/val", runtime="openvino", precision="bf16")

    Args:
        model: An ``.onnx`` file or an engine.
        against: The float32 ``.onnx`` that `model` was made from, or ``demo``, which runs in ONNX
            Runtime on the CPU; with `runtime`, None for `model` itself.
        images: A source of images as for `calibration` in `export_onnx`; or BGR images (H, W, 3)
            uint8. None for the images of `dataset`, or, without one, for drawn streets, which show
            gross errors only.
        max_images: Maximum number of images to compare labels on, spread evenly over the source.
        size: (height, width) of the network's input, or several, for an ``.onnx`` of any size.
            One image then runs as in a `Predictor` of that size, for which OpenVINO compiles a
            graph of its own. Engines run at the corners of their profile.
        device: Where `model` runs; None for what the model or `runtime` implies.
        runtime: What runs `model`, as `Predictor` takes it. A float16 or int8 file then runs as it
            is; without a runtime, it rounds as a GPU would.
        precision: What `runtime` computes in, as `Predictor` takes it.
        dataset: Layout of a folder of labelled images, to compare mean IoU as well:
            ``"cityscapes"``, ``"ade20k"`` or ``"folder"``.
        root: The dataset's folder, or its address.
        split: ``"train"``, ``"val"`` or ``"test"``; None for val.
        max_pixels: The largest number of pixels of an image file; larger ones are refused.
        min_agreement: As in `export_onnx`.
        progress: Called with what is counted, how many of them are done, and the total.

    Returns:
        What was compared. All of it met the thresholds.

    Raises:
        VerificationError: Labels differ in too many pixels, or mean IoU drops too far.
        ModelError: The two were not made from the same model, or one cannot be used.
        DatasetError: Images cannot be used.
        OptionError: An argument cannot be used, or not with the others.
    """
    from alignseg_infer.export.verification.options import VerificationOptions
    from alignseg_infer.export.verification.record import verify_and_record

    if not isinstance(images, str | os.PathLike | Sequence | np.ndarray | None):
        raise OptionError(
            f"images={type(images).__name__}", "a path, or a list of images", "images='streets/'"
        )
    size = plain_value(size)
    one_size = len(size) == 2 and all(isinstance(side, int) for side in size)
    options = VerificationOptions(
        images=plain_place(images) if isinstance(images, str | os.PathLike) else images,
        max_images=max_images,
        size=(size,) if one_size else tuple(size),  # type: ignore[arg-type]
        device=device,
        runtime=runtime,
        precision=precision,
        dataset=dataset,  # type: ignore[arg-type]  # takes strings
        root=None if root is None else plain_place(root),
        split=split,
        max_pixels=max_pixels,
        min_agreement=min_agreement,
    )
    shown = None if progress is None else partial(progress, "images")
    return verify_and_record(model, against, options, shown)


@check_kinds
def segment_files(
    model: "Predictor | str | Path",
    source: str | Path,
    destination: str | Path,
    *,
    formats: Sequence[str] = ("labels", "color", "overlay"),
    opacity: float = 0.5,
    tolerance: float = 0.0,
    outline: bool = False,
    workers: int | None = None,
    ray: str | None = None,
    shard: str | None = None,
    retry_failed: bool = False,
    replace: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int, int], None] | None = None,
) -> "BatchSummary":
    """Segment all images of a folder, list or bucket that are not up to date in a destination.

    ::

        segment_files("alignseg.onnx", "photos/", "results/", formats=["labels", "coco"])

    Results lie in folders like those of the images. A manifest in ``DESTINATION/manifest`` says
    what became of each image. A run that was interrupted, or killed, goes on where it was.

    Args:
        model: A predictor of a file, or what `Predictor` takes.
        source: A folder, with its sub-folders; a glob; a ``.txt`` list of paths or addresses; the
            manifest of an earlier run; or an address such as ``s3://bucket/photos``.
        destination: A folder, or an address.
        formats: What is saved of each image, as `Segmentation.save` takes it.
        opacity: Opacity of the colours in the overlay, 0..1.
        tolerance: Pixels by which saved polygons may be off.
        outline: Whether to draw a white line where classes meet, in the overlay.
        workers: Number of worker processes. If there are several, they share the CPU's cores. None
            for one, or for as many as a cluster has room for.
        ray: The Ray cluster whose nodes segment the images: ``"auto"`` for that of this machine, or
            ``"HOST:PORT"``. A worker there takes one CPU, or as many as `threads` of the predictor.
        shard: Which part of the images to segment, such as ``"3/16"``; None for all. Each shard can
            run on a machine of its own.
        retry_failed: Whether to try images again that failed in an earlier run.
        replace: Whether to make results again that another model or other options made. Without,
            such a destination is an error.
        dry_run: Whether to count only what would be done.
        progress: Called with the number of images done, of all to do, and of those that failed.

    Returns:
        How many images were found, done and left as they were, and which failed.

    Raises:
        DatasetError: The source cannot be read, or holds no images.
        OutputError: Nothing can be written to the destination, or another run writes there.
        OptionError: An argument cannot be used, or the destination is of another model.
        MissingDependencyError: The extra ``batch`` or ``ray``, or a bucket's package is not
            installed, or a node does not have this package.
        ProcessError: The predictor is not of a file, or workers die without an image.
        AlignSegError: As `Predictor` does.
    """
    require_packages(("pyarrow",), INSTALL_BATCH)
    from alignseg_infer.batch.job import Saving, Shard
    from alignseg_infer.batch.run import BatchOptions, segment_source

    options = BatchOptions(
        workers=1 if workers is None else workers,
        shard=Shard.parse(shard) if shard is not None else Shard(),
        retry_failed=retry_failed,
        replace=replace,
        dry_run=dry_run,
    )
    saving = Saving.of(formats, opacity, tolerance, outline=outline)
    predictor = model if isinstance(model, Predictor) else Predictor(model)
    require_savable(saving.formats, predictor.spec.classes)
    opening = predictor.opening
    del model, predictor  # workers open it again
    return segment_source(
        opening,
        str(source),
        str(destination),
        saving=saving,
        options=options if ray is None else replace_fields(options, workers=1),
        progress=progress,
        run_images=None if ray is None else _runner_on(ray, workers),
    )


def _runner_on(address: str, workers: int | None) -> "RunImages":
    """Return what segments the images of a plan on a Ray cluster."""
    require_packages(("ray", "ray.data"), INSTALL_RAY)
    from alignseg_infer.batch.on_ray import run_on_ray

    return partial(run_on_ray, address=address, workers=workers)


@check_kinds
def segment_video(
    model: "Predictor | str | Path",
    source: "str | os.PathLike[str] | FrameSource",
    destination: str | Path,
    *,
    opacity: float = 0.5,
    outline: bool = False,
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
            stream, ``"-"`` for stdin, or ``"streets"`` for a drawn drive; or an open source, which
            is closed at the end. A path object always names a file, folder or pipe.
        destination: The video to write: .mp4, .mov, .m4v or .mkv.
        opacity: Opacity of the class colours over the frame, 0..1.
        outline: Whether to draw a white line where classes meet.
        legend: Whether to show the classes and their shares below the frame.
        side_by_side: Whether to show the original frame on the left.
        smoothing: Weight of earlier frames' logits, 0 (none) to below 1.
        crf: Quality of the H.264 encoder, 0 (lossless, largest) to 51.
        audio: Whether to copy the audio of a file.
        rate: Frames per second of a folder or a drawn drive; None for 25.
        max_frames: Stop after this many frames; None for all.
        seconds: Stop after this many seconds of the source; None for all, and for 4 of a drawn
            drive.
        progress: Called with the number of frames done and the total (None if it is not known).

    Returns:
        What was written, and how long it took.

    Raises:
        VideoError: The source cannot be read to its end.
        OutputError: The video cannot be written.
        OptionError: An argument cannot be used.
        AlignSegError: As `Predictor` does.
    """
    from alignseg_infer.video.options import VideoOptions
    from alignseg_infer.video.process import segment_source
    from alignseg_infer.video.sources import drive_seconds, open_source

    options = VideoOptions(
        opacity=opacity,
        outline=outline,
        legend=legend,
        side_by_side=side_by_side,
        smoothing=smoothing,
        crf=crf,
        audio=audio,
        max_frames=max_frames,
        seconds=seconds,
    )
    predictor = model if isinstance(model, Predictor) else Predictor(model)
    if isinstance(source, str | os.PathLike):
        source = source if isinstance(source, str) else user_path(source)
        source = open_source(
            source,
            rate=rate,
            seconds=drive_seconds(seconds, max_frames, rate),
            max_pixels=predictor.max_pixels,
        )
    elif not hasattr(source, "facts"):
        raise OptionError(
            f"source={type(source).__name__}",
            "a path, the name of a source, or one that is open",
            "segment_video(model, 'drive.mp4', 'segmented.mp4')",
        )
    return segment_source(predictor, source, destination, options, progress)


@check_kinds
def tune(
    models: str | Path | Sequence[str | Path],
    images: "str | Path | Sequence[ImageSource] | None" = None,
    *,
    goal: str = "latency",
    seconds: float = 120.0,
    size: str | int | Size | None = None,
    batch: int | None = None,
    min_agreement: float | None = None,
    max_images: int = 8,
    max_pixels: int = MAX_PIXELS,
    progress: StepProgress | None = None,
) -> "TuningReport":
    """Find the fastest way to run a model on this machine's CPU, with labels as in FP32.

    Each file is tried in each runtime, in bfloat16 too where OpenVINO offers it, with several
    numbers of threads. What labels images otherwise is dropped. The report's `keep` writes the
    choice beside the model, and ``Predictor(model, runtime="tuned")`` obeys it on this machine. ::

        tune("alignseg.onnx", "photos/").keep()
        Predictor("alignseg.onnx", runtime="tuned")

    Args:
        models: An ``.onnx`` file in FP32, or ``demo``; or several files of its network, of which
            the first is tuned; the others, such as its INT8 version, may replace it.
        images: Images like those that the model will see: a source as for `calibration` in
            `export_onnx`; or a list of images as `Predictor` takes them. None for drawn streets,
            for ``demo`` only.
        goal: What is to be fast: ``"latency"`` of one image, or ``"throughput"`` of many.
        seconds: About how long to measure.
        size: Size of the network's input, as `Predictor` takes it.
        batch: For throughput, images per call that compete with single ones; None for 4.
            There must be as many images.
        min_agreement: Share of the pixels, 0..1, that must get the same label as in FP32; None for
            0.999 (FP32), 0.995 (FP16 and bfloat16) or 0.98 (INT8).
        max_images: Maximum number of images, spread evenly over the source.
        max_pixels: The largest number of pixels of an image file; larger ones are refused.
        progress: Called with what is counted, how many of them are done, and the total.

    Returns:
        A row for each candidate, and the choice. After Ctrl-C there is none.

    Raises:
        OptionError: An argument cannot be used, or the time is too short to measure anything.
        TuningError: A file was changed meanwhile.
        ImageError: An image of a list cannot be read.
        DatasetError: Images cannot be used, or are too few, small or uniform to judge labels on.
        ModelError: A file cannot be used.
        MissingDependencyError: A package is not installed.
    """
    require_packages(("psutil", "cpuinfo", "pynvml"), INSTALL_BENCH)
    from alignseg_infer.tuning import TuningOptions
    from alignseg_infer.tuning import tune as find_fastest

    options = TuningOptions(
        goal=goal,  # type: ignore[arg-type]  # takes strings
        seconds=seconds,
        size=size,
        batch=batch,
        min_agreement=min_agreement,
        max_images=max_images,
        max_pixels=max_pixels,
    )
    listed = [models] if isinstance(models, str | Path) else list(models)
    return find_fastest(listed, images, options, bars=_bars(progress))


def _path(path: str | Path | None) -> Path | None:
    return None if path is None else user_path(path)


def _bars(progress: StepProgress | None) -> "ProgressBars":
    def bar(what: str) -> AbstractContextManager[Callable[[int, int], None] | None]:
        return nullcontext(None if progress is None else partial(progress, what))

    return bar


def _phases(progress: StepProgress | None) -> "PhaseBars":
    def show(phase: "Phase") -> None:
        if progress is not None:
            progress(phase.name, phase.done, phase.steps)

    return lambda: nullcontext(show)


def _build_on_demand(
    model: Path, precision: Precision | None, options: "BuildOptions", destination: Path
) -> None:
    from alignseg_infer.export.on_demand import build_on_demand

    build_on_demand(model, precision, options, destination)


# Predictors are below the rooms that build, and get the function from here.
build_engines_with(_build_on_demand)
