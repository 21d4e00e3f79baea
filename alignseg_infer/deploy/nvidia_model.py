"""What DeepStream and Isaac ROS must know of a model: its facts, its tensors, its files.

Both open a model with libnvinfer, so they take an ONNX file, of which they build an engine
themselves, or an engine of classic TensorRT.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from alignseg_infer.arrays import Size
from alignseg_infer.demo import DEMO, model_path
from alignseg_infer.errors import INSTALL_ONNX, ExportError, ModelFileError, OptionError
from alignseg_infer.files.reading import require_file, sha256_of
from alignseg_infer.packages import require_packages
from alignseg_infer.spec.graph_contract import is_offset, told_tensors
from alignseg_infer.spec.model import (
    INPUT_NAME,
    ExportSpec,
    ModelSpec,
    OutputKind,
    Precision,
)
from alignseg_infer.spec.onnx_weights import require_weights_beside
from alignseg_infer.trt.engine_file import ENGINE_SUFFIXES, EngineFacts, read_facts, sidecar_path
from alignseg_infer.trt.flavours import Flavour
from alignseg_infer.trt.runtime.checks import require_unchanged_plan

AT_LOAD = "libalignseg_plugin_at_load.so"  # registers its plugins when it is opened
_ANY_SIZE: Size = (512, 1024)  # what an advice names for a model of any size


@dataclass(frozen=True, kw_only=True)
class NvidiaModel:
    """An exported model, as far as a program that opens it with libnvinfer is concerned.

    Attributes:
        path: The .onnx file or the engine.
        spec: Its facts.
        size: Fixed (height, width) of its input; None if it takes several sizes.
        batches: Smallest and largest number of images that it takes; None for any number.
        types: NumPy's names of the types of its input and its output.
        has_offsets: Whether it returns offset fields too.
        plugins: Plugins that the consumer must register, as ``name/version``.
        engine: The facts of an engine; None for an ONNX file.
    """

    path: Path
    spec: ModelSpec
    size: Size | None
    batches: tuple[int, int] | None
    types: tuple[str, str]
    has_offsets: bool
    plugins: tuple[str, ...]
    engine: EngineFacts | None

    @property
    def export(self) -> ExportSpec:
        """The export facts."""
        assert self.spec.export is not None
        return self.spec.export

    @property
    def file(self) -> str:
        """The name of the model's file in the folder that is written."""
        return "model.engine" if self.engine else "model.onnx"

    def files(self) -> dict[str, str | bytes | Path]:
        """Return the files that the model consists of, by their names in the folder."""
        if self.engine:
            return {self.file: self.path, f"{self.file}.json": sidecar_path(self.path)}
        beside = {weights.name: weights for weights in require_weights_beside(self.path)}
        return {self.file: self.path, **beside}

    def remake(self, consumer: str, form: Mapping[str, str], size: Size | None = None) -> str:
        """Return the command that makes a model of another form.

        Args:
            consumer: Goes into the name of the new file.
            form: Options of the command and their values.
            size: Its (height, width); None for the size of this model.
        """
        height, width = size or self.size or _ANY_SIZE
        origin = self._origin()
        options = {**form, "size": f"{height}x{width}"}
        if self.spec.remap is not None and origin != str(self.path):  # which has its own classes
            options["remap"] = "FILE.json"
        words = [f"--{name.replace('_', '-')} {value}" for name, value in options.items()]
        name = f"{Path(origin).stem}-{consumer}.onnx"
        command = f"alignseg export-onnx {shlex.quote(origin)} -o {shlex.quote(name)}"
        return " ".join([command, *words])

    def _origin(self) -> str:
        """Return what another form can be made of, as it is typed: this file or its checkpoint."""
        if self.path == model_path(DEMO):
            return DEMO
        export = self.export
        is_plain = (export.output, export.layout, export.precision, export.size, export.batch)
        plain = (OutputKind.LOGITS, None, Precision.FP32, None, None)
        if is_plain == plain and self.engine is None and not self.has_offsets:
            return str(self.path)
        return self.spec.source.name if self.spec.source else "CHECKPOINT"


def read_nvidia_model(path: Path) -> NvidiaModel:
    """Read the facts of an ONNX file or an engine.

    Raises:
        ModelFileError: It is missing, damaged, a checkpoint, or does not describe itself.
        EngineError: An engine was changed, or its facts cannot be read.
        ExportError: libnvinfer cannot open it.
        MissingDependencyError: The package onnx is not installed.
    """
    suffix = path.suffix.lower()
    if suffix in ENGINE_SUFFIXES:
        return _read_engine(path)
    if suffix != ".onnx":
        raise ModelFileError(
            f"{path} is not an exported model",
            f"an .onnx file, or an engine ({', '.join(ENGINE_SUFFIXES)})",
            f"alignseg export-onnx {shlex.quote(str(path))} -o model.onnx",
        )
    require_packages(("onnx",), INSTALL_ONNX)
    model = _read_onnx(path)
    if model.export.has_cpu_integers:
        raise ExportError(
            "the graph is int8 for CPUs, with unsigned integers, which TensorRT does not take",
            "int8 for TensorRT, or another precision",
            "start from the float32 model: alignseg export-onnx CHECKPOINT -o model.onnx",
        )
    return model


def _read_onnx(path: Path) -> NvidiaModel:
    import onnx

    from alignseg_infer.spec.onnx_facts import read_onnx_facts

    facts = read_onnx_facts(path)
    export = facts.export
    graph = onnx.load(path, load_external_data=False).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    kinds |= {value.name: value.type.tensor_type.elem_type for value in graph.output}
    # Other tools may have changed the types, so the graph tells them, not the facts.
    given, returned = (
        onnx.helper.tensor_dtype_to_np_dtype(kinds[name]).name
        for name in (INPUT_NAME, export.output.value)
    )
    return NvidiaModel(
        path=path,
        spec=facts.spec,
        size=export.size,
        batches=None if export.batch is None else (export.batch, export.batch),
        types=(given, returned),
        has_offsets=any(is_offset(name) for name in facts.outputs),
        plugins=tuple(sorted(set(facts.plugins))),
        engine=None,
    )


def _read_engine(path: Path) -> NvidiaModel:
    facts = read_facts(path)
    require_unchanged_plan(path, facts, sha256_of(path))
    if facts.flavour is Flavour.TENSORRT_RTX:
        raise ExportError(
            f"{path} is an engine of TensorRT for RTX, which libnvinfer does not open",
            "an engine of classic TensorRT, or the .onnx file",
            "alignseg export-trt MODEL -o model.engine --flavour tensorrt",
        )
    if facts.plugins_embedded:
        raise ExportError(
            f"{path} holds code, which DeepStream and Isaac ROS do not let an engine bring",
            "an engine without plugins, or with their library in a file of its own",
            "alignseg export-trt MODEL -o model.engine --plugin "
            "plugins/build/libalignseg_plugin.so",
        )
    given, returned = told_tensors(facts.spec)
    fixed = facts.fixed_spec.export
    return NvidiaModel(
        path=path,
        spec=facts.spec,
        size=None if fixed is None else fixed.size,
        batches=(facts.profile.minimum.batch, facts.profile.maximum.batch),
        types=(given.data_type, returned.data_type),
        has_offsets=False,
        plugins=facts.plugins,
        engine=facts,
    )


def remapped_elsewhere(model: NvidiaModel, consumer: str, labels: Mapping[str, str]) -> ExportError:
    """Return the error for a model whose classes its graph does not remap.

    Args:
        model: It returns logits or probabilities of the network's own classes.
        consumer: As `NvidiaModel.remake` takes it.
        labels: The form of labels that this consumer takes.
    """
    count = model.spec.network.num_classes
    return ExportError(
        f"the model returns {model.export.output} of {count} classes, which only this package "
        f"can turn into its {len(model.spec.classes.names)} new classes",
        "labels, whose graph remaps the classes itself",
        model.remake(consumer, labels),
    )


def require_library(model: NvidiaModel, library: Path | None) -> Path | None:
    """Return the library that registers the plugins of `model`; None if it needs none.

    Args:
        model: The model.
        library: What the user named, if anything.

    Raises:
        ExportError: The model needs plugins, and no library was named.
        OptionError: The library does not register its plugins by itself, or none is needed.
        ModelFileError: The library does not exist.
    """
    if not model.plugins:
        if library is None:
            return None
        raise OptionError(
            f"plugin={str(library)!r} for a model that needs no plugins",
            "a library only for a model with the sampler plugin",
            "leave plugin= out",
        )
    if library is None:
        raise ExportError(
            f"the model needs the TensorRT plugins {', '.join(model.plugins)}, and no library was "
            "named",
            f"{AT_LOAD}, which cmake builds from plugins/ for the TensorRT of the consumer",
            f"plugin='plugins/build/{AT_LOAD}', or a model exported with sampler='gather'",
        )
    require_file(library, "a library of TensorRT plugins", ModelFileError)
    if not library.name.startswith(AT_LOAD.removesuffix(".so")):
        raise OptionError(
            f"plugin={str(library)!r}, a library that the consumer only opens",
            f"{AT_LOAD}, which registers its plugins when it is opened",
            f"plugin={str(library.with_name(AT_LOAD))!r}",
        )
    return library
