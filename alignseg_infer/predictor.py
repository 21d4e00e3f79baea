"""`Predictor`, which turns images into segmentations."""

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

from alignseg_infer.arrays import Size
from alignseg_infer.backend import Backend
from alignseg_infer.backends.opening import (
    Opening,
    PredictorOptions,
    Shape,
    obey_choice,
    open_again,
    open_stages,
)
from alignseg_infer.backends.tuned import TUNED
from alignseg_infer.choices import check_kinds, choose, require_kind
from alignseg_infer.errors import ProcessError
from alignseg_infer.inference.averaging import Mode, require_logits
from alignseg_infer.inference.stages import Stages, Wanted
from alignseg_infer.inference.stream import SegmentationStream, require_stream_options
from alignseg_infer.inference.tiling import DEFAULT_OVERLAP
from alignseg_infer.pixels.encoded import MAX_PIXELS
from alignseg_infer.pixels.images import ImageSource
from alignseg_infer.results.failure import Failure, OnError
from alignseg_infer.results.segmentation import Segmentation
from alignseg_infer.spec.model import ModelSpec


class Predictor:
    """Segments images with one model. Calls may come from several threads at once.

    ::

        predictor = Predictor("alignseg.onnx")
        result = predictor("street.jpg")
        result.save("out/street")

    Args:
        model: Path of an exported ``.onnx``, of a TensorRT engine (``.engine``, ``.plan``,
            ``.trt``), or of a checkpoint (runs in PyTorch); or an object with the methods of
            `backend.Backend`.
        device: None for the model's default: ``"cuda"`` for an engine, which runs on a GPU only,
            and ``"cpu"`` for all others. Otherwise ``"cpu"``, ``"cuda"``, ``"cuda:N"``, or
            ``"auto"`` for CUDA where it works. Asking for a device that does not exist is an error.
        size: Network input size: None for the model's own size if it is fixed, else the image's;
            ``"native"`` for the image's; (height, width) to stretch to; or the longest side. With
            a sliding window, the size of the image that it slides over. OpenVINO compiles a file of
            any size for (height, width), or for the tile of a window, if `batch` is 1 and
            `precision` is not bf16.
        batch: The most inputs per network call: images of a list that have the same size; with a
            sliding window or `flip`, the tiles or mirror images of one image.
        threads: CPU threads for one call; None for the runtime's choice.
        mode: ``"whole"``, or ``"slide"`` for a sliding window, which the authors use to evaluate.
        tile: Side of the window's square tile, or (height, width); None for the model's size if
            it is fixed, else 872, like the authors. Smaller images are padded to the tile.
        overlap: Share of a tile, 0 to below 1, that the next one covers too.
        scales: Factors on the input size; raw logits are averaged over them.
        flip: Whether to average with the mirrored image.
        on_device: Whether the GPU prepares images and labels pixels, so that only images and labels
            cross the bus. None does so if TensorRT or PyTorch runs the model on a GPU and the
            packages that compile CUDA kernels are installed; the property `on_device` tells.
        runtime: What runs an ``.onnx``: ``"onnxruntime"``, ``"openvino"``, ``"tensorrt"`` or
            ``"tensorrt-rtx"``; None for the first. The two kinds of TensorRT build an engine for
            this GPU at first use, verify it, and keep it in the engine cache. ``"tuned"`` obeys
            what ``alignseg tune`` chose on this machine: runtime, file, precision, `threads` and
            `batch`, which must then be left out.
        precision: What that runtime computes a float32 file in: ``"fp32"``, or ``"fp16"`` in
            TensorRT, or ``"bf16"`` in OpenVINO on a CPU that has it; None for that of the file.
            bfloat16 is compared with float32 first, once for each input shape on a machine.
        min_shape: Smallest (images, height, width) that the engine takes; None for `opt_shape`.
        opt_shape: The (images, height, width) that it is fastest for. None for a range that
            follows from the file, `size`, `tile`, `scales` and `batch`, which is 256x256 to
            2048x2048 pixels for images of any size.
        max_shape: Largest (images, height, width) that it takes; None for `opt_shape`.
        max_pixels: The largest number of pixels of an image file or a PIL image. Larger ones are
            refused before they are decoded, because a small file can take all memory.

    Besides one batch of tiles, a sliding window needs about 4*C bytes of memory per pixel of its
    image (at the largest scale). Several scales need another 4*C bytes per pixel of the original
    image. C is the number of classes.

    A predictor of a file can be pickled and sent to other processes. There it opens the file again
    when it is first used, and the last one used stays open. A process that is forked after the
    predictor was made cannot use it.

    Raises:
        ModelError: The model cannot be used.
        DeviceError: The device does not exist.
        MissingDependencyError: The runtime is not installed.
        OptionError, SizeError: An argument makes no sense, or does not fit this model.
        TuningError: Nothing was chosen for this model with ``alignseg tune`` on this machine.
        ExportError: TensorRT cannot build the engine, or it does not label images like the file.
        OutputError: The engine cannot be kept in the cache.
    """

    @check_kinds
    def __init__(
        self,
        model: str | Path | Backend,
        *,
        device: str | None = None,
        size: str | int | Size | None = None,
        batch: int = 1,
        threads: int | None = None,
        mode: str = Mode.WHOLE,
        tile: int | Size | None = None,
        overlap: float = DEFAULT_OVERLAP,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        on_device: bool | None = None,
        runtime: str | None = None,
        precision: str | None = None,
        min_shape: Shape | None = None,
        opt_shape: Shape | None = None,
        max_shape: Shape | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        options = PredictorOptions(
            device=device,
            size=size,
            batch=batch,
            threads=threads,
            mode=mode,
            tile=tile,
            overlap=overlap,
            scales=scales,
            flip=flip,
            on_device=on_device,
            runtime=runtime,
            precision=precision,
            min_shape=min_shape,
            opt_shape=opt_shape,
            max_shape=max_shape,
            max_pixels=max_pixels,
        )
        is_tuned = runtime == TUNED
        if isinstance(model, str | os.PathLike):
            model, options = obey_choice(model, options)
        self._stages = open_stages(model, options)
        self._opening: Opening | None = None
        if isinstance(model, str | os.PathLike):
            self._opening = Opening.of(model, options, self.spec, tuned=is_tuned)

    @cached_property
    def _stages(self) -> Stages:
        """The stages of a predictor that was unpickled. `__init__` replaces this.

        Unpickling does not open the file, since an error would end or hang the workers of a pool.
        """
        assert self._opening is not None
        return open_again(self._opening, os.getpid())

    @property
    def opening(self) -> Opening:
        """How the predictor was made, so that another process can make the same.

        Raises:
            ProcessError: It runs the model of an object.
        """
        if self._opening is None:
            raise ProcessError(
                f"this predictor runs the model of an object, {self.backend!r}, which stays in its "
                "process",
                "a predictor of a file; it can be pickled, and opens the file again",
                "Predictor('alignseg.onnx'), or make the predictor in the process that uses it",
            )
        return self._opening

    def __getstate__(self) -> dict[str, Any]:
        _ = self.opening  # raises the error
        return {name: value for name, value in self.__dict__.items() if name != "_stages"}

    @property
    def spec(self) -> ModelSpec:
        """The model's facts."""
        return self._stages.backend.spec

    @property
    def backend(self) -> str:
        """What runs the network, e.g. ``onnxruntime (CPUExecutionProvider)``."""
        return self._stages.backend.name

    @property
    def batch(self) -> int:
        """The most images per network call."""
        return self._stages.batch

    @property
    def max_pixels(self) -> int:
        """The largest number of pixels of an image that is read."""
        return self._stages.max_pixels

    @property
    def on_device(self) -> bool:
        """Whether the GPU prepares images and labels pixels.

        With ``probabilities=True``, in a stream with smoothing, and where probabilities of merged
        classes are needed, the CPU does it regardless.
        """
        return self._stages.image_backend is not None

    def __repr__(self) -> str:
        network = self.spec.network
        return f"Predictor({network.backbone}, {network.num_classes} classes, {self.backend})"

    @overload  # a str is a sequence too, but the first signature takes it
    def __call__(  # type: ignore[overload-overlap]
        self, image: ImageSource, *, confidence: bool = ..., probabilities: bool = ...
    ) -> Segmentation: ...

    @overload
    def __call__(
        self,
        image: Sequence[ImageSource],
        *,
        confidence: bool = ...,
        probabilities: bool = ...,
        errors: Literal["raise"] = ...,
    ) -> list[Segmentation]: ...

    @overload
    def __call__(
        self,
        image: Sequence[ImageSource],
        *,
        confidence: bool = ...,
        probabilities: bool = ...,
        errors: Literal["return"],
    ) -> list[Segmentation | Failure]: ...

    def __call__(
        self,
        image: ImageSource | Sequence[ImageSource],
        *,
        confidence: bool = False,
        probabilities: bool = False,
        errors: str = OnError.RAISE,
    ) -> Segmentation | Failure | list[Segmentation] | list[Segmentation | Failure]:
        """Segment one image, or each image of a list.

        Args:
            image: A path, the bytes of an image file, a (H, W, 3) uint8 BGR array (gray and BGRA
                too), or a PIL image; or a list or tuple of these. Arrays are copied: results share
                no memory with them.
            confidence: Whether to compute the probability of each pixel's label.
            probabilities: Whether to compute the probabilities of all C classes, which take 4*C
                bytes per pixel.
            errors: ``"raise"``, or ``"return"`` to get a `Failure` in place of the result of each
                image that cannot be segmented, and the results of all others.

        Returns:
            A `Segmentation` with labels at the image's own size; a list for a list.

        Raises:
            ImageError: An image cannot be read, or its shape or dtype is wrong.
            SizeError: An image is too small for the network.
            OutOfMemoryError: An image, or what the network makes of it, does not fit into memory.
            ModelError: The model does not run, or returns what does not fit its facts.
            ProcessError: This process was forked from the one that made the predictor.
            OptionError: Probabilities were asked for, but the model returns labels.
        """
        self._stages.process.require("a predictor")
        for name, value in (("confidence", confidence), ("probabilities", probabilities)):
            require_kind(value, bool, name, False)
        if confidence or probabilities:
            require_logits(self.spec, "probabilities were")
        wanted = Wanted(confidence, probabilities, failures=_keeps_failures(errors))
        if isinstance(image, list | tuple):
            return list(self._stages.segment(image, wanted, iter, iter))
        return next(self._stages.segment([image], wanted, iter, iter))  # type: ignore[list-item]

    @overload
    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        confidence: bool = ...,
        smoothing: float = ...,
        depth: int = ...,
        live: bool = ...,
        errors: Literal["raise"] = ...,
    ) -> SegmentationStream[Segmentation]: ...

    @overload
    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        confidence: bool = ...,
        smoothing: float = ...,
        depth: int = ...,
        live: bool = ...,
        errors: Literal["return"],
    ) -> SegmentationStream[Segmentation | Failure]: ...

    @check_kinds
    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        confidence: bool = False,
        smoothing: float = 0.0,
        depth: int = 2,
        live: bool = False,
        errors: str = OnError.RAISE,
    ) -> SegmentationStream[Segmentation] | SegmentationStream[Segmentation | Failure]:
        """Segment a stream of images, with all stages working at the same time.

        Reading, preparing, the network and labelling run in their own threads. A thread that is
        ahead waits for the next one. There is one result for each image, in order::

            with predictor.stream(camera_frames(), live=True) as results:
                for result in results:
                    show(result.overlay())

        Args:
            images: Images as ``predictor(image)`` takes them, without end if you like. A thread
                iterates over them and copies each array before it asks for the next, so a source
                may use one buffer for all. A generator is closed at the end.
            confidence: Whether to compute the probability of each pixel's label.
            smoothing: Weight, 0 to below 1, of the previous images in an exponential average of
                the logits; 0 turns it off. It calms flicker but lags behind movement. The average
                starts again when the image size changes. With smoothing, the CPU labels pixels,
                even if `on_device` is true.
            depth: The most images that wait between two stages. With 0, an image is read only when
                the network is free for it.
            live: Whether the source does not wait, such as a camera. Images that come while the
                network is busy are dropped, so that the newest is next, and `depth` applies only
                after the network.
            errors: ``"raise"``, or ``"return"`` to get a `Failure` in place of the result of each
                image that cannot be segmented, and to go on with the next image.

        Returns:
            An iterator. Use it in a ``with`` block, or close it, unless you run it to its end. It
            raises what `images` or a stage raises, after the results before that. What iterating
            `images` raises always ends it.

        Raises:
            OptionError: An argument makes no sense, or does not fit this model.
        """
        self._stages.process.require("a predictor")
        require_stream_options(images, smoothing, depth)
        if confidence or smoothing:
            require_logits(self.spec, "probabilities or smoothing were")
        failures = _keeps_failures(errors)
        wanted = Wanted(confidence=confidence, smoothing=float(smoothing), failures=failures)
        return SegmentationStream(self._stages, images, wanted, depth=depth, live=live)


def _keeps_failures(errors: str) -> bool:
    return choose(OnError, errors, "errors") is OnError.RETURN
