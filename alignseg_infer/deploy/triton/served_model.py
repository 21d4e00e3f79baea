"""A model file for Triton Inference Server: what runs it, and whether that fits."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

from alignseg_infer.backends import CHECKPOINT_SUFFIXES, ONNX_SUFFIX
from alignseg_infer.backends.onnx_domains import needs_plugins
from alignseg_infer.backports import StrEnum
from alignseg_infer.choices import choose
from alignseg_infer.demo import model_path
from alignseg_infer.errors import EngineError, ModelFileError, OptionError, SpecError
from alignseg_infer.files.reading import require_file
from alignseg_infer.models.identify import require_named_as_it_is
from alignseg_infer.spec.graph_contract import told_tensors
from alignseg_infer.spec.model import ExportSpec, ModelSpec
from alignseg_infer.trt.engine_file import ENGINE_SUFFIXES, EngineFacts, read_facts
from alignseg_infer.trt.flavours import Flavour

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class TritonBackend(StrEnum):
    """What runs the network in the server.

    ``python`` runs all of a `Predictor` on the CPU. With the others, the network runs in the
    server, and an ensemble of three models does the rest.
    """

    PYTHON = "python"
    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    TENSORRT_PLAN = "tensorrt_plan"


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model file, and what the server needs to know about it.

    Attributes:
        path: The ``.onnx`` file or the engine.
        name: What clients call it.
        backend: What runs the network.
        spec: Its facts, with the size and the batch that an engine fixes.
        types: NumPy's names of the types of the network's input and output.
        batch: The most images in one call; 0 for a network that takes one image only.
        instances: How many copies of it run at once.
        engine: The facts of an engine; None for an ``.onnx`` file.
    """

    path: Path
    name: str
    backend: TritonBackend
    spec: ModelSpec
    types: tuple[str, str]
    batch: int
    instances: int
    engine: EngineFacts | None = None

    @property
    def export(self) -> ExportSpec:
        """The export facts."""
        assert self.spec.export is not None  # as in each exported file
        return self.spec.export


def read_served_model(
    model: str | Path, backend: str | None, name: str | None, batch: int, instances: int
) -> ServedModel:
    """Read the facts of a model, and check that the server can run it.

    Args:
        model: Path of an ``.onnx`` file or an engine, or ``demo``.
        backend: What runs the network, as `TritonBackend`; None for the default of the file.
        name: What clients call it; None for the name of its file.
        batch: The most images in one call.
        instances: How many copies of it run at once.

    Raises:
        OptionError: Name or backend do not fit it.
        ModelFileError, SpecError: It cannot be served.
    """
    path = model_path(model)
    suffix = path.suffix.lower()
    if suffix in CHECKPOINT_SUFFIXES:
        raise ModelFileError(
            f"{path} is a checkpoint, which no backend of Triton runs",
            "an .onnx file, an engine, or demo",
            f"export it first: alignseg export-onnx {quote(str(path))} -o {quote(path.stem)}.onnx",
        )
    if suffix not in (ONNX_SUFFIX, *ENGINE_SUFFIXES):
        known = f"an .onnx file, an engine ({', '.join(ENGINE_SUFFIXES)}), or demo"
        require_file(path, known, ModelFileError)
    require_named_as_it_is(path)
    engine = read_facts(path) if suffix in ENGINE_SUFFIXES else None
    spec, types = _read_onnx(path) if engine is None else _told(engine.fixed_spec)
    default = TritonBackend.PYTHON if engine is None else TritonBackend.TENSORRT_PLAN
    found = ServedModel(
        path=path,
        name=name or re.sub(r"[^A-Za-z0-9_.-]+", "_", path.stem),
        backend=default if backend is None else choose(TritonBackend, backend, "backend"),
        spec=spec,
        types=types,
        batch=batch,
        instances=instances,
        engine=engine,
    )
    return _require_served(found)


def _told(spec: ModelSpec) -> tuple[ModelSpec, tuple[str, str]]:
    given, returned = told_tensors(spec)
    return spec, (given.data_type, returned.data_type)


def _read_onnx(path: Path) -> tuple[ModelSpec, tuple[str, str]]:
    """Return the facts of an ``.onnx`` file, and the types of its input and output.

    Raises:
        ModelFileError: It needs plugins, or cannot be read.
    """
    if needs_plugins(path):
        raise ModelFileError(
            f"{path} needs TensorRT plugins, which run in an engine only",
            "an engine, or a graph without plugins",
            f"build an engine: alignseg export-trt {quote(str(path))} -o {quote(path.stem)}.engine",
        )
    from alignseg_infer.backends.onnxruntime_backend import OnnxRuntimeBackend

    backend = OnnxRuntimeBackend(path)
    return backend.spec, backend.types


def _require_served(model: ServedModel) -> ServedModel:
    """Return the model, with the batch that it takes; raise as `read_served_model`."""
    if not _NAME.fullmatch(model.name):
        raise OptionError(
            f"the model would be called {model.name!r}",
            "1 to 100 letters, digits, dots, dashes and underscores",
            "name='alignseg'",
        )
    _require_label_file(model)
    is_plan = model.backend is TritonBackend.TENSORRT_PLAN
    if is_plan != (model.engine is not None):
        raise OptionError(
            f"backend={model.backend.value!r} does not run {model.path}",
            "tensorrt_plan for an engine, and python, onnxruntime or openvino for an .onnx file",
            "leave it out, or build an engine: alignseg export-trt MODEL.onnx -o MODEL.engine",
        )
    if model.engine is not None:
        return _require_engine(model, model.engine)
    if model.backend is not TritonBackend.PYTHON and model.types[0] == "float16":
        raise ModelFileError(
            f"{model.path} takes float16, which another tool made of it",
            "a network that takes float32 or uint8, or the backend python",
            "use the file as it was exported; or leave out the backend",
        )
    return replace(model, batch=_batch_of(model, model.export.batch or 1))


def _require_label_file(model: ServedModel) -> None:
    """Check that a label file can hold the names of classes.

    Raises:
        SpecError: It has one name on each line, and the server sends ``value:label:name``.
    """
    odd = [one for one in model.spec.classes.names if ":" in one or one != one.strip()]
    if odd:
        raise SpecError(
            f"{model.path} has a class called {odd[0]!r}, which a label file of Triton cannot hold",
            "names without a colon, and without spaces around them",
            "rename it in the class table, and export again: alignseg export-onnx CHECKPOINT -o "
            "MODEL.onnx --classes FILE.json",
        )


def _batch_of(model: ServedModel, least: int) -> int:
    """Return the most images in one call; 0 for a network that takes one image only.

    Raises:
        ModelFileError: The network takes several images only.
    """
    if model.backend is TritonBackend.PYTHON:  # it fills batches up
        return model.batch
    if least > 1:
        raise ModelFileError(
            f"{model.path} takes {least} images at once, and no fewer",
            "a network that takes one image too",
            _command_for_one_image(model),
        )
    return 0 if model.export.batch == 1 else model.batch


def _command_for_one_image(model: ServedModel) -> str:
    if model.engine is None:
        return (
            "export it again for any number of images, with the other options as before: alignseg "
            "export-onnx CHECKPOINT -o MODEL.onnx"
        )
    shapes = model.engine.profile
    low, best, high = (
        f"{batch}x{shape.height}x{shape.width}"
        for batch, shape in (
            (1, shapes.minimum),
            (shapes.optimum.batch, shapes.optimum),
            (shapes.maximum.batch, shapes.maximum),
        )
    )
    return (
        "build it again for these, with the other options as before: alignseg export-trt MODEL -o "
        f"ENGINE --min-shape {low} --opt-shape {best} --max-shape {high}"
    )


def _require_engine(model: ServedModel, engine: EngineFacts) -> ServedModel:
    if engine.flavour is Flavour.TENSORRT_RTX:
        raise EngineError(
            f"{model.path} is an engine of TensorRT for RTX, which Triton does not run",
            "an engine of TensorRT",
            f"alignseg export-trt MODEL.onnx -o {quote(model.path.name)} --flavour tensorrt",
        )
    least, most = engine.profile.minimum.batch, engine.profile.maximum.batch
    return replace(model, batch=min(_batch_of(model, least), most))
