"""Predictor: an image in, a segmentation out."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import overload

from alignseg_infer.backends import Backend, ImageBackend, LimitedBackend, open_backend
from alignseg_infer.errors import MissingDependencyError, OptionError
from alignseg_infer.inference.averaging import Mode, averaging_for, require_logits
from alignseg_infer.inference.stages import Stages, Wanted
from alignseg_infer.inference.stream import SegmentationStream, require_stream_options
from alignseg_infer.inference.tiling import DEFAULT_OVERLAP
from alignseg_infer.pixels.images import ImageSource
from alignseg_infer.pixels.preprocess import Size, size_policy
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
            `backends.Backend`.
        device: None for what the model needs: ``"cuda"`` for an engine, which runs on a GPU only,
            ``"cpu"`` for all others. Else ``"cpu"``, ``"cuda"``, ``"cuda:N"``, or ``"auto"`` for
            CUDA where it works. A device that was asked for and is not there is an error.
        size: Network input size: None for the model's own if it is fixed, else the image's;
            ``"native"`` for the image's; (height, width) to stretch to; or the longest side. With
            a sliding window, the size of the image it slides over.
        batch: Inputs per network call at most: images of a list whose sizes agree; with a sliding
            window or `flip`, the tiles or mirror images of one image.
        threads: CPU threads for one call; None for the runtime's choice.
        mode: ``"whole"``, or ``"slide"`` for a sliding window, as the authors evaluate.
        tile: Side of the window's square tile, or (height, width); None for the model's size if
            it is fixed, else the authors' 872. Smaller images are padded to it.
        overlap: Share of a tile, 0 to below 1, that the next one covers too.
        scales: Factors on the input size; raw logits are averaged over them.
        flip: Whether to average with the mirrored image.
        on_device: Whether images are prepared and pixels labelled on the GPU, so that only images
            and labels cross the bus. None: where the model runs on one in TensorRT or PyTorch, and
            the packages that compile CUDA kernels are there. `on_device` tells afterwards.
        runtime: What runs an ``.onnx``: ``"onnxruntime"`` or ``"openvino"``; None for the former.

    Beside one batch of tiles, a sliding window needs about 4*C bytes per pixel of its image (at the
    largest scale), several scales another 4*C per pixel of the image itself.

    Raises:
        ModelError: The model cannot be used.
        DeviceError: The device is not there.
        MissingDependencyError: The runtime is not installed.
        OptionError, SizeError: An argument makes no sense, or not with this model.
    """

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
        if type(batch) is not int or batch < 1:
            raise OptionError(f"batch={batch!r}", "1 or more", "batch=1")
        if isinstance(model, str | Path):
            model = open_backend(model, device=device, threads=threads, runtime=runtime)
        averaging = averaging_for(
            model.spec, mode=mode, tile=tile, overlap=overlap, scales=scales, flip=flip
        )
        export = model.spec.export
        fixed_batch = export.batch if export else None
        least_batch = fixed_batch or 1
        if isinstance(model, LimitedBackend) and not fixed_batch:
            least_batch = _least_batch(model, batch)
        self._stages = Stages(
            backend=model,
            policy=size_policy(size, None if mode == Mode.SLIDE else export),
            averaging=averaging,
            image_backend=_image_backend(model, on_device, averaged=averaging is not None),
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
        """Images per network call at most."""
        return self._stages.batch

    @property
    def on_device(self) -> bool:
        """Whether images are prepared and pixels labelled on the GPU.

        With ``probabilities=True``, and when a stream smooths, the host does it all the same.
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
        """Segments one image, or each of a list.

        Args:
            image: A path, a (H, W, 3) uint8 BGR array (gray and BGRA too), or a PIL image; or a
                list or tuple of these.
            confidence: Whether the result gets the probability of each pixel's label.
            probabilities: Whether it gets all probabilities: 4*C bytes per pixel.

        Returns:
            A `Segmentation` with labels at the image's own size; a list for a list.

        Raises:
            ImageError: An image cannot be read or has the wrong form.
            SizeError: An image is too small for the network.
            OptionError: Probabilities were asked of a model that returns labels.
        """
        if confidence or probabilities:
            require_logits(self.spec, "probabilities were")
        wanted = Wanted(confidence, probabilities)
        if isinstance(image, list | tuple):
            return list(self._stages.segmented(image, wanted, iter, iter))
        return next(self._stages.segmented([image], wanted, iter, iter))  # type: ignore[list-item]

    def stream(
        self,
        images: Iterable[ImageSource],
        *,
        confidence: bool = False,
        smoothing: float = 0.0,
        depth: int = 2,
        live: bool = False,
    ) -> SegmentationStream:
        """Segments images as they come, with all stages at work at the same time.

        Reading, preparing, the network and labelling run in threads of their own, which wait for
        each other when one is ahead. Results come one for each image, in order::

            with predictor.stream(camera_frames(), live=True) as results:
                for result in results:
                    show(result.overlay())

        Args:
            images: Each as ``predictor(image)`` takes it; may be endless. It is iterated in a
                thread; a generator is closed at the end.
            confidence: Whether results get the probability of each pixel's label.
            smoothing: Weight, 0 to below 1, of the logits before in an exponential average over
                images; 0 is off. It calms flicker and lags behind movement. An image of another
                size begins anew. The CPU labels pixels then, also if `on_device`.
            depth: Images that may wait between two stages. With 0, an image is read when the
                network is free for it, and not ahead.
            live: For a source that goes on regardless, such as a camera: images that the network
                was too slow for are dropped, so that the newest is next; `depth` counts behind the
                network only.

        Returns:
            An iterator, to be left with ``with`` or ``close()`` if it is not run to its end.
            What `images` or a stage raises is raised by it, after the results before.

        Raises:
            OptionError: An argument makes no sense, or not with this model.
        """
        require_stream_options(images, smoothing, depth)
        if confidence or smoothing:
            require_logits(self.spec, "probabilities or smoothing were")
        wanted = Wanted(confidence=confidence, smoothing=float(smoothing))
        return SegmentationStream(self._stages, images, wanted, depth=depth, live=live)


def _image_backend(model: Backend, wanted: bool | None, *, averaged: bool) -> ImageBackend | None:
    """`model` if it is to prepare images and label pixels itself.

    Raises:
        OptionError: That was asked for, and it cannot.
        MissingDependencyError: That was asked for, and what compiles kernels is not installed.
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
    except OptionError:  # as of every model on the CPU
        if wanted:
            raise
        return None
    except MissingDependencyError as error:
        if wanted:
            raise
        logger.warning("the CPU prepares images and labels pixels, which takes longer: %s", error)
        return None
    return model


def _least_batch(model: LimitedBackend, batch: int) -> int:
    """Inputs per call at least.

    Raises:
        OptionError: `batch` is not among those the model takes.
    """
    least, most = model.batch_limits
    if not least <= batch <= most:
        raise OptionError(
            f"batch={batch}, but this engine takes {least} to {most} inputs per call",
            f"{least} to {most}, as it was built",
            f"batch={min(max(batch, least), most)}; or build it for more: "
            "alignseg export-trt MODEL -o ENGINE --opt-shape NxHxW --max-shape NxHxW",
        )
    return least
