"""Every error this package raises on purpose.

::

    AlignSegError
    ├── OptionError              an argument has a value that cannot be used
    ├── MissingDependencyError   an optional package is not installed
    ├── DeviceError              the device or provider asked for is not there
    │   └── CudaError                a call into the CUDA driver failed
    ├── ModelError
    │   ├── CheckpointError      a training checkpoint cannot be read or does not fit
    │   ├── ModelFileError       an exported model cannot be used
    │   │   └── EngineError          a TensorRT engine cannot be used here
    │   └── SpecError            the facts stored with a model are missing or wrong
    ├── ExportError              a model cannot be exported as asked
    │   ├── ParityError          the exported model does not compute what PyTorch computes
    │   ├── BuildError           TensorRT cannot build an engine as asked
    │   └── VerificationError    a model's labels differ too much from those of its reference
    ├── ImageError               an image cannot be read or has the wrong form
    │   └── SizeError            an image size the model does not accept
    ├── VideoError               a video, camera or stream cannot be read, or ended too early
    ├── DatasetError             labelled images are missing, unpaired, or not what they should be
    └── OutputError              a result cannot be written

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
    "OutputError",
    "ParityError",
    "SizeError",
    "SpecError",
    "VerificationError",
    "VideoError",
]


INSTALL_ONNX = "pip install onnx onnxscript onnx-ir"
INSTALL_BENCH = "pip install psutil py-cpuinfo nvidia-ml-py matplotlib"
INSTALL_EXPORT = "pip install torch==2.13.0 onnx onnxscript onnx-ir safetensors"


class AlignSegError(Exception):
    """Base of all errors of this package.

    Args:
        problem: What failed, with the value seen.
        expected: What would have been right.
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
    """The device or execution provider asked for is not there."""


class CudaError(DeviceError):
    """A call into the CUDA driver failed."""


class ModelError(AlignSegError):
    """A model cannot be used."""


class CheckpointError(ModelError):
    """A training checkpoint cannot be read or does not fit the network."""


class ModelFileError(ModelError):
    """An exported model cannot be read or is not one of ours."""


class EngineError(ModelFileError):
    """A TensorRT engine cannot be used here."""


class SpecError(ModelError):
    """The facts stored with a model are missing or wrong."""


class ExportError(AlignSegError):
    """A model cannot be exported as asked."""


class ParityError(ExportError):
    """The exported model does not compute what PyTorch computes."""


class BuildError(ExportError):
    """TensorRT cannot build an engine as asked."""


class VerificationError(ExportError):
    """A model's labels differ too much from those of its reference."""


class ImageError(AlignSegError):
    """An image cannot be read or has the wrong form."""


class SizeError(ImageError):
    """An image size that the model does not accept."""


class VideoError(AlignSegError):
    """A video, camera or stream cannot be read, or ended too early."""


class DatasetError(AlignSegError):
    """Labelled images are missing, unpaired, or not what they should be."""


class OutputError(AlignSegError):
    """A result cannot be written."""
