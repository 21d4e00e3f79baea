"""What DeepStream's nvinfer does with a folder, in Python, by the sources of DeepStream 9.1."""

import configparser
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alignseg_infer.arrays import Image


def read_config(folder: Path) -> dict[str, str]:
    """Return the keys of the group ``property``.

    gst_nvinfer_parse_context_params of src/gst-plugins/gst-nvinfer/gstnvinfer_property_parser.cpp
    reads them with GLib's GKeyFile, whose lists are separated by semicolons.
    """
    parser = configparser.ConfigParser(delimiters="=", comment_prefixes="#", interpolation=None)
    parser.read(folder / "nvinfer.txt", encoding="utf-8")
    assert parser.sections() == ["property"]
    return dict(parser["property"])


def preprocess(config: dict[str, str], image: Image) -> NDArray[np.float32]:
    """Return the planes for an image, (H, W, 3) BGR, that has the network's size.

    NvDsInferConvert_CxToP3FloatKernelWithMeanSubtraction and ..CxToP3RFloat.. of
    src/utils/nvdsinfer/nvdsinfer_conversion.cu; ``model-color-format`` is 0 for RGB, 1 for BGR.
    """
    pixels = {"0": image[..., ::-1], "1": image}[config["model-color-format"]]
    scale = np.float32(config["net-scale-factor"])
    offsets = np.array(config["offsets"].split(";"), np.float32)
    assert len(offsets) == 3  # InferPreprocessor::setScaleOffsets of nvdsinfer_context_impl.cpp
    assert config["infer-dims"] == f"3;{image.shape[0]};{image.shape[1]}"
    planes = (scale * (pixels.astype(np.float32) - offsets)).transpose(2, 0, 1)
    return np.ascontiguousarray(planes[np.newaxis])


def class_map(config: dict[str, str], output: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return what its own parser makes of one frame's output, -1 where it names no class.

    SegmentPostprocessor::parseSemanticSegmentationOutput of
    src/utils/nvdsinfer/nvdsinfer_context_impl_output_parsing.cpp: the first score that exceeds
    both the best before it, which starts at -1, and the threshold.
    """
    assert output.dtype == np.float32
    if config["segmentation-output-order"] == "1":
        output = output.transpose(2, 0, 1)
    classes, height, width = output.shape
    assert classes == int(config["num-detected-classes"])
    assert f"3;{height};{width}" == config["infer-dims"]
    threshold = np.float32(config["segmentation-threshold"])
    best, labels = np.full((height, width), -1, np.float32), np.full((height, width), -1, np.int32)
    for label, scores in enumerate(output):
        wins = (scores > best) & (scores > threshold)
        best[wins], labels[wins] = scores[wins], label
    return labels


def read_labels(folder: Path, config: dict[str, str]) -> list[list[str]]:
    """Return the attributes of each class.

    InferPostprocessor::parseLabelsFile of src/utils/nvdsinfer/nvdsinfer_context_impl.cpp: a line a
    class, empty lines left out, attributes separated by semicolons.
    """
    text = (folder / config["labelfile-path"]).read_text(encoding="utf-8")
    return [line.split(";") for line in text.split("\n") if line]
