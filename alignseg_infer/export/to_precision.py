"""From a float32 ONNX file to one in float16 or int8, compared with it before it appears."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir

from alignseg_infer import __version__
from alignseg_infer.backends.onnxruntime_backend import OnnxRuntimeBackend
from alignseg_infer.engine_file import Verification
from alignseg_infer.errors import ExportError, OptionError
from alignseg_infer.evaluate import Progress
from alignseg_infer.export.histograms import Ranges
from alignseg_infer.export.onnx_file import require_onnx_ending, save_onnx
from alignseg_infer.export.precision import to_half_precision
from alignseg_infer.export.quantize import QuantizationOptions, quantized_model
from alignseg_infer.export.verify import verify
from alignseg_infer.files import written_atomically
from alignseg_infer.images import Image
from alignseg_infer.spec import AGREEMENT_KEY, SPEC_KEY, Precision

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Quantization:
    """How convolutions are quantised: calibrated ranges, and which convolutions stay float16."""

    ranges: Ranges
    options: QuantizationOptions


def onnx_in_precision(
    source: Path,
    target: Path,
    precision: Precision,
    *,
    quantization: Quantization | None = None,
    images: Sequence[Image] | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Writes the float32 model `source` as `target`, in another precision.

    Args:
        source: A float32 ``.onnx`` of this package.
        target: The ``.onnx`` to write.
        precision: ``fp16`` or ``int8``.
        quantization: For ``int8``.
        images: To compare both on, (H, W, 3) uint8 BGR; None for drawn streets.
        progress: Of the comparison: number of images, and their total.

    Returns:
        The comparison, which is also stored in the file.

    Raises:
        OptionError: `target` has another ending, or there is no `quantization` for ``int8``.
        ModelFileError: `source` is not one of our files.
        ExportError: `source` is not float32, or cannot be converted.
        VerificationError: Labels differ too much; nothing is written.
        OutputError: The file cannot be written.
    """
    require_onnx_ending(target)
    spec = OnnxRuntimeBackend(source).spec
    assert spec.export is not None  # the backend has seen to it
    if spec.export.precision is not Precision.FP32 or precision is Precision.FP32:
        raise ExportError(
            f"{source} is {spec.export.precision}, and {precision} was asked for",
            "a float32 model, to be made fp16 or int8",
            "start from the float32 file: alignseg export-onnx CHECKPOINT -o MODEL.onnx",
        )
    model = onnx_ir.load(source)
    if precision is Precision.INT8:
        model = _quantized(model, quantization)
    to_half_precision(model)
    exporter = f"alignseg-infer {__version__}, from {spec.export.exporter}"
    export = replace(
        spec.export, precision=precision, opset=model.opset_imports[""], exporter=exporter
    )
    model.metadata_props[SPEC_KEY] = replace(spec, export=export).to_json()
    with written_atomically(target) as temporary:
        save_onnx(model, temporary)
        logger.info("comparing labels with %s", source)
        found = verify(temporary, source, images, progress=progress)
        model.metadata_props[AGREEMENT_KEY] = json.dumps(dataclasses.asdict(found))
        save_onnx(model, temporary)
    return found


def _quantized(model: onnx_ir.Model, quantization: Quantization | None) -> onnx_ir.Model:
    if quantization is None:
        raise OptionError(
            "int8 needs images to calibrate with",
            "a folder, a list of files, or a video of what the model is for; some 100 images",
            "--calibration FOLDER",
        )
    return quantized_model(model, quantization.ranges, quantization.options)
