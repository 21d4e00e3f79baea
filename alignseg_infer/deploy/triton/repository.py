"""Writes models into the repository that Triton Inference Server serves."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import quote
from string import Template

from alignseg_infer.choices import check_kinds
from alignseg_infer.deploy.folder import write_folder
from alignseg_infer.deploy.triton.configuration import (
    Runner,
    Tensor,
    configuration_of,
    ensemble_of,
    parameter,
    warm_up_of,
)
from alignseg_infer.deploy.triton.served_model import (
    ServedModel,
    TritonBackend,
    read_served_model,
)
from alignseg_infer.deploy.triton.serving import (
    CONFIDENCE,
    FACTS,
    FILE,
    IMAGE,
    LABELS,
    OUTPUT,
    SIZE,
    facts_of,
)
from alignseg_infer.errors import EngineError, OptionError, OutputError
from alignseg_infer.files.reading import user_path
from alignseg_infer.spec.forms import label_dtype
from alignseg_infer.spec.graph_contract import GraphTensor, told_tensors
from alignseg_infer.spec.model import ModelSpec, OutputKind
from alignseg_infer.spec.onnx_weights import require_weights_beside
from alignseg_infer.trt.plugin_library import find_plugin_library

LABEL_FILE = "labels.txt"
CLASSES = "classes"  # a parameter: names and colours of the classes, as JSON
PLUGIN_LIBRARY = "libalignseg_plugin.so"
DEFAULT_BATCH = 4
_MODEL = Template('''\
"""Serves $name. ``alignseg deploy triton`` wrote this file."""

import sys

import triton_python_backend_utils

try:
    from alignseg_infer.deploy.triton.serving import $kind
except ImportError as error:
    raise ImportError(
        f"{error}. The server runs {sys.executable}, which needs this package; in a clone "
        f"of it: {sys.executable} -m pip install '.[cpu]'"
    ) from error


class TritonPythonModel($kind):
    """See `alignseg_infer.deploy.triton.serving.$kind`."""

    utils = triton_python_backend_utils
''')


_BACKENDS = {
    TritonBackend.PYTHON: 'backend: "python"',
    TritonBackend.ONNXRUNTIME: 'backend: "onnxruntime"\ndefault_model_filename: "model.onnx"',
    TritonBackend.OPENVINO: 'backend: "openvino"\ndefault_model_filename: "model.onnx"',
    TritonBackend.TENSORRT_PLAN: 'platform: "tensorrt_plan"\ndefault_model_filename: "model.plan"',
}


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """A model that was written into a repository.

    Attributes:
        name: What clients call it.
        version: Its version, counted from 1.
        backend: What runs the network.
        batch: The most images in one call; 0 if the model takes no batches.
        server_options: Options that the server needs for it.
    """

    name: str
    version: int
    backend: TritonBackend
    batch: int
    server_options: tuple[str, ...] = ()


@check_kinds
def write_repository(
    models: Sequence[str | Path],
    destination: str | Path,
    *,
    backend: str | None = None,
    name: str | None = None,
    batch: int = DEFAULT_BATCH,
    instances: int = 1,
) -> list[Deployed]:
    """Write models into a model repository of Triton. Nothing in it is changed.

    A model that is there already gets a new version.

    Args:
        models: Paths of ``.onnx`` files and engines, or ``demo``.
        destination: Folder of the repository; it is made if it is not there.
        backend: What runs the network, as `TritonBackend`; None for ``python`` for an ``.onnx``
            and ``tensorrt_plan`` for an engine.
        name: What clients call the model; None for the name of its file.
        batch: The most images in one call.
        instances: How many copies of a model run at once.

    Returns:
        What was written, in the order of `models`.

    Raises:
        OptionError: An option does not fit a model.
        ModelFileError, SpecError: A model cannot be served by this backend.
        OutputError: There is something else with the name of a model.
    """
    if batch < 1 or instances < 1:
        raise OptionError(
            f"batch={batch} and instances={instances}", "1 or more of each", "batch=4, instances=1"
        )
    destination = user_path(destination)
    found = [read_served_model(model, backend, name, batch, instances) for model in models]
    names = [model.name for model in found]
    if len(set(names)) != len(names):
        raise OptionError(
            f"several models would be called {max(names, key=names.count)}",
            "a different name for each model",
            "write one model after the other, each with its name: alignseg deploy triton MODEL -o "
            "FOLDER --name NAME",
        )
    parts = [_parts_of(model) for model in found]
    versions = [
        _next_version(destination, model, list(part))
        for model, part in zip(found, parts, strict=True)
    ]
    return [
        _write(destination, model, part, version)
        for model, part, version in zip(found, parts, versions, strict=True)
    ]


def _parts_of(model: ServedModel) -> dict[str, tuple[str, dict[str, str | bytes | Path]]]:
    """Return the configuration and the files of one version, for each model of the repository."""
    facts = {FACTS: json.dumps(json.loads(model.spec.to_json()), indent=2) + "\n"}
    if model.backend is TritonBackend.PYTHON:
        files: dict[str, str | bytes | Path] = {**facts, **_model_files(model)}
        code = _MODEL.substitute(name=model.name, kind="Whole")
        return {model.name: (_whole_configuration(model), {**files, "model.py": code})}
    return _ensemble_parts(model, facts)


def _whole_configuration(model: ServedModel) -> str:
    image = Tensor(name=IMAGE, kind="UINT8", shape=(-1, -1, 3), optional=True, ragged=True)
    file = Tensor(name=FILE, kind="STRING", shape=(1,), optional=True)
    outputs = [_labels_of(model)]
    if model.export.output is not OutputKind.LABELS:
        outputs.append(Tensor(name=CONFIDENCE, kind="FP32", shape=(-1, -1)))
    runner = Runner(backend=_BACKENDS[model.backend], batch=model.batch, instances=model.instances)
    warm_up = warm_up_of(image, model.export.size, model.batch)
    return configuration_of(model.name, runner, [image, file], outputs, warm_up)


def _labels_of(model: ServedModel) -> Tensor:
    kind = label_dtype(model.spec.label_count).__name__.upper()
    return Tensor(name=LABELS, kind=kind, shape=(-1, -1), labels=LABEL_FILE)


def _ensemble_parts(
    model: ServedModel, facts: dict[str, str]
) -> dict[str, tuple[str, dict[str, str | bytes | Path]]]:
    file = Tensor(name=FILE, kind="STRING", shape=(1,))
    size = Tensor(name=SIZE, kind="INT32", shape=(2,))
    image, output = map(_tensor_of, told_tensors(model.spec), model.types)
    labels = _labels_of(model)
    python = Runner(
        backend=_BACKENDS[TritonBackend.PYTHON], batch=model.batch, instances=model.instances
    )
    network = replace(
        python, backend=_BACKENDS[model.backend], gpu=model.backend is TritonBackend.TENSORRT_PLAN
    )
    before, inner, after = (f"{model.name}_{part}" for part in ("before", "network", "after"))
    steps = [
        (before, {FILE: FILE}, {IMAGE: IMAGE, SIZE: SIZE}),
        (inner, {IMAGE: IMAGE}, {output.name: OUTPUT}),
        (after, {OUTPUT: OUTPUT, SIZE: SIZE}, {LABELS: LABELS}),
    ]
    warm_up = warm_up_of(image, None, model.batch)
    codes = {
        before: _MODEL.substitute(name=before, kind="Preprocess"),
        after: _MODEL.substitute(name=after, kind="Postprocess"),
    }
    return {
        before: (
            configuration_of(before, python, [file], [image, size]),
            {**facts, "model.py": codes[before]},
        ),
        inner: (
            configuration_of(inner, network, [image], [output], warm_up),
            {**facts, **_model_files(model)},
        ),
        after: (
            configuration_of(after, python, [replace(output, name=OUTPUT), size], [labels]),
            {**facts, "model.py": codes[after]},
        ),
        model.name: (ensemble_of(model.name, model.batch, [file], [labels], steps), {**facts}),
    }


def _tensor_of(told: GraphTensor, data_type: str) -> Tensor:
    """Return a tensor of the network, for one image, in the type that the graph has."""
    assert told.shape is not None  # as the facts tell it
    kind = data_type.upper().replace("FLOAT", "FP")
    shape = tuple(-1 if side is None else side for side in told.shape[1:])
    return Tensor(name=told.name, kind=kind, shape=shape)


def _model_files(model: ServedModel) -> dict[str, Path]:
    """Return the files of the network, by their names in the folder of a version."""
    if model.engine is None:
        weights = require_weights_beside(model.path)
        return {"model.onnx": model.path, **{file.name: file for file in weights}}
    files = {"model.plan": model.path}
    if model.engine.plugins and not model.engine.plugins_embedded:
        files[PLUGIN_LIBRARY] = find_plugin_library(None, str(model.path), EngineError)
    return files


def _next_version(destination: Path, model: ServedModel, names: Sequence[str]) -> int:
    """Return the version to write, 1 if the models `names` are not there.

    Raises:
        OutputError: Something else has this name, or serves images in another way.
        ModelFileError, SpecError: There is a version of something else.
    """
    there = [name for name in names if (destination / name).exists()]
    if not there:
        return 1
    folder = destination / there[0]
    versions = [int(one.name) for one in folder.glob("[0-9]*") if one.name.isdecimal()]
    if len(there) != len(names) or not versions:
        raise _name_taken(folder, "is there already, and is not a model of this kind", model)
    earlier = facts_of(folder / str(max(versions)))
    configurations = {name: text for name, (text, _) in _parts_of(model).items()}
    if _contract(earlier) != _contract(model.spec):
        raise _name_taken(folder, "has other classes, another size or another form", model)
    for name, text in configurations.items():
        written = (destination / name / "config.pbtxt").read_text(encoding="utf-8")
        if _backend_line(written) != _backend_line(text):
            raise _name_taken(destination / name, "has another backend", model)
    return max(versions) + 1


def _backend_line(configuration: str) -> list[str]:
    return re.findall(r'^(?:backend|platform): *"(\w+)"', configuration, re.MULTILINE)


def _contract(spec: ModelSpec) -> tuple[object, ...]:
    """Return what all versions of a model have in common: what clients send and get."""
    export = spec.export
    assert export is not None  # it was deployed
    form = (export.output, export.output_size, export.label_type, export.layout, export.image)
    return spec.classes, spec.remap, spec.input, export.size, export.batch, form


def _name_taken(folder: Path, problem: str, model: ServedModel) -> OutputError:
    return OutputError(
        f"{folder} {problem}; it is left as it is",
        "a new name, or a model with the same classes, sizes, form and backend",
        f"alignseg deploy triton {quote(str(model.path))} -o {quote(str(folder.parent))} "
        f"--name {model.name}-2",
    )


def _write(
    destination: Path,
    model: ServedModel,
    parts: dict[str, tuple[str, dict[str, str | bytes | Path]]],
    version: int,
) -> Deployed:
    names = "".join(f"{name}\n" for name in model.spec.classes.names)
    for name, (configuration, files) in parts.items():  # the ensemble comes last
        if version > 1:
            write_folder(destination / name / str(version), files)
            continue
        whole: dict[str, str | bytes | Path] = {f"1/{key}": file for key, file in files.items()}
        more = parameter(CLASSES, json.dumps(asdict(model.spec.classes)))
        whole |= {"config.pbtxt": configuration + (more if name == model.name else "")}
        whole |= {LABEL_FILE: names} if LABEL_FILE in configuration else {}
        write_folder(destination / name, whole)
    return Deployed(
        name=model.name,
        version=version,
        backend=model.backend,
        batch=model.batch,
        server_options=_server_options(destination, model, version),
    )


def _server_options(destination: Path, model: ServedModel, version: int) -> tuple[str, ...]:
    """Return the options that an engine needs."""
    if model.engine is None:
        return ()
    options = []
    if model.engine.version_compatible:
        options.append("--backend-config=tensorrt,version-compatible=true")
    if model.engine.plugins and not model.engine.plugins_embedded:
        library = destination / f"{model.name}_network" / str(version) / PLUGIN_LIBRARY
        options.append(f"--backend-config=tensorrt,plugins={library}")
    return tuple(options)
