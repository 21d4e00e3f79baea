"""The folder that DeepStream's element nvinfer runs a model from.

The rules are those of DeepStream 9.1 (github.com/NVIDIA/DeepStream, v9.1.0). nvinfer gives a
network float32 planes, ``net-scale-factor * (pixel - offset)``, with one factor for all channels
(src/utils/nvdsinfer/nvdsinfer_conversion.cu). Its own parser of semantic segmentation takes float32
scores at the input's size, and labels a pixel only where its best score exceeds
``segmentation-threshold`` (nvdsinfer_context_impl_output_parsing.cpp). What returns labels or
logits gets a parser of ours, `deepstream_parser.cpp`.
"""

from pathlib import Path

from alignseg_infer.deploy.folder import write_folder
from alignseg_infer.deploy.nvidia_model import (
    NvidiaModel,
    read_nvidia_model,
    remapped_elsewhere,
    require_library,
)
from alignseg_infer.errors import ExportError, OptionError
from alignseg_infer.spec.model import (
    ChannelOrder,
    ImageInput,
    InputSpec,
    Layout,
    ModelSpec,
    OutputKind,
    OutputSize,
    Precision,
)

CONFIG, LABELS, PARSER, README = "nvinfer.txt", "labels.txt", "parser.cpp", "README.md"
PARSER_LIBRARY = "libalignseg_deepstream.so"
PARSE_FUNCTION = "NvDsInferParseAlignSeg"
MAX_BATCH = 1024  # NVDSINFER_MAX_BATCH_SIZE of nvdsinfer_context.h
_PARSED_LABELS = ("uint8", "int32", "int64")
_SEPARATOR = ";"  # of attributes in a line of the label file
_SOURCE = Path(__file__).with_name("deepstream_parser.cpp")


def write_deepstream(
    model: str | Path, destination: str | Path, *, batch: int = 1, plugin: Path | None = None
) -> Path:
    """Write the folder for nvinfer: its configuration, class names, the model, perhaps a parser.

    Args:
        model: An .onnx file of a fixed size, or an engine of classic TensorRT.
        destination: The folder to make.
        batch: Largest number of frames that nvinfer gives the network at once.
        plugin: The library that registers the plugins which the model needs, if any.

    Returns:
        The folder.

    Raises:
        ExportError: nvinfer cannot run this form of a model.
        ModelFileError: The model cannot be read.
        OptionError: The batch does not fit the model, or a library is missing or not needed.
        OutputError: The folder cannot be written.
    """
    seen = read_nvidia_model(Path(model))
    library = require_library(seen, plugin)
    _require_form(seen)
    _require_batch(seen, batch)
    _require_names(seen.spec)
    files = _files_of(seen) | {
        CONFIG: _config(seen, batch, library),
        LABELS: "".join(f"{name}\n" for name in seen.spec.classes.names),
        README: _readme(seen, library),
    }
    if _needs_parser(seen):
        files[PARSER] = _SOURCE
    if library is not None:
        files[library.name] = library
    return write_folder(destination, files)


def _needs_parser(model: NvidiaModel) -> bool:
    """Whether nvinfer's own parser cannot read the output."""
    return model.export.output is not OutputKind.PROBABILITIES


def _require_form(model: NvidiaModel) -> None:
    """Raise ExportError unless nvinfer can give the model its input and read its output."""
    export, given, returned = model.export, *model.types
    form = {"output": "probabilities", "layout": "nchw"}
    if model.spec.remap is not None:  # which only graphs of labels do themselves
        form = {"output": "labels", "label_type": "int32"}
    fix = model.remake("deepstream", form)
    if export.image is not ImageInput.FLOAT32 or given != "float32":
        raise ExportError(
            f"the model takes images as {given}, but nvinfer gives every network float32",
            "a model with float32 input, (N, 3, H, W)",
            fix,
        )
    if model.size is None:
        raise ExportError(
            "the model takes images of several sizes",
            "a model of one size, to which nvinfer resizes every frame",
            fix,
        )
    if model.has_offsets:
        raise ExportError(
            "the model returns offset fields too, which nvinfer would copy for every frame",
            "a model with one output",
            fix,
        )
    _require_output(model, returned, fix)
    if model.engine and _has_several_factors(model.spec.input):
        raise ExportError(
            f"the engine divides its channels by different numbers, {model.spec.input.std}, and "
            "nvinfer has one factor for all",
            "the .onnx file of the engine, in which the division can be put",
            "alignseg deploy deepstream MODEL.onnx -o deepstream/",
        )


def _has_several_factors(spec: InputSpec) -> bool:
    return len(set(spec.std)) > 1


def _files_of(model: NvidiaModel) -> dict[str, str | bytes | Path]:
    """Return the model's files; channels with different factors are divided in the graph."""
    if not _has_several_factors(model.spec.input):
        return model.files()
    from alignseg_infer.deploy.channel_division import divide_in_graph

    return {**model.files(), model.file: divide_in_graph(model.path, model.spec)}


def _require_output(model: NvidiaModel, returned: str, fix: str) -> None:
    export = model.export
    if export.output is OutputKind.LABELS:
        if returned not in _PARSED_LABELS:
            expected = f"labels as {', '.join(_PARSED_LABELS)}"
            labels = model.remake("deepstream", {"output": "labels", "label_type": "int32"})
            raise ExportError(f"the model returns labels as {returned}", expected, labels)
        return
    wrong = None
    if model.spec.remap is not None:
        raise remapped_elsewhere(model, "deepstream", {"output": "labels", "label_type": "int32"})
    if returned != "float32":
        wrong = f"the model returns {export.output} as {returned}"
    elif export.output is OutputKind.LOGITS and export.layout is Layout.NHWC:
        wrong = "the model returns logits as (N, h, w, C)"
    elif export.output is OutputKind.PROBABILITIES and export.output_size is OutputSize.QUARTER:
        wrong = "the model returns probabilities at 1/4 of the input's size"
    if wrong:
        expected = "float32 probabilities at the input's size, labels, or logits as (N, C, h, w)"
        raise ExportError(wrong, expected, fix)


def _require_batch(model: NvidiaModel, batch: int) -> None:
    """Raise OptionError unless the model takes 1 to `batch` images, as nvinfer needs."""
    if not 1 <= batch <= MAX_BATCH:
        raise OptionError(f"batch={batch}", f"1 to {MAX_BATCH}", "batch=1")
    low, high = model.batches or (1, MAX_BATCH)
    if low > 1:
        raise ExportError(
            f"the model takes {low} images or more at once, but nvinfer also gives it one",
            "a model of any batch size, or of one image",
            model.remake("deepstream", {"output": model.export.output.value}),
        )
    if batch > high:
        raise OptionError(
            f"batch={batch} for a model that takes up to {high} at once",
            f"1 to {high}",
            f"batch={high}",
        )


def _require_names(spec: ModelSpec) -> None:
    """Raise ExportError if a class name would be several attributes in the label file."""
    for name in spec.classes.names:
        if _SEPARATOR in name:
            raise ExportError(
                f"a class is called {name!r}, and {_SEPARATOR!r} separates names in nvinfer's "
                "label file",
                f"class names without {_SEPARATOR!r}",
                "rename it: export the checkpoint with classes=FILE.json",
            )


def _config(model: NvidiaModel, batch: int, library: Path | None) -> str:
    """Return the configuration, whose paths are relative to its own folder."""
    assert model.size is not None
    height, width = model.size
    entries = {
        "gie-unique-id": 1,
        "process-mode": 1,
        "network-type": 2,
        **_model_entries(model, batch),
        "batch-size": batch,
        "infer-dims": f"3{_SEPARATOR}{height}{_SEPARATOR}{width}",
        "network-input-order": 0,
        **_input_entries(model.spec.input),
        "maintain-aspect-ratio": 0,
        "scaling-filter": 1,
        "output-blob-names": model.export.output.value,
        "num-detected-classes": len(model.spec.classes.names),
        "labelfile-path": LABELS,
        **_parser_entries(model, library),
    }
    return "[property]\n" + "".join(f"{key}={value}\n" for key, value in entries.items())


def _model_entries(model: NvidiaModel, batch: int) -> dict[str, str | int]:
    if model.engine:
        return {"model-engine-file": model.file, "network-mode": 0}
    # nvinfer gives the engine that it builds this name, and reads it at the next start.
    entries: dict[str, str | int] = {
        "onnx-file": model.file,
        "model-engine-file": f"{model.file}_b{batch}_gpu0_fp32.engine",
        "network-mode": 0,
    }
    if model.export.precision is not Precision.FP32:  # it is in the graph
        entries["strongly-typed"] = 1
    return entries


def _input_entries(spec: InputSpec) -> dict[str, str | int]:
    return {
        "model-color-format": 1 if spec.channel_order is ChannelOrder.BGR else 0,
        "net-scale-factor": "1.0" if _has_several_factors(spec) else repr(1 / spec.std[0]),
        "offsets": _SEPARATOR.join(map(repr, spec.mean)),
    }


def _parser_entries(model: NvidiaModel, library: Path | None) -> dict[str, str | int]:
    if _needs_parser(model):
        return {"custom-lib-path": PARSER_LIBRARY, "parse-segmentation-func-name": PARSE_FUNCTION}
    entries: dict[str, str | int] = {
        "segmentation-threshold": "0.0",
        "segmentation-output-order": 1 if model.export.layout is Layout.NHWC else 0,
    }
    # nvinfer opens this library before it reads the model.
    return entries | ({"custom-lib-path": library.name} if library else {})


def _readme(model: NvidiaModel, library: Path | None) -> str:
    lines = [
        "# A model for DeepStream",
        "",
        f"`{CONFIG}` is the configuration of the element `nvinfer`. Its keys are those of "
        "DeepStream 9.1.",
        "The folder was not run in DeepStream.",
        "",
    ]
    if _needs_parser(model):
        lines += [
            "First compile the parser, in this folder and against DeepStream's headers:",
            "",
            "```bash",
            f"g++ -std=c++17 -O3 -fPIC -shared {PARSER} -o {PARSER_LIBRARY} \\",
            "    -I/opt/nvidia/deepstream/deepstream/sources/includes",
            "```",
            "",
        ]
    if library and _needs_parser(model):
        lines += [
            f"The model needs the plugins in `{library.name}`, so start the application with "
            f"`LD_PRELOAD=$PWD/{library.name}`.",
            "",
        ]
    if model.engine:
        lines += [
            f"The engine was built by TensorRT {model.engine.tensorrt_version}. The TensorRT of "
            "DeepStream must be the same.",
            "",
        ]
    return "\n".join(lines)
