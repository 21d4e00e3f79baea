"""What competes: each file, in each runtime and precision, with several numbers of threads.

GPUs do not compete. TensorRT chooses its own kernels when it builds an engine, which takes minutes,
and a machine with a GPU is asked for it by name; ``alignseg bench`` compares it with the CPU.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignseg_infer.arrays import Size
from alignseg_infer.backends import OnnxRunner
from alignseg_infer.backends.precision import RunPrecision
from alignseg_infer.backends.processor import physical_cores, thread_limit
from alignseg_infer.backends.tuned import threads_text
from alignseg_infer.backports import StrEnum
from alignseg_infer.errors import OptionError
from alignseg_infer.spec.model import ExportSpec, ModelSpec, Precision
from alignseg_infer.spec.verification import REQUIRED_AGREEMENT

RUNTIMES = (OnnxRunner.ONNXRUNTIME, OnnxRunner.OPENVINO)


class Goal(StrEnum):
    """What is to be fast: ``latency`` of one image, or ``throughput`` of many."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"


@dataclass(frozen=True)
class ModelFile:
    """A file that competes.

    Attributes:
        model: Its path, or ``demo``.
        name: Its name for people.
        spec: Its facts.
        sha256: SHA-256 of the file, and of its files of weights, as it was before it was opened.
    """

    model: str | Path
    name: str
    spec: ModelSpec
    sha256: str

    @property
    def export(self) -> ExportSpec:
        """The choices made at export."""
        assert self.spec.export is not None
        return self.spec.export


@dataclass(frozen=True)
class Candidate:
    """A way to run the network.

    Attributes:
        file: The file.
        runtime: What runs it.
        precision: The precision that is asked for; None for that of the file.
        threads: CPU threads; None for the runtime's choice.
        batch: Images per call.
    """

    file: ModelFile
    runtime: OnnxRunner
    precision: str | None
    threads: int | None
    batch: int

    def __str__(self) -> str:
        parts = [self.file.name, self.runtime, self.computes_in, threads_text(self.threads)]
        return ", ".join([*parts, *([f"batch {self.batch}"] if self.batch > 1 else [])])

    @property
    def computes_in(self) -> str:
        """The precision that it computes in."""
        return self.precision or self.file.export.precision.value

    @property
    def kind(self) -> tuple[str, str, str]:
        """What it shares with the candidates that differ in threads and batch only."""
        return self.file.name, self.runtime, self.computes_in

    @property
    def required_agreement(self) -> float:
        """The usual share of pixels that must get the same label as in FP32."""
        half = self.computes_in == RunPrecision.BF16
        return REQUIRED_AGREEMENT[Precision.FP16 if half else Precision(self.computes_in)]

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of its `Predictor`."""
        return {
            "runtime": self.runtime.value,
            "precision": self.precision,
            "threads": self.threads,
            "batch": self.batch,
        }


def reference_of(first: ModelFile) -> Candidate:
    """Return what all are compared with: the first file, as it runs if nothing is asked for.

    Raises:
        OptionError: The file is not in FP32.
    """
    if first.export.precision is not Precision.FP32:
        raise OptionError(
            f"{first.name} is in {first.export.precision}, and it was given first",
            "the FP32 file first, since the others have to label like it",
            "alignseg tune FP32.onnx OTHER.onnx --images DIR",
        )
    return Candidate(first, OnnxRunner.ONNXRUNTIME, None, None, first.export.batch or 1)


def list_candidates(
    files: Sequence[ModelFile], batches: Sequence[int], threads: Sequence[int] | None = None
) -> Iterator[Candidate]:
    """Yield all candidates besides the reference, the most promising first.

    Args:
        files: The files, the reference first.
        batches: Images per call, for files that take any number.
        threads: Numbers of threads; None for all cores, the physical ones, and one.
    """
    for count in threads or thread_counts():
        for file in files:
            for runtime in RUNTIMES:
                for precision in _precisions(file, runtime):
                    fixed = file.export.batch
                    for batch in [fixed] if fixed else batches:
                        yield Candidate(file, runtime, precision, count, batch)


def thread_counts() -> list[int]:
    """Return the numbers of threads to try: all that can work here, one for each core, and one."""
    most = thread_limit()
    return list(dict.fromkeys([most, min(physical_cores(), most), 1]))


def why_unfit(file: ModelFile, first: ModelFile, size: object, goal: Goal) -> str | None:
    """Return why a file cannot stand in for the first one, or None.

    Args:
        file: The file.
        first: The file that is tuned.
        size: The size that is asked for; None for what the files say.
        goal: What is to be fast.
    """
    own_classes, classes = file.spec.classes, first.spec.classes
    if own_classes.names != classes.names:
        return f"it has other classes than {first.name}"
    if own_classes.colors != classes.colors:
        return f"its classes have other colours than those of {first.name}"
    if file.export.output is not first.export.output:
        return f"it returns {file.export.output}, and {first.name} returns {first.export.output}"
    own, other = file.export.size, first.export.size
    if own != other and own is None:
        return f"it takes any size, and {first.name} takes {_text(other)} only: give it first"
    if own not in (other, size):
        return f"it takes {_text(own)} only: tune with size={own}, for images of that size"
    if goal is Goal.LATENCY and (file.export.batch or 1) > 1:
        return f"it takes {file.export.batch} images per call: tune for throughput"
    return None


def _precisions(file: ModelFile, runtime: OnnxRunner) -> list[str | None]:
    is_float = file.export.precision is Precision.FP32
    return (
        [None, RunPrecision.BF16.value] if is_float and runtime is OnnxRunner.OPENVINO else [None]
    )


def _text(size: Size | None) -> str:
    return "any size" if size is None else f"{size[0]}x{size[1]}"
