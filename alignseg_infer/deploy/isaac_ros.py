"""The folder that Isaac ROS's nodes run a model from.

The rules are those of isaac_ros_dnn_inference 4.5 and isaac_ros_image_segmentation 4.4. The encoder
(isaac_ros_dnn_image_encoder/src/dnn_image_encoder_node.cpp) scales pixels to 0..1, normalises them
by mean and stddev, and publishes float32 (1, 3, H, W). It keeps the order of the image's channels,
and does not stretch, so nodes before it do both. TensorRTNode (isaac_ros_tensor_rt/src/
tensor_rt_node.cpp) takes one size only. UNetDecoderNode (isaac_ros_unet) reads (1, H, W, C).
"""

import json
import math
from pathlib import Path
from typing import Any

from alignseg_infer.arrays import Size
from alignseg_infer.deploy.folder import write_folder
from alignseg_infer.deploy.isaac_ros_launch import LAUNCH
from alignseg_infer.deploy.nvidia_model import (
    NvidiaModel,
    read_nvidia_model,
    remapped_elsewhere,
    require_library,
)
from alignseg_infer.errors import ExportError
from alignseg_infer.spec.model import (
    INPUT_NAME,
    ChannelOrder,
    ClassSpec,
    ImageInput,
    InputSpec,
    Layout,
    ModelSpec,
    OutputKind,
    OutputSize,
    Precision,
)

PARAMETERS, LAUNCH_FILE, CLASSES = "parameters.yaml", "alignseg.launch.py", "classes.json"
README = "README.md"
MAX_LABELS = 256  # the mask is uint8
MAX_SCORES = 255  # kMaxChannelCount of segmentation_postprocessor.cu.hpp
_LABEL_BYTES = {"int32": 4, "int64": 8}
_FLOAT_BYTES = 4
_INPUT_TENSOR, _OUTPUT_TENSOR = "input_tensor", "output_tensor"
_BUILT_ENGINE = "built.engine"


def write_isaac_ros(
    model: str | Path, destination: str | Path, *, plugin: Path | None = None
) -> Path:
    """Write the folder: parameters of the nodes, a launch file, class names, the model.

    Args:
        model: An .onnx file of a fixed size, or an engine of classic TensorRT.
        destination: The folder to make.
        plugin: The library that registers the plugins which the model needs, if any.

    Returns:
        The folder.

    Raises:
        ExportError: The nodes cannot run this form of a model.
        ModelFileError: The model cannot be read.
        OptionError: The library does not fit, or none is needed.
        OutputError: The folder cannot be written.
    """
    seen = read_nvidia_model(Path(model))
    library = require_library(seen, plugin)
    size = _require_form(seen)
    files = seen.files() | {
        PARAMETERS: _as_yaml(_parameters(seen, size, library)),
        LAUNCH_FILE: LAUNCH,
        CLASSES: _classes(seen.spec.classes),
        README: _readme(seen),
    }
    if library is not None:
        files[library.name] = library
    return write_folder(destination, files)


def _require_form(model: NvidiaModel) -> Size:
    """Return the model's size, or raise ExportError if the nodes cannot run the model."""
    form = {"output": "labels", "label_type": "int32", "layout": "nhwc"}
    size = model.export.size  # fixed in the graph: a fixed profile is not enough for TensorRTNode
    if size is None:
        raise ExportError(
            "the model takes images of several sizes",
            "a model of one size: TensorRTNode does not take others",
            model.remake("isaac-ros", form),
        )
    height, width = size
    if height % 2 or width % 2:
        even = (height + height % 2, width + width % 2)
        raise ExportError(
            f"the model takes images of {height}x{width} (height x width)",
            "an even height and width, which the decoder wants of its masks",
            model.remake("isaac-ros", form, even),
        )
    for seen, expected in (*_input_misfits(model), *_output_misfits(model)):
        raise ExportError(seen, expected, model.remake("isaac-ros", form))
    if model.spec.remap_to_apply is not None:
        raise remapped_elsewhere(model, "isaac-ros", form)
    _require_strongly_typed(model)
    return size


def _input_misfits(model: NvidiaModel) -> list[tuple[str, str]]:
    """Return what does not fit of the input, and what was expected."""
    given, _ = model.types
    if model.export.image is not ImageInput.FLOAT32 or given != "float32":
        seen = f"the model takes images as {given}, but the encoder publishes float32"
        return [(seen, "a model with float32 input, (1, 3, H, W)")]
    if model.batches and model.batches[0] > 1:
        seen = f"the model takes {model.batches[0]} images or more, but the encoder publishes one"
        return [(seen, "a model of any batch size, or of one image")]
    return []


def _output_misfits(model: NvidiaModel) -> list[tuple[str, str]]:
    """Return what does not fit of the output, and what was expected."""
    export, classes, (_, returned) = model.export, model.spec.network.num_classes, model.types
    expected = "labels as int32 or int64, (1, H, W, 1), or float32 probabilities, (1, H, W, C)"
    if model.has_offsets:
        return [("the model returns offset fields too", "a model with one output")]
    if export.output is OutputKind.LOGITS:
        return [("the model returns logits, of which the decoder would take class 0", expected)]
    if export.layout is not Layout.NHWC:
        layout = export.layout or "no channel axis"
        return [(f"the model returns {export.output} with {layout}", expected)]
    if export.output is OutputKind.LABELS:
        if returned not in _LABEL_BYTES:
            return [(f"the model returns labels as {returned}", expected)]
        if (count := model.spec.label_count) > MAX_LABELS:
            return [
                (f"the model has labels up to {count - 1}", f"{MAX_LABELS - 1} in a mask of bytes")
            ]
        return []
    if returned != "float32" or export.output_size is OutputSize.QUARTER:
        at = f"{returned}, size {export.output_size}"
        return [(f"the model returns probabilities as {at}", expected)]
    if classes > MAX_SCORES:
        return [(f"the model has {classes} classes", f"at most {MAX_SCORES} with probabilities")]
    return []


def _require_strongly_typed(model: NvidiaModel) -> None:
    """Raise ExportError if TensorRTNode would build another engine than the graph says."""
    precision = model.export.precision
    if model.engine is None and precision is not Precision.FP32:
        raise ExportError(
            f"the graph is {precision}, and TensorRTNode does not build strongly typed engines",
            "an fp32 graph, which TensorRTNode builds, or an engine",
            f"alignseg export-trt {model.path} -o model.engine",
        )


def _parameters(model: NvidiaModel, size: Size, library: Path | None) -> dict[str, dict[str, Any]]:
    """Return the parameters of each node."""
    height, width = size
    order = model.spec.input.channel_order
    image = {"output_width": width, "output_height": height, "keep_aspect_ratio": False}
    encoding = f"{order}8"
    mask = {"mask_width": width, "mask_height": height}
    probabilities = model.export.output is OutputKind.PROBABILITIES
    return {
        "resize_node": image,
        "image_format_node": {
            "image_width": width,
            "image_height": height,
            "encoding_desired": encoding,
        },
        "dnn_image_encoder_node": _encoder_parameters(model.spec.input, size),
        "tensor_rt_node": _tensorrt_parameters(model, size, library),
        "unet_decoder_node": {
            "network_output_type": "softmax" if probabilities else "argmax",
            "color_segmentation_mask_encoding": "rgb8",
            "color_palette": _palette(model.spec),
            **mask,
        },
    }


def _encoder_parameters(spec: InputSpec, size: Size) -> dict[str, Any]:
    """Return those of the encoder, whose images already have the network's size and channels."""
    height, width = size
    return {
        "input_image_width": width,
        "input_image_height": height,
        "network_image_width": width,
        "network_image_height": height,
        "input_encoding": f"{spec.channel_order}8",
        "enable_padding": False,
        "image_mean": [value / 255 for value in spec.mean],
        "image_stddev": [value / 255 for value in spec.std],
        "tensor_name": _INPUT_TENSOR,
        "memory_pool_block_size": 3 * height * width * _FLOAT_BYTES,
    }


def _tensorrt_parameters(model: NvidiaModel, size: Size, library: Path | None) -> dict[str, Any]:
    order = "bgr" if model.spec.input.channel_order is ChannelOrder.BGR else "rgb"
    files = {"model_file_path": model.file, "engine_file_path": _BUILT_ENGINE}
    if model.engine:
        files = {"engine_file_path": model.file}
    plugins = {"custom_plugin_lib": library.name} if library else {}
    return {
        **files,
        **plugins,
        "force_engine_update": False,  # its own default, true, builds the engine at every start
        "input_tensor_names": [_INPUT_TENSOR],
        "input_binding_names": [INPUT_NAME],
        "input_tensor_formats": [f"nitros_tensor_list_nchw_{order}_f32"],
        "output_tensor_names": [_OUTPUT_TENSOR],
        "output_binding_names": [model.export.output.value],
        "output_tensor_formats": ["nitros_tensor_list_nhwc_rgb_f32"],
        "max_batch_size": 1,
        "memory_pool_block_size": _output_bytes(model, size),
    }


def _output_bytes(model: NvidiaModel, size: Size) -> int:
    """Return the bytes of the output for one image."""
    if model.export.output is OutputKind.LABELS:
        return math.prod(size) * _LABEL_BYTES[model.types[1]]
    return math.prod(size) * model.spec.network.num_classes * _FLOAT_BYTES


def _palette(spec: ModelSpec) -> list[int]:
    """Return a colour for each label as 0xRRGGBB; black for void, up to which there are colours."""
    colors = [red << 16 | green << 8 | blue for red, green, blue in spec.classes.colors]
    return colors + [0] * (spec.label_count - len(colors))


def _classes(classes: ClassSpec) -> str:
    named = [{"label": label, "name": name} for label, name in enumerate(classes.names)]
    return json.dumps(named, indent=2, ensure_ascii=False) + "\n"


def _as_yaml(nodes: dict[str, dict[str, Any]]) -> str:
    """Return a ROS parameter file. Each value is JSON, which is YAML too."""
    lines = []
    for node, parameters in nodes.items():
        lines += [f"{node}:", "  ros__parameters:"]
        lines += [f"    {name}: {json.dumps(value)}" for name, value in parameters.items()]
    return "\n".join(lines) + "\n"


def _readme(model: NvidiaModel) -> str:
    built = (
        f"The engine was built by TensorRT {model.engine.tensorrt_version}. The TensorRT of Isaac "
        "ROS must be the same."
        if model.engine
        else f"At the first start, TensorRTNode builds `{_BUILT_ENGINE}` in this folder. Delete it "
        "when the model or the GPU changes."
    )
    return f"""# A model for Isaac ROS

`{LAUNCH_FILE}` starts the nodes with `{PARAMETERS}`, for the releases 4.4 and 4.5. The folder was
not run in Isaac ROS.

```bash
ros2 launch ./{LAUNCH_FILE}
```

{built} `{CLASSES}` has the name of each label in the mask.
"""
