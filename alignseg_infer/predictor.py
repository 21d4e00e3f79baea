"""`Predictor`, which turns images into segmentations."""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

from alignseg_infer.arrays import Size, plain_value
from alignseg_infer.backend import Backend, ImageBackend, LimitedBackend
from alignseg_infer.backends import open_backend
from alignseg_infer.choices import check_kinds, require_kind
from alignseg_infer.errors import MissingDependencyError, OptionError
from alignseg_infer.inference.averaging import Mode, averaging_for, require_logits
from alignseg_infer.inference.stages import Stages, Wanted
from alignseg_infer.inference.stream import SegmentationStream, require_stream_options
from alignseg_infer.inference.tiling import DEFAULT_OVERLAP
from alignseg_infer.pixels.images import ImageSource
from alignseg_infer.pixels.preprocess import size_policy
from alignseg_infer.results.segmentation import Segmentation
from alignseg_infer.spec.model import ModelSpec

logger = logging.getLogger(__name__)


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
            a sliding window, the size of the image that it slides over.
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
        runtime: What runs an ``.onnx``: ``"onnxruntime"`` or ``"openvino"``; None for the former.

    Besides one batch of tiles, a sliding window needs about 4*C bytes of memory per pixel of its
    image (at the largest scale). Several scales need another 4*C bytes per pixel of the original
    image. C is the number of classes.

    Raises:
        ModelError: The model cannot be used.
        DeviceError: The device does not exist.
        MissingDependencyError: The runtime is not installed.
        OptionError, SizeError: An argument makes no sense, or does not fit this model.
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
    ) -> None:
        batch, on_device = plain_value(batch), plain_value(on_device)
        if type(batch) is not int or batch < 1:
            raise OptionError(f"batch={batch!r}", "1 or more", "batch=1")
        if isinstance(model, str | os.PathLike):
            model = open_backend(model, device=device, threads=threads, runtime=runtime)
        _require_backend(model)
        averaging = averaging_for(
            model.spec, mode=mode, tile=tile, overlap=overlap, scales=scales, flip=flip
        )
        export = model.spec.export
        fixed_batch = export.batch if export else None
        least_batch = fixed_batch or 1
        if isinstance(model, LimitedBackend) and not fixed_batch:
            least_batch = _require_batch(model, batch)
        self._stages = Stages(
            backend=model,
            policy=size_policy(size, None if mode == Mode.SLIDE else export),
            averaging=averaging,
            image_backend=_choose_image_backend(model, on_device, averaged=averaging is not None),
            least_batch=least_batch,
            batch=fixed_batch or batch,
        )

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
    def on_device(self) -> bool:
        """Whether the GPU prepares images and labels pixels.

        With ``probabilities=True``, and in a stream with smoothing, the CPU does it regardless.
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
        self, image: Sequence[ImageSource], *, confidence: bool = ..., probabilities: bool = ...
    ) -> list[Segmentation]: ...

    def __call__(
        self,
        image: ImageSource | Sequence[ImageSource],
        *,
        confidence: bool = False,
        probabilities: bool = False,
    ) -> Segmentation | list[Segmentation]:
        """Segment one image, or each image of a list.

        Args:
            image: A path, a (H, W, 3) uint8 BGR array (gray and BGRA too), or a PIL image; or a
                list or tuple of these. Arrays are copied: results share no memory with them.
            confidence: Whether to compute the probability of each pixel's label.
            probabilities: Whether to compute the probabilities of all C classes, which take 4*C
                bytes per pixel.

        Returns:
            A `Segmentation` with labels at the image's own size; a list for a list.

        Raises:
            ImageError: An image cannot be read, or its shape or dtype is wrong.
            SizeError: An image is too small for the network.
            OptionError: Probabilities were asked for, but the model returns labels.
        """
        for name, value in (("confidence", confidence), ("probabilities", probabilities)):
            require_kind(value, bool, name, False)
        if confidence or probabilities:
            require_logits(self.spec, "probabilities were")
        wanted = Wanted(confidence, probabilities)
        if isinstance(image, list | tuple):
            return list(self._stages.segment(image, wanted, iter, iter))
        return next(self._stages.segment([image], wanted, iter, iter))  # type: ignore[list-item]

    @check_kinds
    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        confidence: bool = False,
        smoothing: float = 0.0,
        depth: int = 2,
        live: bool = False,
    ) -> SegmentationStream:
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

        Returns:
            An iterator. Use it in a ``with`` block, or close it, unless you run it to its end. It
            raises what `images` or a stage raises, after the results before that.

        Raises:
            OptionError: An argument makes no sense, or does not fit this model.
        """
        require_stream_options(images, smoothing, depth)
        if confidence or smoothing:
            require_logits(self.spec, "probabilities or smoothing were")
        wanted = Wanted(confidence=confidence, smoothing=float(smoothing))
        return SegmentationStream(self._stages, images, wanted, depth=depth, live=live)


def _require_backend(model: object) -> None:
    """Check that a model which is no path has what `Backend` demands.

    Raises:
        OptionError: It has not, such as None, bytes, a session of ONNX Runtime or a network.
    """
    lacks = [name for name in ("spec", "name", "infer") if not hasattr(model, name)]
    if lacks or isinstance(model, type):
        raise OptionError(
            f"the model was given as {type(model).__name__}",
            "the path of a model, demo, or an object with spec, name and infer, as `Backend` says",
            "Predictor('alignseg.onnx')",
        )


def _choose_image_backend(
    model: Backend, wanted: bool | None, *, averaged: bool
) -> ImageBackend | None:
    """Return `model` if it should prepare images and label pixels itself, else None.

    Raises:
        OptionError: The caller asked for this, but the model cannot do it.
        MissingDependencyError: The caller asked for this, but NVRTC, which compiles the kernels,
            is not installed.
    """
    if wanted is False:
        return None
    if averaged or not isinstance(model, ImageBackend):
        if wanted is None:
            return None
        reason = "logits are averaged" if averaged else f"{model.name} has no GPU to do it on"
        raise OptionError(
            f"on_device=True was asked for, but {reason}",
            "a model in TensorRT, or in PyTorch on CUDA, and mode='whole' without scales and flip",
            "on_device=None",
        )
    try:
        model.load_kernels()
    except OptionError:  # every model on the CPU raises this
        if wanted:
            raise
        return None
    except MissingDependencyError as error:
        if wanted:
            raise
        logger.warning("the CPU prepares images and labels pixels, which is slower: %s", error)
        return None
    return model


def _require_batch(model: LimitedBackend, batch: int) -> int:
    """Return the fewest inputs per call.

    Raises:
        OptionError: The model does not take `batch` inputs per call.
    """
    least, most = model.batch_limits
    if not least <= batch <= most:
        raise OptionError(
            f"batch={batch}, but this engine takes {least} to {most} inputs per call",
            f"{least} to {most}, the range that it was built for",
            f"batch={min(max(batch, least), most)}; or build it for more: "
            "alignseg export-trt MODEL -o ENGINE --opt-shape NxHxW --max-shape NxHxW",
        )
    return least
