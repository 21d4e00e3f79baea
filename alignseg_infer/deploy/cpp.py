"""A C++ program around an engine: its sources, the kernels it needs, and the engine.

The sources are `plugins/consumer`, which is installed with this package as all of `plugins/` is.
"""

from pathlib import Path
from shlex import quote

from alignseg_infer.cuda.sources import plugin_folder
from alignseg_infer.deploy.folder import write_folder
from alignseg_infer.errors import EngineError
from alignseg_infer.files.reading import require_file, sha256_of, user_path
from alignseg_infer.spec.model import ImageInput, LabelType, Layout, OutputKind
from alignseg_infer.trt.engine_file import ENGINE_SUFFIXES, EngineFacts, read_facts, sidecar_path
from alignseg_infer.trt.flavours import Flavour
from alignseg_infer.trt.plugin_library import built_for, find_plugin_library
from alignseg_infer.trt.runtime.checks import require_unchanged_plan

LIBRARY = "libalignseg_plugin.so"  # the name that the program looks for
_SOURCES = ("CMakeLists.txt", "README.md", "cmake/*", "kernels/*", "tensorrt/*")
_LABEL_TYPES = (None, LabelType.UINT8, LabelType.INT32)


def deploy_cpp(
    model: str | Path, destination: str | Path, *, plugin: str | Path | None = None
) -> Path:
    """Write a folder with a C++ program that runs an engine, and the engine.

    CMake builds the program, ``segment``, which reads a PPM image and writes a PGM file of its
    labels. It prepares images and labels pixels on the GPU, with the kernels of this package.

    Args:
        model: A TensorRT engine with its facts beside it.
        destination: The folder to make. It may be there already if it is empty.
        plugin: Library of TensorRT plugins, for an engine that needs plugins and does not contain
            them; None for ``$ALIGNSEG_PLUGIN``, or else the library built in a checkout.

    Returns:
        The folder.

    Raises:
        EngineError: The model is no engine, the program cannot run it, or it needs a library of
            plugins that is missing or was built for another TensorRT.
        OutputError: The folder is there already and not empty, or cannot be written.
    """
    engine = user_path(model)
    _require_engine(engine)
    facts = read_facts(engine)
    require_unchanged_plan(engine, facts, sha256_of(engine))
    _require_form(engine, facts)
    files: dict[str, str | bytes | Path] = {
        engine.name: engine,
        sidecar_path(engine).name: sidecar_path(engine),
    }
    if facts.plugins and not facts.plugins_embedded:
        files[LIBRARY] = _find_library(engine, facts, user_path(plugin) if plugin else None)
    sources = plugin_folder()
    files |= {path.name: path for path in sorted((sources / "consumer").iterdir())}
    for pattern in _SOURCES:
        found = sorted(sources.glob(pattern))
        files |= {f"plugins/{path.relative_to(sources).as_posix()}": path for path in found}
    return write_folder(destination, files)


def _require_engine(path: Path) -> None:
    """Raise EngineError for anything but an engine; say how to build one from it."""
    if path.suffix.lower() not in ENGINE_SUFFIXES:
        raise EngineError(
            f"{path} is not a TensorRT engine",
            f"a file that ends in {', '.join(ENGINE_SUFFIXES)}: the C++ program runs engines only",
            "build an engine first: "
            f"alignseg export-trt {quote(str(path))} -o {quote(path.stem)}.engine",
        )
    require_file(path, "a TensorRT engine", EngineError)


def _require_form(path: Path, facts: EngineFacts) -> None:
    """Raise EngineError if the C++ program cannot run the engine."""
    odd = _find_oddity(facts)
    if odd is not None:
        command = "alignseg export-trt MODEL -o ENGINE --output logits"
        if facts.spec.remap is not None:
            command = "alignseg export-trt MODEL -o ENGINE --output labels --remap FILE.json"
        raise EngineError(
            f"{path} has {odd}, which the C++ program cannot run",
            "an engine of classic TensorRT from a batch of 1, with an image (N, 3, H, W) in "
            "float32, and logits (N, C, h, w), or labels in uint8 or int32",
            f"build another engine: {command}",
        )


def _find_oddity(facts: EngineFacts) -> str | None:
    export = facts.spec.export
    if facts.flavour is not Flavour.TENSORRT:
        return f"the flavour {facts.flavour}"
    if facts.profile.minimum.batch > 1:
        return f"a smallest batch of {facts.profile.minimum.batch}"
    if export is None or export.output is OutputKind.PROBABILITIES:
        return "an output of probabilities"
    if export.output is OutputKind.LOGITS and export.layout is Layout.NHWC:
        return f"logits in the layout {export.layout}"
    if export.output is OutputKind.LABELS and export.label_type not in _LABEL_TYPES:
        return f"labels in {export.label_type}"
    if export.image is not ImageInput.FLOAT32:
        return f"an input of {export.image}"
    if facts.spec.remap_to_apply is not None:
        return "logits of classes still to be remapped"
    return None


def _find_library(engine: Path, facts: EngineFacts, asked: Path | None) -> Path:
    """Return the library of plugins, built for the TensorRT that built the engine."""
    library = find_plugin_library(asked, str(engine), EngineError)
    seen = built_for(library)
    major = int(facts.tensorrt_version.split(".", maxsplit=1)[0])
    if seen is None or seen[0] != major:
        said = f"TensorRT {seen[0]}.{seen[1]}" if seen else "a TensorRT that it does not name"
        raise EngineError(
            f"{library} was built for {said}, but {engine} by TensorRT {facts.tensorrt_version}",
            f"a library of plugins built for TensorRT {major}: another one may end the process",
            "in a checkout: cmake -S plugins -B plugins/build -DTENSORRT_VERSION="
            f"{facts.tensorrt_version} && cmake --build plugins/build",
        )
    return library
