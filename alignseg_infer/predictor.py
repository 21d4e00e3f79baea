"""Predictor: an image in, a segmentation out."""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.averaging import Averaging, Mode, averaging_for, require_logits
from alignseg_infer.backends import Backend, ImageBackend, LimitedBackend, open_backend
from alignseg_infer.errors import MissingDependencyError, OptionError
from alignseg_infer.images import Image, ImageSource, load_image
from alignseg_infer.postprocess import Floats, Scores, resized_labels, scores_from_logits
from alignseg_infer.preprocess import Size, preprocess, size_policy
from alignseg_infer.result import Segmentation, StageClock, StageTimes
from alignseg_infer.spec import ModelSpec
from alignseg_infer.tiling import DEFAULT_OVERLAP

logger = logging.getLogger(__name__)


class _Prepared(NamedTuple):
    """One image on its way to the network; times in ms."""

    image: Image
    tensor: NDArray[np.float32]
    load: float
    preprocess: float


class _Loaded(NamedTuple):
    """One image and the network input size it gets; time in ms."""

    image: Image
    input_size: Size
    load: float


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
        self._backend = model
        self._averaging = averaging_for(
            self.spec, mode=mode, tile=tile, overlap=overlap, scales=scales, flip=flip
        )
        export = self.spec.export
        self._policy = size_policy(size, None if mode == Mode.SLIDE else export)
        self._fixed_batch = export.batch if export else None
        self._batch = self._fixed_batch or batch
        self._least_batch = self._fixed_batch or 1
        if isinstance(model, LimitedBackend) and not self._fixed_batch:
            self._least_batch = _least_batch(model, batch)
        self._on_device = _image_backend(model, on_device, averaged=self._averaging is not None)

    @property
    def spec(self) -> ModelSpec:
        """The model's facts."""
        return self._backend.spec

    @property
    def backend(self) -> str:
        """What runs the network, e.g. ``onnxruntime (CPUExecutionProvider)``."""
        return self._backend.name

    @property
    def batch(self) -> int:
        """Images per network call at most."""
        return self._batch

    @property
    def on_device(self) -> bool:
        """Whether images are prepared and pixels labelled on the GPU.

        With ``probabilities=True`` the host does it all the same: they are too much to send.
        """
        return self._on_device is not None

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
        if isinstance(image, list | tuple):
            return self._segment_all(image, confidence, probabilities)
        return self._segment_all([image], confidence, probabilities)[0]  # type: ignore[list-item]

    def _segment_all(
        self, sources: Sequence[ImageSource], confidence: bool, probabilities: bool
    ) -> list[Segmentation]:
        if averaging := self._averaging:
            return [
                self._segment_averaged(averaging, source, confidence, probabilities)
                for source in sources
            ]
        if self._on_device is not None and not probabilities:
            return self._segment_on_device(self._on_device, sources, confidence)
        results: list[Segmentation] = []
        waiting: list[_Prepared] = []
        for source in sources:
            prepared = self._prepare(source)
            full = len(waiting) == self._batch
            if waiting and (full or waiting[0].tensor.shape != prepared.tensor.shape):
                results += self._segment_batch(waiting, confidence, probabilities)
                waiting = []
            waiting.append(prepared)
        if waiting:
            results += self._segment_batch(waiting, confidence, probabilities)
        return results

    def _prepare(self, source: ImageSource) -> _Prepared:
        start = time.perf_counter()
        image = load_image(source)
        loaded = time.perf_counter()
        size = self._policy.input_size((image.shape[0], image.shape[1]))
        tensor = preprocess(image, size, self.spec.input)
        done = time.perf_counter()
        return _Prepared(image, tensor, 1e3 * (loaded - start), 1e3 * (done - loaded))

    def _segment_batch(
        self, batch: list[_Prepared], confidence: bool, probabilities: bool
    ) -> list[Segmentation]:
        """Runs one batch of equally sized inputs."""
        start = time.perf_counter()
        outputs = self._infer([prepared.tensor for prepared in batch])
        infer = 1e3 * (time.perf_counter() - start) / len(batch)
        return [
            self._finish(prepared, output, infer, confidence, probabilities)
            for prepared, output in zip(batch, outputs, strict=True)
        ]

    def _infer(self, tensors: list[Floats]) -> NDArray[np.generic]:
        """The outputs of equally sized inputs (1, 3, H, W)."""
        count = len(tensors)
        # Fill up with copies, whose outputs nobody reads.
        tensors = tensors + tensors[-1:] * (self._least_batch - count)
        stacked = tensors[0] if len(tensors) == 1 else np.concatenate(tensors)
        return self._backend.infer(np.ascontiguousarray(stacked))[:count]

    def _finish(
        self,
        prepared: _Prepared,
        output: NDArray[np.generic],
        infer: float,
        confidence: bool,
        probabilities: bool,
    ) -> Segmentation:
        start = time.perf_counter()
        size = (prepared.image.shape[0], prepared.image.shape[1])
        if output.ndim == 2:
            labels = output if output.dtype == np.uint16 else output.astype(np.uint8, copy=False)
            scores = Scores(resized_labels(labels, size), None, None)  # type: ignore[arg-type]
        else:
            scores = scores_from_logits(
                output.astype(np.float32, copy=False),
                size,
                confidence=confidence,
                probabilities=probabilities,
            )
        done = 1e3 * (time.perf_counter() - start)
        height, width = prepared.tensor.shape[2:]
        times = StageTimes(prepared.load, prepared.preprocess, infer, done)
        return self._segmentation(prepared.image, scores, (height, width), times)

    def _segment_on_device(
        self, backend: ImageBackend, sources: Sequence[ImageSource], confidence: bool
    ) -> list[Segmentation]:
        results: list[Segmentation] = []
        waiting: list[_Loaded] = []
        for source in sources:
            loaded = self._load(source)
            full = len(waiting) == self._batch
            if waiting and (full or waiting[0].input_size != loaded.input_size):
                results += self._label_batch(backend, waiting, confidence)
                waiting = []
            waiting.append(loaded)
        if waiting:
            results += self._label_batch(backend, waiting, confidence)
        return results

    def _load(self, source: ImageSource) -> _Loaded:
        start = time.perf_counter()
        image = load_image(source)
        milliseconds = 1e3 * (time.perf_counter() - start)
        size = self._policy.input_size((image.shape[0], image.shape[1]))
        return _Loaded(image, size, milliseconds)

    def _label_batch(
        self, backend: ImageBackend, batch: list[_Loaded], confidence: bool
    ) -> list[Segmentation]:
        """Runs one batch of equally sized inputs on the device, images to labels."""
        size, count = batch[0].input_size, len(batch)
        done = backend.segment([loaded.image for loaded in batch], size, confidence=confidence)
        spent = (done.preprocess / count, done.infer / count, done.postprocess / count)
        return [
            self._segmentation(loaded.image, scores, size, StageTimes(loaded.load, *spent))
            for loaded, scores in zip(batch, done.scores, strict=True)
        ]

    def _segment_averaged(
        self, averaging: Averaging, source: ImageSource, confidence: bool, probabilities: bool
    ) -> Segmentation:
        clock = StageClock()
        image = load_image(source)
        clock.lap("load")
        size = (image.shape[0], image.shape[1])
        input_sizes = [self._policy.input_size(size, scale) for scale in averaging.scales]

        def prepare(input_size: Size) -> Floats:
            clock.lap("postprocess")
            tensor = preprocess(image, input_size, self.spec.input)
            clock.lap("preprocess")
            return tensor

        def infer(tensors: Iterable[Floats]) -> Iterator[Floats]:
            remaining = iter(tensors)
            while batch := list(islice(remaining, self._batch)):
                clock.lap("postprocess")
                outputs = self._infer(batch)
                clock.lap("infer")
                yield from outputs.astype(np.float32, copy=False)

        logits = averaging.logits(input_sizes, size, prepare, infer)
        scores = scores_from_logits(
            logits, size, confidence=confidence, probabilities=probabilities
        )
        clock.lap("postprocess")
        seen = averaging.tiling.tile if averaging.tiling else max(input_sizes)
        return self._segmentation(image, scores, seen, clock.times())

    def _segmentation(
        self, image: Image, scores: Scores, input_size: Size, times: StageTimes
    ) -> Segmentation:
        return Segmentation(
            labels=scores.labels,
            image=image,
            classes=self.spec.classes,
            input_size=input_size,
            backend=self._backend.name,
            times=times,
            confidence=scores.confidence,
            probabilities=scores.probabilities,
        )


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
            f"batch={min(max(batch, least), most)}, or --batch; or build it for more: "
            "python export/to_trt.py MODEL -o ENGINE --opt NxHxW --max NxHxW",
        )
    return least
