"""What Isaac ROS's nodes do with a folder, in Python, each by the source file that it names.

The releases are isaac_ros_dnn_inference 4.5, isaac_ros_image_segmentation 4.4 and
isaac_ros_image_pipeline 4.4.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from alignseg_infer.arrays import Image

Parameters = dict[str, Any]

# declare_parameter in the constructor of each node, with the C++ type.
DECLARED: dict[str, dict[str, type]] = {
    "resize_node": {  # isaac_ros_image_proc/src/resize_node.cpp
        "output_width": int,
        "output_height": int,
        "keep_aspect_ratio": bool,
        "encoding_desired": str,
    },
    "image_format_node": {  # isaac_ros_image_proc/src/image_format_converter_node.cpp
        "encoding_desired": str,
        "image_width": int,
        "image_height": int,
    },
    "dnn_image_encoder_node": {  # isaac_ros_dnn_image_encoder/src/dnn_image_encoder_node.cpp
        "tensor_name": str,
        "input_image_width": int,
        "input_image_height": int,
        "network_image_width": int,
        "network_image_height": int,
        "input_encoding": str,
        "enable_padding": bool,
        "image_mean": float,
        "image_stddev": float,
        "batch_size": int,
        "memory_pool_block_size": int,
    },
    "tensor_rt_node": {  # isaac_ros_tensor_rt/src/tensor_rt_node.cpp
        "model_file_path": str,
        "engine_file_path": str,
        "custom_plugin_lib": str,
        "input_tensor_names": str,
        "input_binding_names": str,
        "input_tensor_formats": str,
        "output_tensor_names": str,
        "output_binding_names": str,
        "output_tensor_formats": str,
        "force_engine_update": bool,
        "max_batch_size": int,
        "memory_pool_block_size": int,
    },
    "unet_decoder_node": {  # isaac_ros_unet/src/unet_decoder_node.cpp
        "color_segmentation_mask_encoding": str,
        "color_palette": int,
        "network_output_type": str,
        "mask_width": int,
        "mask_height": int,
    },
}


def read_parameters(folder: Path) -> dict[str, Parameters]:
    """Return the parameters of each node, whose names and types the nodes declare."""
    text = (folder / "parameters.yaml").read_text(encoding="utf-8")
    nodes = {name: told["ros__parameters"] for name, told in yaml.safe_load(text).items()}
    for node, parameters in nodes.items():
        for name, value in parameters.items():
            values = value if isinstance(value, list) else [value]
            assert {type(item) for item in values} == {DECLARED[node][name]}, f"{node} {name}"
    return nodes


def encode(nodes: dict[str, Parameters], image: Image) -> NDArray[np.float32]:
    """Return the tensor for an image, (H, W, 3) BGR.

    ResizeNode stretches unless ``keep_aspect_ratio``; ImageFormatConverterNode changes the order of
    channels. DnnImageEncoderNode then resizes to its own input size unless ``enable_padding``,
    multiplies by 1/255, subtracts the mean and divides by stddev, and makes planes of the channels
    in the image's order (DnnImageEncoderNode::ImageSubCallback).
    """
    resize, change = nodes["resize_node"], nodes["image_format_node"]
    encoder = nodes["dnn_image_encoder_node"]
    assert not resize["keep_aspect_ratio"]
    sides = resize["output_width"], resize["output_height"]
    image = np.asarray(cv2.resize(image, sides, interpolation=cv2.INTER_LINEAR), np.uint8)
    assert (change["image_width"], change["image_height"]) == sides
    image = image if change["encoding_desired"] == "bgr8" else image[..., ::-1]
    # Without padding, the resized tensor has the size of the input, and goes into one of the
    # network's size (DnnImageEncoderNode::CalculateResizeAndCropParams).
    assert not encoder["enable_padding"]
    assert encoder["input_encoding"] == change["encoding_desired"]
    for kind in ("input", "network"):
        assert (encoder[f"{kind}_image_width"], encoder[f"{kind}_image_height"]) == sides
    mean, stddev = (np.array(encoder[f"image_{name}"], np.float32) for name in ("mean", "stddev"))
    values = (image.astype(np.float32) * np.float32(1 / 255) - mean) / stddev
    return np.ascontiguousarray(values.transpose(2, 0, 1)[np.newaxis])


def decode(nodes: dict[str, Parameters], tensor: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the mask, (H, W), that the decoder makes of the network's output.

    isaac_ros_unet/config/unet_decoder_node.yaml fixes NHWC. The rest is
    gxf/image_segmentation/segmentation_postprocessor.cpp, .cu.cpp and
    segmentation_postprocessing_utils.hpp of gxf_isaac_ros_unet.
    """
    decoder = nodes["unet_decoder_node"]
    _, height, width, channels = tensor.shape
    assert channels <= 255  # kMaxChannelCount
    assert (height % 2, width % 2) == (0, 0)  # AllocateVideoBuffer
    assert height * width <= decoder["mask_width"] * decoder["mask_height"]  # a block of memory
    assert tensor.nbytes <= nodes["tensor_rt_node"]["memory_pool_block_size"]
    if decoder["network_output_type"] == "argmax":
        assert tensor.dtype in (np.int32, np.int64)  # SegmentationPostprocessor::tick
        return tensor[0, ..., 0].astype(np.uint8)  # CopyTensorDataCuda
    assert decoder["network_output_type"] == "softmax"
    assert tensor.dtype == np.float32
    best = np.zeros((height, width), np.float32)  # postprocessing_kernel
    labels = np.zeros((height, width), np.uint8)
    for label in range(channels):
        wins = tensor[0, ..., label] > best
        best[wins], labels[wins] = tensor[0, ..., label][wins], label
    return labels


def colour(nodes: dict[str, Parameters], mask: NDArray[np.uint8]) -> Image:
    """Return the coloured mask, (H, W, 3), in the encoding that the decoder was told.

    ColorizeSegmentationMaskImpl of segmentation_mask_colorizer.cu.cpp.
    """
    decoder = nodes["unet_decoder_node"]
    palette = np.array(decoder["color_palette"], np.int64)
    chosen = palette[mask % len(palette)]
    planes = [(chosen >> shift & 0xFF).astype(np.uint8) for shift in (16, 8, 0)]
    rgb = np.stack(planes, axis=-1)
    return rgb if decoder["color_segmentation_mask_encoding"] == "rgb8" else rgb[..., ::-1]
