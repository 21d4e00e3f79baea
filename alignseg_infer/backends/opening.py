"""Opens a model as a `Predictor` asks for it, once more in each process that gets a predictor."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from alignseg_infer.arrays import InputShape, Size, plain_value
from alignseg_infer.backend import Backend, ImageBackend, LimitedBackend
from alignseg_infer.backends import (
    ENGINE_RUNNERS,
    OnnxRunner,
    open_backend,
    require_precision,
)
from alignseg_infer.backends.engine_order import EngineOrder
from alignseg_infer.backends.tuned import TUNED, advice, choice_of
from alignseg_infer.backports import Self
from alignseg_infer.demo import DEMO, model_path
from alignseg_infer.errors import MissingDependencyError, ModelFileError, OptionError
from alignseg_infer.inference.averaging import Averaging, Mode, averaging_for, choose_tile
from alignseg_infer.inference.stages import Stages
from alignseg_infer.pixels.encoded import require_max_pixels
from alignseg_infer.pixels.preprocess import SizePolicy, size_policy
from alignseg_infer.spec.model import MAX_INPUT_SIDE, MIN_INPUT_SIDE, ModelSpec
from alignseg_infer.spec.onnx_weights import require_weights_beside
from alignseg_infer.trt.builder.options import BuildOptions, profile_from

logger = logging.getLogger(__name__)

Shape: TypeAlias = tuple[int, int, int]  # images, height, width


@dataclass(frozen=True, kw_only=True)
class PredictorOptions:
    """The keyword arguments of `Predictor`, as plain Python values."""

    device: str | None
    size: str | int | Size | None
    batch: int
    threads: int | None
    mode: str
    tile: int | Size | None
    overlap: float
    scales: Sequence[float]
    flip: bool
    on_device: bool | None
    runtime: str | None
    precision: str | None
    min_shape: Shape | None
    opt_shape: Shape | None
    max_shape: Shape | None
    max_pixels: int

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, plain_value(getattr(self, field.name)))


def obey_choice(
    model: str | Path, options: PredictorOptions
) -> tuple[str | Path, PredictorOptions]:
    """Return the file and the options that were chosen, if ``runtime="tuned"`` asks for them.

    Raises:
        TuningError: Nothing was chosen for this model on this machine.
        OptionError: An option says what the choice says, or does not fit it.
        ModelFileError: The model does not exist.
    """
    if options.runtime != TUNED:
        return model, options
    _require_nothing_chosen(options)
    obeyed = choice_of(model)
    choice = obeyed.choice
    if choice.size is not None:
        _require_chosen_size(model, obeyed.model, choice.size, options)
    return obeyed.model, replace(
        options,
        runtime=choice.runtime,
        precision=choice.precision,
        threads=choice.threads,
        batch=choice.batch,
    )


def _require_chosen_size(
    model: str | Path, chosen: str | Path, size: Size, options: PredictorOptions
) -> None:
    """Check that all inputs of the network will have the size for which a file was chosen.

    Raises:
        OptionError: They will not, or may not.
    """
    if options.mode != Mode.WHOLE:
        seen, fix = f"mode={str(options.mode)!r} was given", f"mode={Mode.WHOLE.value!r}"
    elif tuple(options.scales) != (1.0,):
        seen, fix = f"scales={options.scales!r} was given", "leave scales= out"
    elif options.size is None:
        seen, fix = "no size was asked for", f"size={size}"
    elif options.size != size:
        seen, fix = f"size={options.size!r} was given", f"size={size}"
    else:
        return
    raise OptionError(
        f"{chosen} was chosen for {size[0]}x{size[1]} only, and {seen}",
        "the size that was tuned for, without a sliding window and scales",
        f"{fix}; or tune for images of any size: {advice(model)}",
    )


def _require_nothing_chosen(options: PredictorOptions) -> None:
    """Check that no option contradicts what was chosen.

    Raises:
        OptionError: One may.
    """
    usual = {"device": (None, "cpu"), "batch": (1,), "threads": (None,), "precision": (None,)}
    usual |= dict.fromkeys(("min_shape", "opt_shape", "max_shape"), (None,))
    for name, values in usual.items():
        given = getattr(options, name)
        if given not in values:
            raise OptionError(
                f"{name}={given!r} was given with runtime={TUNED!r}, which says it, too",
                "what was chosen for the CPU, as it was chosen",
                f"leave {name}= out, or name a runtime: runtime={OnnxRunner.ONNXRUNTIME.value!r}",
            )


def open_model(model: str | Path, options: PredictorOptions) -> Backend:
    """Open the model that runs a predictor with these options.

    Raises:
        AlignSegError: An error that `Predictor` documents.
    """
    return open_backend(
        model,
        device=options.device,
        threads=options.threads,
        runtime=options.runtime,
        precision=options.precision,
        size=_only_size(options),
        engine=_engine_order(options),
    )


def _only_size(options: PredictorOptions) -> Size | None:
    """Return the size of every input of the network; None if there may be several, or batches.

    Raises:
        OptionError, SizeError: The options make no sense.
    """
    size = choose_tile(None, **_averaging_options(options))
    if size is None and tuple(options.scales) == (1.0,):
        size = size_policy(options.size, None).fixed
    if size is None or options.batch != 1:
        return None
    return size if min(size) >= MIN_INPUT_SIDE and max(size) <= MAX_INPUT_SIDE else None


class Opening(NamedTuple):
    """How a predictor was made from a file, so that another process can make the same.

    Attributes:
        model: Absolute path of the file, or ``demo``.
        options: All keyword arguments.
        size: Bytes of the file, and of the files with weights that an ``.onnx`` names.
        spec: The facts in the file.
        tuned: Whether file and options are what ``alignseg tune`` chose.
    """

    model: str
    options: PredictorOptions
    size: int
    spec: ModelSpec
    tuned: bool

    @classmethod
    def of(
        cls,
        model: str | Path,
        options: PredictorOptions,
        spec: ModelSpec,
        *,
        tuned: bool = False,
    ) -> Self:
        """Return how a predictor with these facts is made of the file `model`."""
        path = Path(os.path.abspath(model_path(model)))
        weights = require_weights_beside(path) if path.suffix.lower() == ".onnx" else ()
        size = sum(os.path.getsize(file) for file in (path, *weights))
        return cls(DEMO if str(model) == DEMO else str(path), options, size, spec, tuned)


def open_stages(model: str | Path | Backend, options: PredictorOptions) -> Stages:
    """Open a model, and return the stages that run it.

    Raises:
        AlignSegError: An error that `Predictor` documents.
    """
    batch = options.batch
    require_max_pixels(options.max_pixels)
    if type(batch) is not int or batch < 1:
        raise OptionError(f"batch={batch!r}", "1 or more", "batch=1")
    if isinstance(model, str | os.PathLike):
        model = open_model(model, options)
    _require_backend(model)
    averaging, policy = _choose_flow(model.spec, options)
    export = model.spec.export
    fixed_batch = export.batch if export else None
    least_batch = fixed_batch or 1
    if isinstance(model, LimitedBackend) and not fixed_batch:
        least_batch = _require_batch(model, batch)
    averaged = averaging is not None
    return Stages(
        backend=model,
        policy=policy,
        averaging=averaging,
        image_backend=_choose_image_backend(model, options.on_device, averaged=averaged),
        least_batch=least_batch,
        batch=fixed_batch or batch,
        max_pixels=options.max_pixels,
    )


@lru_cache(maxsize=1)  # a pool sends the predictor with every task
def open_again(opening: Opening, process: int) -> Stages:
    """Open the file of a predictor that was unpickled.

    Args:
        opening: How the predictor was made.
        process: Number of this process, since what its parent opened cannot be used here.

    Raises:
        ModelFileError: The file is not the one that was pickled.
    """
    stages = open_stages(opening.model, opening.options)
    spec, tuned = stages.backend.spec, opening.tuned
    if Opening.of(opening.model, opening.options, spec, tuned=tuned) != opening:
        raise ModelFileError(
            f"{opening.model} is not the file that the pickled predictor was made from",
            f"the same file of {opening.size} bytes in every process",
            "make and pickle the predictor again, or copy the file again",
        )
    return stages


def _choose_flow(spec: ModelSpec, options: PredictorOptions) -> tuple[Averaging | None, SizePolicy]:
    """Return what is averaged, and how input sizes are chosen.

    Raises:
        OptionError, SizeError: The options make no sense, or do not fit the model.
    """
    averaging = averaging_for(spec, **_averaging_options(options))
    export = None if options.mode == Mode.SLIDE else spec.export
    return averaging, size_policy(options.size, export)


def _averaging_options(options: PredictorOptions) -> dict[str, Any]:
    names = ("mode", "tile", "overlap", "scales", "flip")
    return {name: getattr(options, name) for name in names}


def _engine_order(options: PredictorOptions) -> EngineOrder | None:
    """Return the engine that TensorRT should build for a predictor; None for other runtimes.

    Raises:
        OptionError: An option of an engine was given for another runtime, or cannot be used.
    """
    shapes = {name: getattr(options, name) for name in ("min_shape", "opt_shape", "max_shape")}
    if options.precision is not None:
        require_precision(options.runtime, options.precision)
    if options.runtime not in ENGINE_RUNNERS:
        for name, given in shapes.items():
            if given is not None:
                raise OptionError(
                    f"{name}= was given without a runtime that builds engines",
                    f"{name}= with runtime= {' or '.join(ENGINE_RUNNERS)}",
                    f"runtime={OnnxRunner.TENSORRT.value!r}, or leave {name}= out",
                )
        return None
    asked = profile_from(*(shape and InputShape(*shape) for shape in shapes.values()))
    return EngineOrder(
        precision=options.precision,  # type: ignore[arg-type]  # takes strings
        shapes=BuildOptions(profile=asked).profile,  # checked
        policy=size_policy(options.size, None),
        tile=choose_tile(None, **_averaging_options(options)),
        scales=tuple(options.scales),
        batch=options.batch,
        check=partial(_choose_flow, options=options),
    )


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
