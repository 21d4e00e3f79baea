"""Every error this package raises on purpose.

::

    AlignSegError
    ├── OptionError              an argument has a value that cannot be used
    ├── MissingDependencyError   an optional package is not installed
    ├── DeviceError              the requested device or provider is not available
    │   └── CudaError                a call into the CUDA driver failed
    ├── ModelError
    │   ├── CheckpointError      a training checkpoint cannot be read or does not fit the network
    │   ├── ModelFileError       an exported model cannot be used
    │   │   └── EngineError          a TensorRT engine cannot be used here
    │   └── SpecError            the facts stored with a model are missing or wrong
    ├── ExportError              a model cannot be exported with these options
    │   ├── ParityError          the exported model does not compute what PyTorch computes
    │   ├── BuildError           TensorRT cannot build the requested engine
    │   └── VerificationError    a model's labels differ too much from its reference's labels
    ├── ImageError               an image cannot be read or has the wrong shape or type
    │   └── SizeError            the model does not accept this image size
    ├── VideoError               a video, camera or stream cannot be read, or ended too early
    ├── DatasetError             labelled images are missing, unpaired or invalid
    ├── OutputError              a result cannot be written
    ├── TuningError              a tuned choice is missing, or was made for something else
    ├── OutOfMemoryError         an image, or the features of its network, do not fit into memory
    └── ProcessError             an object of one process was used in, or sent to, another one

Each message says what was seen, what was expected, and what to do next.
"""

__all__ = [
    "AlignSegError",
    "BuildError",
    "CheckpointError",
    "CudaError",
    "DatasetError",
    "DeviceError",
    "EngineError",
    "ExportError",
    "ImageError",
    "MissingDependencyError",
    "ModelError",
    "ModelFileError",
    "OptionError",
    "OutOfMemoryError",
    "OutputError",
    "ParityError",
    "ProcessError",
    "SizeError",
    "SpecError",
    "TuningError",
    "VerificationError",
    "VideoError",
]


INSTALL_ONNX = "pip install onnx onnxscript onnx-ir"
INSTALL_OPENVINO = "pip install openvino"
INSTALL_VIDEO = "pip install av"
INSTALL_PAGE = "pip install gradio"
INSTALL_BATCH = "pip install fsspec pyarrow"
INSTALL_RAY = "pip install 'ray[data]' fsspec pyarrow"
INSTALL_BENCH = "pip install psutil py-cpuinfo nvidia-ml-py matplotlib"
INSTALL_EXPORT = "pip install torch==2.13.0 onnx onnxscript onnx-ir safetensors"


class AlignSegError(Exception):
    """Base of all errors of this package.

    Args:
        problem: What failed, with the value seen.
        expected: What would have worked.
        fix: What to type or do next.
    """

    def __init__(self, problem: str, expected: str, fix: str) -> None:
        super().__init__(problem, expected, fix)
        self.problem = problem
        self.expected = expected
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.problem}\n  expected: {self.expected}\n  try: {self.fix}"


class OptionError(AlignSegError):
    """An argument has a value that cannot be used."""


class MissingDependencyError(AlignSegError):
    """An optional package is not installed."""


class DeviceError(AlignSegError):
    """The requested device or execution provider is not available."""


class CudaError(DeviceError):
    """A call into the CUDA driver failed."""


class ModelError(AlignSegError):
    """A model cannot be used."""


class CheckpointError(ModelError):
    """A training checkpoint cannot be read or does not fit the network."""


class ModelFileError(ModelError):
    """An exported model cannot be read or was not exported by this package."""


class EngineError(ModelFileError):
    """A TensorRT engine cannot be used here."""


class SpecError(ModelError):
    """The facts stored with a model are missing or wrong."""


class ExportError(AlignSegError):
    """A model cannot be exported with these options."""


class ParityError(ExportError):
    """The exported model does not compute what PyTorch computes."""


class BuildError(ExportError):
    """TensorRT cannot build the requested engine."""


class VerificationError(ExportError):
    """A model's labels differ too much from its reference's labels."""


class ImageError(AlignSegError):
    """An image cannot be read or has the wrong shape or type."""


class SizeError(ImageError):
    """The model does not accept this image size."""


class VideoError(AlignSegError):
    """A video, camera or stream cannot be read, or ended too early."""


class DatasetError(AlignSegError):
    """Labelled images are missing, unpaired or invalid."""


class OutputError(AlignSegError):
    """A result cannot be written."""


class TuningError(AlignSegError):
    """What ``alignseg tune`` chose is missing, damaged, or made for another machine or model."""


class OutOfMemoryError(AlignSegError):
    """An image, or the features that the network makes of it, do not fit into memory."""


class ProcessError(AlignSegError):
    """An object of one process was used in another one, or cannot be sent there."""
