"""Deployment of AlignSeg, the feature-aligned segmentation network (arXiv 2003.00872).

    from alignseg_infer import Predictor

    result = Predictor("alignseg.onnx")("street.jpg")
    result.save("out/street")

`export_onnx`, `export_engine`, `adopt_engine`, `adopt_onnx`, `verify`, `tune`, `segment_files`
and `segment_video` do what commands of ``alignseg`` do.

Importing this loads NumPy and OpenCV, nothing heavier, and raises `MissingDependencyError` where
there is no OpenCV; runtimes are loaded when a model is. It also
sets ``ORT_DISABLE_TELEMETRY=1`` unless that variable is set, see
`alignseg_infer.backends.telemetry`.
"""

from alignseg_infer.packages import OPENCV as _OPENCV
from alignseg_infer.packages import require_shared as _require_shared

_require_shared(_OPENCV)

from alignseg_infer.api import (
    adopt_engine,
    adopt_onnx,
    export_engine,
    export_onnx,
    segment_files,
    segment_video,
    tune,
    verify,
)
from alignseg_infer.backends.telemetry import disable_onnxruntime_telemetry as _disable_telemetry
from alignseg_infer.errors import (
    AlignSegError,
    BuildError,
    CheckpointError,
    CudaError,
    DatasetError,
    DeviceError,
    EngineError,
    ExportError,
    ImageError,
    MissingDependencyError,
    ModelError,
    ModelFileError,
    OptionError,
    OutOfMemoryError,
    OutputError,
    ParityError,
    ProcessError,
    SizeError,
    SpecError,
    TuningError,
    VerificationError,
    VideoError,
)
from alignseg_infer.predictor import Predictor
from alignseg_infer.results.failure import Failure
from alignseg_infer.results.polygons import Polygon
from alignseg_infer.results.segmentation import Segmentation
from alignseg_infer.results.times import StageTimes
from alignseg_infer.spec.model import ModelSpec
from alignseg_infer.version import __version__ as __version__

_disable_telemetry()

__all__ = [
    "AlignSegError",
    "BuildError",
    "CheckpointError",
    "CudaError",
    "DatasetError",
    "DeviceError",
    "EngineError",
    "ExportError",
    "Failure",
    "ImageError",
    "MissingDependencyError",
    "ModelError",
    "ModelFileError",
    "ModelSpec",
    "OptionError",
    "OutOfMemoryError",
    "OutputError",
    "ParityError",
    "Polygon",
    "Predictor",
    "ProcessError",
    "Segmentation",
    "SizeError",
    "SpecError",
    "StageTimes",
    "TuningError",
    "VerificationError",
    "VideoError",
    "adopt_engine",
    "adopt_onnx",
    "export_engine",
    "export_onnx",
    "segment_files",
    "segment_video",
    "tune",
    "verify",
]
